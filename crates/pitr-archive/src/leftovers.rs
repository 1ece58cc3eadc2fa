//! What a killed writer leaves in a directory: temporary files beside the object that it was creating.
//!
//! Object stores keep nothing of an upload that was not finished. A directory does: see
//! [`LocalStore`](crate::local::LocalStore). No listing shows such a file, so it only costs space.

use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::store::Store;

/// Removes the temporary files of a local archive that are older than `age`; returns their number.
///
/// None of a running writer is: a file has its temporary name for as long as it takes to write and sync it. What
/// another sweep removes at the same time is no error. Other stores have no such files, and the answer is 0.
pub async fn sweep(store: &Store, age: Duration) -> io::Result<u64> {
    let Some(root) = store.directory() else { return Ok(0) };
    let Some(limit) = SystemTime::now().checked_sub(age) else { return Ok(0) };
    tokio::task::spawn_blocking(move || sweep_directory(&root, limit)).await?
}

fn sweep_directory(directory: &Path, limit: SystemTime) -> io::Result<u64> {
    let mut removed = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            removed += unless_gone(sweep_directory(&entry.path(), limit))?.unwrap_or(0);
        } else if kind.is_file()
            && is_temporary(&entry)
            && unless_gone(entry.metadata())?.is_some_and(|meta| meta.modified().is_ok_and(|at| at < limit))
        {
            removed += u64::from(unless_gone(fs::remove_file(entry.path()))?.is_some());
        }
    }
    Ok(removed)
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// `NAME#DIGITS`: no key of an object has a `#`.
fn is_temporary(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let digits = name.to_str().and_then(|name| name.rsplit_once('#')).map(|(_, digits)| digits);
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const DAY: Duration = Duration::from_secs(86_400);

    fn write(path: &Path, age: Duration) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "half an object").unwrap();
        fs::File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }

    #[tokio::test]
    async fn only_old_temporary_files_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("ar chive");
        let at = |name: &str| root.join("s/main/log").join(name);
        let kept = ["000000010000000000000003", "a#b", "#", "a#", "young#123"];
        for name in kept {
            write(&at(name), if name.starts_with("young") { DAY / 2 } else { DAY * 9 });
        }
        for name in ["000000010000000000000003#18446744073709551615", "deep/er/pack#1"] {
            write(&at(name), DAY * 2);
        }
        let store = Store::open(&format!("file://{}", root.display()), &BTreeMap::new()).unwrap();
        assert_eq!(sweep(&store, DAY).await.unwrap(), 2);
        assert_eq!(sweep(&store, DAY).await.unwrap(), 0);
        assert!(kept.iter().all(|name| at(name).exists()));
        assert!(!at("deep/er/pack#1").exists());
    }

    #[tokio::test]
    async fn a_store_that_is_no_directory_has_nothing_to_sweep() {
        assert_eq!(sweep(&Store::memory(), DAY).await.unwrap(), 0);
    }
}
