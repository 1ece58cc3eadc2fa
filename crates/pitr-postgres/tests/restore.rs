//! Restores of real bases, and what they refuse.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod support_io;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use pitr_core::ports::{Recovery, Restorer, Stop};
use pitr_core::{BaseId, Classify, ErrorKind, LineageId};
use pitr_postgres::base::PgBaseBackup;
use pitr_postgres::connect::{Settings, sql_client};
use pitr_postgres::replication::BackupOptions;
use pitr_postgres::restore::{PgRestore, RestoreCommand, RestoreOptions};
use pitr_postgres::server::StartOptions;
use pitr_postgres::{Lsn, PgPosition, TimelineId};
use support_io::{MemoryBase, Server, digest, major, scratch, stop};

const FAST: BackupOptions = BackupOptions { fast_checkpoint: true, max_rate: None };

/// A server with a row per step, its base, and the positions between the steps.
struct Story {
    server: Server,
    base: MemoryBase,
    /// Begin of the record after each committed row.
    after_row: Vec<Lsn>,
}

impl Story {
    /// A base, then three rows in transactions of their own, then everything archived.
    async fn tell(server: Server) -> Self {
        let sql = server.sql().await;
        sql.batch_execute("CREATE TABLE IF NOT EXISTS t (n int)").await.unwrap();
        let base = MemoryBase::default();
        PgBaseBackup::new(server.settings(), FAST, digest()).run(&base).await.unwrap();
        let mut after_row = Vec::new();
        for row in 1..=3 {
            sql.execute("INSERT INTO t VALUES ($1)", &[&row]).await.unwrap();
            let lsn: String = sql.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get(0);
            after_row.push(lsn.parse().unwrap());
        }
        sql.batch_execute("SELECT pg_create_restore_point('end'), pg_switch_wal()").await.unwrap();
        // The archiver goes in order, so a later segment proves the earlier ones.
        sql.batch_execute("CHECKPOINT; SELECT pg_switch_wal()").await.unwrap();
        for _ in 0..100 {
            let waiting: i64 = sql
                .query_one("SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'", &[])
                .await
                .unwrap()
                .get(0);
            if waiting == 0 {
                return Self { server, base, after_row };
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the log was not archived");
    }

    fn command(&self) -> RestoreCommand {
        let archived = format!("{}/%f", self.server.archive().display());
        let script = format!("cp \"{}/$1\" \"$2\"", self.server.archive().display());
        assert!(archived.contains("%f"));
        RestoreCommand {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script, "fetch".into(), "%f".into(), "%p".into()],
        }
    }

    fn options(&self, into: &Path) -> RestoreOptions {
        RestoreOptions::new(into, self.command())
    }

    fn starting(&self, into: &Path) -> RestoreOptions {
        let start =
            StartOptions { bin_dir: Some(self.server.bin.clone()), keep_running: true, ..StartOptions::default() };
        RestoreOptions { start: Some(start), ..self.options(into) }
    }
}

fn before(lsn: Lsn) -> Recovery<PgPosition> {
    let cut = PgPosition::new(TimelineId(1), lsn);
    let lineage = LineageId::new("7.00000001").unwrap();
    Recovery {
        base: BaseId::new("b").unwrap(),
        lineage: lineage.clone(),
        path: vec![lineage],
        log: vec![],
        cut,
        stop: Stop::Before(cut),
    }
}

async fn rows(socket: &(PathBuf, u16)) -> Vec<i32> {
    let sql = sql_client(&Settings::unix(&socket.0, socket.1, "postgres")).await.unwrap();
    sql.query("SELECT n FROM t ORDER BY n", &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn a_restored_server_stops_exactly_where_it_should() {
    let story = Story::tell(Server::start()).await;
    let place = scratch();
    for kept in 1..=2 {
        let into = place.path().join(format!("restored{kept}"));
        let recovery = before(story.after_row[kept - 1]);
        let report = PgRestore::new(story.starting(&into)).run(&recovery, &story.base).await.unwrap();
        let reached = report.reached.unwrap();
        let found = rows(reached.socket.as_ref().unwrap()).await;
        stop(&story.server.bin, &into);
        std::fs::remove_dir_all(&reached.socket.unwrap().0).unwrap();
        assert_eq!(reached.position, recovery.cut);
        assert_eq!(found, (1..=kept as i32).collect::<Vec<_>>());
        assert_eq!(mode(&into), 0o700);
        let (owner, parent) =
            (std::fs::metadata(into.join("global/pg_control")).unwrap(), std::fs::metadata(place.path()).unwrap());
        assert_eq!((owner.uid(), owner.mode() & 0o777), (parent.uid(), 0o600));
    }
}

#[tokio::test]
async fn the_port_returns_the_position_and_promotion_opens_a_new_timeline() {
    let story = Story::tell(Server::start()).await;
    let place = scratch();
    let into = place.path().join("restored");
    let mut options = story.starting(&into);
    let start = options.start.as_mut().unwrap();
    (start.promote, start.keep_running) = (true, false);
    let recovery = before(story.after_row[2]);
    let reached = PgRestore::new(options).restore(&recovery, &story.base).await.unwrap();
    assert_eq!(reached, Some(recovery.cut));
    assert!(into.join("pg_wal/00000002.history").exists());
    assert!(!into.join("postmaster.pid").exists() && !into.join("recovery.signal").exists());
}

#[tokio::test]
async fn a_log_that_ends_early_is_an_error_with_the_reason_and_never_an_open_database() {
    let story = Story::tell(Server::start()).await;
    let place = scratch();
    let into = place.path().join("restored");
    let recovery = before("9/0".parse().unwrap());
    let error = PgRestore::new(story.starting(&into)).run(&recovery, &story.base).await.unwrap_err();
    assert!(error.to_string().contains("recovery ended before configured recovery target was reached"), "{error}");
    assert!(!into.join("pg_wal/00000002.history").exists());
}

#[tokio::test]
async fn a_server_without_its_backup_label_does_not_start() {
    let story = Story::tell(Server::start()).await;
    let place = scratch();
    let into = place.path().join("restored");
    PgRestore::new(story.options(&into)).run(&before(story.after_row[0]), &story.base).await.unwrap();
    std::fs::remove_file(into.join("backup_label")).unwrap();
    std::fs::remove_file(into.join("recovery.signal")).unwrap();
    let start = StartOptions { bin_dir: Some(story.server.bin.clone()), ..StartOptions::default() };
    let error = pitr_postgres::server::recover(&into, major(), &before(story.after_row[0]), &start).await.unwrap_err();
    assert!(error.to_string().contains("checkpoint"), "{error}");
}

#[tokio::test]
async fn tablespaces_come_back_where_they_are_wanted() {
    let outside = scratch();
    let server = Server::start();
    let sql = server.sql().await;
    sql.batch_execute(&format!("CREATE TABLESPACE far LOCATION '{}'", outside.path().display())).await.unwrap();
    let near = if major() > 15 {
        sql.batch_execute("SET allow_in_place_tablespaces = on").await.unwrap();
        sql.batch_execute("CREATE TABLESPACE near LOCATION ''").await.unwrap();
        "near"
    } else {
        "pg_default"
    };
    sql.batch_execute("CREATE TABLE f TABLESPACE far AS SELECT 1 AS n").await.unwrap();
    sql.batch_execute(&format!("CREATE TABLE g TABLESPACE {near} AS SELECT 2 AS n")).await.unwrap();
    let oid: u32 = sql.query_one("SELECT oid FROM pg_tablespace WHERE spcname = 'far'", &[]).await.unwrap().get(0);
    let story = Story::tell(server).await;
    let place = scratch();
    let into = place.path().join("restored");
    let report = PgRestore::new(story.starting(&into)).run(&before(story.after_row[1]), &story.base).await.unwrap();
    let moved = place.path().join(format!("restored.tablespaces/{oid}"));
    assert_eq!(report.tablespaces, BTreeMap::from([(oid, moved.clone())]));
    assert_eq!(std::fs::read_link(into.join(format!("pg_tblspc/{oid}"))).unwrap(), moved);
    let socket = report.reached.unwrap().socket.unwrap();
    let sql = sql_client(&Settings::unix(&socket.0, socket.1, "postgres")).await.unwrap();
    let sum: i32 = sql.query_one("SELECT f.n + g.n FROM f, g", &[]).await.unwrap().get(0);
    stop(&story.server.bin, &into);
    std::fs::remove_dir_all(&socket.0).unwrap();
    assert_eq!(sum, 3);

    let mut options = story.options(&place.path().join("other"));
    options.tablespaces = BTreeMap::from([(oid, outside.path().to_owned())]);
    let error = PgRestore::new(options.clone()).run(&before(story.after_row[1]), &story.base).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "the source's own directory is not empty: {error}");
    assert!(!options.into.exists(), "nothing was touched");
    options.tablespaces = BTreeMap::from([(1, "/x".into())]);
    let error = PgRestore::new(options).run(&before(story.after_row[1]), &story.base).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

/// A base that is small and whole, without a server.
fn small_base() -> MemoryBase {
    let base = MemoryBase::default();
    let mut control = vec![0; 8192];
    let sum = crc32c::crc32c(&control[..288]);
    control[288..292].copy_from_slice(&sum.to_le_bytes());
    base.put("base/global/pg_control", &control);
    base.put(
        "base/backup_label",
        b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nSTART TIMELINE: 1\n",
    );
    base.put("base/base/1/16384", &vec![5; 300_000]);
    base.put("base/standby.signal", b"");
    base.put("base/postmaster.pid", b"1");
    base
}

fn plain(into: &Path) -> RestoreOptions {
    RestoreOptions::new(into, RestoreCommand { program: "/bin/false".into(), arguments: vec![] })
}

#[tokio::test]
async fn a_directory_that_is_not_ours_is_never_touched() {
    let place = scratch();
    let into = place.path().join("precious");
    std::fs::create_dir(&into).unwrap();
    std::fs::write(into.join("data"), "precious").unwrap();
    let recovery = before(Lsn(0x0300_0028));
    let error = PgRestore::new(plain(&into)).run(&recovery, &small_base()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(std::fs::read_dir(&into).unwrap().count(), 1);
}

#[tokio::test]
async fn an_interrupted_restore_goes_on_and_another_plan_does_not() {
    let place = scratch();
    let into = place.path().join("restored");
    let base = small_base();
    let recovery = before(Lsn(0x0300_0028));
    *base.interrupt_after.lock().unwrap() = Some(1);
    let error = PgRestore::new(plain(&into)).run(&recovery, &base).await.unwrap_err();
    assert!(error.kind().is_retryable(), "{error}");
    assert!(!into.join("global/pg_control").exists(), "an unfinished directory must not be startable");

    let error = PgRestore::new(plain(&into)).run(&before(Lsn(0x0400_0028)), &base).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");

    let report = PgRestore::new(plain(&into)).run(&recovery, &base).await.unwrap();
    assert!(report.resumed);
    assert_eq!(*base.delivered.lock().unwrap(), ["base/base/1/16384"], "what was there is not written again");
    assert_eq!(std::fs::read(into.join("base/1/16384")).unwrap(), vec![5; 300_000]);
    for gone in ["standby.signal", "postmaster.pid", ".pitr-restore-unfinished"] {
        assert!(!into.join(gone).exists(), "{gone}");
    }
    let conf = std::fs::read_to_string(into.join("postgresql.auto.conf")).unwrap();
    assert!(conf.contains("recovery_target_lsn = '0/3000028'"), "{conf}");
    assert_eq!(report.warnings.len(), 3, "{:?}", report.warnings);
    let error = PgRestore::new(plain(&into)).run(&recovery, &base).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "a finished restore is not repeated: {error}");
}

#[tokio::test]
async fn nothing_is_written_outside_of_the_directory() {
    let place = scratch();
    let recovery = before(Lsn(0x0300_0028));
    for (number, path) in
        ["base/../../escaped", "base//etc/escaped", "ts/16384/x", "ts/../x", "/escaped", "base/a/../../../escaped"]
            .into_iter()
            .enumerate()
    {
        let base = small_base();
        base.put(path, b"x");
        let result = PgRestore::new(plain(&place.path().join(number.to_string()))).run(&recovery, &base).await;
        // A path that is no part of a base is left out; one that would lead elsewhere is refused.
        match result {
            Ok(_) => assert!(!path.starts_with("base/") && !path.starts_with("ts/"), "{path}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Refused, "{path}: {error}"),
        }
    }
    assert!(!place.path().join("escaped").exists() && !Path::new("/etc/escaped").exists());
}

#[tokio::test]
async fn a_link_planted_during_the_restore_is_not_followed() {
    let place = scratch();
    let into = place.path().join("restored");
    let outside = place.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let base = small_base();
    let recovery = before(Lsn(0x0300_0028));
    *base.interrupt_after.lock().unwrap() = Some(0);
    PgRestore::new(plain(&into)).run(&recovery, &base).await.unwrap_err();
    std::fs::remove_dir_all(into.join("base")).ok();
    symlink(&outside, into.join("base")).unwrap();
    let error = PgRestore::new(plain(&into)).run(&recovery, &base).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[tokio::test]
async fn a_base_that_is_not_whole_is_refused_before_anything_is_touched() {
    let place = scratch();
    let into = place.path().join("restored");
    for missing in ["base/backup_label", "base/global/pg_control"] {
        let base = small_base();
        base.remove(missing);
        let error = PgRestore::new(plain(&into)).run(&before(Lsn(0x0300_0028)), &base).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{missing}: {error}");
    }
    let base = small_base();
    base.put("base/global/pg_control", &[1; 8192]);
    let error = PgRestore::new(plain(&into)).run(&before(Lsn(0x0300_0028)), &base).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
    assert!(!into.exists());
}
