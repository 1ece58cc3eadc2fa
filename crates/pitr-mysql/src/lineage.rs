//! Histories: what tells one from another, and how they are named.
//!
//! A history is the binary log of one server from one begin on. It ends where the server's log is reset, where it lost
//! its end, and where another server takes over. None of these is visible in the names of files, so a history is
//! named by a digest of what it begins with: the server, and the head of its first file, whose format description
//! carries the second in which the server made it.

use pitr_core::{Facts, Fork, InvalidName, LineageId};
use sha2::{Digest, Sha256};

use crate::engine::facts;
use crate::position::{BinlogPosition, Incarnation, LogFile};
use crate::server::Server;

/// The head of a log file: enough to tell it from any other file of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHead {
    /// The file.
    pub file: LogFile,
    /// Its format description event, whole, as it stands in the closed file.
    pub format: Vec<u8>,
    /// Executed set before it.
    pub executed: crate::gtid::GtidSet,
}

/// A history that is to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Its name.
    pub id: LineageId,
    /// The same in its positions.
    pub incarnation: Incarnation,
    /// Where it left another one.
    pub fork: Option<Fork<BinlogPosition>>,
    /// What is noted of it.
    pub facts: Facts,
}

impl History {
    /// The history of `server` that begins with the file of this head.
    pub fn of(server: &Server, head: &FileHead) -> Result<Self, InvalidName> {
        Self::new(server, head, &[])
    }

    /// The history that replaced `former`, whose first file had the same head.
    pub fn after(server: &Server, head: &FileHead, former: &LineageId) -> Result<Self, InvalidName> {
        Self::new(server, head, former.as_str().as_bytes())
    }

    /// A history that leaves `parent` at `parent_at`, where `child_at` gives the same cut for its incarnation.
    pub fn forked(
        server: &Server,
        head: &FileHead,
        parent: &LineageId,
        parent_at: BinlogPosition,
        child_at: impl FnOnce(Incarnation) -> BinlogPosition,
    ) -> Result<Self, InvalidName> {
        let place = format!("{parent} {parent_at}");
        let mut history = Self::new(server, head, place.as_bytes())?;
        let child_at = child_at(history.incarnation);
        history.fork = Some(Fork { parent: parent.clone(), parent_at, child_at });
        Ok(history)
    }

    fn new(server: &Server, head: &FileHead, more: &[u8]) -> Result<Self, InvalidName> {
        let mut digest = Sha256::new();
        for part in [server.identity().as_bytes(), head.file.to_string().as_bytes(), &head.format, more] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let digest = digest.finalize();
        let incarnation = Incarnation(digest.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes)));
        let id = LineageId::new(format!("{}.{incarnation}", server.short_name()))?;
        let mut facts = Facts::from([
            (facts::INCARNATION.to_owned(), incarnation.to_string()),
            (facts::SERVER_ID.to_owned(), server.server_id.to_string()),
            (facts::VERSION.to_owned(), server.version.clone()),
            (facts::BASE_NAME.to_owned(), head.file.base.clone()),
            (facts::FILE.to_owned(), head.file.to_string()),
            (facts::FORMAT.to_owned(), hex::encode(&head.format)),
        ]);
        if let Some(uuid) = &server.uuid {
            facts.insert(facts::SERVER_UUID.to_owned(), uuid.clone());
        }
        Ok(Self { id, incarnation, fork: None, facts })
    }
}

/// True if a history with these facts may be that of `server`: the same identity, the same names of files.
pub fn may_be_of(facts: &Facts, server: &Server) -> bool {
    let same_server = match (facts.get(facts::SERVER_UUID), &server.uuid) {
        (Some(known), Some(uuid)) => known == uuid,
        (None, None) => facts.get(facts::SERVER_ID) == Some(&server.server_id.to_string()),
        _ => false,
    };
    same_server && facts.get(facts::BASE_NAME) == Some(&server.current.base)
}
