//! The planner against the brute-force planner, on random catalogs.
//!
//! `PITR_PLAN_CASES` sets the number of catalogs, `PITR_SEED` replays one of them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use pitr_core::ports::Stop;
use pitr_core::{Engine, Target};
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
    assert!(failed.is_empty(), "{} answers are wrong; replay with {:#?}", failed.len(), failed.iter().take(20).collect::<Vec<_>>());
    println!("{cases} catalogs from seed {first}: {tally:?}");
    // A generator that no longer makes one kind of case proves nothing about it.
    if cases >= 10_000 {
        for code in [
            "ready", "no_base", "no_log", "before_base", "in_gap", "crosses_gap", "after_end", "unknown_transaction",
            "unknown_name", "ambiguous", "before_latest", "base_elsewhere",
        ] {
            assert!(tally.get(code).is_some_and(|count| *count >= 20), "{code} is too rare: {tally:?}");
        }
        assert!(tally.get("open").is_none_or(|open| open * 50 < cases * REQUESTS), "too many open cases: {tally:?}");
    }
}

fn check(case: &Case, request: &Request) -> &'static str {
    let verdict = brute::plan(&case.server, &case.catalog, request);
    let mut needs = 0;
    let planned = drive::<Toy, ToyError>(&case.catalog, request, |need| {
        needs += 1;
        assert!(needs < 10_000, "the planner asks for ever: {need:?}");
        case.answer(need)
    });
    match (planned.unwrap(), verdict) {
        (_, Verdict::Open) => "open",
        (Ok(plan), Verdict::Ready(right)) => {
            check_plan(case, request, &plan, &right);
            "ready"
        }
        (Err(refusal), Verdict::Refused(right)) => {
            check_refusal(request, &refusal, &right);
            right.code
        }
        (planned, right) => panic!("planned {planned:?}\nright is {right:?}"),
    }
}

fn check_plan(case: &Case, request: &Request, plan: &Plan<ToyPosition>, right: &Ready) {
    let context = || format!("{plan:?}\nright is {right:?}");
    let end = &plan.end;
    assert!(right.cuts.contains(&end.cut.offset), "{}", context());
    assert_eq!(end.cut.branch, right.branch, "{}", context());
    assert_eq!(end.lineage.as_str(), format!("b{}", right.branch), "{}", context());
    assert_eq!(plan.chain.base.id.as_str(), right.base, "{}", context());
    assert_eq!(end.last_kept.as_ref().map(|event| event.begin.offset), right.last_kept, "{}", context());
    assert_eq!(end.first_dropped.as_ref().map(|event| event.begin.offset), right.first_dropped, "{}", context());
    if matches!(request.target, Target::Time(_)) && end.inversions.complete {
        assert_eq!(end.inversions.count, right.inversions, "{}", context());
    }
    assert!(end.inversions.count <= right.inversions, "{}", context());
    if case.counts_are_exact() {
        assert!(plan.lost.commits <= right.lost, "{}", context());
        assert!(plan.lost.at_least || plan.lost.commits == right.lost, "{}", context());
    }
    check_replay(case, plan, right);
}

/// The plan is carried out: base, segments, stop. What comes out is the sum of all commits before the cut.
fn check_replay(case: &Case, plan: &Plan<ToyPosition>, right: &Ready) {
    let recovery = plan.recovery();
    let base = &plan.chain.base;
    let log: Vec<_> = recovery
        .log
        .iter()
        .flat_map(|span| case.singles(span))
        .map(|span| (span.start, case.segment(&span).unwrap()))
        .collect();
    let needed = match recovery.stop {
        Stop::Before(at) | Stop::After(at) => at.offset,
    };
    // A base that is taken right at the cut has nothing to replay, so nothing shows where it stopped.
    if needed < base.start.offset {
        assert_eq!(base.consistent.offset, recovery.cut.offset, "{plan:?}");
        return;
    }
    let (value, reached) = replay(case.server.value(base.start), base.start.offset, &log, &recovery.stop)
        .unwrap_or_else(|error| panic!("{error}: {plan:?}"));
    assert_eq!(value, right.value, "{plan:?}");
    assert!(right.cuts.contains(&reached), "reached {reached}: {plan:?}\nright is {right:?}");
}

fn check_refusal(request: &Request, refusal: &Refusal<ToyPosition>, right: &Refused) {
    let context = || format!("{refusal:?}\nright is {right:?}");
    assert_eq!(refusal.reason.code(), right.code, "{}", context());
    if let Reason::InGap { gap } | Reason::CrossesGap { gap, .. } = &refusal.reason {
        let edges = (gap.after.offset, gap.before.map(|before| before.offset));
        assert_eq!(Some(edges), right.gap, "{}", context());
        if let Some(times) = right.times {
            assert_eq!((gap.after_time, gap.before_time), times, "{}", context());
        }
    }
    let offset = |moment: &Option<Moment<ToyPosition>>| moment.as_ref().map(|moment| moment.position.offset);
    assert_eq!(offset(&refusal.nearest_before), right.before, "{}", context());
    assert_eq!(offset(&refusal.nearest_after), right.after, "{}", context());
    for moment in refusal.nearest() {
        let typed = moment.target == "latest" || moment.target == Toy::target(&moment.position);
        assert!(typed && !request.target.to_string().is_empty(), "{}", context());
    }
}
