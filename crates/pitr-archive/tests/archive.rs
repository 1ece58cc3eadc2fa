//! What the archive promises to the program: who can open it, what a second writer meets, what reads back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use pitr_archive::{Access, Archive, DigestKey, Encryption, Error, Identities, Put, Retry, SourceArchive, Store};
use pitr_core::{Classify, ErrorKind, Facts, Fork, Gap, GapCause};
use pitr_testkit::faulty_store::{Faults, FaultyStore, Moment};
use pitr_testkit::toy::{ToyPosition, lineage_id};

mod segments;

use segments::{lineage, name, segment, tail_of, time};

fn identities() -> Identities {
    Identities::from(age::x25519::Identity::generate())
}

async fn source(access: Access) -> SourceArchive {
    Archive::create(Store::memory(), access).await.unwrap().source("orders").unwrap()
}

#[tokio::test]
async fn a_writer_without_identity_goes_on_and_cannot_read() {
    let store = Store::memory();
    let identities = identities();
    let recipients = Encryption::Recipients(identities.recipients());
    let key = DigestKey::generate();
    Archive::create(store.clone(), Access::writer(recipients.clone(), key.clone())).await.unwrap();

    // Another process on the database host, which has no more than recipients and digest key.
    let writer = Archive::open(store.clone(), Access::writer(recipients, key)).await.unwrap();
    let orders = writer.source("orders").unwrap();
    assert!(matches!(orders.put_segment(&segment(1)).await.unwrap(), Put::Stored { .. }));
    assert_eq!(orders.put_segment(&segment(1)).await.unwrap(), Put::Identical);
    assert_eq!(orders.last_segment(&lineage()).await.unwrap(), Some(name(1)));
    let span = orders.segment_span::<ToyPosition>(&lineage(), &name(1)).await.unwrap().unwrap();
    assert_eq!((span.start.offset, span.end.offset), (10, 20));
    let mut other = segment(1);
    other.bytes = "the bytes of a second server".into();
    let error = orders.put_segment(&other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("two writers") && error.to_string().contains("s/orders/log/b1"), "{error}");
    let error = orders.segment(&lineage(), &name(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");

    // The host of the restore has the identity and nothing else.
    let reader = Archive::open(store, Access::reader(identities)).await.unwrap().source("orders").unwrap();
    assert_eq!(reader.segment(&lineage(), &name(1)).await.unwrap(), Some(segment(1).bytes));
    assert_eq!(reader.segment(&lineage(), &name(2)).await.unwrap(), None);
}

#[tokio::test]
async fn wrong_keys_are_denied_and_wrong_configuration_is_refused() {
    let store = Store::memory();
    let right = identities();
    Archive::create(store.clone(), Access::reader(right.clone())).await.unwrap();
    let recipients = Encryption::Recipients(right.recipients());
    let open = |access| Archive::open(store.clone(), access);

    let error = open(Access::reader(identities())).await.unwrap_err();
    assert!(matches!(error, Error::WrongIdentity { .. }), "{error}");
    let error = open(Access::writer(recipients.clone(), DigestKey::generate())).await.unwrap_err();
    assert!(matches!(error, Error::WrongDigestKey { .. }), "{error}");
    let none = Access { encryption: recipients, identities: Identities::none(), digest_key: None };
    let error = open(none).await.unwrap_err();
    assert!(matches!(error, Error::NoDigestKey { .. }), "{error}");
    let error = open(Access::plain()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let error = Archive::open(Store::memory(), Access::plain()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Absent, "{error}");
}

#[tokio::test]
async fn creating_again_opens_and_wraps_the_key_for_new_recipients() {
    let store = Store::memory();
    let (first, second) = (identities(), identities());
    let archive = Archive::create(store.clone(), Access::reader(first.clone())).await.unwrap();
    let again = Archive::create(store.clone(), Access::reader(first.clone())).await.unwrap();
    assert_eq!(again.id(), archive.id());
    assert_eq!(again.wrapped_keys().await.unwrap().len(), 1);

    let both = [first.recipients(), second.recipients()].concat();
    let access = Access::writer(Encryption::Recipients(both), archive.keys().digest_key.clone());
    Archive::create(store.clone(), access).await.unwrap();
    let opened = Archive::open(store, Access::reader(second)).await.unwrap();
    assert_eq!(opened.keys().digest_key, archive.keys().digest_key);
}

/// The creation is cut off at every call; repeating it with the same digest key completes it.
#[tokio::test]
async fn a_creation_that_was_interrupted_anywhere_can_be_repeated() {
    // The first pause would be longer than the deadline: nothing is repeated.
    let pause = Duration::from_secs(1_000_000_000);
    let once = Retry { first_pause: pause, max_pause: pause, deadline: Duration::from_secs(20) };
    let mut interrupted = 0;
    for moment in [Moment::BeforeEffect, Moment::AfterEffect] {
        for call in 1..20 {
            let inner = Arc::new(InMemory::new());
            let access = Access { digest_key: Some(DigestKey::generate()), ..Access::reader(identities()) };
            let faulty = FaultyStore::new(inner.clone(), Faults::From(call, moment));
            let faulty = Store::from_object_store(Arc::new(faulty)).with_retry(once);
            if let Err(error) = Archive::create(faulty, access.clone()).await {
                assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
                interrupted += 1;
            }
            let store = Store::from_object_store(inner);
            let archive = Archive::create(store.clone(), access.clone()).await.unwrap();
            let reader = Access { digest_key: None, ..access };
            assert_eq!(Archive::open(store, reader).await.unwrap().id(), archive.id(), "call {call} {moment:?}");
        }
    }
    assert!(interrupted >= 6, "only {interrupted} creations were interrupted");
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_succeeds_and_stores_once() {
    let inner = Arc::new(InMemory::new());
    let access = Access::reader(identities());
    let archive = Archive::create(Store::from_object_store(inner.clone()), access.clone()).await.unwrap();
    let access = Access { digest_key: Some(archive.keys().digest_key.clone()), ..access };
    let quick = Retry { first_pause: Duration::from_micros(1), ..Retry::default() };
    for call in 1..6 {
        let faulty = Arc::new(FaultyStore::new(inner.clone(), Faults::Once(call, Moment::AfterEffect)));
        let store = Store::from_object_store(faulty).with_retry(quick);
        let orders = Archive::open(store, access.clone()).await.unwrap().source("orders").unwrap();
        let put = orders.put_segment(&segment(call)).await.unwrap();
        assert!(matches!(put, Put::Stored { .. }), "call {call}: {put:?}");
        assert_eq!(orders.segment(&lineage(), &name(call)).await.unwrap(), Some(segment(call).bytes));
    }
}

#[tokio::test]
async fn a_segment_that_ends_before_it_begins_is_not_stored() {
    let orders = source(Access::plain()).await;
    let mut backwards = segment(1);
    backwards.end = backwards.start;
    assert_eq!(orders.put_segment(&backwards).await.unwrap_err().kind(), ErrorKind::Integrity);
    assert_eq!(orders.last_segment(&lineage()).await.unwrap(), None);
}

#[tokio::test]
async fn lineages_keep_their_ordinal_and_their_fork() {
    let orders = source(Access::reader(identities())).await;
    let fork = Fork { parent: lineage_id(1), parent_at: ToyPosition::new(1, 50), child_at: ToyPosition::new(2, 50) };
    let none: Option<&Fork<ToyPosition>> = None;
    let root = orders.put_lineage(&lineage_id(1), none, &Facts::new()).await.unwrap();
    let child = orders.put_lineage(&lineage_id(2), Some(&fork), &Facts::new()).await.unwrap();
    assert_eq!((root.ordinal, child.ordinal), (0, 1));

    // Told again, with more facts: it stays what it was. With another fork: refused.
    let facts = Facts::from([("version".to_owned(), "15".to_owned())]);
    assert_eq!(orders.put_lineage(&lineage_id(2), Some(&fork), &facts).await.unwrap(), child);
    let other = Fork { parent_at: ToyPosition::new(1, 60), ..fork };
    let error = orders.put_lineage(&lineage_id(2), Some(&other), &Facts::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(orders.lineages::<ToyPosition>().await.unwrap(), [root, child]);
}

#[tokio::test]
async fn files_gaps_and_tails_read_back() {
    let orders = source(Access::reader(identities())).await;
    let facts = Facts::new();
    orders.put_file("b1", "00000002.history", &facts, "1\t0/50\n".into()).await.unwrap();
    assert_eq!(orders.put_file("b1", "00000002.history", &facts, "1\t0/50\n".into()).await.unwrap(), Put::Identical);
    assert_eq!(orders.get_file("b1", "00000002.history").await.unwrap().as_deref(), Some(&b"1\t0/50\n"[..]));
    assert_eq!(orders.get_file("b1", "00000003.history").await.unwrap(), None);
    let names: Vec<_> = orders.list_files("b1").await.unwrap().into_iter().map(|file| file.name).collect();
    assert_eq!(names, ["00000002.history"]);
    for bad in ["", "../x", "a/b", ".hidden", "ü"] {
        let error = orders.put_file("b1", bad, &facts, "x".into()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{bad:?}");
    }

    let gap = Gap {
        lineage: lineage(),
        after: ToyPosition::new(1, 10),
        before: Some(ToyPosition::new(1, 30)),
        after_time: Some(time(1)),
        before_time: None,
        cause: GapCause::RemovedByServer("the slot was lost".into()),
    };
    orders.put_gap(&gap).await.unwrap();
    assert_eq!(orders.put_gap(&gap).await.unwrap(), Put::Identical);
    assert_eq!(orders.gaps::<ToyPosition>().await.unwrap(), [gap]);
}

#[tokio::test]
async fn the_tails_of_an_open_segment_read_as_one() {
    let orders = source(Access::plain()).await;
    let open = segment(9);
    orders.put_tail(&tail_of(&open, 0, "first", 2)).await.unwrap();
    orders.put_tail(&tail_of(&open, 5, " second", 5)).await.unwrap();
    // A writer that began again, and a piece behind a hole.
    orders.put_tail(&tail_of(&open, 0, "first se", 3)).await.unwrap();
    orders.put_tail(&tail_of(&open, 14, "lost", 9)).await.unwrap();
    assert_eq!(orders.segment(&lineage(), &name(9)).await.unwrap().as_deref(), Some(&b"first second"[..]));
    let span = orders.tail_span::<ToyPosition>(&lineage(), &name(9)).await.unwrap().unwrap();
    assert_eq!((span.start.offset, span.end.offset, span.bytes), (90, 95, 12));
    assert_eq!(orders.segment(&lineage(), &name(8)).await.unwrap(), None);

    orders.put_segment(&open).await.unwrap();
    assert_eq!(orders.segment(&lineage(), &name(9)).await.unwrap(), Some(open.bytes));
}

#[tokio::test]
async fn tails_of_two_writers_are_never_joined() {
    let orders = source(Access::plain()).await;
    orders.put_tail(&tail_of(&segment(9), 0, "first", 2)).await.unwrap();
    orders.put_tail(&tail_of(&segment(9), 3, "XX and more", 5)).await.unwrap();
    let error = orders.segment(&lineage(), &name(9)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(error.to_string().contains("two writers"), "{error}");
}

#[tokio::test]
async fn the_end_of_the_log_is_told_from_a_hole() {
    let orders = source(Access::plain()).await;
    for n in [0, 1, 3, 40] {
        orders.put_segment(&segment(n)).await.unwrap();
    }
    for (n, expected) in
        [(0, true), (2, true), (3, true), (15, true), (39, true), (40, false), (41, false), (99, false)]
    {
        let later = orders.later_segments_exist(&lineage(), &name(n)).await.unwrap();
        assert_eq!(later, expected, "after segment {n}");
    }
    assert!(!orders.later_segments_exist(&lineage_id(7), &name(0)).await.unwrap());
}

#[test]
fn secrets_are_in_no_debug_output() {
    let identity = age::x25519::Identity::generate();
    let secret = age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).to_owned();
    let key = DigestKey::generate();
    let hex = key.secret_text().split_whitespace().nth(1).unwrap().to_owned();
    let access = Access { digest_key: Some(key), ..Access::reader(Identities::from(identity)) };
    let shown = format!("{access:?} {access:#?}");
    assert!(!shown.contains(&secret) && !shown.contains(&hex), "{shown}");
    let broken = format!("{}x", &secret[..secret.len() - 1]);
    let error = Identities::parse(&broken, "identity.txt").unwrap_err();
    assert!(!format!("{error} {error:?}").contains(&broken[16..40]), "{error}");
}

#[test]
fn a_digest_key_file_is_private_new_and_reads_back() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("digest.key");
    let key = DigestKey::generate();
    key.save(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(DigestKey::from_file(&path).unwrap(), key);
    assert!(DigestKey::generate().save(&path).is_err(), "an existing key was overwritten");
}
