//! What every verb starts from: the configuration, and ways to open what it names.

use std::path::Path;
use std::time::Duration;

use pitr_archive::{Access, Archive, DigestKey, Encryption, Identities, Retry, SourceArchive, Store};
use pitr_core::ErrorKind;

use crate::config::Config;
use crate::failure::{During, Failure};

/// What a verb is going to do with the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Store objects, and read plain headers. Needs recipients and the digest key.
    Write,
    /// Read content. Needs an identity.
    Read,
}

/// A loaded configuration.
#[derive(Debug)]
pub struct Context {
    /// The configuration.
    pub config: Config,
    /// Overrides how long passing faults of the store are retried.
    pub store_deadline: Option<Duration>,
}

impl Context {
    /// Loads the configuration.
    pub fn load(path: Option<&Path>) -> Result<Self, Failure> {
        Ok(Self { config: Config::load(path)?, store_deadline: None })
    }

    /// The store that the configuration names.
    pub fn store(&self) -> Result<Store, Failure> {
        let url = self.config.archive_url()?;
        let store = Store::open(url, &self.config.archive.options).during(format!("archive.url {url}"))?;
        let configured = self.config.archive.retry_seconds.map(Duration::from_secs);
        Ok(match self.store_deadline.or(configured) {
            Some(deadline) => store.with_retry(Retry { deadline, ..Retry::default() }),
            None => store,
        })
    }

    /// Opens the archive.
    pub async fn archive(&self, purpose: Purpose) -> Result<Archive, Failure> {
        let access = self.access(purpose)?;
        Archive::open(self.store()?, access).await.map_err(Failure::from)
    }

    /// The keys that the configuration names, as far as they are needed.
    pub fn access(&self, purpose: Purpose) -> Result<Access, Failure> {
        let encryption = &self.config.encryption;
        if encryption.disabled {
            return Ok(Access::plain());
        }
        if encryption.recipients.is_empty() {
            return Err(Failure::new(ErrorKind::Usage, "the configuration names no encryption recipient").next(
                "set encryption.recipients = [\"age1…\"] (pitr key new makes one), or encryption.disabled = true",
            ));
        }
        let identities = match &encryption.identity_file {
            Some(path) if purpose == Purpose::Read || path.exists() => {
                Identities::from_file(path).during("encryption.identity_file")?
            }
            None if purpose == Purpose::Read => {
                return Err(Failure::new(
                    ErrorKind::Denied,
                    "the archive is encrypted and the configuration names no identity",
                )
                .next("set encryption.identity_file, on a host that may read the archive"));
            }
            _ => Identities::none(),
        };
        let key_file = self.config.digest_key_file();
        let digest_key = match DigestKey::from_file(&key_file) {
            Ok(key) => Some(key),
            // Whoever holds an identity takes the key from the archive.
            Err(_) if !key_file.exists() && !identities.is_empty() => None,
            Err(error) => {
                return Err(Failure::from(error)
                    .next("run pitr init where an identity is at hand, and copy the file it writes"));
            }
        };
        let encryption = Encryption::recipients(&encryption.recipients).during("encryption.recipients")?;
        Ok(Access { encryption, identities, digest_key })
    }

    /// Opens one source of the archive.
    pub async fn source(&self, name: &str, purpose: Purpose) -> Result<SourceArchive, Failure> {
        Ok(self.archive(purpose).await?.source(name)?)
    }
}
