//! `cargo xtask test`: everything. The README names it and CI runs it.

use anyhow::Result;

use crate::shell::{self, cargo, succeeds};
use crate::{check, e2e, servers};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave out tidy, format, clippy and licences
    #[arg(long)]
    no_check: bool,
    /// Leave out the tests on real servers
    #[arg(long)]
    no_servers: bool,
}

/// Checks, builds everything once, then doc tests and all other tests; the last line is the test runner's.
pub fn run(args: &Args) -> Result<()> {
    if !args.no_servers {
        servers::ensure()?;
    }
    if !args.no_check {
        check::run()?;
    }
    // One build of the whole workspace with all targets: the program under test, the tests and their
    // dependencies then share one set of features, and nothing is compiled twice.
    shell::run(cargo(["build", "--workspace", "--all-targets"]))?;
    shell::run(cargo(["test", "--workspace", "--doc", "--quiet"]))?;
    shell::run(tests(args))
}

/// `cargo nextest` where it is installed, `cargo test` elsewhere: the same tests, in parallel or one after the other.
fn tests(args: &Args) -> std::process::Command {
    let nextest = succeeds(cargo(["nextest", "--version"]));
    let mut command = if nextest { cargo(["nextest", "run"]) } else { cargo(["test", "--all-targets"]) };
    command.arg("--workspace").env(e2e::PROGRAM, e2e::debug_program());
    // The frames of an asynchronous runtime would bury what a failed test says.
    command.env("RUST_LIB_BACKTRACE", "0");
    if args.no_servers {
        command.args(["--exclude", "integration-tests"]);
    }
    command
}
