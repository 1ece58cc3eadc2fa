//! `cargo xtask ci`: what CI does, on a clean clone of the last commit, so that a forgotten file shows.

use anyhow::{Context, Result};

use crate::e2e::target_dir;
use crate::shell::{self, program, root};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Compile everything anew instead of sharing the target directory
    #[arg(long)]
    fresh: bool,
}

/// Clones into a temporary directory and runs `.ci/run` there.
pub fn run(args: &Args) -> Result<()> {
    let clone = std::env::temp_dir().join(format!("pitr-ci-{}", std::process::id()));
    let root = root();
    let mut git = program("git", ["clone", "--quiet", "--no-hardlinks"]);
    git.arg(&root).arg(&clone);
    shell::run(git)?;
    let mut ci = program("bash", [".ci/run"]);
    ci.current_dir(&clone);
    if args.fresh {
        ci.env_remove("CARGO_TARGET_DIR");
    } else {
        ci.env("CARGO_TARGET_DIR", target_dir());
    }
    let result = shell::run(ci);
    std::fs::remove_dir_all(&clone).with_context(|| format!("cannot remove {}", clone.display()))?;
    result
}
