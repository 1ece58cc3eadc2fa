//! From a target to a cut: what each form of target means, exactly.

use pitr_core::ports::Stop;
use pitr_core::{Bound, CommitBounds, Engine, Event, Locator, Target, Timestamp, What};

use crate::choose::{Bases, too_early};
use crate::limits::MAX_KNOWN_NAMES;
use crate::log::{At, Halt, Log, RunEnd, Step, has_commits, is_commit};
use crate::refusal::{Candidate, Reason, Spot};

/// A target as a cut.
#[derive(Debug, Clone)]
pub(crate) struct Resolved<P> {
    /// The lineage of the cut, as an index on the path.
    pub hop: usize,
    /// Everything before it is in.
    pub cut: P,
    /// How to stop there.
    pub stop: Stop<P>,
    /// The place that holds the record to stop at.
    pub at: At,
    /// The last place whose bytes are needed to stop there.
    pub last: At,
}

/// What is refused, and where it lies.
pub(crate) fn refuse<P, T>(reason: Reason<P>, spot: Spot) -> Step<P, T> {
    Err(Halt::Refused(Box::new(reason), spot))
}

pub(crate) fn resolve<E: Engine>(
    log: &Log<'_, E>,
    target: &Target,
    bound: Bound,
    bases: &Bases<'_, E::Position>,
) -> Step<E::Position, Resolved<E::Position>> {
    match (target, bound) {
        (Target::Latest, Bound::Before) => refuse(Reason::BeforeLatest, Spot::Nowhere),
        (Target::Latest, Bound::To) => latest(log),
        (Target::Time(time), _) => at_time(log, *time, bound),
        (Target::Coordinate { scheme, value }, _) => {
            let leaf = log.walk.path.last().copied();
            let Some(leaf) = leaf else { return refuse(Reason::NoLineage, Spot::Nowhere) };
            match E::locate(leaf, scheme, value) {
                Err(error) => refuse(Reason::TargetInvalid(error), Spot::Nowhere),
                Ok(Locator::Transaction(id)) => transaction(log, &id, bound),
                Ok(Locator::Named(name)) => named(log, &name, bound),
                Ok(Locator::Position(_)) => position(log, scheme, value, bound, bases),
                Ok(Locator::Record(_)) => record(log, scheme, value, bound, bases),
            }
        }
    }
}

/// True for a commit time that the target leaves out.
pub(crate) fn is_beyond(time: Timestamp, target: Timestamp, bound: Bound) -> bool {
    match bound {
        Bound::To => time > target,
        Bound::Before => time >= target,
    }
}

fn latest<E: Engine>(log: &Log<'_, E>) -> Step<E::Position, Resolved<E::Position>> {
    let last = log.runs().saturating_sub(1);
    end_of_run(log, last)
}

/// The end of the last whole record of a run. A run without one is a splinter behind a hole.
fn end_of_run<E: Engine>(log: &Log<'_, E>, run: usize) -> Step<E::Position, Resolved<E::Position>> {
    match log.end_of(run)? {
        Some(RunEnd { at, hop, cut, stop }) => {
            let last = log.place_reaching(at, hop, &cut);
            Ok(Resolved { hop, cut, stop, at, last })
        }
        None => beyond_run(log, run.checked_sub(1)),
    }
}

/// Refuses what lies in the hole after `run`, after the end of the log, or (`None`) before any record.
fn beyond_run<E: Engine, T>(log: &Log<'_, E>, run: Option<usize>) -> Step<E::Position, T> {
    let Some(run) = run else { return refuse(Reason::AfterEnd { reaches: None, gap: None }, Spot::End) };
    match log.hole_after(run) {
        Some(gap) => refuse(Reason::InGap { gap }, Spot::Hole(run)),
        None => {
            let reaches = (0..log.runs()).filter_map(|run| log.known_reach(run)).max();
            refuse(Reason::AfterEnd { reaches, gap: log.break_after(run) }, Spot::End)
        }
    }
}

/// Keeps or drops the record between `begin` and `end`, which begins at place `at`.
fn around<E: Engine>(
    log: &Log<'_, E>,
    at: At,
    (begin, end): (&E::Position, &E::Position),
    bound: Bound,
) -> Resolved<E::Position> {
    let hop = log.piece(at).map_or(0, |piece| piece.hop);
    let last = log.place_reaching(at, hop, end);
    match bound {
        Bound::To => Resolved { hop, cut: end.clone(), stop: Stop::After(begin.clone()), at, last },
        Bound::Before => Resolved { hop, cut: begin.clone(), stop: Stop::Before(begin.clone()), at, last },
    }
}

/// The cut before the first commit, in log order, that the target leaves out.
///
/// Runs are searched from the oldest. A later run can only answer if its first commit is kept: otherwise
/// the first commit to be left out may as well be in the hole before it.
fn at_time<E: Engine>(log: &Log<'_, E>, time: Timestamp, bound: Bound) -> Step<E::Position, Resolved<E::Position>> {
    let beyond = |event: &Event<E::Position>| event.time.is_some_and(|at| is_beyond(at, time, bound));
    let may = |bounds: &CommitBounds| bounds.open || bounds.max.is_some_and(|max| is_beyond(max, time, bound));
    for run in 0..log.runs() {
        let start = At { run, piece: 0 };
        if let Some((at, event)) = log.first_commit(start, may, beyond)? {
            if run > 0 && is_first_of_run(log, at, event)? {
                return beyond_run(log, Some(run - 1));
            }
            return Ok(around(log, at, (&event.begin, &event.end), Bound::Before));
        }
        if log.reach(run)? >= Some(time) {
            if run > 0 && log.first_commit(start, has_commits, |_| true)?.is_none() {
                return beyond_run(log, Some(run - 1));
            }
            return end_of_run(log, run);
        }
    }
    beyond_run(log, log.runs().checked_sub(1))
}

/// True if no commit of the run comes before `event`.
fn is_first_of_run<E: Engine>(log: &Log<'_, E>, at: At, event: &Event<E::Position>) -> Step<E::Position, bool> {
    let earlier = |(_, piece): (At, &crate::walk::Piece<'_, E::Position>)| piece.whole && piece.span.commits.count > 0;
    if log.places(at.run).take(at.piece).any(earlier) {
        return Ok(false);
    }
    let first = log.first_commit(At { run: at.run, piece: 0 }, has_commits, |_| true)?;
    Ok(first.is_some_and(|(_, first)| first.begin == event.begin))
}

/// The cut at a record. To keep one that the log does not hold would be to promise it; to drop it is to keep all before
/// it, which the end of the log is enough for.
fn record<E: Engine>(
    log: &Log<'_, E>,
    scheme: &str,
    value: &str,
    bound: Bound,
    bases: &Bases<'_, E::Position>,
) -> Step<E::Position, Resolved<E::Position>> {
    let resolved = position(log, scheme, value, bound, bases)?;
    if bound == Bound::Before {
        return Ok(resolved);
    }
    let Place::Held(at, position) = place(log, scheme, value)? else { return Ok(resolved) };
    match record_at(log, at, &position)?.is_some() || goes_on(log, at, &position)? {
        true => Ok(resolved),
        false => beyond_run(log, Some(at.run)),
    }
}

/// True if a record is known that ends behind `position`, which is held by place `at`.
fn goes_on<E: Engine>(log: &Log<'_, E>, at: At, position: &E::Position) -> Step<E::Position, bool> {
    for (here, piece) in log.places(at.run).skip(at.piece) {
        let behind = |end: &E::Position| here > at || !(end <= position);
        let last = log.scan(here)?.last_record.as_ref();
        let last_is = last.is_some_and(|(begin, end)| behind(end) && log.counts(piece, begin, end));
        if last_is || { log.events(here)? }.any(|event| behind(&event.end)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The cut at a position.
///
/// A record that begins at the position, or spans it, is named by it: kept by `--to`, dropped by `--before`.
/// The planner knows events and the last record of a segment; any other record changes nothing that a
/// target could tell, and the cut is the position itself.
fn position<E: Engine>(
    log: &Log<'_, E>,
    scheme: &str,
    value: &str,
    bound: Bound,
    bases: &Bases<'_, E::Position>,
) -> Step<E::Position, Resolved<E::Position>> {
    let (hop, position) = match place(log, scheme, value)? {
        Place::Held(at, position) => return cut_at(log, at, &position, bound),
        Place::Missing(hop, position) => (hop, position),
        Place::Nowhere => return too_early(log, bases, Spot::Start),
    };
    let comparable =
        |piece: &crate::walk::Piece<'_, E::Position>| piece.hop != hop || piece.end.partial_cmp(&position).is_some();
    if !(0..log.runs()).any(|run| log.run(run).iter().any(comparable)) {
        return refuse(Reason::NotInLog, Spot::Nowhere);
    }
    match log.last_ended(hop, &position) {
        Some(run) => beyond_run(log, Some(run)),
        // Before all log, and so before every base that the log can serve.
        None => too_early(log, bases, Spot::Start),
    }
}

enum Place<P> {
    /// The position, in coordinates of the lineage whose bytes hold it.
    Held(At, P),
    /// The position as its lineage names it: no bytes of the path hold it.
    Missing(usize, P),
    /// Before the fork of the oldest lineage of the path.
    Nowhere,
}

/// Finds the lineage that a position belongs to. One without a lineage of its own (an LSN) is read as the
/// leaf's, and as an ancestor's if it lies before the fork.
fn place<E: Engine>(log: &Log<'_, E>, scheme: &str, value: &str) -> Step<E::Position, Place<E::Position>> {
    let mut missing = None;
    for (hop, lineage) in log.walk.path.iter().enumerate().rev() {
        let position = match E::locate(lineage, scheme, value) {
            Ok(located) => located.position(),
            Err(error) => return refuse(Reason::TargetInvalid(error), Spot::Nowhere),
        };
        let Some(position) = position else { continue };
        for run in (0..log.runs()).rev() {
            if let Some(at) = log.place_of(run, hop, &position) {
                return Ok(Place::Held(at, position));
            }
        }
        let before_fork = lineage.fork.as_ref().is_some_and(|fork| position < fork.child_at);
        if missing.is_none() && !before_fork {
            missing = Some((hop, position));
        }
    }
    match missing {
        Some((hop, position)) => Ok(Place::Missing(hop, position)),
        None => Ok(Place::Nowhere),
    }
}

fn cut_at<E: Engine>(
    log: &Log<'_, E>,
    at: At,
    position: &E::Position,
    bound: Bound,
) -> Step<E::Position, Resolved<E::Position>> {
    let hop = log.piece(at).map_or(0, |piece| piece.hop);
    if let Some((at, begin, end)) = record_at(log, at, position)? {
        return Ok(around(log, at, (&begin, &end), bound));
    }
    if let Some(last) = next_record(log, at, position)? {
        let cut = position.clone();
        return Ok(Resolved { hop, cut: cut.clone(), stop: Stop::Before(cut), at, last });
    }
    let Some(end) = log.end_of(at.run)? else { return beyond_run(log, at.run.checked_sub(1)) };
    // The end of the last whole record: nothing begins here, so there is nothing to keep or to drop.
    let reached = log.in_descendant(end.hop, hop, &end.cut).is_some_and(|end| *position <= end);
    if reached || log.is_before((hop, position), (end.hop, &end.cut)) {
        end_of_run(log, at.run)
    } else {
        beyond_run(log, Some(at.run))
    }
}

/// The place where a record begins, and both its cuts.
type KnownRecord<P> = (At, P, P);

/// The known record that begins at `position`, which is held by place `at`, or that spans it.
fn record_at<E: Engine>(
    log: &Log<'_, E>,
    at: At,
    position: &E::Position,
) -> Step<E::Position, Option<KnownRecord<E::Position>>> {
    let hop = log.piece(at).map_or(0, |piece| piece.hop);
    for (here, piece) in log.places(at.run).take(at.piece + 1).rev() {
        // A record of the parent may reach into the copy of its bytes at the begin of a child.
        let begins = |begin: &E::Position| log.is_before((piece.hop, begin), (hop, position));
        let spans = |begin: &E::Position, end: &E::Position| {
            begin != position && begins(begin) && !log.is_before((piece.hop, end), (hop, position))
        };
        let named = |event: &&Event<E::Position>| event.begin == *position || spans(&event.begin, &event.end);
        if let Some(event) = { log.events(here)? }.find(named) {
            return Ok(Some((here, event.begin.clone(), event.end.clone())));
        }
        let last = log.scan(here)?.last_record.as_ref().filter(|(begin, _)| !(*begin < piece.from));
        match last {
            Some((begin, end)) if spans(begin, end) => return Ok(Some((here, begin.clone(), end.clone()))),
            // A record of an earlier segment cannot reach over one that begins before the position.
            Some((begin, _)) if begins(begin) => break,
            _ if { log.events(here)? }.any(|event| begins(&event.begin)) => break,
            _ => {}
        }
    }
    Ok(None)
}

/// The last place needed to see that a record begins at `position` or after it; `None` if none does.
fn next_record<E: Engine>(log: &Log<'_, E>, at: At, position: &E::Position) -> Step<E::Position, Option<At>> {
    for (here, piece) in log.places(at.run).skip(at.piece) {
        let Some((begin, end)) = &log.scan(here)?.last_record else { continue };
        if !(begin < &piece.from) && (here > at || !(begin < position)) {
            return Ok(Some(log.place_reaching(here, piece.hop, end)));
        }
    }
    Ok(None)
}

fn transaction<E: Engine>(log: &Log<'_, E>, id: &str, bound: Bound) -> Step<E::Position, Resolved<E::Position>> {
    let mut commits = Vec::new();
    let mut aborted = None;
    for run in 0..log.runs() {
        for (at, _) in log.places(run).filter(|(_, piece)| E::may_hold_transaction(piece.span, id)) {
            for event in log.events(at)?.filter(|event| event.transaction.as_deref() == Some(id)) {
                match event.what {
                    What::Commit => commits.push((at, event)),
                    What::Abort => aborted = Some(candidate::<E>(event)),
                    What::Mark(_) | What::Clock => {}
                }
            }
        }
    }
    match commits.as_slice() {
        [] => refuse(Reason::UnknownTransaction { id: id.to_owned(), aborted }, Spot::Nowhere),
        [(at, event)] => Ok(around(log, *at, (&event.begin, &event.end), bound)),
        several => ambiguous::<E, _>("transaction", several.iter().map(|(_, event)| *event)),
    }
}

fn named<E: Engine>(log: &Log<'_, E>, name: &str, bound: Bound) -> Step<E::Position, Resolved<E::Position>> {
    let mut found = Vec::new();
    let mut known = Vec::new();
    for run in 0..log.runs() {
        for (at, _) in log.places(run).filter(|(_, piece)| piece.span.marks > 0) {
            for event in log.events(at)? {
                match &event.what {
                    What::Mark(mark) if mark == name => found.push((at, event)),
                    What::Mark(mark) => known.push(mark.clone()),
                    _ => {}
                }
            }
        }
    }
    match found.as_slice() {
        [] => {
            known.reverse();
            known.truncate(MAX_KNOWN_NAMES);
            refuse(Reason::UnknownName { name: name.to_owned(), known }, Spot::Nowhere)
        }
        [(at, event)] => Ok(around(log, *at, (&event.begin, &event.end), bound)),
        several => ambiguous::<E, _>("named point", several.iter().map(|(_, event)| *event)),
    }
}

fn ambiguous<'e, E: Engine, T>(
    what: &'static str,
    events: impl Iterator<Item = &'e Event<E::Position>>,
) -> Step<E::Position, T> {
    refuse(Reason::Ambiguous { what, candidates: events.map(candidate::<E>).collect() }, Spot::Nowhere)
}

/// An event as something to type instead: as a position, `--to` keeps it and `--before` drops it.
fn candidate<E: Engine>(event: &Event<E::Position>) -> Candidate<E::Position> {
    Candidate { begin: event.begin.clone(), time: event.time, target: E::target(&event.begin) }
}

/// The first commit that a cut leaves out, in the same run.
pub(crate) fn first_dropped<'a, E: Engine>(
    log: &Log<'a, E>,
    resolved: &Resolved<E::Position>,
) -> Step<E::Position, Option<&'a Event<E::Position>>> {
    let dropped = |event: &Event<E::Position>| !(event.end <= resolved.cut);
    Ok(log.first_commit(resolved.at, has_commits, dropped)?.map(|(_, event)| event))
}

/// The last commit that a cut keeps, in the same run.
pub(crate) fn last_kept<'a, E: Engine>(
    log: &Log<'a, E>,
    resolved: &Resolved<E::Position>,
) -> Step<E::Position, Option<&'a Event<E::Position>>> {
    for (at, piece) in log.places(resolved.at.run).take(resolved.at.piece + 1).rev() {
        let kept =
            |event: &&Event<E::Position>| is_commit(event) && (piece.hop < resolved.hop || event.end <= resolved.cut);
        if has_commits(&piece.span.commits)
            && let Some(event) = { log.events(at)? }.rfind(kept)
        {
            return Ok(Some(event));
        }
    }
    Ok(None)
}
