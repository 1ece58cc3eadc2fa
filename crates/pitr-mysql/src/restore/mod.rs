//! Loads a base into an empty server, and replays the log up to one exact position.
//!
//! [`MyRestore::run`] reads as the procedure. What is done is kept in the target server ([`ledger`]), so the same call
//! goes on after an interruption; the ledger goes when everything else is there. No session of a restore writes a
//! binary log, and events stay off.

mod definitions;
mod error;
mod into;
mod ledger;
mod orphan;
mod rows;
mod spool;
mod tuned;

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pitr_core::BaseId;
use pitr_core::ports::{BaseReader, PartInfo, Recovery, SegmentReader};
use tokio::io::{AsyncBufReadExt, BufReader};

pub use self::error::RestoreError;
use self::into::Claim;
pub use self::into::Into;
pub use self::ledger::DATABASE as LEDGER;
use self::ledger::Step;
use self::spool::Spool;
use crate::BinlogPosition;
use crate::base::format::{DEFINITIONS, DUMP, Definition, Dump, Kind, TABLES, TableFiles};
use crate::base::{Dial, SYSTEM_DATABASE};
use crate::error::Error;
use crate::event::Flavour;
use crate::gtid::Gtid;
use crate::limits::LOAD_SESSIONS;
use crate::replay::{Begin, Log, ReplayOptions, Replayed, Target, find_place, replay};
use crate::sql::Sql;

/// How to restore.
#[derive(Clone)]
pub struct RestoreOptions {
    /// Opens an administrator's session to the target server.
    pub dial: Dial,
    /// The address under which the target server reaches us.
    pub address: IpAddr,
    /// Sessions that load rows.
    pub sessions: usize,
    /// Where files of rows lie while they are loaded.
    pub spool_below: PathBuf,
    /// Transactions of the log that are left out.
    pub skip: HashSet<Gtid>,
}

impl RestoreOptions {
    /// A restore into the server that `dial` reaches and that reaches us under `address`.
    pub fn new(dial: Dial, address: IpAddr) -> Self {
        Self { dial, address, sessions: LOAD_SESSIONS, spool_below: std::env::temp_dir(), skip: HashSet::new() }
    }
}

/// Restores into a directory, with a server that is started there and stopped again.
pub async fn restore_into<R: SegmentReader + BaseReader>(
    into: &Into,
    skip: HashSet<Gtid>,
    recovery: &Recovery<BinlogPosition>,
    start: BinlogPosition,
    from: &R,
) -> Result<RestoreReport, Error> {
    let dump = read_dump(&recovery.base, from).await?;
    let claim = Claim::take(into, &dump, &fingerprint(recovery, &skip))?;
    claim.initialize(&dump)?;
    let server = claim.start(&dump).await?;
    let options = RestoreOptions {
        spool_below: claim.beside().to_owned(),
        skip,
        ..RestoreOptions::new(server.dial(), std::net::Ipv4Addr::LOCALHOST.into())
    };
    let mut report = MyRestore::new(options).run(recovery, start, from).await?;
    // The account of the restore goes with it.
    report.warnings.retain(|warning| !warning.contains("which the restore itself uses"));
    server.stop(&claim).await?;
    claim.release(&dump)?;
    Ok(report)
}

/// A restore to be done.
pub struct MyRestore {
    options: RestoreOptions,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReport {
    /// Tables with rows of their own.
    pub tables: u64,
    /// Rows of the base.
    pub rows: u64,
    /// True if an interrupted restore was gone on with.
    pub resumed: bool,
    /// What the replay came to.
    pub replayed: Replayed,
    /// How long it took.
    pub replay_time: Duration,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl MyRestore {
    /// A restore with these options.
    pub fn new(options: RestoreOptions) -> Self {
        Self { options }
    }

    /// Performs the restore. The log of the recovery consists of single segments; `start` is where its base lies.
    pub async fn run<R: SegmentReader + BaseReader>(
        &self,
        recovery: &Recovery<BinlogPosition>,
        start: BinlogPosition,
        from: &R,
    ) -> Result<RestoreReport, Error> {
        let dump = read_dump(&recovery.base, from).await?;
        let log = Log::new(recovery, start)?;
        let mut admin = self.session().await?;
        let flavour = check_fit(&mut admin, &dump).await?;
        let resumed = ledger::open(&mut admin, &fingerprint(recovery, &self.options.skip)).await?;
        tuned::set(&mut admin, flavour, log.has_domains).await?;

        let spool = Arc::new(Spool::create(&self.options.spool_below)?);
        let small = |part: &PartInfo| part.path == DEFINITIONS || part.path == TABLES;
        from.pour(&recovery.base, &small, spool.as_ref()).await?;
        let definitions = spool.path(DEFINITIONS);
        let mut tables = read_tables(&spool).await?;
        if !needs_zones(&mut admin, resumed).await? {
            tables.retain(|table| table.schema != SYSTEM_DATABASE);
        }
        let (table_count, row_count) = (tables.len() as u64, tables.iter().map(|table| table.rows).sum());

        let mut warnings = Vec::new();
        if !ledger::is_done(&mut admin, Step::Tables).await? {
            definitions::make(&mut admin, &definitions, |d| d.kind <= Kind::Table).await?;
            ledger::done(&mut admin, Step::Tables).await?;
        }
        rows::load(&recovery.base, from, &spool, tables, self.sessions().await?).await?;
        if !ledger::is_done(&mut admin, Step::Objects).await? {
            let rest = |d: &Definition| d.kind > Kind::Table && d.kind < Kind::Account;
            warnings.extend(definitions::make(&mut admin, &definitions, rest).await?);
            ledger::done(&mut admin, Step::Objects).await?;
        }
        if !ledger::is_done(&mut admin, Step::Accounts).await? {
            warnings.extend(make_accounts(&mut admin, &definitions).await?);
            ledger::done(&mut admin, Step::Accounts).await?;
        }

        let named = has_names(&dump, flavour);
        let mut target = Target { session: &mut admin, flavour };
        if !ledger::is_done(target.session, Step::Position).await? {
            target.set_executed(if named { &dump.coordinates.gtid } else { "" }).await?;
            ledger::done(target.session, Step::Position).await?;
        }
        let begin = self.begin(&mut target, &dump, named, resumed).await?;
        let options = ReplayOptions {
            address: self.options.address,
            base: named.then(|| dump.coordinates.gtid.clone()),
            skip: self.options.skip.clone(),
            begin,
        };
        let begun = Instant::now();
        let replayed = replay(target, &log, from, &options).await?;
        let replay_time = begun.elapsed();
        if !replayed.prepared.is_empty() {
            warnings.push(format!(
                "XA transactions are prepared and wait for XA COMMIT or XA ROLLBACK: {}",
                replayed.prepared.join(", ")
            ));
        }
        if !replayed.changing.is_empty() {
            warnings.push(format!(
                "definitions were being changed at the target, and are as they were before: {}",
                replayed.changing.join(", ")
            ));
        }
        if !replayed.foreign_events.is_empty() {
            warnings.push(format!(
                "events that came with the log do not fire here, also not with the event scheduler on, until ALTER DEFINER = … EVENT … ENABLE: {}",
                replayed.foreign_events.join(", ")
            ));
        }
        tuned::reset(&mut admin).await?;
        // Last: from here on the server is a server like any other.
        ledger::close(&mut admin).await?;
        admin.close().await;
        Ok(RestoreReport { tables: table_count, rows: row_count, resumed, replayed, replay_time, warnings })
    }

    /// A session that writes no log and waits for nobody else's locks for long.
    async fn session(&self) -> Result<Sql, Error> {
        let mut session = (self.options.dial)().await?;
        session.execute("SET SESSION sql_log_bin = 0").await?;
        session.execute("SET SESSION wait_timeout = 604800, net_read_timeout = 3600, lock_wait_timeout = 600").await?;
        Ok(session)
    }

    async fn sessions(&self) -> Result<Vec<Sql>, Error> {
        let mut sessions = Vec::new();
        for _ in 0..self.options.sessions.max(1) {
            sessions.push(self.session().await?);
        }
        Ok(sessions)
    }

    /// Where the replay begins. Without names of transactions an interrupted one goes on where the server says it is.
    async fn begin(&self, target: &mut Target<'_>, dump: &Dump, named: bool, resumed: bool) -> Result<Begin, Error> {
        if named {
            return Ok(Begin::Executed);
        }
        let base = || (dump.coordinates.file.clone(), dump.coordinates.offset);
        let place = if resumed { find_place(target).await? } else { None };
        let (file, offset) = place.unwrap_or_else(base);
        Ok(Begin::At { file, offset })
    }
}

/// True if the named time zones of the source are to be loaded: those that a server has are left alone.
async fn needs_zones(session: &mut Sql, resumed: bool) -> Result<bool, Error> {
    if !resumed && session.value("SELECT COUNT(*) FROM mysql.time_zone_name").await?.as_deref() == Some("0") {
        ledger::done(session, Step::Zones).await?;
    }
    ledger::is_done(session, Step::Zones).await
}

/// True if transactions of the log have names.
fn has_names(dump: &Dump, flavour: Flavour) -> bool {
    flavour == Flavour::Mariadb || dump.settings.get("gtid_mode").is_some_and(|mode| mode == "ON")
}

async fn read_dump<R: BaseReader>(base: &BaseId, from: &R) -> Result<Dump, Error> {
    let part = from.small_part(base, DUMP).await?.ok_or(RestoreError::Missing(DUMP))?;
    let bad = |what: String| RestoreError::BadPart { path: DUMP.to_owned(), what };
    let dump: Dump = serde_json::from_slice(&part).map_err(|error| bad(error.to_string()))?;
    if dump.format > Dump::FORMAT {
        return Err(bad(format!("it is of format {}, this program reads {}", dump.format, Dump::FORMAT)).into());
    }
    Ok(dump)
}

async fn read_tables(spool: &Spool) -> Result<Vec<TableFiles>, Error> {
    let path = spool.path(TABLES);
    let file = tokio::fs::File::open(&path).await.map_err(RestoreError::io("open", &path))?;
    let mut lines = BufReader::new(file).lines();
    let mut tables = Vec::new();
    while let Some(line) = lines.next_line().await.map_err(RestoreError::io("read", &path))? {
        let bad = |error: serde_json::Error| RestoreError::BadPart { path: TABLES.to_owned(), what: error.to_string() };
        tables.push(serde_json::from_str(&line).map_err(bad)?);
    }
    Ok(tables)
}

/// Refuses a server that would not come out like the source.
async fn check_fit(session: &mut Sql, dump: &Dump) -> Result<Flavour, Error> {
    let version = session.value("SELECT VERSION()").await?.unwrap_or_default();
    let flavour = Flavour::of_version(&version);
    if crate::base::family(flavour) != dump.family {
        return Err(
            RestoreError::Unfit(format!("it is of {} {}, the server is {version}", dump.family, dump.version)).into()
        );
    }
    for name in ["lower_case_table_names", "gtid_mode"] {
        let Some(source) = dump.settings.get(name) else { continue };
        let target = session.value(&format!("SELECT @@GLOBAL.{name}")).await?.unwrap_or_default();
        if *source != target {
            return Err(RestoreError::Unfit(format!("{name} was {source} on the source and is {target} here")).into());
        }
    }
    // A replica ignores what it takes for its own.
    let id = session.value("SELECT @@GLOBAL.server_id").await?.unwrap_or_default();
    if id == dump.coordinates.server_id.to_string() {
        return Err(RestoreError::Unfit(format!(
            "it has the server_id {id} of the source, and must have one of its own"
        ))
        .into());
    }
    Ok(flavour)
}

/// Accounts, without the one that we are: it stays as it is.
async fn make_accounts(session: &mut Sql, definitions: &std::path::Path) -> Result<Vec<String>, Error> {
    let row = session
        .row("SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', -1), LEFT(CURRENT_USER(), CHAR_LENGTH(CURRENT_USER()) - LOCATE('@', REVERSE(CURRENT_USER())))")
        .await?;
    let text = |place| row.as_ref().and_then(|row| row.text(place)).unwrap_or_default();
    let own = crate::base::account(&text(1), &text(0));
    let wanted = |definition: &Definition| definition.kind == Kind::Account && definition.name != own;
    let mut warnings = definitions::make(session, definitions, wanted).await?;
    warnings.push(format!("account {own}, which the restore itself uses, is as it was and not as on the source"));
    Ok(warnings)
}

/// What makes two restores the same restore: an interrupted one may only be gone on with by itself.
fn fingerprint(recovery: &Recovery<BinlogPosition>, skip: &HashSet<Gtid>) -> String {
    use sha2::Digest;
    let mut text = format!("{} {} {} {:?}", recovery.base, recovery.lineage, recovery.cut, recovery.stop);
    // The server may have taken one for applied, or may have applied it.
    let mut skip: Vec<String> = skip.iter().map(Gtid::to_string).collect();
    skip.sort();
    skip.iter().for_each(|gtid| text.push_str(&format!(" without {gtid}")));
    hex::encode(sha2::Sha256::digest(text))
}
