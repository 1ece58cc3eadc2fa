//! `pitr key`: make an identity, prove that keys fit, list who can read.

use std::path::Path;

use age::secrecy::ExposeSecret;
use pitr_archive::{Access, Archive};
use pitr_core::ErrorKind;
use serde_json::json;

use crate::cli::Key;
use crate::context::{Context, Purpose};
use crate::durable;
use crate::failure::Failure;
use crate::report::Report;

/// Runs one of the key verbs.
pub async fn run(config: Option<&Path>, args: &Key) -> Result<Report, Failure> {
    match args {
        Key::New { identity_file } => {
            let recipient = make_identity(identity_file)?;
            let text = format!(
                "Identity written to {} (mode 0600): it opens the archive.\nRecipient: {recipient}",
                identity_file.display()
            );
            Ok(Report::new("pitr.key_new/1", json!({ "recipient": recipient, "identity_file": identity_file }), text)
                .next(format!("add \"{recipient}\" to encryption.recipients, and keep a copy of the identity offline")))
        }
        Key::Check => check(&Context::load(config)?).await,
        Key::List => list(&Context::load(config)?),
    }
}

/// Writes a new identity, which never leaves its file, and returns its recipient.
pub fn make_identity(path: &Path) -> Result<String, Failure> {
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    let text = format!("# public key: {recipient}\n{}\n", identity.to_string().expose_secret());
    durable::create(path, 0o600, &text).map_err(|error| {
        Failure::new(ErrorKind::Refused, format!("cannot write identity {}: {error}", path.display()))
            .next("an existing identity is never overwritten: name another file")
    })?;
    Ok(recipient)
}

/// Opens the archive as a writer would, and as a reader would.
async fn check(context: &Context) -> Result<Report, Failure> {
    if context.config.encryption.disabled {
        let archive = context.archive(Purpose::Read).await?;
        return Ok(report(
            &archive,
            true,
            true,
            "The archive is not encrypted: everybody who can reach it can read it.",
        ));
    }
    let writes = context.archive(Purpose::Write).await;
    let reads = match &context.config.encryption.identity_file {
        // Without the local digest key, so that the copy in the archive must open.
        Some(_) => {
            let access = Access { digest_key: None, ..context.access(Purpose::Read)? };
            Some(Archive::open(context.store()?, access).await?)
        }
        None => None,
    };
    match (writes, reads) {
        (Ok(archive), Some(_)) => Ok(report(&archive, true, true, "This host can write to the archive and read it.")),
        (Ok(archive), None) => Ok(report(
            &archive,
            true,
            false,
            "This host can write to the archive and cannot read it, as a database host should.",
        )),
        (Err(_), Some(archive)) => {
            Ok(report(&archive, false, true, "This host can read the archive; it has no digest key to write with."))
        }
        (Err(failure), None) => Err(failure),
    }
}

fn report(archive: &Archive, writes: bool, reads: bool, text: &str) -> Report {
    let data = json!({ "archive": archive.id().as_str(), "writes": writes, "reads": reads });
    Report::new("pitr.key_check/1", data, text).next("pitr status")
}

fn list(context: &Context) -> Result<Report, Failure> {
    let encryption = &context.config.encryption;
    if encryption.disabled {
        return Ok(Report::new("pitr.key_list/1", json!({ "recipients": [] }), "Encryption is disabled."));
    }
    let text = encryption.recipients.join("\n");
    Ok(Report::new("pitr.key_list/1", json!({ "recipients": encryption.recipients }), text).next("pitr key check"))
}
