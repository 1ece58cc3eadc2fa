//! The settings with which a restored server starts: recovery to one exact position, and nothing that does harm.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use pitr_core::ports::{Recovery, Stop};

use super::RestoreError;
use crate::PgPosition;
use crate::base::SourceSettings;

/// The command that the server runs for each file of the log that it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments. `%f` and `%p` alone stand for the server's file name and path; anything else is literal.
    pub arguments: Vec<String>,
}

impl RestoreCommand {
    /// The command as one line for the server's shell.
    pub fn to_shell(&self) -> String {
        let mut line = shell_word(&self.program.to_string_lossy());
        for argument in &self.arguments {
            line.push(' ');
            match argument.as_str() {
                // The server puts in names that it made itself.
                "%f" | "%p" => line.push_str(&format!("\"{argument}\"")),
                literal => line.push_str(&shell_word(literal)),
            }
        }
        line
    }
}

/// One word for `sh`, in which the server finds nothing to replace.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,@+".contains(c);
    let quoted = if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    };
    quoted.replace('%', "%%")
}

/// A value for a configuration file.
fn quoted(text: &str) -> Result<String, RestoreError> {
    if text.chars().any(char::is_control) {
        return Err(RestoreError::Option(format!("{text:?} cannot be written to a configuration file")));
    }
    Ok(format!("'{}'", text.replace('\\', r"\\").replace('\'', "''")))
}

/// Settings of the source that must not live on in a restored server.
const STALE: [&str; 14] = [
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "synchronous_standby_names",
    "archive_mode",
    "archive_command",
    "archive_library",
    "hot_standby",
    "listen_addresses",
    "external_pid_file",
];

/// The setting that sends a server to another directory than the one it is started for, which only a main file can hold.
const DATA_DIRECTORY: &str = "data_directory";

/// Lines that read in other files.
const INCLUDES: [&str; 3] = ["include", "include_if_exists", "include_dir"];

/// Targets that would contradict ours: the server accepts one kind only.
const OTHER_TARGETS: [&str; 4] =
    ["recovery_target", "recovery_target_name", "recovery_target_time", "recovery_target_xid"];

/// The name that a line of a configuration file sets; `None` for comments.
fn key(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))).unwrap_or(line.len());
    line.get(..end).filter(|key| !key.is_empty())
}

fn sets(conf: &str, name: &str) -> bool {
    conf.lines().filter_map(key).any(|key| key.eq_ignore_ascii_case(name))
}

/// What decides the settings of a restored server.
pub struct RecoverySettings<'a> {
    /// The plan.
    pub recovery: &'a Recovery<PgPosition>,
    /// How the server gets the log.
    pub command: &'a RestoreCommand,
    /// What the server removes once its recovery has ended.
    pub spool: Option<&'a Path>,
    /// Addresses to listen on; what the source says where `None`.
    pub listen_addresses: Option<&'a str>,
    /// `postgresql.conf` of the source, if it was in the data directory.
    pub conf: Option<&'a str>,
    /// `postgresql.auto.conf` of the source.
    pub auto_conf: &'a str,
    /// What the source had.
    pub source: &'a SourceSettings,
}

impl RecoverySettings<'_> {
    /// The new `postgresql.auto.conf`.
    pub fn auto_conf(&self) -> Result<String, RestoreError> {
        let mut text = String::new();
        for line in self.auto_conf.lines() {
            let stale = |key: &str| {
                let key = key.to_ascii_lowercase();
                key.starts_with("recovery_target") || STALE.contains(&key.as_str())
            };
            if !key(line).is_some_and(stale) {
                text.push_str(line);
                text.push('\n');
            }
        }
        let conf = self.conf.unwrap_or_default();
        text.push_str("# Written by pitr restore. Once the server is in use, set archive_mode and archive_command for a\n# lineage of its own and remove the other lines.\n");
        let mut set = |name: &str, value: &str| -> Result<(), RestoreError> {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name} = {}", quoted(value)?);
            Ok(())
        };
        set("archive_mode", "off")?;
        set("hot_standby", "on")?;
        for name in [
            "primary_conninfo",
            "primary_slot_name",
            "synchronous_standby_names",
            "archive_cleanup_command",
            "external_pid_file",
        ] {
            set(name, "")?;
        }
        // A program that every machine has: a command that cannot be found would keep the server from opening.
        let forget = self.spool.map(|spool| format!("rm -rf -- {}", shell_word(&spool.to_string_lossy())));
        set("recovery_end_command", &forget.unwrap_or_default())?;
        set("recovery_min_apply_delay", "0")?;
        if let Some(addresses) = self.listen_addresses {
            set("listen_addresses", addresses)?;
        }
        if self.source.in_place_tablespaces {
            set("allow_in_place_tablespaces", "on")?;
        }
        for name in SourceSettings::MINIMUMS {
            if let Some(value) =
                self.source.settings.get(name).filter(|_| !sets(conf, name) && !sets(self.auto_conf, name))
            {
                set(name, value)?;
            }
        }
        set("restore_command", &self.command.to_shell())?;
        // Emptied before the one that counts is set: the server complains about two, in whatever order.
        for name in OTHER_TARGETS.into_iter().filter(|name| sets(conf, name)) {
            set(name, "")?;
        }
        let (target, inclusive) = match self.recovery.stop {
            Stop::Before(position) => (position, "false"),
            Stop::After(position) => (position, "true"),
        };
        set("recovery_target_timeline", &self.recovery.cut.timeline.to_string())?;
        set("recovery_target_lsn", &target.lsn.to_string())?;
        set("recovery_target_inclusive", inclusive)?;
        set("recovery_target_action", "pause")?;
        Ok(text)
    }

    /// The source's own `postgresql.conf` where it names the data directory, or may do so by a file that it includes: the
    /// server would run, and recover, in the directory of the source instead of the restored one, which is `into`. So the line
    /// is taken out, and where others are read in, their word is not the last.
    pub fn conf_of_here(&self, into: &Path) -> Result<Option<String>, RestoreError> {
        let Some(conf) = self.conf else { return Ok(None) };
        let is = |line: &str, names: &[&str]| {
            key(line).is_some_and(|key| names.iter().any(|name| key.eq_ignore_ascii_case(name)))
        };
        let names_it = |line: &str| is(line, &[DATA_DIRECTORY]);
        let includes = conf.lines().any(|line| is(line, &INCLUDES));
        if !includes && !conf.lines().any(names_it) {
            return Ok(None);
        }
        let line =
            |line: &str| if names_it(line) { format!("# By pitr restore: {line}\n") } else { format!("{line}\n") };
        let mut here: String = conf.lines().map(line).collect();
        if includes {
            let into = std::path::absolute(into).map_err(RestoreError::io("find", into))?;
            here.push_str(
                "# By pitr restore: an included file may name the directory of the source; the last line counts.\n",
            );
            here.push_str(&format!("{DATA_DIRECTORY} = {}\n", quoted(&into.to_string_lossy())?));
        }
        Ok(Some(here))
    }

    /// A `postgresql.conf` for a source that keeps its own outside the data directory.
    pub fn minimal_conf(&self) -> String {
        let mut text = "# Written by pitr restore: the source keeps its configuration outside the data directory.\n\
            # Replace this file by the configuration that the server should have.\n\
            listen_addresses = 'localhost'\n"
            .to_owned();
        let known = &self.source.settings;
        for name in SourceSettings::RECORDED.iter().filter(|name| !SourceSettings::MINIMUMS.contains(name)) {
            if let Some(value) = known.get(*name).and_then(|value| quoted(value).ok()) {
                // As a comment: a library or a locale that this machine lacks would keep the server from starting.
                let _ = writeln!(text, "#{name} = {value}    # on the source");
            }
        }
        text
    }
}

/// A `pg_hba.conf` that lets in whoever is on this machine and proves it.
pub const MINIMAL_HBA: &str = "# Written by pitr restore: the source keeps this file outside the data directory.\n\
local all all peer\nhost all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n";

#[cfg(test)]
#[path = "conf_tests.rs"]
mod tests;
