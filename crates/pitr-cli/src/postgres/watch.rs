//! Archives completed WAL files as they appear in a server's `pg_wal`, where no hook may be set and no replication
//! connection is allowed.
//!
//! Nothing in the directory is ever changed: what the server does with its files, and when, stays its own business. So a
//! file may be gone before it was read; what is missing then shows as a gap.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use pitr_archive::SourceArchive;
use pitr_core::ErrorKind;
use pitr_postgres::limits::LONG_PAGE_HEADER;
use pitr_postgres::wal::PageHeader;
use pitr_postgres::{SegmentSize, WalFileName};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::failure::Failure;
use crate::limits::{WATCH_RESCAN, WATCH_SETTLE};
use crate::streaming::{Pulse, Stop, stopped};
use crate::verbs::wal_push;

/// Archives what is complete in `wal_dir`, and then whatever becomes complete, until told to end.
///
/// # Errors
/// Only if the directory cannot be read at the begin. Later faults are reported and tried again.
pub async fn watch(archive: SourceArchive, wal_dir: PathBuf, pulse: Pulse, mut stop: Stop) -> Result<(), Failure> {
    let (changed, mut changes) = mpsc::channel(1);
    let _watcher = watcher(&wal_dir, changed);
    let mut done = BTreeSet::new();
    let mut complete = list(&wal_dir)?;
    loop {
        pulse.beat();
        for name in complete.iter().filter(|name| !done.contains(*name)).cloned().collect::<Vec<_>>() {
            tokio::select! {
                () = stopped(&mut stop) => return Ok(()),
                archived = archive_file(&archive, &wal_dir, &name) => if archived { done.insert(name); },
            }
            pulse.beat();
        }
        pulse.tried();
        // What the server has removed need not be remembered.
        done.retain(|name| complete.contains(name));
        tokio::select! {
            () = stopped(&mut stop) => return Ok(()),
            () = next_look(&mut changes, &pulse) => {}
        }
        match list(&wal_dir) {
            Ok(names) => complete = names,
            Err(failure) => tracing::warn!(%failure, "cannot look into the WAL directory; trying again"),
        }
    }
}

/// Waits for a change, or for the time when missed ones are looked for anyway.
async fn next_look(changes: &mut mpsc::Receiver<()>, pulse: &Pulse) {
    let mut waited = Duration::ZERO;
    while waited < WATCH_RESCAN {
        pulse.beat();
        match timeout(WATCH_SETTLE * 10, changes.recv()).await {
            Ok(Some(())) => return sleep(WATCH_SETTLE).await,
            // Nobody tells of changes: the directory is looked at as often as is worth while.
            Ok(None) => sleep(WATCH_SETTLE * 10).await,
            Err(_) => {}
        }
        waited += WATCH_SETTLE * 10;
    }
}

/// True if the file is archived, or gone.
async fn archive_file(archive: &SourceArchive, wal_dir: &Path, name: &str) -> bool {
    let path = wal_dir.join(name);
    match wal_push::push(archive, &path).await {
        Ok(stored_bytes) => {
            tracing::info!(file = name, stored_bytes, "archived");
            true
        }
        Err(_) if !path.exists() => {
            tracing::warn!(file = name, "the server removed it before it could be archived");
            true
        }
        Err(failure) => {
            let next = failure.next.join("; ");
            tracing::warn!(file = name, %failure, next, "not archived; trying again");
            false
        }
    }
}

/// Tells of changes where the system can; without it, looking again and again does.
fn watcher(wal_dir: &Path, changed: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let tell = move |_event| {
        // One waiting change is as good as many.
        let _ = changed.try_send(());
    };
    let watched = notify::recommended_watcher(tell).and_then(|mut watcher| {
        watcher.watch(wal_dir, RecursiveMode::NonRecursive)?;
        let status = wal_dir.join("archive_status");
        if status.is_dir() {
            watcher.watch(&status, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    });
    watched.map_err(|error| tracing::warn!(%error, "cannot watch the WAL directory; looking every few seconds")).ok()
}

/// Files that are complete, in the order in which they are archived: histories first, then by name.
fn list(wal_dir: &Path) -> Result<Vec<String>, Failure> {
    let unreadable = |error: io::Error| {
        Failure::new(ErrorKind::Usage, format!("cannot read {}: {error}", wal_dir.display()))
            .next("give the server's pg_wal directory with --wal-dir, and run as a user that may read it")
    };
    let names = names_in(wal_dir).map_err(unreadable)?;
    let marked = match names_in(&wal_dir.join("archive_status")) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
        Err(error) => return Err(unreadable(error)),
    };
    let is_marked = |name: &str| [".ready", ".done"].iter().any(|mark| marked.contains(&format!("{name}{mark}")));
    let files: Vec<(String, WalFileName)> =
        names.into_iter().filter_map(|name| Some((name.clone(), name.parse().ok()?))).collect();
    let (mut complete, mut segments) = (Vec::new(), Vec::new());
    for (name, file) in &files {
        match file {
            // Written under another name, and complete once it has this one.
            WalFileName::History(_) => complete.push(name.clone()),
            WalFileName::Segment { partial: false, .. } if !is_marked(name) => {
                if is_followed(wal_dir, file, &files) {
                    segments.push(name.clone());
                }
            }
            WalFileName::Segment { .. } | WalFileName::Backup { .. } if is_marked(name) => segments.push(name.clone()),
            WalFileName::Segment { .. } | WalFileName::Backup { .. } => {}
        }
    }
    complete.extend(segments);
    Ok(complete)
}

/// A server that archives nothing leaves no marks. There a segment is complete when it is full, which the check of its
/// content tells, and a later one is being written. Names prove nothing: servers make files long before they use them.
fn is_followed(wal_dir: &Path, file: &WalFileName, files: &[(String, WalFileName)]) -> bool {
    let WalFileName::Segment { timeline, log, .. } = file else { return false };
    let later = files.iter().rev().filter(|(_, other)| {
        matches!(other, WalFileName::Segment { timeline: t, log: l, partial: false } if t == timeline && l > log)
    });
    later.into_iter().any(|(name, other)| is_in_use(&wal_dir.join(name), other))
}

/// True if the first page of a segment was written for the segment's own place in the log.
fn is_in_use(path: &Path, file: &WalFileName) -> bool {
    let WalFileName::Segment { timeline, log, .. } = file else { return false };
    let mut header = [0; LONG_PAGE_HEADER as usize];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    let header = read.ok().and_then(|()| PageHeader::parse(&header));
    let place = header.as_ref().and_then(|header| {
        let size = SegmentSize::new(u64::from(header.long?.segment_size))?;
        log.start(size)
    });
    header.is_some_and(|header| Some(header.address) == place && header.timeline <= *timeline)
}

fn names_in(dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}
