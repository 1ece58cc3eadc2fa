//! Bases of real MySQL and MariaDB servers: what comes back is what was there, of every type and every kind of
//! object, into a server and into a directory, also after kills.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::mysql::{Flavour, Mysql, MysqlSetup};
use integration_tests::mysql_oracle::load;
use integration_tests::mysql_session::Session;
use integration_tests::seed::{generator, seed};
use integration_tests::{Pitr, Scratch, Streamer, binlogs};
use rand::RngExt;

/// A source with everything in it, an archive, and a stream.
struct Place {
    scratch: Scratch,
    server: Mysql,
    pitr: Pitr,
    streamer: Streamer,
}

impl Place {
    async fn new(flavour: Flavour, label: &str) -> Result<Self> {
        let scratch = Scratch::new(&format!("{label}-{}", flavour.engine()))?;
        let mut server = Mysql::create(&scratch, "source", &MysqlSetup::of(flavour))?;
        server.start().await?;
        let pitr = Pitr::of_engine(&scratch, flavour.engine(), &server.url(), false)?;
        pitr.run(["init"])?.ok()?;
        let streamer = Streamer::start(&scratch, &pitr)?;
        Ok(Self { scratch, server, pitr, streamer })
    }

    /// An empty server to restore into.
    async fn target(&self, name: &str, id: u32) -> Result<Mysql> {
        let mut server = Mysql::create(&self.scratch, name, &MysqlSetup::of(self.server.flavour()).with_id(id))?;
        server.start().await?;
        Ok(server)
    }

    fn backup(&self) -> Result<serde_json::Value> {
        self.pitr.json(["backup", "main"])
    }

    fn restore(&self, target: &Mysql) -> Result<()> {
        let run = self.pitr.run(["restore", "main", "--to", "latest", "--target-url", &target.url()])?;
        ensure!(matches!(run.code, Some(0 | 3)), "{run}");
        Ok(())
    }

    async fn caught_up(&self) -> Result<()> {
        binlogs::caught_up(&self.server, &self.pitr, &self.streamer).await
    }
}

/// Every type at its edges, and every kind of object.
async fn fill(server: &Mysql) -> Result<()> {
    let maria = server.flavour() == Flavour::Mariadb;
    let (own_type, own_value) = match maria {
        true => ("i6 INET6, ui UUID", "'::ffff:1.2.3.4', '0b1c2d3e-0000-1000-8000-00805f9b34fb'"),
        false => (
            "ge GEOMETRY SRID 4326, ve VECTOR(3)",
            "ST_GeomFromText('POINT(1 2)', 4326), STRING_TO_VECTOR('[1, -2.5, 3e-3]')",
        ),
    };
    let every_byte: String = (0..=255_u8).map(|byte| format!("{byte:02x}")).collect();
    server.sql(&format!(
        "SET NAMES utf8mb4; SET SESSION sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+05:30';
         CREATE DATABASE `d-b.x` CHARACTER SET latin1; USE `d-b.x`;
         CREATE TABLE types (id INT PRIMARY KEY, ti TINYINT, su SMALLINT UNSIGNED ZEROFILL, mi MEDIUMINT, bi BIGINT UNSIGNED,
            de DECIMAL(40, 10), fl FLOAT, db DOUBLE, bt BIT(13), ch CHAR(10), vc VARCHAR(50) CHARACTER SET latin1,
            uc VARCHAR(20) CHARACTER SET utf16, mb VARCHAR(50) CHARACTER SET utf8mb4, bn BINARY(5), vb VARBINARY(300),
            bl LONGBLOB, tx MEDIUMTEXT, en ENUM('a', 'b''c', 'ü'), se SET('x', 'y', 'z'), da DATE, tm TIME(6), dt DATETIME(6),
            ts TIMESTAMP(6) NULL, yr YEAR, js JSON, po POINT, gv INT AS (ti + 1) VIRTUAL, gs VARCHAR(60) AS (CONCAT(vc, '!')) STORED,
            inv INT INVISIBLE DEFAULT 7, {own_type}, KEY (gv), KEY (mb(5)));
         INSERT INTO types (id, ti, su, mi, bi, de, fl, db, bt, ch, vc, uc, mb, bn, vb, bl, tx, en, se, da, tm, dt, ts, yr, js, po, inv, {columns}) VALUES
            (1, -128, 7, -8388608, 18446744073709551615, -123456789012345678901234567890.0123456789, 0.1, 0.1, b'1010101010101',
             'a b  ', 'Ärger', 'ß𝄞', '😀 it''s \\\\ \\n', 'ab', x'{every_byte}', REPEAT(x'00ff0a27', 2500000), REPEAT('zeile\\n', 100000), 'b''c', 'x,z',
             '0000-00-00', '-838:59:59', '2026-02-31 12:00:00.123456', '2026-10-25 00:30:00.000001', 2155,
             '{{\"a\": [1, 2.50, null, true, \"\\\\u00fc\"], \"b\": {{\"c\": 1e300}}}}', ST_GeomFromText('POINT(1 2)'), 1, {own_value}),
            (2, 127, 65535, 8388607, 0, 0, 3.4e38, 1.7976931348623157e308, b'0', '', '', '', '', '', '', '', '', 'ü', '', '1000-01-01',
             '838:59:59', '9999-12-31 23:59:59.999999', '1970-01-02 00:00:01', 1901, 'null', NULL, NULL, {nothing}),
            (3, NULL, NULL, NULL, NULL, NULL, 1e-40, 5e-324, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, {nothing}),
            (4, 0, 0, 0, 0, 0, 16777217, -1.5, b'1', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'a', 'y', '2026-00-00', '00:00:00.000001', '0000-00-00', NULL, 0, '[]', NULL, 0, {nothing});",
        columns = own_type.replace(" INET6", "").replace(" UUID", "").replace(" GEOMETRY SRID 4326", "").replace(" VECTOR(3)", ""),
        nothing = "NULL, NULL",
    ))?;
    server.sql(
        "SET NAMES utf8mb4; USE `d-b.x`;
         CREATE TABLE `we``ird t/able` (`a``b` INT, `ü` TEXT); INSERT INTO `we``ird t/able` VALUES (1, 'x'), (1, 'x'), (NULL, NULL);
         CREATE TABLE vacant (a INT);
         CREATE TABLE still (a INT, KEY (a)) ENGINE = MyISAM; INSERT INTO still VALUES (3), (1), (2);
         CREATE TABLE parts (a INT, b VARCHAR(10), PRIMARY KEY (a)) PARTITION BY RANGE (a) (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN MAXVALUE);
         INSERT INTO parts VALUES (5, 'x'), (50, 'y');
         CREATE TABLE words (w VARCHAR(30), n INT, PRIMARY KEY (w(10), n)); INSERT INTO words VALUES ('b', 1), ('a', 2), ('a', 1);
         CREATE TABLE one (id INT PRIMARY KEY, other INT); CREATE TABLE two (id INT PRIMARY KEY, one INT, FOREIGN KEY (one) REFERENCES one (id));
         ALTER TABLE one ADD FOREIGN KEY (other) REFERENCES two (id);
         INSERT INTO one VALUES (1, NULL); INSERT INTO two VALUES (1, 1); UPDATE one SET other = 1;
         CREATE TABLE counted (id INT PRIMARY KEY AUTO_INCREMENT, s TEXT) AUTO_INCREMENT = 1000; INSERT INTO counted (s) VALUES ('x'); DELETE FROM counted;
         INSERT INTO counted VALUES (NULL, 'y');
         CREATE FUNCTION plus_one (a INT) RETURNS INT DETERMINISTIC RETURN a + 1;
         CREATE VIEW z_base AS SELECT plus_one(id) AS id FROM types; CREATE VIEW a_upon AS SELECT * FROM z_base;
         CREATE TABLE log (what VARCHAR(20)); CREATE TRIGGER second BEFORE INSERT ON counted FOR EACH ROW INSERT INTO log VALUES ('second');
         CREATE TRIGGER first BEFORE INSERT ON counted FOR EACH ROW PRECEDES second INSERT INTO log VALUES ('first');
         CREATE EVENT later ON SCHEDULE EVERY 1 YEAR DO INSERT INTO log VALUES ('event');
         CREATE ROLE reader; GRANT SELECT ON `d-b.x`.* TO reader; CREATE USER 'o''neil'@'%' IDENTIFIED BY 'secret';
         GRANT reader TO 'o''neil'@'%'; GRANT INSERT (s), SELECT ON `d-b.x`.counted TO 'o''neil'@'%';",
    )?;
    // The stock client would cut it at its first semicolon.
    let mut session = Session::open(server).await?;
    session.execute("SET NAMES utf8mb4").await?;
    session.execute("USE `d-b.x`").await?;
    session.execute("CREATE PROCEDURE twice (INOUT a INT) BEGIN SET a = a * 2; -- it's ü\nEND").await?;
    // Beside the databases: a time zone, a tablespace, a function of a library.
    server.sql(
        "INSERT INTO mysql.time_zone VALUES (77, 'N'); INSERT INTO mysql.time_zone_name VALUES ('Test/Zone', 77);
         INSERT INTO mysql.time_zone_transition_type VALUES (77, 0, 4500, 0, 'TST')",
    )?;
    if !maria {
        server.sql(
            r#"CREATE TABLESPACE shared ADD DATAFILE 'shared.ibd'; CREATE TABLE `d-b.x`.spaced (a INT PRIMARY KEY) TABLESPACE shared;
             SET GLOBAL show_gipk_in_create_table_and_information_schema = OFF; SET sql_generate_invisible_primary_key = ON;
             USE `d-b.x`; CREATE LIBRARY shelf COMMENT 'it''s ü' LANGUAGE JAVASCRIPT AS $$export function f(n) { return n + 1 }$$;
             CREATE JSON DUALITY VIEW both_ways AS SELECT JSON_DUALITY_OBJECT('_id': id, 'other': other) FROM one;
             CREATE TABLE `d-b.x`.hidden_key (a INT); INSERT INTO `d-b.x`.hidden_key VALUES (5), (5); SET sql_generate_invisible_primary_key = OFF;
             CREATE SPATIAL REFERENCE SYSTEM 1000000 NAME 'It''s our own' ORGANIZATION 'ours' IDENTIFIED BY 7 DEFINITION
                'GEOGCS["Own",DATUM["Own",SPHEROID["Own",6378000,298.2]],PRIMEM["Greenwich",0],UNIT["degree",0.017453292519943278],AXIS["Lat",NORTH],AXIS["Lon",EAST]]';
             CREATE TABLE placed (id INT PRIMARY KEY, g POINT SRID 1000000); INSERT INTO placed VALUES (1, ST_GeomFromText('POINT(1 2)', 1000000));
             ALTER USER 'o''neil'@'%' IDENTIFIED BY 'second' RETAIN CURRENT PASSWORD;
             INSERT INTO `d-b.x`.spaced VALUES (1); CREATE FUNCTION service_get_read_locks RETURNS INT SONAME 'locking_service.so'"#,
        )?;
    }
    if maria {
        server.sql(
            "GRANT SELECT ON `d-b.x`.* TO PUBLIC; USE `d-b.x`; CREATE SEQUENCE s START WITH 5 INCREMENT BY 3 CACHE 10; SELECT NEXTVAL(s);
             CREATE TABLE versions (a INT PRIMARY KEY, b INT) WITH SYSTEM VERSIONING; INSERT INTO versions VALUES (1, 1); UPDATE versions SET b = 2;",
        )?;
    }
    Ok(())
}

/// Everything that a client can see of a server's own objects and rows.
async fn picture(server: &Mysql) -> Result<BTreeMap<String, String>> {
    let mut session = Session::open(server).await?;
    session.execute("SET NAMES utf8mb4").await?;
    let mut picture = BTreeMap::new();
    let mut accounts = vec!["'o''neil'@'%'", "reader"];
    match server.flavour() {
        Flavour::Mysql => {
            session.execute("SET show_gipk_in_create_table_and_information_schema = ON").await?;
            let asked = "SELECT CONCAT_WS('|', srs_name, organization, organization_coordsys_id, definition, description) FROM information_schema.st_spatial_reference_systems WHERE srs_id = 1000000";
            let own = session.row(asked).await?.context("no spatial reference system")?;
            picture.insert("reference".to_owned(), own.text(0).unwrap_or_default());
        }
        Flavour::Mariadb => accounts.push("PUBLIC"),
    }
    let tables = "SELECT table_schema, table_name, table_type FROM information_schema.tables WHERE table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')";
    for row in session.rows(tables).await? {
        let name = format!("`{}`.`{}`", row.text(0).unwrap(), row.text(1).unwrap().replace('`', "``"));
        let shown = session.row(&format!("SHOW CREATE TABLE {name}")).await?.context("no definition")?;
        picture.insert(format!("definition {name}"), shown.text(1).unwrap_or_default());
        if row.text(2).as_deref() != Some("VIEW") && row.text(2).as_deref() != Some("SEQUENCE") {
            let sum = session.row(&format!("CHECKSUM TABLE {name} EXTENDED")).await?.context("no checksum")?;
            picture.insert(format!("rows {name}"), sum.text(1).unwrap_or_default());
        }
    }
    let questions = [
        ("zone", "SELECT 'Test/Zone', CONVERT_TZ('2026-01-01 12:00:00', '+00:00', 'Test/Zone')"),
        ("library", "SELECT name, CONCAT(dl, ret, type) FROM mysql.func"),
        (
            "routine",
            "SELECT CONCAT(routine_type, routine_name), CONCAT_WS('|', routine_definition, definer, sql_mode, character_set_client, collation_connection) FROM information_schema.routines WHERE routine_schema = 'd-b.x'",
        ),
        (
            "trigger",
            "SELECT trigger_name, CONCAT_WS('|', action_order, action_statement, sql_mode, definer, character_set_client) FROM information_schema.triggers WHERE trigger_schema = 'd-b.x'",
        ),
        (
            "event",
            "SELECT event_name, CONCAT_WS('|', event_definition, interval_value, interval_field, starts, status, time_zone) FROM information_schema.events WHERE event_schema = 'd-b.x'",
        ),
        (
            "schema",
            "SELECT schema_name, default_collation_name FROM information_schema.schemata WHERE schema_name LIKE 'd%' OR schema_name LIKE 'oracle%'",
        ),
    ];
    for (kind, question) in questions {
        for row in session.rows(question).await? {
            picture.insert(format!("{kind} {}", row.text(0).unwrap_or_default()), row.text(1).unwrap_or_default());
        }
    }
    for account in accounts {
        let grants: Vec<_> =
            session.rows(&format!("SHOW GRANTS FOR {account}")).await?.iter().filter_map(|row| row.text(0)).collect();
        picture.insert(format!("grants {account}"), grants.join("\n"));
    }
    if server.flavour() == Flavour::Mysql {
        let shown = session.row("SHOW CREATE LIBRARY `d-b.x`.shelf").await?.context("no library")?;
        picture.insert("library".to_owned(), format!("{:?} {:?}", shown.text(1), shown.text(2)));
    }
    if server.flavour() == Flavour::Mariadb {
        let rows =
            session.rows("SELECT a, b, row_end > NOW() FROM `d-b.x`.versions FOR SYSTEM_TIME ALL ORDER BY b").await?;
        picture.insert("history".to_owned(), rows.iter().map(|row| format!("{row:?}")).collect());
    }
    Ok(picture)
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
async fn everything_in_mysql_comes_back_exactly() -> Result<()> {
    comes_back_exactly(Flavour::Mysql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_in_mariadb_comes_back_exactly() -> Result<()> {
    comes_back_exactly(Flavour::Mariadb).await
}

/// Also: an unchanged table is stored once, a server with data is refused, and a directory does as well as a server.
async fn comes_back_exactly(flavour: Flavour) -> Result<()> {
    let place = Place::new(flavour, "base").await?;
    fill(&place.server).await?;
    let first = place.backup()?;
    let second = place.backup()?;
    let (stored, again) = (first["stored_bytes"].as_u64().unwrap(), second["stored_bytes"].as_u64().unwrap());
    eprintln!("{}: {stored} bytes stored, then {again}", flavour.engine());
    ensure!(again < 32 << 10, "an unchanged server stored {again} bytes more");
    // The log after the base is replayed over it.
    if flavour == Flavour::Mysql {
        let told = place.pitr.run(["backup", "main"])?;
        ensure!(told.text().contains("second passwords (RETAIN CURRENT PASSWORD) of o'neil@%"), "{told}");
        place.server.sql("INSERT INTO `d-b.x`.hidden_key VALUES (6)")?;
    }
    place.server.sql("INSERT INTO `d-b.x`.types (id, mb) VALUES (9, 'after'); UPDATE `d-b.x`.types SET bt = b'11' WHERE id = 2; DROP TABLE `d-b.x`.vacant")?;
    place.caught_up().await?;
    let expected = picture(&place.server).await?;

    let target = place.target("target", 77).await?;
    place.restore(&target)?;
    same(&expected, &picture(&target).await?)?;
    load::check_nothing_left(&target).await?;
    place.pitr.run(["restore", "main", "--to", "latest", "--target-url", &target.url()])?.with_code(6)?;

    let (into, programs) = (place.scratch.path().join("into"), place.server.stock_programs(&place.scratch)?);
    let (into_text, programs) = (into.display().to_string(), programs.display().to_string());
    let run = place.pitr.run(["restore", "main", "--to", "latest", "--into", &into_text, "--bin-dir", &programs])?;
    ensure!(run.code == Some(0), "{run}");
    place
        .pitr
        .run(["restore", "main", "--to", "latest", "--into", &into_text, "--bin-dir", &programs])?
        .with_code(6)?;
    let mut restored = Mysql::at(&place.scratch, "into.run", &MysqlSetup::of(flavour).with_id(78), into)?;
    restored.start().await?;
    same(&expected, &picture(&restored).await?)?;
    ensure!(
        restored.sql("SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'pitr%'")? == "0",
        "an account of the restore is left"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_restore_into_mysql_goes_on_and_ends_exact() -> Result<()> {
    survives_kills(Flavour::Mysql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_restore_into_mariadb_goes_on_and_ends_exact() -> Result<()> {
    survives_kills(Flavour::Mariadb).await
}

/// Whether a restore has noted a step in the server.
fn has_begun(target: &Mysql) -> Result<bool> {
    let ledger =
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'pitr_restore' AND table_name = 'steps'";
    Ok(target.sql(ledger)? == "1" && target.sql("SELECT COUNT(*) FROM pitr_restore.steps")? != "0")
}

/// `kill -9` of pitr during backups leaves the source unlocked; during restores, what is done is not done again.
async fn survives_kills(flavour: Flavour) -> Result<()> {
    let mut rng = generator(seed(&format!("kills-{}", flavour.engine())), 1);
    let place = Place::new(flavour, "kill").await?;
    load::prepare(&place.server)?;
    place.server.sql("CREATE TABLE oracle.bulk (id INT PRIMARY KEY AUTO_INCREMENT, s VARCHAR(300), KEY (s)); INSERT INTO oracle.bulk (s) VALUES ('x');")?;
    for _ in 0..15 {
        place.server.sql("INSERT INTO oracle.bulk (s) SELECT CONCAT(RAND(), REPEAT('x', 250)) FROM oracle.bulk")?;
    }
    place.server.sql(
        "CREATE TABLE oracle.still (a INT) ENGINE = MyISAM; INSERT INTO oracle.still SELECT id FROM oracle.bulk;",
    )?;
    for _ in 0..4 {
        let mut child = place.pitr.spawn(["backup", "main", "--no-wait"])?;
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..900))).await;
        child.kill()?;
        child.wait()?;
        place.server.sql(
            "INSERT INTO oracle.ledger SELECT COALESCE(MAX(id), 0) + 1, 0, 'single', 'after a kill' FROM oracle.ledger",
        )?;
    }
    place.backup()?;
    load::run(&place.server, load::Load { seed: 5, round: 1, clients: 4, transactions: 40 }).await?;
    place.caught_up().await?;

    let target = place.target("target", 77).await?;
    // As one leaves it that is killed right after it has begun.
    target.sql("CREATE DATABASE pitr_restore")?;
    let url = target.url();
    let skipped = place.server.sql(match flavour {
        Flavour::Mysql => {
            "SELECT CONCAT('gtid:', @@server_uuid, ':', REGEXP_SUBSTR(@@GLOBAL.gtid_executed, '[0-9]+$'))"
        }
        Flavour::Mariadb => "SELECT CONCAT('gtid:', @@GLOBAL.gtid_binlog_pos)",
    })?;
    let (mut kills, mut refused) = (0, 0);
    loop {
        let said = place.scratch.path().join(format!("restore{kills}.log"));
        let mut restore = place.pitr.command(["restore", "main", "--to", "latest", "--target-url", &url]);
        let mut child = restore.stdout(Stdio::null()).stderr(std::fs::File::create(&said)?).spawn()?;
        match kills {
            // The first kill comes as soon as there is something to go on with: some machines need less than a second for it all.
            0 => {
                while child.try_wait()?.is_none() && !has_begun(&target)? {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            _ => tokio::time::sleep(Duration::from_millis(rng.random_range(100..1_500))).await,
        }
        if child.try_wait()?.is_some() || kills == 8 {
            let status = child.wait()?;
            let said = std::fs::read_to_string(&said)?;
            // The one before may have been killed when all was done.
            let complete = matches!(status.code(), Some(0 | 3)) || kills > 0 && said.contains("is not empty");
            ensure!(complete, "after {kills} kills it ended with {status}:\n{said}");
            break;
        }
        child.kill()?;
        child.wait()?;
        kills += 1;
        if has_begun(&target)? {
            let args = ["restore", "main", "--to", "latest", "--target-url", &url, "--skip", &skipped];
            let other = place.pitr.run(args)?;
            ensure!(other.code != Some(0) && other.text().contains("with another plan"), "{other}");
            refused += 1;
        }
    }
    eprintln!("{}: {kills} kills", flavour.engine());
    ensure!(kills > 0 && refused > 0, "it was killed {kills} times, and another restore was refused {refused} times");
    for table in ["ledger", "account", "parent", "child", "keyless", "bulk", "still"] {
        let sum = |server: &Mysql| server.sql(&format!("CHECKSUM TABLE oracle.{table} EXTENDED"));
        ensure!(sum(&place.server)? == sum(&target)?, "oracle.{table} differs after {kills} kills");
    }
    load::check_derived(&target).await?;
    load::check_nothing_left(&target).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_of_mysql_is_whole_while_definitions_change_all_the_time() -> Result<()> {
    is_whole_among_changes(Flavour::Mysql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_of_mariadb_is_whole_while_definitions_change_all_the_time() -> Result<()> {
    is_whole_among_changes(Flavour::Mariadb).await
}

/// Tables come and go, accounts get rights, a sequence moves on: no base fails, none has to be begun anew for ever, and the
/// log goes on exactly where each begins.
async fn is_whole_among_changes(flavour: Flavour) -> Result<()> {
    let place = Place::new(flavour, "changes").await?;
    place
        .server
        .sql("CREATE DATABASE changes; CREATE TABLE changes.kept (id INT PRIMARY KEY AUTO_INCREMENT, note TEXT)")?;
    let stop = Arc::new(AtomicBool::new(false));
    let changing = tokio::spawn(change(Session::open(&place.server).await?, flavour, Arc::clone(&stop)));
    for _ in 0..5 {
        let pitr = place.pitr.clone();
        let run = tokio::task::spawn_blocking(move || pitr.run(["backup", "main", "--no-wait"])).await??;
        ensure!(matches!(run.code, Some(0 | 3)), "{run}");
    }
    stop.store(true, Ordering::Relaxed);
    let rounds = changing.await??;
    eprintln!("{}: {rounds} rounds of changes", flavour.engine());
    place.caught_up().await?;
    let target = place.target("target", 77).await?;
    place.restore(&target)?;
    let tables =
        "SELECT GROUP_CONCAT(table_name ORDER BY 1) FROM information_schema.tables WHERE table_schema = 'changes'";
    for question in
        [tables, "CHECKSUM TABLE changes.kept EXTENDED", "SHOW CREATE TABLE changes.kept", "SHOW GRANTS FOR changer"]
    {
        let (expected, found) = (place.server.sql(question)?, target.sql(question)?);
        ensure!(expected == found, "{question}: {expected:?}, restored {found:?}");
    }
    Ok(())
}

/// Changes definitions until told to stop; gives how often.
async fn change(mut session: Session, flavour: Flavour, stop: Arc<AtomicBool>) -> Result<u32> {
    session.execute("USE changes").await?;
    session.execute("CREATE USER changer").await?;
    if flavour == Flavour::Mariadb {
        session.execute("CREATE SEQUENCE numbers CACHE 3").await?;
    }
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        session.execute(&format!("CREATE TABLE t{round} (id INT PRIMARY KEY, a INT)")).await?;
        session.execute(&format!("INSERT INTO t{round} VALUES (1, {round})")).await?;
        session.execute("INSERT INTO kept (note) VALUES ('between')").await?;
        session.execute(&format!("ALTER TABLE t{round} ADD COLUMN b TEXT")).await?;
        session.execute(&format!("CREATE VIEW v{round} AS SELECT * FROM t{round}")).await?;
        if round % 10 == 0 {
            session
                .execute(&format!(
                    "GRANT {} ON changes.* TO changer",
                    if round % 20 == 0 { "INSERT" } else { "UPDATE" }
                ))
                .await?;
        }
        if flavour == Flavour::Mariadb {
            session.execute("INSERT INTO kept (note) SELECT NEXTVAL(numbers)").await?;
        }
        session.execute(&format!("DROP VIEW v{round}")).await?;
        if round > 3 {
            session.execute(&format!("DROP TABLE t{}", round - 3)).await?;
        }
    }
    Ok(round)
}
