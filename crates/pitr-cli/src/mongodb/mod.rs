//! MongoDB's part of the verbs.

mod archived;
mod backup;
mod examine;
pub mod lineage;
mod restore;
mod stream;

use chrono::TimeDelta;
use indicatif::ProgressBar;
use pitr_archive::SourceArchive;
use pitr_archive::base::{BaseOptions, BaseWriter};
use pitr_core::{ErrorKind, Finding, Lineage, Scan, Span};
use pitr_mongodb::connect::{Password, Settings};
use pitr_mongodb::grants::{GrantOptions, role_script};
use pitr_mongodb::limits::MAX_MARK_NAME;
use pitr_mongodb::note::mark_data;
use pitr_mongodb::stream::write_note;
use pitr_mongodb::{Mongo, MongoPosition, check, scan};
use pitr_plan::Plan;

use crate::cli::{Backup, Grants};
use crate::engine::{Product, RestoreJob, Restored, Site, Taken};
use crate::failure::{During, Failure};
use crate::log::{LogReader, damaged_log};

impl Product for Mongo {
    const URL_EXAMPLE: &'static str = "mongodb://pitr@db1,db2,db3/?replicaSet=rs0&tls=true";
    const FLAGS: &'static [&'static str] = &["--target-url", "--bin-dir"];
    // An idle set writes a note every ten seconds, and a stream has one written every three.
    const IDLE_LOG_AGE: Option<TimeDelta> = Some(TimeDelta::seconds(30));

    fn side_file(_: &Lineage<MongoPosition>) -> Option<String> {
        None
    }

    async fn scan(
        _: &Lineage<MongoPosition>,
        segment: &Span<MongoPosition>,
        mut log: LogReader<'_, Self>,
    ) -> Result<Scan<MongoPosition>, Failure> {
        // Entries are never cut: what follows the segment is not needed.
        match log.next().await? {
            Some((span, bytes)) => scan::scan(&bytes).map_err(|error| damaged_log(&span, error)),
            None => Err(damaged_log(segment, "it has no bytes")),
        }
    }

    async fn examine(archive: &SourceArchive, plan: &Plan<MongoPosition>) -> Result<(), Failure> {
        examine::examine(archive, plan).await
    }

    async fn check(site: Site<'_>) -> Result<Vec<Finding>, Failure> {
        Ok(check::check(&connection(&site)?).await?)
    }

    fn grants(args: &Grants) -> Result<String, Failure> {
        Ok(role_script(&GrantOptions { user: args.role.clone() }))
    }

    fn base_options() -> BaseOptions {
        BaseOptions::of_rows()
    }

    async fn backup(
        site: Site<'_>,
        archive: &SourceArchive,
        _: &Backup,
        into: &BaseWriter,
        progress: &ProgressBar,
    ) -> Result<Taken<MongoPosition>, Failure> {
        backup::backup(site, archive, into, progress).await
    }

    async fn mark(site: Site<'_>, name: &str) -> Result<String, Failure> {
        if name.len() > MAX_MARK_NAME {
            return Err(Failure::new(ErrorKind::Usage, format!("a name has at most {MAX_MARK_NAME} bytes")));
        }
        let at = write_note(&connection(&site)?, mark_data(name)).await?;
        Ok(format!("optime {at}"))
    }

    type Upstream = stream::MongoUpstream;

    fn upstream(site: Site<'_>) -> Result<Self::Upstream, Failure> {
        Ok(stream::MongoUpstream::new(connection(&site)?))
    }

    async fn restore(job: RestoreJob<'_, Self>) -> Result<Restored<MongoPosition>, Failure> {
        restore::restore(job).await
    }
}

/// How to connect to the replica set of a source, with its password.
pub fn connection(site: &Site<'_>) -> Result<Settings, Failure> {
    let settings = Settings::parse(site.url::<Mongo>()?).during(format!("sources.{}.url", site.name))?;
    Ok(match site.source.password()? {
        Some(password) => settings.with_password(Password::new(password)),
        None => settings,
    })
}
