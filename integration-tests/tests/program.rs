//! The program before there is a server: what `init` asks and makes, on a terminal and without one, and the texts that are
//! made from the command line.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration_tests::{Pitr, Run, Scratch};

/// Every verb of the command line.
const VERBS: [&str; 15] = [
    "init",
    "check",
    "grants",
    "backup",
    "wal",
    "stream",
    "mark",
    "status",
    "list",
    "plan",
    "restore",
    "verify",
    "key",
    "completions",
    "man",
];

/// The program in a directory, with nothing but what stands on its line.
fn pitr(scratch: &Scratch, dir: &Path, args: &[&str]) -> Command {
    let mut command = scratch.command(scratch.pitr());
    command.args(args).current_dir(dir).stdin(Stdio::null()).env_remove("PITR_CONFIG").env_remove("PITR_SOURCE");
    command
}

fn run(scratch: &Scratch, dir: &Path, args: &[&str]) -> Result<Run> {
    Pitr::finish(pitr(scratch, dir, args))
}

/// The same with a terminal of its own, on which somebody types.
fn on_a_terminal(scratch: &Scratch, dir: &Path, line: &str, typed: &str) -> Result<String> {
    let mut command = scratch.command("script");
    command.args(["-qec", &format!("{} {line}", scratch.pitr().display()), "/dev/null"]).current_dir(dir);
    command.env_remove("PITR_CONFIG").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run script")?;
    child.stdin.take().context("no stdin")?.write_all(typed.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{line}: {text}");
    Ok(text)
}

fn mode(path: &Path) -> Result<u32> {
    Ok(fs::metadata(path).with_context(|| path.display().to_string())?.permissions().mode() & 0o777)
}

#[tokio::test]
async fn init_asks_on_a_terminal_alone_and_is_safe_to_repeat_after_any_interruption() -> Result<()> {
    let scratch = Scratch::new("init")?;
    let silent = scratch.make("silent")?;
    let refused = run(&scratch, &silent, &["init"])?.with_code(2)?;
    ensure!(refused.stderr.contains("--archive"), "the flag is not named: {refused}");
    ensure!(fs::read_dir(&silent)?.next().is_none(), "a refused init left something");

    let asked = scratch.make("asked")?;
    let url = format!("file://{}", asked.join("archive").display());
    let text = on_a_terminal(&scratch, &asked, "init --source orders", &format!("{url}\npostgresql:///postgres\n"))?;
    ensure!(text.contains("Archive URL") && text.contains("Connection URL of orders"), "nothing was asked: {text}");
    ensure!(asked.join("archive/archive").is_file(), "there is no archive: {text}");
    for secret in ["identity.txt", "digest.key"] {
        ensure!(mode(&asked.join(secret))? == 0o600, "{secret} can be read by others");
    }
    // Again, and after what kills at any moment would have left: the same archive, the same keys.
    let archive = |run: Run| -> Result<String> {
        let document: serde_json::Value = serde_json::from_str(&run.ok()?.stdout)?;
        document["data"]["archive"].as_str().map(str::to_owned).context("no archive")
    };
    let first = archive(run(&scratch, &asked, &["-o", "json", "init"])?)?;
    let identity = fs::read_to_string(asked.join("identity.txt"))?;
    let line = ["-o", "json", "init", "--archive", &url, "--source", "orders", "--url", "postgresql:///postgres"];
    for lost in [&["pitr.toml"][..], &["digest.key"], &["pitr.toml", "digest.key"]] {
        for file in lost {
            fs::remove_file(asked.join(file))?;
        }
        ensure!(archive(run(&scratch, &asked, &line)?)? == first, "another archive without {lost:?}");
        ensure!(fs::read_to_string(asked.join("identity.txt"))? == identity, "another identity without {lost:?}");
        run(&scratch, &asked, &["key", "check"])?.ok()?;
    }
    // With a whole configuration nothing is asked, and nothing but the archive and its digest key is made.
    let complete = scratch.make("complete")?;
    let toml = fs::read_to_string(asked.join("pitr.toml"))?.replace(&url, &format!("{url}2"));
    scratch.write("complete/pitr.toml", &toml)?;
    let other = archive(run(&scratch, &complete, &["-o", "json", "init"])?)?;
    ensure!(other != first, "the archive of another directory");
    ensure!(fs::read_to_string(complete.join("pitr.toml"))? == toml, "the configuration was changed");
    run(&scratch, &complete, &["key", "new", "--identity-file", "../asked/identity.txt"])?.with_code(6)?;
    ensure!(fs::read_to_string(asked.join("identity.txt"))? == identity, "an identity was overwritten");
    Ok(())
}

#[tokio::test]
async fn completions_and_manual_know_every_verb() -> Result<()> {
    let scratch = Scratch::new("texts")?;
    let here = scratch.path();
    for (shell, check) in [("bash", Some("bash")), ("zsh", None), ("fish", None)] {
        let script = run(&scratch, here, &["completions", shell])?.ok()?.stdout;
        ensure!(VERBS.iter().all(|verb| script.contains(verb)), "{shell} does not know every verb");
        if let Some(program) = check {
            let file = scratch.write("script", &script)?;
            let output = Command::new(program).arg("-n").arg(file).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let manual = run(&scratch, here, &["man"])?.ok()?.stdout;
    ensure!(manual.contains(".TH pitr") && VERBS.iter().all(|verb| manual.contains(verb)), "{manual}");
    let help = run(&scratch, here, &["--help"])?.ok()?.stdout;
    ensure!(VERBS.iter().all(|verb| help.contains(&format!("\n  {verb} "))), "{help}");
    // Of the hooks, whose exit codes a server reads, asking for help is a failure: see `fetch_contract.rs`.
    for verb in VERBS.into_iter().filter(|verb| *verb != "wal") {
        run(&scratch, here, &[verb, "--help"])?.ok()?;
    }
    run(&scratch, here, &["status"])?.with_code(2)?;
    run(&scratch, here, &["completions", "tcsh"])?.with_code(2).map(drop)
}
