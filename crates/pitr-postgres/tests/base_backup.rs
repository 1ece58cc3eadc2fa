//! Base backups of a real server.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod support_io;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pitr_postgres::base::{BackupLabel, PgBaseBackup, SourceSettings, fact};
use pitr_postgres::replication::{BackupOptions, ReplicationClient};
use support_io::{MemoryBase, Server, as_server_user, digest, scratch};

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

    assert_eq!(seen.load(Ordering::Relaxed) > report.bytes, true, "the manifest counts as well");
    assert!(record.start < record.consistent, "{record:?}");
    assert_eq!(record.lineage.to_string(), format!("{}.00000001", report.identity.system_id));
    assert_eq!(record.facts[fact::DATA_CHECKSUMS], "on");
    assert_eq!(record.facts[fact::FROM], "primary");
    assert_eq!((report.damaged.len(), report.warnings.len(), report.history), (0, 0, None));
    let label = BackupLabel::parse(std::str::from_utf8(&base.content("base/backup_label").unwrap()).unwrap()).unwrap();
    assert_eq!(label.start, record.start.lsn);
    let settings: SourceSettings = serde_json::from_slice(&base.content(SourceSettings::PART).unwrap()).unwrap();
    assert_eq!((settings.version_num / 10_000, settings.settings["max_wal_senders"].as_str()), (15, "4"));

    let directory = scratch();
    unpack(&base, directory.path());
    std::fs::remove_dir_all(directory.path().join("pitr")).unwrap();
    support_io::give_to_server_user(directory.path());
    as_server_user(server.bin.join("pg_verifybackup"), &["-n", directory.path().to_str().unwrap()]);
}

#[tokio::test]
async fn the_replication_client_knows_the_server() {
    let server = Server::start();
    let mut client = ReplicationClient::connect(&server.settings()).await.unwrap();
    let identity = client.identify().await.unwrap();
    assert_eq!((client.major(), identity.timeline.0), (15, 1));
    assert_eq!(client.show("wal_segment_size").await.unwrap(), "16MB");
    assert_eq!(client.show_if_visible("no_such_setting").await.unwrap(), None);
    // An error of the server leaves the connection usable.
    assert!(client.timeline_history(identity.timeline).await.is_err());
    assert_eq!(client.identify().await.unwrap().system_id, identity.system_id);
    client.close().await;
}
