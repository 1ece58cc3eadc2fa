//! Short looks into the log of a server, each over a connection of its own.

use crate::connect::Settings;
use crate::dump::{Dump, Replica, silence};
use crate::event::{Event, Feed, Flavour, Grouper, Header, Kind, MAGIC, Mark, Reader, body};
use crate::gtid::GtidSet;
use crate::limits::{MAX_FILE_HEAD, STREAM_SILENCE};
use crate::lineage::FileHead;
use crate::position::LogFile;
use crate::server::Server;
use crate::{Error, ServerError};

use super::fragment::{Artificial, Sort, sort};
use super::segmenter::{empty_set, whole_format};

/// A place in the log of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The head of its file.
    pub head: FileHead,
    /// The offset.
    pub offset: u64,
}

/// Reads the head of a file.
pub async fn head(settings: &Settings, replica: &Replica, file: &LogFile) -> Result<FileHead, Error> {
    let mut look = Look::at(settings, replica, file, 0).await?;
    let mut format = Vec::new();
    let found = look
        .until(|event, flavour| {
            match event.header.kind {
                Kind::FORMAT_DESCRIPTION => format = whole_format(event),
                Kind::PREVIOUS_GTIDS => return Ok(Some(GtidSet::Mysql(body::previous_gtids(event)?))),
                Kind::GTID_LIST => return Ok(Some(GtidSet::Maria(body::gtid_list(event)?))),
                // Transactions without a set before them: an old server, or identifiers that are off.
                kind if !kind.is_administrative() => return Ok(Some(empty_set(flavour))),
                _ if event.offset > MAX_FILE_HEAD => return Ok(Some(empty_set(flavour))),
                _ => {}
            }
            Ok(None)
        })
        .await?;
    let executed = found.unwrap_or_else(|| empty_set(look.flavour));
    if format.is_empty() {
        return Err(ServerError::NoFormat(file.to_string()).into());
    }
    Ok(FileHead { file: file.clone(), format, executed })
}

/// True if an event with this checksum begins at `offset` of `file`.
pub async fn has_event(
    settings: &Settings,
    replica: &Replica,
    file: &LogFile,
    offset: u64,
    crc: u32,
) -> Result<bool, Error> {
    let mut look = Look::at(settings, replica, file, offset).await?;
    let found = look.until(|event, _| Ok((event.offset >= offset).then_some(event.offset))).await;
    match found {
        Ok(Some(at)) => Ok(at == offset && look.feed.reader().last() == Some((offset, crc))),
        Ok(None) => Ok(false),
        // No event begins there, or the file ends before: the server says so, or what it sends makes no sense.
        Err(Error::Dump(error)) if error.is_missing() => Ok(false),
        Err(Error::Event(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where the log of a server has executed exactly `wanted`; `None` if it never has, or not any more.
pub async fn locate(
    settings: &Settings,
    replica: &Replica,
    server: &Server,
    wanted: &GtidSet,
) -> Result<Option<Place>, Error> {
    for (file, _) in server.files.iter().rev() {
        let head = head(settings, replica, file).await?;
        if head.executed == *wanted {
            return Ok(Some(Place { head, offset: 0 }));
        }
        if head.executed.is_subset(wanted) {
            let found = locate_in(settings, replica, &head, wanted).await?;
            return Ok(found.map(|offset| Place { head, offset }));
        }
    }
    Ok(None)
}

/// The offset in a file behind the transaction that completes `wanted`.
async fn locate_in(
    settings: &Settings,
    replica: &Replica,
    head: &FileHead,
    wanted: &GtidSet,
) -> Result<Option<u64>, Error> {
    let mut look = Look::at(settings, replica, &head.file, 0).await?;
    let (mut grouper, mut executed) = (Grouper::default(), head.executed.clone());
    let found = look.until(|event, _| {
        let Mark::End(group) = grouper.next(event)? else { return Ok(None) };
        let Some(gtid) = group.gtid else { return Ok(None) };
        executed.insert(&gtid);
        Ok(match executed == *wanted {
            true => Some(Some(group.end)),
            // Something that the archive does not have came first: the two went apart.
            false => (!executed.is_subset(wanted)).then_some(None),
        })
    });
    Ok(found.await?.flatten())
}

/// A stream of one file that is looked at and dropped.
struct Look {
    dump: Dump,
    file: LogFile,
    feed: Feed,
    flavour: Flavour,
    from: u64,
}

impl Look {
    async fn at(settings: &Settings, replica: &Replica, file: &LogFile, offset: u64) -> Result<Self, Error> {
        let session = settings.open().await?;
        let flavour = session.hello.flavour;
        let offset = reachable(offset);
        // A look confirms nothing.
        let replica = Replica { confirms: false, ..replica.clone() };
        let dump = Dump::start(session, file, offset, &replica).await?;
        Ok(Self { dump, file: file.clone(), feed: Feed::new(Reader::new(offset)), flavour, from: offset })
    }

    /// Shows events until one is what was looked for; `None` at the end of the file, or of what there is of it.
    async fn until<T>(
        &mut self,
        mut wanted: impl FnMut(&Event<'_>, Flavour) -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        let mut real = false;
        loop {
            let next = tokio::time::timeout(STREAM_SILENCE, self.dump.next()).await;
            let mut fragment = next.map_err(|_| silence())??;
            if fragment.begins {
                real = match sort(&mut fragment)? {
                    Sort::Real => true,
                    Sort::Artificial(Artificial::Format(format)) => {
                        self.feed = Feed::new(Reader::with_format(self.from, format));
                        false
                    }
                    Sort::Artificial(Artificial::Rotate(to)) if to != self.file => return Ok(None),
                    // Nothing more at this moment.
                    Sort::Artificial(Artificial::Heartbeat) => return Ok(None),
                    Sort::Artificial(_) => false,
                };
            }
            if !real {
                continue;
            }
            if self.feed.reader().offset() == 0 && !self.feed.is_inside() {
                // The server does not send them.
                while self.feed.next(&mut { MAGIC })?.is_some() {}
            }
            let mut bytes: &[u8] = &fragment.bytes;
            while let Some(event) = self.feed.next(&mut bytes)? {
                if let Some(found) = wanted(&event, self.flavour)? {
                    return Ok(Some(found));
                }
                if event.header.kind == Kind::ROTATE {
                    return Ok(None);
                }
            }
        }
    }
}

/// A server can be asked for the first 4 GiB of a file only: beyond, it is read from its begin.
pub(super) fn reachable(offset: u64) -> u64 {
    if u32::try_from(offset).is_ok() { offset } else { 0 }
}

/// Bytes that a header takes, for a packet to be an event at all.
pub(super) const LEAST: usize = Header::LEN;
