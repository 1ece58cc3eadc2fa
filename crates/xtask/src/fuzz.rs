//! `cargo xtask fuzz`: mutated input for every decoder.

use anyhow::Result;

use crate::shell::{self, cargo};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long to run each decoder, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many inputs each decoder gets, instead of a time
    #[arg(long, conflicts_with = "seconds")]
    iterations: Option<u64>,
    /// Only the decoder with this name: wal, envelope, tar, manifest, history, names, target, label, oplog, binlog
    #[arg(long)]
    decoder: Option<String>,
    /// Replay the run that printed this seed
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the fuzz tests of `integration-tests` for longer than CI does, optimised but with all assertions of the
/// decoders in place.
pub fn run(args: &Args) -> Result<()> {
    let mut command = cargo(["test", "--workspace", "--test", "fuzz"]);
    match args.iterations {
        Some(iterations) => command.env("PITR_FUZZ_ITERATIONS", iterations.to_string()),
        None => command.env("PITR_FUZZ_SECONDS", args.seconds.to_string()),
    };
    if let Some(seed) = args.seed {
        command.env("PITR_SEED", seed.to_string());
    }
    command.arg("--").args(args.decoder.as_deref()).arg("--nocapture");
    shell::run(command)
}
