//! The command line, as clap reads it. What a verb does is in its file under `verbs/`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::EngineKind;

/// Point-in-time recovery for databases: archive the log, take bases, restore any moment exactly.
#[derive(Debug, Parser)]
#[command(name = "pitr", version, disable_help_subcommand = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// Configuration file [default: ./pitr.toml, else /etc/pitr/pitr.toml]
    #[arg(long, global = true, env = "PITR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// How the result is printed on stdout
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    pub output: Format,

    /// Say less (-q) or more (-v, -vv) on stderr
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Print no progress and only errors on stderr
    #[arg(short, long, global = true)]
    pub quiet: bool,

    #[command(subcommand)]
    pub verb: Verb,
}

const AFTER_HELP: &str = "\
In an incident:  pitr status   ->   pitr plan SOURCE --to '15m ago'   ->   pitr restore SOURCE --to ... --into DIR

Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 done with warnings, 4 target not recoverable,
5 integrity failure, 6 refused for safety, 7 server or store unreachable, 10 archive absent, 11 busy,
12 key or login refused, 130 interrupted. `wal push` and `wal fetch` have their own: see their --help.";

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Write pitr.toml, create the archive, make or take an age recipient
    Init(Init),
    /// Check that everything is set up; print the exact fix for what is not
    Check(MaybeSource),
    /// Print the least-privilege role script of an engine
    Grants(Grants),
    /// Take a base
    Backup(Backup),
    /// The hooks that PostgreSQL calls
    #[command(subcommand)]
    Wal(Wal),
    /// Archive the log continuously, in the foreground (a service)
    Stream(Stream),
    /// Write a named point into the log of a source, restorable as name:NAME
    Mark(Mark),
    /// Show what can be restored: window, gaps, lag, last base, next step
    Status(MaybeSource),
    /// List bases and log ranges
    List(MaybeSource),
    /// Show what a restore would do; nothing is touched
    Plan(Plan),
    /// Restore to a target
    Restore(Restore),
    /// Read the archive back and check every byte
    Verify(Verify),
    /// Make, check and list keys
    #[command(subcommand)]
    Key(Key),
    /// Print a completion script for a shell
    Completions {
        /// bash, zsh, fish, …
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

#[derive(Debug, Args)]
pub struct Init {
    /// Where the archive is to be: file:///dir, s3://bucket/prefix, az://container/prefix, gs://bucket/prefix
    #[arg(long, value_name = "URL")]
    pub archive: Option<String>,
    /// Name of a source to write into the configuration
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Engine of that source [default: what the begin of its URL says]
    #[arg(long, value_enum)]
    pub engine: Option<EngineKind>,
    /// How to connect to that source, without password
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// File with the password of that source
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// An age recipient that can read the archive (repeatable); without it a new identity is made
    #[arg(long, value_name = "AGE1...", conflicts_with = "no_encryption")]
    pub recipient: Vec<String>,
    /// Store everything unencrypted
    #[arg(long)]
    pub no_encryption: bool,
}

#[derive(Debug, Args)]
pub struct MaybeSource {
    /// The source [default: all]
    #[arg(env = "PITR_SOURCE")]
    pub source: Option<String>,
}

#[derive(Debug, Args)]
pub struct Grants {
    /// The engine
    #[arg(value_enum)]
    pub engine: EngineKind,
    /// Name of the role
    #[arg(long, default_value = "pitr")]
    pub role: String,
    /// Address of the machine that pitr runs on, as in 10.0.0.7/32 [default: the server's own machine]
    #[arg(long, value_name = "CIDR")]
    pub address: Option<String>,
}

#[derive(Debug, Args)]
pub struct Backup {
    /// The source [default: the only one]
    #[arg(env = "PITR_SOURCE")]
    pub source: Option<String>,
    /// Limit what the server sends, in MiB per second
    #[arg(long, value_name = "MIB")]
    pub max_rate: Option<u32>,
    /// Wait for a regular checkpoint instead of asking for one at once
    #[arg(long, help_heading = "PostgreSQL")]
    pub spread_checkpoint: bool,
    /// Do not wait until the log that the base needs is archived
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for that log, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub wait_timeout: u64,
}

#[derive(Debug, Subcommand)]
pub enum Wal {
    /// archive_command: store one file. Exit 0 = stored durably, 1..125 = PostgreSQL keeps the file and retries
    Push(WalPush),
    /// restore_command: deliver one file. Exit 0 = delivered, 1 = proved absent, 255 = fault (recovery stops, nothing is lost)
    Fetch(WalFetch),
    /// Fill the spool of a running recovery (started by `wal fetch`)
    #[command(hide = true)]
    Prefetch(WalPrefetch),
}

#[derive(Debug, Args)]
pub struct Mark {
    /// The source
    pub source: String,
    /// The name of the point, as in before_deploy
    pub name: String,
}

#[derive(Debug, Args)]
pub struct Stream {
    /// The sources [default: all]
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// PostgreSQL: drop the replication slot of these sources instead, so that their servers keep no log for it any more
    #[arg(long)]
    pub drop_slot: bool,
    /// PostgreSQL: watch this pg_wal directory for completed files, where no replication connection is allowed
    #[arg(long, value_name = "DIR", conflicts_with = "drop_slot")]
    pub wal_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct WalPush {
    /// The file, as PostgreSQL gives it with %p
    pub path: PathBuf,
    /// The source [default: the only one]
    #[arg(long, env = "PITR_SOURCE")]
    pub source: Option<String>,
}

#[derive(Debug, Args)]
pub struct WalFetch {
    /// The file wanted, as PostgreSQL gives it with %f
    pub name: String,
    /// Where to put it, as PostgreSQL gives it with %p
    pub path: PathBuf,
    #[command(flatten)]
    pub from: FetchFrom,
    /// For a standby that retries for ever: a passing fault is exit 1, since 255 would end the standby
    #[arg(long)]
    pub standby: bool,
    /// How long a passing fault is retried, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub deadline: u64,
    /// Segments to fetch ahead; 0 for none
    #[arg(long, value_name = "N", default_value_t = crate::limits::PREFETCH_SEGMENTS)]
    pub prefetch: u32,
}

#[derive(Debug, Args, Clone)]
pub struct FetchFrom {
    /// The source [default: the only one]
    #[arg(long, env = "PITR_SOURCE")]
    pub source: Option<String>,
    /// The lineage that is being restored, as the plan names it
    #[arg(long, value_name = "NAME")]
    pub lineage: Option<String>,
    /// Directory for prefetched segments, best on the file system of the data directory
    #[arg(long, value_name = "DIR")]
    pub spool: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct WalPrefetch {
    /// The first file to fetch
    pub name: String,
    #[command(flatten)]
    pub from: FetchFrom,
    /// How many
    #[arg(long)]
    pub count: u32,
}

/// What to restore to. Exactly one of --to and --before.
#[derive(Debug, Args, Clone)]
pub struct TargetArgs {
    /// Keep everything up to and including this: latest, 2026-09-07T02:57:00+02:00, "2026-09-07 02:57 Europe/Berlin",
    /// "15m ago", lsn:4A/9C3F1E88, xid:88120412, name:before_deploy
    #[arg(
        long,
        visible_alias = "at",
        value_name = "TARGET",
        required_unless_present = "before",
        conflicts_with = "before"
    )]
    pub to: Option<String>,
    /// Keep everything before this, and not the thing itself
    #[arg(long, value_name = "TARGET")]
    pub before: Option<String>,
    /// The history to restore, where there are several [default: the newest]
    #[arg(long, value_name = "NAME")]
    pub lineage: Option<String>,
    /// The base to start from [default: the best]
    #[arg(long, value_name = "ID")]
    pub base: Option<String>,
}

#[derive(Debug, Args)]
pub struct Plan {
    /// The source [default: the only one]
    #[arg(env = "PITR_SOURCE")]
    pub source: Option<String>,
    #[command(flatten)]
    pub target: TargetArgs,
}

#[derive(Debug, Args)]
pub struct Restore {
    /// The source [default: the only one]
    #[arg(env = "PITR_SOURCE")]
    pub source: Option<String>,
    #[command(flatten)]
    pub target: TargetArgs,
    /// A new or empty directory for the restored data
    #[arg(long, value_name = "DIR", required_unless_present = "target_url", conflicts_with = "target_url")]
    pub into: Option<PathBuf>,
    /// A running server without data of its own (MySQL, MariaDB, MongoDB); the file with its password is named by
    /// PITR_TARGET_PASSWORD_FILE
    #[arg(long, value_name = "URL")]
    pub target_url: Option<String>,
    /// Start the server, wait for the target and check the position reached
    #[arg(long)]
    pub start: bool,
    /// Directory with the server's programs
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// End the recovery once the position reached has been checked: the server becomes writable, a history of its own
    #[arg(long, requires = "start")]
    pub promote: bool,
    /// How long to wait for the target, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, requires = "start")]
    pub start_timeout: u64,
    /// Where a tablespace goes [default: DIR.tablespaces/OID]
    #[arg(long, value_name = "OID=DIR", help_heading = "PostgreSQL")]
    pub tablespace: Vec<String>,
    /// Segments that the server's restore_command fetches ahead; 0 for none [default: 16]
    #[arg(long, value_name = "N", help_heading = "PostgreSQL")]
    pub prefetch: Option<u32>,
    /// A transaction to leave out, as in gtid:UUID:77 (repeatable)
    #[arg(long, value_name = "GTID", help_heading = "MySQL and MariaDB")]
    pub skip: Vec<String>,
    /// The address under which the target server reaches this machine [default: the one that reaches the server]
    #[arg(long, value_name = "ADDRESS", help_heading = "MySQL and MariaDB")]
    pub listen: Option<std::net::IpAddr>,
}

impl Backup {
    /// The flags given that not every engine knows.
    pub fn special_flags(&self) -> Vec<&'static str> {
        given(&[("--max-rate", self.max_rate.is_some()), ("--spread-checkpoint", self.spread_checkpoint)])
    }
}

impl Restore {
    /// The flags given that not every engine knows.
    pub fn special_flags(&self) -> Vec<&'static str> {
        given(&[
            ("--start", self.start),
            ("--bin-dir", self.bin_dir.is_some()),
            ("--promote", self.promote),
            ("--tablespace", !self.tablespace.is_empty()),
            ("--prefetch", self.prefetch.is_some()),
            ("--target-url", self.target_url.is_some()),
            ("--skip", !self.skip.is_empty()),
            ("--listen", self.listen.is_some()),
        ])
    }
}

fn given(flags: &[(&'static str, bool)]) -> Vec<&'static str> {
    flags.iter().filter(|(_, given)| *given).map(|(flag, _)| *flag).collect()
}

#[derive(Debug, Args)]
pub struct Verify {
    /// The source [default: all]
    #[arg(env = "PITR_SOURCE")]
    pub source: Option<String>,
    /// Only compare roll-ups and headers with the listing; read no content
    #[arg(long)]
    pub quick: bool,
}

#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make an age identity; prints its recipient
    New {
        /// Where to write the identity, mode 0600
        #[arg(long, value_name = "FILE")]
        identity_file: PathBuf,
    },
    /// Prove that this host's keys fit the archive
    Check,
    /// List the recipients that the archive is encrypted to
    List,
}
