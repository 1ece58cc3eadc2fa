//! `pitr wal prefetch`: fills the spool of a recovery, then ends. Started by `wal fetch`.

use std::process::ExitCode;

use futures::{StreamExt, TryStreamExt};
use pitr_postgres::WalFileName;

use crate::cli::{Cli, WalPrefetch};
use crate::config::EngineKind;
use crate::context::{Context, Purpose};
use crate::failure::Failure;
use crate::limits::PREFETCH_CONCURRENCY;
use crate::postgres::fetch::{Answer, Histories};
use crate::report::eprint_failure;
use crate::verbs::wal_fetch::open_spool;

/// Fills the spool. Whatever goes wrong here is met again, and reported, by the `wal fetch` that needs the file.
pub async fn run(cli: &Cli, args: &WalPrefetch) -> ExitCode {
    match fill(cli, args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint_failure(&failure);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

async fn fill(cli: &Cli, args: &WalPrefetch) -> Result<(), Failure> {
    let Some(spool) = open_spool(&args.from)? else { return Ok(()) };
    let Some(right) = spool.try_fill()? else { return Ok(()) };
    spool.forget_before(&args.name, &right);
    let context = Context::load(cli.config.as_deref())?;
    let (name, _) = context.config.source_of(EngineKind::Postgres, args.from.source.as_deref())?;
    let archive = context.source(name, Purpose::Read).await?;
    let histories = Histories::load(&archive, args.from.lineage.as_deref()).await?;
    let file: WalFileName = args.name.parse()?;
    // The first one is what the server has just got.
    let ahead = histories.following(&file, args.count + 1)?.into_iter().skip(1);
    let wanted = ahead.filter(|file| !spool.has(&file.to_string()));
    futures::stream::iter(wanted)
        .map(|file| {
            let (archive, histories) = (&archive, &histories);
            async move { Ok::<_, Failure>((histories.fetch(archive, &file).await?, file)) }
        })
        .buffered(PREFETCH_CONCURRENCY)
        .try_for_each(|(answer, file)| {
            let stored = match answer {
                Answer::File(bytes) => spool.put(&file.to_string(), &bytes),
                Answer::Absent => Ok(()),
            };
            std::future::ready(stored)
        })
        .await
}
