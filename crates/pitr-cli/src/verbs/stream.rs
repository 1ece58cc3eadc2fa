//! `pitr stream [SOURCE]...`: archives the log of one or many sources while it is written, until it is told to end.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use pitr_core::ErrorKind;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::cli::{Cli, Stream};
use crate::config::EngineKind;
use crate::context::{Context, Purpose};
use crate::engine::{Product, Site, by_engine};
use crate::failure::{During, Failure};
use crate::limits::{FLUSH_INTERVAL, PULSE_INTERVAL, STREAM_SEGMENT_AGE, STREAM_SEGMENT_BYTES, STREAM_STOP_TIMEOUT};
use crate::postgres::stream::PgUpstream;
use crate::postgres::watch::watch as watch_directory;
use crate::report::{self, Report};
use crate::streaming::systemd::Manager;
use crate::streaming::{Pace, Pulse, Stop, supervise};

/// All sources that stream in this process.
type Streams = JoinSet<Result<(), Failure>>;

/// Streams, and ends with 0 when it was told to end and everything it had is durable.
pub async fn run(cli: &Cli, args: &Stream) -> ExitCode {
    let outcome = match Context::load(cli.config.as_deref()) {
        Ok(context) if args.drop_slot => drop_slots(&context, args).await,
        Ok(context) => serve(&context, args).await,
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(report) => report.print(cli.output),
        Err(failure) => report::print_failure(&failure, cli.output),
    }
}

fn sites<'a>(context: &'a Context, args: &'a Stream) -> Result<Vec<Site<'a>>, Failure> {
    match args.sources.as_slice() {
        [] => Site::all(context, None),
        names => names.iter().map(|name| Site::of(context, Some(name))).collect(),
    }
}

async fn serve(context: &Context, args: &Stream) -> Result<Report, Failure> {
    let mut terminated = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let (stop, stopping) = watch::channel(false);
    let (mut streams, mut pulses) = (Streams::new(), Vec::new());
    let sites = sites(context, args)?;
    let others = sites.len() > 1;
    for site in &sites {
        let pulse = Pulse::default();
        match &args.wal_dir {
            Some(dir) => start_watching(*site, &sites, dir, &mut streams, pulse.clone(), stopping.clone()).await?,
            None => {
                by_engine!(site.source.engine, E => start::<E>(*site, others, &mut streams, pulse.clone(), stopping.clone()).await)?;
            }
        }
        pulses.push(pulse);
    }
    let manager = Manager::from_env();
    let names = sites.iter().map(|site| site.name).collect::<Vec<_>>().join(", ");
    manager.status(&format!("streaming {names}"));
    let outcome = tokio::select! {
        ended = first_end(&mut streams) => ended,
        _ = terminated.recv() => Ok(()),
        _ = interrupted.recv() => Ok(()),
        () = keep_alive(&manager, &pulses) => Ok(()),
    };
    manager.stopping();
    tracing::info!("ending: making durable what has arrived");
    // Nobody listens any more if all streams have ended already.
    let _ = stop.send(true);
    let finished = timeout(STREAM_STOP_TIMEOUT, all_end(&mut streams)).await;
    outcome?;
    finished.map_err(|_| too_slow())??;
    Ok(Report::new("pitr.stream/1", json!({ "sources": sites.iter().map(|site| site.name).collect::<Vec<_>>() }), ""))
}

/// Begins to stream one source.
async fn start<E: Product>(
    site: Site<'_>,
    others: bool,
    streams: &mut Streams,
    pulse: Pulse,
    stop: Stop,
) -> Result<(), Failure> {
    let archive = site.context.source(site.name, Purpose::Write).await?;
    let pace = Pace {
        flush_interval: site.source.flush_interval.map_or(FLUSH_INTERVAL, |interval| interval.0),
        segment_bytes: STREAM_SEGMENT_BYTES,
        segment_age: STREAM_SEGMENT_AGE,
    };
    let (upstream, name) = (E::upstream(site)?, site.name.to_owned());
    streams.spawn(async move {
        supervise(upstream, archive, pace, pulse, stop, others).await.during(format!("streaming {name}"))
    });
    Ok(())
}

/// Begins to watch the WAL directory of the one source that is named.
async fn start_watching(
    site: Site<'_>,
    sites: &[Site<'_>],
    dir: &Path,
    streams: &mut Streams,
    pulse: Pulse,
    stop: Stop,
) -> Result<(), Failure> {
    if sites.len() != 1 {
        return Err(Failure::new(ErrorKind::Usage, "a WAL directory is that of one source")
            .next("pitr stream SOURCE --wal-dir DIR"));
    }
    site.context.config.source_of(EngineKind::Postgres, Some(site.name))?;
    let archive = site.context.source(site.name, Purpose::Write).await?;
    let (dir, name) = (dir.to_owned(), site.name.to_owned());
    streams
        .spawn(async move { watch_directory(archive, dir, pulse, stop).await.during(format!("watching for {name}")) });
    Ok(())
}

/// A stream ends by itself only before its first connection, or when it dies.
async fn first_end(streams: &mut Streams) -> Result<(), Failure> {
    match streams.join_next().await {
        Some(ended) => ended.map_err(died)?,
        None => Ok(()),
    }
}

async fn all_end(streams: &mut Streams) -> Result<(), Failure> {
    while let Some(ended) = streams.join_next().await {
        ended.map_err(died)??;
    }
    Ok(())
}

/// Tells the service manager that the service is ready, and then that it is alive as long as every stream is. Never ends.
async fn keep_alive(manager: &Manager, pulses: &[Pulse]) {
    let watchdog = manager.watchdog().unwrap_or(Duration::MAX);
    let mut ticks = interval(PULSE_INTERVAL.min(watchdog / 4));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ready = false;
    loop {
        ticks.tick().await;
        if !ready && pulses.iter().all(Pulse::has_tried) {
            manager.ready();
            ready = true;
        }
        match pulses.iter().map(Pulse::silent_for).max() {
            Some(silence) if silence > watchdog / 2 => tracing::warn!(?silence, "an upload does not get on"),
            _ => manager.alive(),
        }
    }
}

async fn drop_slots(context: &Context, args: &Stream) -> Result<Report, Failure> {
    let mut text = String::new();
    for site in sites(context, args)?.into_iter().filter(|site| site.source.engine == EngineKind::Postgres) {
        let what = match PgUpstream::new(site)?.drop_slot().await.during(site.name)? {
            true => "slot dropped; the server keeps no log for it any more",
            false => "there was no slot",
        };
        text.push_str(&format!("{}: {what}\n", site.name));
    }
    Ok(Report::new("pitr.stream/1", json!({}), text))
}

fn too_slow() -> Failure {
    let seconds = STREAM_STOP_TIMEOUT.as_secs();
    Failure::new(ErrorKind::Unreachable, format!("not everything that had arrived was durable within {seconds} s"))
        .next("the next start reads it again from the server, as long as that keeps it")
}

fn no_signals(error: std::io::Error) -> Failure {
    Failure::new(ErrorKind::Failed, format!("cannot wait for signals: {error}"))
}

fn died(error: tokio::task::JoinError) -> Failure {
    Failure::new(ErrorKind::Failed, format!("a stream died: {error}"))
}
