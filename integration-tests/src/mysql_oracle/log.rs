//! The commits of a server, from the text that its own tool prints of its own files.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, NaiveDateTime, Utc};

use crate::mysql::{Flavour, Mysql};

/// One transaction, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its identifier.
    pub gtid: String,
    /// When it committed.
    pub time: DateTime<Utc>,
    /// Number of its file.
    pub file: u64,
    /// Offset of its first event.
    pub begin: u64,
    /// Offset after its last event.
    pub end: u64,
    /// Numbers of the ledger that it inserted.
    pub ids: BTreeSet<i64>,
    /// The named point that it is.
    pub mark: Option<String>,
    /// The table that it created.
    pub made: Option<String>,
    /// The table that it dropped.
    pub dropped: Option<String>,
}

impl Commit {
    /// File and offset of its begin.
    pub fn begin(&self) -> (u64, u64) {
        (self.file, self.begin)
    }

    /// File and offset of its end.
    pub fn end(&self) -> (u64, u64) {
        (self.file, self.end)
    }
}

/// All commits of a running server, in log order.
pub fn read(server: &Mysql) -> Result<Vec<Commit>> {
    let mut commits = Vec::new();
    for path in server.binlogs()? {
        let number = path.extension().and_then(|number| number.to_str()).and_then(|number| number.parse().ok());
        let mut tool = server.binlog_tool();
        tool.args(["--verbose", "--base64-output=DECODE-ROWS"]).arg(&path);
        let output = tool.output().context("cannot run the tool")?;
        ensure!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        commits.extend(parse(&text, server.flavour(), number.context("a file without a number")?)?);
    }
    Ok(commits)
}

/// What the tool calls the events that belong to no transaction.
const ADMINISTRATIVE: [&str; 7] =
    ["Start:", "Previous-GTIDs", "Gtid list", "Binlog checkpoint", "Rotate", "Stop", "Ignorable"];

fn parse(text: &str, flavour: Flavour, file: u64) -> Result<Vec<Commit>> {
    let mut commits: Vec<Commit> = Vec::new();
    let (mut at, mut open, mut ledger, mut marks) = (0, false, false, false);
    for line in text.lines() {
        if let Some(offset) = line.strip_prefix("# at ") {
            at = offset.trim().parse().context(line.to_owned())?;
            continue;
        }
        if let Some((head, kind)) = header(line) {
            if kind.starts_with("GTID") {
                commits.push(begin(flavour, head, kind, line, file, at)?);
                open = true;
            } else if ADMINISTRATIVE.iter().any(|name| kind.starts_with(name)) {
                open = false;
            }
            if let (true, Some(commit)) = (open, commits.last_mut()) {
                commit.end = word_after(head, "end_log_pos").context(line.to_owned())?.parse()?;
            }
            continue;
        }
        let Some(commit) = commits.last_mut().filter(|_| open) else { continue };
        // Behind the last transaction mysqlbinlog adds that its reader chooses identifiers again.
        let next = line.strip_prefix("SET @@SESSION.GTID_NEXT= '").filter(|next| !next.starts_with("AUTOMATIC'"));
        if let Some(gtid) = next {
            commit.gtid = gtid.split('\'').next().unwrap_or_default().to_owned();
        } else if line.starts_with("### ") && line.contains(" INTO ") {
            ledger = line.contains("`oracle`.`ledger`");
            marks = line.contains("`pitr`.`mark`");
        } else if let (true, Some(name)) = (marks, line.strip_prefix("###   @1='")) {
            // The tool writes a quote with a backslash.
            commit.mark = Some(name.trim_end_matches('\'').replace("\\'", "'"));
            marks = false;
        } else if let (true, Some(id)) = (ledger, line.strip_prefix("###   @1=")) {
            commit.ids.insert(id.split_whitespace().next().unwrap_or_default().parse().context(line.to_owned())?);
            ledger = false;
        } else if let Some(table) = table_after(line, "CREATE TABLE oracle.") {
            commit.made = Some(table);
        } else if let Some(table) =
            table_after(line, "DROP TABLE oracle.").or(table_after(line, "DROP TABLE `oracle`."))
        {
            commit.dropped = Some(table);
        }
    }
    Ok(commits)
}

/// `#261123 16:11:58 server id 1  end_log_pos 127 CRC32 0x5e27e053 <tab>Query…`: what stands before the kind, and the kind.
fn header(line: &str) -> Option<(&str, &str)> {
    let numbers = line.strip_prefix('#')?.as_bytes();
    let dated = numbers.len() > 20 && numbers.iter().take(6).all(u8::is_ascii_digit) && line.contains(" server id ");
    dated.then(|| line.split_once('\t')).flatten()
}

fn begin(flavour: Flavour, head: &str, kind: &str, line: &str, file: u64, at: u64) -> Result<Commit> {
    let (gtid, time) = match flavour {
        Flavour::Mysql => {
            let micros =
                line.split("immediate_commit_timestamp=").nth(1).and_then(|rest| rest.split_whitespace().next());
            let micros = micros.and_then(|text| text.parse().ok()).context(line.to_owned())?;
            (String::new(), DateTime::from_timestamp_micros(micros).context("a time out of range")?)
        }
        Flavour::Mariadb => {
            let stamp = head.strip_prefix('#').and_then(|text| text.split(" server id").next()).context("no time")?;
            let stamp: Vec<_> = stamp.split_whitespace().collect();
            let time = NaiveDateTime::parse_from_str(&stamp.join(" "), "%y%m%d %H:%M:%S").context(line.to_owned())?;
            (kind.split_whitespace().nth(1).context("no identifier")?.to_owned(), time.and_utc())
        }
    };
    Ok(Commit { gtid, time, file, begin: at, end: at, ids: BTreeSet::new(), mark: None, made: None, dropped: None })
}

fn word_after<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    text.split_once(word)?.1.split_whitespace().next()
}

fn table_after(line: &str, words: &str) -> Option<String> {
    let rest = line.strip_prefix(words)?;
    let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '`')).collect();
    Some(name.trim_matches('`').to_owned())
}
