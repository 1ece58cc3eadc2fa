//! The cluster that both sides protect.

use std::path::PathBuf;

use anyhow::Result;
use integration_tests::{Pitr, Postgres, Scratch, Setup, succeed};

use crate::Options;
use crate::peer::Peer;

/// Level of zstd of the peer, and of our bases.
pub const PEER_LEVEL: i32 = 3;

/// A running server, both programs set up for it, and a directory with raw copies of its log.
pub struct Cluster<'s> {
    /// Everything lies in here.
    pub scratch: &'s Scratch,
    /// The server.
    pub server: Postgres,
    /// Ours; its archive receives the log.
    pub pitr: Pitr,
    /// pgBackRest; its repository receives the log.
    pub peer: Peer<'s>,
    /// Raw copies of the log.
    pub raw: PathBuf,
}

impl<'s> Cluster<'s> {
    /// Makes and fills it: three fifths pgbench tables, three tenths text, one tenth that no program can compress.
    pub async fn create(scratch: &'s Scratch, options: &Options) -> Result<Self> {
        let config = [
            "shared_buffers = 512MB",
            "max_wal_size = 4GB",
            "checkpoint_timeout = 1h",
            "fsync = off",
            "wal_keep_size = 0",
        ];
        let setup = Setup { config: config.map(str::to_owned).to_vec(), ..Setup::default() };
        let mut server = Postgres::create(scratch, "primary", &setup)?;
        let pitr = Pitr::in_directory(scratch, &server, options.encrypted)?;
        pitr.run(["init"])?.ok()?;
        server.configure(["archive_command = 'true'"])?;
        server.start().await?;
        let peer = Peer::create(scratch, &server, "peer", PEER_LEVEL)?;
        fill(&server, options.size_mib).await?;
        let raw = scratch.make("raw")?;
        let (ours, theirs) = (pitr.push_command(), peer.push_command());
        let command = format!("archive_command = 'cp %p {}/%f && {ours} && {theirs}'", raw.display());
        server.configure([command.as_str()])?;
        server.reload()?;
        server.archive_everything().await?;
        Ok(Self { scratch, server, pitr, peer, raw })
    }

    /// What was measured on what, for the head of the table.
    pub async fn describe(&self) -> Result<String> {
        let bytes: u64 = self.server.value("SELECT sum(pg_database_size(oid)) FROM pg_database").await?.parse()?;
        let version = self.server.value("current_setting('server_version')").await?;
        let cores = std::thread::available_parallelism()?;
        Ok(format!(
            "PostgreSQL {version}, cluster of {} MB, {cores} cores, {} at zstd {PEER_LEVEL}, pitr at zstd 3 for bases and 1 for log, \
             both into a local directory.",
            bytes / 1_000_000,
            self.peer.version()?
        ))
    }

    /// Writes about this much log, and archives it.
    pub async fn write_log(&self, mib: u64) -> Result<()> {
        write_log(&self.server, mib).await?;
        self.server.archive_everything().await
    }
}

/// Writes about this much log: small transactions in turn with large ones. The server's disk is not what is measured.
pub async fn write_log(server: &Postgres, mib: u64) -> Result<()> {
    let start = server.value("SELECT pg_current_wal_insert_lsn()").await?;
    for round in 0.. {
        let mut pgbench = server.program("pgbench");
        pgbench.env("PGOPTIONS", "-c synchronous_commit=off").args(["-n", "-c", "4", "-j", "2", "-T", "2"]);
        succeed(pgbench.arg(server.url()))?;
        let some = format!("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 16 = {}", round % 16);
        server.execute(&some).await?;
        let written = format!("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '{start}')::bigint / 1048576");
        if server.value(&written).await?.parse::<u64>()? >= mib {
            break;
        }
    }
    Ok(())
}

async fn fill(server: &Postgres, mib: u64) -> Result<()> {
    // One unit of pgbench is 15 MiB with its index.
    let mut pgbench = server.program("pgbench");
    let scale = (mib * 6 / 10 / 15).max(1).to_string();
    succeed(pgbench.args(["-i", "-q", "-s", &scale]).arg(server.url()))?;
    let texts = mib * 3 / 10 * 1_048_576 / 230;
    let blobs = mib / 10 * 1_048_576 / 1_050;
    server
        .execute(&format!(
            "CREATE EXTENSION pgcrypto; \
             CREATE TABLE texts AS SELECT n AS id, 'order ' || n || ' of customer ' || n % 1000 AS title, \
             md5(n::text) || ' ' || md5((n * 7)::text) || repeat(' the same words again', 4) AS body \
             FROM generate_series(1, {texts}) n; \
             CREATE TABLE blobs AS SELECT n AS id, gen_random_bytes(1000) AS body FROM generate_series(1, {blobs}) n; \
             ANALYZE"
        ))
        .await?;
    // What the server does by itself after a load is done now: a cluster that nobody writes to does not change.
    server.execute("VACUUM (FREEZE, ANALYZE)").await?;
    server.execute("CHECKPOINT").await
}
