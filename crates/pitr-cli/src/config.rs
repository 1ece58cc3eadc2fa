//! The configuration: TOML, environment overrides, and errors that say what was meant.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use pitr_core::ErrorKind;
use serde::{Deserialize, Serialize};

use crate::engine::by_engine;
use crate::failure::Failure;

/// Where the configuration is looked for when neither `--config` nor `PITR_CONFIG` names a file.
pub const DEFAULT_PATHS: [&str; 2] = ["pitr.toml", "/etc/pitr/pitr.toml"];
/// Environment variables with this prefix override single keys: `PITR__ARCHIVE__URL`.
const OVERRIDE_PREFIX: &str = "PITR__";

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The shared store.
    #[serde(default)]
    pub archive: Archive,
    /// Who can read it.
    #[serde(default)]
    pub encryption: Encryption,
    /// What is protected, by name.
    #[serde(default)]
    pub sources: BTreeMap<String, Source>,
    /// The file it came from; `None` if everything came from the environment.
    #[serde(skip)]
    pub path: Option<PathBuf>,
}

/// `[archive]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// `file:///var/lib/pitr`, `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix`.
    pub url: Option<String>,
    /// Options of the store: `endpoint`, `region`, `allow_http`, …; never secrets.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// How long a passing fault of the store is retried, in seconds; `wal fetch` has its own `--deadline`.
    pub retry_seconds: Option<u64>,
}

/// `[encryption]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encryption {
    /// age recipients (`age1…`); every object is readable by each of their identities.
    #[serde(default)]
    pub recipients: Vec<String>,
    /// True to store everything unencrypted.
    #[serde(default)]
    pub disabled: bool,
    /// age identities; only where restores run.
    pub identity_file: Option<PathBuf>,
    /// Where a writer keeps the digest key; beside the configuration if not given.
    pub digest_key_file: Option<PathBuf>,
}

/// `[sources.NAME]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Which engine it is.
    pub engine: EngineKind,
    /// How to connect: `postgresql://pitr@db1:5432/postgres?sslmode=verify-full`; never with a password.
    pub url: Option<String>,
    /// File with the password, readable by its owner only.
    pub password_file: Option<PathBuf>,
    /// How soon new log is durable while it is streamed: `1s` unless given, `200ms`, `0s` for as soon as possible.
    pub flush_interval: Option<Interval>,
    /// PostgreSQL: the replication slot that keeps log while the stream is away; made when it does not exist.
    pub slot: Option<String>,
    /// MySQL and MariaDB: the `server_id` under which the log is read; derived from the source's name unless given.
    pub server_id: Option<u32>,
    /// MySQL and MariaDB: confirm transactions as a semi-synchronous replica does, once they are in the archive.
    #[serde(default)]
    pub semi_sync: bool,
}

/// A length of time as people write it: `200ms`, `5s`, `2m`, `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Interval(pub Duration);

impl TryFrom<String> for Interval {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let malformed = || format!("{text:?} is no length of time: write it as 200ms, 5s, 2m or 1h");
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(malformed)?;
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| malformed())?;
        let milliseconds = match unit {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        let milliseconds = milliseconds.and_then(|unit| number.checked_mul(unit)).ok_or_else(malformed)?;
        Ok(Self(Duration::from_millis(milliseconds)))
    }
}

/// The engines that a source can have. `by_engine!` says which one each is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// PostgreSQL 13 to 18
    Postgres,
    /// MongoDB 4.4 and later
    Mongodb,
    /// MySQL 8.0 and later
    Mysql,
    /// MariaDB 10.5 and later
    Mariadb,
}

impl EngineKind {
    /// The word in configuration and screens.
    pub fn name(self) -> &'static str {
        by_engine!(self, E => <E as pitr_core::Engine>::NAME)
    }

    /// The engine that a connection URL is of, by its scheme. One that says nothing is taken for PostgreSQL's, which then
    /// refuses it by name.
    pub fn of_url(url: &str) -> Self {
        match url.split_once("://").map_or(url, |(scheme, _)| scheme) {
            "mysql" => Self::Mysql,
            "mariadb" => Self::Mariadb,
            "mongodb" | "mongodb+srv" => Self::Mongodb,
            _ => Self::Postgres,
        }
    }
}

impl Source {
    /// The password, from its file; one that others can read is refused.
    pub fn password(&self) -> Result<Option<String>, Failure> {
        self.password_file.as_deref().map(password_from).transpose()
    }
}

/// A password from its file; one that others can read is refused.
pub fn password_from(path: &Path) -> Result<String, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let denied = |what: String| Failure::new(ErrorKind::Denied, format!("password file {}: {what}", path.display()));
    let meta = std::fs::metadata(path).map_err(|error| denied(error.to_string()))?;
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(denied("others can read it".to_owned()).next(format!("chmod 600 {}", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(|error| denied(error.to_string()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

impl Config {
    /// Reads the file that `--config`, `PITR_CONFIG` or the default places name, and applies overrides.
    pub fn load(explicit: Option<&Path>) -> Result<Self, Failure> {
        match Self::find(explicit)? {
            Some(path) => {
                let text = std::fs::read_to_string(&path).map_err(|error| {
                    Failure::new(ErrorKind::Usage, format!("cannot read configuration {}: {error}", path.display()))
                        .next("pitr init --config PATH")
                })?;
                Self::parse(&text, Some(path), &overrides(environment()))
            }
            None if environment().any(|(key, _)| key.starts_with(OVERRIDE_PREFIX)) => {
                Self::parse("", None, &overrides(environment()))
            }
            None => Err(Failure::new(
                ErrorKind::Usage,
                format!("no configuration: looked for {}", DEFAULT_PATHS.join(" and ")),
            )
            .next("pitr init")
            .next("pitr --config PATH …")),
        }
    }

    /// The file to read, if there is one. A file that was named must exist.
    pub fn find(explicit: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
        if let Some(path) = explicit {
            let path = absolute(path)?;
            return Ok(Some(path));
        }
        match DEFAULT_PATHS.iter().map(Path::new).find(|path| path.is_file()) {
            Some(path) => Ok(Some(absolute(path)?)),
            None => Ok(None),
        }
    }

    fn parse(text: &str, path: Option<PathBuf>, overrides: &[(Vec<String>, String)]) -> Result<Self, Failure> {
        let place = path.as_deref().map_or_else(|| "environment".to_owned(), |path| path.display().to_string());
        // First as it stands, so that an error points at the line; the overrides then go on top.
        let _checked: Self = toml::from_str(text).map_err(|error| unreadable(&place, &error))?;
        let mut table: toml::Table = toml::from_str(text).map_err(|error| unreadable(&place, &error))?;
        for (keys, value) in overrides {
            set(&mut table, keys, value)?;
        }
        let mut config: Self =
            toml::Value::Table(table).try_into().map_err(|error| unreadable("environment", &error))?;
        config.path = path;
        config.resolve_paths();
        config.refuse_secrets()?;
        Ok(config)
    }

    /// A relative path is one beside the configuration: the hooks run in the server's directory.
    fn resolve_paths(&mut self) {
        let Some(beside) = self.path.as_deref().and_then(Path::parent).map(Path::to_owned) else { return };
        let Encryption { identity_file, digest_key_file, .. } = &mut self.encryption;
        let passwords = self.sources.values_mut().map(|source| &mut source.password_file);
        for path in passwords.chain([identity_file, digest_key_file]).flatten() {
            *path = beside.join(&*path);
        }
    }

    /// A password in a URL would end up in process lists, logs and the shell history.
    fn refuse_secrets(&self) -> Result<(), Failure> {
        for (name, source) in &self.sources {
            let authority = source.url.as_deref().and_then(|url| url.split_once("://")).map(|(_, rest)| rest);
            let userinfo = authority.and_then(|rest| rest.split('/').next()).and_then(|host| host.rsplit_once('@'));
            if userinfo.is_some_and(|(user, _)| user.contains(':')) {
                return Err(Failure::new(ErrorKind::Usage, format!("sources.{name}.url holds a password"))
                    .next(format!("put it alone into a file of mode 0600 and set sources.{name}.password_file")));
            }
        }
        Ok(())
    }

    /// The source of that name, or the only one.
    pub fn source<'a>(&'a self, name: Option<&'a str>) -> Result<(&'a str, &'a Source), Failure> {
        let known = || self.sources.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        match name {
            Some(name) => self.sources.get(name).map(|source| (name, source)).ok_or_else(|| {
                let failure = Failure::new(
                    ErrorKind::Usage,
                    format!("no source {name:?} in the configuration; it has: {}", known()),
                );
                match closest(name, self.sources.keys().map(String::as_str)) {
                    Some(close) => failure.next(format!("did you mean {close}?")),
                    None => failure,
                }
            }),
            None => {
                let mut all = self.sources.iter();
                match (all.next(), all.next()) {
                    (Some((name, source)), None) => Ok((name, source)),
                    (None, _) => Err(Failure::new(ErrorKind::Usage, "the configuration has no source")
                        .next("add a [sources.NAME] section with engine and url, or run pitr init")),
                    _ => {
                        Err(Failure::new(ErrorKind::Usage, format!("which source? the configuration has: {}", known()))
                            .next("name it, or set PITR_SOURCE"))
                    }
                }
            }
        }
    }

    /// The source of that name, or the only one; refused if it is of another engine.
    pub fn source_of<'a>(
        &'a self,
        engine: EngineKind,
        name: Option<&'a str>,
    ) -> Result<(&'a str, &'a Source), Failure> {
        let (name, source) = self.source(name)?;
        if source.engine == engine {
            return Ok((name, source));
        }
        let (is, wanted) = (source.engine.name(), engine.name());
        Err(Failure::new(
            ErrorKind::Usage,
            format!("source {name} is of engine {is}; this command is for {wanted} alone"),
        )
        .next("pitr status"))
    }

    /// The source of that name, or all there are, at least one.
    pub fn source_or_all<'a>(&'a self, name: Option<&'a str>) -> Result<Vec<(&'a str, &'a Source)>, Failure> {
        if name.is_some() || self.sources.is_empty() {
            return Ok(vec![self.source(name)?]);
        }
        Ok(self.sources.iter().map(|(name, source)| (name.as_str(), source)).collect())
    }

    /// The archive's URL.
    pub fn archive_url(&self) -> Result<&str, Failure> {
        self.archive.url.as_deref().ok_or_else(|| {
            Failure::new(ErrorKind::Usage, "the configuration names no archive")
                .next("set archive.url, for instance \"file:///var/lib/pitr\"")
        })
    }

    /// Where the digest key of this host is kept.
    pub fn digest_key_file(&self) -> PathBuf {
        self.encryption.digest_key_file.clone().unwrap_or_else(|| {
            let beside = self.path.as_deref().and_then(Path::parent).unwrap_or_else(|| Path::new("/etc/pitr"));
            beside.join("digest.key")
        })
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::new(ErrorKind::Usage, format!("cannot use path {}: {error}", path.display())))
}

fn unreadable(place: &str, error: &toml::de::Error) -> Failure {
    let failure = Failure::new(ErrorKind::Usage, format!("configuration {place}: {}", error.to_string().trim_end()));
    match suggestion(error.message()) {
        Some(close) => failure.next(format!("did you mean `{close}`?")),
        None => failure,
    }
}

/// The known key that comes closest to the unknown one; both stand in the message between backticks.
fn suggestion(message: &str) -> Option<&str> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    closest(unknown, quoted)
}

fn closest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// The environment, as far as it is text: what is not cannot be ours, and must not end the program.
fn environment() -> impl Iterator<Item = (String, String)> {
    env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
}

fn overrides(vars: impl Iterator<Item = (String, String)>) -> Vec<(Vec<String>, String)> {
    vars.filter_map(|(key, value)| {
        let rest = key.strip_prefix(OVERRIDE_PREFIX)?;
        Some((rest.split("__").map(str::to_ascii_lowercase).collect(), value))
    })
    .collect()
}

/// Sets one key; what reads as a TOML boolean or array is one, all else is text.
fn set(table: &mut toml::Table, keys: &[String], text: &str) -> Result<(), Failure> {
    let Some((last, way)) = keys.split_last() else { return Ok(()) };
    let mut place = table;
    for key in way {
        let entry = place.entry(key.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        place = entry.as_table_mut().ok_or_else(|| {
            Failure::new(
                ErrorKind::Usage,
                format!("{OVERRIDE_PREFIX}{}: {key} is not a section", keys.join("__").to_uppercase()),
            )
        })?;
    }
    let parsed = toml::from_str::<toml::Table>(&format!("v = {text}")).ok().and_then(|mut table| table.remove("v"));
    let value = match parsed {
        Some(value @ (toml::Value::Boolean(_) | toml::Value::Array(_))) => value,
        _ => toml::Value::String(text.to_owned()),
    };
    place.insert(last.clone(), value);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"
        [archive]
        url = "file:///var/lib/pitr"
        [encryption]
        recipients = ["age1abc"]
        [sources.orders]
        engine = "postgres"
        url = "postgresql://pitr@db1:5432/postgres?sslmode=verify-full"
    "#;

    fn parse(text: &str, vars: &[(&str, &str)]) -> Result<Config, Failure> {
        let vars = vars.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Config::parse(text, Some(PathBuf::from("/etc/pitr/pitr.toml")), &overrides(vars))
    }

    #[test]
    fn an_unknown_key_is_an_error_with_a_suggestion() {
        let failure = parse("[archive]\nurll = \"file:///x\"\n", &[]).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Usage);
        assert!(failure.message.contains("line 2"), "{}", failure.message);
        assert_eq!(failure.next, ["did you mean `url`?"]);
    }

    #[test]
    fn the_environment_overrides_single_keys() {
        let config = parse(
            SAMPLE,
            &[
                ("PITR__ARCHIVE__URL", "s3://bucket/x"),
                ("PITR__ENCRYPTION__RECIPIENTS", "[\"age1b\", \"age1c\"]"),
                ("PITR__SOURCES__ORDERS__PASSWORD_FILE", "/run/secret"),
                ("PITR__ARCHIVE__OPTIONS__ALLOW_HTTP", "\"true\""),
            ],
        )
        .unwrap();
        assert_eq!(config.archive_url().unwrap(), "s3://bucket/x");
        assert_eq!(config.encryption.recipients, ["age1b", "age1c"]);
        assert_eq!(config.source(None).unwrap().1.password_file.as_deref(), Some(Path::new("/run/secret")));
    }

    #[test]
    fn an_unknown_key_in_the_environment_is_an_error_too() {
        let failure = parse(SAMPLE, &[("PITR__ARCHIVE__RETENTON", "3")]).unwrap_err();
        assert!(failure.message.contains("retenton"), "{}", failure.message);
    }

    #[test]
    fn a_password_in_a_url_is_refused() {
        let failure = parse(&SAMPLE.replace("pitr@db1", "pitr:hunter2@db1"), &[]).unwrap_err();
        assert!(!failure.message.contains("hunter2") && failure.message.contains("password"), "{}", failure.message);
    }

    #[test]
    fn relative_paths_are_beside_the_configuration() {
        let config = parse("[encryption]\nidentity_file = \"identity.txt\"\n", &[]).unwrap();
        assert_eq!(config.encryption.identity_file.as_deref(), Some(Path::new("/etc/pitr/identity.txt")));
        assert_eq!(config.digest_key_file(), Path::new("/etc/pitr/digest.key"));
    }

    #[test]
    fn an_unknown_engine_is_an_error_that_names_those_there_are() {
        let failure = parse(&SAMPLE.replace("\"postgres\"", "\"postgresql\""), &[]).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Usage);
        assert!(failure.message.contains("`postgres`"), "{}", failure.message);
        assert_eq!(failure.next, ["did you mean `postgres`?"]);
    }

    #[test]
    fn an_engine_has_the_same_name_in_the_configuration_and_everywhere_else() {
        for kind in EngineKind::value_variants() {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(kind.to_possible_value().unwrap().get_name(), kind.name());
        }
    }

    #[test]
    fn without_a_name_all_sources_are_meant_and_none_is_an_error() {
        let config = parse(SAMPLE, &[]).unwrap();
        assert_eq!(config.source_or_all(None).unwrap().len(), 1);
        assert_eq!(config.source_or_all(Some("orders")).unwrap()[0].0, "orders");
        assert_eq!(parse("", &[]).unwrap().source_or_all(None).unwrap_err().kind, ErrorKind::Usage);
    }

    #[test]
    fn lengths_of_time_have_a_unit() {
        let interval = |text: &str| Interval::try_from(text.to_owned()).map(|interval| interval.0.as_millis());
        assert_eq!(interval("200ms"), Ok(200));
        assert_eq!(interval("0s"), Ok(0));
        assert_eq!(interval("2m"), Ok(120_000));
        for bad in ["", "1", "s", "1.5s", "-1s", "1 s", "1d", "99999999999999999999s", "9999999999999999999h"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_misspelt_source_is_named_with_the_likely_one() {
        let config = parse(SAMPLE, &[]).unwrap();
        assert_eq!(config.source(Some("order")).unwrap_err().next, ["did you mean orders?"]);
    }
}
