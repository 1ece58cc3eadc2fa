//! Real MongoDB servers: replica sets of one or three members, and standalones to restore into.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bson::{Bson, Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection};

use crate::account::Account;
use crate::postgres::{free_port, succeed};
use crate::{Scratch, limits, programs};

/// Version of the tests that do not say another.
pub const DEFAULT_VERSION: &str = "6.0.5";

/// How servers are made.
#[derive(Debug, Clone)]
pub struct MongoSetup {
    /// Version, as `cargo xtask servers` fetched it.
    pub version: Cow<'static, str>,
    /// Members of the replica set; 0 for a standalone.
    pub members: usize,
    /// Size of the oplog in MiB; servers accept 990 at least, through `replSetResizeOplog`.
    pub oplog_mib: u32,
    /// Size of the storage engine's cache, in MiB. A transaction must fit into it.
    pub cache_mib: u32,
    /// Further arguments of `mongod`.
    pub arguments: Vec<String>,
}

impl Default for MongoSetup {
    fn default() -> Self {
        Self { version: DEFAULT_VERSION.into(), members: 1, oplog_mib: 0, cache_mib: 256, arguments: Vec::new() }
    }
}

impl MongoSetup {
    /// One member, of the version that `PITR_MONGODB` names.
    pub fn chosen() -> Self {
        let version = std::env::var("PITR_MONGODB").ok();
        Self { version: version.map_or(DEFAULT_VERSION.into(), Into::into), ..Self::default() }
    }
}

/// One `mongod`.
#[derive(Debug)]
pub struct Mongod {
    program: PathBuf,
    home: PathBuf,
    port: u16,
    arguments: Vec<String>,
    account: Account,
    process: Option<Child>,
}

/// A replica set or a standalone, stopped when dropped, also by a panic.
#[derive(Debug)]
pub struct Mongo {
    members: Vec<Mongod>,
    name: Option<String>,
}

impl Mongo {
    /// Makes and starts servers, and waits until one of them takes writes.
    pub async fn start(scratch: &Scratch, name: &str, setup: &MongoSetup) -> Result<Self> {
        let set = (setup.members > 0).then(|| name.to_owned());
        let mut members = Vec::new();
        for number in 0..setup.members.max(1) {
            let mut member = Mongod::make(scratch, &format!("{name}{number}"), setup, set.as_deref())?;
            member.launch()?;
            members.push(member);
        }
        let mongo = Self { members, name: set };
        for member in &mongo.members {
            member.wait().await?;
        }
        if let Some(name) = &mongo.name {
            mongo.initiate(name).await?;
        }
        Ok(mongo)
    }

    /// An empty standalone to restore into.
    pub async fn standalone(scratch: &Scratch, name: &str) -> Result<Self> {
        Self::start(scratch, name, &MongoSetup { members: 0, ..MongoSetup::chosen() }).await
    }

    /// Ends it and removes its data.
    pub fn discard(mut self) -> Result<()> {
        for member in &mut self.members {
            member.kill()?;
            fs::remove_dir_all(member.home())?;
        }
        Ok(())
    }

    /// A standalone over a directory that exists, such as a restored one.
    pub async fn on_directory(scratch: &Scratch, dir: &Path) -> Result<Self> {
        let setup = MongoSetup { members: 0, ..MongoSetup::chosen() };
        let mut member = Mongod::make(scratch, "over", &setup, None)?;
        member.home = dir.to_owned();
        member.launch()?;
        let mongo = Self { members: vec![member], name: None };
        mongo.member(0)?.wait().await?;
        Ok(mongo)
    }

    async fn initiate(&self, name: &str) -> Result<()> {
        let hosts = self.members.iter().enumerate().map(|(id, member)| {
            // The first is the one that elections prefer, so that tests know where writes go.
            let priority = if id == 0 { 2 } else { 1 };
            doc! { "_id": i64::try_from(id).unwrap_or(0), "host": member.host(), "priority": priority }
        });
        let config = doc! {
            "_id": name, "members": hosts.collect::<Vec<_>>(),
            "settings": { "electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 300 },
        };
        let first = self.member(0)?.connect().await?;
        first.database("admin").run_command(doc! { "replSetInitiate": config }).await?;
        self.primary().await.map(drop)
    }

    /// One member.
    pub fn member(&self, number: usize) -> Result<&Mongod> {
        self.members.get(number).context("no such member")
    }

    /// One member, to be stopped or started.
    pub fn member_mut(&mut self, number: usize) -> Result<&mut Mongod> {
        self.members.get_mut(number).context("no such member")
    }

    /// Number of the member that takes writes; waits for it.
    pub async fn primary(&self) -> Result<usize> {
        let begun = Instant::now();
        while begun.elapsed() < limits::START {
            for (number, member) in self.members.iter().enumerate() {
                if member.is_writable().await {
                    return Ok(number);
                }
            }
            tokio::time::sleep(limits::POLL).await;
        }
        bail!("no primary within {:?}\n{}", limits::START, self.member(0)?.log_tail())
    }

    /// A client that follows the set.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::with_uri_str(self.url()).await?)
    }

    /// How `pitr` reaches it.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.members.iter().map(Mongod::host).collect();
        match &self.name {
            Some(name) => format!("mongodb://{}/?replicaSet={name}", hosts.join(",")),
            None => format!("mongodb://{}/?directConnection=true", hosts.join(",")),
        }
    }

    /// Digests of all databases with their collections, as the server computes them: content, and options of
    /// capped collections. Without `config` and `local`.
    pub async fn hashes(&self) -> Result<Vec<(String, Document)>> {
        let client = self.member(self.primary().await?)?.connect().await?;
        let mut found = Vec::new();
        for name in client.list_database_names().await? {
            if matches!(name.as_str(), "config" | "local" | "admin") {
                continue;
            }
            let answer = client.database(&name).run_command(doc! { "dbHash": 1 }).await?;
            found.push((name, answer.get_document("collections")?.clone()));
        }
        Ok(found)
    }

    /// Options and indexes of all collections of a database, without what a server chooses by itself.
    pub async fn catalog(&self, db: &str) -> Result<Vec<Document>> {
        let client = self.member(self.primary().await?)?.connect().await?;
        let database = client.database(db);
        let listed = database.run_command(doc! { "listCollections": 1 }).await?;
        let mut found = Vec::new();
        for collection in listed.get_document("cursor")?.get_array("firstBatch")? {
            let mut collection = collection.as_document().context("no document")?.clone();
            collection.get_document_mut("info")?.remove("uuid");
            let name = collection.get_str("name")?.to_owned();
            if collection.get_str("type")? == "collection" {
                let indexes = database.run_command(doc! { "listIndexes": name }).await?;
                let mut indexes = indexes.get_document("cursor")?.get_array("firstBatch")?.clone();
                indexes
                    .sort_by_key(|index| index.as_document().and_then(|i| i.get_str("name").ok()).map(str::to_owned));
                collection.insert("indexes", Bson::Array(indexes));
            }
            found.push(collection);
        }
        found.sort_by_key(|collection| collection.get_str("name").map(str::to_owned).unwrap_or_default());
        Ok(found)
    }
}

impl Mongod {
    fn make(scratch: &Scratch, name: &str, setup: &MongoSetup, set: Option<&str>) -> Result<Self> {
        let home = scratch.make(name)?;
        let mut arguments = setup.arguments.clone();
        if let Some(set) = set {
            arguments.extend(["--replSet".to_owned(), set.to_owned()]);
        }
        arguments.extend(["--wiredTigerCacheSizeGB".to_owned(), (f64::from(setup.cache_mib) / 1024.0).to_string()]);
        if setup.oplog_mib > 0 {
            arguments.extend(["--oplogSize".to_owned(), setup.oplog_mib.to_string()]);
        }
        let program = programs::mongod(&setup.version)?;
        Ok(Self { program, home, port: free_port()?, arguments, account: scratch.account(), process: None })
    }

    /// Starts without waiting.
    pub fn launch(&mut self) -> Result<()> {
        let mut command = self.account.command(&self.program);
        command.arg("--dbpath").arg(&self.home).args(["--port", &self.port.to_string()]);
        command.args(["--bind_ip", "127.0.0.1", "--nounixsocket"]);
        command.arg("--logpath").arg(self.home.join("log")).arg("--logappend").args(&self.arguments);
        with_libraries(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().context("cannot start mongod")?);
        Ok(())
    }

    /// Waits until it answers.
    pub async fn wait(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let answer = match self.connect().await {
                Ok(client) => client.database("admin").run_command(doc! { "ping": 1 }).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            match answer {
                Ok(_) => return Ok(()),
                Err(_) if begun.elapsed() < limits::START => tokio::time::sleep(limits::POLL).await,
                Err(error) => bail!("mongod in {} did not start: {error:#}\n{}", self.home.display(), self.log_tail()),
            }
        }
    }

    /// A client of this member alone.
    pub async fn connect(&self) -> Result<Client> {
        let mut options = ClientOptions::parse(format!("mongodb://{}/?directConnection=true", self.host())).await?;
        options.server_selection_timeout = Some(std::time::Duration::from_secs(5));
        Ok(Client::with_options(options)?)
    }

    async fn is_writable(&self) -> bool {
        let Ok(client) = self.connect().await else { return false };
        let hello = client.database("admin").run_command(doc! { "hello": 1 }).await;
        hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
    }

    /// Its address.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Stops it in order.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        succeed(Command::new("kill").args(["-s", "TERM", &process.id().to_string()]))?;
        process.wait()?;
        Ok(())
    }

    /// Halts it where it stands, or lets it go on.
    pub fn signal(&self, name: &str) -> Result<()> {
        let process = self.process.as_ref().context("not running")?;
        succeed(Command::new("kill").args(["-s", name, &process.id().to_string()]))
    }

    /// Lets a command of `pitr` start servers of this version by itself.
    pub fn lend(&self, command: &mut Command) {
        command.arg("--bin-dir").args(self.program.parent());
        with_libraries(command);
    }

    /// The data directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The end of its log, for errors.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.home.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(limits::LOG_TAIL)..].join("\n")
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the mongod in {} ---\n{}", self.home.display(), self.log_tail());
        }
        if let Err(error) = self.kill() {
            eprintln!("cannot kill the mongod in {}: {error:#}", self.home.display());
        }
    }
}

/// Some builds need libraries that newer systems do not have.
fn with_libraries(command: &mut Command) {
    if let Some(libraries) = programs::openssl_1_1() {
        command.env("LD_LIBRARY_PATH", libraries);
    }
}

/// All documents of a collection, in the order of `_id`.
pub async fn documents(collection: &Collection<Document>) -> Result<Vec<Document>> {
    use futures::TryStreamExt;
    Ok(collection.find(doc! {}).sort(doc! { "_id": 1 }).await?.try_collect().await?)
}

/// Compares two servers: every document, option and index of these databases.
pub async fn expect_equal(source: &Mongo, restored: &Mongo) -> Result<()> {
    let (expected, found) = (source.hashes().await?, restored.hashes().await?);
    ensure!(expected == found, "digests differ:\nsource   {expected:?}\nrestored {found:?}");
    for (db, _) in &expected {
        let (expected, found) = (source.catalog(db).await?, restored.catalog(db).await?);
        ensure!(expected == found, "{db}: options or indexes differ:\nsource   {expected:#?}\nrestored {found:#?}");
    }
    Ok(())
}

/// True for a server of this major version or a later one.
pub async fn is_since(db: &mongodb::Database, major: u32) -> Result<bool> {
    let version = db.run_command(doc! { "buildInfo": 1 }).await?.get_str("version")?.to_owned();
    Ok(version.split('.').next().and_then(|own| own.parse().ok()).is_some_and(|own: u32| own >= major))
}

/// Runs a script for `mongosh` against a server: evaluates it with a `db` that only notes what it would do, then does that.
/// `again` makes it believe that roles and users exist.
pub async fn run_script(root: &Client, script: &str, password: &str, again: bool) -> Result<()> {
    let (node, _) = programs::azurite()?;
    let output = Command::new(node).args(["-e", MONGOSH, script, password, &again.to_string()]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let commands: Vec<Vec<(String, Bson)>> = serde_json::from_slice(&output.stdout)?;
    ensure!(commands.len() == 2, "the script does {commands:?}");
    for command in commands {
        root.database("admin").run_command(command.into_iter().collect::<Document>()).await?;
    }
    Ok(())
}

/// The part of `mongosh` that scripts with roles need.
const MONGOSH: &str = r#"
const [script, password, again] = process.argv.slice(1);
const done = [];
// The first key of a command names it.
const named = (verb, name, { role, user, ...rest }) => done.push([[verb, name ?? role ?? user], ...Object.entries(rest)]);
const admin = {
  getRole: () => again === "true", getUser: () => again === "true",
  createRole: role => named("createRole", null, role), updateRole: (name, role) => named("updateRole", name, role),
  createUser: user => named("createUser", null, user), updateUser: (name, user) => named("updateUser", name, user),
};
new Function("db", "passwordPrompt", script)({ getSiblingDB: () => admin }, () => password);
console.log(JSON.stringify(done));
"#;
