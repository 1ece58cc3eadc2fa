//! The planner, done the naive way: the oracle of `pitr-plan`.
//!
//! It knows every byte of the truth and lays the path out as one axis of offsets (toy offsets go on across
//! forks). Which bytes are archived is a list of stretches; everything else follows by enumerating records
//! and filtering by definition. No bounds, no roll-ups, no scans, nothing lazy.

use pitr_core::{Base, Bound, Catalog, GapCause, Target, Timestamp};
use pitr_plan::Request;

use crate::toy::{Kind, Placed, Server, ToyPosition};

/// What the oracle says.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It can be restored.
    Ready(Ready),
    /// It cannot.
    Refused(Refused),
    /// The definition leaves it open (a fork in a stretch of log without a single whole record).
    Open,
}

/// A restorable target.
#[derive(Debug, Clone, PartialEq)]
pub struct Ready {
    /// The branches in whose coordinates the cut may be named: several at a fork.
    pub branches: Vec<u32>,
    /// Offset of the cut.
    pub cut: u64,
    /// The one base that is right.
    pub base: String,
    /// Begin of the last commit that is kept.
    pub last_kept: Option<u64>,
    /// Begin of the first that is dropped.
    pub first_dropped: Option<u64>,
    /// Commits after the cut that a time target would have kept by their time.
    pub inversions: u64,
    /// Commits after the cut, to the end of the archived log.
    pub lost: u64,
    /// The counter's value at the cut.
    pub value: i64,
}

/// A refused target.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// The reason, as the planner's code.
    pub code: &'static str,
    /// The hole in the way.
    pub gap: Option<(u64, Option<u64>)>,
    /// Times at the hole's edges, for time targets inside it: what the log before it reaches, and the first
    /// commit after it.
    pub times: Option<(Option<Timestamp>, Option<Timestamp>)>,
    /// The latest restorable cut before the target.
    pub before: Option<u64>,
    /// The earliest one after it.
    pub after: Option<u64>,
}

/// Unbroken log: `from..to` on the axis.
#[derive(Debug, Clone)]
struct Run {
    from: u64,
    to: u64,
    /// Who provides which bytes: index on the path, from, to.
    stretches: Vec<(usize, u64, u64)>,
}

struct Truth<'a> {
    /// Branch number, fork at which it began, fork at which it is left.
    path: Vec<(u32, u64, u64)>,
    records: Vec<Placed>,
    runs: Vec<Run>,
    bases: Vec<(usize, &'a Base<ToyPosition>)>,
}

#[derive(Clone, Copy)]
struct Place {
    run: usize,
    hop: usize,
    cut: u64,
}

/// Where a refused target lies.
enum Spot {
    Nowhere,
    Start,
    Hole(usize),
    Cut(usize),
    End,
}

type Found<T> = Result<T, Verdict>;

/// What is right for a request.
///
/// One verdict, but for a position inside a record that no scan shows: then the cut may as well be at the
/// record's edge, and each answer that follows from one of these cuts is right.
pub fn plan(server: &Server, catalog: &Catalog<ToyPosition>, request: &Request) -> Vec<Verdict> {
    let truth = match Truth::new(server, catalog, request) {
        Ok(truth) if truth.runs.is_empty() => return vec![truth.too_early(Spot::Nowhere)],
        Ok(truth) if truth.is_open() => return vec![Verdict::Open],
        Ok(truth) => truth,
        Err(verdict) => return vec![verdict],
    };
    match truth.resolve(request) {
        Err(verdict) => vec![verdict],
        Ok(places) => {
            let hidden = truth.hidden(&places, request);
            let finish = |place| truth.finish(place, request).unwrap_or_else(|verdict| verdict);
            places.into_iter().map(finish).chain(hidden).collect()
        }
    }
}

fn plain(code: &'static str) -> Verdict {
    Verdict::Refused(Refused { code, gap: None, times: None, before: None, after: None })
}

fn beyond(time: Timestamp, target: Timestamp, bound: Bound) -> bool {
    if bound == Bound::To { time > target } else { time >= target }
}

/// Which bytes of a branch are archived, as maximal stretches.
fn archived(catalog: &Catalog<ToyPosition>, branch: u32, until: u64) -> Vec<(u64, u64)> {
    let damaged: Vec<(u64, u64)> = catalog
        .gaps
        .iter()
        .filter(|gap| gap.after.branch == branch && matches!(gap.cause, GapCause::Damaged(_)))
        .map(|gap| (gap.after.offset, gap.before.map_or(u64::MAX, |before| before.offset)))
        .collect();
    let spans = catalog.spans.iter().chain(&catalog.tails).filter(|span| span.start.branch == branch);
    let mut stretches: Vec<(u64, u64)> = Vec::new();
    for span in spans {
        // A damaged segment is worth nothing; a roll-up over one keeps the segments beside it.
        let (mut from, to) = (span.start.offset, span.end.offset);
        let hit = damaged.iter().filter(|(a, b)| from < *b && *a < to).copied().next();
        match hit {
            Some(_) if span.is_single() => continue,
            Some((a, b)) => {
                stretches.push((from, a.max(from)));
                from = b.min(to);
            }
            None => {}
        }
        stretches.push((from, to));
    }
    stretches.iter_mut().for_each(|stretch| stretch.1 = stretch.1.min(until));
    stretches.retain(|(from, to)| from < to);
    stretches.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (from, to) in stretches {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

impl<'a> Truth<'a> {
    fn new(server: &Server, catalog: &'a Catalog<ToyPosition>, request: &Request) -> Found<Self> {
        let newest =
            server.branches.iter().rfind(|b| server.branches.iter().all(|c| c.fork.is_none_or(|f| f.0 != b.id)));
        let leaf = match &request.lineage {
            Some(lineage) => lineage.as_str().trim_start_matches('b').parse().unwrap_or(0),
            None => newest.map_or(0, |branch| branch.id),
        };
        let path: Vec<(u32, u64, u64)> =
            server.path(leaf).iter().map(|(b, until)| (b.id, b.fork.map_or(0, |(_, at)| at), *until)).collect();
        let mut truth = Self { records: server.records(leaf), path, runs: Vec::new(), bases: Vec::new() };
        truth.lay_out(catalog);
        let mut elsewhere = false;
        for base in &catalog.bases {
            let hop = truth.path.iter().position(|(branch, ..)| *branch == base.start.branch);
            let wanted = request.base.as_ref().is_none_or(|id| *id == base.id);
            match hop.filter(|hop| base.consistent.offset <= truth.path[*hop].2) {
                Some(hop) if wanted => truth.bases.push((hop, base)),
                _ => elsewhere |= wanted,
            }
        }
        match (truth.bases.is_empty(), &request.base) {
            (false, _) => Ok(truth),
            (true, None) => Err(plain("no_base")),
            (true, Some(_)) if elsewhere => Err(plain("base_elsewhere")),
            (true, Some(_)) => Err(plain("base_unknown")),
        }
    }

    fn finish(&self, place: Place, request: &Request) -> Found<Verdict> {
        let base = self.choose(place)?;
        let commits = || self.records.iter().filter(|r| matches!(r.record.kind, Kind::Commit(_)));
        let here = |r: &&Placed| self.is_whole(place.run, r);
        let behind = |r: &&Placed| {
            let later = (place.run + 1..self.runs.len()).any(|run| self.is_whole(run, r));
            later || (self.is_whole(place.run, r) && r.end > place.cut)
        };
        let inverted = |r: &&Placed| match request.target {
            Target::Time(time) => !beyond(r.record.time, time, request.bound),
            _ => false,
        };
        let change = |r: &Placed| if let Kind::Commit(change) = r.record.kind { change } else { 0 };
        Ok(Verdict::Ready(Ready {
            branches: self.names(place),
            cut: place.cut,
            base,
            last_kept: commits().filter(here).filter(|r| r.end <= place.cut).map(|r| r.begin).next_back(),
            first_dropped: commits().filter(here).find(|r| r.end > place.cut).map(|r| r.begin),
            inversions: commits().filter(behind).filter(inverted).count() as u64,
            lost: commits().filter(behind).count() as u64,
            value: commits().filter(|r| r.end <= place.cut).map(change).sum(),
        }))
    }

    fn names(&self, place: Place) -> Vec<u32> {
        let mut names = vec![self.path[place.hop].0];
        let at_fork = self.path.windows(2).filter(|pair| pair[0].2 == place.cut);
        names.extend(at_fork.flat_map(|pair| [pair[0].0, pair[1].0]));
        names
    }

    fn lay_out(&mut self, catalog: &Catalog<ToyPosition>) {
        let mut end: Option<u64> = None;
        for (hop, (branch, fork, until)) in self.path.clone().into_iter().enumerate() {
            // Nothing counts behind the fork at which a history is left.
            end = end.map(|end| end.min(fork));
            for (from, to) in archived(catalog, branch, until) {
                match end {
                    Some(e) if from <= e => {
                        if e < to {
                            if let Some(run) = self.runs.last_mut() {
                                run.stretches.push((hop, e, to));
                                run.to = to;
                            }
                            end = Some(to);
                        }
                    }
                    _ => {
                        // What a child repeats of its parent counts only where it is joined to it.
                        let counted = if hop > 0 { from.max(fork) } else { from };
                        if counted < to {
                            let stretches = vec![(hop, counted, to)];
                            self.runs.push(Run { from: counted, to, stretches });
                            end = Some(to);
                        }
                    }
                }
            }
        }
    }

    /// True if the run holds every byte of the record.
    fn is_whole(&self, run: usize, record: &Placed) -> bool {
        let run = &self.runs[run];
        run.from <= record.begin && record.end <= run.to
    }

    fn whole(&self, run: usize) -> impl DoubleEndedIterator<Item = &Placed> {
        self.records.iter().filter(move |r| self.is_whole(run, r))
    }

    fn commits(&self, run: usize) -> impl DoubleEndedIterator<Item = &Placed> {
        self.whole(run).filter(|r| matches!(r.record.kind, Kind::Commit(_)))
    }

    fn reach(&self, run: usize) -> Option<Timestamp> {
        self.whole(run).filter(|r| r.record.kind != Kind::Noop).map(|r| r.record.time).max()
    }

    /// Who provides the byte at `at`, or the last bytes before it at the end.
    fn hop(&self, run: usize, at: u64) -> usize {
        let stretches = &self.runs[run].stretches;
        stretches.iter().rfind(|(_, from, _)| *from <= at).map_or(0, |(hop, ..)| *hop)
    }

    fn end_of(&self, run: usize) -> Option<Place> {
        let last = self.whole(run).next_back()?;
        Some(Place { run, hop: self.hop(run, last.begin), cut: last.end })
    }

    /// Refuses what lies behind a run.
    fn behind(&self, run: Option<usize>) -> Verdict {
        match run {
            None => self.refused("after_end", None, Spot::End),
            Some(run) if run + 1 == self.runs.len() => self.refused("after_end", None, Spot::End),
            Some(run) => self.refused("in_gap", Some(self.hole(run)), Spot::Hole(run)),
        }
    }

    fn hole(&self, run: usize) -> (u64, Option<u64>) {
        (self.runs[run].to, self.runs.get(run + 1).map(|next| next.from))
    }

    /// True where the answer depends on what a parent wrote after a fork, which is on another path: a splinter
    /// of log that holds a fork but no whole record, and a base that needs no log and lies at a fork at which
    /// the log ends.
    fn is_open(&self) -> bool {
        let holds = |run: &Run, at: u64| run.from <= at && at <= run.to;
        let has_fork = |run: &Run| self.path.iter().any(|(_, fork, until)| holds(run, *fork) || holds(run, *until));
        let splinter = (0..self.runs.len()).any(|run| self.end_of(run).is_none() && has_fork(&self.runs[run]));
        let at_fork = |(hop, base): &(usize, &Base<ToyPosition>)| {
            let cut = base.start.offset;
            cut == self.path[*hop].1 && cut == base.consistent.offset && self.runs.iter().any(|run| run.to == cut)
        };
        splinter || self.bases.iter().any(at_fork)
    }

    fn end(&self, run: usize) -> Found<Place> {
        self.end_of(run).ok_or_else(|| self.behind(run.checked_sub(1)))
    }

    fn resolve(&self, request: &Request) -> Found<Vec<Place>> {
        let one = |place: Place| vec![place];
        match &request.target {
            Target::Latest if request.bound == Bound::Before => Err(plain("before_latest")),
            Target::Latest => self.end(self.runs.len() - 1).map(one),
            Target::Time(time) => self.time(*time, request.bound).map(one),
            Target::Coordinate { scheme, value } => match scheme.as_str() {
                "at" => self.position(value.parse().unwrap_or(0), request.bound),
                "record" => self.record(value.parse().unwrap_or(0), request.bound),
                "tx" => self.event(request.bound, "unknown_transaction", |r| {
                    matches!(r.record.kind, Kind::Commit(_)) && r.record.transaction.to_string() == *value
                }),
                _ => self.event(request.bound, "unknown_name", |r| r.record.kind == Kind::Mark(value.clone())),
            },
        }
    }

    fn time(&self, time: Timestamp, bound: Bound) -> Found<Place> {
        for run in 0..self.runs.len() {
            let first = self.commits(run).next().map(|r| r.begin);
            let in_hole = || {
                let mut verdict = self.behind(Some(run - 1));
                if let Verdict::Refused(refused) = &mut verdict {
                    let reach = (0..run).filter_map(|run| self.reach(run)).max();
                    refused.times = Some((reach, self.commits(run).next().map(|r| r.record.time)));
                }
                verdict
            };
            if let Some(later) = self.commits(run).find(|r| beyond(r.record.time, time, bound)) {
                if run > 0 && first == Some(later.begin) {
                    return Err(in_hole());
                }
                return Ok(Place { run, hop: self.hop(run, later.begin), cut: later.begin });
            }
            if self.reach(run).is_some_and(|reach| reach >= time) {
                if run > 0 && first.is_none() {
                    return Err(in_hole());
                }
                return self.end(run);
            }
        }
        Err(self.refused("after_end", None, Spot::End))
    }

    fn position(&self, at: u64, bound: Bound) -> Found<Vec<Place>> {
        let Some(run) = (0..self.runs.len()).rfind(|run| self.runs[*run].from <= at && at <= self.runs[*run].to) else {
            return Err(match (0..self.runs.len()).rfind(|run| self.runs[*run].to <= at) {
                Some(run) => self.behind(Some(run)),
                None => self.too_early(Spot::Start),
            });
        };
        let seen = |r: &&Placed| r.record.kind != Kind::Noop;
        let named = self.whole(run).filter(seen).find(|r| r.begin == at || (r.begin < at && at < r.end));
        if let Some(record) = named {
            let cut = if bound == Bound::To { record.end } else { record.begin };
            return Ok(vec![Place { run, hop: self.hop(run, record.begin), cut }]);
        }
        if let Some(noop) = self.whole(run).find(|r| r.begin < at && at < r.end) {
            let (edge, hop) = (if bound == Bound::To { noop.end } else { noop.begin }, self.hop(run, noop.begin));
            return Ok(vec![Place { run, hop: self.hop(run, at), cut: at }, Place { run, hop, cut: edge }]);
        }
        if self.end_of(run).is_some_and(|end| at <= end.cut) {
            // The fork and the end of the parent's last record are the same cut, with two names.
            let end = self.end_of(run).filter(|end| end.cut == at);
            return Ok([Place { run, hop: self.hop(run, at), cut: at }].into_iter().chain(end).collect());
        }
        self.end(run)?;
        Err(self.behind(Some(run)))
    }

    /// Like a position, but a record that is to be kept must be there.
    fn record(&self, at: u64, bound: Bound) -> Found<Vec<Place>> {
        let places = self.position(at, bound)?;
        let reached = |run: usize| self.whole(run).any(|record| at < record.end);
        match places.iter().find(|place| bound == Bound::To && !reached(place.run)) {
            Some(place) => Err(self.behind(Some(place.run))),
            None => Ok(places),
        }
    }

    /// The answer to a record that is kept although nothing follows it but what no scan shows: it may as well be taken to
    /// lie behind the log.
    fn hidden(&self, places: &[Place], request: &Request) -> Option<Verdict> {
        let Target::Coordinate { scheme, value } = &request.target else { return None };
        let at: u64 = value.parse().ok().filter(|_| scheme == "record" && request.bound == Bound::To)?;
        let run = places.first()?.run;
        let shown = self.whole(run).any(|record| at < record.end && record.record.kind != Kind::Noop);
        (!shown).then(|| self.behind(Some(run)))
    }

    fn event(&self, bound: Bound, unknown: &'static str, is: impl Fn(&Placed) -> bool) -> Found<Vec<Place>> {
        let found: Vec<(usize, &Placed)> = (0..self.runs.len())
            .flat_map(|run| self.whole(run).map(move |r| (run, r)))
            .filter(|(_, r)| is(r))
            .collect();
        match found.as_slice() {
            [] => Err(plain(unknown)),
            [(run, r)] => {
                let cut = if bound == Bound::To { r.end } else { r.begin };
                Ok(vec![Place { run: *run, hop: self.hop(*run, r.begin), cut }])
            }
            _ => Err(plain("ambiguous")),
        }
    }

    fn order(base: &(usize, &Base<ToyPosition>)) -> (usize, u64, u64, String) {
        (base.0, base.1.consistent.offset, base.1.start.offset, base.1.id.to_string())
    }

    /// True if log can be read from the base's start on, without a hole, in this run.
    fn serves(&self, run: usize, (hop, base): &(usize, &Base<ToyPosition>)) -> bool {
        let here = &self.runs[run];
        let last = here.stretches.last().map_or(0, |(hop, ..)| *hop);
        let start = base.start.offset;
        here.from <= start && (start < here.to || (start == here.to && *hop <= last))
    }

    fn choose(&self, place: Place) -> Found<String> {
        let before: Vec<_> =
            self.bases.iter().filter(|(hop, base)| *hop <= place.hop && base.consistent.offset <= place.cut).collect();
        if let Some(best) = before.iter().filter(|one| self.serves(place.run, one)).max_by_key(|one| Self::order(one)) {
            return Ok(best.1.id.to_string());
        }
        let Some(blocked) = before.into_iter().max_by_key(|one| Self::order(one)) else {
            return Err(self.too_early(Spot::Cut(place.run)));
        };
        let start = blocked.1.start.offset;
        let spot = Spot::Cut(place.run);
        let home = (0..self.runs.len()).find(|run| self.serves(*run, blocked));
        let gap = match home.or_else(|| (0..self.runs.len()).rfind(|run| self.runs[*run].to <= start)) {
            Some(run) => self.hole(run),
            None => (start, Some(self.runs[0].from)),
        };
        match gap {
            (_, None) => Err(self.too_early(spot)),
            gap => Err(self.refused("crosses_gap", Some(gap), spot)),
        }
    }

    fn window(&self, run: usize) -> Option<&Base<ToyPosition>> {
        let end = self.end_of(run)?;
        let serves = |one: &&(usize, &Base<ToyPosition>)| {
            one.0 <= end.hop && one.1.consistent.offset <= end.cut && self.serves(run, one)
        };
        self.bases.iter().filter(serves).min_by_key(|one| Self::order(one)).map(|(_, base)| *base)
    }

    fn too_early(&self, spot: Spot) -> Verdict {
        let from = if let Spot::Cut(run) = spot { run } else { 0 };
        let code = if (from..self.runs.len()).any(|run| self.window(run).is_some()) { "before_base" } else { "no_log" };
        self.refused(code, None, spot)
    }

    fn refused(&self, code: &'static str, gap: Option<(u64, Option<u64>)>, spot: Spot) -> Verdict {
        let (before, after) = match spot {
            Spot::Nowhere => (0, self.runs.len()),
            Spot::Start => (0, 0),
            Spot::Hole(run) => (run + 1, run + 1),
            Spot::Cut(run) => (run, run),
            Spot::End => (self.runs.len(), self.runs.len()),
        };
        let ends = (0..before).rev().filter(|run| self.window(*run).is_some());
        let before = ends.filter_map(|run| self.end_of(run)).map(|end| end.cut).next();
        let after = (after..self.runs.len()).find_map(|run| self.window(run)).map(|base| base.consistent.offset);
        Verdict::Refused(Refused { code, gap, times: None, before, after })
    }
}
