//! Clients that commit numbered transactions, of every kind that has its own shape in the log.
//!
//! Table `ledger` holds one or more rows for each transaction; they are never changed. Everything else follows from
//! it: balances from the transfers that it lists, families from what was founded and removed. So the state at any cut
//! is told by the set of numbers alone, and a transaction that shows in part is found.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::mysql::{Flavour, Mysql};
use crate::mysql_session::{Session, SessionError, was_in_the_way};
use crate::seed::generator;

/// What each transaction number left: how many rows, and a digest of them.
pub type Content = BTreeMap<i64, (u64, String)>;

/// Accounts that money is moved between.
const ACCOUNTS: u32 = 12;
/// What each has at the begin.
const BALANCE: i64 = 1_000;

/// Creates the tables.
pub fn prepare(server: &Mysql) -> Result<()> {
    server.sql(&format!(
        "CREATE DATABASE oracle CHARACTER SET utf8mb4;
         CREATE TABLE oracle.ledger (id BIGINT, part INT, kind VARCHAR(20) NOT NULL, payload LONGTEXT NOT NULL, PRIMARY KEY (id, part));
         CREATE TABLE oracle.account (id INT PRIMARY KEY, balance BIGINT NOT NULL);
         CREATE TABLE oracle.parent (id BIGINT PRIMARY KEY, note VARCHAR(40), KEY (note));
         CREATE TABLE oracle.child (id BIGINT PRIMARY KEY, parent BIGINT NOT NULL,
            FOREIGN KEY (parent) REFERENCES oracle.parent (id) ON DELETE CASCADE);
         CREATE TABLE oracle.keyless (a INT, b VARCHAR(30));
         {}",
        (0..ACCOUNTS).map(|id| format!("INSERT INTO oracle.account VALUES ({id}, {BALANCE});")).collect::<String>()
    ))?;
    Ok(())
}

/// What the clients do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Seed of everything random.
    pub seed: u64,
    /// Number of this load on its server: the numbers of two loads differ.
    pub round: u32,
    /// Clients at the same time.
    pub clients: u32,
    /// Transactions of each, the rolled back ones included.
    pub transactions: u32,
}

/// Runs the load to its end.
pub async fn run(server: &Mysql, load: Load) -> Result<()> {
    let mut tasks = Vec::new();
    for client in 0..load.clients {
        let session = Session::open(server).await?;
        let base = i64::from(load.round) * 1_000_000_000 + i64::from(client) * 1_000_000;
        let rng = generator(load.seed, u64::from(load.round) * 1_000 + u64::from(client));
        tasks.push(tokio::spawn(work(session, base, load.transactions, rng)));
    }
    for task in tasks {
        task.await.context("a client panicked")??;
    }
    Ok(())
}

/// One client.
struct Client {
    session: Session,
    rng: StdRng,
    families: Vec<i64>,
    tables: Vec<i64>,
}

async fn work(session: Session, base: i64, transactions: u32, rng: StdRng) -> Result<()> {
    let mut client = Client { session, rng, families: Vec::new(), tables: Vec::new() };
    for number in 0..transactions {
        let id = base + i64::from(number);
        match client.transact(id).await {
            Ok(()) => {}
            // Lock wait timeout or deadlock: the transaction never was.
            Err(error) if was_in_the_way(&error) => client.run("ROLLBACK").await?,
            Err(error) => bail!("transaction {id}: {error}"),
        }
    }
    Ok(())
}

impl Client {
    async fn run(&mut self, statement: &str) -> Result<(), SessionError> {
        self.session.execute(statement).await
    }

    async fn note(&mut self, id: i64, part: u32, kind: &str, payload: &str) -> Result<(), SessionError> {
        self.run(&format!("INSERT INTO oracle.ledger VALUES ({id}, {part}, '{kind}', '{payload}')")).await
    }

    async fn transact(&mut self, id: i64) -> Result<(), SessionError> {
        match self.rng.random_range(0..100) {
            0..25 => self.note(id, 0, "single", "one statement, one transaction").await,
            25..40 => self.several(id, 12, 40).await,
            40..43 => self.several(id, 5, 300_000).await,
            43..44 => self.several(id, 1, 3_000_000).await,
            44..60 => self.transfer(id).await,
            60..72 => self.found_family(id).await,
            72..80 => self.remove_family(id).await,
            80..86 => self.roll_back(id).await,
            86..90 => self.savepoint(id).await,
            90..95 => self.keyless(id).await,
            _ => self.definition(id).await,
        }
    }

    async fn several(&mut self, id: i64, most: u32, bytes: usize) -> Result<(), SessionError> {
        self.run("BEGIN").await?;
        for part in 0..self.rng.random_range(1..=most) {
            let letter = char::from(b'a' + self.rng.random_range(0..26));
            self.note(id, part, "several", &letter.to_string().repeat(bytes)).await?;
        }
        self.run("COMMIT").await
    }

    async fn transfer(&mut self, id: i64) -> Result<(), SessionError> {
        let (from, to) = (self.rng.random_range(0..ACCOUNTS), self.rng.random_range(0..ACCOUNTS));
        let amount = self.rng.random_range(1..50);
        self.run("BEGIN").await?;
        self.run(&format!("UPDATE oracle.account SET balance = balance - {amount} WHERE id = {from}")).await?;
        self.run(&format!("UPDATE oracle.account SET balance = balance + {amount} WHERE id = {to}")).await?;
        self.note(id, 0, "transfer", &format!("{from} {to} {amount}")).await?;
        self.run("COMMIT").await
    }

    async fn found_family(&mut self, id: i64) -> Result<(), SessionError> {
        self.run("BEGIN").await?;
        self.run(&format!("INSERT INTO oracle.parent VALUES ({id}, 'note {}')", id % 7)).await?;
        for child in 0..3 {
            self.run(&format!("INSERT INTO oracle.child VALUES ({id}{child}, {id})")).await?;
        }
        self.note(id, 0, "family", "3").await?;
        self.run("COMMIT").await?;
        self.families.push(id);
        Ok(())
    }

    /// The children go by the foreign key alone: whether that is in the log depends on the family of servers.
    async fn remove_family(&mut self, id: i64) -> Result<(), SessionError> {
        let Some(family) = self.families.last().copied() else { return self.note(id, 0, "single", "none yet").await };
        self.run("BEGIN").await?;
        self.run(&format!("DELETE FROM oracle.parent WHERE id = {family}")).await?;
        self.note(id, 0, "removed", &family.to_string()).await?;
        self.run("COMMIT").await?;
        self.families.pop();
        Ok(())
    }

    async fn roll_back(&mut self, id: i64) -> Result<(), SessionError> {
        self.run("BEGIN").await?;
        self.note(id, 0, "never", "never").await?;
        self.run("UPDATE oracle.account SET balance = 0 WHERE id = 0").await?;
        self.run("ROLLBACK").await
    }

    async fn savepoint(&mut self, id: i64) -> Result<(), SessionError> {
        self.run("BEGIN").await?;
        self.note(id, 0, "kept", "before the savepoint").await?;
        self.run("SAVEPOINT s").await?;
        self.note(id, 1, "never", "after the savepoint").await?;
        self.run("ROLLBACK TO SAVEPOINT s").await?;
        self.note(id, 2, "kept", "after the rollback").await?;
        self.run("COMMIT").await
    }

    /// Rows that no key tells apart.
    async fn keyless(&mut self, id: i64) -> Result<(), SessionError> {
        self.run("BEGIN").await?;
        self.run("INSERT INTO oracle.keyless VALUES (1, 'same'), (1, 'same'), (2, NULL)").await?;
        self.note(id, 0, "keyless", "3").await?;
        self.run("COMMIT").await
    }

    /// A definition is a transaction of its own, without a row in the ledger.
    async fn definition(&mut self, id: i64) -> Result<(), SessionError> {
        match self.tables.pop() {
            Some(table) if self.rng.random_bool(0.4) => self.run(&format!("DROP TABLE oracle.ddl_{table}")).await,
            Some(table) => {
                self.tables.push(table);
                self.run(&format!("ALTER TABLE oracle.ddl_{table} ADD COLUMN c{id} INT")).await
            }
            None => {
                self.run(&format!("CREATE TABLE oracle.ddl_{id} (x INT PRIMARY KEY)")).await?;
                self.tables.push(id);
                Ok(())
            }
        }
    }
}

/// What the ledger holds.
pub async fn content(server: &Mysql) -> Result<Content> {
    let mut session = Session::open(server).await?;
    let asked = "SELECT id, COUNT(*), CONCAT(MIN(kind), ' ', BIT_XOR(CRC32(CONCAT(part, kind, payload))), ' ', SUM(LENGTH(payload))) FROM oracle.ledger GROUP BY id";
    let mut content = Content::new();
    for row in session.rows(asked).await? {
        let entry = (row.number(1).context("no count")?, row.text(2).context("no digest")?);
        content.insert(row.number(0).context("no id")?, entry);
    }
    Ok(content)
}

/// The tables that definitions of the load made.
pub async fn tables(server: &Mysql) -> Result<BTreeSet<String>> {
    let mut session = Session::open(server).await?;
    let asked =
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'oracle' AND table_name LIKE 'ddl%'";
    Ok(session.rows(asked).await?.iter().filter_map(|row| row.text(0)).collect())
}

/// What follows from the ledger must be as the ledger says.
pub async fn check_derived(server: &Mysql) -> Result<()> {
    let mut session = Session::open(server).await?;
    let mut balances: BTreeMap<u32, i64> = (0..ACCOUNTS).map(|id| (id, BALANCE)).collect();
    let mut families = BTreeSet::new();
    let mut keyless = 0;
    for row in session.rows("SELECT kind, payload, id FROM oracle.ledger WHERE kind IN ('transfer', 'family', 'removed', 'keyless') ORDER BY id").await? {
        let payload = row.text(1).unwrap_or_default();
        match row.text(0).as_deref() {
            Some("transfer") => {
                let words: Vec<i64> = payload.split(' ').map(str::parse).collect::<Result<_, _>>()?;
                let [from, to, amount] = words.as_slice() else { bail!("odd transfer {payload:?}") };
                *balances.entry(u32::try_from(*from)?).or_default() -= amount;
                *balances.entry(u32::try_from(*to)?).or_default() += amount;
            }
            Some("family") => drop(families.insert(row.number::<i64>(2).context("no id")?)),
            Some("removed") => drop(families.remove(&payload.parse()?)),
            _ => keyless += 3,
        }
    }
    let mut found = BTreeMap::new();
    for row in session.rows("SELECT id, balance FROM oracle.account").await? {
        found.insert(row.number(0).context("no id")?, row.number(1).context("no balance")?);
    }
    ensure!(found == balances, "balances {found:?}, the ledger says {balances:?}");
    let mut parents = BTreeSet::new();
    for row in session
        .rows("SELECT p.id, COUNT(*) FROM oracle.parent p JOIN oracle.child c ON c.parent = p.id GROUP BY p.id")
        .await?
    {
        ensure!(row.number::<u32>(1) == Some(3), "a family of {:?}", row.text(1));
        parents.insert(row.number::<i64>(0).context("no id")?);
    }
    ensure!(parents == families, "families {parents:?}, the ledger says {families:?}");
    let orphans =
        session.value("SELECT COUNT(*) FROM oracle.child WHERE parent NOT IN (SELECT id FROM oracle.parent)").await?;
    ensure!(orphans.as_deref() == Some("0"), "{orphans:?} children without a parent");
    let rows = session.value("SELECT COUNT(*) FROM oracle.keyless").await?;
    ensure!(rows == Some(keyless.to_string()), "{rows:?} rows without a key, the ledger says {keyless}");
    Ok(())
}

/// A restored server replicates from nobody and has no ledger of the restore.
pub async fn check_nothing_left(server: &Mysql) -> Result<()> {
    let mut session = Session::open(server).await?;
    let status = if server.flavour() == Flavour::Mysql { "SHOW REPLICA STATUS" } else { "SHOW SLAVE STATUS" };
    ensure!(session.row(status).await?.is_none(), "the restored server has a configuration of replication");
    let databases = session.rows("SHOW DATABASES LIKE 'pitr_restore'").await?;
    ensure!(databases.is_empty(), "a ledger of the restore is left");
    let scheduler = session.value("SELECT @@GLOBAL.event_scheduler").await?;
    ensure!(scheduler.as_deref() == Some("OFF"), "the event scheduler is {scheduler:?}");
    Ok(())
}
