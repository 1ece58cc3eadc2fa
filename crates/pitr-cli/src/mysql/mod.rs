//! The part of MySQL and MariaDB in the verbs that all engines have. They are one engine here: what differs between the
//! families is inside of `pitr-mysql`.

pub mod archived;
mod backup;
mod check;
mod restore;
mod scan;
pub mod stream;

use chrono::TimeDelta;
use indicatif::ProgressBar;
use pitr_archive::SourceArchive;
use pitr_archive::base::{BaseOptions, BaseWriter};
use pitr_core::{ErrorKind, Finding, Lineage, Scan, Span};
use pitr_mysql::BinlogPosition;
use pitr_mysql::connect::{Password, Settings};
use pitr_mysql::engine::{Mariadb, Mysql};
use pitr_mysql::event::Flavour;
use pitr_mysql::grants::{GrantOptions, account_script};
use pitr_mysql::limits::MAX_MARK_NAME;
use pitr_plan::Plan;

use crate::cli::{Backup, Grants};
use crate::engine::{Product, RestoreJob, Restored, Site, Taken};
use crate::failure::{During, Failure};
use crate::log::LogReader;

macro_rules! product {
    ($engine:ident, $example:literal) => {
        impl Product for $engine {
            const URL_EXAMPLE: &'static str = $example;
            const FLAGS: &'static [&'static str] = &["--target-url", "--listen", "--skip", "--bin-dir"];
            const IDLE_LOG_AGE: Option<TimeDelta> = None;

            type Upstream = stream::BinlogUpstream<Self>;

            /// A binary log names its history by itself.
            fn side_file(_: &Lineage<BinlogPosition>) -> Option<String> {
                None
            }

            fn upstream(site: Site<'_>) -> Result<Self::Upstream, Failure> {
                stream::BinlogUpstream::new(site)
            }

            async fn scan(
                _: &Lineage<BinlogPosition>,
                segment: &Span<BinlogPosition>,
                log: LogReader<'_, Self>,
            ) -> Result<Scan<BinlogPosition>, Failure> {
                scan::scan(segment, log).await
            }

            async fn examine(_: &SourceArchive, _: &Plan<BinlogPosition>) -> Result<(), Failure> {
                // What one server has written, another of the same or a later version applies.
                Ok(())
            }

            async fn check(site: Site<'_>) -> Result<Vec<Finding>, Failure> {
                check::check::<Self>(site).await
            }

            fn grants(args: &Grants) -> Result<String, Failure> {
                let (user, host) = (args.role.clone(), args.address.clone());
                Ok(account_script(&GrantOptions { flavour: Flavour::$engine, user, host }))
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
            ) -> Result<Taken<BinlogPosition>, Failure> {
                backup::backup::<Self>(site, archive, into, progress).await
            }

            async fn mark(site: Site<'_>, name: &str) -> Result<String, Failure> {
                if name.len() > MAX_MARK_NAME {
                    return Err(Failure::new(ErrorKind::Usage, format!("a name has at most {MAX_MARK_NAME} bytes")));
                }
                let (file, offset) = pitr_mysql::mark::write(&connection::<Self>(&site)?, name).await?;
                Ok(format!("log file {file}, before offset {offset}"))
            }

            async fn restore(job: RestoreJob<'_, Self>) -> Result<Restored<BinlogPosition>, Failure> {
                restore::restore(job).await
            }
        }
    };
}

product!(Mysql, "mysql://pitr@db1?ssl-mode=verify_identity");
product!(Mariadb, "mariadb://pitr@db1?ssl-mode=verify_identity");

/// How to connect to the server of a source, with its password.
pub fn connection<E: Product>(site: &Site<'_>) -> Result<Settings, Failure> {
    let settings = Settings::parse(site.url::<E>()?).during(format!("sources.{}.url", site.name))?;
    Ok(match site.source.password()? {
        Some(password) => settings.with_password(Password::new(password)),
        None => settings,
    })
}
