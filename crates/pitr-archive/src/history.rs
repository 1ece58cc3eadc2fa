//! Lineages, gaps and tails of a source.

use bytes::Bytes;
use pitr_core::{Classify, CommitBounds, ErrorKind, Facts, Fork, Gap, Lineage, LineageId, Position, SegmentName, Span};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::layout::leaf;
use crate::limits;
use crate::objects::{Kind, Payload, Put};
use crate::records::{ForkFacts, GapFacts, LineageFacts, SegmentFacts, TailFacts};
use crate::source::{SourceArchive, expect_kind};

/// Bytes `from..to` of a segment that is not sealed yet.
#[derive(Debug, Clone)]
pub struct Tail<P> {
    /// The history it belongs to.
    pub lineage: LineageId,
    /// Name of the open segment.
    pub name: SegmentName,
    /// Offset of its first byte within the segment, in bytes.
    pub from: u64,
    /// Cut before its first byte.
    pub start: P,
    /// Cut after its last byte.
    pub end: P,
    /// What is known of commit times inside.
    pub commits: CommitBounds,
    /// Number of named points inside.
    pub marks: u64,
    /// What the engine noted.
    pub facts: Facts,
    /// The native bytes.
    pub bytes: Bytes,
}

/// A stored tail: where it lies in its segment, and what it covers.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTail<P> {
    /// Offset of its first byte within the segment.
    pub from: u64,
    /// Offset after its last byte.
    pub to: u64,
    /// What it covers; `first` and `last` are the name of the open segment.
    pub span: Span<P>,
}

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

    /// Makes bytes of an open segment durable before it is sealed.
    pub async fn put_tail<P: Position>(&self, tail: &Tail<P>) -> Result<Put> {
        let to = tail.from + tail.bytes.len() as u64;
        let key = self.layout().tail(&tail.lineage, &tail.name, tail.from, to);
        let segment = SegmentFacts {
            lineage: tail.lineage.clone(),
            group: tail.name.group().to_owned(),
            leaf: tail.name.leaf().to_owned(),
            start: tail.start.to_string(),
            end: tail.end.to_string(),
            commits: tail.commits.clone(),
            marks: tail.marks,
            facts: tail.facts.clone(),
        };
        segment.clone().span::<P>(&key, tail.bytes.len() as u64)?;
        let facts = TailFacts { from: tail.from, to, segment };
        self.objects().put(Kind::Tail, &key, &facts, Payload::Raw(tail.bytes.clone())).await
    }

    /// The stored tails of a lineage, in log order. Needs no identity.
    pub async fn tails<P: Position>(&self, lineage: &LineageId) -> Result<Vec<StoredTail<P>>> {
        let mut tails = Vec::new();
        for header in self.listed_headers(&self.layout().tails(lineage), Kind::Tail).await? {
            let facts: TailFacts = header.facts()?;
            let span = facts.segment.span(&header.key, header.raw_bytes)?;
            tails.push(StoredTail { from: facts.from, to: facts.to, span });
        }
        tails.sort_by(|a, b| (&a.span.first, a.from, a.to).cmp(&(&b.span.first, b.from, b.to)));
        Ok(tails)
    }

    /// The bytes of a stored tail.
    pub async fn tail<P: Position>(&self, tail: &StoredTail<P>) -> Result<Option<Bytes>> {
        let key = self.layout().tail(&tail.span.lineage, &tail.span.first, tail.from, tail.to);
        let Some(object) = self.objects().get(&key).await? else { return Ok(None) };
        expect_kind(&object.header, Kind::Tail)?;
        Ok(Some(object.raw))
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
