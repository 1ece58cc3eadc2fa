//! One source, for as long as the service runs: connects, waits, connects again, and records gaps.

use pitr_archive::SourceArchive;
use pitr_core::Engine;
use pitr_core::ports::LogStream;
use tokio::sync::watch;
use tokio::time::sleep;

use super::backoff::Backoff;
use super::pump::{End, Pump};
use super::{Pace, Pulse, Stop, Upstream, stopped};
use crate::failure::Failure;

/// Streams one source until it is told to end. `others` says whether the same process streams more of them.
///
/// # Errors
/// Only before the first connection, and without others: what is wrong then is wrong in the configuration or refused for
/// good, and somebody is looking. Later the service goes on trying, whatever happens, for its log may be the only copy;
/// and others must not lose theirs for the mistake of one.
pub async fn supervise<U: Upstream>(
    mut upstream: U,
    archive: SourceArchive,
    pace: Pace,
    pulse: Pulse,
    mut stop: Stop,
    others: bool,
) -> Result<(), Failure> {
    let source = archive.name().as_str().to_owned();
    let mut backoff = Backoff::default();
    let mut connected = false;
    loop {
        pulse.beat();
        let outcome = session(&mut upstream, &archive, pace, &pulse, &mut stop, &mut backoff, &mut connected).await;
        pulse.tried();
        match outcome {
            Ok(End::Stopped) => return Ok(()),
            Ok(End::Lineage) => tracing::info!(source, "this history ended; following the next one"),
            Ok(End::Removed(removed)) => {
                if let Err(failure) = record_gap(&mut upstream, &archive, &removed).await {
                    tracing::warn!(source, %failure, "could not find out how much log is lost");
                }
            }
            Err(failure) if !connected && !failure.kind.is_retryable() => {
                if !others {
                    return Err(failure);
                }
                let next = failure.next.join("; ");
                tracing::error!(source, %failure, next, "NOT streaming this source; it will be tried again");
            }
            Err(failure) => {
                let next = failure.next.join("; ");
                tracing::warn!(source, %failure, next, "the stream was interrupted and will be begun again");
            }
        }
        tokio::select! {
            () = stopped(&mut stop) => return Ok(()),
            () = wait(&mut backoff, &pulse) => {}
        }
    }
}

/// One connection, from its begin to its end.
async fn session<U: Upstream>(
    upstream: &mut U,
    archive: &SourceArchive,
    pace: Pace,
    pulse: &Pulse,
    stop: &mut Stop,
    backoff: &mut Backoff,
    connected: &mut bool,
) -> Result<End, Failure> {
    let (durable, watched) = watch::channel(None);
    let stream = tokio::select! {
        () = stopped(stop) => return Ok(End::Stopped),
        stream = upstream.connect(archive, watched) => stream?,
    };
    *connected = true;
    pulse.tried();
    let open = stream.open();
    tracing::info!(
        source = archive.name().as_str(),
        lineage = %stream.lineage(),
        from = %open.start,
        "streaming"
    );
    let end = Pump::new(stream, archive, pace, pulse, &durable).run(stop).await;
    // Progress proves that both ends work, whatever ended it.
    if durable.borrow().is_some() {
        backoff.reset();
    }
    end
}

/// Waits in short steps, each a sign of life.
async fn wait(backoff: &mut Backoff, pulse: &Pulse) {
    let pause = backoff.pause();
    sleep(pause).await;
    pulse.beat();
}

/// Makes the loss a gap with its cause, so that the stream can go on behind it.
async fn record_gap<U: Upstream>(upstream: &mut U, archive: &SourceArchive, removed: &Failure) -> Result<(), Failure> {
    let gap = upstream.lost(archive, removed).await?;
    archive.put_gap(&gap).await?;
    let source = archive.name().as_str();
    let before = gap.before.as_ref().map(ToString::to_string).unwrap_or_default();
    tracing::error!(
        source,
        engine = <U::Engine as Engine>::NAME,
        lineage = %gap.lineage,
        after = %gap.after,
        before,
        cause = %gap.cause,
        next = format!("pitr backup {source}"),
        "log is lost: nothing behind the gap can be restored before a new base is taken"
    );
    Ok(())
}
