//! `pitr init`: writes the configuration, makes or takes a recipient, creates the archive. Safe to repeat.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use pitr_archive::{Archive, DigestKey, Encryption, Identities};
use pitr_core::ErrorKind;
use serde_json::json;

use crate::cli::Init;
use crate::config::{Config, EngineKind};
use crate::context::{Context, Purpose};
use crate::durable;
use crate::failure::{During, Failure};
use crate::report::{Report, Warning};
use crate::verbs::key::make_identity;

/// What the command line and the answers add up to.
struct Answers {
    archive: String,
    encryption: Encrypt,
    source: Option<NewSource>,
}

/// A source to be written into the configuration.
struct NewSource {
    name: String,
    engine: EngineKind,
    url: String,
    password_file: Option<PathBuf>,
}

enum Encrypt {
    Disabled,
    Recipients(Vec<String>),
    NewIdentity,
}

/// Writes what is missing and creates the archive.
pub async fn run(config: Option<&Path>, args: &Init) -> Result<Report, Failure> {
    let path = config.map_or_else(|| PathBuf::from("pitr.toml"), Path::to_owned);
    let existing = Config::find(config)?.filter(|path| path.exists());
    let mut identity = None;
    let path = match existing {
        Some(path) => path,
        None => {
            let answers = ask(args)?;
            identity = write_config(&path, &answers)?;
            path
        }
    };
    let context = Context::load(Some(&path))?;
    let archive = create_archive(&context).await?;
    Ok(describe(&context, &path, &archive, identity))
}

/// Creates the archive, or completes and opens the one that is there.
async fn create_archive(context: &Context) -> Result<Archive, Failure> {
    let store = context.store()?;
    let key_file = context.config.digest_key_file();
    if context.config.encryption.disabled {
        return Archive::create(store, context.access(Purpose::Write)?).await.during("creating the archive");
    }
    let exists = store.has_archive().await?;
    if !exists && !key_file.exists() {
        // Saved before the archive exists: no kill between the two can lose it.
        DigestKey::generate().save(&key_file)?;
    }
    let archive = Archive::create(store, context.access(Purpose::Write)?).await.during("creating the archive")?;
    if !key_file.exists() {
        archive.keys().digest_key.save(&key_file)?;
    }
    Ok(archive)
}

fn describe(context: &Context, path: &Path, archive: &Archive, identity: Option<PathBuf>) -> Report {
    let encryption = &context.config.encryption;
    let mut text =
        format!("Archive {} at {}.\nConfiguration: {}", archive.id().as_str(), archive.store().label(), path.display());
    if !encryption.disabled {
        text.push_str(&format!(
            "\nDigest key: {} (mode 0600; every writer needs a copy)",
            context.config.digest_key_file().display()
        ));
    }
    let data = json!({ "archive": archive.id().as_str(), "url": archive.store().label(), "config": path, "identity_file": identity });
    let mut report = Report::new("pitr.init/1", data, text);
    if let Some(identity) = identity {
        report.text.push_str(&format!(
            "\nIdentity: {} (mode 0600). It alone opens the archive: copy it to a safe place now, and\n\
             remove it from database hosts, which do not need it.",
            identity.display()
        ));
    }
    if encryption.disabled {
        report.text.push_str("\nEncryption is disabled: everybody who can reach the archive can read it.");
    }
    if context.config.sources.is_empty() {
        report.warnings.push(Warning {
            code: "no_source",
            message: "the configuration has no source yet".to_owned(),
            next: vec![format!("add a [sources.NAME] section with engine and url to {}", path.display())],
        });
    }
    let first = context.config.sources.keys().next();
    report.next(first.map_or_else(|| "pitr check".to_owned(), |name| format!("pitr check {name}")))
}

/// Takes what the flags say, and asks for the rest on a terminal only.
fn ask(args: &Init) -> Result<Answers, Failure> {
    let archive = match &args.archive {
        Some(url) => url.clone(),
        None => question("Archive URL", "--archive", Some("file:///var/lib/pitr"))?,
    };
    let source = match (&args.source, &args.url) {
        (Some(name), url) => {
            let url = match url {
                Some(url) => url.clone(),
                None => question(&format!("Connection URL of {name}, without password"), "--url", None)?,
            };
            let (name, password_file) = (name.clone(), args.password_file.clone());
            let engine = args.engine.unwrap_or_else(|| EngineKind::of_url(&url));
            Some(NewSource { name, engine, url, password_file })
        }
        (None, Some(_)) => return Err(Failure::new(ErrorKind::Usage, "--url needs --source NAME")),
        (None, None) => None,
    };
    let encryption = match (args.no_encryption, args.recipient.as_slice()) {
        (true, _) => Encrypt::Disabled,
        (false, []) => Encrypt::NewIdentity,
        (false, recipients) => Encrypt::Recipients(recipients.to_vec()),
    };
    Ok(Answers { archive, encryption, source })
}

fn question(what: &str, flag: &str, default: Option<&str>) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::new(ErrorKind::Failed, format!("cannot ask for {what}: {error}"));
    if !io::stdin().is_terminal() {
        return Err(Failure::new(ErrorKind::Usage, format!("{what} is not known, and there is no terminal to ask on"))
            .next(format!("pitr init {flag} …")));
    }
    eprint!("{what}{}: ", default.map(|default| format!(" [{default}]")).unwrap_or_default());
    io::stderr().flush().map_err(failed)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(failed)?;
    match (line.trim(), default) {
        ("", Some(default)) => Ok(default.to_owned()),
        ("", None) => {
            Err(Failure::new(ErrorKind::Usage, format!("{what} is needed")).next(format!("pitr init {flag} …")))
        }
        (answer, _) => Ok(answer.to_owned()),
    }
}

/// Writes a new configuration, and a new identity if none was given. Returns the identity's path.
fn write_config(path: &Path, answers: &Answers) -> Result<Option<PathBuf>, Failure> {
    let beside =
        |name: &str| path.parent().filter(|dir| *dir != Path::new("")).unwrap_or_else(|| Path::new(".")).join(name);
    let (encryption, identity) = match &answers.encryption {
        Encrypt::Disabled => ("disabled = true\n".to_owned(), None),
        Encrypt::Recipients(recipients) => (format!("recipients = {}\n", toml_list(recipients)), None),
        Encrypt::NewIdentity => {
            let file = std::path::absolute(beside("identity.txt"))
                .map_err(|error| Failure::new(ErrorKind::Usage, format!("cannot use {}: {error}", path.display())))?;
            // Left by an init that was interrupted, or put there by its owner: it is never made anew.
            let recipients = if file.exists() { recipients_of(&file)? } else { vec![make_identity(&file)?] };
            let lines = format!(
                "recipients = {}\n# Only where restores run; a database host does not need it.\nidentity_file = {}\n",
                toml_list(&recipients),
                toml_text(&file.display().to_string())
            );
            (lines, Some(file))
        }
    };
    let mut text = format!("[archive]\nurl = {}\n\n[encryption]\n{encryption}", toml_text(&answers.archive));
    if let Some(NewSource { name, engine, url, password_file }) = &answers.source {
        let (name, engine, url) = (toml_key(name), toml_text(engine.name()), toml_text(url));
        text.push_str(&format!("\n[sources.{name}]\nengine = {engine}\nurl = {url}\n"));
        if let Some(file) = password_file {
            text.push_str(&format!("password_file = {}\n", toml_text(&file.display().to_string())));
        }
    }
    durable::create(path, 0o640, &text)
        .map_err(|error| Failure::new(ErrorKind::Failed, format!("cannot write {}: {error}", path.display())))?;
    Ok(identity)
}

fn recipients_of(identity: &Path) -> Result<Vec<String>, Failure> {
    let identities = Identities::from_file(identity).during("the identity that is there already")?;
    Ok(Encryption::Recipients(identities.recipients()).recipient_texts())
}

fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn toml_list(texts: &[String]) -> String {
    toml::Value::Array(texts.iter().map(|text| toml::Value::String(text.clone())).collect()).to_string()
}

fn toml_key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { name.to_owned() } else { toml_text(name) }
}
