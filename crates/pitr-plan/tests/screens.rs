//! The screens of plans and refusals, as a person sees them.

#![allow(clippy::unwrap_used)]

use chrono::{FixedOffset, TimeDelta};
use pitr_core::{Base, BaseId, Bound, Catalog, Classify, ErrorKind, Facts, Target, Timestamp};
use pitr_plan::{Answer, Need, PlanReport, Planned, RefusalReport, Request, Zone, drive, explain, explain_refusal};
use pitr_testkit::catalogs::{second, span_of};
use pitr_testkit::toy::{Kind, Record, Server, Toy, ToyError, ToyPosition, lineage_id, scan};

/// A counter with a commit every ten seconds, one of them stamped too early, and a segment that was lost.
struct Shop {
    server: Server,
    catalog: Catalog<ToyPosition>,
}

impl Shop {
    fn new() -> Self {
        let mut server = Server::new(120);
        for number in 0..30_u32 {
            let kind = match number {
                7 => Kind::Mark("deploy".to_owned()),
                12 | 28 => Kind::Mark("twice".to_owned()),
                17 => Kind::Abort(1),
                _ => Kind::Commit(1),
            };
            let early = if number == 10 { -35 } else { 0 };
            let time = second(i64::from(number) * 10 + early);
            server.append(1, Record { kind, transaction: 100 + number, time }).unwrap();
        }
        let mut shop = Self { catalog: Catalog::default(), server };
        shop.catalog.lineages = vec![shop.server.lineage(shop.server.branch(1).unwrap())];
        let end = shop.server.branch(1).unwrap().end();
        for start in (0..end).step_by(120).filter(|start| *start != 600) {
            shop.catalog.spans.push(span_of(&shop.server.cut(1, start, end.min(start + 120)).unwrap()));
        }
        shop.base("nightly", 56, 84);
        shop
    }

    fn base(&mut self, name: &str, start: u64, consistent: u64) {
        self.catalog.bases.push(Base {
            id: BaseId::new(name).unwrap(),
            lineage: lineage_id(1),
            start: ToyPosition::new(1, start),
            consistent: ToyPosition::new(1, consistent),
            taken: (second(21), second(25)),
            bytes: 44_023_414_784,
            stored: 1,
            facts: Facts::new(),
        });
    }

    fn plan(&self, text: &str, bound: Bound) -> Planned<ToyPosition> {
        let target = Target::parse(text, now()).unwrap();
        let read = |need: &Need<ToyPosition>| -> Result<_, ToyError> {
            let bytes = |offset: u64, end: u64| Ok(self.server.cut(1, offset, end)?.bytes);
            match need {
                Need::Expand(span) => Ok(Answer::Segments(vec![span.clone()])),
                Need::Scan { segment, then } => {
                    let own = bytes(segment.start.offset, segment.end.offset)?;
                    let rest = then.iter().map(|span| bytes(span.start.offset, span.end.offset));
                    Ok(Answer::Scan(scan(&own, segment.start, rest)?))
                }
            }
        };
        drive::<Toy, ToyError>(&self.catalog, &Request::new(target, bound), read).unwrap()
    }

    fn screen(&self, text: &str, bound: Bound) -> String {
        let screen = match self.plan(text, bound) {
            Ok(plan) => explain::<Toy>(&plan, "shop", now(), &zone()),
            Err(refusal) => explain_refusal::<Toy>(&refusal, "shop", now(), &zone()),
        };
        for line in screen.lines() {
            let command = line.contains("pitr ");
            assert!(command || line.chars().count() <= 80, "too wide: {line}");
            assert!(!line.chars().any(char::is_control), "control character: {line:?}");
        }
        assert!(screen.lines().last().unwrap().contains("pitr "), "no next command:\n{screen}");
        screen
    }
}

fn now() -> Timestamp {
    second(0) + TimeDelta::minutes(20)
}

fn zone() -> Zone {
    Zone { name: "Europe/Berlin".to_owned(), offset: FixedOffset::east_opt(3_600).unwrap() }
}

fn time(at: i64) -> String {
    second(at).to_rfc3339()
}

#[test]
fn a_plan_says_what_is_kept_what_is_dropped_and_what_to_type() {
    insta::assert_snapshot!(Shop::new().screen(&time(85), Bound::To));
}

#[test]
fn a_target_inside_a_gap_names_what_can_be_restored() {
    insta::assert_snapshot!(Shop::new().screen(&time(240), Bound::To));
}

#[test]
fn latest_behind_a_gap_is_refused_and_never_falls_short() {
    insta::assert_snapshot!(Shop::new().screen("latest", Bound::To));
}

#[test]
fn a_target_before_the_base_names_the_earliest_one() {
    insta::assert_snapshot!(Shop::new().screen(&time(5), Bound::To));
}

#[test]
fn a_target_after_the_end_names_the_latest_one() {
    insta::assert_snapshot!(Shop::new().screen(&time(900), Bound::To));
}

#[test]
fn a_name_given_twice_lists_both_points() {
    insta::assert_snapshot!(Shop::new().screen("name:twice", Bound::Before));
}

#[test]
fn a_rolled_back_transaction_is_told_from_an_unknown_one() {
    let shop = Shop::new();
    insta::assert_snapshot!(format!("{}---\n{}", shop.screen("tx:117", Bound::To), shop.screen("tx:7", Bound::To)));
}

#[test]
fn names_from_outside_cannot_harm_the_terminal() {
    insta::assert_snapshot!(Shop::new().screen("name:\u{1b}[2J'; rm -rf /", Bound::To));
}

#[test]
fn a_base_behind_the_gap_makes_latest_restorable() {
    let mut shop = Shop::new();
    shop.base("after-the-gap", 729, 757);
    let plan = shop.plan("latest", Bound::To).unwrap();
    assert_eq!(plan.chain.base.id.as_str(), "after-the-gap");
    assert_eq!(plan.end.cut, ToyPosition::new(1, shop.server.branch(1).unwrap().end()));
}

#[test]
fn reports_serialize_with_the_exact_positions() {
    let shop = Shop::new();
    let plan = serde_json::to_value(PlanReport::from(&*shop.plan("name:deploy", Bound::Before).unwrap())).unwrap();
    assert_eq!(plan["cut"], "b1:196");
    assert_eq!(plan["stop"], "before");
    assert_eq!(plan["last_kept"]["transaction"], "106");
    let refusal = shop.plan("latest", Bound::To).unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::NotRecoverable);
    let report = serde_json::to_value(RefusalReport::from(&*refusal)).unwrap();
    assert_eq!(report["reason"], "crosses_gap");
    assert_eq!(report["gap"]["after"], "b1:600");
    assert_eq!(shop.plan("name:twice", Bound::To).unwrap_err().kind(), ErrorKind::NotRecoverable);
}

#[test]
fn a_plan_reads_only_the_segments_around_its_target() {
    let shop = Shop::new();
    let mut scanned = 0;
    let request = Request::new(Target::Time(second(85)), Bound::To);
    let plan = drive::<Toy, ToyError>(&shop.catalog, &request, |need| {
        let Need::Scan { segment, then } = need else { panic!("there are no roll-ups") };
        scanned += 1;
        let own = shop.server.cut(1, segment.start.offset, segment.end.offset)?.bytes;
        let rest = then.iter().map(|span| Ok(shop.server.cut(1, span.start.offset, span.end.offset)?.bytes));
        Ok(Answer::Scan(scan(&own, segment.start, rest)?))
    });
    assert!(plan.unwrap().is_ok());
    assert!(scanned <= 4, "{scanned} segments were scanned");
}
