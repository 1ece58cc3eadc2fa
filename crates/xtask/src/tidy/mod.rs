//! `cargo xtask tidy`: the rules of the house that no compiler checks.
//!
//! Each rule is a function that pushes what it finds; all findings are printed, then the command fails.

mod arrows;
mod docs;
mod files;
mod licences;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{cargo, output, program, root};

/// What is wrong, one line each: `place: finding`.
pub type Findings = Vec<String>;

/// Checks every rule.
pub fn run() -> Result<()> {
    let house = House::load()?;
    let mut findings = Findings::new();
    arrows::check(&house, &mut findings)?;
    licences::check(&house, &mut findings)?;
    files::check(&house, &mut findings)?;
    docs::check(&house, &mut findings)?;
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if !findings.is_empty() {
        bail!("tidy found {} things to put right", findings.len());
    }
    eprintln!("tidy: {} files, {} packages: in order", house.files.len(), house.packages()?.len());
    Ok(())
}

/// What the rules look at, read once.
pub struct House {
    /// What `cargo metadata` says.
    metadata: Value,
    /// Files that are committed or about to be, relative to the top.
    files: Vec<String>,
}

impl House {
    fn load() -> Result<Self> {
        let metadata = output(cargo(["metadata", "--format-version", "1", "--locked", "--offline"]))
            .or_else(|_| output(cargo(["metadata", "--format-version", "1"])))?;
        let mut git = program("git", ["ls-files", "--cached", "--others", "--exclude-standard"]);
        git.current_dir(root());
        let exists = |file: &&str| root().join(file).is_file();
        Ok(Self {
            metadata: serde_json::from_str(&metadata).context("cargo metadata is not JSON")?,
            files: output(git)?.lines().filter(exists).map(str::to_owned).collect(),
        })
    }

    /// All packages, ours and foreign.
    fn packages(&self) -> Result<&Vec<Value>> {
        self.metadata["packages"].as_array().context("cargo metadata has no packages")
    }

    /// Our packages, under the names of their directories.
    fn ours(&self) -> Result<Vec<(String, &Value)>> {
        let ours = self.packages()?.iter().filter(|package| package["source"].is_null());
        ours.map(|package| Ok((directory_of(package)?, package))).collect()
    }

    fn read(&self, file: &str) -> Result<String> {
        let bytes = std::fs::read(root().join(file)).with_context(|| format!("cannot read {file}"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The program's package is called `pitr` and lives in `pitr-cli`: the house knows it by its directory.
fn directory_of(package: &Value) -> Result<String> {
    let manifest = package["manifest_path"].as_str().context("a package has no manifest")?;
    let directory = std::path::Path::new(manifest).parent().and_then(|dir| dir.file_name());
    Ok(directory.context("a manifest has no directory")?.to_string_lossy().into_owned())
}
