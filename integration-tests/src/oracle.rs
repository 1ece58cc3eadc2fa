//! The PITR oracle: what a restore to a target must show, and whether it does.
//!
//! The definition is that of the product and is evaluated here by other means: the order of commits comes from
//! `pg_waldump` on the server's own files, never from the archive or from any code of ours.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::ledger::{self, Content};
use crate::waldump::{Log, format_lsn, parse_lsn};
use crate::{Pitr, Postgres, Scratch, limits};

/// Tries for one target before its form counts as used up.
const TRIES: usize = 50;
/// The form that every log has most of.
const FORM_OF_COMMIT_TIMES: usize = 5;

/// The thing a target names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// Everything.
    Latest,
    /// A moment.
    Time(DateTime<Utc>),
    /// A position.
    Lsn(u64),
    /// A transaction.
    Xid(u32),
    /// A named point.
    Name(String),
}

/// A point, and whether it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What is named.
    pub point: Point,
    /// True for `--to`, false for `--before`.
    pub keep: bool,
}

impl Target {
    /// The two arguments of the command line.
    pub fn args(&self) -> [String; 2] {
        let point = match &self.point {
            Point::Latest => "latest".to_owned(),
            Point::Time(time) => time.to_rfc3339_opts(SecondsFormat::Micros, true),
            Point::Lsn(lsn) => format!("lsn:{}", format_lsn(*lsn)),
            Point::Xid(xid) => format!("xid:{xid}"),
            Point::Name(name) => format!("name:{name}"),
        };
        [if self.keep { "--to" } else { "--before" }.to_owned(), point]
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.args().join(" "))
    }
}

/// The truth about one server: its log, and all rows of its ledger.
#[derive(Debug)]
pub struct Truth {
    log: Log,
    rows: Content,
    /// No target before this position can be restored: the base was not consistent yet.
    from: u64,
}

impl Truth {
    /// Reads it from a running server, after everything was written. `from` is a position after the end of the
    /// oldest base, `start` one that its log certainly still has.
    pub async fn read(server: &Postgres, start: &str, from: &str) -> Result<Self> {
        Self::of(server, Log::read(server, start)?, from).await
    }

    /// The same with a log that was read already.
    pub async fn of(server: &Postgres, log: Log, from: &str) -> Result<Self> {
        let truth = Self { log, rows: ledger::content(server).await?, from: parse_lsn(from)? };
        ensure!(truth.log.commits.len() > 20, "the log has only {} commits", truth.log.commits.len());
        Ok(truth)
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// How many commits, in log order, a restore to this target keeps.
    fn kept(&self, target: &Target) -> Result<usize> {
        let commits = &self.log.commits;
        let first = |dropped: &dyn Fn(&crate::waldump::Commit) -> bool| {
            commits.iter().position(dropped).unwrap_or(commits.len())
        };
        Ok(match &target.point {
            Point::Latest => commits.len(),
            Point::Time(time) if target.keep => first(&|commit| commit.time > *time),
            Point::Time(time) => first(&|commit| commit.time >= *time),
            // A record that begins at the position, or spans it, is the one that is named.
            Point::Lsn(lsn) if target.keep => first(&|commit| commit.begin > *lsn),
            Point::Lsn(lsn) => first(&|commit| commit.end > *lsn),
            Point::Xid(xid) => {
                let at = commits.iter().position(|commit| commit.xid == *xid).context("no such transaction")?;
                at + usize::from(target.keep)
            }
            Point::Name(name) => {
                let (_, lsn) = self.log.marks.iter().find(|(mark, _)| mark == name).context("no such mark")?;
                first(&|commit| commit.begin > *lsn)
            }
        })
    }

    /// True if the cut lies after the oldest base and before the end of the last commit.
    fn is_restorable(&self, target: &Target) -> bool {
        let cut = self.kept(target).ok().and_then(|kept| Some((kept, self.log.commits.get(kept.checked_sub(1)?)?)));
        cut.is_some_and(|(kept, last)| last.begin > self.from && kept > 0)
    }

    /// The rows that a restore to this target must show, and no others.
    fn expected(&self, target: &Target) -> Result<Content> {
        let kept = self.kept(target)?;
        let visible: BTreeSet<u32> = self.log.commits.iter().take(kept).map(|commit| commit.xid).collect();
        // A row of before the first commit that the log still has belongs to every restorable state.
        let known: BTreeSet<u32> = self.log.commits.iter().map(|commit| commit.xid).collect();
        let shown = |xid: &u32| visible.contains(xid) || !known.contains(xid);
        Ok(self.rows.iter().filter(|(_, entry)| shown(&entry.xid)).map(|(id, entry)| (*id, entry.clone())).collect())
    }

    /// Random restorable targets: every form in turn, and for each form the edges that are easy to get wrong.
    pub fn targets(&self, count: usize, rng: &mut StdRng) -> Result<Vec<Target>> {
        let mut targets = Vec::new();
        while targets.len() < count {
            // The same form again until it gives a restorable one. There are few inversions and marks: once all of
            // them are taken, a long run goes on with the moments of commits.
            let form = targets.len();
            let tries = (0..TRIES).map(|_| form).chain((0..TRIES).map(|_| FORM_OF_COMMIT_TIMES));
            let new = tries
                .filter_map(|form| self.candidate(form, rng))
                .find(|target| self.is_restorable(target) && !targets.contains(target));
            targets.push(new.with_context(|| format!("no restorable target of form {form}"))?);
        }
        Ok(targets)
    }

    /// A target of one of twelve forms, or `None` if the log has nothing for it.
    fn candidate(&self, form: usize, rng: &mut StdRng) -> Option<Target> {
        let commits = &self.log.commits;
        let at = rng.random_range(0..commits.len());
        let commit = commits.get(at)?;
        let next = commits.get(at + 1).unwrap_or(commit);
        let micro = TimeDelta::microseconds(1);
        let (point, keep) = match form % 12 {
            // Where the clock went backwards in the log: the one form that every run must have comes first.
            0 => self.inversion(rng).unwrap_or((Point::Time(next.time), true)),
            1 => (Point::Time(commit.time), false),
            2 => (Point::Xid(commit.xid), true),
            3 => (Point::Lsn(commit.begin), false),
            4 => (Point::Name(self.mark(rng)?), rng.random_bool(0.5)),
            5 => (Point::Time(commit.time), true),
            6 => (Point::Xid(commit.xid), false),
            7 => (Point::Lsn(commit.begin), true),
            // Between two commits, or one microsecond beside one.
            8 => (Point::Time(commit.time + (next.time - commit.time) / 2), rng.random_bool(0.5)),
            9 => (
                Point::Time(if rng.random_bool(0.5) { commit.time - micro } else { commit.time + micro }),
                rng.random_bool(0.5),
            ),
            // Inside a commit record, or at the begin of any other record.
            10 => (Point::Lsn(self.position(at, rng)?), rng.random_bool(0.5)),
            _ => (Point::Latest, true),
        };
        // There is one latest; a second one becomes a moment.
        let point = if point == Point::Latest && form >= 12 { Point::Time(commit.time) } else { point };
        Some(Target { point, keep })
    }

    fn mark(&self, rng: &mut StdRng) -> Option<String> {
        let marks = &self.log.marks;
        let at = (!marks.is_empty()).then(|| rng.random_range(0..marks.len()))?;
        marks.get(at).map(|(name, _)| name.clone())
    }

    /// A moment that a commit is not later than, which an earlier commit in the log is: it is dropped all the same.
    fn inversion(&self, rng: &mut StdRng) -> Option<(Point, bool)> {
        let commits = self.log.commits.windows(2).filter(|pair| pair[0].begin > self.from);
        let pairs: Vec<_> = commits.filter(|pair| pair[1].time < pair[0].time).collect();
        let at = (!pairs.is_empty()).then(|| rng.random_range(0..pairs.len()))?;
        let keep = rng.random_bool(0.5);
        pairs.get(at).map(|pair| (Point::Time(pair[usize::from(keep)].time), keep))
    }

    /// True if a commit that is dropped is early enough for the target by its time alone.
    pub fn is_inverted(&self, target: &Target) -> Result<bool> {
        let Point::Time(time) = target.point else { return Ok(false) };
        let dropped = &self.log.commits[self.kept(target)?..];
        Ok(dropped.iter().any(|commit| commit.time < time || target.keep && commit.time == time))
    }

    fn position(&self, commit: usize, rng: &mut StdRng) -> Option<u64> {
        if rng.random_bool(0.5) {
            return self.log.commits.get(commit).map(|commit| commit.begin + 8);
        }
        self.log.records.get(rng.random_range(0..self.log.records.len())).copied()
    }
}

/// Restores to a target, starts the server and compares: the rows exactly, and the position reached.
pub async fn check(
    scratch: &Scratch,
    pitr: &Pitr,
    truth: &Truth,
    target: &Target,
    major: u32,
    name: &str,
) -> Result<()> {
    let into = scratch.path().join(name);
    let [bound, point] = target.args();
    let into_text = into.to_string_lossy();
    pitr.run(["restore", "main", &bound, &point, "--into", &into_text])?.ok()?;
    let mut restored = Postgres::at(scratch, &format!("{name}.run"), major, into.clone())?;
    let outcome = compare(&mut restored, truth, target).await;
    // The log is only at hand as long as the directory is.
    let outcome = outcome.with_context(|| format!("{target}\nserver log:\n{}", restored.log_tail()));
    drop(restored);
    std::fs::remove_dir_all(&into).with_context(|| format!("cannot remove {}", into.display()))?;
    outcome
}

/// Starts a server that was laid down to stop at a target, waits for it, and compares with the truth.
pub async fn compare(restored: &mut Postgres, truth: &Truth, target: &Target) -> Result<()> {
    restored.start().await?;
    wait_for_pause(restored).await?;
    let kept = truth.kept(target)?;
    let expected = truth.expected(target)?;
    let found = ledger::content(restored).await?;
    let missing: Vec<_> = expected.keys().filter(|id| !found.contains_key(id)).collect();
    let surplus: Vec<_> = found.keys().filter(|id| !expected.contains_key(id)).collect();
    ensure!(missing.is_empty() && surplus.is_empty(), "{kept} commits kept; missing {missing:?}, surplus {surplus:?}");
    ensure!(found == expected, "a transaction shows in part");
    let tables = expected.values().filter(|entry| entry.table).count();
    ensure!(ledger::tables(restored).await? == i64::try_from(tables)?, "tables of dropped transactions exist");
    let reached = parse_lsn(&restored.value("SELECT pg_last_wal_replay_lsn()").await?)?;
    let commits = &truth.log.commits;
    let last = kept.checked_sub(1).and_then(|at| commits.get(at)).map_or(0, |commit| commit.begin);
    let next = commits.get(kept).map_or(u64::MAX, |commit| commit.begin);
    ensure!(
        last < reached && reached <= next,
        "stopped at {}, which is not between the last commit kept at {} and the first one dropped at {}",
        format_lsn(reached),
        format_lsn(last),
        format_lsn(next)
    );
    Ok(())
}

/// Waits until replay stands at its target. A server that ends before, or opens for writing, is an error.
pub async fn wait_for_pause(server: &mut Postgres) -> Result<()> {
    let begun = std::time::Instant::now();
    // Version 13 has one word for it less.
    let old =
        server.value("SELECT current_setting('server_version_num')").await.is_ok_and(|version| version.as_str() < "14");
    let paused = match old {
        true => "CASE WHEN pg_is_wal_replay_paused() THEN 'paused' ELSE '' END",
        false => "pg_get_wal_replay_pause_state()",
    };
    let state = format!("SELECT pg_is_in_recovery()::text || CASE WHEN pg_is_in_recovery() THEN {paused} ELSE '' END");
    while begun.elapsed() < limits::REPLAY {
        ensure!(server.is_running()?, "the server ended before the target\n{}", server.log_tail());
        // A query can fail while the server is on its way down, which the next round tells.
        if let Ok(state) = server.value(&state).await {
            match state.as_str() {
                "truepaused" => return Ok(()),
                state if state.starts_with("false") => bail!("the server promoted itself"),
                _ => {}
            }
        }
        tokio::time::sleep(limits::POLL).await;
    }
    bail!("replay did not reach the target\n{}", server.log_tail())
}
