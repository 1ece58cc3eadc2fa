//! What can go wrong before a server has said a word.

use std::io;
use std::path::PathBuf;

/// Names no server: whoever connects knows where to, and says so. Exhaustive, so that no kind is lost where that is added.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A URL does not say how to connect. Never repeats the URL: it might hold a secret.
    #[error("the connection URL is not usable: {0}")]
    Url(String),
    /// Nobody answers there.
    #[error("cannot reach the server: {0}")]
    Unreachable(#[source] io::Error),
    /// The handshake failed, or the certificate proves something else.
    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
    /// A certificate or key file cannot be used.
    #[error("cannot use {path}: {what}", path = path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}
