//! Where the log of a MySQL or MariaDB source comes from: a server, on whatever history comes next.

use std::marker::PhantomData;

use pitr_archive::SourceArchive;
use pitr_core::{ErrorKind, Gap};
use pitr_mysql::BinlogPosition;
use pitr_mysql::connect::Settings;
use pitr_mysql::dump::Replica;
use pitr_mysql::stream::{BinlogStream, find};

use crate::engine::{Product, Site};
use crate::failure::Failure;
use crate::mysql::archived::{Purpose, archived, register, replica};
use crate::mysql::connection;
use crate::streaming::{Durable, Upstream};

/// A server to stream from.
#[derive(Debug)]
pub struct BinlogUpstream<E> {
    settings: Settings,
    replica: Replica,
    engine: PhantomData<E>,
}

impl<E: Product<Position = BinlogPosition>> BinlogUpstream<E> {
    /// The server of a source, as its configuration names it.
    pub fn new(site: Site<'_>) -> Result<Self, Failure> {
        let replica = replica(&site, Purpose::Stream);
        if replica.confirms {
            tracing::warn!(
                source = site.name,
                "confirming transactions as a semi-synchronous replica, once they are in the archive: if the server waits for one replica only, a commit may be known here and at no other server; set rpl_semi_sync_source_wait_for_replica_count to 2 where another one must have it too"
            );
        }
        Ok(Self { settings: connection::<E>(&site)?, replica, engine: PhantomData })
    }
}

impl<E: Product<Position = BinlogPosition>> Upstream for BinlogUpstream<E> {
    type Engine = E;
    type Stream = BinlogStream<E>;

    async fn connect(
        &mut self,
        archive: &SourceArchive,
        durable: Durable<BinlogPosition>,
    ) -> Result<BinlogStream<E>, Failure> {
        let archived = archived::<E>(archive).await?;
        let found = find(&self.settings, &self.replica, archived.as_ref()).await?;
        register::<E>(archive, &found).await?;
        for notice in &found.notices {
            tracing::warn!(source = archive.name().as_str(), "{notice}");
        }
        for alarm in &found.alarms {
            tracing::error!(
                source = archive.name().as_str(),
                next = format!("pitr backup {}", archive.name().as_str()),
                "{alarm}"
            );
        }
        Ok(BinlogStream::begin(&self.settings, &self.replica, &found, durable).await?)
    }

    /// A stream of the binary log never ends with "removed": what the server no longer has is found by `connect`, which
    /// compares its files with the archive, and recorded there.
    async fn lost(&mut self, _archive: &SourceArchive, removed: &Failure) -> Result<Gap<BinlogPosition>, Failure> {
        Err(Failure::new(ErrorKind::Unreachable, removed.message.clone()))
    }
}
