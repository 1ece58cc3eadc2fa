//! Which lineage a replica set writes.

use pitr_archive::SourceArchive;
use pitr_core::{ErrorKind, Facts, LineageId};
use pitr_mongodb::MongoPosition;
use pitr_mongodb::engine::facts;

use crate::failure::{During, Failure};

/// The lineage that the set continues; registered if it is the first of this set.
pub async fn current(archive: &SourceArchive, first: &LineageId, known: &Facts) -> Result<LineageId, Failure> {
    let lineages = archive.lineages::<MongoPosition>().await?;
    let set = known.get(facts::REPLICA_SET_ID);
    let own = |facts: &Facts| facts.get(facts::REPLICA_SET_ID) == set;
    if let Some(foreign) = lineages.iter().find(|lineage| !own(&lineage.facts)) {
        let name = archive.name();
        return Err(Failure::new(
            ErrorKind::Refused,
            format!("source {} of the archive is replica set {}, the server is of {first}", name.as_str(), foreign.id),
        )
        .next("give each replica set a source of its own; a restored set is a new one"));
    }
    // Histories of one set fork off each other; the last one that appeared is the one that goes on.
    if let Some(last) = lineages.last() {
        return Ok(last.id.clone());
    }
    archive.put_lineage::<MongoPosition>(first, None, known).await.during(format!("registering lineage {first}"))?;
    Ok(first.clone())
}
