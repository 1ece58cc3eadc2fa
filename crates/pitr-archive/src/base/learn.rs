//! What a new base may refer to: the packs of complete bases before it.

use futures::stream::{self, StreamExt};
use pitr_core::BaseId;

use super::dedup::Dedup;
use super::limits::HEADER_READS;
use super::manifest;
use super::pack::{PackFacts, PackList};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::objects::Objects;

/// Learns the chunks of the newest complete bases, newest first, until the table is full.
pub(crate) async fn learn(objects: &Objects, layout: &Layout, bases: usize, dedup: &mut Dedup) -> Result<()> {
    let mut names = manifest::names(objects, layout).await?;
    // A label's time is no order to rely on; here it only chooses what is more likely to be found again.
    names.sort_by(|a, b| b.cmp(a));
    let mut reused = 0;
    for base in names {
        if reused == bases || dedup.is_full() {
            break;
        }
        // Only packs of a complete base may be referred to: others may be swept at any time.
        if objects.header(&layout.manifest(&base)).await?.is_none() {
            continue;
        }
        learn_base(objects, layout, &base, dedup).await?;
        reused += 1;
    }
    Ok(())
}

async fn learn_base(objects: &Objects, layout: &Layout, base: &BaseId, dedup: &mut Dedup) -> Result<()> {
    let Some(list) = read_packs(objects, &layout.base_packs(base)).await? else {
        tracing::warn!(%base, "the list of packs is missing: nothing of this base is reused");
        return Ok(());
    };
    let mut headers = stream::iter(list.iter())
        .map(|name| async move { (objects.header(&name.key(layout)).await, name) })
        .buffered(HEADER_READS);
    while let Some((header, name)) = headers.next().await {
        let Some(header) = header? else {
            tracing::warn!(pack = name.key(layout), "a pack is missing: its chunks are stored again");
            continue;
        };
        let place = dedup.add_pack(&name);
        for chunk in header.facts::<PackFacts>()?.chunks {
            dedup.add_chunk(chunk.id, place);
        }
        if dedup.is_full() {
            break;
        }
    }
    Ok(())
}

/// The list of packs of a base, checked; `None` if it is absent.
pub(crate) async fn read_packs(objects: &Objects, key: &str) -> Result<Option<PackList>> {
    let Some(object) = objects.get(key).await? else { return Ok(None) };
    let list: PackList =
        serde_json::from_slice(&object.raw).map_err(|e| Error::corrupt(key, format!("list of packs: {e}")))?;
    list.checked(key).map(Some)
}
