//! What the verbs need of an engine, and the one `match` on its kind.
//!
//! A verb is generic over [`Product`] and does by itself all that is the same everywhere: configuration, archive,
//! planning, screens. What differs is a function of the engine's `Product`, in the directory of its name beside this
//! file (`postgres/`), one file per job.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;

use chrono::TimeDelta;
use indicatif::ProgressBar;
use pitr_archive::SourceArchive;
use pitr_archive::base::{BaseOptions, BaseWriter};
use pitr_core::ports::{BackupRecord, Recovery};
use pitr_core::{Engine, ErrorKind, Finding, Lineage, Scan, Span};
use pitr_plan::Plan;
use serde_json::{Map, Value};

use crate::cli::{Backup, Grants, Restore};
use crate::config::Source;
use crate::context::Context;
use crate::failure::Failure;
use crate::log::LogReader;
use crate::report::Warning;
use crate::streaming::Upstream;

/// Runs an expression with the name `$engine` standing for the [`Product`] of a kind.
///
/// The one place that knows which kind is which engine.
macro_rules! by_engine {
    ($kind:expr, $engine:ident => $body:expr) => {
        match $kind {
            $crate::config::EngineKind::Postgres => {
                type $engine = pitr_postgres::Postgres;
                $body
            }
            $crate::config::EngineKind::Mysql => {
                type $engine = pitr_mysql::engine::Mysql;
                $body
            }
            $crate::config::EngineKind::Mariadb => {
                type $engine = pitr_mysql::engine::Mariadb;
                $body
            }
            $crate::config::EngineKind::Mongodb => {
                type $engine = pitr_mongodb::Mongo;
                $body
            }
        }
    };
}
pub(crate) use by_engine;

/// One engine as the verbs see it.
///
/// # Contract
/// Implemented once per engine, for its [`Engine`] type; called by the verbs. Nothing here prints, asks or plans.
/// Messages and texts are for people who know the engine: here it may say timeline, GTID or oplog.
pub trait Product: Engine {
    /// A `sources.NAME.url`, for error messages.
    const URL_EXAMPLE: &'static str;

    /// The flags of `backup` and `restore` that mean something here and not everywhere, as typed (`--tablespace`).
    /// Others of that sort are refused before anything is done.
    const FLAGS: &'static [&'static str];

    /// How old the end of the archived log may be while nobody writes and all is well, beside the time that log waits to become
    /// durable; `None` where an idle server writes no log, so that age alone proves nothing.
    const IDLE_LOG_AGE: Option<TimeDelta>;

    /// The side file, by its name in the lineage's own namespace, without which no restore gets through a lineage;
    /// `None` for one that needs its log alone.
    fn side_file(lineage: &Lineage<Self::Position>) -> Option<String>;

    /// Everything that a target could stop at in one segment.
    ///
    /// `log` yields the segment itself first, then what follows it, for a record that goes on there; the engine reads
    /// as much of that as its last record needs.
    fn scan(
        lineage: &Lineage<Self::Position>,
        segment: &Span<Self::Position>,
        log: LogReader<'_, Self>,
    ) -> impl Future<Output = Result<Scan<Self::Position>, Failure>> + Send;

    /// Refuses a plan that the planner cannot see through: log on its way that no restore gets over. Asked whenever a plan
    /// is made, so before anything is touched; reads only segments whose headers give reason to.
    fn examine(
        archive: &SourceArchive,
        plan: &Plan<Self::Position>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Looks at the server: settings, rights, archiving. An error only if it cannot be asked at all.
    fn check(site: Site<'_>) -> impl Future<Output = Result<Vec<Finding>, Failure>> + Send;

    /// The script that makes the least-privileged role.
    fn grants(args: &Grants) -> Result<String, Failure>;

    /// How a base is written, by what it consists of.
    fn base_options() -> BaseOptions;

    /// Takes a base, and makes sure that its lineage is registered. The caller commits it.
    fn backup(
        site: Site<'_>,
        archive: &SourceArchive,
        args: &Backup,
        into: &BaseWriter,
        progress: &ProgressBar,
    ) -> impl Future<Output = Result<Taken<Self::Position>, Failure>> + Send;

    /// Writes a named point into the log of the source. Returns where it is, for people.
    fn mark(site: Site<'_>, name: &str) -> impl Future<Output = Result<String, Failure>> + Send;

    /// Where its log is streamed from.
    type Upstream: Upstream<Engine = Self>;

    /// The log of a source, not connected yet.
    fn upstream(site: Site<'_>) -> Result<Self::Upstream, Failure>;

    /// Lays the base down and replays the log, or leaves that to the restored server's next start.
    fn restore(job: RestoreJob<'_, Self>) -> impl Future<Output = Result<Restored<Self::Position>, Failure>> + Send;
}

/// The source that a verb works on.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// Configuration and keys.
    pub context: &'a Context,
    /// Its name.
    pub name: &'a str,
    /// Its section of the configuration.
    pub source: &'a Source,
}

impl<'a> Site<'a> {
    /// The source of that name, or the only one.
    pub fn of(context: &'a Context, name: Option<&'a str>) -> Result<Self, Failure> {
        let (name, source) = context.config.source(name)?;
        Ok(Self { context, name, source })
    }

    /// The source of that name, or all there are, at least one.
    pub fn all(context: &'a Context, name: Option<&'a str>) -> Result<Vec<Self>, Failure> {
        let chosen = context.config.source_or_all(name)?;
        Ok(chosen.into_iter().map(|(name, source)| Self { context, name, source }).collect())
    }

    /// Where its server is.
    pub fn url<E: Product>(&self) -> Result<&'a str, Failure> {
        let name = self.name;
        self.source.url.as_deref().ok_or_else(|| {
            Failure::new(ErrorKind::Usage, format!("source {name} has no url"))
                .next(format!("set sources.{name}.url, as in \"{}\"", E::URL_EXAMPLE))
        })
    }
}

/// A base whose content is in the archive and that is not committed yet.
#[derive(Debug)]
pub struct Taken<P> {
    /// What is to be committed.
    pub record: BackupRecord<P>,
    /// What it consists of: "1204 files".
    pub content: String,
    /// What scripts may want to know besides.
    pub data: Map<String, Value>,
    /// What is wrong with the source, although the base is complete.
    pub warnings: Vec<Warning>,
}

/// Where a restore goes.
#[derive(Clone, PartialEq, Eq)]
pub enum Destination {
    /// A new or empty directory, absolute.
    Directory(PathBuf),
    /// A running server without data of its own.
    Server {
        /// How to connect to it; without password.
        url: String,
        /// The password, from the file that `PITR_TARGET_PASSWORD_FILE` names.
        password: Option<String>,
    },
}

/// Without the password.
impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({self})")
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Server { url, .. } => f.write_str(url),
        }
    }
}

/// A planned restore.
#[derive(Debug)]
pub struct RestoreJob<'a, E: Engine> {
    /// The source that is restored.
    pub site: Site<'a>,
    /// Its archive, which is also the reader of bases and segments.
    pub archive: &'a SourceArchive,
    /// What the plan says.
    pub recovery: Recovery<E::Position>,
    /// Where to.
    pub destination: Destination,
    /// The options as typed.
    pub args: &'a Restore,
}

/// What a restore did.
#[derive(Debug)]
pub struct Restored<P> {
    /// "into /srv/x: 1204 files, 31.2 GiB", with what else is to be said of it on lines of its own.
    pub what: String,
    /// The state that the server is in now, or will stop in, as whole lines.
    pub state: String,
    /// Where the replay stopped; `None` if it begins with the restored server's next start.
    pub reached: Option<P>,
    /// What scripts may want to know.
    pub data: Map<String, Value>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
    /// Commands that lead on.
    pub next: Vec<String>,
}
