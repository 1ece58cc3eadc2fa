//! Where to cut a large collection, so that several cursors read it at once and none of its documents is lost.
//!
//! Cuts are values of `_id` in the server's own order, which is that of its index: types are ordered among each
//! other there. A query (`$gte`) would compare within a type only and lose the others; bounds of the index
//! itself (`min`, `max`) do not.

use bson::{Bson, Document, doc};
use futures::TryStreamExt;

use super::catalog::{Collection, CollectionId};
use crate::connect::Member;
use crate::error::{Doing, Result};
use crate::limits::{MAX_PARTITIONS, PARTITION, READ_BATCH, SAMPLES_PER_PARTITION};

/// A range of `_id`, from the first bound to just before the second.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    /// Number within its collection.
    pub number: u32,
    /// First value; `None` for the begin.
    pub from: Option<Bson>,
    /// First value that is no longer in it; `None` for the end.
    pub to: Option<Bson>,
}

impl Partition {
    /// All of a collection.
    pub fn whole() -> Self {
        Self { number: 0, from: None, to: None }
    }
}

/// What the server estimates of a collection. For cutting only: nothing depends on it being right.
#[derive(Debug, Clone, Copy, Default)]
pub struct Size {
    /// Bytes of documents.
    pub bytes: u64,
    /// Number of documents.
    pub documents: u64,
}

impl Size {
    /// Documents that make about one batch.
    pub fn batch(self) -> i32 {
        i32::try_from((READ_BATCH / self.average()).clamp(1, 50_000)).unwrap_or(1)
    }

    /// Bytes of one batch, about.
    pub fn batch_bytes(self) -> u64 {
        self.average().max(READ_BATCH)
    }

    fn average(self) -> u64 {
        self.bytes.checked_div(self.documents).unwrap_or(0).max(1)
    }
}

/// Asks for the size of a collection; one that is gone has none.
pub async fn size(member: &Member, collection: &Collection) -> Result<Size> {
    let doing = format!("measuring {}", collection.ns());
    let answer = member.run(&collection.db, doc! { "collStats": &collection.name }, &doing).await;
    let Ok(answer) = answer else { return Ok(Size::default()) };
    let number = |key: &str| match answer.get(key) {
        Some(Bson::Int32(n)) => u64::try_from(*n).unwrap_or(0),
        Some(Bson::Int64(n)) => u64::try_from(*n).unwrap_or(0),
        Some(Bson::Double(n)) => *n as u64,
        _ => 0,
    };
    Ok(Size { bytes: number("size"), documents: number("count") })
}

/// Cuts a collection into ranges of about equal size.
pub async fn partitions(
    member: &Member,
    collection: &Collection,
    id: CollectionId,
    size: Size,
) -> Result<Vec<Partition>> {
    let wanted = size.bytes.div_ceil(PARTITION).min(MAX_PARTITIONS);
    if wanted < 2 || !collection.has_plain_ids() {
        return Ok(vec![Partition::whole()]);
    }
    let doing = format!("sampling {}", collection.ns());
    let sample = i64::try_from(wanted * SAMPLES_PER_PARTITION).unwrap_or(i64::MAX);
    let command = doc! {
        "aggregate": &collection.name,
        "pipeline": [{ "$sample": { "size": sample } }, { "$project": { "_id": 1 } }, { "$sort": { "_id": 1 } }],
        "cursor": {},
    };
    let cursor = member.database(&collection.db).run_cursor_command(command).await;
    let sampled: Vec<Document> = match cursor {
        Ok(cursor) => cursor.try_collect().await.doing(doing)?,
        // A sample is a help: a collection that is renamed just now is read in one piece.
        Err(error) => {
            tracing::debug!(%error, id = ?id, "no sample of {}", collection.ns());
            Vec::new()
        }
    };
    let ids: Vec<Bson> = sampled.into_iter().filter_map(|mut document| document.remove("_id")).collect();
    Ok(cut(&ids, wanted))
}

/// Every n-th of the sampled values, in order, is a cut.
fn cut(ids: &[Bson], wanted: u64) -> Vec<Partition> {
    let step = (ids.len() / usize::try_from(wanted).unwrap_or(1)).max(1);
    let mut bounds: Vec<&Bson> = ids.iter().skip(step).step_by(step).collect();
    bounds.dedup();
    let mut partitions = Vec::with_capacity(bounds.len() + 1);
    let mut from = None;
    for (number, to) in (0..).zip(bounds) {
        partitions.push(Partition { number, from: from.clone(), to: Some(to.clone()) });
        from = Some(to.clone());
    }
    let number = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
    partitions.push(Partition { number, from, to: None });
    partitions
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_without_hole_from_begin_to_end() {
        let ids: Vec<Bson> = (0..100).map(Bson::from).collect();
        let partitions = cut(&ids, 4);
        assert!(partitions.first().unwrap().from.is_none() && partitions.last().unwrap().to.is_none());
        for (number, pair) in partitions.windows(2).enumerate() {
            assert_eq!(pair[0].to, pair[1].from);
            assert_eq!(pair[0].number as usize, number);
        }
        assert_eq!(partitions.len(), 4);
    }

    #[test]
    fn an_empty_or_uniform_sample_gives_one_range() {
        assert_eq!(cut(&[], 4), [Partition::whole()]);
        let same = vec![Bson::from(1); 50];
        let partitions = cut(&same, 4);
        assert_eq!((partitions.len(), partitions[0].to.clone()), (2, Some(Bson::from(1))));
    }
}
