//! Takes a directory as a base into a local archive, twice, and pours it out again; prints times and sizes.
//!
//! ```text
//! cargo run --release -p pitr-archive --example base_speed -- PGDATA ARCHIVE TARGET [encrypt] [rows]
//! ```
//! With `rows` the files are taken as a dump: cut by content, and compressed as rows are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use pitr_archive::base::{self, BaseOptions, BaseWriter, BaseWritten};
use pitr_archive::{Access, Archive, Identities, Objects, Store};
use pitr_core::ports::{BackupRecord, BaseReader, Chunking, PartInfo, PartKind, PartSink, PartTarget, PartWriter};
use pitr_core::{LineageId, PortError};

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data, archive, target, options @ ..] = arguments.as_slice() else {
        bail!("usage: base_speed PGDATA ARCHIVE TARGET [encrypt] [rows]");
    };
    let wants = |name: &str| options.iter().any(|option| option == name);
    let archive = create(Path::new(archive), wants("encrypt")).await?;
    for round in ["first base", "second base"] {
        let begin = Instant::now();
        let written = take(archive.objects(), Path::new(data), wants("rows")).await?;
        let seconds = begin.elapsed().as_secs_f64();
        println!(
            "{round}: {} parts, {} MB in {seconds:.2} s = {:.0} MB/s, stored {:.2} MB, reused {:.1} MB, peak {} kB",
            written.parts,
            written.base.bytes / 1_000_000,
            written.base.bytes as f64 / 1e6 / seconds,
            written.base.stored as f64 / 1e6,
            written.reused as f64 / 1e6,
            peak_kib()?
        );
        let source = archive.source("speed")?;
        if round == "second base" {
            let begin = Instant::now();
            let check = base::verify(&source, &written.base.id).await?;
            println!("verify: sound {} in {:.2} s", check.is_sound(), begin.elapsed().as_secs_f64());
            for pass in ["pour", "pour again"] {
                let begin = Instant::now();
                source.pour(&written.base.id, &|_| true, &Directory(PathBuf::from(target))).await?;
                println!("{pass}: {:.2} s, peak {} kB", begin.elapsed().as_secs_f64(), peak_kib()?);
            }
        }
    }
    Ok(())
}

async fn create(directory: &Path, encrypt: bool) -> Result<Archive> {
    std::fs::create_dir_all(directory)?;
    let directory = directory.canonicalize()?;
    let store = Store::open(&format!("file://{}", directory.display()), &BTreeMap::new())?;
    let identity = || Identities::from(age::x25519::Identity::generate());
    Ok(Archive::create(store, if encrypt { Access::reader(identity()) } else { Access::plain() }).await?)
}

async fn take(objects: &Objects, data: &Path, rows: bool) -> Result<BaseWritten<Place>> {
    let begin = chrono::Utc::now();
    let (chunking, options) = match rows {
        true => (Chunking::Content, BaseOptions::of_rows()),
        false => (Chunking::Fixed, BaseOptions::default()),
    };
    let writer = BaseWriter::begin(objects, "speed", &options).await?;
    let mut buffer = vec![0; 128 * 1024];
    let mut directories = vec![data.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            let name = path.strip_prefix(data)?.to_str().context("a name that is no text")?.to_owned();
            if name == "pg_wal" {
                continue;
            }
            if path.is_dir() {
                writer.open(PartInfo { path: name, kind: PartKind::Directory, mode: None }).await?;
                directories.push(path);
                continue;
            }
            let info = PartInfo { path: name, kind: PartKind::File(chunking), mode: Some(0o600) };
            let mut part = writer.open(info).await?;
            let mut file = File::open(&path)?;
            loop {
                let read = file.read(&mut buffer)?;
                let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
                part.write(bytes).await?;
            }
            part.finish().await?;
        }
    }
    let record = BackupRecord {
        lineage: LineageId::new("speed")?,
        start: Place(0),
        consistent: Place(1),
        taken: (begin, chrono::Utc::now()),
        facts: BTreeMap::new(),
    };
    Ok(writer.commit(record).await?)
}

/// A position that stands for none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
struct Place(u64);

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Place {
    type Err = pitr_core::ParsePositionError;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let bad = |_| pitr_core::ParsePositionError { text: text.to_owned(), expected: "a number" };
        text.parse().map(Self).map_err(bad)
    }
}

/// Writes parts below a directory.
struct Directory(PathBuf);

impl Directory {
    fn io<T>(outcome: std::io::Result<T>) -> std::result::Result<T, PortError> {
        outcome.map_err(|e| PortError::with_kind(pitr_core::ErrorKind::Failed, e))
    }

    fn file(&self, part: &PartInfo) -> std::result::Result<File, PortError> {
        Self::io(File::options().read(true).write(true).open(self.0.join(&part.path)))
    }
}

impl PartTarget for Directory {
    fn begin(&self, part: &PartInfo, bytes: u64) -> std::result::Result<(), PortError> {
        let path = self.0.join(&part.path);
        if part.kind == PartKind::Directory {
            return Self::io(std::fs::create_dir_all(path));
        }
        if let Some(parent) = path.parent() {
            Self::io(std::fs::create_dir_all(parent))?;
        }
        let file = Self::io(File::options().write(true).create(true).truncate(false).open(path))?;
        // Longer than the part: not what an interrupted restore leaves.
        if Self::io(file.metadata())?.len() > bytes { Self::io(file.set_len(bytes)) } else { Ok(()) }
    }

    fn read_at(&self, part: &PartInfo, offset: u64, len: usize) -> std::result::Result<Option<Vec<u8>>, PortError> {
        let file = self.file(part)?;
        if Self::io(file.metadata())?.len() < offset + len as u64 {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        Self::io(file.read_exact_at(&mut bytes, offset)).map(|()| Some(bytes))
    }

    fn write_at(&self, part: &PartInfo, offset: u64, bytes: &[u8]) -> std::result::Result<(), PortError> {
        Self::io(self.file(part)?.write_all_at(bytes, offset))
    }

    fn end(&self, _: &PartInfo) -> std::result::Result<(), PortError> {
        Ok(())
    }
}

/// Most memory that this process ever held, in KiB.
fn peak_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
