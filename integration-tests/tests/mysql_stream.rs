//! `pitr stream` from real MySQL and MariaDB servers: the archive holds their log, byte for byte, whatever happens.
//!
//! `PITR_LOG_MIB=1024` compares as much more of it.
#![allow(missing_docs)]

use anyhow::{Context, Result, ensure};
use integration_tests::mysql::{Flavour, Mysql, MysqlSetup};
use integration_tests::{Pitr, Scratch, Streamer, binlogs};
use pitr_core::{GapCause, LineageId};

/// A server, and an archive for it.
struct Place {
    server: Mysql,
    pitr: Pitr,
    scratch: Scratch,
}

impl Place {
    async fn new(flavour: Flavour, options: &[&str]) -> Result<Self> {
        let scratch = Scratch::new("mystream")?;
        let setup = MysqlSetup::of(flavour).with(options.iter().copied());
        let mut server = Mysql::create(&scratch, "a", &setup)?;
        server.start().await?;
        server.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY AUTO_INCREMENT, v LONGBLOB)")?;
        let pitr = Pitr::of_engine(&scratch, flavour.engine(), &server.url(), false)?;
        pitr.run(["init"])?.ok()?;
        Ok(Self { server, pitr, scratch })
    }

    fn stream(&self) -> Result<Streamer> {
        Streamer::start(&self.scratch, &self.pitr)
    }

    async fn caught_up(&self, streamer: &Streamer) -> Result<()> {
        binlogs::caught_up(&self.server, &self.pitr, streamer).await
    }

    fn insert(&self, rows: u32) -> Result<()> {
        let statements: String = (0..rows).map(|row| format!("INSERT INTO d.t (v) VALUES ('row {row}');\n")).collect();
        self.server.sql(&statements).map(drop)
    }

    /// Rows of half a mebibyte, in transactions of several sizes.
    fn insert_mib(&self, mib: u32) -> Result<()> {
        let row = "INSERT INTO d.t (v) VALUES (REPEAT('0123456789abcdef', 32768));";
        for batch in 0..mib.div_ceil(8) {
            let several = row.repeat(16);
            let statements = if batch % 2 == 0 { several } else { format!("BEGIN; {several} COMMIT") };
            self.server.sql(&statements)?;
        }
        Ok(())
    }

    /// The histories in the archive, oldest first.
    async fn lineages(&self) -> Result<Vec<LineageId>> {
        let catalog = binlogs::catalog(&self.pitr, self.server.flavour()).await?;
        Ok(catalog.lineages.into_iter().map(|lineage| lineage.id).collect())
    }

    /// Compares all files of the newest history with the server's.
    async fn identical(&self) -> Result<usize> {
        let files = binlogs::files(&self.pitr, self.server.flavour()).await?;
        let newest = self.lineages().await?.pop().context("no history")?;
        binlogs::compare(&self.server, &files, &newest)
    }

    /// Removes older files. A server keeps those that it is still reading for a client, also for one that was killed.
    async fn purge_to(&self, file: &str) -> Result<()> {
        let begun = std::time::Instant::now();
        loop {
            self.server.sql(&format!("PURGE BINARY LOGS TO '{file}'"))?;
            if self.server.binlogs()?.len() == 1 {
                return Ok(());
            }
            ensure!(begun.elapsed() < std::time::Duration::from_secs(60), "the server keeps its files");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    async fn flush(&self) -> Result<()> {
        self.server.sql("FLUSH BINARY LOGS").map(drop)
    }
}

/// Rotation, an orderly end of the server, its crash, a kill of pitr: the files are the server's.
async fn archived_segments_are_the_files(flavour: Flavour) -> Result<()> {
    let mut place = Place::new(flavour, &[]).await?;
    let mut streamer = place.stream()?;
    place.insert(50)?;
    place.flush().await?;
    place.insert(50)?;
    place.caught_up(&streamer).await?;
    // What is committed is durable in the archive about a second later.
    let begun = std::time::Instant::now();
    place.insert(1)?;
    place.caught_up(&streamer).await?;
    eprintln!("{}: archived after {:.2} s", flavour.engine(), begun.elapsed().as_secs_f64());
    ensure!(begun.elapsed() < std::time::Duration::from_secs(5), "a tail took {:?}", begun.elapsed());
    place.insert_mib(std::env::var("PITR_LOG_MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(40))?;
    // pitr dies in the middle, and goes on.
    streamer.kill()?;
    place.insert(30)?;
    place.flush().await?;
    let mut streamer = place.stream()?;
    place.insert(10)?;
    place.caught_up(&streamer).await?;
    // An orderly end is a STOP event, and the log goes on in a new file.
    place.server.stop().await?;
    place.server.start().await?;
    place.insert(10)?;
    place.caught_up(&streamer).await?;
    // A crash leaves no trace in the file.
    place.server.kill()?;
    place.server.start().await?;
    place.insert(10)?;
    place.caught_up(&streamer).await?;
    let (code, _) = streamer.terminate().await?;
    assert_eq!(code, Some(0), "{}", streamer.log());
    let files = place.identical().await?;
    ensure!(files >= 5, "only {files} files were compared");
    assert_eq!(place.lineages().await?.len(), 1, "one history, whatever happened to its server");
    let catalog = binlogs::catalog(&place.pitr, flavour).await?;
    assert_eq!(catalog.gaps, []);
    Ok(())
}

#[tokio::test]
async fn archived_segments_of_mysql_are_its_files() -> Result<()> {
    archived_segments_are_the_files(Flavour::Mysql).await
}

#[tokio::test]
async fn archived_segments_of_mariadb_are_its_files() -> Result<()> {
    archived_segments_are_the_files(Flavour::Mariadb).await
}

/// Two archives of one server: with a number of its own, neither stream ends the other.
async fn two_archives_are_streamed_at_once(flavour: Flavour) -> Result<()> {
    let place = Place::new(flavour, &[]).await?;
    let second = place.pitr.with_new_archive(&place.scratch, "second")?;
    second.configure_source(["server_id = 5001"])?;
    second.run(["init"])?.ok()?;
    let first_stream = place.stream()?;
    first_stream.says("streaming").await?;
    let second_stream = Streamer::start(&place.scratch, &second)?;
    second_stream.says("streaming").await?;
    for _ in 0..5 {
        place.insert(5)?;
        place.caught_up(&first_stream).await?;
        binlogs::caught_up(&place.server, &second, &second_stream).await?;
    }
    for stream in [first_stream, second_stream] {
        ensure!(!stream.log().contains("interrupted"), "one ended the other:\n{}", stream.log());
    }
    Ok(())
}

#[tokio::test]
async fn two_archives_of_mysql_are_streamed_at_once() -> Result<()> {
    two_archives_are_streamed_at_once(Flavour::Mysql).await
}

#[tokio::test]
async fn two_archives_of_mariadb_are_streamed_at_once() -> Result<()> {
    two_archives_are_streamed_at_once(Flavour::Mariadb).await
}

/// Log that the server removed while nobody streamed is a gap with a cause, and the stream goes on behind it.
async fn purged_log_is_a_gap(flavour: Flavour) -> Result<()> {
    let place = Place::new(flavour, &[]).await?;
    let mut streamer = place.stream()?;
    place.insert(5)?;
    place.caught_up(&streamer).await?;
    streamer.kill()?;
    place.insert(5)?;
    place.flush().await?;
    place.insert(5)?;
    place.flush().await?;
    let (current, _) = place.server.log_end()?;
    place.purge_to(&current).await?;
    place.insert(5)?;
    let streamer = place.stream()?;
    place.caught_up(&streamer).await?;
    streamer.says("removed log before it was archived").await?;
    assert_eq!(place.lineages().await?.len(), 1);
    let catalog = binlogs::catalog(&place.pitr, flavour).await?;
    let gap = catalog.gaps.first().context("no gap")?;
    ensure!(matches!(&gap.cause, GapCause::RemovedByServer(text) if text.contains(&current)), "{gap:?}");
    ensure!(gap.before.is_some_and(|before| before.offset == 0), "{gap:?}");
    let status = place.pitr.run(["status"])?;
    ensure!(status.text().contains("removed by the server"), "{status}");
    assert_eq!(place.identical().await?, 1, "the file behind the gap");
    Ok(())
}

#[tokio::test]
async fn log_that_mysql_purged_while_nobody_streamed_is_a_gap() -> Result<()> {
    purged_log_is_a_gap(Flavour::Mysql).await
}

#[tokio::test]
async fn log_that_mariadb_purged_while_nobody_streamed_is_a_gap() -> Result<()> {
    purged_log_is_a_gap(Flavour::Mariadb).await
}

/// After a reset the files have the same names and hold another log.
async fn a_reset_begins_a_new_history(flavour: Flavour, statement: &str) -> Result<()> {
    let place = Place::new(flavour, &[]).await?;
    let streamer = place.stream()?;
    place.insert(5)?;
    place.caught_up(&streamer).await?;
    place.server.sql(statement)?;
    place.insert(50)?;
    place.caught_up(&streamer).await?;
    assert_eq!(place.lineages().await?.len(), 2, "{}", streamer.log());
    assert_eq!(place.identical().await?, 1);
    ensure!(streamer.log().contains("Take a new base"), "{}", streamer.log());
    Ok(())
}

#[tokio::test]
async fn a_reset_of_mysql_begins_a_new_history() -> Result<()> {
    a_reset_begins_a_new_history(Flavour::Mysql, "RESET BINARY LOGS AND GTIDS").await
}

#[tokio::test]
async fn a_reset_of_mariadb_begins_a_new_history() -> Result<()> {
    a_reset_begins_a_new_history(Flavour::Mariadb, "RESET MASTER").await
}

/// A server that lost the end of its log, as after a power loss: both ends are kept, as two histories.
async fn a_log_that_became_shorter_is_a_fork(flavour: Flavour) -> Result<()> {
    let mut place = Place::new(flavour, &[]).await?;
    let mut streamer = place.stream()?;
    place.insert(5)?;
    // The end of a file ends a segment: a place at which both agree.
    place.flush().await?;
    place.insert(1)?;
    let (file, good) = place.server.log_end()?;
    place.insert(2)?;
    place.caught_up(&streamer).await?;
    streamer.terminate().await?;
    place.server.stop().await?;
    let path = place.server.data().join(&file);
    std::fs::OpenOptions::new().write(true).open(&path)?.set_len(good)?;
    place.server.start().await?;
    place.insert(3)?;
    let streamer = place.stream()?;
    place.caught_up(&streamer).await?;
    streamer.says("lost the end of its log").await?;
    let catalog = binlogs::catalog(&place.pitr, flavour).await?;
    assert_eq!(catalog.lineages.len(), 2);
    let fork = catalog.lineages[1].fork.as_ref().context("no fork")?;
    assert_eq!(fork.parent, catalog.lineages[0].id);
    assert_eq!((fork.parent_at.file, fork.parent_at.offset), (2, 0), "the last place at which both agree");
    assert_eq!(place.identical().await?, 2, "the shortened file and the one after it");
    Ok(())
}

#[tokio::test]
async fn a_log_of_mysql_that_became_shorter_is_a_fork() -> Result<()> {
    a_log_that_became_shorter_is_a_fork(Flavour::Mysql).await
}

#[tokio::test]
async fn a_log_of_mariadb_that_became_shorter_is_a_fork() -> Result<()> {
    a_log_that_became_shorter_is_a_fork(Flavour::Mariadb).await
}
