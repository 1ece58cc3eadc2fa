//! `cargo xtask check`: all that can be known without starting a server.

use anyhow::Result;

use crate::shell::{self, cargo, succeeds};
use crate::tidy;

/// Tidy, format, clippy on every target, licences.
pub fn run() -> Result<()> {
    tidy::run()?;
    shell::run(cargo(["fmt", "--all", "--check"]))?;
    shell::run(cargo(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    deny()
}

/// Bans and sources through `cargo deny` where it is installed. Licences do not depend on it: `tidy` reads
/// the same list in `.cargo/deny.toml` and checks every dependency, since building the tool takes longer
/// than building the workspace.
fn deny() -> Result<()> {
    if succeeds(cargo(["deny", "--version"])) {
        shell::run(cargo(["deny", "--config", ".cargo/deny.toml", "check", "licenses", "bans", "sources"]))?;
    } else {
        eprintln!("cargo-deny is not installed: licences were checked by tidy, bans and sources were not");
    }
    Ok(())
}
