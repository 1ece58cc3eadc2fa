//! What SCRAM can bind a login to.

use rustls::pki_types::CertificateDer;
use sha2::Digest;

/// The `tls-server-end-point` of RFC 5929: a digest of the certificate with the hash of its own signature
/// (MD5 and SHA-1 count as SHA-256). `None` for signatures that have no such hash, such as Ed25519.
pub(super) fn endpoint_digest(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let digest = match signature_algorithm(certificate)? {
        // sha1/sha256 WithRSAEncryption, ecdsa-with-SHA1/SHA256.
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05"
        | b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"
        | b"\x2a\x86\x48\xce\x3d\x04\x01"
        | b"\x2a\x86\x48\xce\x3d\x04\x03\x02" => sha2::Sha256::digest(certificate).to_vec(),
        // sha384WithRSAEncryption, ecdsa-with-SHA384.
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c" | b"\x2a\x86\x48\xce\x3d\x04\x03\x03" => {
            sha2::Sha384::digest(certificate).to_vec()
        }
        // sha512WithRSAEncryption, ecdsa-with-SHA512.
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d" | b"\x2a\x86\x48\xce\x3d\x04\x03\x04" => {
            sha2::Sha512::digest(certificate).to_vec()
        }
        _ => return None,
    };
    Some(digest)
}

/// The object identifier of a certificate's signature: `SEQUENCE { tbs, SEQUENCE { OID, … }, … }`.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    let (outer, _) = der_value(certificate, SEQUENCE)?;
    let (_tbs, rest) = der_value(outer, SEQUENCE)?;
    let (algorithm, _) = der_value(rest, SEQUENCE)?;
    der_value(algorithm, OBJECT_IDENTIFIER).map(|(oid, _)| oid)
}

/// Content of the DER value at the start of `bytes`, and what follows it.
fn der_value(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    if first != tag {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}
