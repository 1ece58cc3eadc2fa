//! Refuses a plan over operations that cannot be replayed.

use pitr_archive::SourceArchive;
use pitr_mongodb::engine::facts;
use pitr_mongodb::restore::parts;
use pitr_mongodb::scan::unreplayable;
use pitr_mongodb::{Mongo, MongoPosition};
use pitr_plan::Plan;

use crate::failure::Failure;
use crate::log::{LogReader, damaged_log};

/// Looks into the segments whose headers say that they hold something of the sort.
pub async fn examine(archive: &SourceArchive, plan: &Plan<MongoPosition>) -> Result<(), Failure> {
    let base = &plan.chain.base;
    // What the base holds already is not replayed.
    let from = base.facts.get(facts::AT).and_then(|at| at.parse().ok()).unwrap_or(base.start.stamp);
    for (span, end) in parts(&plan.chain.log) {
        if !span.facts.contains_key(facts::UNKNOWN) {
            continue;
        }
        let mut suspicious = archive.expand::<Mongo>(span).await?;
        suspicious.retain(|segment| segment.facts.contains_key(facts::UNKNOWN));
        let cut = end.or_earlier(plan.halt);
        let mut log = LogReader::<Mongo>::new(archive, suspicious);
        while let Some((segment, bytes)) = log.next().await? {
            match unreplayable(&bytes, from, cut) {
                Ok(None) => {}
                Ok(Some(refusal)) => return Err(refusal.into()),
                Err(error) => return Err(damaged_log(&segment, error)),
            }
        }
    }
    Ok(())
}
