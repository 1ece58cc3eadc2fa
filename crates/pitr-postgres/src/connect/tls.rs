//! What a TLS connection has to prove, in the four degrees of `sslmode`. One stack: rustls with ring.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::Digest;

use super::{ConnectError, Settings, TlsMode};

/// The client's side of TLS for these settings.
pub(super) fn client_config(settings: &Settings) -> Result<Arc<ClientConfig>, ConnectError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Verifier::new(settings, Arc::clone(&provider))?);
    let unusable = |what: String| ConnectError::Certificate {
        path: settings.client_certificate.as_ref().map(|(certificate, _)| certificate.clone()).unwrap_or_default(),
        what,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match &settings.client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| ConnectError::Certificate { path: key.clone(), what: error.to_string() })?;
            builder
                .with_client_auth_cert(read_certificates(certificate)?, key)
                .map_err(|error| unusable(error.to_string()))?
        }
    };
    Ok(Arc::new(config))
}

/// Judges the certificate of a server.
#[derive(Debug)]
struct Verifier {
    mode: TlsMode,
    roots: RootCertStore,
    /// The certificates of `sslrootcert` as they are: a self-signed server certificate may stand there itself.
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(settings: &Settings, provider: Arc<CryptoProvider>) -> Result<Self, ConnectError> {
        // As libpq does: whoever names an authority wants it checked.
        let mode = match (settings.tls, &settings.root_certificates) {
            (TlsMode::Require, Some(_)) => TlsMode::VerifyCa,
            (mode, _) => mode,
        };
        let mut verifier = Self { mode, roots: RootCertStore::empty(), pinned: Vec::new(), provider };
        match &settings.root_certificates {
            Some(path) => verifier.trust_file(path)?,
            None if mode == TlsMode::Require => {}
            None => verifier.trust_system()?,
        }
        Ok(verifier)
    }

    fn trust_file(&mut self, path: &Path) -> Result<(), ConnectError> {
        self.pinned = read_certificates(path)?;
        for certificate in &self.pinned {
            self.roots
                .add(certificate.clone())
                .map_err(|error| ConnectError::Certificate { path: path.to_owned(), what: error.to_string() })?;
        }
        Ok(())
    }

    fn trust_system(&mut self) -> Result<(), ConnectError> {
        let found = rustls_native_certs::load_native_certs();
        let (usable, _) = self.roots.add_parsable_certificates(found.certs);
        if usable == 0 {
            let what = found.errors.first().map_or("it holds no certificate".to_owned(), ToString::to_string);
            return Err(ConnectError::Certificate { path: "the system's trusted certificates".into(), what });
        }
        Ok(())
    }

    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            return Ok(());
        }
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(parsed, &self.roots, intermediates, now, algorithms)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if matches!(self.mode, TlsMode::VerifyCa | TlsMode::VerifyFull) {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            self.verify_chain(end_entity, &parsed, intermediates, now)?;
            if self.mode == TlsMode::VerifyFull {
                verify_server_name(&parsed, server_name)?;
            }
        } else if end_entity.is_empty() {
            return Err(CertificateError::BadEncoding.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let unusable = |what: String| ConnectError::Certificate { path: path.to_owned(), what };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable("it holds no certificate in PEM form".to_owned()));
    }
    Ok(certificates)
}

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
