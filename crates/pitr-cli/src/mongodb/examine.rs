//! Refuses a plan over operations that cannot be replayed.

use pitr_archive::SourceArchive;
use pitr_mongodb::engine::facts;
use pitr_mongodb::scan::unreplayable;
use pitr_mongodb::{Mongo, MongoPosition};
use pitr_plan::Plan;

use crate::failure::Failure;
use crate::log::{LogReader, damaged_log};

/// Looks into the segments whose headers say that they hold something of the sort.
pub async fn examine(archive: &SourceArchive, plan: &Plan<MongoPosition>) -> Result<(), Failure> {
    let mut suspicious = Vec::new();
    for span in plan.chain.log.iter().filter(|span| span.facts.contains_key(facts::UNKNOWN)) {
        suspicious.extend(archive.expand::<Mongo>(span).await?);
    }
    suspicious.retain(|segment| segment.facts.contains_key(facts::UNKNOWN));
    let base = &plan.chain.base;
    // What the base holds already is not replayed.
    let from = base.facts.get(facts::AT).and_then(|at| at.parse().ok()).unwrap_or(base.start.stamp);
    let mut log = LogReader::<Mongo>::new(archive, suspicious);
    while let Some((segment, bytes)) = log.next().await? {
        match unreplayable(&bytes, from, plan.halt) {
            Ok(None) => {}
            Ok(Some(refusal)) => return Err(refusal.into()),
            Err(error) => return Err(damaged_log(&segment, error)),
        }
    }
    Ok(())
}
