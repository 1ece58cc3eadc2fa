//! The truth about the log: what the server's own `pg_waldump` says of the server's own files.

use anyhow::{Context, Result, bail};
use chrono::{DateTime, NaiveDateTime, Utc};

use crate::Postgres;

/// A commit record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Where it begins.
    pub begin: u64,
    /// Where the next record begins.
    pub end: u64,
    /// Its commit time.
    pub time: DateTime<Utc>,
    /// Its transaction; of a prepared one, the transaction that was prepared.
    pub xid: u32,
}

/// What a whole log says.
#[derive(Debug, Default)]
pub struct Log {
    /// Commits of all transactions, the server's own included, in log order.
    pub commits: Vec<Commit>,
    /// Named points and where their records begin.
    pub marks: Vec<(String, u64)>,
    /// Where each record begins.
    pub records: Vec<u64>,
}

impl Log {
    /// Reads everything from `start` to the end of the log of timeline 1.
    pub fn read(server: &Postgres, start: &str) -> Result<Self> {
        Self::read_timeline(server, 1, start)
    }

    /// The same of another timeline, from where it began or later.
    pub fn read_timeline(server: &Postgres, timeline: u32, start: &str) -> Result<Self> {
        Self::dump(server, timeline, start, &[])
    }

    /// This log, and the one that another timeline continues it with.
    pub fn then(mut self, next: Self) -> Self {
        let begin = next.records.first().copied().unwrap_or(u64::MAX);
        self.records.retain(|record| *record < begin);
        self.commits.retain(|commit| commit.begin < begin);
        self.marks.retain(|(_, at)| *at < begin);
        if let Some(last) = self.commits.last_mut().filter(|last| last.end == 0) {
            last.end = begin;
        }
        self.records.extend(next.records);
        self.commits.extend(next.commits);
        self.marks.extend(next.marks);
        self
    }

    /// Reads from `start` to what a server that goes on writing has flushed at least, `end`.
    pub fn read_until(server: &Postgres, start: &str, end: &str) -> Result<Self> {
        Self::dump(server, 1, start, &["--end", end])
    }

    fn dump(server: &Postgres, timeline: u32, start: &str, end: &[&str]) -> Result<Self> {
        let mut dump = server.program("pg_waldump");
        dump.arg("--path").arg(server.data().join("pg_wal")).args([
            "--timeline",
            &timeline.to_string(),
            "--start",
            start,
        ]);
        dump.args(end);
        let output = dump.output().context("cannot run pg_waldump")?;
        // The end of the log is always an error to this tool.
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !(stderr.contains("invalid record length")
            || stderr.contains("could not find file")
            || output.status.success())
        {
            bail!("pg_waldump: {stderr}");
        }
        let log = Self::parse(&String::from_utf8(output.stdout).context("pg_waldump printed no text")?)?;
        if log.records.is_empty() {
            bail!("pg_waldump found no record from {start} on: {stderr}");
        }
        Ok(log)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut log = Self::default();
        for line in text.lines() {
            let Some((_, rest)) = line.split_once("lsn: ") else { continue };
            let begin = parse_lsn(rest.split(',').next().unwrap_or_default())?;
            if let Some(last) = log.commits.last_mut().filter(|last| last.end == 0) {
                last.end = begin;
            }
            log.records.push(begin);
            let Some((_, description)) = line.split_once("desc: ") else { continue };
            if line.starts_with("rmgr: Transaction") && description.starts_with("COMMIT") {
                log.commits.push(commit(line, begin, description).with_context(|| format!("not understood: {line}"))?);
            } else if let Some(name) = description.strip_prefix("RESTORE_POINT ") {
                log.marks.push((name.to_owned(), begin));
            }
        }
        Ok(log)
    }

    /// Neighbours in the log whose times are the other way round.
    pub fn inversions(&self) -> usize {
        self.commits.windows(2).filter(|pair| pair[1].time < pair[0].time).count()
    }
}

fn commit(line: &str, begin: u64, description: &str) -> Result<Commit> {
    let (xid, time) = match description.strip_prefix("COMMIT_PREPARED ") {
        Some(rest) => rest.split_once(": ").context("no transaction")?,
        None => {
            let (_, rest) = line.split_once("tx:").context("no transaction")?;
            let xid = rest.split(',').next().unwrap_or_default().trim();
            (xid, description.strip_prefix("COMMIT ").context("no time")?)
        }
    };
    let time = time.split(" UTC").next().unwrap_or_default();
    let time = NaiveDateTime::parse_from_str(time, "%Y-%m-%d %H:%M:%S%.f").context("no time")?.and_utc();
    Ok(Commit { begin, end: 0, time, xid: xid.parse().context("no transaction")? })
}

/// `0/1529F20` as a number.
pub fn parse_lsn(text: &str) -> Result<u64> {
    let (high, low) = text.trim().split_once('/').with_context(|| format!("{text:?} is no LSN"))?;
    let number = |part| u64::from_str_radix(part, 16).with_context(|| format!("{text:?} is no LSN"));
    Ok(number(high)? << 32 | number(low)?)
}

/// A number as `0/1529F20`.
pub fn format_lsn(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    // pg_waldump of PostgreSQL 15, shortened.
    const DUMP: &str = "\
rmgr: Heap        len (rec/tot):     54/   150, tx:        734, lsn: 0/0152A0B0, prev 0/0152A078, desc: INSERT off 1
rmgr: Transaction len (rec/tot):     46/    46, tx:        734, lsn: 0/0152A148, prev 0/0152A0B0, desc: COMMIT 2026-09-07 00:57:00.123456 UTC; inval msgs: catcache 7
rmgr: Transaction len (rec/tot):     66/    66, tx:          0, lsn: 0/0152A178, prev 0/0152A148, desc: COMMIT_PREPARED 733: 2026-09-07 00:57:00.123400 UTC; gid g1
rmgr: XLOG        len (rec/tot):     98/    98, tx:          0, lsn: 0/0152A1C0, prev 0/0152A178, desc: RESTORE_POINT mark_1
rmgr: Transaction len (rec/tot):     34/    34, tx:        735, lsn: 0/0152A228, prev 0/0152A1C0, desc: ABORT 2026-09-07 00:57:01.000000 UTC
";

    #[test]
    fn the_dump_of_a_real_server_is_understood() -> Result<()> {
        let log = Log::parse(DUMP)?;
        assert_eq!(log.records.len(), 5);
        assert_eq!(
            log.commits.iter().map(|c| (c.xid, c.begin, c.end)).collect::<Vec<_>>(),
            [(734, 0x152_A148, 0x152_A178), (733, 0x152_A178, 0x152_A1C0)]
        );
        assert_eq!(log.marks, [("mark_1".to_owned(), 0x152_A1C0)]);
        assert_eq!(log.inversions(), 1);
        Ok(())
    }
}
