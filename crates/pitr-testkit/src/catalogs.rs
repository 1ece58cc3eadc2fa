//! Random catalogs of the toy engine, with the truth behind them.
//!
//! Everything that makes planning hard is in them: forks (also in the middle of segments, and forks of forks),
//! holes, overlaps, duplicates, roll-ups beside singles, damaged segments, tails, clocks that run backwards or
//! stand still, idle ends, bases on every side of every edge, points of equal names, identifiers that wrap.

use std::collections::HashMap;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta};
use pitr_core::ports::SealedSegment;
use pitr_core::{Base, BaseId, Bound, Catalog, Engine, Facts, Gap, GapCause, LineageId, Span, Target, Timestamp};
use pitr_plan::{Answer, Need, Request};

use crate::dice::Dice;
use crate::toy::{Kind, Record, Server, Toy, ToyError, ToyPosition, lineage_id, scan};

type Key = (LineageId, u64, u64);

/// A random archive, and what is true about it.
#[derive(Debug, Clone)]
pub struct Case {
    /// Replays the case.
    pub seed: u64,
    /// The truth.
    pub server: Server,
    /// What the archive lists.
    pub catalog: Catalog<ToyPosition>,
    bytes: HashMap<Key, Bytes>,
    rolled: HashMap<Key, Vec<Span<ToyPosition>>>,
}

/// A moment so many seconds after the epoch of the cases.
pub fn second(at: i64) -> Timestamp {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_700_000_000 + at)
}

fn key(span: &Span<ToyPosition>) -> Key {
    (span.lineage.clone(), span.start.offset, span.end.offset)
}

/// A sealed segment as the catalog shows it.
pub fn span_of(segment: &SealedSegment<ToyPosition>) -> Span<ToyPosition> {
    Span {
        lineage: segment.lineage.clone(),
        first: segment.name.clone(),
        last: segment.name.clone(),
        count: 1,
        start: segment.start,
        end: segment.end,
        bytes: segment.bytes.len() as u64,
        commits: segment.commits.clone(),
        marks: segment.marks,
        facts: segment.facts.clone(),
    }
}

/// A roll-up of contiguous spans, which must not be empty.
pub fn roll_up(spans: &[Span<ToyPosition>]) -> Option<Span<ToyPosition>> {
    let (first, rest) = spans.split_first()?;
    let mut all = first.clone();
    for next in rest {
        all.last = next.last.clone();
        all.count += next.count;
        all.end = next.end;
        all.bytes += next.bytes;
        all.commits.extend(&next.commits);
        all.marks += next.marks;
        Toy::merge_facts(&mut all.facts, &next.facts);
    }
    Some(all)
}

impl Case {
    /// The case of a seed.
    pub fn random(seed: u64) -> Result<Self, ToyError> {
        let mut dice = Dice::new(seed);
        let server = history(&mut dice);
        let lineages = server.branches.iter().map(|branch| server.lineage(branch)).collect();
        let catalog = Catalog { lineages, ..Catalog::default() };
        let mut case = Self { seed, server, catalog, bytes: HashMap::new(), rolled: HashMap::new() };
        for branch in 0..case.server.branches.len() {
            case.archive(branch, &mut dice)?;
        }
        case.bases(&mut dice)?;
        Ok(case)
    }

    /// Fulfils a need of the planner, as an archive would.
    pub fn answer(&self, need: &Need<ToyPosition>) -> Result<Answer<ToyPosition>, ToyError> {
        let absent = |span: &Span<ToyPosition>| ToyError::Inconsistent(format!("nobody archived {}", span.start));
        match need {
            Need::Expand(span) => {
                self.rolled.get(&key(span)).cloned().map(Answer::Segments).ok_or_else(|| absent(span))
            }
            Need::Scan { segment, then } => {
                let own = self.segment(segment).ok_or_else(|| absent(segment))?;
                let singles = then.iter().flat_map(|span| self.singles(span));
                let mut end = segment.end.offset;
                // Overlaps: of each follower only what lies behind the bytes so far.
                let mut rest = singles.filter_map(|span| {
                    let skip = end.saturating_sub(span.start.offset);
                    end = end.max(span.end.offset);
                    Some((self.segment(&span)?, skip))
                });
                let followers = std::iter::from_fn(|| rest.next()).map(|(bytes, skip)| Ok(behind(&bytes, skip)));
                Ok(Answer::Scan(scan(&own, segment.start, followers)?))
            }
        }
    }

    /// The bytes of a single segment or tail.
    pub fn segment(&self, span: &Span<ToyPosition>) -> Option<Bytes> {
        self.bytes.get(&key(span)).cloned()
    }

    /// False if a roll-up covers overlapping segments, whose commits its header counts twice.
    pub fn counts_are_exact(&self) -> bool {
        self.rolled.values().all(|parts| parts.windows(2).all(|pair| pair[0].end == pair[1].start))
    }

    /// The single segments that a span stands for.
    pub fn singles(&self, span: &Span<ToyPosition>) -> Vec<Span<ToyPosition>> {
        self.rolled.get(&key(span)).cloned().unwrap_or_else(|| vec![span.clone()])
    }

    fn archive(&mut self, branch: usize, dice: &mut Dice) -> Result<(), ToyError> {
        let (id, origin, end) = match self.server.branches.get(branch) {
            Some(branch) => (branch.id, branch.origin, branch.end()),
            None => return Ok(()),
        };
        let size = self.server.segment;
        let keep = [100, 95, 85, 60][dice.pick(0, 4) as usize];
        let mut sealed = Vec::new();
        let mut at = origin;
        while at + size <= end {
            if dice.chance(keep) {
                sealed.push(self.store(id, at, at + size)?);
            } else if dice.chance(30) {
                let tail = self.store(id, at, at + dice.pick(1, size))?;
                self.catalog.tails.push(tail);
            }
            at += size;
        }
        if at < end && dice.chance(70) {
            let middle = dice.pick(at + 1, end);
            if middle > at && middle < end && dice.chance(40) {
                let tail = self.store(id, at, middle)?;
                self.catalog.tails.push(tail);
                at = if dice.chance(50) { middle } else { at };
            }
            let to = if dice.chance(60) { end } else { dice.pick(at + 1, end + 1) };
            let tail = self.store(id, at, to)?;
            self.catalog.tails.push(tail);
        }
        for _ in 0..dice.pick(0, 3) {
            self.overlap(id, origin, end, &mut sealed, dice)?;
        }
        sealed.sort_by_key(|span| span.start.offset);
        self.damage(&sealed, dice);
        self.record_gap(id, origin, end, dice);
        self.list(sealed, dice);
        Ok(())
    }

    fn store(&mut self, branch: u32, from: u64, to: u64) -> Result<Span<ToyPosition>, ToyError> {
        let segment = self.server.cut(branch, from, to)?;
        let span = span_of(&segment);
        self.bytes.insert(key(&span), segment.bytes);
        Ok(span)
    }

    /// A segment cut at odd places, beside the regular ones.
    fn overlap(
        &mut self,
        id: u32,
        origin: u64,
        end: u64,
        sealed: &mut Vec<Span<ToyPosition>>,
        dice: &mut Dice,
    ) -> Result<(), ToyError> {
        let from = dice.pick(origin, end);
        let to = (from + dice.pick(1, 2 * self.server.segment)).min(end);
        if from < to && dice.chance(30) && sealed.iter().all(|span| span.start.offset != from) {
            sealed.push(self.store(id, from, to)?);
        }
        Ok(())
    }

    fn damage(&mut self, sealed: &[Span<ToyPosition>], dice: &mut Dice) {
        if !dice.chance(10) {
            return;
        }
        // A segment of odd length over the damage would be lost as a whole, in this archive as in any other;
        // the oracle knows bytes, not segments, so damage lies where segments do not overlap.
        let alone = |span: &&Span<ToyPosition>| {
            sealed.iter().all(|other| other == *span || other.end <= span.start || span.end <= other.start)
        };
        let alone: Vec<_> = sealed.iter().filter(alone).collect();
        if let Some(span) = dice.one_of(&alone) {
            self.catalog.gaps.push(Gap {
                lineage: span.lineage.clone(),
                after: span.start,
                before: Some(span.end),
                after_time: None,
                before_time: None,
                cause: GapCause::Damaged("checksum".to_owned()),
            });
        }
    }

    /// A gap that the writer noticed; it may have been filled since.
    fn record_gap(&mut self, id: u32, origin: u64, end: u64, dice: &mut Dice) {
        let after = dice.pick(origin, end);
        let before = dice.pick(after + 1, end + 1);
        if after < before && dice.chance(20) {
            self.catalog.gaps.push(Gap {
                lineage: lineage_id(id),
                after: ToyPosition::new(id, after),
                before: dice.chance(80).then_some(ToyPosition::new(id, before)),
                after_time: None,
                before_time: None,
                cause: GapCause::RemovedByServer("too slow".to_owned()),
            });
        }
    }

    /// Lists sealed segments as singles, roll-ups, or both.
    fn list(&mut self, sealed: Vec<Span<ToyPosition>>, dice: &mut Dice) {
        let mut rest = sealed.as_slice();
        while let Some(first) = rest.first() {
            let wanted = dice.pick(1, 6) as usize;
            let mut run = 1;
            while run < wanted && run < rest.len() && rest[run - 1].continued_by(&rest[run]) {
                run += 1;
            }
            let (now, later) = rest.split_at(run);
            if run > 1
                && let Some(all) = roll_up(now)
            {
                self.rolled.insert(key(&all), now.to_vec());
                self.catalog.spans.push(all);
                if dice.chance(10) {
                    self.catalog.spans.extend_from_slice(now);
                }
            } else {
                self.catalog.spans.push(first.clone());
            }
            rest = later;
        }
    }

    fn bases(&mut self, dice: &mut Dice) -> Result<(), ToyError> {
        for number in 0..[0, 1, 1, 2, 2, 3, 4][dice.pick(0, 7) as usize] {
            let Some(branch) = dice.one_of(&self.server.branches) else { break };
            let fork = branch.fork.map_or(0, |(_, at)| at);
            let mut cuts: Vec<u64> = branch.records.iter().map(|placed| placed.end).collect();
            cuts.insert(0, fork);
            let first = if dice.chance(40) { 0 } else { dice.pick(0, cuts.len() as u64) as usize };
            let last = (first + dice.pick(0, 4) as usize).min(cuts.len() - 1);
            let taken = second(dice.pick(0, 400) as i64);
            self.catalog.bases.push(Base {
                id: BaseId::new(format!("base{number}"))?,
                lineage: lineage_id(branch.id),
                start: ToyPosition::new(branch.id, cuts[first]),
                consistent: ToyPosition::new(branch.id, cuts[last]),
                taken: (taken, taken),
                bytes: 1,
                stored: 1,
                facts: Facts::new(),
            });
        }
        Ok(())
    }

    /// A random request: most of them near something.
    pub fn request(&self, dice: &mut Dice) -> Request {
        let bound = if dice.chance(60) { Bound::To } else { Bound::Before };
        let leaf = dice.one_of(&self.server.branches).map_or(1, |branch| branch.id);
        let records = self.server.records(if dice.chance(70) { self.server.branches.len() as u32 } else { leaf });
        let near = dice.one_of(&records);
        let coordinate = |scheme: &str, value: String| Target::Coordinate { scheme: scheme.to_owned(), value };
        let target = match dice.pick(0, 10) {
            0 => Target::Latest,
            1..=4 => Target::Time(match near {
                Some(placed) => placed.record.time + TimeDelta::seconds(dice.pick(0, 3) as i64 - 1),
                None => second(dice.pick(0, 300) as i64),
            }),
            5 | 6 => coordinate(
                if dice.chance(50) { "at" } else { "record" },
                match near {
                    Some(placed) if dice.chance(60) => placed.begin,
                    Some(placed) => dice.pick(placed.begin, placed.end + 1),
                    None => dice.pick(0, 500),
                }
                .to_string(),
            ),
            7 => coordinate("tx", near.map_or(0, |placed| placed.record.transaction).to_string()),
            _ => coordinate("name", ["a", "b", "c", "d", "e", "f"][dice.pick(0, 6) as usize].to_owned()),
        };
        let bound = if target == Target::Latest && dice.chance(95) { Bound::To } else { bound };
        let lineage = dice.chance(30).then(|| lineage_id(leaf));
        let base = dice.one_of(&self.catalog.bases).map(|base| base.id.clone()).filter(|_| dice.chance(10));
        Request { target, bound, lineage, base }
    }
}

/// A segment without the first `skip` bytes of its log.
fn behind(segment: &Bytes, skip: u64) -> Bytes {
    let (header, log) = segment.split_at(crate::toy::HEADER.min(segment.len()));
    let kept = log.get(skip as usize..).unwrap_or(&[]);
    [header, kept].concat().into()
}

/// Branches full of records.
fn history(dice: &mut Dice) -> Server {
    let mut server = Server::new(dice.pick(30, 140));
    let mut clock =
        Clock { now: 0, transaction: dice.pick(0, 40) as u32, wrap: [12, 40, 1_000][dice.pick(0, 3) as usize] };
    write(&mut server, 1, dice.pick(0, 30), &mut clock, dice);
    for _ in 0..[0, 0, 1, 2, 3][dice.pick(0, 5) as usize] {
        let Some(parent) = dice.one_of(&server.branches) else { break };
        let mut cuts: Vec<u64> = parent.records.iter().map(|placed| placed.end).collect();
        cuts.push(parent.fork.map_or(0, |(_, at)| at));
        let (parent, at) = (parent.id, dice.one_of(&cuts).copied().unwrap_or(0));
        if let Some(child) = server.fork(parent, at) {
            write(&mut server, child, dice.pick(0, 20), &mut clock, dice);
        }
        if dice.chance(30) {
            write(&mut server, parent, dice.pick(0, 6), &mut clock, dice);
        }
    }
    server
}

struct Clock {
    now: i64,
    transaction: u32,
    wrap: u32,
}

fn write(server: &mut Server, branch: u32, records: u64, clock: &mut Clock, dice: &mut Dice) {
    let idle = if dice.chance(30) { dice.pick(0, 6) } else { 0 };
    for number in 0..records + idle {
        clock.now += match dice.pick(0, 10) {
            0..=1 => 0,
            2..=7 => dice.pick(1, 6) as i64,
            8 => -(dice.pick(1, 20) as i64),
            _ => 1,
        };
        // One clock in fifty is far ahead, for one record.
        let ahead = if dice.chance(2) { 1_000 } else { 0 };
        clock.transaction = (clock.transaction + 1) % clock.wrap;
        let kind = match dice.pick(0, 100) {
            _ if number >= records => [Kind::Clock, Kind::Noop][dice.pick(0, 2) as usize].clone(),
            0..55 => Kind::Commit(1 << dice.pick(0, 40)),
            55..65 => Kind::Abort(1),
            65..75 => Kind::Mark(["a", "b", "c", "d", "e"][dice.pick(0, 5) as usize].to_owned()),
            75..85 => Kind::Clock,
            _ => Kind::Noop,
        };
        server.append(branch, Record { kind, transaction: clock.transaction, time: second(clock.now + ahead) });
    }
}
