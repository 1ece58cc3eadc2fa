//! `cargo xtask e2e`: only the tests on real servers, with their knobs as options.

use std::path::PathBuf;

use anyhow::Result;

use crate::servers;
use crate::shell::{self, cargo, root, succeeds};

/// Environment variable that tells the tests where the program under test is.
pub const PROGRAM: &str = "PITR_BIN";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this test file: pitr_oracle, fetch_contract, kills, …
    #[arg(long, value_name = "FILE")]
    test: Option<String>,
    /// Only tests whose name contains this
    name: Option<String>,
    /// Number of random targets of the oracle
    #[arg(long, value_name = "N")]
    targets: Option<u32>,
    /// Replay the run that printed this seed
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Version of MongoDB for the tests that take any: 4.4.2, 5.0.4, 6.0.5, 6.0.27
    #[arg(long, value_name = "VERSION")]
    mongodb: Option<String>,
    /// Where the servers come from: local or containers
    #[arg(long, value_name = "PROVIDER")]
    servers: Option<String>,
    /// Print what the tests print
    #[arg(long)]
    show: bool,
}

/// Builds the program and the tests together, then runs the tests.
pub fn run(args: &Args) -> Result<()> {
    let containers = args.servers.as_deref() == Some("containers");
    if !containers {
        servers::ensure()?;
    }
    shell::run(cargo(["build", "--workspace", "--all-targets"]))?;
    let nextest = succeeds(cargo(["nextest", "--version"]));
    let mut command = if nextest { cargo(["nextest", "run", "--profile", "campaign"]) } else { cargo(["test"]) };
    // Of the whole workspace: alone, their dependencies would be compiled again with other features.
    command.arg("--workspace").env(PROGRAM, debug_program());
    if containers {
        command.args(["--features", "containers"]);
    }
    match (&args.test, nextest) {
        (Some(test), _) => command.args(["--test", test]),
        (None, true) => command.args(["-E", "package(integration-tests)"]),
        (None, false) => command.args(["--test", "*"]),
    };
    for (name, value) in [
        ("PITR_TARGETS", args.targets.map(|n| n.to_string())),
        ("PITR_SEED", args.seed.map(|n| n.to_string())),
        ("PITR_MONGODB", args.mongodb.clone()),
        ("PITR_TEST_SERVERS", args.servers.clone()),
    ] {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.args(args.name.as_deref());
    match (args.show, nextest) {
        (true, true) => command.args(["--no-capture"]),
        (true, false) => command.args(["--", "--nocapture"]),
        (false, _) => &mut command,
    };
    shell::run(command)
}

/// Where cargo leaves the program that the tests drive.
pub fn debug_program() -> PathBuf {
    target_dir().join("debug/pitr")
}

/// Cargo's target directory.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
