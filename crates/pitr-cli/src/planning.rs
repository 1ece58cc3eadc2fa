//! From a target on the command line to a confirmed plan.

use chrono::{Local, Offset};
use pitr_archive::SourceArchive;
use pitr_core::{BaseId, Bound, Catalog, Engine, ErrorKind, Gap, GapCause, LineageId, Target, TargetError};
use pitr_plan::{Plan, Planned, RefusalReport, Request, Zone, drive_async, explain_refusal};
use pitr_postgres::{PgPosition, Postgres};

use crate::cli::TargetArgs;
use crate::failure::Failure;
use crate::postgres::scan::fulfil;
use crate::time;

/// A request as the command line states it.
pub fn request(args: &TargetArgs) -> Result<Request, Failure> {
    let (text, bound) = match (&args.to, &args.before) {
        (Some(text), None) => (text, Bound::To),
        (None, Some(text)) => (text, Bound::Before),
        _ => return Err(Failure::new(ErrorKind::Usage, "give a target with --to or --before, not both")),
    };
    let target = Target::parse(text, time::now()).map_err(|error| bad_target(&error))?;
    let lineage = args.lineage.as_deref().map(LineageId::new).transpose();
    let base = args.base.as_deref().map(BaseId::new).transpose();
    let bad_name = |error: pitr_core::InvalidName| Failure::new(ErrorKind::Usage, error.to_string());
    Ok(Request { target, bound, lineage: lineage.map_err(bad_name)?, base: base.map_err(bad_name)? })
}

fn bad_target(error: &TargetError) -> Failure {
    Failure::new(ErrorKind::Usage, error.to_string()).next(error.hint())
}

/// Plans a request, and compares the chain under the plan with a real listing before it is shown.
pub async fn plan(archive: &SourceArchive, request: &Request) -> Result<Box<Plan<PgPosition>>, Failure> {
    let mut catalog = archive.catalog::<Postgres>().await?;
    // Each round can only add gaps, and there are no more gaps than spans.
    loop {
        let planned =
            drive_async::<Postgres, Failure>(&catalog, request, async |need| fulfil(archive, need).await).await?;
        let plan = match planned {
            Planned::Ok(plan) => plan,
            Planned::Err(refusal) => return Err(refused(archive.name().as_str(), &refusal)),
        };
        let missing = archive.confirm::<Postgres>(&plan.chain.log).await?;
        if missing.is_empty() {
            return Ok(plan);
        }
        note_missing(archive, &mut catalog, &plan, &missing).await?;
    }
}

/// Makes a gap of what a roll-up promised and the listing does not have.
async fn note_missing(
    archive: &SourceArchive,
    catalog: &mut Catalog<PgPosition>,
    plan: &Plan<PgPosition>,
    missing: &[(LineageId, pitr_core::SegmentName)],
) -> Result<(), Failure> {
    for span in &plan.chain.log {
        let segments = if span.is_single() { vec![span.clone()] } else { archive.expand::<Postgres>(span).await? };
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
fn refused(source: &str, refusal: &pitr_plan::Refusal<PgPosition>) -> Failure {
    use pitr_core::Classify;
    let screen = explain_refusal::<Postgres>(refusal, source, time::now(), &zone());
    let mut failure = Failure::new(refusal.kind(), refusal.to_string());
    failure.screen = Some(screen);
    // Only a copy for scripts: the refusal itself must be shown in any case.
    failure.data = serde_json::to_value(RefusalReport::from(refusal)).ok();
    failure.next = refusal.nearest().map(|moment| format!("pitr plan {source} --to '{}'", moment.target)).collect();
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
pub fn describe(position: &PgPosition) -> String {
    Postgres::describe(position)
}
