//! The spool of a recovery: whole segments, fetched ahead of the server that asks for them.
//!
//! A file has its final name only once it is complete, checked and synced. The directory belongs to one
//! lineage of one source of one archive, so whatever an earlier recovery left there is still right:
//! segments never change. It may have lain there for long, though, so the name ends in a checksum of the content
//! (`000000010000000000000003.1c291ca3`, CRC-32C), and what does not fit it any more is discarded, not delivered.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pitr_core::ErrorKind;

use crate::failure::Failure;
use crate::limits::CHECK_PIECE_BYTES;

/// Begin of the names of files that are still being written.
const UNFINISHED: &str = ".unfinished-";
/// Name of the lock file of the one prefetching process.
const LOCK: &str = ".lock";

/// A directory of prefetched segments.
#[derive(Debug, Clone)]
pub struct Spool {
    dir: PathBuf,
}

/// Held by the one process that fills a spool; released by the kernel when it ends, however it ends.
#[derive(Debug)]
pub struct Filling {
    _lock: File,
}

impl Spool {
    /// Opens or makes the directory; refuses one that other users could write to.
    pub fn open(dir: PathBuf) -> Result<Self, Failure> {
        let fault = |error: io::Error| failure(format!("cannot use spool {}: {error}", dir.display()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(fault)?;
        let meta = fs::symlink_metadata(&dir).map_err(fault)?;
        if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
            return Err(Failure::new(
                ErrorKind::Refused,
                format!("spool {} is not a directory of this user alone", dir.display()),
            )
            .next("remove it, or name another one with --spool"));
        }
        Ok(Self { dir })
    }

    /// True if the segment is here, complete.
    pub fn has(&self, name: &str) -> bool {
        !self.find(name).is_empty()
    }

    /// Files of a segment, with the checksum that each should have. More than one only if somebody else made them.
    fn find(&self, name: &str) -> Vec<(PathBuf, u32)> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let fitting = |entry: fs::DirEntry| {
            let file = entry.file_name();
            let checksum = checksum_in(file.to_str()?.strip_prefix(name)?.strip_prefix('.')?)?;
            Some((entry.path(), checksum))
        };
        entries.flatten().filter_map(fitting).collect()
    }

    /// Number of complete files.
    pub fn complete_files(&self) -> u32 {
        let Ok(entries) = fs::read_dir(&self.dir) else { return 0 };
        let complete = entries.flatten().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
        u32::try_from(complete.count()).unwrap_or(u32::MAX)
    }

    /// Moves a complete segment to `dest`; false if it is not here. One that was altered is discarded.
    pub fn take(&self, name: &str, dest: &Path) -> Result<bool, Failure> {
        for (path, expected) in self.find(name) {
            match checksum_of(&path) {
                Ok(found) if found == expected => return self.hand_over(&path, expected, dest),
                Ok(_) => tracing::warn!(path = %path.display(), "altered since it was fetched: it is fetched again"),
                // Another process may have forgotten it.
                Err(error) => tracing::debug!(%error, path = %path.display(), "cannot be read"),
            }
            remove(&path);
        }
        Ok(false)
    }

    fn hand_over(&self, path: &Path, checksum: u32, dest: &Path) -> Result<bool, Failure> {
        match fs::rename(path, dest) {
            Ok(()) => Ok(true),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && dest.parent().is_none_or(|dir| dir == Path::new("") || dir.exists()) =>
            {
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let bytes = fs::read(path).ok().filter(|bytes| crc32c::crc32c(bytes) == checksum);
                remove(path);
                bytes.map_or(Ok(false), |bytes| deliver(dest, &bytes).map(|()| true))
            }
            Err(error) => {
                Err(failure(format!("cannot move {} from the spool to {}: {error}", path.display(), dest.display())))
            }
        }
    }

    /// Stores a complete segment: written, synced, then renamed.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let unfinished = self.dir.join(format!("{UNFINISHED}{name}"));
        let complete = self.dir.join(format!("{name}.{:08x}", crc32c::crc32c(bytes)));
        write_synced(&unfinished, bytes)
            .and_then(|()| fs::rename(&unfinished, complete))
            .map_err(|error| failure(format!("cannot write {name} to spool {}: {error}", self.dir.display())))
    }

    /// The right to fill this spool; `None` while another process has it.
    pub fn try_fill(&self) -> Result<Option<Filling>, Failure> {
        let path = self.dir.join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|error| failure(format!("cannot open {}: {error}", path.display())))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Filling { _lock: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failure(format!("cannot lock {}: {error}", path.display()))),
        }
    }

    /// Removes segments of the timeline before `name`: the server never goes back. Also what a killed
    /// process left unfinished. The caller holds the right to fill.
    pub fn forget_before(&self, name: &str, _right: &Filling) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let file = entry.file_name();
            let Some(file) = file.to_str() else { continue };
            let segment = file.get(..name.len()).unwrap_or_default();
            let same_timeline = segment.get(..8) == name.get(..8);
            if file.starts_with(UNFINISHED) || (same_timeline && segment < name) {
                remove(&entry.path());
            }
        }
    }
}

/// A file that stays costs space, nothing else, and the next filling process tries again.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(%error, path = %path.display(), "could not remove a file from the spool");
    }
}

/// Eight hexadecimal digits, as [`Spool::put`] writes them.
fn checksum_in(text: &str) -> Option<u32> {
    let is_ours = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
    is_ours.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

fn checksum_of(path: &Path) -> io::Result<u32> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; CHECK_PIECE_BYTES];
    let mut checksum = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(checksum),
            read => checksum = crc32c::crc32c_append(checksum, &buffer[..read]),
        }
    }
}

/// Writes a file where the server wants it: complete, synced and renamed into place, or not at all.
pub fn deliver(dest: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut unfinished = dest.as_os_str().to_owned();
    unfinished.push(format!(".pitr-{}", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let written = write_synced(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, dest)).and_then(|()| {
        let dir = dest.parent().filter(|dir| *dir != Path::new("")).unwrap_or_else(|| Path::new("."));
        File::open(dir)?.sync_all()
    });
    written.map_err(|error| {
        // Best effort: what matters is the error itself.
        let _ = fs::remove_file(&unfinished);
        failure(format!("cannot write {}: {error}", dest.display()))
    })
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn failure(message: String) -> Failure {
    Failure::new(ErrorKind::Failed, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_taken_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path().join("spool")).unwrap();
        spool.put("000000010000000000000003", b"wal").unwrap();
        let dest = dir.path().join("RECOVERYXLOG");
        assert!(spool.take("000000010000000000000003", &dest).unwrap());
        assert_eq!(fs::read(&dest).unwrap(), b"wal");
        assert!(!spool.take("000000010000000000000003", &dest).unwrap());
    }

    #[test]
    fn what_was_altered_in_the_spool_is_discarded_and_never_delivered() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path().join("spool")).unwrap();
        let (name, dest) = ("000000010000000000000003", dir.path().join("RECOVERYXLOG"));
        let alterations: [fn(&Path); 3] = [
            |path| fs::write(path, b"wax").unwrap(),
            |path| File::options().write(true).open(path).unwrap().set_len(2).unwrap(),
            |path| fs::rename(path, path.with_extension("00000000")).unwrap(),
        ];
        for alter in alterations {
            spool.put(name, b"wal").unwrap();
            alter(&spool.find(name)[0].0);
            assert!(!spool.take(name, &dest).unwrap());
            assert!(!dest.exists() && !spool.has(name));
        }
        // Without a checksum in its name it is nobody's.
        fs::write(spool.dir.join(name), b"wal").unwrap();
        assert!(!spool.has(name) && !spool.take(name, &dest).unwrap());
    }

    #[test]
    fn only_one_process_fills_a_spool() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path().join("spool")).unwrap();
        let right = spool.try_fill().unwrap().unwrap();
        assert!(spool.try_fill().unwrap().is_none());
        drop(right);
        assert!(spool.try_fill().unwrap().is_some());
    }

    #[test]
    fn segments_behind_the_server_and_unfinished_files_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path().join("spool")).unwrap();
        for name in ["000000010000000000000003", "000000010000000000000005", "000000020000000000000003"] {
            spool.put(name, b"wal").unwrap();
        }
        fs::write(spool.dir.join(".unfinished-x"), b"half").unwrap();
        let right = spool.try_fill().unwrap().unwrap();
        spool.forget_before("000000010000000000000005", &right);
        assert!(!spool.has("000000010000000000000003") && spool.has("000000010000000000000005"));
        assert!(spool.has("000000020000000000000003") && !spool.dir.join(".unfinished-x").exists());
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(Spool::open(dir.path().to_owned()).unwrap_err().kind, ErrorKind::Refused);
    }
}
