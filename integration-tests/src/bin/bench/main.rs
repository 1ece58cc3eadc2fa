//! Side by side with the peers, in one run on one machine: prints a Markdown table of medians and ratios.
//!
//! Only the ratios mean anything: the machine is whatever it is. Runs of both sides alternate, so that a slow moment
//! hits both; both compress with zstd, store into a local directory and sync what they store.

mod base;
mod cluster;
mod measure;
mod mongo;
mod mongo_base;
mod mongo_log;
mod mysql;
mod peer;
mod replay;
mod stream;
mod wal_push;

use anyhow::{Context, Result};
use integration_tests::Scratch;

use cluster::Cluster;
use measure::Table;

/// What is measured, and how large.
struct Options {
    /// Size of the cluster in MiB.
    size_mib: u64,
    /// Runs of each side.
    runs: usize,
    /// Only this part, as `cargo xtask bench --only` names it.
    only: Option<String>,
    /// Encrypt our side (pgBackRest stays plain).
    encrypted: bool,
}

impl Options {
    /// `cargo xtask bench` has the real command line, with help; it passes everything on in the environment.
    fn from_environment() -> Result<Self> {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name}={text} is no number")),
            Err(_) => Ok(default),
        };
        Ok(Self {
            size_mib: number("PITR_BENCH_SIZE_MIB", 2048)?,
            runs: usize::try_from(number("PITR_BENCH_RUNS", 3)?)?,
            only: std::env::var("PITR_BENCH_ONLY").ok(),
            encrypted: std::env::var_os("PITR_BENCH_ENCRYPTED").is_some(),
        })
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::from_environment()?;
    let scratch = Scratch::new("bench")?;
    if ["wal", "base", "replay"].iter().any(|part| options.wants(part)) {
        println!("{}", archived(&scratch, &options).await?);
    }
    if ["stream", "commits"].iter().any(|part| options.wants(part)) {
        println!("{}", stream::run(&scratch, &options).await?);
    }
    if ["mongo-tail", "mongo-replay"].iter().any(|part| options.wants(part)) {
        println!("{}", mongo_log::run(&scratch, &options).await?);
    }
    if options.wants("mongo-dump") {
        println!("{}", mongo_base::run(&scratch, &options).await?);
    }
    if mysql::LOG.iter().any(|part| options.wants(part)) {
        println!("{}", mysql::log(&scratch, &options).await?);
    }
    if options.wants(mysql::DUMP) {
        println!("{}", mysql::dump(&scratch, &options).await?);
    }
    Ok(())
}

/// What a server that archives is measured by.
async fn archived(scratch: &Scratch, options: &Options) -> Result<Table> {
    let cluster = Cluster::create(scratch, options).await?;
    let mut table = Table::new(&cluster.describe().await?);
    if options.wants("wal") {
        wal_push::run(&cluster, options, &mut table).await?;
    }
    if options.wants("base") {
        base::run(&cluster, options, &mut table).await?;
    }
    if options.wants("replay") {
        replay::run(&cluster, options, &mut table).await?;
    }
    Ok(table)
}
