//! No flipped, lost or added byte of any object goes unnoticed, with and without encryption.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use pitr_archive::envelope::{self, Parsed, Sealed, Subject};
use pitr_archive::{ArchiveId, DigestKey, Encryption, Error, Identities, Kind, Payload};
use pitr_core::{Classify, ErrorKind};
use proptest::prelude::*;

const KEY: &str = "s/orders/log/a/b/c";
const KINDS: [Kind; 12] = [
    Kind::Archive,
    Kind::DigestKey,
    Kind::Lineage,
    Kind::Segment,
    Kind::Tail,
    Kind::File,
    Kind::Gap,
    Kind::Rollup,
    Kind::Pack,
    Kind::Base,
    Kind::BaseIndex,
    Kind::BasePacks,
];

struct Setting {
    archive: ArchiveId,
    encryption: Encryption,
    identities: Identities,
    digests: DigestKey,
}

impl Setting {
    fn new(encrypted: bool) -> Self {
        let identities = Identities::from(age::x25519::Identity::generate());
        let encryption = if encrypted { Encryption::Recipients(identities.recipients()) } else { Encryption::Disabled };
        Self { archive: ArchiveId::generate(), encryption, identities, digests: DigestKey::generate() }
    }

    fn seal(&self, kind: Kind, raw: &[u8]) -> Sealed {
        let subject = Subject {
            kind,
            archive: self.archive.clone(),
            key: KEY.to_owned(),
            facts: serde_json::json!({ "end": "0/3000000", "note": "ä\u{1f600}\n" }),
        };
        let payload = Payload::Raw(Bytes::copy_from_slice(raw));
        envelope::seal(subject, payload, &self.encryption, &self.digests).unwrap()
    }

    fn open(&self, bytes: &[u8]) -> Result<envelope::Object, Error> {
        let bytes = Bytes::copy_from_slice(bytes);
        envelope::open(KEY, Some(&self.archive), &bytes, &self.identities, &self.digests)
    }

    /// What a process can check that has no key at all.
    fn check(&self, bytes: &[u8]) -> Result<(), Error> {
        envelope::check_stored(KEY, Some(&self.archive), &Bytes::copy_from_slice(bytes)).map(|_| ())
    }
}

fn refused(outcome: Result<impl std::fmt::Debug, Error>, what: impl std::fmt::Display) {
    let error = outcome.expect_err(&format!("{what} went unnoticed"));
    assert_eq!(error.kind(), ErrorKind::Integrity, "{what}: {error}");
    assert!(error.to_string().contains(KEY), "{what}: the error does not name the object: {error}");
}

#[test]
fn every_flipped_bit_of_every_kind_is_detected_without_any_key() {
    for encrypted in [false, true] {
        let setting = Setting::new(encrypted);
        for kind in KINDS {
            let sealed = setting.seal(kind, b"native bytes").to_bytes();
            assert_eq!(setting.open(&sealed).unwrap().raw, "native bytes");
            for bit in 0..sealed.len() * 8 {
                let mut bytes = sealed.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                refused(
                    setting.check(&bytes),
                    format!("{kind:?}: flipped bit {bit} in {:?}", String::from_utf8_lossy(&bytes)),
                );
            }
        }
    }
}

#[test]
fn every_truncation_and_every_appended_byte_is_detected() {
    for encrypted in [false, true] {
        let setting = Setting::new(encrypted);
        let sealed = setting.seal(Kind::Segment, b"native bytes").to_bytes();
        for len in 0..sealed.len() {
            refused(setting.check(&sealed[..len]), format!("truncation to {len}"));
            refused(setting.open(&sealed[..len]), format!("truncation to {len}"));
        }
        for extra in 0..=255 {
            let longer = [&sealed[..], &[extra]].concat();
            refused(setting.check(&longer), "an appended byte");
            refused(setting.open(&longer), "an appended byte");
        }
    }
}

/// Whoever can write to the store can also repair the digests that need no key. Only the keyed ones stop them.
#[test]
fn a_header_that_was_altered_with_care_is_detected_on_opening() {
    for encrypted in [false, true] {
        let setting = Setting::new(encrypted);
        let sealed = setting.seal(Kind::Segment, b"native bytes").to_bytes();
        let forged = forge(&sealed, |facts| facts.replace("0/3000000", "0/4000000"));
        setting.check(&forged).expect("the forger repaired what can be repaired without a key");
        refused(setting.open(&forged), "a forged header");
    }
}

#[test]
fn the_payload_of_another_object_is_detected_on_opening() {
    for encrypted in [false, true] {
        let setting = Setting::new(encrypted);
        let sealed = setting.seal(Kind::Segment, b"native bytes");
        let other = setting.seal(Kind::Tail, b"native bytes");
        let facts = String::from_utf8(sealed.parts[0].to_vec()).unwrap();
        let facts = facts.lines().nth(1).unwrap().to_owned();
        let swapped = forge(&other.to_bytes(), |_| facts.clone());
        setting.check(&swapped).expect("the forger repaired what can be repaired without a key");
        refused(setting.open(&swapped), "a swapped payload");
    }
}

#[test]
fn an_object_under_another_name_or_of_another_archive_is_detected() {
    let setting = Setting::new(false);
    let bytes = setting.seal(Kind::Segment, b"x").to_bytes();
    let open = |key: &str, archive: &ArchiveId| {
        envelope::open(key, Some(archive), &bytes, &setting.identities, &setting.digests).unwrap_err()
    };
    assert!(open("s/orders/log/a/b/d", &setting.archive).to_string().contains("under another name"));
    assert!(open(KEY, &ArchiveId::generate()).to_string().contains("belongs to archive"));
}

#[test]
fn without_the_identity_nothing_opens_and_the_error_says_so() {
    let setting = Setting::new(true);
    let bytes = setting.seal(Kind::Segment, b"x").to_bytes();
    let open = |identities: &Identities| envelope::open(KEY, None, &bytes, identities, &setting.digests).unwrap_err();
    assert!(matches!(open(&Identities::none()), Error::NoIdentity { .. }));
    let stranger = Identities::from(age::x25519::Identity::generate());
    assert!(matches!(open(&stranger), Error::WrongIdentity { .. }));
}

#[test]
fn plain_headers_tell_nothing_of_the_content() {
    let setting = Setting::new(true);
    let other = Setting::new(true);
    let content = b"secret row data";
    let bytes = setting.seal(Kind::Segment, content).to_bytes();
    assert!(!bytes.windows(content.len()).any(|window| window == content));
    // The same content under another key has another digest, and neither is the public one.
    let mine = setting.seal(Kind::Segment, content).header.raw_digest;
    assert_eq!(mine, setting.seal(Kind::Segment, content).header.raw_digest);
    assert_ne!(mine, other.seal(Kind::Segment, content).header.raw_digest);
    assert_ne!(mine, *blake3::hash(content).as_bytes());
}

#[test]
fn a_newer_format_is_refused_with_the_way_out() {
    let setting = Setting::new(false);
    let sealed = setting.seal(Kind::Segment, b"x").to_bytes();
    let newer = forge(&sealed, |facts| facts.replace("{\"format\":1,", "{\"format\":2,\"new\":[1],"));
    let error = setting.open(&newer).unwrap_err();
    assert!(matches!(error, Error::Newer { found: 2, .. }), "{error}");
    assert!(error.hint().unwrap().contains("newer pitr"));
}

#[test]
fn a_hostile_length_costs_no_memory() {
    let setting = Setting::new(false);
    let sealed = setting.seal(Kind::Segment, b"native bytes").to_bytes();
    for bytes in ["1073741824", "18446744073709551615"] {
        let forged = forge(&sealed, |facts| facts.replace("\"raw_bytes\":12", &format!("\"raw_bytes\":{bytes}")));
        setting.open(&forged).expect_err("a forged length");
    }
    let error = envelope::parse_header(b"pitr1 99999999\n").unwrap_err();
    assert!(format!("{error:?}").contains("first line"), "{error:?}");
}

#[test]
fn content_of_every_size_comes_back() {
    for encrypted in [false, true] {
        let setting = Setting::new(encrypted);
        for len in [0, 1, 65_535, 65_536, 65_537, 4 << 20, (4 << 20) + 1, 9 << 20] {
            let raw: Vec<u8> = (0..len).map(|n| (n as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
            let sealed = setting.seal(Kind::Segment, &raw);
            assert_eq!(setting.open(&sealed.to_bytes()).unwrap().raw, raw, "{len} bytes");
            assert_eq!(sealed.header.raw_digest, setting.digests.digest(&raw));
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_header_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = envelope::parse_header(&bytes);
        let _ = envelope::parse_header(&[&b"pitr1 00000200\n"[..], &bytes].concat());
    }

    #[test]
    fn a_header_is_read_from_exactly_its_own_bytes(cut in 0usize..600, raw in proptest::collection::vec(any::<u8>(), 0..50)) {
        let sealed = Setting::new(false).seal(Kind::Segment, &raw);
        let bytes = sealed.to_bytes();
        let cut = cut.min(bytes.len());
        match envelope::parse_header(&bytes[..cut]).unwrap() {
            Parsed::Whole(header) => {
                prop_assert!(cut as u64 >= header.header_bytes);
                prop_assert_eq!(*header, sealed.header);
            }
            Parsed::More(more) => prop_assert!(more > cut && more as u64 <= sealed.header.header_bytes),
        }
    }
}

/// Replaces the facts line and repairs every length and digest that needs no key.
fn forge(sealed: &[u8], alter: impl Fn(&str) -> String) -> Vec<u8> {
    let length: usize = std::str::from_utf8(&sealed[6..14]).unwrap().parse().unwrap();
    let header = std::str::from_utf8(&sealed[..length]).unwrap();
    let mut lines = header.lines().skip(1);
    let facts = alter(lines.next().unwrap());
    let mut check: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    check["header_digest"] = blake3::hash(facts.as_bytes()).to_hex().to_string().into();
    let check = format!(
        "{{\"header_digest\":{},\"stored_bytes\":{},\"stored_digest\":{}}}",
        check["header_digest"], check["stored_bytes"], check["stored_digest"]
    );
    let length = 15 + facts.len() + check.len() + 2;
    [
        format!("pitr1 {length:08}\n{facts}\n{check}\n").as_bytes(),
        &sealed[sealed.len() - (sealed.len() - header.len())..],
    ]
    .concat()
}
