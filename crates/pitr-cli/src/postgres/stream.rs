//! Where the log of a PostgreSQL source comes from: a walsender, on whatever timeline comes next.

use std::collections::VecDeque;

use pitr_archive::SourceArchive;
use pitr_core::{Catalog, ErrorKind, Gap, GapCause, LineageId};
use pitr_postgres::connect::Settings;
use pitr_postgres::push::Seam;
use pitr_postgres::replication::{ReplicationClient, SystemIdentity};
use pitr_postgres::stream::{PgStream, StreamStart, oldest_log};
use pitr_postgres::{PgPosition, Postgres, SegmentSize, TimelineId};

use crate::engine::Site;
use crate::failure::{During, Failure};
use crate::postgres::connection;
use crate::postgres::lineage::{self, Writer};
use crate::postgres::resume::{self, Hop};
use crate::streaming::{Durable, Upstream};

/// A server to stream from.
#[derive(Debug)]
pub struct PgUpstream {
    settings: Settings,
    slot: Option<String>,
}

/// What the server says of itself, and what that means for the archive.
struct Situation {
    identity: SystemIdentity,
    size: SegmentSize,
    version: u32,
    hops: Vec<Hop>,
    catalog: Catalog<PgPosition>,
    /// Index of the hop to stream.
    hop: usize,
    /// Its lineage.
    lineage: LineageId,
    /// Where to begin on it.
    at: PgPosition,
    /// Ends of its archived log from there on.
    seams: VecDeque<Seam>,
}

impl PgUpstream {
    /// The server of a source, as its configuration names it.
    pub fn new(site: Site<'_>) -> Result<Self, Failure> {
        Ok(Self { settings: connection(&site)?, slot: site.source.slot.clone() })
    }

    /// Drops the slot; false if there was none.
    pub async fn drop_slot(&self) -> Result<bool, Failure> {
        let slot = self.slot.as_deref().ok_or_else(|| {
            Failure::new(ErrorKind::Usage, "the source has no slot").next("set sources.NAME.slot to the slot to drop")
        })?;
        let mut client = ReplicationClient::connect(&self.settings).await?;
        let dropped = client.drop_slot(slot).await.during(format!("dropping slot {slot}"));
        client.close().await;
        dropped
    }

    /// Looks at server and archive, and finds where to go on.
    async fn situation(&self, client: &mut ReplicationClient, archive: &SourceArchive) -> Result<Situation, Failure> {
        let identity = client.identify().await?;
        let size = client.segment_size().await?;
        let version = client.major();
        let history = match identity.timeline {
            TimelineId::FIRST => None,
            timeline => Some(client.timeline_history(timeline).await?.1),
        };
        let digest = |bytes: &[u8]| archive.objects().digest(bytes);
        let hops = resume::hops(identity.system_id, identity.timeline, history.as_deref(), digest)?;
        let catalog = archive.catalog::<Postgres>().await?;
        let next = resume::next(&hops, &catalog, size, identity.flushed);
        let chosen = next.and_then(|(hop, lsn)| Some((hop, hops.get(hop)?, lsn)));
        let (hop, chosen, lsn) =
            chosen.ok_or_else(|| Failure::new(ErrorKind::Failed, "the server is on no timeline"))?;
        let (lineage, at) = (chosen.lineage.clone(), PgPosition::new(chosen.timeline, lsn));
        let seams = resume::seams(&catalog, &lineage, at);
        Ok(Situation { identity, size, version, hops, catalog, hop, lineage, at, seams })
    }
}

impl Upstream for PgUpstream {
    type Engine = Postgres;
    type Stream = PgStream;

    async fn connect(&mut self, archive: &SourceArchive, durable: Durable<PgPosition>) -> Result<PgStream, Failure> {
        let mut client = ReplicationClient::connect(&self.settings).await?;
        // First of all: from here on the server keeps what we have not seen.
        if let Some(slot) = &self.slot
            && client.ensure_slot(slot).await.during(format!("slot {slot}"))?
        {
            tracing::info!(slot, "made a replication slot; the server keeps log for it until it is dropped");
        }
        let situation = self.situation(&mut client, archive).await?;
        situation.refuse_a_server_that_is_behind()?;
        situation.register(archive).await?;
        let start = StreamStart {
            lineage: situation.lineage,
            at: situation.at,
            segment_size: situation.size,
            system_id: situation.identity.system_id,
            slot: self.slot.clone(),
            seams: situation.seams,
        };
        Ok(PgStream::begin(client, start, durable).await?)
    }

    async fn lost(&mut self, archive: &SourceArchive, removed: &Failure) -> Result<Gap<PgPosition>, Failure> {
        let mut client = ReplicationClient::connect(&self.settings).await?;
        let situation = self.situation(&mut client, archive).await?;
        client.close().await;
        let Situation { at, size, .. } = situation;
        let until = situation.until();
        let oldest = oldest_log(&self.settings, at.timeline, at.lsn, until.lsn, size).await?;
        if oldest <= at.lsn {
            return Err(Failure::new(ErrorKind::Unreachable, format!("the server has the log from {at} on again")));
        }
        Ok(situation.gap(PgPosition { lsn: oldest, ..at }, removed))
    }
}

impl Situation {
    /// Registers the lineage to stream, and before it those that lead there from one that the archive knows.
    async fn register(&self, archive: &SourceArchive) -> Result<(), Failure> {
        let known = |hop: &Hop| self.catalog.lineage(&hop.lineage).is_some();
        let first = self.hops.iter().position(known).unwrap_or(self.hop).min(self.hop);
        for hop in self.hops.iter().take(self.hop + 1).skip(first) {
            let writer = Writer {
                system_id: self.identity.system_id,
                timeline: hop.timeline,
                segment_size: self.size,
                version: self.version,
            };
            match &hop.history {
                Some(file) => lineage::of_history(archive, writer, file).await?,
                None => lineage::of_first_timeline(archive, writer).await?,
            };
        }
        Ok(())
    }

    /// A server may not be where the archive already is: a standby that lags, or one that lost its last log.
    fn refuse_a_server_that_is_behind(&self) -> Result<(), Failure> {
        let SystemIdentity { timeline, flushed, .. } = self.identity;
        // Not only of sealed segments: what the server sent of an open one, it had.
        let archived = self.seams.back().map_or(self.at.lsn, |seam| seam.at.max(self.at.lsn));
        if timeline != self.at.timeline || archived <= flushed {
            return Ok(());
        }
        let what =
            format!("the archive has the log of timeline {timeline} up to {archived}, the server only up to {flushed}");
        Err(Failure::new(ErrorKind::Unreachable, what).next(
            "a standby will catch up; a server that was set back to an earlier state, by a snapshot for instance, needs a [sources.NAME] of its own and a base: what is archived here stays restorable",
        ))
    }

    /// The begin of the first segment that is certainly there: of the next timeline, or the one being written.
    fn until(&self) -> PgPosition {
        let next = self.hops.get(self.hop + 1).map_or(self.identity.flushed, |child| child.begins);
        PgPosition { lsn: next.segment_start(self.size), ..self.at }
    }

    fn gap(&self, before: PgPosition, removed: &Failure) -> Gap<PgPosition> {
        let log = self.catalog.spans.iter().chain(&self.catalog.tails);
        let reaching = log.filter(|s| s.lineage == self.lineage && s.start <= self.at && self.at <= s.end);
        let last = reaching.max_by_key(|span| span.end.lsn);
        Gap {
            lineage: self.lineage.clone(),
            after: last.map_or(self.at, |span| span.end),
            before: Some(before),
            after_time: last.and_then(|span| span.commits.reaches),
            before_time: None,
            cause: GapCause::RemovedByServer(removed.message.clone()),
        }
    }
}
