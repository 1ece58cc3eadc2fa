//! The real program, with a configuration of its own.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::account::Account;
use crate::{Azurite, Postgres, S3, Scratch, limits};

/// Name of the one source in the configurations of the tests.
pub const SOURCE: &str = "main";

/// `pitr` as the servers' user runs it.
#[derive(Debug, Clone)]
pub struct Pitr {
    program: PathBuf,
    config: PathBuf,
    archive: Option<PathBuf>,
    identity: Option<PathBuf>,
    environment: Vec<(String, String)>,
    account: Account,
}

/// Ends a command that hangs, so that what it had said is shown: the test's own limit would end both without a word. Long
/// campaigns have no limit, see `.config/nextest.toml`.
struct Watch {
    over: mpsc::Sender<()>,
    thread: thread::JoinHandle<bool>,
}

impl Watch {
    fn over(process: u32) -> Self {
        let (over, ended) = mpsc::channel();
        let limited = std::env::var("NEXTEST_PROFILE").is_ok_and(|profile| profile == "default");
        let thread = thread::spawn(move || {
            if !limited || ended.recv_timeout(limits::COMMAND) != Err(mpsc::RecvTimeoutError::Timeout) {
                return false;
            }
            Command::new("kill").args(["-KILL", &process.to_string()]).status().is_ok_and(|status| status.success())
        });
        Self { over, thread }
    }

    fn end(self) -> Result<bool> {
        drop(self.over);
        self.thread.join().map_err(|_| anyhow::anyhow!("the watch panicked"))
    }
}

/// What a run left behind.
#[derive(Debug, Clone)]
pub struct Run {
    /// The command as a user would type it.
    pub line: String,
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed as its result.
    pub stdout: String,
    /// Progress and errors.
    pub stderr: String,
    /// How long it took.
    pub elapsed: Duration,
}

/// What differs between the configurations of the tests.
struct Shape<'a> {
    url: String,
    options: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    archive: Option<PathBuf>,
    encrypted: bool,
    engine: &'a str,
    source_url: &'a str,
}

impl Pitr {
    /// An encrypted archive in a local directory.
    pub fn local(scratch: &Scratch, server: &Postgres) -> Result<Self> {
        Self::in_directory(scratch, server, true)
    }

    /// An archive in a local directory.
    pub fn in_directory(scratch: &Scratch, server: &Postgres, encrypted: bool) -> Result<Self> {
        let archive = scratch.path().join("archive");
        let url = format!("file://{}", archive.display());
        let shape = Shape {
            url,
            options: vec![],
            environment: vec![],
            archive: Some(archive),
            encrypted,
            engine: "postgres",
            source_url: &server.url(),
        };
        Self::new(scratch, shape)
    }

    /// An unencrypted archive in a local directory, of a server that is reached at this URL.
    pub fn of_server_at(scratch: &Scratch, source_url: &str) -> Result<Self> {
        Self::of_engine(scratch, "postgres", source_url, false)
    }

    /// An archive in a local directory, of a server of any engine.
    pub fn of_engine(scratch: &Scratch, engine: &str, source_url: &str, encrypted: bool) -> Result<Self> {
        let archive = scratch.path().join("archive");
        let url = format!("file://{}", archive.display());
        let (options, environment) = (vec![], vec![]);
        let archive = Some(archive);
        Self::new(scratch, Shape { url, options, environment, archive, encrypted, engine, source_url })
    }

    /// An encrypted archive on a real S3 server.
    pub fn on_s3(scratch: &Scratch, server: &Postgres, s3: &S3) -> Result<Self> {
        let (options, environment) = (s3.options(), s3.environment());
        let shape = Shape {
            url: s3.url(),
            options,
            environment,
            archive: None,
            encrypted: true,
            engine: "postgres",
            source_url: &server.url(),
        };
        Self::new(scratch, shape)
    }

    /// An encrypted archive on a real Azure Blob server.
    pub fn on_azure(scratch: &Scratch, server: &Postgres, azurite: &Azurite) -> Result<Self> {
        Self::on_azure_through(azurite.port(), scratch, server, azurite)
    }

    /// The same, where `port` leads to the server.
    pub fn on_azure_through(port: u16, scratch: &Scratch, server: &Postgres, azurite: &Azurite) -> Result<Self> {
        let (options, environment) = (Azurite::options_through(port), azurite.environment());
        let shape = Shape {
            url: azurite.url(),
            options,
            environment,
            archive: None,
            encrypted: true,
            engine: "postgres",
            source_url: &server.url(),
        };
        Self::new(scratch, shape)
    }

    fn new(scratch: &Scratch, shape: Shape<'_>) -> Result<Self> {
        let mut pitr = Self {
            program: scratch.pitr().to_path_buf(),
            config: scratch.path().join("pitr.toml"),
            archive: shape.archive,
            identity: None,
            environment: shape.environment,
            account: scratch.account(),
        };
        let mut toml = format!("[archive]\nurl = {:?}\n", shape.url);
        if !shape.options.is_empty() {
            toml.push_str("[archive.options]\n");
            for (key, value) in &shape.options {
                writeln!(toml, "{key} = {value:?}")?;
            }
        }
        toml.push_str("[encryption]\n");
        if shape.encrypted {
            let (identity, recipient) = pitr.new_identity(scratch)?;
            writeln!(toml, "recipients = [{recipient:?}]\nidentity_file = {identity:?}")?;
            pitr.identity = Some(identity);
        } else {
            toml.push_str("disabled = true\n");
        }
        write!(toml, "[sources.{SOURCE}]\nengine = {:?}\nurl = {:?}\n", shape.engine, shape.source_url)?;
        scratch.write("pitr.toml", &toml)?;
        Ok(pitr)
    }

    /// The same program and source with another, new archive in a directory of its own.
    pub fn with_new_archive(&self, scratch: &Scratch, name: &str) -> Result<Self> {
        let home = scratch.make(name)?;
        let archive = home.join("archive");
        let toml = std::fs::read_to_string(&self.config).context("cannot read the configuration")?;
        let line = toml.lines().find(|line| line.starts_with("url = ")).context("no archive in the configuration")?;
        let toml = toml.replacen(line, &format!("url = \"file://{}\"", archive.display()), 1);
        let config = scratch.write(&format!("{name}/pitr.toml"), &toml)?;
        Ok(Self { config, archive: Some(archive), ..self.clone() })
    }

    /// Adds lines to the section of the source.
    pub fn configure_source<'a>(&self, lines: impl IntoIterator<Item = &'a str>) -> Result<()> {
        use std::io::Write as _;
        let mut file = std::fs::OpenOptions::new().append(true).open(&self.config).context("no configuration")?;
        for line in lines {
            writeln!(file, "{line}")?;
        }
        Ok(())
    }

    /// With the program itself, so that its own key command is what every encrypted test relies on.
    fn new_identity(&self, scratch: &Scratch) -> Result<(PathBuf, String)> {
        let file = scratch.path().join("identity.txt");
        let run =
            self.run([OsStr::new("key"), OsStr::new("new"), OsStr::new("--identity-file"), file.as_os_str()])?.ok()?;
        let recipient = run.stdout.split_whitespace().find(|word| word.starts_with("age1"));
        let recipient = recipient.with_context(|| format!("no recipient in {:?}", run.stdout))?.to_owned();
        Ok((file, recipient))
    }

    /// The command with these arguments, not started.
    pub fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = self.account.command(&self.program);
        command.env("PITR_CONFIG", &self.config).envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.env_remove("PITR_SOURCE").args(args).stdin(Stdio::null());
        command
    }

    /// The same under another program that runs it, such as `time` with its options.
    pub fn timed_command<I: AsRef<OsStr>>(&self, under: &[&str], args: impl IntoIterator<Item = I>) -> Command {
        let [program, options @ ..] = under else { return self.command(args) };
        let mut command = self.account.command(program);
        command.args(options).arg(&self.program).args(args);
        command.env("PITR_CONFIG", &self.config).envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.env_remove("PITR_SOURCE").stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    pub fn run<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Result<Run> {
        Self::finish(self.command(args))
    }

    /// Runs a command made by [`Pitr::command`] to the end.
    pub fn finish(mut command: Command) -> Result<Run> {
        let words = std::iter::once(OsStr::new("pitr")).chain(command.get_args());
        let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let begun = Instant::now();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.with_context(|| format!("cannot run {line}"))?;
        let watch = Watch::over(child.id());
        let output = child.wait_with_output().with_context(|| format!("cannot wait for {line}"))?;
        let hung = watch.end()?;
        let run = Run {
            line,
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).context("stdout is not text")?,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            elapsed: begun.elapsed(),
        };
        if hung {
            bail!("{run}\nended because it took {} s", run.elapsed.as_secs());
        }
        Ok(run)
    }

    /// Starts without waiting; for kills. What it prints is dropped.
    pub fn spawn<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Result<Child> {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start pitr")
    }

    /// Runs with `-o json` and gives `data`.
    pub fn json<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Result<Value> {
        let mut command = self.command(["-o", "json"]);
        command.args(args);
        let run = Self::finish(command)?;
        if !matches!(run.code, Some(0 | 3)) {
            bail!("{run}");
        }
        let mut document: Value = serde_json::from_str(&run.stdout).with_context(|| format!("not JSON: {run}"))?;
        Ok(document["data"].take())
    }

    /// What `archive_command` is set to. The login of an object store comes with it, as it would from the
    /// environment of the service.
    pub fn push_command(&self) -> String {
        let environment: String = self.environment.iter().map(|(key, value)| format!("{key}={value} ")).collect();
        format!(
            "{environment}{} --config {} wal push %p --source {SOURCE}",
            self.program.display(),
            self.config.display()
        )
    }

    /// Lines of the environment that the program needs, also when a server calls it.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Directory of a local archive.
    pub fn archive(&self) -> Result<&Path> {
        self.archive.as_deref().context("the archive is not a directory")
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The age identity of an encrypted archive.
    pub fn identity(&self) -> Option<&Path> {
        self.identity.as_deref()
    }

    /// The program itself.
    pub fn program(&self) -> &Path {
        &self.program
    }
}

impl Run {
    /// The run if it succeeded.
    pub fn ok(self) -> Result<Self> {
        self.with_code(0)
    }

    /// The run if it ended with this code.
    pub fn with_code(self, code: i32) -> Result<Self> {
        if self.code != Some(code) {
            bail!("expected exit code {code}: {self}");
        }
        Ok(self)
    }

    /// Everything printed, on both streams.
    pub fn text(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self.code.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
        write!(
            f,
            "`{}` ended with {code}\nstdout: {}\nstderr: {}",
            self.line,
            self.stdout.trim_end(),
            self.stderr.trim_end()
        )
    }
}
