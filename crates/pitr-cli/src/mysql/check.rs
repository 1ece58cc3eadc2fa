//! Looks at a server: is it set up to be protected?

use pitr_core::Finding;
use pitr_mysql::BinlogPosition;
use pitr_mysql::check;

use crate::engine::{Product, Site};
use crate::failure::Failure;
use crate::mysql::archived::{Purpose, replica};
use crate::mysql::connection;

/// One finding for each thing that matters.
pub async fn check<E: Product<Position = BinlogPosition>>(site: Site<'_>) -> Result<Vec<Finding>, Failure> {
    let server_id = replica(&site, Purpose::Stream).server_id;
    Ok(check::check(&connection::<E>(&site)?, server_id).await?)
}
