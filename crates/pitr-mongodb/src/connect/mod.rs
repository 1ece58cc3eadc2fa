//! The way to a server: one member of a replica set, or a standalone.
//!
//! Everything that reads holds on to one member ([`Member`]): cursors, record order and the commit point
//! belong to it. What writes goes to the primary.

mod command;
mod query;
mod settings;

use std::time::Duration;

use bson::{Bson, Document, RawBsonRef, RawDocumentBuf, doc};
use mongodb::options::ServerAddress;
use mongodb::{Client, Database};
use tokio::time::timeout;

pub(crate) use self::command::{Piece, with_documents};
pub use self::query::{compatibility, entry_at, first_from, last_before, last_of_term, oplog_bounds};
pub(crate) use self::query::{find_one, lineage_facts};
pub use self::settings::Settings;
use crate::error::{Doing, Error, Result};
use crate::limits::{MEMBER_LAG, OLDEST_VERSION, QUERY_TIMEOUT};
pub use pitr_net::Password;

/// Which member of a set is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefer {
    /// One that clients do not write to, if there is one that answers.
    Secondary,
    /// The one that takes writes.
    Primary,
}

/// A connection to one server, and what it said of itself.
#[derive(Debug, Clone)]
pub struct Member {
    client: Client,
    /// Its address, as the set knows it.
    pub host: String,
    /// Name of the replica set; `None` for a standalone.
    pub set: Option<String>,
    /// True for a server that takes writes.
    pub writable: bool,
    /// True unless it is a secondary that is cut off from its primary, or far behind the others.
    pub current: bool,
    /// Version: major, minor, patch.
    pub version: (u32, u32, u32),
    /// All members that hold data, as the set knows them.
    pub members: Vec<String>,
    /// Who is logged in here, as `system.users` identifies users: `database.name`.
    pub users: Vec<String>,
}

impl Member {
    /// Connects to a member. The URL may name one or several; the set says who else there is.
    pub async fn connect(settings: &Settings, prefer: Prefer) -> Result<Self> {
        let options = settings.options().await?;
        let mut failure = None;
        let mut fallback: Option<Self> = None;
        let mut addresses: Vec<ServerAddress> = options.hosts;
        let direct = options.direct_connection == Some(true);
        let mut at = 0;
        while let Some(address) = addresses.get(at).cloned() {
            at += 1;
            match Self::of(settings, &address).await {
                Ok(member) => {
                    if direct || member.suits(prefer) {
                        return Ok(member);
                    }
                    for other in &member.members {
                        let known = |address: &ServerAddress| address.to_string() == *other;
                        if let (false, Ok(address)) = (addresses.iter().any(known), other.parse()) {
                            addresses.push(address);
                        }
                    }
                    // The primary has everything, whoever else does not.
                    fallback = fallback.filter(|known| known.writable).or(Some(member));
                }
                // Another member may answer; if none does, the last error is told.
                Err(error) => failure = Some(error),
            }
        }
        match (fallback, failure) {
            (Some(member), _) if prefer == Prefer::Secondary => Ok(member),
            (_, Some(error)) => Err(error),
            (Some(member), None) => Err(Error::Silent {
                doing: format!("no primary among {}", member.members.join(", ")),
                seconds: QUERY_TIMEOUT.as_secs(),
            }),
            (None, None) => Err(Error::Url("it names no server".to_owned())),
        }
    }

    async fn of(settings: &Settings, address: &ServerAddress) -> Result<Self> {
        let client = settings.direct(address).await?;
        let doing = format!("asking {address} who it is");
        let admin = client.database("admin");
        let hello = command(&admin, doc! { "hello": 1 }, &doing).await?;
        if hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
            return Err(Error::Unsuitable {
                what: format!("{address} is a mongos"),
                hint: "protect each shard and the config servers as a replica set of its own".to_owned(),
            });
        }
        let state = |key| hello.get_bool(key).unwrap_or(false);
        let writable = state("isWritablePrimary") || state("ismaster");
        if !writable && !state("secondary") {
            return Err(Error::Silent {
                doing: format!("{address} is neither primary nor secondary"),
                seconds: QUERY_TIMEOUT.as_secs(),
            });
        }
        let version = parse_version(command(&admin, doc! { "buildInfo": 1 }, &doing).await?.get_str("version").ok());
        if (version.0, version.1) < OLDEST_VERSION {
            let (major, minor, _) = version;
            return Err(Error::Unsuitable {
                what: format!("MongoDB {major}.{minor} is not supported: 4.4 and later are"),
                hint: "upgrade the server".to_owned(),
            });
        }
        let text = |key: &str| hello.get_str(key).ok().map(str::to_owned);
        let current =
            writable || text("setName").is_none() || text("primary").is_some() && lag(&admin).await < MEMBER_LAG;
        let hosts = hello.get_array("hosts").ok().into_iter().flatten();
        let status = command(&admin, doc! { "connectionStatus": 1 }, &doing).await?;
        Ok(Self {
            client,
            host: text("me").unwrap_or_else(|| address.to_string()),
            set: text("setName"),
            writable,
            current,
            version,
            members: hosts.filter_map(|host| host.as_str().map(str::to_owned)).collect(),
            users: users(&status),
        })
    }

    fn suits(&self, prefer: Prefer) -> bool {
        match prefer {
            _ if self.set.is_none() => true,
            Prefer::Primary => self.writable,
            Prefer::Secondary => !self.writable && self.current,
        }
    }

    /// A database of this server.
    pub fn database(&self, name: &str) -> Database {
        self.client.database(name)
    }

    /// The client, for sessions.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Runs a small command on `admin`.
    pub async fn admin(&self, command_document: Document, doing: &str) -> Result<Document> {
        command(&self.database("admin"), command_document, doing).await
    }

    /// Runs a small command on a database.
    pub async fn run(&self, database: &str, command_document: Document, doing: &str) -> Result<Document> {
        command(&self.database(database), command_document, doing).await
    }

    /// Runs a command that may take long.
    pub async fn run_raw(&self, database: &str, document: RawDocumentBuf, doing: &str) -> Result<Document> {
        self.database(database).run_raw_command(document).await.doing(doing)
    }

    /// True for the document of somebody who is logged in here: to replace it would be to be thrown out.
    pub fn is_own_user(&self, ns: &str, id: Option<RawBsonRef<'_>>) -> bool {
        ns == "admin.system.users"
            && id.and_then(|id| id.as_str()).is_some_and(|id| self.users.iter().any(|own| own == id))
    }

    /// The version as people write it.
    pub fn version_text(&self) -> String {
        let (major, minor, patch) = self.version;
        format!("{major}.{minor}.{patch}")
    }
}

/// How far a secondary is behind the newest member that it knows of. None at all, if it does not say.
async fn lag(admin: &Database) -> Duration {
    let status = command(admin, doc! { "replSetGetStatus": 1 }, "asking how far a member is").await.unwrap_or_default();
    let members = || status.get_array("members").into_iter().flatten().filter_map(Bson::as_document);
    let at = |member: &Document| member.get_datetime("optimeDate").map_or(0, |date| date.timestamp_millis());
    let own = members().find(|member| member.get_bool("self").unwrap_or(false)).map(at);
    let newest = members().map(at).max();
    let behind = own.zip(newest).map_or(0, |(own, newest)| newest - own);
    Duration::from_millis(u64::try_from(behind).unwrap_or(0))
}

fn users(status: &Document) -> Vec<String> {
    let users = status.get_document("authInfo").and_then(|info| info.get_array("authenticatedUsers"));
    let id = |user: &Document| Some(format!("{}.{}", user.get_str("db").ok()?, user.get_str("user").ok()?));
    users.into_iter().flatten().filter_map(|user| id(user.as_document()?)).collect()
}

async fn command(database: &Database, document: Document, doing: &str) -> Result<Document> {
    match timeout(QUERY_TIMEOUT, async { database.run_command(document).await }).await {
        Ok(answer) => answer.doing(doing),
        Err(_) => Err(Error::Silent { doing: doing.to_owned(), seconds: QUERY_TIMEOUT.as_secs() }),
    }
}

fn parse_version(text: Option<&str>) -> (u32, u32, u32) {
    let mut numbers = text.unwrap_or_default().split(['.', '-']).map_while(|number| number.parse().ok());
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}
