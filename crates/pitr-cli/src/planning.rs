//! From a target on the command line to a confirmed plan.

use chrono::{Local, Offset};
use pitr_archive::SourceArchive;
use pitr_core::{
    BaseId, Bound, Catalog, Engine, ErrorKind, Gap, GapCause, Lineage, LineageId, SegmentName, Target, TargetError,
};
use pitr_plan::{
    Answer, Need, Plan, Planned, RefusalReport, Request, Zone, drive_async, explain_refusal, next_commands,
};

use crate::cli::TargetArgs;
use crate::engine::Product;
use crate::failure::Failure;
use crate::log::LogReader;
use crate::time;

/// A request as the command line states it.
pub fn request<E: Engine>(args: &TargetArgs) -> Result<Request, Failure> {
    let (text, bound) = match (&args.to, &args.before) {
        (Some(text), None) => (text, Bound::To),
        (None, Some(text)) => (text, Bound::Before),
        _ => return Err(Failure::new(ErrorKind::Usage, "give a target with --to or --before, not both")),
    };
    let target = Target::parse(text, time::now()).map_err(|error| bad_target::<E>(&error))?;
    let lineage = args.lineage.as_deref().map(LineageId::new).transpose();
    let base = args.base.as_deref().map(BaseId::new).transpose();
    let bad_name = |error: pitr_core::InvalidName| Failure::new(ErrorKind::Usage, error.to_string());
    Ok(Request { target, bound, lineage: lineage.map_err(bad_name)?, base: base.map_err(bad_name)? })
}

fn bad_target<E: Engine>(error: &TargetError) -> Failure {
    let mut hint = error.hint();
    if matches!(error, TargetError::NotUnderstood(_)) {
        let coordinates: Vec<_> = E::TARGETS.iter().map(|(_, example)| *example).collect();
        hint = format!("{hint}: {}", coordinates.join(", "));
    }
    Failure::new(ErrorKind::Usage, error.to_string()).next(hint)
}

/// A flag that means nothing to the engine must not look as if it had been obeyed.
pub fn refuse_foreign_flags<E: Product>(given: &[&'static str]) -> Result<(), Failure> {
    match given.iter().find(|flag| !E::FLAGS.contains(flag)) {
        None => Ok(()),
        Some(flag) => {
            let what = format!("{flag} means nothing for a source of engine {}", E::NAME);
            Err(Failure::new(ErrorKind::Usage, what).next(format!("leave out {flag}")))
        }
    }
}

/// Plans a request, and compares the chain under the plan with a real listing before it is shown.
pub async fn plan<E: Product>(archive: &SourceArchive, request: &Request) -> Result<Box<Plan<E::Position>>, Failure> {
    let mut catalog = archive.catalog::<E>().await?;
    if request.lineage.is_none() {
        refuse_to_choose(archive).await?;
    }
    // Each round can only add gaps, and there are no more gaps than spans.
    loop {
        let fulfil = async |need| fulfil::<E>(archive, &catalog, need).await;
        let planned = drive_async::<E, Failure>(&catalog, request, fulfil).await?;
        let plan = match planned {
            Planned::Ok(plan) => plan,
            Planned::Err(refusal) => return Err(refused::<E>(archive.name().as_str(), &refusal)),
        };
        let missing = archive.confirm::<E>(&plan.chain.log).await?;
        if missing.is_empty() {
            expect_side_files::<E>(archive, &catalog, &plan).await?;
            E::examine(archive, &plan).await?;
            return Ok(plan);
        }
        note_missing::<E>(archive, &mut catalog, &plan, &missing).await?;
    }
}

/// Which history is the newest cannot be said while one of them has lost its record.
async fn refuse_to_choose(archive: &SourceArchive) -> Result<(), Failure> {
    let Some(lineage) = archive.unregistered().await?.into_iter().next() else { return Ok(()) };
    let source = archive.name().as_str();
    let what = format!("the record of lineage {lineage} is missing from the archive, although its log is there");
    Err(Failure::new(ErrorKind::Integrity, what)
        .next(format!("pitr list {source}   # then name one with --lineage"))
        .next("docs/runbooks/damaged-archive.md"))
}

/// A restore that goes through a lineage must not find out half-way that it cannot.
async fn expect_side_files<E: Product>(
    archive: &SourceArchive,
    catalog: &Catalog<E::Position>,
    plan: &Plan<E::Position>,
) -> Result<(), Failure> {
    for lineage in catalog.path(&plan.end.lineage).unwrap_or_default() {
        if let Some(file) = missing_side_file::<E>(archive, lineage).await? {
            return Err(Failure::new(ErrorKind::Integrity, format!("{file} is missing from the archive"))
                .next(format!("pitr verify {}", archive.name().as_str())));
        }
    }
    Ok(())
}

/// The key of the side file that a lineage needs and does not have.
pub async fn missing_side_file<E: Product>(
    archive: &SourceArchive,
    lineage: &Lineage<E::Position>,
) -> Result<Option<String>, Failure> {
    let Some(file) = E::side_file(lineage) else { return Ok(None) };
    let key = archive.layout().file(lineage.id.as_str(), &file)?;
    Ok(archive.objects().header(&key).await?.is_none().then_some(key))
}

/// Answers what the planner needs to know: opens a roll-up, or has the engine scan a segment.
async fn fulfil<E: Product>(
    archive: &SourceArchive,
    catalog: &Catalog<E::Position>,
    need: Need<E::Position>,
) -> Result<Answer<E::Position>, Failure> {
    match need {
        Need::Expand(span) => Ok(Answer::Segments(archive.expand::<E>(&span).await?)),
        Need::Scan { segment, then } => {
            let lineage = catalog.lineage(&segment.lineage).ok_or_else(|| {
                let what = format!("lineage {} is not registered in the archive", segment.lineage);
                Failure::new(ErrorKind::Integrity, what)
            })?;
            let log = LogReader::new(archive, std::iter::once(segment.clone()).chain(then));
            Ok(Answer::Scan(E::scan(lineage, &segment, log).await?))
        }
    }
}

/// Makes a gap of what a roll-up promised and the listing does not have.
async fn note_missing<E: Engine>(
    archive: &SourceArchive,
    catalog: &mut Catalog<E::Position>,
    plan: &Plan<E::Position>,
    missing: &[(LineageId, SegmentName)],
) -> Result<(), Failure> {
    for span in &plan.chain.log {
        let segments = if span.is_single() { vec![span.clone()] } else { archive.expand::<E>(span).await? };
        for segment in segments {
            if missing.contains(&(segment.lineage.clone(), segment.first.clone())) {
                catalog.gaps.push(Gap {
                    lineage: segment.lineage,
                    after: segment.start,
                    before: Some(segment.end),
                    after_time: None,
                    before_time: None,
                    cause: GapCause::Disappeared,
                });
            }
        }
    }
    Ok(())
}

/// A refusal as the screen that explains it.
fn refused<E: Engine>(source: &str, refusal: &pitr_plan::Refusal<E::Position>) -> Failure {
    use pitr_core::Classify;
    let screen = explain_refusal::<E>(refusal, source, time::now(), &zone());
    let mut failure = Failure::new(refusal.kind(), refusal.to_string());
    failure.screen = Some(screen);
    // Only a copy for scripts: the refusal itself must be shown in any case.
    failure.data = serde_json::to_value(RefusalReport::from(refusal)).ok();
    failure.next = next_commands(refusal, source);
    failure.next.extend(refusal.hint());
    if failure.next.is_empty() {
        failure.next.push(format!("pitr status {source}"));
    }
    failure
}

/// The clock of whoever reads the screen.
pub fn zone() -> Zone {
    let now = Local::now();
    Zone { name: now.format("%:z").to_string(), offset: now.offset().fix() }
}

/// A position, as people of the engine write it.
pub fn describe<E: Engine>(position: &E::Position) -> String {
    E::describe(position)
}
