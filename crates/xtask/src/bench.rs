//! `cargo xtask bench`: side by side with the peers, ratios as a Markdown table for `docs/BENCHMARKS.md`.

use anyhow::Result;

use crate::e2e::{PROGRAM, target_dir};
use crate::servers;
use crate::shell::{self, cargo};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Size of the cluster, in MiB
    #[arg(long, default_value_t = 2_048)]
    size: u64,
    /// Runs of each side; the medians are compared
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Only this part
    #[arg(long, value_parser = [
        "wal", "base", "replay", "stream", "commits",
        "mysql-stream", "mysql-replay", "mysql-memory", "mysql-dump",
        "mongo-tail", "mongo-replay", "mongo-dump",
    ])]
    only: Option<String>,
    /// Encrypt our side, while the peer stays plain
    #[arg(long)]
    encrypted: bool,
}

/// Builds both programs optimised and runs the benchmark of `integration-tests`.
pub fn run(args: &Args) -> Result<()> {
    servers::ensure_bench()?;
    shell::run(cargo(["build", "--release", "-p", "pitr", "-p", "integration-tests", "--bins"]))?;
    let mut command = shell::program(target_dir().join("release/bench"), [""; 0]);
    command.env(PROGRAM, target_dir().join("release/pitr"));
    command.env("PITR_BENCH_SIZE_MIB", args.size.to_string()).env("PITR_BENCH_RUNS", args.runs.to_string());
    if let Some(only) = &args.only {
        command.env("PITR_BENCH_ONLY", only);
    }
    if args.encrypted {
        command.env("PITR_BENCH_ENCRYPTED", "1");
    }
    shell::run(command)
}
