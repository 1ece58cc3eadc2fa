//! The PITR oracle of MySQL and MariaDB: what a restore to a target must show, and whether it does.
//!
//! The definition is that of the product and is evaluated here by other means: the order of commits, their times and
//! places come from `mysqlbinlog` (or `mariadb-binlog`) on the server's own files, never from the archive or from any
//! code of ours.

pub mod load;
mod log;
pub mod shapes;

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rand::RngExt;
use rand::rngs::StdRng;

use self::load::Content;
pub use self::log::{Commit, read};
use crate::mysql::{Flavour, Mysql, MysqlSetup};
use crate::{Pitr, Scratch};

/// Tries for one target before its form counts as used up.
const TRIES: usize = 50;
/// Forms of targets.
const FORMS: usize = 13;
/// The form that every log has most of.
const FORM_OF_IDENTIFIERS: usize = 2;

/// The thing a target names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// Everything.
    Latest,
    /// A moment.
    Time(DateTime<Utc>),
    /// File and offset.
    Place(u64, u64),
    /// A transaction.
    Gtid(String),
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
            Point::Place(file, offset) => format!("file:binlog.{file:06}:{offset}"),
            Point::Gtid(gtid) => format!("gtid:{gtid}"),
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

/// The truth about one server: its log from the very begin, and all rows of its ledger.
#[derive(Debug)]
pub struct Truth {
    flavour: Flavour,
    commits: Vec<Commit>,
    rows: Content,
    /// No target before this place can be restored: the base was not taken yet.
    from: (u64, u64),
}

impl Truth {
    /// Reads it from a running server after everything was written. `from` is where its log ended after the base.
    pub async fn read(server: &Mysql, from: (u64, u64)) -> Result<Self> {
        let commits = log::read(server)?;
        ensure!(commits.len() > 50, "the log has only {} commits", commits.len());
        Ok(Self { flavour: server.flavour(), commits, rows: load::content(server).await?, from })
    }

    /// The commits, in log order.
    pub fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// How many commits, in log order, a restore to this target keeps.
    fn kept(&self, target: &Target) -> Result<usize> {
        let commits = &self.commits;
        let first = |dropped: &dyn Fn(&Commit) -> bool| commits.iter().position(dropped).unwrap_or(commits.len());
        Ok(match &target.point {
            Point::Latest => commits.len(),
            Point::Time(time) if target.keep => first(&|commit| commit.time > *time),
            Point::Time(time) => first(&|commit| commit.time >= *time),
            // A transaction that begins at the place, or spans it, is the one that is named.
            Point::Place(file, offset) if target.keep => first(&|commit| commit.begin() > (*file, *offset)),
            Point::Place(file, offset) => first(&|commit| commit.end() > (*file, *offset)),
            Point::Gtid(gtid) => {
                let at = commits.iter().position(|commit| commit.gtid == *gtid).context("no such transaction")?;
                at + usize::from(target.keep)
            }
            Point::Name(name) => {
                let is_it = |commit: &Commit| commit.mark.as_ref() == Some(name);
                commits.iter().position(is_it).context("no such point")? + usize::from(target.keep)
            }
        })
    }

    fn is_restorable(&self, target: &Target) -> bool {
        // What comes after the last commit the log does not know: such a time is refused.
        let reaches = self.commits.iter().map(|commit| commit.time).max();
        if let Point::Time(time) = &target.point
            && reaches.is_some_and(|reaches| *time > reaches)
        {
            return false;
        }
        let kept = self.kept(target).ok().and_then(|kept| self.commits.get(kept.checked_sub(1)?));
        kept.is_some_and(|last| last.begin() >= self.from)
    }

    /// Random restorable targets: every form in turn, and for each form the edges that are easy to get wrong.
    pub fn targets(&self, count: usize, rng: &mut StdRng) -> Result<Vec<Target>> {
        let mut targets = Vec::new();
        while targets.len() < count {
            let form = targets.len();
            // A form that is used up gives way to identifiers, of which there are most.
            let forms = (0..TRIES).map(|_| form).chain((0..TRIES).map(|_| FORM_OF_IDENTIFIERS));
            let new = forms
                .map(|form| self.candidate(form, rng))
                .find(|target| self.is_restorable(target) && !targets.contains(target));
            targets.push(new.with_context(|| format!("no restorable target of form {form}"))?);
        }
        Ok(targets)
    }

    fn candidate(&self, form: usize, rng: &mut StdRng) -> Target {
        let at = rng.random_range(0..self.commits.len());
        let commit = &self.commits[at];
        let next = self.commits.get(at + 1).unwrap_or(commit);
        // The finest that the family's log knows.
        let tick = match self.flavour {
            Flavour::Mysql => TimeDelta::microseconds(1),
            Flavour::Mariadb => TimeDelta::seconds(1),
        };
        let marks: Vec<&String> = self.commits.iter().filter_map(|commit| commit.mark.as_ref()).collect();
        let (point, keep) = match form % FORMS {
            0 => (Point::Time(commit.time), true),
            1 => (Point::Time(commit.time), false),
            2 => (Point::Gtid(commit.gtid.clone()), true),
            3 => (Point::Gtid(commit.gtid.clone()), false),
            4 => (Point::Place(commit.file, commit.begin), true),
            5 => (Point::Place(commit.file, commit.begin), false),
            6 => (Point::Place(commit.file, commit.begin + 1), rng.random_bool(0.5)),
            7 => (Point::Place(commit.file, commit.end), rng.random_bool(0.5)),
            8 => (Point::Time(commit.time + (next.time - commit.time) / 2), rng.random_bool(0.5)),
            9 => (Point::Time(commit.time - tick), rng.random_bool(0.5)),
            10 => (Point::Time(commit.time + tick), rng.random_bool(0.5)),
            11 if !marks.is_empty() => {
                (Point::Name(marks[rng.random_range(0..marks.len())].clone()), rng.random_bool(0.5))
            }
            // There is one latest; a second one becomes a transaction.
            _ if form >= FORMS => (Point::Gtid(commit.gtid.clone()), rng.random_bool(0.5)),
            _ => (Point::Latest, true),
        };
        Target { point, keep }
    }

    /// Compares what a plan says with what the target must show.
    pub fn compare_plan(&self, plan: &serde_json::Value, target: &Target) -> Result<()> {
        let kept = self.kept(target)?;
        let gtid = |place: Option<usize>| place.and_then(|place| self.commits.get(place)).map(|c| c.gtid.as_str());
        for (key, expected) in [("last_kept", gtid(kept.checked_sub(1))), ("first_dropped", gtid(Some(kept)))] {
            let said = plan[key]["transaction"].as_str();
            ensure!(said == expected, "the plan says {key} {said:?}, the server's log {expected:?}");
        }
        Ok(())
    }

    /// Compares a restored server with what the target must show.
    pub async fn compare(&self, restored: &Mysql, target: &Target) -> Result<()> {
        let kept = self.kept(target)?;
        let commits = &self.commits[..kept];
        let ids: BTreeSet<i64> = commits.iter().flat_map(|commit| commit.ids.iter().copied()).collect();
        let found = load::content(restored).await?;
        let missing: Vec<_> = ids.iter().filter(|id| !found.contains_key(id)).collect();
        let surplus: Vec<_> = found.keys().filter(|id| !ids.contains(id)).collect();
        ensure!(
            missing.is_empty() && surplus.is_empty(),
            "{kept} commits kept; missing {missing:?}, surplus {surplus:?}"
        );
        let expected: Content =
            self.rows.iter().filter(|(id, _)| ids.contains(id)).map(|(k, v)| (*k, v.clone())).collect();
        ensure!(found == expected, "a transaction shows in part");
        let mut tables = BTreeSet::new();
        for commit in commits {
            tables.extend(commit.made.clone());
            if let Some(dropped) = &commit.dropped {
                tables.remove(dropped);
            }
        }
        // Those that the load made before its work are there in any case.
        tables.retain(|table: &String| table.starts_with("ddl"));
        let shown = load::tables(restored).await?;
        ensure!(shown == tables, "tables {shown:?}, expected {tables:?}");
        load::check_derived(restored).await
    }
}

/// Plans for a target, restores to it into a new server, and compares both.
pub async fn check(scratch: &Scratch, pitr: &Pitr, truth: &Truth, target: &Target, number: usize) -> Result<()> {
    let name = format!("r{number}");
    let setup = MysqlSetup::of(truth.flavour).with_id(500 + u32::try_from(number)?);
    let mut server = Mysql::create(scratch, &name, &setup)?;
    server.start().await?;
    let [bound, point] = target.args();
    let url = server.url();
    let outcome = async {
        truth.compare_plan(&pitr.json(["plan", "main", &bound, &point])?, target)?;
        let restore = pitr.command(["restore", "main", &bound, &point, "--target-url", &url]);
        let run = tokio::task::spawn_blocking(move || Pitr::finish(restore)).await??;
        ensure!(matches!(run.code, Some(0 | 3)), "{run}");
        truth.compare(&server, target).await?;
        load::check_nothing_left(&server).await
    };
    let outcome = outcome.await.with_context(|| format!("{target}\nserver log:\n{}", server.log_tail()));
    let data = server.data().to_owned();
    server.kill()?;
    drop(server);
    std::fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;
    outcome
}
