//! Everything that has a shape of its own in a binary log, replayed into a new server: to the end, to a random place
//! between two shapes, and to the place where an XA transaction is prepared; with and without identifiers.
//!
//! `PITR_TARGETS=100` restores to as many places, `PITR_SEED` replays a run.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_tests::mysql::{Flavour, Mysql, MysqlSetup};
use integration_tests::mysql_oracle::load;
use integration_tests::mysql_oracle::shapes::{self, picture};
use integration_tests::seed::{generator, seed};
use integration_tests::{Pitr, Run, Scratch, Streamer, binlogs};
use rand::RngExt;

/// A server, its archive, and what it showed at places of its log.
struct Place {
    scratch: Scratch,
    server: Mysql,
    pitr: Pitr,
    streamer: Streamer,
    identifiers: bool,
    points: Vec<Point>,
}

/// A place in the log, and all that there was.
struct Point {
    target: String,
    picture: BTreeMap<String, String>,
}

/// Options of a server whose transactions have no identifiers. What its foreign keys cascade to is not in its log, as before
/// MySQL 9.6; otherwise it is.
const ANONYMOUS: [&str; 3] = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF", "--innodb-native-foreign-keys=ON"];
/// Options of a MariaDB that takes no identifier out of order.
const STRICT: [&str; 1] = ["--gtid-strict-mode=ON"];

fn options(flavour: Flavour, identifiers: bool) -> &'static [&'static str] {
    match flavour {
        Flavour::Mariadb => &STRICT,
        Flavour::Mysql if identifiers => &[],
        Flavour::Mysql => &ANONYMOUS,
    }
}

impl Place {
    async fn new(flavour: Flavour, identifiers: bool) -> Result<Self> {
        let scratch = Scratch::new(&format!("shapes-{}", flavour.engine()))?;
        let options = options(flavour, identifiers);
        let mut server = Mysql::create(&scratch, "source", &MysqlSetup::of(flavour).with(options.iter().copied()))?;
        server.start().await?;
        server.sql("CREATE DATABASE s_base; CREATE TABLE s_base.t (id INT PRIMARY KEY, v VARCHAR(20)); INSERT INTO s_base.t VALUES (1, 'in the base')")?;
        let pitr = Pitr::of_engine(&scratch, flavour.engine(), &server.url(), false)?;
        pitr.run(["init"])?.ok()?;
        let streamer = Streamer::start(&scratch, &pitr)?;
        pitr.run(["backup", "main"])?.ok()?;
        let mut place = Self { scratch, server, pitr, streamer, identifiers, points: Vec::new() };
        place.make_shapes().await?;
        Ok(place)
    }

    async fn make_shapes(&mut self) -> Result<()> {
        let rows = self.scratch.write("rows", "1,one\n2,two\n3,three\n")?;
        // No server keeps temporary tables over a restart, and the servers without identifiers are restarted.
        let identifiers = self.identifiers;
        let keeps = move |(name, _): &shapes::Shape| identifiers || !name.starts_with("temporary");
        for shape in shapes::shapes(self.server.flavour(), identifiers).into_iter().filter(keeps) {
            shapes::make(&self.server, &shape, &rows.to_string_lossy())?;
            self.note().await?;
        }
        Ok(())
    }

    /// Notes what there is at the end of the log.
    async fn note(&mut self) -> Result<()> {
        let (file, offset) = self.server.log_end()?;
        let picture = picture(&self.server).await?;
        self.points.push(Point { target: format!("file:{file}:{offset}"), picture });
        Ok(())
    }

    async fn target(&self, name: &str, id: u32) -> Result<Mysql> {
        let options = options(self.server.flavour(), self.identifiers);
        let setup = MysqlSetup::of(self.server.flavour()).with_id(id).with(options.iter().copied());
        let mut server = Mysql::create(&self.scratch, name, &setup)?;
        server.start().await?;
        Ok(server)
    }

    fn restore(&self, target: &Mysql, more: &[&str]) -> Result<Run> {
        let url = target.url();
        let run = self.pitr.run([&["-o", "json", "restore", "main", "--target-url", &url], more].concat())?;
        ensure!(matches!(run.code, Some(0 | 3)), "{run}\n{}", target.log_tail());
        Ok(run)
    }

    async fn caught_up(&self) -> Result<()> {
        binlogs::caught_up(&self.server, &self.pitr, &self.streamer).await
    }
}

fn same(expected: &BTreeMap<String, String>, found: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in expected {
        ensure!(found.get(name) == Some(value), "{name} was {value:?} and is {:?}", found.get(name));
    }
    let more: Vec<_> = found.keys().filter(|name| !expected.contains_key(*name)).collect();
    ensure!(more.is_empty(), "more than there was: {more:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_of_the_log_of_mysql_replays_exactly() -> Result<()> {
    replays_exactly(Flavour::Mysql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_of_the_log_of_mariadb_replays_exactly() -> Result<()> {
    replays_exactly(Flavour::Mariadb).await
}

async fn replays_exactly(flavour: Flavour) -> Result<()> {
    let mut rng = generator(seed(&format!("shapes-{}", flavour.engine())), 1);
    let mut place = Place::new(flavour, true).await?;
    let skipped = an_unwanted_transaction(&place.server)?;
    place.note().await?;
    place.caught_up().await?;

    // To the end.
    let target = place.target("latest", 77).await?;
    place.restore(&target, &["--to", "latest"])?;
    let last = place.points.last().context("no point")?;
    same(&last.picture, &picture(&target).await?)?;
    if flavour == Flavour::Mysql {
        ensure!(place.server.executed()? == target.executed()?, "another set was executed");
    }
    load::check_nothing_left(&target).await?;

    // Places between two shapes.
    let count = std::env::var("PITR_TARGETS").ok().and_then(|count| count.parse().ok()).unwrap_or(1);
    for number in 0..count {
        let point = &place.points[rng.random_range(0..place.points.len())];
        eprintln!("{}", point.target);
        let mut target = place.target(&format!("between{number}"), 78).await?;
        place.restore(&target, &["--before", &point.target])?;
        same(&point.picture, &picture(&target).await?).with_context(|| point.target.clone())?;
        target.kill()?;
    }
    prepared_at_the_cut(&mut place, &skipped).await
}

/// A transaction that a restore is to leave out; gives its identifier.
fn an_unwanted_transaction(server: &Mysql) -> Result<String> {
    server.sql("CREATE TABLE s_base.unwanted (id INT PRIMARY KEY); INSERT INTO s_base.unwanted VALUES (1)")?;
    let number = |executed: String| -> Result<String> {
        Ok(match server.flavour() {
            Flavour::Mariadb => {
                executed.split(',').find(|gtid| gtid.starts_with("0-1-")).context(executed.clone())?.to_owned()
            }
            Flavour::Mysql => {
                let uuid = server.sql("SELECT @@GLOBAL.server_uuid")?;
                let rest = executed.split(&format!("{uuid}:")).nth(1).context(executed.clone())?;
                let last = rest.split([':', ',']).next().and_then(|range| range.rsplit('-').next());
                format!("{uuid}:{}", last.context(executed.clone())?)
            }
        })
    };
    let gtid = number(server.executed()?)?;
    server.sql("INSERT INTO s_base.unwanted VALUES (2)")?;
    Ok(gtid)
}

/// An XA transaction that is prepared at the cut is reported and can be committed; one that was left out leaves no hole.
async fn prepared_at_the_cut(place: &mut Place, skipped: &str) -> Result<()> {
    place
        .server
        .sql("XA START 'open'; INSERT INTO s_base.t VALUES (2, 'prepared'); XA END 'open'; XA PREPARE 'open'")?;
    let (file, offset) = place.server.log_end()?;
    place.server.sql("XA COMMIT 'open'; INSERT INTO s_base.t VALUES (3, 'later')")?;
    place.caught_up().await?;
    let target = place.target("prepared", 79).await?;
    let skip = format!("gtid:{skipped}");
    let beyond =
        if target.flavour() == Flavour::Mysql { "gtid:0b1c2d3e-0000-1000-8000-00805f9b34fb:99" } else { "gtid:9-1-1" };
    let slip = ["restore", "main", "--to", "latest", "--target-url", &target.url(), "--skip", beyond];
    let run = place.pitr.run(slip)?.with_code(2)?;
    ensure!(run.text().contains("is not in the log between the base and the target"), "{run}");
    let run = place.restore(&target, &["--before", &format!("file:{file}:{offset}"), "--skip", &skip])?;
    let report: serde_json::Value = serde_json::from_str(&run.stdout)?;
    assert_eq!(report["data"]["prepared"], serde_json::json!(["open"]), "{run}");
    ensure!(run.stdout.contains("wait for XA COMMIT"), "{run}");
    ensure!(run.stdout.contains("do not fire here") && run.stdout.contains("s_definitions.ev"), "{run}");
    assert_eq!(target.sql("SELECT id FROM s_base.unwanted")?, "2", "{skipped} was to be left out");
    assert_eq!(target.sql("SELECT COUNT(*) FROM s_base.t")?, "1");
    target.sql("XA COMMIT 'open'")?;
    assert_eq!(target.sql("SELECT id FROM s_base.t ORDER BY id")?, "1\n2");
    if target.flavour() == Flavour::Mysql {
        let contained = target.sql(&format!("SELECT GTID_SUBSET('{skipped}', @@GLOBAL.gtid_executed)"))?;
        assert_eq!(contained, "1", "the skipped transaction left a hole");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_identifiers_replays_exactly_also_after_kills() -> Result<()> {
    let mut rng = generator(seed("anonymous"), 1);
    let mut place = Place::new(Flavour::Mysql, false).await?;
    load::prepare(&place.server)?;
    load::run(&place.server, load::Load { seed: 3, round: 1, clients: 4, transactions: 150 }).await?;
    place.note().await?;
    place.caught_up().await?;
    let mut target = place.target("latest", 77).await?;
    let url = target.url();
    for kill in 0..3 {
        let mut child = place.pitr.spawn(["restore", "main", "--to", "latest", "--target-url", &url])?;
        tokio::time::sleep(Duration::from_millis(rng.random_range(300..1_500))).await;
        child.kill()?;
        child.wait()?;
        // The server dies once, too, in the middle of what it applies.
        if kill == 1 {
            target.kill()?;
            target.start().await?;
        }
    }
    let finished = target.sql("SHOW DATABASES LIKE 'pitr_restore'")?.is_empty();
    if !finished {
        place.restore(&target, &["--to", "latest"])?;
    }
    same(&place.points.last().context("no point")?.picture, &picture(&target).await?)?;
    load::check_derived(&target).await?;
    let (expected, found) = (load::content(&place.server).await?, load::content(&target).await?);
    ensure!(expected == found, "the ledger differs");
    load::check_nothing_left(&target).await?;
    drop(target);
    a_forgotten_place_is_known_or_missed(&place).await?;
    lost_events_stop_the_replay(&place).await
}

/// A replica without names of transactions may be killed while it forgets its place to be told another one, and may lose its
/// own note of it for good: either way nothing is applied twice.
async fn a_forgotten_place_is_known_or_missed(place: &Place) -> Result<()> {
    let mut target = place.target("forgetful", 78).await?;
    let url = target.url();
    let mut child = place.pitr.spawn(["restore", "main", "--to", "latest", "--target-url", &url])?;
    let begun = Instant::now();
    let ahead = "SELECT COUNT(*) FROM pitr_restore.place JOIN mysql.slave_relay_log_info \
         WHERE standing = 0 AND (Master_log_name, Master_log_pos) > (file, offset_in_it)";
    while !target.sql(ahead).is_ok_and(|count| count == "1") {
        ensure!(begun.elapsed() < Duration::from_secs(120), "the replay did not begin");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    child.kill()?;
    child.wait()?;
    target.sql("STOP REPLICA")?;
    let at = target.sql("SELECT Master_log_name, Master_log_pos FROM mysql.slave_relay_log_info")?;
    let (file, offset) = at.split_once('\t').context("no place")?;

    target.kill()?;
    for entry in fs::read_dir(target.data())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.contains("relay-bin.0") {
            fs::remove_file(path)?;
        }
    }
    target.start().await?;
    let run = place.pitr.run(["restore", "main", "--to", "latest", "--target-url", &url])?;
    ensure!(run.code == Some(6) && run.stderr.contains("begin again with an empty server"), "{run}");

    // As if it had been noted before it was forgotten.
    target.sql(&format!(
        "UPDATE pitr_restore.place SET file = '{file}', offset_in_it = {offset}, standing = 1; RESET REPLICA ALL"
    ))?;
    place.restore(&target, &["--to", "latest"])?;
    same(&place.points.last().context("no point")?.picture, &picture(&target).await?)?;
    ensure!(load::content(&place.server).await? == load::content(&target).await?, "the ledger differs");
    load::check_nothing_left(&target).await
}

/// A MariaDB that is not strict, which is its default, takes lower numbers after higher ones. What comes behind a base is behind
/// it, whatever its number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identifiers_of_mariadb_that_came_out_of_order_replay_exactly() -> Result<()> {
    let scratch = Scratch::new("unordered")?;
    let mut server = Mysql::create(&scratch, "source", &MysqlSetup::of(Flavour::Mariadb))?;
    server.start().await?;
    server.sql("CREATE DATABASE s_u; CREATE TABLE s_u.t (id INT PRIMARY KEY); INSERT INTO s_u.t VALUES (1), (2); DELETE FROM s_u.t WHERE id = 2")?;
    let pitr = Pitr::of_engine(&scratch, "mariadb", &server.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let streamer = Streamer::start(&scratch, &pitr)?;
    pitr.run(["backup", "main"])?.ok()?;
    server.sql(
        "SET server_id = 66, gtid_seq_no = 2; INSERT INTO s_u.t VALUES (10); SET server_id = 1; INSERT INTO s_u.t VALUES (11);
         SET server_id = 66, gtid_seq_no = 3; INSERT INTO s_u.t VALUES (12); SET server_id = 1; INSERT INTO s_u.t VALUES (13);",
    )?;
    binlogs::caught_up(&server, &pitr, &streamer).await?;
    for (number, (to, expected)) in
        [("latest", "1\n10\n11\n12\n13"), ("gtid:0-66-3", "1\n10\n11\n12"), ("gtid:0-66-2", "1\n10")]
            .into_iter()
            .enumerate()
    {
        let mut target =
            Mysql::create(&scratch, &format!("target{number}"), &MysqlSetup::of(Flavour::Mariadb).with_id(70))?;
        target.start().await?;
        pitr.run(["restore", "main", "--to", to, "--target-url", &target.url()])?.with_code(3)?;
        assert_eq!(target.sql("SELECT id FROM s_u.t ORDER BY id")?, expected, "{to}");
        target.kill()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_mariadb_lost_stop_the_replay() -> Result<()> {
    let place = Place::new(Flavour::Mariadb, true).await?;
    lost_events_stop_the_replay(&place).await
}

/// What a server could not log is an incident: nothing behind it can be trusted, everything before it can be restored.
async fn lost_events_stop_the_replay(place: &Place) -> Result<()> {
    let server = &place.server;
    server.sql(
        "CREATE TABLE s_base.still (a INT, b VARCHAR(200)) ENGINE = MyISAM;
         INSERT INTO s_base.still VALUES (1, REPEAT('a', 200)), (2, REPEAT('b', 200)), (3, REPEAT('c', 200));
         SET GLOBAL binlog_stmt_cache_size = 4096, max_binlog_stmt_cache_size = 4096",
    )?;
    let (file, offset) = server.log_end()?;
    let lost = "INSERT INTO s_base.still SELECT a.a, a.b FROM s_base.still a, s_base.still b, s_base.still c, s_base.still d, s_base.still e";
    ensure!(server.sql(lost).is_err(), "the server could log it");
    server.sql("INSERT INTO s_base.t VALUES (99, 'behind it')")?;
    place.caught_up().await?;
    let mut target = place.target("incident", 80).await?;
    let run = place.pitr.run(["restore", "main", "--to", "latest", "--target-url", &target.url()])?;
    ensure!(run.code == Some(1) && run.text().to_lowercase().contains("incident"), "{run}");
    target.kill()?;
    // Into a directory: its server must take everything that this one's log may hold.
    let (into, programs) = (place.scratch.path().join("into"), server.stock_programs(&place.scratch)?);
    let (before, programs) = (format!("file:{file}:{offset}"), programs.display().to_string());
    let directory = into.display().to_string();
    let run = place.pitr.run(["restore", "main", "--before", &before, "--into", &directory, "--bin-dir", &programs])?;
    ensure!(matches!(run.code, Some(0 | 3)), "{run}");
    let setup =
        MysqlSetup::of(server.flavour()).with_id(81).with(options(server.flavour(), place.identifiers).iter().copied());
    let mut restored = Mysql::at(&place.scratch, "into.run", &setup, into)?;
    restored.start().await?;
    assert_eq!(restored.sql("SELECT COUNT(*) FROM s_base.still")?, "3");
    Ok(())
}
