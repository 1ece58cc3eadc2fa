//! Developer commands: `cargo xtask COMMAND`. CI runs the same words and nothing else.
//!
//! One file per command. A command is a plain function that prints what it runs and fails with the reason.
//! This crate depends on none of ours, so that it compiles in seconds and works while they do not.

mod bench;
mod check;
mod ci;
mod demo;
mod e2e;
mod fuzz;
mod servers;
mod shell;
mod test;
mod tidy;
mod versions;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Developer commands of pitr", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything that needs no server: tidy, format, clippy, licences
    Check,
    /// Everything: check, unit and doc tests, and all tests on real servers
    Test(test::Args),
    /// Only the tests on real servers
    E2e(e2e::Args),
    /// A throwaway PostgreSQL, a DROP TABLE, and the way back
    Demo(demo::Args),
    /// Side by side with pgBackRest; prints ratios
    Bench(bench::Args),
    /// Mutated input for every decoder, for a given time
    Fuzz(fuzz::Args),
    /// Install what the tests need; quick when all is there
    Servers(servers::Args),
    /// The tests of the PostgreSQL engine on every version that it supports
    Versions(versions::Args),
    /// The rules of the house that no compiler checks
    Tidy,
    /// What CI does, on a clean clone of the last commit
    Ci(ci::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Check => check::run(),
        Command::Test(args) => test::run(&args),
        Command::E2e(args) => e2e::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Servers(args) => servers::run(&args),
        Command::Versions(args) => versions::run(&args),
        Command::Tidy => tidy::run(),
        Command::Ci(args) => ci::run(&args),
    }
}
