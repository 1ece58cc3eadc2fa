//! `cargo xtask versions`: the tests of the PostgreSQL engine on every version of the server that it supports.

use std::path::Path;

use anyhow::{Result, bail};

use crate::servers;
use crate::shell::{self, cargo};

/// What is run if nobody names a test: the decoder against the server's own tools, and bases there and back.
const TESTS: [&str; 3] = ["waldump", "base_backup", "restore"];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these major versions
    major: Vec<String>,
    /// Only these test files of pitr-postgres [default: waldump, base_backup, restore]
    #[arg(long, value_name = "FILE")]
    test: Vec<String>,
}

/// Installs the servers, then runs the tests on each, all of them also after a failure.
pub fn run(args: &Args) -> Result<()> {
    let wanted = |major: &str| args.major.is_empty() || args.major.iter().any(|only| only == major);
    let all = servers::ensure_all_postgres(&wanted)?;
    if all.is_empty() {
        bail!("no such version: {}", args.major.join(", "));
    }
    let failed: Vec<&str> =
        all.iter().filter(|(major, bin)| test(major, bin, &args.test).is_err()).map(|(major, _)| *major).collect();
    for (major, _) in &all {
        println!("postgres {major:<3} {}", if failed.contains(major) { "FAILED" } else { "ok" });
    }
    if !failed.is_empty() {
        bail!("failed on {}", failed.join(", "));
    }
    Ok(())
}

fn test(major: &str, bin: &Path, only: &[String]) -> Result<()> {
    println!("--- PostgreSQL {major} ---");
    let mut command = cargo(["test", "--workspace", "--no-fail-fast"]);
    let tests: Vec<&str> = if only.is_empty() { TESTS.to_vec() } else { only.iter().map(String::as_str).collect() };
    command.args(tests.iter().flat_map(|test| ["--test", test]));
    command.env("PITR_PG_BIN", bin).env("PITR_TEST_PG_BIN", bin);
    shell::run(command)
}
