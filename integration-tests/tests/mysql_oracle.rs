//! Random targets of every form against the server's own log: a restored server must show exactly the transactions
//! before the cut, on MySQL and on MariaDB.
//!
//! `PITR_TARGETS=100` checks more of them, `PITR_SEED` replays a run.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use anyhow::{Context, Result, ensure};
use integration_tests::mysql::{Flavour, Mysql, MysqlSetup};
use integration_tests::mysql_oracle::load::{self, Load};
use integration_tests::mysql_oracle::{self as oracle, Truth};
use integration_tests::seed::{generator, seed};
use integration_tests::{Pitr, Scratch, Streamer, binlogs};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_target_restores_exactly_the_transactions_of_the_log_of_mysql() -> Result<()> {
    run(Flavour::Mysql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_target_restores_exactly_the_transactions_of_the_log_of_mariadb() -> Result<()> {
    run(Flavour::Mariadb).await
}

async fn run(flavour: Flavour) -> Result<()> {
    let seed = seed(flavour.engine());
    let scratch = Scratch::new(&format!("oracle-{}", flavour.engine()))?;
    // Small files, so that the log has many.
    let mut server = Mysql::create(&scratch, "source", &MysqlSetup::of(flavour).with(["--max-binlog-size=1M"]))?;
    server.start().await?;
    let pitr = Pitr::of_engine(&scratch, flavour.engine(), &server.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let mut streamer = Streamer::start(&scratch, &pitr)?;
    load::prepare(&server)?;
    work(&server, seed, 1).await?;
    // A base under load, and an idle stretch that targets may fall into.
    let (busy, base) = tokio::join!(work(&server, seed, 2), meanwhile(&pitr, ["backup", "main"]));
    busy?;
    base?;
    let from = end(&server)?;
    pitr.run(["mark", "main", "before work"])?.ok()?;
    let (busy, marked) = tokio::join!(work(&server, seed, 3), meanwhile(&pitr, ["mark", "main", "it's-in-work"]));
    busy?;
    marked?;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    work(&server, seed, 4).await?;
    binlogs::caught_up(&server, &pitr, &streamer).await?;

    let truth = Truth::read(&server, from).await?;
    eprintln!("{} commits", truth.commits().len());
    let (code, _) = streamer.terminate().await?;
    ensure!(code == Some(0), "the streamer ended with {code:?}\n{}", streamer.log());
    server.stop().await?;
    let count = std::env::var("PITR_TARGETS").ok().and_then(|n| n.parse().ok()).unwrap_or(13);
    let targets = truth.targets(count, &mut generator(seed, 99))?;
    for (number, target) in targets.iter().enumerate() {
        let begun = std::time::Instant::now();
        oracle::check(&scratch, &pitr, &truth, target, number).await?;
        eprintln!("{number:>3} {target:<60} exact, {:.1} s", begun.elapsed().as_secs_f64());
    }
    describes_itself(&pitr)
}

/// The verbs that only look: everything is whole, and is listed.
fn describes_itself(pitr: &Pitr) -> Result<()> {
    pitr.run(["verify", "main"])?.ok()?;
    let (list, status) = (pitr.run(["list", "main"])?.ok()?, pitr.run(["status", "main"])?);
    ensure!(list.stdout.contains("log file 0000"), "{list}");
    ensure!(matches!(status.code, Some(0 | 3)) && !status.text().to_lowercase().contains("gap"), "{status}");
    Ok(())
}

async fn work(server: &Mysql, seed: u64, round: u32) -> Result<()> {
    load::run(server, Load { seed, round, clients: 6, transactions: 30 }).await
}

/// On a thread of its own: the load goes on meanwhile. Where definitions change while a base reads rows, which MariaDB has
/// no lock against, it is taken again.
async fn meanwhile<const N: usize>(pitr: &Pitr, args: [&'static str; N]) -> Result<()> {
    let pitr = pitr.clone();
    tokio::task::spawn_blocking(move || pitr.run(args)).await??.ok().map(drop)
}

fn end(server: &Mysql) -> Result<(u64, u64)> {
    let (file, offset) = server.log_end()?;
    let number = file.rsplit('.').next().and_then(|number| number.parse().ok());
    Ok((number.context("a file without a number")?, offset))
}
