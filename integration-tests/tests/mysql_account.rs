//! The account that `pitr grants` makes is enough for everything that a source needs, and `pitr check` names what is
//! wrong with a server, with the fix.
#![allow(missing_docs)]

use anyhow::{Result, ensure};
use integration_tests::mysql::{Flavour, Mysql, MysqlSetup};
use integration_tests::mysql_oracle::load;
use integration_tests::mysql_oracle::shapes::picture;
use integration_tests::{Pitr, Run, Scratch, Streamer, binlogs};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_account_that_is_granted_on_mysql_is_enough() -> Result<()> {
    the_account_is_enough(Flavour::Mysql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_account_that_is_granted_on_mariadb_is_enough() -> Result<()> {
    the_account_is_enough(Flavour::Mariadb).await
}

#[tokio::test]
async fn what_mysql_keeps_out_of_its_log_is_told() -> Result<()> {
    let follow = "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 1, SOURCE_USER = 'x'; START REPLICA SQL_THREAD";
    what_is_not_logged_is_told(Flavour::Mysql, follow).await
}

#[tokio::test]
async fn what_mariadb_keeps_out_of_its_log_is_told() -> Result<()> {
    let follow =
        "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = 1, MASTER_USER = 'x'; START SLAVE SQL_THREAD";
    what_is_not_logged_is_told(Flavour::Mariadb, follow).await
}

/// A replica that does not log what it replicates, and databases that are kept out of the log: no archive has them, and
/// nobody should learn that from a restore.
async fn what_is_not_logged_is_told(flavour: Flavour, follow: &str) -> Result<()> {
    let scratch = Scratch::new("unlogged")?;
    let options = ["--binlog-ignore-db=scratch", "--log-slave-updates=OFF"];
    let mut server = Mysql::create(&scratch, "a", &MysqlSetup::of(flavour).with(options))?;
    server.start().await?;
    let pitr = Pitr::of_engine(&scratch, flavour.engine(), &server.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let run = pitr.run(["check", "main"])?.with_code(3)?;
    ensure!(
        run.text().contains("binlog_ignore_db is scratch") && run.text().contains("if it becomes a replica"),
        "{run}"
    );
    server.sql(follow)?;
    let words = "what it replicates is not in its log";
    let run = pitr.run(["check", "main"])?.with_code(3)?;
    ensure!(run.text().contains(words), "{run}");
    let streamer = Streamer::start(&scratch, &pitr)?;
    streamer.says(words).await?;
    let run = pitr.run(["backup", "main"])?.with_code(3)?;
    ensure!(run.text().contains(words) && run.text().contains("binlog_ignore_db is scratch"), "{run}");
    Ok(())
}

async fn the_account_is_enough(flavour: Flavour) -> Result<()> {
    let scratch = Scratch::new("account")?;
    // As on a machine whose data matters.
    let safe = ["--sync-binlog=1", "--innodb-flush-log-at-trx-commit=1", "--binlog-expire-logs-seconds=2592000"];
    let more = if flavour == Flavour::Mariadb { &["--gtid-strict-mode=ON"][..] } else { &[] };
    let mut server = Mysql::create(&scratch, "a", &MysqlSetup::of(flavour).with(safe).with(more.iter().copied()))?;
    server.start().await?;
    server.sql(
        "CREATE DATABASE s_one; USE s_one; CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20)); INSERT INTO t VALUES (1, 'x');
         CREATE VIEW w AS SELECT * FROM t; CREATE PROCEDURE p () INSERT INTO t VALUES (2, 'y');
         CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.v = 'z'; CREATE EVENT e ON SCHEDULE EVERY 1 YEAR STARTS '2037-01-01 00:00:00' DO CALL p()",
    )?;
    // Over TCP, and encrypted where the server can.
    let encrypted = if flavour == Flavour::Mysql { "?ssl-mode=required" } else { "" };
    let url = format!("{}{encrypted}", server.tcp_url("pitr"));
    let pitr = Pitr::of_engine(&scratch, flavour.engine(), &url, false)?;
    let password = scratch.write("password", "secret\n")?;
    pitr.configure_source([format!("password_file = {:?}", password.display()).as_str()])?;
    pitr.run(["init"])?.ok()?;
    server.sql(&pitr.run(["grants", flavour.engine()])?.ok()?.stdout)?;
    server.sql("ALTER USER 'pitr'@'localhost' IDENTIFIED BY 'secret'")?;

    let run = pitr.run(["check", "main"])?.ok()?;
    ensure!(!run.stdout.contains("WARN") && !run.stdout.contains("FAIL"), "{run}");
    let streamer = Streamer::start(&scratch, &pitr)?;
    pitr.run(["backup", "main"])?.ok()?;
    server.sql("CALL s_one.p()")?;
    let marks = mark_in_every_form(&server, &pitr)?;
    binlogs::caught_up(&server, &pitr, &streamer).await?;
    for name in marks {
        let plan = pitr.json(["plan", "main", "--to", &format!("name:{name}")])?;
        ensure!(plan["last_kept"]["transaction"].is_string(), "{name}: {plan}");
    }
    let mut target = Mysql::create(&scratch, "b", &MysqlSetup::of(flavour).with_id(2))?;
    target.start().await?;
    // The target is reached over TCP, too, with a password of its own.
    target.sql("CREATE USER 'admin'@'localhost' IDENTIFIED BY 'other'; GRANT ALL PRIVILEGES ON *.* TO 'admin'@'localhost' WITH GRANT OPTION")?;
    let mut restore = pitr.command(["restore", "main", "--to", "latest", "--target-url"]);
    restore.arg(format!("{}{encrypted}", target.tcp_url("admin")));
    restore.env("PITR_TARGET_PASSWORD_FILE", scratch.write("other", "other\n")?);
    let run = Pitr::finish(restore)?;
    ensure!(matches!(run.code, Some(0 | 3)), "{run}");
    ensure!(picture(&server).await? == picture(&target).await?, "the restored server differs");
    load::check_nothing_left(&target).await?;
    what_is_wrong_is_named(&server, &pitr)
}

/// As a row, as a statement, and compressed; one that the log would hide is refused.
fn mark_in_every_form(server: &Mysql, pitr: &Pitr) -> Result<[&'static str; 3]> {
    let mysql = server.flavour() == Flavour::Mysql;
    let compress = if mysql { "binlog_transaction_compression" } else { "log_bin_compress" };
    for (settings, name) in [
        (String::new(), "row"),
        ("SET GLOBAL binlog_format = STATEMENT".to_owned(), "statement"),
        (format!("SET GLOBAL binlog_format = ROW; SET GLOBAL {compress} = ON"), "compressed"),
    ] {
        server.sql(&settings)?;
        pitr.run(["mark", "main", name])?.ok()?;
    }
    if !mysql {
        server.sql("SET GLOBAL log_bin_compress_min_len = 10")?;
        let run = pitr.run(["mark", "main", "hidden"])?.with_code(6)?;
        ensure!(run.text().contains("log_bin_compress_min_len is 10"), "{run}");
    }
    server.sql(&format!("SET GLOBAL {compress} = OFF"))?;
    Ok(["row", "statement", "compressed"])
}

fn what_is_wrong_is_named(server: &Mysql, pitr: &Pitr) -> Result<()> {
    let says = |code: i32, words: &str| -> Result<Run> {
        let run = pitr.run(["check", "main"])?;
        ensure!(run.code == Some(code) && run.text().contains(words), "expected {code} and {words:?}: {run}");
        Ok(run)
    };
    server.sql("SET GLOBAL sync_binlog = 0")?;
    says(3, "the archive may be ahead of the server")?;
    server.sql("SET GLOBAL sync_binlog = 1; SET GLOBAL binlog_expire_logs_seconds = 3600")?;
    says(3, "removes its log after 1.0 hours")?;
    server.sql("SET GLOBAL binlog_expire_logs_seconds = 2592000; SET GLOBAL binlog_checksum = NONE")?;
    says(3, "damage on the way from the server is not noticed")?;
    server.sql("SET GLOBAL binlog_checksum = CRC32; CREATE TABLE s_one.still (a INT) ENGINE = MyISAM")?;
    says(3, "s_one.still (MyISAM)")?;
    server.sql("DROP TABLE s_one.still; SET GLOBAL binlog_format = STATEMENT")?;
    says(3, "binlog_format is STATEMENT")?;
    server.sql("SET GLOBAL binlog_format = ROW; REVOKE RELOAD ON *.* FROM 'pitr'@'localhost'")?;
    let run = pitr.run(["check", "main"])?;
    ensure!(run.text().contains("lacks RELOAD") && run.text().contains("GRANT RELOAD ON *.* TO"), "{run}");
    server.sql("REVOKE REPLICATION SLAVE ON *.* FROM 'pitr'@'localhost'")?;
    let run = pitr.run(["check", "main"])?;
    ensure!(run.text().contains("REPLICATION SLAVE"), "{run}");
    Ok(())
}
