//! `pitr wal fetch NAME PATH`: `restore_command`.
//!
//! PostgreSQL takes exit codes 1 to 125 as "no such file": it ends the recovery and opens the database. So 1 is
//! given only when the archive proves that the file does not exist and nothing later does; every fault, usage error
//! and panic is 255, after which the recovery can simply be started again.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use pitr_archive::SourceArchive;
use pitr_core::ErrorKind;
use pitr_postgres::WalFileName;

use crate::cli::{Cli, FetchFrom, WalFetch};
use crate::config::EngineKind;
use crate::context::{Context, Purpose};
use crate::failure::{During, Failure};
use crate::postgres::fetch::{Answer, Histories};
use crate::postgres::spool::{Spool, deliver};
use crate::report::eprint_failure;

/// The file certainly does not exist: the end of the log.
const ABSENT: u8 = 1;
/// Anything else: the recovery stops, and nothing is lost.
pub const FAULT: u8 = 255;

/// Delivers one file; never returns another exit code than 0, 1 and 255.
pub async fn run(cli: &Cli, args: &WalFetch) -> ExitCode {
    end_panics_as_faults();
    match deliver_file(cli, args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(ABSENT),
        Err(failure) => fault(&failure.during(format!("wal fetch {}", args.name)), args.standby),
    }
}

/// The exit code of a fault. A standby asks again for ever, and 255 would end it: a passing fault is 1 there.
pub fn fault(failure: &Failure, standby: bool) -> ExitCode {
    eprint_failure(failure);
    ExitCode::from(if standby && failure.kind.is_retryable() { ABSENT } else { FAULT })
}

/// False if the file is proved absent.
async fn deliver_file(cli: &Cli, args: &WalFetch) -> Result<bool, Failure> {
    let file: WalFileName = args.name.parse()?;
    // The spool only makes things faster: without it, the file comes from the archive.
    let spool = open_spool(&args.from).unwrap_or_else(|failure| {
        tracing::warn!(%failure, "going on without spool");
        None
    });
    if let Some(spool) = &spool
        && take(spool, args)
    {
        refill(cli, args, spool, &file);
        return Ok(true);
    }
    let mut context = Context::load(cli.config.as_deref())?;
    context.store_deadline = Some(Duration::from_secs(args.deadline));
    let (name, _) = context.config.source_of(EngineKind::Postgres, args.from.source.as_deref())?;
    let archive = context.source(name, Purpose::Read).await?;
    let histories = Histories::load(&archive, args.from.lineage.as_deref()).await?;
    match fetch_checked(&archive, &histories, &file).await? {
        Answer::File(bytes) => {
            deliver(&args.path, &bytes)?;
            if let Some(spool) = &spool {
                refill(cli, args, spool, &file);
            }
            Ok(true)
        }
        Answer::Absent => Ok(false),
    }
}

fn take(spool: &Spool, args: &WalFetch) -> bool {
    spool.take(&args.name, &args.path).unwrap_or_else(|failure| {
        tracing::warn!(%failure, "going on without spool");
        false
    })
}

/// "Absent" needs an archive that is there: an unmounted directory or a wrong bucket proves nothing.
async fn fetch_checked(archive: &SourceArchive, histories: &Histories, file: &WalFileName) -> Result<Answer, Failure> {
    let answer = histories.fetch(archive, file).await?;
    if matches!(answer, Answer::Absent) && !archive.objects().store().has_archive().await? {
        return Err(Failure::new(ErrorKind::Unreachable, "the archive disappeared while it was read"));
    }
    Ok(answer)
}

/// The spool of a recovery, one directory per lineage, so that it never serves another history.
pub fn open_spool(from: &FetchFrom) -> Result<Option<Spool>, Failure> {
    let Some(dir) = &from.spool else { return Ok(None) };
    Spool::open(dir.join(from.lineage.as_deref().unwrap_or("newest"))).map(Some).during("--spool")
}

/// Starts a process that fetches ahead, unless enough is there. It only makes the next calls faster: if it cannot be
/// started or fails, they fetch for themselves and report what is wrong.
fn refill(cli: &Cli, args: &WalFetch, spool: &Spool, file: &WalFileName) {
    let wanted = args.prefetch;
    if wanted == 0
        || spool.complete_files() > wanted / 2
        || !matches!(file, WalFileName::Segment { partial: false, .. })
    {
        return;
    }
    let started = std::env::current_exe().and_then(|program| prefetch_command(&program, cli, args, wanted).spawn());
    if let Err(error) = started {
        tracing::warn!(%error, "cannot start prefetching");
    }
}

fn prefetch_command(program: &Path, cli: &Cli, args: &WalFetch, wanted: u32) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    if let Some(config) = &cli.config {
        command.arg("--config").arg(config);
    }
    command.args(["wal", "prefetch", &args.name, "--count", &wanted.to_string()]);
    for (flag, value) in [("--source", &args.from.source), ("--lineage", &args.from.lineage)] {
        if let Some(value) = value {
            command.args([flag, value]);
        }
    }
    if let Some(spool) = &args.from.spool {
        command.arg("--spool").arg(spool);
    }
    // A group of its own: the server signals its children when it stops, and a half-written spool file is harmless.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command
}

/// Rust's own exit code of a panic is 101, which PostgreSQL would take for the end of the log.
fn end_panics_as_faults() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::exit(i32::from(FAULT));
    }));
}
