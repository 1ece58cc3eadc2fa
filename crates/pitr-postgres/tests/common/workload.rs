//! Work that leaves every kind of record that the decoder looks into.

use tokio_postgres::Client;

use super::Server;

/// Runs it: concurrent short transactions, subtransactions, two-phase commits, restore points, large records, DDL,
/// checkpoints, a crash and a clean restart.
pub async fn run(server: &Server, large_record: usize) {
    let client = server.connect().await;
    let table = "CREATE TABLE t(id bigserial PRIMARY KEY, worker int, body text);";
    client.batch_execute(table).await.unwrap();
    busy(server, 4, 60).await;
    two_phase(&client).await;
    client.batch_execute("SELECT pg_create_restore_point('before_the_large_ones')").await.unwrap();
    for (transactional, len) in [(true, large_record), (false, large_record / 3), (true, large_record + 1)] {
        let sql = "SELECT pg_logical_emit_message($1, 'pitr', repeat('x', $2))";
        client.execute(sql, &[&transactional, &i32::try_from(len).unwrap()]).await.unwrap();
        client.batch_execute("INSERT INTO t(worker, body) VALUES (0, 'between')").await.unwrap();
    }
    client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    client.batch_execute("CHECKPOINT; INSERT INTO t(worker) VALUES (9); TRUNCATE t").await.unwrap();
    client.batch_execute("CREATE TABLE gone(x int); DROP TABLE gone").await.unwrap();
    busy(server, 2, 40).await;
    drop(client);

    server.down("immediate");
    server.up();
    busy(server, 2, 30).await;
    let client = server.connect().await;
    client.batch_execute("SELECT pg_create_restore_point('Ende gut, alles gut: ü')").await.unwrap();
    drop(client);
    server.down("fast");
    server.up();
    busy(server, 2, 30).await;
}

/// Several clients at once, each with short transactions of which every seventh is rolled back.
async fn busy(server: &Server, clients: i32, transactions: i32) {
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..clients {
        let client = server.connect().await;
        tasks.spawn(async move {
            for round in 0..transactions {
                let end = if round % 7 == 6 { "ROLLBACK" } else { "COMMIT" };
                let body = "abc".repeat(usize::try_from(round).unwrap() * 20);
                let sql = format!(
                    "BEGIN; INSERT INTO t(worker, body) VALUES ({worker}, '{body}'); SAVEPOINT a; \
                     INSERT INTO t(worker) VALUES ({worker}); RELEASE a; SAVEPOINT b; \
                     UPDATE t SET body = 'changed' WHERE worker = {worker} AND id % 5 = 0; ROLLBACK TO b; {end}"
                );
                client.batch_execute(&sql).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

/// Prepared transactions, with and without subtransactions, DDL and relations to drop.
async fn two_phase(client: &Client) {
    for (name, end) in [("one", "COMMIT"), ("two", "ROLLBACK"), ("three", "COMMIT")] {
        let sql = format!(
            "BEGIN; INSERT INTO t(worker) VALUES (100); SAVEPOINT a; INSERT INTO t(worker) VALUES (101); \
             SAVEPOINT b; CREATE TABLE two_phase_{name}(x int primary key, y text); PREPARE TRANSACTION '{name}'"
        );
        client.batch_execute(&sql).await.unwrap();
        client.batch_execute("INSERT INTO t(worker) VALUES (102)").await.unwrap();
        client.batch_execute(&format!("{end} PREPARED '{name}'")).await.unwrap();
    }
    let drop = "BEGIN; DROP TABLE two_phase_one; PREPARE TRANSACTION 'drop'";
    client.batch_execute(drop).await.unwrap();
    client.batch_execute("COMMIT PREPARED 'drop'").await.unwrap();
}
