//! What only PostgreSQL needs: which lineage a file belongs to, where the bytes of a WAL file are, and its part of
//! the verbs that all engines have.

mod access;
mod backup;
mod check;
pub mod fetch;
pub mod lineage;
mod restore;
pub mod resume;
mod scan;
pub mod spool;
pub mod stream;
pub mod watch;

use chrono::TimeDelta;
use indicatif::ProgressBar;
use pitr_archive::SourceArchive;
use pitr_archive::base::{BaseOptions, BaseWriter};
use pitr_core::{Finding, Lineage, Scan, Span};
use pitr_plan::Plan;
use pitr_postgres::connect::{Password, Settings};
use pitr_postgres::engine::facts;
use pitr_postgres::grants::{GrantOptions, role_script};
use pitr_postgres::mark::create_restore_point;
use pitr_postgres::{PgPosition, Postgres, TimelineId, WalFileName};

use crate::cli::{Backup, Grants};
use crate::engine::{Product, RestoreJob, Restored, Site, Taken};
use crate::failure::{During, Failure};
use crate::log::LogReader;

impl Product for Postgres {
    const URL_EXAMPLE: &'static str = "postgresql://pitr@db1/postgres?sslmode=verify-full";
    const FLAGS: &'static [&'static str] =
        &["--spread-checkpoint", "--max-rate", "--tablespace", "--start", "--bin-dir", "--promote", "--prefetch"];
    const IDLE_LOG_AGE: Option<TimeDelta> = None;

    fn side_file(lineage: &Lineage<PgPosition>) -> Option<String> {
        // Every timeline but the first has a history, and a server that goes through it asks for that.
        let timeline = lineage.facts.get(facts::TIMELINE)?.parse().map(TimelineId).ok()?;
        (timeline > TimelineId::FIRST).then(|| WalFileName::History(timeline).to_string())
    }

    async fn scan(
        lineage: &Lineage<PgPosition>,
        segment: &Span<PgPosition>,
        log: LogReader<'_, Self>,
    ) -> Result<Scan<PgPosition>, Failure> {
        scan::scan(lineage, segment, log).await
    }

    async fn examine(_: &SourceArchive, _: &Plan<PgPosition>) -> Result<(), Failure> {
        // Servers of the same major version replay whatever one of them has written.
        Ok(())
    }

    async fn check(site: Site<'_>) -> Result<Vec<Finding>, Failure> {
        check::check(site).await
    }

    fn grants(args: &Grants) -> Result<String, Failure> {
        Ok(role_script(&GrantOptions { role: args.role.clone(), address: args.address.clone() }))
    }

    fn base_options() -> BaseOptions {
        BaseOptions::default()
    }

    async fn backup(
        site: Site<'_>,
        archive: &SourceArchive,
        args: &Backup,
        into: &BaseWriter,
        progress: &ProgressBar,
    ) -> Result<Taken<PgPosition>, Failure> {
        backup::backup(site, archive, args, into, progress).await
    }

    async fn mark(site: Site<'_>, name: &str) -> Result<String, Failure> {
        let lsn = create_restore_point(&connection(&site)?, name).await?;
        Ok(format!("LSN {lsn}"))
    }

    type Upstream = stream::PgUpstream;

    fn upstream(site: Site<'_>) -> Result<stream::PgUpstream, Failure> {
        stream::PgUpstream::new(site)
    }

    async fn restore(job: RestoreJob<'_, Self>) -> Result<Restored<PgPosition>, Failure> {
        restore::restore(job).await
    }
}

/// How to connect to the server of a source, with its password.
pub fn connection(site: &Site<'_>) -> Result<Settings, Failure> {
    let settings = Settings::parse(site.url::<Postgres>()?).during(format!("sources.{}.url", site.name))?;
    Ok(match site.source.password()? {
        Some(password) => settings.with_password(Password::new(password)),
        None => settings,
    })
}
