//! What goes on beside a test: an eye on the archive, and a hunt for processes that no wrapper can reach.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::RngExt;
use rand::rngs::StdRng;

/// Every object with inode, length and time of change of content: what any overwriting would alter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing(BTreeMap<PathBuf, (u64, u64, i64, i64)>);

impl Listing {
    /// As the archive is now.
    pub fn of(archive: &Path) -> Self {
        let mut found = Self::default();
        found.add(archive);
        found
    }

    /// What goes away meanwhile is a temporary file.
    fn add(&mut self, dir: &Path) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
            if meta.is_dir() {
                self.add(&path);
            } else if !path.to_string_lossy().contains('#') {
                self.0.insert(path, (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()));
            }
        }
    }
}

/// Looks at the archive all the time; an object that changes or goes is an error at the end.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<usize>>,
}

impl Watch {
    /// Begins, on a thread of its own.
    pub fn begin(archive: &Path) -> Self {
        let (stop, archive) = (Arc::new(AtomicBool::new(false)), archive.to_owned());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut before = Listing::default();
            loop {
                let last = stopped.load(Ordering::Relaxed);
                let now = Listing::of(&archive);
                for (path, meta) in &before.0 {
                    ensure!(now.0.get(path) == Some(meta), "{} changed or went away", path.display());
                }
                if last {
                    return Ok(now.0.len());
                }
                before = now;
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { stop, thread }
    }

    /// Number of objects, if none was altered.
    pub fn end(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watch panicked")
    }
}

/// Kills every prefetching process of one spool a random while after it began.
pub struct Hunt {
    stop: Arc<AtomicBool>,
    killed: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
}

impl Hunt {
    /// Begins, on a thread of its own.
    pub fn begin(spool: PathBuf, mut rng: StdRng) -> Self {
        let (stop, killed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), killed.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for pid in prefetching(&spool) {
                    std::thread::sleep(Duration::from_millis(rng.random_range(0..20)));
                    // It may have ended by now.
                    let killed = std::process::Command::new("kill").args(["-9", &pid]).output();
                    count.fetch_add(usize::from(killed.is_ok_and(|out| out.status.success())), Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(rng.random_range(5..60)));
            }
        });
        Self { stop, killed, thread }
    }

    /// Number of processes killed.
    pub fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the hunt panicked");
        self.killed.load(Ordering::Relaxed)
    }
}

fn prefetching(spool: &Path) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = processes.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let ours = |pid: &String| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("\0prefetch\0") && line.contains(&*spool.to_string_lossy())
    };
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).filter(ours).collect()
}
