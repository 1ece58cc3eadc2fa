//! Named points in the log: restore points.

use tokio::time::timeout;

use crate::connect::{ConnectError, Settings, sql_client};
use crate::error::Error;
use crate::limits::QUERY_TIMEOUT;

/// Writes a restore point, and returns the end of its record as the server gives it.
pub async fn create_restore_point(settings: &Settings, name: &str) -> Result<String, Error> {
    let doing = "writing a restore point";
    let client = sql_client(settings).await?;
    let asked = timeout(QUERY_TIMEOUT, client.query_one("SELECT pg_create_restore_point($1)::text", &[&name])).await;
    let (target, seconds) = (settings.to_string(), QUERY_TIMEOUT.as_secs());
    let silent = ConnectError::Timeout { target, seconds, doing };
    let row = asked.map_err(|_| silent)?.map_err(|error| ConnectError::sql(doing, error))?;
    Ok(row.try_get(0).map_err(|error| ConnectError::sql(doing, error))?)
}
