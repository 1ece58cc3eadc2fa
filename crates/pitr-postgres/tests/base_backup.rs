//! Base backups of a real server.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod support_io;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pitr_core::{Classify, ErrorKind};
use pitr_postgres::base::{BackupLabel, PgBaseBackup, SourceSettings, fact};
use pitr_postgres::replication::{BackupOptions, ReplicationClient};
use support_io::{MemoryBase, Server, as_server_user, digest, major, scratch};

const FAST: BackupOptions = BackupOptions { fast_checkpoint: true, max_rate: None };

/// Writes the data directory's files of a base to a directory.
fn unpack(base: &MemoryBase, into: &Path) {
    for (info, content) in base.parts.lock().unwrap().values() {
        let path = info.path.strip_prefix("base/").unwrap_or(&info.path);
        let path = into.join(path);
        if info.kind == pitr_core::ports::PartKind::Directory {
            std::fs::create_dir_all(&path).unwrap();
        } else {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
}

#[tokio::test]
async fn a_base_is_what_pg_verifybackup_expects() {
    let server = Server::start();
    let sql = server.sql().await;
    sql.batch_execute("CREATE TABLE t AS SELECT g, repeat('x', 500) FROM generate_series(1, 5000) g").await.unwrap();
    let base = MemoryBase::default();
    let seen = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&seen);
    let backup = PgBaseBackup::new(server.settings(), FAST, digest())
        .on_progress(Arc::new(move |progress| counter.store(progress.done, Ordering::Relaxed)));
    let (record, report) = backup.run(&base).await.unwrap();

    assert!(seen.load(Ordering::Relaxed) > report.bytes, "the manifest counts as well");
    assert!(record.start < record.consistent, "{record:?}");
    assert_eq!(record.lineage.to_string(), format!("{}.00000001", report.identity.system_id));
    assert_eq!(record.facts[fact::DATA_CHECKSUMS], "on");
    assert_eq!(record.facts[fact::FROM], "primary");
    assert_eq!((report.damaged.len(), report.warnings.len(), report.history), (0, 0, None));
    let label = BackupLabel::parse(std::str::from_utf8(&base.content("base/backup_label").unwrap()).unwrap()).unwrap();
    assert_eq!(label.start, record.start.lsn);
    let settings: SourceSettings = serde_json::from_slice(&base.content(SourceSettings::PART).unwrap()).unwrap();
    assert_eq!((settings.version_num / 10_000, settings.settings["max_wal_senders"].as_str()), (major(), "4"));
    assert!(base.content("backup_manifest").unwrap().starts_with(b"{ \"PostgreSQL-Backup-Manifest-Version\""));

    let verifier = server.bin.join("pg_verifybackup");
    if major() != 15 && !verifier.exists() {
        // The packages of other versions have no client programs; what arrived was compared with the manifest.
        return;
    }
    let directory = scratch();
    unpack(&base, directory.path());
    std::fs::remove_dir_all(directory.path().join("pitr")).unwrap();
    support_io::give_to_server_user(directory.path());
    as_server_user(verifier, &["-n", directory.path().to_str().unwrap()]);
}

#[tokio::test]
async fn the_replication_client_knows_the_server() {
    let server = Server::start();
    let mut client = ReplicationClient::connect(&server.settings()).await.unwrap();
    let identity = client.identify().await.unwrap();
    assert_eq!((client.major(), identity.timeline.0), (major(), 1));
    assert_eq!(client.show("wal_segment_size").await.unwrap(), "16MB");
    assert_eq!(client.show_if_visible("no_such_setting").await.unwrap(), None);
    // An error of the server leaves the connection usable.
    assert!(client.timeline_history(identity.timeline).await.is_err());
    assert_eq!(client.identify().await.unwrap().system_id, identity.system_id);
    client.close().await;
}

/// Flips a bit in the middle of a page of a table's file.
fn damage(file: &Path, block: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, block * 8192 + 5000).unwrap();
    file.write_all_at(&[byte[0] ^ 4], block * 8192 + 5000).unwrap();
}

#[tokio::test]
async fn damaged_pages_are_reported_and_the_base_is_still_complete() {
    let server = Server::start();
    let sql = server.sql().await;
    sql.batch_execute("CREATE TABLE t AS SELECT g, repeat('x', 500) FROM generate_series(1, 5000) g; CHECKPOINT")
        .await
        .unwrap();
    let path: String = sql.query_one("SELECT pg_relation_filepath('t')", &[]).await.unwrap().get(0);
    for block in [3, 7] {
        damage(&server.data().join(&path), block);
    }
    let base = MemoryBase::default();
    let (record, report) = PgBaseBackup::new(server.settings(), FAST, digest()).run(&base).await.unwrap();
    let found: Vec<_> = report.damaged.iter().map(|page| (page.path.as_str(), page.block)).collect();
    assert_eq!(found, [(path.as_str(), 3), (path.as_str(), 7)]);
    assert_eq!(record.facts[fact::DAMAGED_PAGES], "2");
    assert!(report.warnings[0].contains("2 damaged page(s)"), "{:?}", report.warnings);
    assert_eq!(base.content("base/base/1/PG_VERSION"), Some(format!("{}\n", major()).into_bytes()));
}

#[tokio::test]
async fn pages_that_change_during_the_backup_are_no_damage() {
    let server = Server::start();
    let sql = server.sql().await;
    sql.batch_execute("CREATE TABLE t AS SELECT g, repeat('x', 500) AS x FROM generate_series(1, 50000) g")
        .await
        .unwrap();
    let busy = async {
        loop {
            sql.batch_execute("UPDATE t SET x = repeat('y', 500) WHERE g % 7 = 0; CHECKPOINT").await.unwrap();
        }
    };
    let base = MemoryBase::default();
    let backup = PgBaseBackup::new(server.settings(), BackupOptions { max_rate: Some(40_000), ..FAST }, digest());
    let report = tokio::select! {
        taken = backup.run(&base) => taken.unwrap().1,
        () = busy => unreachable!(),
    };
    assert_eq!((report.damaged, report.warnings), (vec![], vec![]));
}

#[tokio::test]
async fn a_tablespace_that_the_server_would_leave_out_is_refused() {
    if major() != 15 {
        return;
    }
    let server = Server::start_with(
        &support_io::bin(),
        "allow_in_place_tablespaces = on",
        "local all all trust\nlocal replication all trust\n",
    );
    let error = PgBaseBackup::new(server.settings(), FAST, digest()).run(&MemoryBase::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

#[tokio::test]
async fn a_second_timeline_has_its_history_and_a_lineage_of_its_own() {
    let server = Server::start();
    std::fs::write(server.data().join("standby.signal"), "").unwrap();
    support_io::give_to_server_user(&server.data());
    server.pg_ctl(&["restart", "-w", "-l", server.root.path().join("log").to_str().unwrap()]);
    server.pg_ctl(&["promote", "-w"]);
    let (record, report) =
        PgBaseBackup::new(server.settings(), FAST, digest()).run(&MemoryBase::default()).await.unwrap();
    let (name, content) = report.history.unwrap();
    assert_eq!(name, "00000002.history");
    assert_eq!(content, std::fs::read(server.data().join("pg_wal/00000002.history")).unwrap());
    assert_eq!(record.start.timeline.0, 2);
    let expected = format!("{}.00000002.{:08x}", report.identity.system_id, crc32c::crc32c(&content));
    assert_eq!(record.lineage.to_string(), expected);
}

#[tokio::test]
async fn a_standby_can_be_backed_up() {
    let server = Server::start();
    server.sql().await.batch_execute("CREATE TABLE t AS SELECT 1").await.unwrap();
    std::fs::write(server.data().join("standby.signal"), "").unwrap();
    support_io::give_to_server_user(&server.data());
    server.pg_ctl(&["restart", "-w", "-l", server.root.path().join("log").to_str().unwrap()]);
    let (record, _) = PgBaseBackup::new(server.settings(), FAST, digest()).run(&MemoryBase::default()).await.unwrap();
    assert_eq!(record.facts[fact::FROM], "standby");
}
