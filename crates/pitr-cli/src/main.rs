//! The `pitr` program: one file per verb, and the one `match` on the kind of engine.
//!
//! ```text
//! pitr status
//! pitr plan orders --to '15m ago'
//! pitr restore orders --to '15m ago' --into /srv/orders-restored --start
//! ```

mod cli;
mod config;
mod context;
mod durable;
mod engine;
mod failure;
mod limits;
mod log;
mod mongodb;
mod mysql;
mod planning;
mod postgres;
mod progress;
mod report;
mod streaming;
mod time;
mod verbs;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use pitr_core::ErrorKind;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{Cli, Verb, Wal};
use crate::context::Context;
use crate::failure::Failure;
use crate::report::Report;

/// Packs and segments of many megabytes go from thread to thread. The allocator of glibc keeps such buffers in every
/// thread's own heap: the same restore peaked at 58 to 149 MiB with it, and at 41 to 49 MiB with this one.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code of an interrupted run, as shells give it for SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    start_log(&cli);
    let runtime = match runtime(&cli.verb) {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::new(ErrorKind::Failed, format!("cannot start: {error}"));
            return if is_fetch(&cli.verb) {
                verbs::wal_fetch::fault(&failure, false)
            } else {
                report::print_failure(&failure, cli.output)
            };
        }
    };
    let code = match cli.verb {
        // PostgreSQL reads these exit codes in its own way.
        Verb::Wal(Wal::Fetch(ref args)) => runtime.block_on(verbs::wal_fetch::run(&cli, args)),
        Verb::Wal(Wal::Prefetch(ref args)) => runtime.block_on(verbs::wal_prefetch::run(&cli, args)),
        // Ends in its own way when it is interrupted: it makes durable what it has.
        Verb::Stream(ref args) => runtime.block_on(verbs::stream::run(&cli, args)),
        _ => runtime.block_on(interruptible(&cli)),
    };
    // Whatever a thread still does is of no more use to anybody.
    runtime.shutdown_background();
    code
}

/// The hooks are short and wait for one thing at a time: threads would cost them more than they do.
fn runtime(verb: &Verb) -> std::io::Result<tokio::runtime::Runtime> {
    use tokio::runtime::Builder;
    match verb {
        // One step after the other: a second thread for blocking calls would only cost its start.
        Verb::Wal(Wal::Push(_)) => Builder::new_current_thread().max_blocking_threads(1).enable_all().build(),
        Verb::Wal(_) => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread().worker_threads(2).enable_all().build(),
    }
}

/// Runs a verb until it is done or interrupted. Every verb may be run again after an interruption.
async fn interruptible(cli: &Cli) -> ExitCode {
    tokio::select! {
        result = run(cli) => match result {
            Ok(report) => report.print(cli.output),
            Err(failure) => report::print_failure(&failure, cli.output),
        },
        signal = tokio::signal::ctrl_c() => {
            match signal {
                Ok(()) => eprintln!("pitr: interrupted; the same command goes on where it can"),
                Err(error) => eprintln!("pitr: cannot wait for signals: {error}"),
            }
            // Above 125 PostgreSQL's archiver would end without counting the failure.
            let is_push = matches!(cli.verb, Verb::Wal(Wal::Push(_)));
            ExitCode::from(if is_push { ErrorKind::Failed.exit_code() } else { INTERRUPTED })
        }
    }
}

async fn run(cli: &Cli) -> Result<Report, Failure> {
    let config = cli.config.as_deref();
    match &cli.verb {
        Verb::Init(args) => verbs::init::run(config, args).await,
        Verb::Key(args) => verbs::key::run(config, args).await,
        Verb::Grants(args) => verbs::grants::run(args),
        Verb::Completions { shell } => verbs::completions::completions(*shell),
        Verb::Man => verbs::completions::man(),
        Verb::Check(args) => verbs::check::run(&Context::load(config)?, args).await,
        Verb::Backup(args) => verbs::backup::run(&Context::load(config)?, args, cli.quiet).await,
        Verb::Wal(Wal::Push(args)) => verbs::wal_push::run(&Context::load(config)?, args).await,
        Verb::Wal(Wal::Fetch(_) | Wal::Prefetch(_)) => {
            Err(Failure::new(ErrorKind::Failed, "the fetch hooks are not run as ordinary verbs"))
        }
        Verb::Stream(_) => Err(Failure::new(ErrorKind::Failed, "streaming is not run as an ordinary verb")),
        Verb::Mark(args) => verbs::mark::run(&Context::load(config)?, args).await,
        Verb::Status(args) => verbs::status::run(&Context::load(config)?, args).await,
        Verb::List(args) => verbs::list::run(&Context::load(config)?, args).await,
        Verb::Plan(args) => verbs::plan::run(&Context::load(config)?, args).await,
        Verb::Restore(args) => verbs::restore::run(&Context::load(config)?, args, cli.quiet).await,
        Verb::Verify(args) => verbs::verify::run(&Context::load(config)?, args, cli.quiet).await,
    }
}

fn is_fetch(verb: &Verb) -> bool {
    matches!(verb, Verb::Wal(Wal::Fetch(_)))
}

/// Prints the help, the version or what is wrong with the line.
///
/// A `restore_command` with a typing error must not look like the end of the log, and neither hook may look as if it
/// had delivered or stored a file when it only printed a text.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing is left to do if the terminal is gone.
    let _ = error.print();
    match (Hook::meant_by(std::env::args_os().skip(1)), error.exit_code()) {
        (Some(Hook::Fetch), _) => ExitCode::from(verbs::wal_fetch::FAULT),
        (None, 0) => ExitCode::SUCCESS,
        _ => ExitCode::from(ErrorKind::Usage.exit_code()),
    }
}

/// The commands whose exit codes PostgreSQL reads.
enum Hook {
    /// `restore_command`: everything from 1 to 125 is the end of the log.
    Fetch,
    /// `archive_command`: above 125 the archiver ends without counting the failure.
    Push,
}

impl Hook {
    /// What a line may have been meant as, with the typing error in whatever word.
    fn meant_by(words: impl Iterator<Item = std::ffi::OsString>) -> Option<Self> {
        let words: Vec<_> = words.filter(|word| !word.as_encoded_bytes().starts_with(b"-")).collect();
        let has = |wanted: &str| words.iter().any(|word| word == wanted);
        match (has("push"), has("wal") || has("fetch")) {
            (true, _) => Some(Self::Push),
            (false, true) => Some(Self::Fetch),
            (false, false) => None,
        }
    }
}

fn start_log(cli: &Cli) {
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => LevelFilter::ERROR,
        // Of a service the log is all there is to see.
        (_, 0) if matches!(cli.verb, Verb::Stream(_)) => LevelFilter::INFO,
        (_, 0) => LevelFilter::WARN,
        (_, 1) => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let log = log.with_ansi(!plain && std::io::stderr().is_terminal());
    match EnvFilter::try_from_env("PITR_LOG") {
        Ok(filter) => log.with_env_filter(filter).init(),
        Err(_) => log.with_max_level(level).init(),
    }
}
