//! Lineages and gaps of a source.

use pitr_core::{Classify, ErrorKind, Facts, Fork, Gap, Lineage, LineageId, Position};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::layout::leaf;
use crate::limits;
use crate::objects::{Kind, Payload, Put};
use crate::records::{ForkFacts, GapFacts, LineageFacts};
use crate::source::{SourceArchive, expect_kind};

impl SourceArchive {
    /// Registers a lineage, before its first segment. One that is known keeps its ordinal and its facts; the
    /// same name with another fork point is refused.
    ///
    /// The ordinal is one more than the highest that is known; two lineages that appear at the very same
    /// moment may share one, and are then ordered by name.
    pub async fn put_lineage<P: Position>(
        &self,
        id: &LineageId,
        fork: Option<&Fork<P>>,
        facts: &Facts,
    ) -> Result<Lineage<P>> {
        let known = self.lineage_keys().await?;
        let fork_facts = fork.map(ForkFacts::of);
        if let Some((ordinal, _)) = known.iter().find(|(_, known)| known == id) {
            let key = self.layout().lineage(*ordinal, id);
            let stored = self.lineage_facts(&key).await?;
            if stored.fork != fork_facts {
                let text = |fork: &Option<ForkFacts>| serde_json::to_string(fork).unwrap_or_default();
                return Err(Error::Conflict { key, stored: text(&stored.fork), ours: text(&fork_facts) });
            }
            return stored.lineage(&key);
        }
        let ordinal = known.iter().map(|(ordinal, _)| ordinal + 1).max().unwrap_or(0);
        let record = LineageFacts { id: id.clone(), ordinal, fork: fork_facts, facts: facts.clone() };
        let key = self.layout().lineage(ordinal, id);
        self.objects().put(Kind::Lineage, &key, &record, json(&key, &record)?).await?;
        record.lineage(&key)
    }

    /// The lineages in order of appearance. Needs no identity; where one is at hand, each is checked against its
    /// sealed copy.
    pub async fn lineages<P: Position>(&self) -> Result<Vec<Lineage<P>>> {
        let mut lineages: Vec<Lineage<P>> = Vec::new();
        for (ordinal, id) in self.lineage_keys().await? {
            // Two writers that registered it at the same moment: the lower ordinal counts.
            if lineages.iter().all(|known| known.id != id) {
                let key = self.layout().lineage(ordinal, &id);
                lineages.push(self.lineage_facts(&key).await?.lineage(&key)?);
            }
        }
        Ok(lineages)
    }

    /// Lineages whose log is there and that were never registered, or whose record was lost: their log is in no catalog.
    pub async fn unregistered(&self) -> Result<Vec<LineageId>> {
        let known = self.lineage_keys().await?;
        let mut unknown = Vec::new();
        let logs = self.layout().logs();
        for name in self.objects().groups(&logs).await? {
            let id = LineageId::new(&name).map_err(|e| Error::corrupt(&format!("{logs}/{name}"), e.to_string()))?;
            if known.iter().all(|(_, known)| *known != id) && self.last_segment(&id).await?.is_some() {
                unknown.push(id);
            }
        }
        Ok(unknown)
    }

    /// Ordinal and name of every lineage, by one listing, sorted.
    pub async fn lineage_keys(&self) -> Result<Vec<(u64, LineageId)>> {
        let entries = self.objects().list(&self.layout().lineages()).await?;
        let mut keys = Vec::with_capacity(entries.len());
        for entry in &entries {
            let parsed = leaf(&entry.key).split_once('-');
            let ordinal = parsed.and_then(|(ordinal, _)| ordinal.parse::<u64>().ok());
            let (Some(ordinal), Some((_, id))) = (ordinal, parsed) else {
                return Err(Error::corrupt(&entry.key, "its name is not that of a lineage"));
            };
            keys.push((ordinal, LineageId::new(id)?));
        }
        keys.sort();
        Ok(keys)
    }

    /// Everything of a restore hangs on the lineages, and they are few and small: whoever can open them does.
    async fn lineage_facts(&self, key: &str) -> Result<LineageFacts> {
        let header = match self.objects().get(key).await {
            Ok(object) => object.map(|object| object.header),
            // A writer has recipients only.
            Err(error) if error.kind() == ErrorKind::Denied => self.objects().header(key).await?,
            Err(error) => return Err(error),
        };
        let header = header.ok_or_else(|| Error::corrupt(key, "it was listed and is gone"))?;
        expect_kind(&header, Kind::Lineage)?;
        header.facts()
    }

    /// Records a gap with its cause. The same gap again changes nothing.
    pub async fn put_gap<P: Position>(&self, gap: &Gap<P>) -> Result<Put> {
        let record = GapFacts::of(gap);
        let text = serde_json::to_vec(&record).map_err(|e| Error::internal("gap", e))?;
        let id = hex::encode(self.objects().digest(&text).get(..16).unwrap_or_default());
        let key = format!("{}/{id}", self.layout().gaps());
        self.objects().put(Kind::Gap, &key, &record, Payload::Raw(text.into())).await
    }

    /// The recorded gaps. Needs no identity.
    pub async fn gaps<P: Position>(&self) -> Result<Vec<Gap<P>>> {
        let mut gaps = Vec::new();
        for header in self.listed_headers(&self.layout().gaps(), Kind::Gap).await? {
            gaps.push(header.facts::<GapFacts>()?.gap(&header.key)?);
        }
        Ok(gaps)
    }

    async fn listed_headers(&self, prefix: &str, kind: Kind) -> Result<Vec<crate::envelope::Header>> {
        let keys: Vec<String> = self.objects().list(prefix).await?.into_iter().map(|entry| entry.key).collect();
        let headers = self.objects().headers(&keys, limits::READ_CONCURRENCY).await?;
        // What pruning removed since the listing is simply not there any more.
        let headers: Vec<_> = headers.into_iter().flatten().collect();
        headers.iter().try_for_each(|header| expect_kind(header, kind))?;
        Ok(headers)
    }
}

/// Small records have their content twice: in the plain header, and sealed.
fn json(key: &str, record: &impl Serialize) -> Result<Payload> {
    let text = serde_json::to_vec(record).map_err(|e| Error::internal(key, e))?;
    Ok(Payload::Raw(text.into()))
}
