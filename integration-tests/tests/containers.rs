//! The main path against a server from a container. Compiled with `--features containers`, run where
//! `PITR_TEST_SERVERS=containers` says that a container engine is there.
#![cfg(feature = "containers")]

use anyhow::{Result, ensure};
use integration_tests::containers::PostgresContainer;
use integration_tests::{Pitr, Provider, Scratch, provider};

#[tokio::test]
async fn a_server_in_a_container_is_archived_and_restored() -> Result<()> {
    if provider()? != Provider::Containers {
        eprintln!("left out: PITR_TEST_SERVERS is not containers");
        return Ok(());
    }
    let scratch = Scratch::new("container")?;
    let port = PostgresContainer::reserve_port()?;
    let pitr = Pitr::of_server_at(&scratch, &PostgresContainer::url_of(port))?;
    pitr.run(["init"])?.ok()?;
    let server = PostgresContainer::start(&scratch, &pitr, 15, port).await?;
    let client = server.connect().await?;
    client.batch_execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a").await?;
    pitr.run(["backup", "main"])?.ok()?;
    client.batch_execute("SELECT pg_create_restore_point('here'); SELECT pg_switch_wal()").await?;
    let into = scratch.path().join("restored");
    for _ in 0..600 {
        let run = pitr.run(["restore", "main", "--to", "name:here", "--into", &into.to_string_lossy()])?;
        if run.code == Some(0) {
            ensure!(into.join("PG_VERSION").is_file(), "nothing was laid down");
            return Ok(());
        }
        // Not archived yet.
        run.with_code(4)?;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    anyhow::bail!("the named point was never archived")
}
