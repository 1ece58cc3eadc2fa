//! Looks at a server: is it set up to be protected?

use std::path::Path;

use pitr_core::Finding;
use pitr_postgres::check;

use crate::engine::Site;
use crate::failure::Failure;
use crate::postgres::connection;

/// One finding for each thing that matters.
pub async fn check(site: Site<'_>) -> Result<Vec<Finding>, Failure> {
    Ok(check::check(&connection(&site)?, &archive_command(&site)).await?.findings)
}

/// The line for `postgresql.conf`, with this program and configuration by absolute name.
fn archive_command(site: &Site<'_>) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| Path::new("pitr").to_owned());
    let config = site.context.config.path.as_ref().map(|path| format!(" --config {}", path.display()));
    format!("{}{} wal push --source {} %p", program.display(), config.unwrap_or_default(), site.name)
}
