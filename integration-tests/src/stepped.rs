//! A small archive that is known segment by segment: one row in each.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{Pitr, Postgres, Scratch, Setup};

/// A server, its archive with one base, and the segments after it. Row `n` of table `step` was committed in
/// `segments[n - 1]`.
#[derive(Debug)]
pub struct Stepped {
    /// The server; running.
    pub server: Postgres,
    /// The program, with the archive of the server.
    pub pitr: Pitr,
    /// Names of the segments, in order.
    pub segments: Vec<String>,
    /// Time of the commit of each row, as the server gives it.
    pub times: Vec<String>,
    /// Where everything is; last, so that the server ends before its directory.
    pub scratch: Scratch,
}

/// A file or directory of the archive or the configuration that a test took away or replaced.
#[derive(Debug)]
#[must_use = "the fault stays until it is repaired"]
pub struct Fault {
    path: PathBuf,
    saved: PathBuf,
}

impl Stepped {
    /// Makes the server with small segments, an encrypted archive and a base, and writes the rows.
    pub async fn new(label: &str, rows: u32) -> Result<Self> {
        let scratch = Scratch::new(label)?;
        let mut server = Postgres::create(&scratch, "primary", &Setup { segment_mib: 1, ..Setup::default() })?;
        let pitr = Pitr::local(&scratch, &server)?;
        server.configure(["track_commit_timestamp = on"])?;
        server.archive_with(&pitr)?;
        server.start().await?;
        server.execute("CREATE TABLE step (n int)").await?;
        pitr.run(["init"])?.ok()?;
        pitr.run(["backup", "main"])?.ok()?;
        let mut stepped = Self { server, pitr, segments: Vec::new(), times: Vec::new(), scratch };
        for _ in 0..rows {
            stepped.step().await?;
        }
        stepped.server.archive_everything().await?;
        Ok(stepped)
    }

    /// Writes the next row and closes its segment.
    pub async fn step(&mut self) -> Result<()> {
        let row = self.segments.len() + 1;
        self.server.execute(&format!("INSERT INTO step VALUES ({row})")).await?;
        let time =
            "SELECT to_char(pg_xact_commit_timestamp(xmin) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
        self.times.push(self.server.value(&format!("{time} FROM step WHERE n = {row}")).await?);
        self.segments.push(self.server.value("SELECT pg_walfile_name(pg_switch_wal())").await?);
        Ok(())
    }

    /// Name of the segment of a row, counted from 1.
    pub fn segment(&self, row: usize) -> Result<&str> {
        self.segments.get(row.wrapping_sub(1)).map(String::as_str).with_context(|| format!("there is no row {row}"))
    }

    /// The object of a segment in the archive.
    pub fn object(&self, segment: &str) -> Result<PathBuf> {
        let objects = self.objects()?;
        let found = objects.into_iter().find(|path| path.file_name().is_some_and(|name| name == segment));
        found.with_context(|| format!("{segment} is not in the archive"))
    }

    /// All objects of segments, in the order of their names.
    pub fn objects(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        collect(&self.pitr.archive()?.join(format!("s/{}/log", crate::SOURCE)), &mut files)?;
        files.retain(|path| path.file_name().is_some_and(|name| name.len() == 24));
        files.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
        Ok(files)
    }

    /// Takes a file or directory away.
    pub fn take_away(&self, path: &Path) -> Result<Fault> {
        let saved = self.scratch.path().join("taken-away");
        ensure!(!saved.exists(), "only one fault at a time");
        fs::rename(path, &saved).with_context(|| format!("cannot move {}", path.display()))?;
        Ok(Fault { path: path.to_owned(), saved })
    }

    /// Puts other bytes in the place of a file, with its owner.
    pub fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Fault> {
        let fault = self.take_away(path)?;
        let owner = fs::metadata(&fault.saved)?;
        fs::write(path, bytes)?;
        chown(path, Some(owner.uid()), Some(owner.gid()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        Ok(fault)
    }
}

impl Fault {
    /// Puts back what was there.
    pub fn repair(self) -> Result<()> {
        fs::rename(&self.saved, &self.path).with_context(|| format!("cannot put {} back", self.path.display()))
    }
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
