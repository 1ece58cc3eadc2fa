//! Traps of the binary log that broke other tools: switchover with identical file names, events of many packets,
//! confirmations of a semi-synchronous replica.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_tests::mysql::{Flavour, Mysql, MysqlSetup};
use integration_tests::{Pitr, Scratch, Streamer, binlogs};

async fn server(scratch: &Scratch, name: &str, flavour: Flavour, id: u32, options: &[&str]) -> Result<Mysql> {
    let setup = MysqlSetup::of(flavour).with_id(id).with(options.iter().copied());
    let mut server = Mysql::create(scratch, name, &setup)?;
    server.start().await?;
    Ok(server)
}

fn insert(server: &Mysql, rows: u32) -> Result<()> {
    let statements: String = (0..rows).map(|row| format!("INSERT INTO d.t (v) VALUES ('row {row}');\n")).collect();
    server.sql(&statements).map(drop)
}

const TABLE: &str = "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY AUTO_INCREMENT, v LONGBLOB);";

/// Makes `replica` follow `primary`, and waits until it has everything.
async fn follow(replica: &Mysql, primary: &Mysql) -> Result<()> {
    let (to, start) = match replica.flavour() {
        Flavour::Mysql => (
            format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {}, SOURCE_USER = 'repl', \
                 SOURCE_PASSWORD = 'secret', SOURCE_SSL = 1, SOURCE_AUTO_POSITION = 1",
                primary.port()
            ),
            "START REPLICA",
        ),
        Flavour::Mariadb => (
            format!(
                "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {}, MASTER_USER = 'repl', \
                 MASTER_PASSWORD = 'secret', MASTER_USE_GTID = slave_pos",
                primary.port()
            ),
            "START SLAVE",
        ),
    };
    replica.sql(&format!("{to}; {start};"))?;
    let begun = Instant::now();
    while replica.executed()? != primary.executed()? {
        ensure!(begun.elapsed() < Duration::from_secs(60), "the replica does not follow\n{}", replica.log_tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Both servers have a `binlog.000001`; the archive tells them apart, and one history continues the other.
async fn a_switchover_is_followed(flavour: Flavour) -> Result<()> {
    let scratch = Scratch::new("switch")?;
    let primary = server(&scratch, "a", flavour, 1, &["--log-slave-updates=ON"]).await?;
    let mut replica = server(&scratch, "b", flavour, 2, &["--log-slave-updates=ON"]).await?;
    primary
        .sql("CREATE USER repl@localhost IDENTIFIED BY 'secret'; GRANT REPLICATION SLAVE ON *.* TO repl@localhost")?;
    primary.sql(TABLE)?;
    let pitr = Pitr::of_engine(&scratch, flavour.engine(), &primary.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let mut streamer = Streamer::start(&scratch, &pitr)?;
    insert(&primary, 20)?;
    binlogs::caught_up(&primary, &pitr, &streamer).await?;
    follow(&replica, &primary).await?;
    streamer.terminate().await?;
    // The replica takes over, and goes on by itself.
    let stop = if flavour == Flavour::Mysql { "STOP REPLICA" } else { "STOP SLAVE" };
    replica.sql(stop)?;
    insert(&replica, 20)?;
    let config = std::fs::read_to_string(pitr.config())?.replace(&primary.url(), &replica.url());
    scratch.write("pitr.toml", &config)?;
    let streamer = Streamer::start(&scratch, &pitr)?;
    binlogs::caught_up(&replica, &pitr, &streamer).await?;
    ensure!(streamer.log().contains("continues the archive"), "{}", streamer.log());

    let catalog = binlogs::catalog(&pitr, flavour).await?;
    assert_eq!(catalog.lineages.len(), 2);
    let child = catalog.lineages.iter().find(|lineage| lineage.ordinal == 1).context("no second history")?;
    let fork = child.fork.as_ref().context("the second history does not say where it left the first")?;
    assert_eq!(fork.parent, catalog.lineages[0].id);
    let files = binlogs::files(&pitr, flavour).await?;
    let names: Vec<_> = files.keys().map(|(_, name)| name.as_str()).collect();
    ensure!(names.iter().filter(|name| **name == "binlog.000001").count() == 2, "{names:?}");
    assert!(binlogs::compare(&primary, &files, &catalog.lineages[0].id)? >= 1);
    assert!(binlogs::compare(&replica, &files, &child.id)? >= 1);
    replica.stop().await
}

#[tokio::test]
async fn a_switchover_of_mysql_with_identical_file_names_is_followed() -> Result<()> {
    a_switchover_is_followed(Flavour::Mysql).await
}

#[tokio::test]
async fn a_switchover_of_mariadb_with_identical_file_names_is_followed() -> Result<()> {
    a_switchover_is_followed(Flavour::Mariadb).await
}

/// An event above 16 MiB comes in several packets, and a transaction above 24 MiB is cut.
async fn large_transactions_are_archived(flavour: Flavour) -> Result<()> {
    let scratch = Scratch::new("large")?;
    let server = server(&scratch, "a", flavour, 1, &["--max-allowed-packet=256M"]).await?;
    server.sql(TABLE)?;
    let pitr = Pitr::of_engine(&scratch, flavour.engine(), &server.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let mut streamer = Streamer::start(&scratch, &pitr)?;
    insert(&server, 3)?;
    server.sql("INSERT INTO d.t (v) VALUES (REPEAT('0123456789abcdef', 3000000))")?;
    server.sql("BEGIN; INSERT INTO d.t (v) VALUES (REPEAT('x', 20000000)); INSERT INTO d.t (v) VALUES (REPEAT('y', 30000000)); COMMIT")?;
    insert(&server, 3)?;
    binlogs::caught_up(&server, &pitr, &streamer).await?;
    streamer.terminate().await?;
    let catalog = binlogs::catalog(&pitr, flavour).await?;
    let files = binlogs::files(&pitr, flavour).await?;
    assert_eq!(binlogs::compare(&server, &files, &catalog.lineages[0].id)?, 1);
    let inside = catalog.spans.iter().filter(|span| span.facts.contains_key("inside")).count();
    ensure!(inside >= 1 || catalog.spans.iter().any(|span| !span.is_single()), "no transaction was cut");
    Ok(())
}

#[tokio::test]
async fn mysql_transactions_larger_than_a_segment_are_archived() -> Result<()> {
    large_transactions_are_archived(Flavour::Mysql).await
}

#[tokio::test]
async fn mariadb_transactions_larger_than_a_segment_are_archived() -> Result<()> {
    large_transactions_are_archived(Flavour::Mariadb).await
}

/// A server that waits for a replica lets a commit go only once it is in the archive.
async fn a_confirmed_commit_is_in_the_archive(flavour: Flavour, options: &[&str]) -> Result<()> {
    let scratch = Scratch::new("semi")?;
    let server = server(&scratch, "a", flavour, 1, &[]).await?;
    server.sql(TABLE)?;
    let pitr = Pitr::of_engine(&scratch, flavour.engine(), &server.url(), false)?;
    let config = std::fs::read_to_string(pitr.config())?;
    scratch.write("pitr.toml", &format!("{config}semi_sync = true\n"))?;
    pitr.run(["init"])?.ok()?;
    for statement in options {
        server.sql(statement)?;
    }
    let mut streamer = Streamer::start(&scratch, &pitr)?;
    let clients = match flavour {
        Flavour::Mysql => "SHOW STATUS LIKE 'Rpl_semi_sync_source_clients'",
        Flavour::Mariadb => "SHOW STATUS LIKE 'Rpl_semi_sync_master_clients'",
    };
    let begun = Instant::now();
    while !server.sql(clients)?.ends_with("\t1") {
        ensure!(begun.elapsed() < Duration::from_secs(30), "nobody confirms\n{}", streamer.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..3 {
        insert(&server, 1)?;
        let executed = server.executed()?;
        // The commit has returned: at this very moment it is archived.
        streamer.kill()?;
        let catalog = binlogs::catalog(&pitr, flavour).await?;
        let known = catalog.spans.iter().chain(&catalog.tails).filter_map(|span| span.facts.get("executed"));
        ensure!(known.into_iter().any(|set| *set == executed), "{executed} is not archived");
        streamer = Streamer::start(&scratch, &pitr)?;
        while !server.sql(clients)?.ends_with("\t1") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let status = match flavour {
        Flavour::Mysql => "SHOW STATUS LIKE 'Rpl_semi_sync_source_no_tx'",
        Flavour::Mariadb => "SHOW STATUS LIKE 'Rpl_semi_sync_master_no_tx'",
    };
    ensure!(server.sql(status)?.ends_with("\t0"), "a commit did not wait: {}", server.sql(status)?);
    Ok(())
}

#[tokio::test]
async fn a_commit_that_mysql_waited_for_is_in_the_archive() -> Result<()> {
    let options = [
        "INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'",
        "SET GLOBAL rpl_semi_sync_source_timeout = 60000",
        "SET GLOBAL rpl_semi_sync_source_enabled = ON",
    ];
    a_confirmed_commit_is_in_the_archive(Flavour::Mysql, &options).await
}

#[tokio::test]
async fn a_commit_that_mariadb_waited_for_is_in_the_archive() -> Result<()> {
    let options = [
        "SET GLOBAL rpl_semi_sync_master_timeout = 60000",
        "SET GLOBAL rpl_semi_sync_master_wait_point = AFTER_SYNC",
        "SET GLOBAL rpl_semi_sync_master_enabled = ON",
    ];
    a_confirmed_commit_is_in_the_archive(Flavour::Mariadb, &options).await
}

#[tokio::test]
async fn an_encrypted_log_of_mysql_is_archived_as_the_stock_tool_gets_it() -> Result<()> {
    let scratch = Scratch::new("encrypted")?;
    let server = Mysql::create(&scratch, "a", &MysqlSetup::of(Flavour::Mysql).with(["--binlog-encryption=ON"]))?;
    let keys = scratch.make("keys")?.join("ring");
    scratch.write("a/mysqld.my", "{\"components\": \"file://component_keyring_file\"}")?;
    let path = format!("{{\"path\": {:?}, \"read_only\": false}}", keys.display().to_string());
    scratch.write("a/component_keyring_file.cnf", &path)?;
    an_encrypted_log_is_archived(&scratch, server).await
}

#[tokio::test]
async fn an_encrypted_log_of_mariadb_is_archived_as_the_stock_tool_gets_it() -> Result<()> {
    let scratch = Scratch::new("encrypted")?;
    let keys = scratch.write("keys", "1;770A8A65DA156D24EE2A093277530142\n")?;
    let options = [
        "--plugin-load-add=file_key_management".to_owned(),
        format!("--file-key-management-filename={}", keys.display()),
        "--encrypt-binlog=ON".to_owned(),
    ];
    let server = Mysql::create(&scratch, "a", &MysqlSetup::of(Flavour::Mariadb).with(options))?;
    an_encrypted_log_is_archived(&scratch, server).await
}

/// On disk the files are encrypted; what the server sends is not, and the stock tool gets the same.
async fn an_encrypted_log_is_archived(scratch: &Scratch, mut server: Mysql) -> Result<()> {
    let flavour = server.flavour();
    server.start().await?;
    server.sql(TABLE)?;
    let pitr = Pitr::of_engine(scratch, flavour.engine(), &server.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let streamer = Streamer::start(scratch, &pitr)?;
    insert(&server, 20)?;
    let (first, _) = server.log_end()?;
    server.sql("FLUSH BINARY LOGS")?;
    insert(&server, 3)?;
    binlogs::caught_up(&server, &pitr, &streamer).await?;
    // The server goes away in the middle of a file, and the stream goes on in it.
    let mut streamer = streamer;
    streamer.kill()?;
    insert(&server, 3)?;
    let streamer = Streamer::start(scratch, &pitr)?;
    binlogs::caught_up(&server, &pitr, &streamer).await?;
    let on_disk = std::fs::read(server.data().join(&first))?;
    ensure!(!on_disk.windows(5).any(|bytes| bytes == b"row 1"), "the file is not encrypted");

    let raw = scratch.make("raw")?;
    let mut tool = server.binlog_tool();
    tool.args(["--read-from-remote-server", "--raw", "--to-last-log", "--user=root"]);
    tool.arg(format!("--socket={}", server.socket().display())).arg(format!("--result-file={}/", raw.display()));
    integration_tests::succeed(tool.arg(&first))?;
    let files = binlogs::files(&pitr, flavour).await?;
    assert_eq!(files.len(), 2);
    for ((_, name), ours) in &files {
        ensure!(ours.windows(5).any(|bytes| bytes == b"row 1"), "{name} is not in clear");
        let theirs = std::fs::read(raw.join(name))?;
        // MariaDB adds a checkpoint to the file in use whenever it likes.
        let same = if *name == first { theirs == *ours } else { theirs.starts_with(ours) };
        ensure!(same, "{name} differs from what the stock tool gets");
    }
    assert_eq!(binlogs::catalog(&pitr, flavour).await?.lineages.len(), 1);
    Ok(())
}

/// A server that removes its log sooner than the archive follows is warned of.
#[tokio::test]
async fn log_that_expires_before_it_is_archived_is_warned_of() -> Result<()> {
    let scratch = Scratch::new("expiry")?;
    let server = server(&scratch, "a", Flavour::Mysql, 1, &[]).await?;
    server.sql(TABLE)?;
    let pitr = Pitr::of_engine(&scratch, "mysql", &server.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let mut streamer = Streamer::start(&scratch, &pitr)?;
    insert(&server, 3)?;
    binlogs::caught_up(&server, &pitr, &streamer).await?;
    streamer.kill()?;
    server.sql("SET GLOBAL binlog_expire_logs_seconds = 2")?;
    // Half of that.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    insert(&server, 3)?;
    let streamer = Streamer::start(&scratch, &pitr)?;
    streamer.says("the server removes its log after").await?;
    binlogs::caught_up(&server, &pitr, &streamer).await
}
