//! The same server from a container: `PITR_TEST_SERVERS=containers`, feature `containers`.
//!
//! The scratch directory is mounted under its own path, so that `archive_command` is the same command as everywhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use testcontainers::core::{IntoContainerPort, Mount, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};
use tokio_postgres::{Client, NoTls};

use crate::{Pitr, Scratch};

/// A PostgreSQL server in a container, removed when dropped.
pub struct PostgresContainer {
    _container: ContainerAsync<GenericImage>,
    port: u16,
}

impl PostgresContainer {
    /// The port that the server will have on the host: chosen before it starts, so that a configuration can name it.
    pub fn reserve_port() -> Result<u16> {
        crate::postgres::free_port()
    }

    /// How `pitr` on the host reaches it.
    pub fn url_of(port: u16) -> String {
        format!("postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable")
    }

    /// Starts PostgreSQL of that version, archiving with the program under test.
    pub async fn start(scratch: &Scratch, pitr: &Pitr, major: u32, port: u16) -> Result<Self> {
        // The user inside has a number of its own.
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777))?;
        fs::set_permissions(pitr.config(), fs::Permissions::from_mode(0o644))?;
        let directory = scratch.path().to_string_lossy().into_owned();
        let archive_command = format!("archive_command={}", pitr.push_command());
        let container = GenericImage::new("postgres", &major.to_string())
            .with_wait_for(WaitFor::message_on_stderr("database system is ready to accept connections"))
            .with_mapped_port(port, 5432.tcp())
            .with_env_var("POSTGRES_HOST_AUTH_METHOD", "trust")
            .with_mount(Mount::bind_mount(directory.clone(), directory))
            .with_cmd(["postgres", "-c", "archive_mode=on", "-c", &archive_command, "-c", "wal_level=replica"])
            .start()
            .await
            .context("cannot start a container: is a container engine running?")?;
        Ok(Self { _container: container, port })
    }

    /// A connection as superuser.
    pub async fn connect(&self) -> Result<Client> {
        let address = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port);
        let (client, connection) = tokio_postgres::connect(&address, NoTls).await?;
        tokio::spawn(async move {
            // A container that goes away breaks its connections; the client's next call reports it.
            let _ = connection.await;
        });
        Ok(client)
    }
}
