//! Replay: `pitr` is the replication source of the restored server.
//!
//! The server's own parallel applier does the work. It connects to us, asks for the log, and gets what the archive
//! holds, up to the cut and not a byte further; so it stops exactly there without being told where. [`replay`] is the
//! procedure; [`split`] decides what is sent, [`source`] speaks to the replica, [`target`] gives the orders.

mod answers;
mod error;
mod log;
mod login;
mod place;
mod source;
mod split;
mod target;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use pitr_core::ports::SegmentReader;
use tokio::net::TcpListener;
use tokio::time::Instant;

use self::answers::Identity;
pub use self::error::ReplayError;
pub use self::log::{Log, Piece};
use self::login::{Gate, Method};
pub use self::place::find as find_place;
use self::source::{Sent, Source};
pub use self::target::{Begin, Target};
use crate::LogFile;
use crate::error::Error;
use crate::event::{Checksum, Flavour};
use crate::gtid::{Gtid, GtidSet, MariaSet, MysqlSet};
use crate::limits::{REPLAY_CONNECT, REPLAY_POLL, REPLAY_QUIET, REPLAY_STALL};

/// How the log is replayed.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// The address under which the restored server reaches us.
    pub address: IpAddr,
    /// What the base has, in the words of the server; `None` where transactions have no names.
    pub base: Option<String>,
    /// Transactions that are left out.
    pub skip: HashSet<Gtid>,
    /// Where a replica begins whose transactions have no names.
    pub begin: Begin,
}

/// What a replay came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Bytes of log that were sent.
    pub bytes: u64,
    /// What the server has executed now; `None` where transactions have no names.
    pub executed: Option<GtidSet>,
    /// XA transactions that are prepared and wait for a decision.
    pub prepared: Vec<String>,
    /// Changes of definitions that had begun at the cut and not ended: nothing of them is there.
    pub changing: Vec<String>,
    /// Events that are marked as those of another server, as everything is that a replica is told of them.
    pub foreign_events: Vec<String>,
}

/// Replays the log into a restored server, and leaves it without a trace of replication.
pub async fn replay<R: SegmentReader>(
    mut target: Target<'_>,
    log: &Log,
    segments: &R,
    options: &ReplayOptions,
) -> Result<Replayed, Error> {
    let Some(first) = log.pieces.first() else { return finish(&mut target, Sent::default(), options).await };
    let bytes = segments.segment(&first.lineage, &first.name).await?;
    let bytes = bytes.ok_or_else(|| ReplayError::Gone(first.name.to_string()))?;
    let first_event = first.format(&bytes).ok_or(ReplayError::Torn { offset: first.offset })?;
    let format = log::format(&first_event)?;
    drop(bytes);
    let skip = as_set(&options.skip);
    if options.base.is_some() {
        target.pass_over(&skip).await?;
    }
    let listener = TcpListener::bind((options.address, 0)).await.map_err(ReplayError::Io)?;
    let address = listener.local_addr().map_err(ReplayError::Io)?;
    let gate = Gate {
        version: shown_version(&format.server_version),
        user: "pitr".to_owned(),
        password: hex::encode(rand::random::<[u8; 16]>()),
        method: if target.flavour == Flavour::Mysql { Method::CachingSha2 } else { Method::Native },
    };
    let named = options.base.is_some();
    let source = Source {
        log,
        segments,
        gate: gate.clone(),
        identity: Identity {
            // Above what people choose; equal to another one only by a very odd chance.
            server_id: rand::random_range(0x7000_0000..0x7fff_fffe),
            server_uuid: random_uuid(),
            gtid_mode: if named { "ON" } else { "OFF" },
            checksum: if format.checksum == Checksum::Crc32 { "CRC32" } else { "NONE" },
            now: || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        },
        skip: options.skip.clone(),
        base: maria(target.parse(options.base.as_deref().unwrap_or_default())?),
        collect: named.then(|| empty(target.flavour)),
        sent: Mutex::new(Sent::default()),
    };
    if let Begin::At { file, offset } = &options.begin {
        place::keep(&mut target, &(file.clone(), *offset)).await?;
    }
    target.prepare(address, &gate.user, &gate.password, &options.begin).await?;
    if !named {
        place::leave(&mut target).await?;
    }
    target.follow(&gate.user, &gate.password).await?;
    let sent = tokio::select! {
        served = source.serve(&listener) => match served? {},
        // Stopped while we still answer, so that the server's log ends without complaints.
        applied = async {
            let sent = wait(&mut target, &source.sent, options).await?;
            // Interrupted from here on, it would have nothing left to do, and know nothing of it.
            if !named && sent.bytes > 0 {
                place::keep(&mut target, &sent.to).await?;
            }
            target.forget().await?;
            Ok::<_, Error>(sent)
        } => applied?,
    };
    finish(&mut target, sent, options).await
}

/// Waits until all that was sent is applied.
async fn wait(target: &mut Target<'_>, sent: &Mutex<Sent>, options: &ReplayOptions) -> Result<Sent, Error> {
    let mut last = (Sent::default(), None);
    let (mut since, mut told) = (Instant::now(), 0);
    loop {
        tokio::time::sleep(REPLAY_POLL).await;
        let now = sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let status = target.status().await?;
        if let Some(failure) = status.failure {
            return Err(ReplayError::Replica(failure).into());
        }
        // It tries again by itself, but one that has never reached us never will.
        if let Some(why) = status.unreachable.filter(|_| now.bytes == 0 && since.elapsed() > REPLAY_CONNECT) {
            return Err(ReplayError::Unreachable(why).into());
        }
        if now.complete && is_applied(target, &now, status.applied.as_ref(), options).await? {
            return Ok(now);
        }
        let state = (now, status.applied);
        if state != last {
            (last, since, told) = (state, Instant::now(), 0);
        } else if since.elapsed() > REPLAY_STALL {
            return Err(ReplayError::Stalled(REPLAY_STALL.as_secs()).into());
        } else if since.elapsed().as_secs() / REPLAY_QUIET.as_secs() > told {
            told += 1;
            let (seconds, doing, at) = (since.elapsed().as_secs(), status.doing, &last.1);
            tracing::warn!(seconds, doing, ?at, "the restored server has not got on: one transaction may take long");
        }
    }
}

async fn is_applied(
    target: &mut Target<'_>,
    sent: &Sent,
    applied: Option<&(String, u64)>,
    options: &ReplayOptions,
) -> Result<bool, Error> {
    match expected(target, sent, options)? {
        // Of MariaDB only the last one of each domain is known, and its number may be lower than one before it.
        Some(expected @ GtidSet::Maria(_)) => Ok(expected == target.executed().await?),
        Some(expected) => Ok(expected.is_subset(&target.executed().await?)),
        None => Ok(sent.bytes == 0 || applied.is_some_and(|applied| reaches(applied, &sent.to))),
    }
}

/// What the server must have executed in the end; `None` where transactions have no names.
fn expected(target: &Target<'_>, sent: &Sent, options: &ReplayOptions) -> Result<Option<GtidSet>, Error> {
    let Some(base) = &options.base else { return Ok(None) };
    let mut all = target.parse(base)?;
    if let Some(seen) = &sent.seen {
        all = union(all, seen);
    }
    if target.flavour == Flavour::Mysql {
        all = union(all, &GtidSet::Mysql(as_set(&options.skip)));
    }
    Ok(Some(all))
}

/// Checks what was reached, and takes the configuration of replication away.
async fn finish(target: &mut Target<'_>, sent: Sent, options: &ReplayOptions) -> Result<Replayed, Error> {
    target.forget().await?;
    let executed = match expected(target, &sent, options)? {
        None => None,
        Some(expected) => {
            let executed = target.executed().await?;
            if executed != expected {
                let (executed, expected) = (executed.to_string(), expected.to_string());
                return Err(ReplayError::Reached { executed, expected }.into());
            }
            Some(executed)
        }
    };
    Ok(Replayed {
        bytes: sent.bytes,
        executed,
        prepared: target.prepared().await?,
        changing: sent.changing,
        foreign_events: target.foreign_events().await?,
    })
}

fn union(mut all: GtidSet, more: &GtidSet) -> GtidSet {
    match (&mut all, more) {
        (GtidSet::Mysql(all), GtidSet::Mysql(more)) => all.union(more),
        (GtidSet::Maria(all), GtidSet::Maria(more)) => more.iter().for_each(|gtid| all.insert(gtid)),
        // Of one server, so of one family.
        _ => {}
    }
    all
}

/// Those of MySQL; MariaDB's are left out of the log, and nothing takes their place.
fn as_set(gtids: &HashSet<Gtid>) -> MysqlSet {
    let mut set = MysqlSet::default();
    for gtid in gtids {
        if let Gtid::Mysql(gtid) = gtid {
            set.insert(gtid);
        }
    }
    set
}

/// What MySQL says is told apart by the names of transactions alone.
fn maria(set: GtidSet) -> MariaSet {
    match set {
        GtidSet::Maria(set) => set,
        GtidSet::Mysql(_) => MariaSet::default(),
    }
}

fn empty(flavour: Flavour) -> GtidSet {
    match flavour {
        Flavour::Mysql => GtidSet::Mysql(MysqlSet::default()),
        Flavour::Mariadb => GtidSet::Maria(MariaSet::default()),
    }
}

/// True if the first place is at or after the second one.
fn reaches(applied: &(String, u64), wanted: &(String, u64)) -> bool {
    let number = |name: &str| LogFile::parse(name).map(|file| file.number);
    (number(&applied.0), applied.1) >= (number(&wanted.0), wanted.1)
}

/// MariaDB 10 shows itself to replicas under a version that old ones understand.
fn shown_version(version: &str) -> String {
    if version.starts_with("10.") && version.contains("MariaDB") {
        format!("5.5.5-{version}")
    } else {
        version.to_owned()
    }
}

fn random_uuid() -> String {
    let hex = hex::encode(rand::random::<[u8; 16]>());
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}
