//! Real servers in temporary directories, and a base in memory.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pitr_core::ports::{BaseReader, Chunking, PartInfo, PartKind, PartSink, PartTarget, PartWriter, SegmentReader};
use pitr_core::{BaseId, ErrorKind, LineageId, PortError, SegmentName};
use pitr_postgres::base::KeyedDigest;
use pitr_postgres::connect::{Settings, SqlClient, sql_client};

/// Programs of the server that these tests run against: `PITR_TEST_PG_BIN`, or those of PostgreSQL 15.
pub fn bin() -> PathBuf {
    std::env::var_os("PITR_TEST_PG_BIN").map_or_else(|| "/usr/lib/postgresql/15/bin".into(), PathBuf::from)
}

/// Their major version.
pub fn major() -> u32 {
    major_of(&bin())
}

fn major_of(bin: &Path) -> u32 {
    let output = Command::new(bin.join("postgres")).arg("-V").output().expect("PostgreSQL is installed");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(' ').nth(2).unwrap().split('.').next().unwrap().trim().parse().unwrap()
}

/// A digest that is good enough for a name.
pub fn digest() -> KeyedDigest {
    Arc::new(|bytes| {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&crc32c::crc32c(bytes).to_be_bytes());
        digest
    })
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a program of the server as a user that is not root.
pub fn as_server_user(program: impl AsRef<Path>, arguments: &[&str]) -> Output {
    let program = program.as_ref().to_str().unwrap();
    let mut command = if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--", program]);
        command
    } else {
        Command::new(program)
    };
    let output = command.args(arguments).current_dir("/tmp").output().expect("the program starts");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A temporary directory that the server's user owns.
pub fn scratch() -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("pitr-io-").tempdir_in("/tmp").unwrap();
    give_to_server_user(directory.path());
    directory
}

pub fn give_to_server_user(path: &Path) {
    if is_root() {
        let status = Command::new("chown").args(["-R", "postgres:"]).arg(path).status().unwrap();
        assert!(status.success());
    }
}

/// A fresh cluster with page checksums, copied for each server, since initdb is the slowest part of these tests. Kept
/// between runs under a fixed name, which it gets once it is complete.
fn template(bin: &Path) -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MAKING.lock().unwrap();
    let user = rustix::process::geteuid().as_raw();
    let ready = std::env::temp_dir().join(format!("pitr-test-cluster-{}-{user}", major_of(bin)));
    if !ready.exists() {
        let fresh = scratch();
        let data = fresh.path().join("data");
        let data = data.to_str().unwrap();
        as_server_user(bin.join("initdb"), &["-k", "-N", "-A", "trust", "-U", "postgres", "-D", data]);
        // Another process may have been faster; its cluster is as good.
        if let Err(error) = std::fs::rename(data, &ready) {
            assert!(ready.exists(), "{error}");
        }
    }
    ready
}

/// A running server.
pub struct Server {
    pub root: tempfile::TempDir,
    pub bin: PathBuf,
    pub port: u16,
}

impl Server {
    /// Starts a server that archives into a directory with `cp`.
    pub fn start() -> Self {
        Self::start_with(&bin(), "", "local all all trust\nlocal replication all trust\n")
    }

    /// Starts a server of some version, with lines for `postgresql.conf` and all of `pg_hba.conf`.
    pub fn start_with(bin: &Path, conf: &str, hba: &str) -> Self {
        let server = Self { root: scratch(), bin: bin.to_owned(), port: free_port() };
        let (data, archive) = (server.data(), server.archive());
        as_server_user("/bin/cp", &["-a", template(bin).to_str().unwrap(), data.to_str().unwrap()]);
        as_server_user("/bin/mkdir", &[archive.to_str().unwrap()]);
        let settings = format!(
            "\nport = {}\nunix_socket_directories = '{}'\nfsync = off\narchive_mode = on\n\
             archive_command = 'cp %p {}/%f'\nmax_wal_senders = 4\nlog_line_prefix = ''\n{conf}\n",
            server.port,
            server.root.path().display(),
            archive.display()
        );
        let path = data.join("postgresql.conf");
        let before = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, before + &settings).unwrap();
        std::fs::write(data.join("pg_hba.conf"), hba).unwrap();
        give_to_server_user(server.root.path());
        server.pg_ctl(&["start", "-w", "-l", server.root.path().join("log").to_str().unwrap()]);
        server
    }

    pub fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub fn archive(&self) -> PathBuf {
        self.root.path().join("archive")
    }

    pub fn settings(&self) -> Settings {
        Settings::unix(self.root.path(), self.port, "postgres")
    }

    pub async fn sql(&self) -> SqlClient {
        sql_client(&self.settings()).await.unwrap()
    }

    pub fn pg_ctl(&self, arguments: &[&str]) {
        let data = self.data();
        as_server_user(self.bin.join("pg_ctl"), &[&["-D", data.to_str().unwrap()], arguments].concat());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        stop(&self.bin, &self.data());
    }
}

/// Stops the server of a directory, if there is one.
pub fn stop(bin: &Path, data: &Path) {
    if data.join("postmaster.pid").exists() {
        as_server_user(bin.join("pg_ctl"), &["-D", data.to_str().unwrap(), "stop", "-m", "immediate", "-w"]);
    }
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

type Parts = Arc<Mutex<BTreeMap<String, (PartInfo, Vec<u8>)>>>;

/// A base in memory: takes parts and gives them back.
#[derive(Default)]
pub struct MemoryBase {
    pub parts: Parts,
    /// Fails after this many delivered files, once: an interruption.
    pub interrupt_after: Mutex<Option<usize>>,
    /// Paths of the files whose content was written during the last pour.
    pub delivered: Mutex<Vec<String>>,
}

impl MemoryBase {
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        self.parts.lock().unwrap().get(path).map(|(_, content)| content.clone())
    }

    pub fn paths(&self) -> Vec<String> {
        self.parts.lock().unwrap().keys().cloned().collect()
    }

    pub fn put(&self, path: &str, content: &[u8]) {
        let info = PartInfo { path: path.to_owned(), kind: PartKind::File(Chunking::Fixed), mode: Some(0o600) };
        self.parts.lock().unwrap().insert(path.to_owned(), (info, content.to_vec()));
    }

    pub fn remove(&self, path: &str) {
        self.parts.lock().unwrap().remove(path);
    }
}

pub struct MemoryPart {
    parts: Parts,
    info: PartInfo,
    content: Vec<u8>,
}

impl PartSink for MemoryBase {
    type Part = MemoryPart;

    async fn open(&self, part: PartInfo) -> Result<MemoryPart, PortError> {
        let mut parts = self.parts.lock().unwrap();
        assert!(!parts.contains_key(&part.path), "{} twice", part.path);
        parts.insert(part.path.clone(), (part.clone(), Vec::new()));
        Ok(MemoryPart { parts: Arc::clone(&self.parts), info: part, content: Vec::new() })
    }
}

impl PartWriter for MemoryPart {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), PortError> {
        self.content.extend_from_slice(bytes);
        Ok(())
    }

    async fn finish(self) -> Result<u64, PortError> {
        let length = self.content.len() as u64;
        self.parts.lock().unwrap().insert(self.info.path.clone(), (self.info, self.content));
        Ok(length)
    }
}

impl BaseReader for MemoryBase {
    async fn pour<T: PartTarget>(
        &self,
        _base: &BaseId,
        wanted: &(dyn Fn(&PartInfo) -> bool + Sync),
        into: &T,
    ) -> Result<(), PortError> {
        let parts: Vec<_> = self.parts.lock().unwrap().values().filter(|(info, _)| wanted(info)).cloned().collect();
        let mut delivered = Vec::new();
        for (info, content) in parts {
            let interrupted = self.interrupt_after.lock().unwrap().take_if(|left| *left == delivered.len());
            if interrupted.is_some() {
                return Err(PortError::with_kind(ErrorKind::Unreachable, "interrupted"));
            }
            into.begin(&info, content.len() as u64)?;
            if info.kind != PartKind::Directory {
                deliver(&info, &content, into, &mut delivered)?;
            }
            into.end(&info)?;
        }
        *self.delivered.lock().unwrap() = delivered;
        Ok(())
    }

    async fn small_part(&self, _base: &BaseId, path: &str) -> Result<Option<Bytes>, PortError> {
        Ok(self.content(path).map(Bytes::from))
    }
}

/// Delivers a file in pieces, last one first, leaving out what is there already.
fn deliver<T: PartTarget>(
    info: &PartInfo,
    content: &[u8],
    into: &T,
    delivered: &mut Vec<String>,
) -> Result<(), PortError> {
    const PIECE: usize = 100_000;
    let mut written = content.is_empty();
    for (number, piece) in content.chunks(PIECE).enumerate().rev() {
        let offset = (number * PIECE) as u64;
        if into.read_at(info, offset, piece.len())?.as_deref() != Some(piece) {
            into.write_at(info, offset, piece)?;
            written = true;
        }
    }
    if written {
        delivered.push(info.path.clone());
    }
    Ok(())
}

impl SegmentReader for MemoryBase {
    async fn segment(&self, _lineage: &LineageId, _name: &SegmentName) -> Result<Option<Bytes>, PortError> {
        Ok(None)
    }
}
