//! Lays a base down and leaves a directory that a server starts from, up to one exact position.
//!
//! [`PgRestore::run`] reads as the procedure. Its order is what makes an interruption harmless: the directory is
//! marked unfinished first and loses the mark last, and `pg_control`, without which no server starts, comes after
//! everything else is on disk.

mod claim;
mod conf;
mod control;
mod error;
mod tree;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pitr_core::ports::{BaseReader, PartInfo, Recovery, Restorer, SegmentReader};
use pitr_core::{BaseId, PortError};

use self::claim::Claim;
pub use self::claim::Owner;
pub use self::conf::RestoreCommand;
use self::conf::{MINIMAL_HBA, RecoverySettings};
pub use self::error::RestoreError;
use self::tree::Tree;
use crate::PgPosition;
use crate::base::{BackupLabel, MANIFEST, SourceSettings, TablespaceMap};
use crate::engine::Postgres;
use crate::error::Error;
use crate::run_dir;
use crate::server::{Reached, StartOptions, recover};

/// Name of a spool that lies inside the data directory, on the same file system and gone with it. A base that holds one is
/// restored without it.
pub const SPOOL: &str = "pitr.spool";

/// How to restore.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The data directory to make: it does not exist, is empty, or holds the same restore, interrupted.
    pub into: PathBuf,
    /// How the restored server gets the log.
    pub command: RestoreCommand,
    /// A directory that the command uses as long as the recovery lasts: the server removes it at its end.
    pub spool: Option<PathBuf>,
    /// Where single tablespaces go, by oid.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// Where the other tablespaces go, each into a directory named by its oid; `INTO.tablespaces` where `None`.
    pub tablespaces_below: Option<PathBuf>,
    /// Who owns the files. Where `None`, and only for root: the owner of `into`, or of its parent directory.
    pub owner: Option<Owner>,
    /// Addresses that the server listens on; as on the source where `None`.
    pub listen_addresses: Option<String>,
    /// Starts the server and waits until it has replayed the log; `None` leaves that to the user.
    pub start: Option<StartOptions>,
}

impl RestoreOptions {
    /// A plain restore into a directory.
    pub fn new(into: impl Into<PathBuf>, command: RestoreCommand) -> Self {
        Self {
            into: into.into(),
            command,
            spool: None,
            tablespaces: BTreeMap::new(),
            tablespaces_below: None,
            owner: None,
            listen_addresses: None,
            start: None,
        }
    }
}

/// A restore to be done.
#[derive(Debug, Clone)]
pub struct PgRestore {
    options: RestoreOptions,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReport {
    /// The data directory, absolute.
    pub directory: PathBuf,
    /// Where tablespaces went.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// Files of the base.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// True if an interrupted restore was gone on with.
    pub resumed: bool,
    /// Major version of the server that the directory is for.
    pub major: u32,
    /// Where the replay stopped, if the server was started.
    pub reached: Option<Reached>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Parts that are not laid down as they are: made anew here, or not to survive.
const WITHHELD: [&str; 7] = [
    "base/global/pg_control",
    "base/tablespace_map",
    "base/postgresql.auto.conf",
    "base/postmaster.pid",
    "base/postmaster.opts",
    "base/recovery.signal",
    "base/standby.signal",
];

impl PgRestore {
    /// A restore with these options.
    pub fn new(options: RestoreOptions) -> Self {
        Self { options }
    }

    /// Performs the restore.
    pub async fn run<R: SegmentReader + BaseReader>(
        self,
        recovery: &Recovery<PgPosition>,
        from: &R,
    ) -> Result<RestoreReport, Error> {
        let into = std::path::absolute(&self.options.into).map_err(RestoreError::io("find", &self.options.into))?;
        let base = SmallParts::read(&recovery.base, from).await?;
        let locations = self.tablespace_locations(&into, &base.tablespaces)?;

        let plan = fingerprint(recovery, &locations);
        let owner = self.owner(&into)?;
        for directory in locations.values().chain([&into]) {
            Claim::check(directory)?;
        }
        let claim = Claim::take(&into, &plan, owner)?;
        let tablespaces = claim_tablespaces(&locations, &plan, owner)?;
        let tree = Tree::new(&claim, &tablespaces, owner)?;

        from.pour(&recovery.base, &|part: &PartInfo| is_laid_down(&part.path), &tree).await?;
        lay_out_tablespaces(&tree, &locations)?;
        let warnings = self.write_settings(&tree, recovery, &base)?;
        tree.sync()?;
        // From here on the directory can be started.
        tree.replace("global/pg_control", &base.control)?;
        set_final_mode(&claim, &base.source)?;
        let (resumed, (files, bytes)) = (claim.resumed, tree.counted());
        for tablespace in tablespaces.into_values() {
            tablespace.release()?;
        }
        claim.release()?;

        let major = base.source.version_num / 10_000;
        let reached = match &self.options.start {
            Some(start) => Some(recover(&into, major, recovery, start).await?),
            None => None,
        };
        Ok(RestoreReport { directory: into, tablespaces: locations, files, bytes, resumed, major, reached, warnings })
    }

    /// Where each tablespace of the base goes.
    fn tablespace_locations(&self, into: &Path, map: &TablespaceMap) -> Result<BTreeMap<u32, PathBuf>, RestoreError> {
        let RestoreOptions { tablespaces, tablespaces_below, .. } = &self.options;
        if let Some(unknown) = tablespaces.keys().find(|oid| !map.0.contains_key(oid)) {
            let known: Vec<_> = map.0.iter().map(|(oid, location)| format!("{oid} ({location})")).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(RestoreError::Option(format!("the base has no tablespace {unknown}; it has {known}")));
        }
        let below = tablespaces_below.clone().unwrap_or_else(|| {
            let mut name = into.as_os_str().to_owned();
            name.push(".tablespaces");
            name.into()
        });
        let place = |oid: &u32| {
            let location = tablespaces.get(oid).cloned().unwrap_or_else(|| below.join(oid.to_string()));
            let location = std::path::absolute(&location).map_err(RestoreError::io("find", &location))?;
            if location.starts_with(into) {
                let location = location.display();
                return Err(RestoreError::Option(format!(
                    "tablespace {oid} cannot be inside the data directory: {location}"
                )));
            }
            Ok((*oid, location))
        };
        map.0.keys().map(place).collect()
    }

    /// Root gives files away, since no server runs as root; anybody else keeps them.
    fn owner(&self, into: &Path) -> Result<Option<Owner>, RestoreError> {
        if self.options.owner.is_some() || !rustix::process::geteuid().is_root() {
            return Ok(self.options.owner);
        }
        let existing = if into.exists() { into } else { into.parent().unwrap_or(into) };
        let metadata = std::fs::metadata(existing).map_err(RestoreError::io("look at", existing))?;
        Ok((metadata.uid() != 0).then(|| (metadata.uid(), metadata.gid())))
    }

    /// Everything that tells the server how to recover; returns what the user should know.
    fn write_settings(
        &self,
        tree: &Tree,
        recovery: &Recovery<PgPosition>,
        base: &SmallParts,
    ) -> Result<Vec<String>, RestoreError> {
        let settings = RecoverySettings {
            recovery,
            command: &self.options.command,
            spool: self.options.spool.as_deref(),
            listen_addresses: self.options.listen_addresses.as_deref(),
            conf: base.conf.as_deref(),
            auto_conf: &base.auto_conf,
            source: &base.source,
        };
        let mut warnings = Vec::new();
        let files = [
            ("postgresql.conf", settings.minimal_conf()),
            ("pg_hba.conf", MINIMAL_HBA.to_owned()),
            ("pg_ident.conf", "# Written by pitr restore.\n".to_owned()),
        ];
        for (name, content) in files {
            // A file of the base was just laid down; one of our own, of an interrupted restore, is written again.
            if base.config_files.contains(&name) {
                continue;
            }
            tree.replace(name, content.as_bytes())?;
            if name != "pg_ident.conf" {
                warnings.push(format!("the source keeps {name} outside its data directory: a minimal one was written"));
            }
        }
        if let Some(conf) = settings.conf_of_here(&self.options.into)? {
            tree.replace("postgresql.conf", conf.as_bytes())?;
            warnings.push(
                "postgresql.conf named the data directory of the source, or includes a file that may: see what pitr restore wrote there"
                    .to_owned(),
            );
        }
        tree.replace("postgresql.auto.conf", settings.auto_conf()?.as_bytes())?;
        tree.replace("recovery.signal", b"")?;
        if base.source.version_num == 0 {
            warnings.push("the base does not say which settings its server had".to_owned());
        }
        Ok(warnings)
    }
}

impl Restorer for PgRestore {
    type Engine = Postgres;

    async fn restore<R: SegmentReader + BaseReader>(
        self,
        recovery: &Recovery<PgPosition>,
        from: &R,
    ) -> Result<Option<PgPosition>, PortError> {
        self.run(recovery, from)
            .await
            .map(|report| report.reached.map(|reached| reached.position))
            .map_err(PortError::new)
    }
}

/// The few parts of a base that a restore reads before it touches anything.
struct SmallParts {
    tablespaces: TablespaceMap,
    source: SourceSettings,
    /// `pg_control`, checked and disarmed.
    control: Vec<u8>,
    conf: Option<String>,
    auto_conf: String,
    /// Which configuration files the base has.
    config_files: Vec<&'static str>,
}

impl SmallParts {
    async fn read<R: BaseReader>(base: &BaseId, from: &R) -> Result<Self, Error> {
        let label =
            text(from.small_part(base, "base/backup_label").await?).ok_or(RestoreError::Missing("backup_label"))?;
        let label = BackupLabel::parse(&label).ok_or_else(|| bad("backup_label", "it has another format"))?;
        if label.incremental {
            return Err(bad("backup_label", "the base is an increment of another one").into());
        }
        let map = text(from.small_part(base, "base/tablespace_map").await?).unwrap_or_default();
        let mut tablespaces =
            TablespaceMap::parse(&map).ok_or_else(|| bad("tablespace_map", "it has another format"))?;
        // One inside the data directory needs no link.
        tablespaces.0.retain(|_, location| location.starts_with('/'));
        let control = from.small_part(base, "base/global/pg_control").await?;
        let control = control.ok_or(RestoreError::Missing("global/pg_control"))?;
        let control = control::disarm(control.to_vec()).map_err(|what| bad("global/pg_control", what))?;
        let source = match from.small_part(base, SourceSettings::PART).await? {
            None => SourceSettings::default(),
            Some(json) => {
                serde_json::from_slice(&json).map_err(|error| bad(SourceSettings::PART, &error.to_string()))?
            }
        };
        let conf = text(from.small_part(base, "base/postgresql.conf").await?);
        let auto_conf = text(from.small_part(base, "base/postgresql.auto.conf").await?).unwrap_or_default();
        let mut config_files = Vec::new();
        for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
            if from.small_part(base, &format!("base/{name}")).await?.is_some() {
                config_files.push(name);
            }
        }
        Ok(Self { tablespaces, source, control, conf, auto_conf, config_files })
    }
}

fn text(bytes: Option<Bytes>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn bad(path: &str, what: &str) -> RestoreError {
    RestoreError::BadPart { path: path.to_owned(), what: what.to_owned() }
}

/// True for parts that go to disk as they are in the base.
fn is_laid_down(path: &str) -> bool {
    let ours = path.starts_with("base/") || path.starts_with("ts/") || path == MANIFEST;
    let of_another_restore = [SPOOL, run_dir::NAME].iter().any(|name| {
        let inside = path.strip_prefix("base/").and_then(|path| path.strip_prefix(name));
        inside.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    ours && !of_another_restore && !WITHHELD.contains(&path)
}

/// What makes two restores the same restore: an interrupted one may only be gone on with by itself.
fn fingerprint(recovery: &Recovery<PgPosition>, tablespaces: &BTreeMap<u32, PathBuf>) -> String {
    format!(
        "This directory is being restored by pitr and is not complete.\nbase {}\nlineage {}\ncut {}\nstop {:?}\ntablespaces {tablespaces:?}\n",
        recovery.base, recovery.lineage, recovery.cut, recovery.stop
    )
}

/// Claims the directories of the tablespaces, in the same way as the data directory.
fn claim_tablespaces(
    locations: &BTreeMap<u32, PathBuf>,
    plan: &str,
    owner: Option<Owner>,
) -> Result<BTreeMap<u32, Claim>, RestoreError> {
    let take = |(oid, path): (&u32, &PathBuf)| {
        if let Some(parent) = path.parent() {
            claim::make_parent(parent, owner)?;
        }
        Ok((*oid, Claim::take(path, plan, owner)?))
    };
    locations.iter().map(take).collect()
}

/// The server makes the links itself from `tablespace_map`, replacing those that are there; they are made all the
/// same, so that the directory looks complete to whoever looks before the start.
fn lay_out_tablespaces(tree: &Tree, locations: &BTreeMap<u32, PathBuf>) -> Result<(), RestoreError> {
    if locations.is_empty() {
        return Ok(());
    }
    let mut map = TablespaceMap::default();
    for (oid, location) in locations {
        let location = location.to_str().ok_or_else(|| {
            RestoreError::Option(format!("the location of a tablespace is not UTF-8: {}", location.display()))
        })?;
        tree.link_tablespace(*oid, Path::new(location))?;
        map.0.insert(*oid, location.to_owned());
    }
    tree.replace(TablespaceMap::FILE, map.to_text().as_bytes())
}

/// The server accepts 0700 and 0750, and the source had one of them.
fn set_final_mode(claim: &Claim, source: &SourceSettings) -> Result<(), RestoreError> {
    let group = source.settings.get("data_directory_mode").is_some_and(|mode| mode == "0750");
    let mode = if group { 0o750 } else { 0o700 };
    rustix::fs::fchmod(&claim.directory, rustix::fs::Mode::from_raw_mode(mode))
        .map_err(RestoreError::io("set mode of", &claim.path))
}
