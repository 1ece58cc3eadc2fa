//! Files that must be there whole after a crash, or not at all: an identity without which nothing can be restored, and
//! the configuration that names it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Makes a new file. One that exists is an error, and is left as it is.
pub fn create(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".new-{}", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let made = write(&unfinished, mode, text).and_then(|()| name(&unfinished, path));
    // It has its own name now, or there is none.
    let _ = fs::remove_file(&unfinished);
    made?;
    let directory = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or_else(|| Path::new("."));
    File::open(directory)?.sync_all()
}

fn name(unfinished: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(unfinished, path) {
        // A memory stick has no links: there the name is only looked at before.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && path.symlink_metadata().is_err() => {
            fs::rename(unfinished, path)
        }
        linked => linked,
    }
}

fn write(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_made_once_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.txt");
        create(&path, 0o600, "first").unwrap();
        assert_eq!(create(&path, 0o600, "second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
