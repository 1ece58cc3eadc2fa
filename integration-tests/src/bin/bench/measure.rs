//! Times, peak memory, sizes, and the table that is printed.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Wall clock.
    pub time: Duration,
    /// Peak resident memory of the process, in KiB.
    pub peak_kib: u64,
}

/// Runs a command to its end. It is one that was made to run under [`TIME`], which tells the peak memory.
pub fn cost(mut command: Command) -> Result<Cost> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let begun = Instant::now();
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let time = begun.elapsed();
    let stderr = String::from_utf8_lossy(&output.stderr);
    // 3 is done with warnings: the bench backs up without waiting for the log.
    if !matches!(output.status.code(), Some(0 | 3)) {
        bail!("{command:?} failed: {stderr}");
    }
    let peak = stderr.lines().rev().find_map(|line| line.strip_prefix("peak=")?.trim().parse().ok());
    Ok(Cost { time, peak_kib: peak.context("time printed no peak")? })
}

/// The program and arguments to put before a command whose peak memory is wanted.
pub const TIME: [&str; 3] = ["/usr/bin/time", "-f", "peak=%M"];

/// The middle one.
pub fn median(costs: &[Cost]) -> Result<Cost> {
    let mut sorted = costs.to_vec();
    sorted.sort_by_key(|cost| cost.time);
    let peak_kib = costs.iter().map(|cost| cost.peak_kib).max().unwrap_or_default();
    let middle = sorted.get(sorted.len() / 2).context("nothing was measured")?;
    Ok(Cost { time: middle.time, peak_kib })
}

/// Bytes in all files below a directory.
pub fn size(path: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        bytes += if kind.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

/// The result, as Markdown.
pub struct Table {
    about: String,
    rows: Vec<[String; 5]>,
}

impl Table {
    /// An empty table; `about` says what was measured on what.
    pub fn new(about: &str) -> Self {
        Self { about: about.to_owned(), rows: Vec::new() }
    }

    /// Two sides, in some unit where less is better, and the ratio that is aimed at.
    pub fn row(&mut self, what: &str, (ours, theirs): (f64, f64), unit: &str, goal: &str) {
        let ratio = format!("{:.2}", ours / theirs);
        eprintln!("{what}: {ours:.3} {unit} against {theirs:.3} {unit}, ratio {ratio} (goal {goal})");
        self.rows.push([
            what.to_owned(),
            format!("{ours:.3} {unit}"),
            format!("{theirs:.3} {unit}"),
            ratio,
            goal.to_owned(),
        ]);
    }

    /// One figure of ours that is compared with a limit.
    pub fn figure(&mut self, what: &str, ours: String, goal: &str) {
        eprintln!("{what}: {ours} (goal {goal})");
        self.rows.push([what.to_owned(), ours, "-".to_owned(), "-".to_owned(), goal.to_owned()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.about)?;
        writeln!(f, "| what | pitr | peer | ratio | goal |\n|---|---|---|---|---|")?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}
