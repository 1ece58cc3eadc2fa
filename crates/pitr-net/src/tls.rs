//! Whom TLS trusts, and what a certificate has to prove. One stack: rustls with ring.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::Error;

/// What the certificate of a server has to prove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: the connection is encrypted, to whomever.
    Anything,
    /// That a trusted authority signed it, for whatever name.
    Authority,
    /// That a trusted authority signed it for the name of this host.
    #[default]
    Name,
}

/// Whom to trust, and how to prove ourselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// What the server has to prove. Whoever names authorities wants them checked: `Anything` then means `Authority`.
    pub proof: Proof,
    /// PEM file with trusted authorities; the system's where `None`.
    pub authorities: Option<PathBuf>,
    /// PEM files of our own certificate and its key, for a server that asks for one.
    pub own: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// The client's side of TLS.
    pub(crate) fn client_config(&self) -> Result<Arc<ClientConfig>, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(Verifier::new(self, Arc::clone(&provider))?);
        let unusable = |what: String| Error::Certificate {
            path: self.own.as_ref().map(|(certificate, _)| certificate.clone()).unwrap_or_default(),
            what,
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| Error::Certificate { path: key.clone(), what: error.to_string() })?;
                builder
                    .with_client_auth_cert(read_certificates(certificate)?, key)
                    .map_err(|error| unusable(error.to_string()))?
            }
        };
        Ok(Arc::new(config))
    }
}

/// Judges the certificate of a server.
#[derive(Debug)]
struct Verifier {
    proof: Proof,
    roots: RootCertStore,
    /// The named authorities as they are: a self-signed server certificate may stand there itself.
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(tls: &Tls, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let proof = match (tls.proof, &tls.authorities) {
            (Proof::Anything, Some(_)) => Proof::Authority,
            (proof, _) => proof,
        };
        let mut verifier = Self { proof, roots: RootCertStore::empty(), pinned: Vec::new(), provider };
        match &tls.authorities {
            Some(path) => verifier.trust_file(path)?,
            None if proof == Proof::Anything => {}
            None => verifier.trust_system()?,
        }
        Ok(verifier)
    }

    fn trust_file(&mut self, path: &Path) -> Result<(), Error> {
        self.pinned = read_certificates(path)?;
        for certificate in &self.pinned {
            self.roots
                .add(certificate.clone())
                .map_err(|error| Error::Certificate { path: path.to_owned(), what: error.to_string() })?;
        }
        Ok(())
    }

    fn trust_system(&mut self) -> Result<(), Error> {
        let found = rustls_native_certs::load_native_certs();
        let (usable, _) = self.roots.add_parsable_certificates(found.certs);
        if usable == 0 {
            let what = found.errors.first().map_or("it holds no certificate".to_owned(), ToString::to_string);
            return Err(Error::Certificate { path: "the system's trusted certificates".into(), what });
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
        if matches!(self.proof, Proof::Authority | Proof::Name) {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            self.verify_chain(end_entity, &parsed, intermediates, now)?;
            if self.proof == Proof::Name {
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

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let unusable = |what: String| Error::Certificate { path: path.to_owned(), what };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable("it holds no certificate in PEM form".to_owned()));
    }
    Ok(certificates)
}
