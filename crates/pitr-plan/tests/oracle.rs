//! The planner against the brute-force planner, on random catalogs.
//!
//! `PITR_PLAN_CASES` sets the number of catalogs, `PITR_SEED` replays one of them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use pitr_core::ports::Stop;
use pitr_core::{Bound, Engine, Target, Timestamp};
use pitr_plan::{Moment, Plan, Reason, Refusal, Request, drive};
use pitr_testkit::brute::{self, Ready, Refused, Verdict};
use pitr_testkit::catalogs::Case;
use pitr_testkit::dice::Dice;
use pitr_testkit::toy::{Toy, ToyError, ToyPosition, replay};

/// Requests made of each catalog.
const REQUESTS: u64 = 4;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn every_answer_is_that_of_the_brute_force_planner() {
    let (first, cases) = match number("PITR_SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("PITR_PLAN_CASES").unwrap_or(10_000)),
    };
    let mut tally: BTreeMap<&str, u64> = BTreeMap::new();
    let mut failed = Vec::new();
    for seed in first..first + cases {
        let case = Case::random(seed).unwrap();
        let mut dice = Dice::new(!seed);
        for _ in 0..REQUESTS {
            let request = case.request(&mut dice);
            let outcome = std::panic::catch_unwind(|| check(&case, &request));
            match outcome {
                Ok(code) => *tally.entry(code).or_default() += 1,
                Err(_) => failed.push(format!("PITR_SEED={seed}: {request:?}")),
            }
        }
    }
    assert!(
        failed.is_empty(),
        "{} answers are wrong; replay with {:#?}",
        failed.len(),
        failed.iter().take(20).collect::<Vec<_>>()
    );
    println!("{cases} catalogs from seed {first}: {tally:?}");
    // A generator that no longer makes one kind of case proves nothing about it.
    if cases >= 10_000 {
        for code in [
            "ready",
            "no_base",
            "no_log",
            "before_base",
            "in_gap",
            "crosses_gap",
            "after_end",
            "unknown_transaction",
            "unknown_name",
            "ambiguous",
            "before_latest",
            "base_elsewhere",
        ] {
            assert!(tally.get(code).is_some_and(|count| *count >= 20), "{code} is too rare: {tally:?}");
        }
        assert!(tally.get("open").is_none_or(|open| open * 20 < cases * REQUESTS), "too many open cases: {tally:?}");
    }
}

fn check(case: &Case, request: &Request) -> &'static str {
    let verdicts = brute::plan(&case.server, &case.catalog, request);
    let mut needs = 0;
    let planned = drive::<Toy, ToyError>(&case.catalog, request, |need| {
        needs += 1;
        assert!(needs < 10_000, "the planner asks for ever: {need:?}");
        case.answer(need)
    });
    let planned = planned.unwrap();
    let judge = |right: &Verdict| match (&planned, right) {
        (_, Verdict::Open) => Ok("open"),
        (Ok(plan), Verdict::Ready(right)) => check_plan(case, request, plan, right).map(|()| "ready"),
        (Err(refusal), Verdict::Refused(right)) => check_refusal(case, request, refusal, right).map(|()| right.code),
        _ => Err("one plans, the other refuses".to_owned()),
    };
    let judged: Vec<_> = verdicts.iter().map(judge).collect();
    match judged.iter().find_map(|result| result.as_ref().ok()) {
        Some(code) => code,
        None => panic!("{judged:?}\nplanned {planned:?}\nright is {verdicts:?}"),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: T, right: T) -> Result<(), String> {
    if is == right { Ok(()) } else { Err(format!("{what}: {is:?}, right is {right:?}")) }
}

fn check_plan(case: &Case, request: &Request, plan: &Plan<ToyPosition>, right: &Ready) -> Result<(), String> {
    let end = &plan.end;
    same("cut", end.cut.offset, right.cut)?;
    same("coordinates", right.branches.contains(&end.cut.branch), true)?;
    same("lineage", end.lineage.to_string(), format!("b{}", end.cut.branch))?;
    same("base", plan.chain.base.id.to_string(), right.base.clone())?;
    same("last kept", end.last_kept.as_ref().map(|event| event.begin.offset), right.last_kept)?;
    same("first dropped", end.first_dropped.as_ref().map(|event| event.begin.offset), right.first_dropped)?;
    let inversions = if end.inversions.complete { end.inversions.count } else { right.inversions };
    if matches!(request.target, Target::Time(_)) {
        same("inversions", inversions, right.inversions)?;
    }
    same("too many inversions", end.inversions.count > right.inversions, false)?;
    if case.counts_are_exact() {
        same("more lost than there is", plan.lost.commits > right.lost, false)?;
        same("lost", if plan.lost.at_least { right.lost } else { plan.lost.commits }, right.lost)?;
    }
    check_replay(case, plan, right)
}

/// The plan is carried out: base, segments, stop. What comes out is the sum of all commits before the cut.
fn check_replay(case: &Case, plan: &Plan<ToyPosition>, right: &Ready) -> Result<(), String> {
    let recovery = plan.recovery();
    let base = &plan.chain.base;
    let singles = recovery.log.iter().flat_map(|span| case.singles(span));
    let log: Vec<_> = singles.map(|span| (span.start, case.segment(&span).unwrap())).collect();
    let (Stop::Before(at) | Stop::After(at)) = recovery.stop;
    // A base that is taken right at the cut has nothing to replay, so nothing shows where it stopped.
    if at.offset < base.start.offset {
        return same("nothing to replay", base.consistent.offset, recovery.cut.offset);
    }
    let start = case.server.value(base.start);
    let (value, reached) = replay(start, base.start.offset, &log, &recovery.stop).map_err(|error| error.to_string())?;
    same("value", value, right.value)?;
    // The replay halts where the last commit is in; a cut inside a record that changes nothing is reached at
    // the end of that record.
    let halt = plan.halt.offset;
    let hidden = |reached: u64| case.server.value(ToyPosition::new(plan.end.cut.branch, reached)) == right.value;
    same("halt behind the cut", halt > right.cut, false)?;
    same("halt before the base", halt < base.consistent.offset, false)?;
    same("reached", reached == halt || (reached > halt && hidden(reached)), true)
}

/// True if the target that stands for a moment is planned to that very cut.
fn lands_on(case: &Case, request: &Request, moment: &Moment<ToyPosition>) -> bool {
    let Ok(target) = Target::parse(&moment.target, Timestamp::default()) else { return false };
    let request = Request { target, bound: Bound::To, ..request.clone() };
    let planned = drive::<Toy, ToyError>(&case.catalog, &request, |need| case.answer(need));
    planned.unwrap().is_ok_and(|plan| plan.end.cut == moment.position)
}

fn check_refusal(
    case: &Case,
    request: &Request,
    refusal: &Refusal<ToyPosition>,
    right: &Refused,
) -> Result<(), String> {
    same("reason", refusal.reason.code(), right.code)?;
    if let Reason::InGap { gap } | Reason::CrossesGap { gap, .. } = &refusal.reason {
        same("gap", Some((gap.after.offset, gap.before.map(|before| before.offset))), right.gap)?;
        let times = Some((gap.after_time, gap.before_time));
        same("times", if right.times.is_some() { times } else { None }, right.times)?;
    }
    let offset = |moment: &Option<Moment<ToyPosition>>| moment.as_ref().map(|moment| moment.position.offset);
    same("nearest before", offset(&refusal.nearest_before), right.before)?;
    same("nearest after", offset(&refusal.nearest_after), right.after)?;
    let typed = |moment: &Moment<ToyPosition>| {
        moment.target == "latest" || moment.target == Toy::target(&moment.position) || lands_on(case, request, moment)
    };
    same("what to type", refusal.nearest().all(typed), true)
}
