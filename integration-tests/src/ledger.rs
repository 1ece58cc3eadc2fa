//! Clients that commit numbered transactions, of every kind that has its own record in the log.
//!
//! Table `ledger` holds one or more rows for each transaction: its number, the part, its own transaction id as the
//! server told it, the kind, and a payload. Rows are never changed. So the state at any cut is told by the
//! set of numbers alone, and a transaction that shows in part is found by its count of rows.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio_postgres::Client;

use crate::Postgres;
use crate::seed::generator;

/// What the clients do.
#[derive(Debug, Clone)]
pub struct Load {
    /// Seed of everything random.
    pub seed: u64,
    /// Number of this load on its server: the numbers of two loads differ.
    pub round: u32,
    /// Clients at the same time.
    pub clients: u32,
    /// Transactions of each, the rolled back ones included.
    pub transactions: u32,
    /// Named points set meanwhile.
    pub marks: u32,
}

/// What each transaction number left: its transaction id, how many rows, and its kind.
pub type Content = BTreeMap<i64, Entry>;

/// One transaction as the table shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Low 32 bits of the transaction id: what the log has.
    pub xid: u32,
    /// Number of rows.
    pub rows: i64,
    /// Digest over its rows.
    pub digest: String,
    /// Whether a table of its own exists, for a transaction of kind `ddl`.
    pub table: bool,
}

/// Creates the table.
pub async fn prepare(server: &Postgres) -> Result<()> {
    server
        .execute(
            "CREATE TABLE ledger (id bigint, part int, xid xid8 NOT NULL, kind text NOT NULL, payload text NOT NULL, \
             PRIMARY KEY (id, part)); ALTER TABLE ledger ALTER payload SET STORAGE EXTERNAL",
        )
        .await
}

/// Runs the load to its end.
pub async fn run(server: &Postgres, load: &Load) -> Result<()> {
    let mut tasks = Vec::new();
    for client in 0..load.clients {
        let connection = server.connect().await?;
        let base = i64::from(load.round) * 1_000_000_000 + i64::from(client) * 1_000_000;
        let rng = generator(load.seed, u64::from(load.round) * 1_000 + u64::from(client));
        tasks.push(tokio::spawn(work(connection, base, load.transactions, rng)));
    }
    let marks = server.connect().await?;
    for mark in 0..load.marks {
        tokio::time::sleep(Duration::from_millis(40)).await;
        let name = mark_name(load.round, mark);
        marks.execute("SELECT pg_create_restore_point($1)", &[&name]).await?;
    }
    for task in tasks {
        task.await.context("a client panicked")??;
    }
    Ok(())
}

/// Clients of a storm; the server has connections for a few more.
const STORM_CLIENTS: u32 = 32;

/// Commits of each client of a storm.
const STORM_COMMITS: u32 = 150;

/// Many clients that commit one row after the other, inside the server and without waiting for the disk.
///
/// A commit takes its time first and its place in the log second. In this crowd some are overtaken in between, and
/// then the log has their times the other way round.
pub async fn storm(server: &Postgres, round: u32) -> Result<()> {
    let mut tasks = Vec::new();
    for client in 0..STORM_CLIENTS {
        let connection = server.connect().await?;
        let base = i64::from(round) * 1_000_000_000 + i64::from(client) * 1_000_000;
        let sql = format!(
            "DO $$ BEGIN FOR n IN 1..{STORM_COMMITS} LOOP \
             INSERT INTO ledger VALUES ({base} + n, 0, pg_current_xact_id(), 'storm', 'x'); COMMIT; \
             END LOOP; END $$"
        );
        tasks.push(tokio::spawn(async move {
            connection.batch_execute("SET synchronous_commit = off").await?;
            connection.batch_execute(&sql).await
        }));
    }
    for task in tasks {
        task.await.context("a client panicked")?.context("a client of the storm failed")?;
    }
    Ok(())
}

/// Name of the n-th named point of a round.
pub fn mark_name(round: u32, mark: u32) -> String {
    format!("mark_{round}_{mark}")
}

async fn work(client: Client, base: i64, transactions: u32, mut rng: StdRng) -> Result<()> {
    for number in 1..=i64::from(transactions) {
        let id = base + number;
        transaction(&client, id, &mut rng).await.with_context(|| format!("transaction {id}"))?;
        if rng.random_bool(0.2) {
            pause(&mut rng, 12).await;
        }
    }
    Ok(())
}

async fn transaction(client: &Client, id: i64, rng: &mut StdRng) -> Result<()> {
    match rng.random_range(0..100) {
        // One statement, its own transaction.
        0..35 => client.batch_execute(&insert(id, 0, "single", &text(rng, 40))).await?,
        // Open for a while: the order of transaction ids is not the order of commits.
        35..50 => {
            client.batch_execute(&format!("BEGIN; {}", insert(id, 0, "slow", &text(rng, 20)))).await?;
            pause(rng, 25).await;
            client.batch_execute("COMMIT").await?;
        }
        // Many rows.
        50..60 => {
            let rows: String =
                (0..rng.random_range(5..60)).map(|part| insert(id, part, "batch", &text(rng, 200))).collect();
            client.batch_execute(&format!("BEGIN; {rows} COMMIT")).await?;
        }
        // A record larger than a page, often across segments.
        60..65 => {
            let bytes = rng.random_range(20_000..400_000);
            client.batch_execute(&insert(id, 0, "large", &text(rng, bytes))).await?;
        }
        // Commits without waiting for the disk.
        65..72 => {
            let row = insert(id, 0, "async", &text(rng, 60));
            client.batch_execute(&format!("BEGIN; SET LOCAL synchronous_commit = off; {row} COMMIT")).await?;
        }
        72..80 => client.batch_execute(&format!("BEGIN; {} ROLLBACK", insert(id, 0, "rolled back", "x"))).await?,
        80..88 => {
            let (kept, dropped, released) =
                (insert(id, 0, "savepoint", "a"), insert(id, 1, "dropped", "b"), insert(id, 2, "savepoint", "c"));
            let sql = format!(
                "BEGIN; {kept} SAVEPOINT s; {dropped} ROLLBACK TO s; SAVEPOINT t; {released} RELEASE t; COMMIT"
            );
            client.batch_execute(&sql).await?;
        }
        88..95 => prepared(client, id, rng).await?,
        _ => {
            let row = insert(id, 0, "ddl", "x");
            client
                .batch_execute(&format!("BEGIN; CREATE TABLE ledger_ddl_{id} (a int PRIMARY KEY); {row} COMMIT"))
                .await?;
        }
    }
    Ok(())
}

/// Two phases, the second one at a random later time; some are rolled back.
async fn prepared(client: &Client, id: i64, rng: &mut StdRng) -> Result<()> {
    let row = insert(id, 0, "prepared", &text(rng, 30));
    client.batch_execute(&format!("BEGIN; {row} PREPARE TRANSACTION 'g{id}'")).await?;
    pause(rng, 30).await;
    let end = if rng.random_bool(0.8) { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(&format!("{end} PREPARED 'g{id}'")).await?;
    Ok(())
}

fn insert(id: i64, part: i32, kind: &str, payload: &str) -> String {
    format!("INSERT INTO ledger VALUES ({id}, {part}, pg_current_xact_id(), '{kind}', '{payload}');")
}

/// Text that does not compress to nothing.
fn text(rng: &mut StdRng, bytes: usize) -> String {
    (0..bytes).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect()
}

async fn pause(rng: &mut StdRng, up_to_ms: u64) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..=up_to_ms))).await;
}

/// What the table shows now.
pub async fn content(server: &Postgres) -> Result<Content> {
    let client = server.connect().await?;
    let sql = "SELECT id, (min(xid::text::bigint) & 4294967295), count(*), \
               md5(string_agg(part::text || ':' || xid::text || ':' || kind || ':' || md5(payload), ',' ORDER BY part)), \
               count(*) FILTER (WHERE kind = 'ddl' AND to_regclass('ledger_ddl_' || id) IS NOT NULL) > 0 \
               FROM ledger GROUP BY id";
    let rows = client.query(sql, &[]).await.context("cannot read the ledger")?;
    let entry = |row: &tokio_postgres::Row| -> Result<(i64, Entry)> {
        let xid = u32::try_from(row.try_get::<_, i64>(1)?)?;
        Ok((row.try_get(0)?, Entry { xid, rows: row.try_get(2)?, digest: row.try_get(3)?, table: row.try_get(4)? }))
    };
    rows.iter().map(entry).collect()
}

/// Tables that transactions of kind `ddl` made.
pub async fn tables(server: &Postgres) -> Result<i64> {
    let sql = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'ledger_ddl_%'";
    Ok(server.value(sql).await?.parse()?)
}
