//! What a server has beside its databases: spatial reference systems, tablespaces, loadable functions, time zones, and what
//! a base leaves out.

use super::BaseError;
use super::format::{Definition, Kind, Statement, literal, quoted};
use super::tables::{self, Table};
use crate::error::Error;
use crate::event::Flavour;
use crate::sql::{Row, Sql, SqlError};

/// The tables that hold named time zones: statements of the log may need them.
const ZONES: [&str; 5] =
    ["time_zone", "time_zone_leap_second", "time_zone_name", "time_zone_transition", "time_zone_transition_type"];

/// The database that those tables are in.
pub const SYSTEM_DATABASE: &str = "mysql";

/// Spatial reference systems, tablespaces that tables of several databases may share, and functions of loadable libraries.
pub async fn definitions(session: &mut Sql, flavour: Flavour) -> Result<Vec<Definition>, Error> {
    let mut found = Vec::new();
    if flavour == Flavour::Mysql {
        for row in session.rows(REFERENCES).await? {
            found.push(spatial_reference(&row)?);
        }
        let asked = "SELECT name, zip_page_size, encryption FROM information_schema.innodb_tablespaces WHERE space_type = 'General' AND name <> 'mysql' ORDER BY name";
        for row in session.rows(asked).await? {
            found.push(tablespace(&row)?);
        }
    }
    for row in session.rows("SELECT name, ret, dl, type FROM mysql.func ORDER BY name").await? {
        found.push(loadable(&row)?);
    }
    Ok(found)
}

/// Those with a number outside the ranges that MySQL keeps for itself: whoever makes one inside is warned.
const REFERENCES: &str = "SELECT srs_id, srs_name, organization, organization_coordsys_id, definition, description FROM information_schema.st_spatial_reference_systems WHERE srs_id > 32767 AND srs_id NOT BETWEEN 60000000 AND 69999999 AND srs_id NOT BETWEEN 2000000000 AND 2147483647 ORDER BY srs_id";

fn spatial_reference(row: &Row) -> Result<Definition, BaseError> {
    let odd = || BaseError::Odd("the spatial reference systems".to_owned());
    let (id, name, wkt) = (row.number::<u32>(0), row.text(1), row.text(4));
    let (id, name, wkt) = (id.ok_or_else(odd)?, name.ok_or_else(odd)?, wkt.ok_or_else(odd)?);
    let mut sql = format!("CREATE SPATIAL REFERENCE SYSTEM IF NOT EXISTS {id} NAME {}", literal(&name));
    if let (Some(organization), Some(number)) = (row.text(2), row.number::<u32>(3)) {
        sql.push_str(&format!(" ORGANIZATION {} IDENTIFIED BY {number}", literal(&organization)));
    }
    sql.push_str(&format!(" DEFINITION {}", literal(&wkt)));
    if let Some(description) = row.text(5) {
        sql.push_str(&format!(" DESCRIPTION {}", literal(&description)));
    }
    Ok(definition(Kind::SpatialReference, id.to_string(), sql))
}

/// Without a file: the server that makes it chooses one.
fn tablespace(row: &Row) -> Result<Definition, BaseError> {
    let name = row.text(0).ok_or_else(|| BaseError::Odd("the names of tablespaces".to_owned()))?;
    let mut sql = format!("CREATE TABLESPACE {}", quoted(&name));
    if let Some(compressed) = row.number::<u64>(1).filter(|bytes| *bytes > 0) {
        sql.push_str(&format!(" FILE_BLOCK_SIZE = {compressed}"));
    }
    if row.text(2).as_deref() == Some("Y") {
        sql.push_str(" ENCRYPTION = 'Y'");
    }
    Ok(definition(Kind::Tablespace, name, sql))
}

fn loadable(row: &Row) -> Result<Definition, BaseError> {
    let odd = || BaseError::Odd("the loadable functions".to_owned());
    let (name, library) = (row.text(0).ok_or_else(odd)?, row.text(2).ok_or_else(odd)?);
    let returns = match row.number::<u32>(1).ok_or_else(odd)? {
        1 => "REAL",
        2 => "INTEGER",
        4 => "DECIMAL",
        _ => "STRING",
    };
    let aggregate = if row.text(3).as_deref() == Some("aggregate") { "AGGREGATE " } else { "" };
    let sql = format!("CREATE {aggregate}FUNCTION {} RETURNS {returns} SONAME {}", quoted(&name), literal(&library));
    Ok(definition(Kind::Loadable, name, sql))
}

fn definition(kind: Kind, name: String, sql: String) -> Definition {
    Definition { kind, schema: String::new(), name, sql: vec![Statement::Text(sql)], session: Default::default() }
}

/// The tables of named time zones, if there are any zones. They change with new rules of the world only: no lock is
/// needed to read them.
pub async fn zones(session: &mut Sql) -> Result<Vec<Table>, Error> {
    if session.value("SELECT COUNT(*) FROM mysql.time_zone_name").await?.as_deref() == Some("0") {
        return Ok(Vec::new());
    }
    let mut found = tables::tables(session, SYSTEM_DATABASE).await?;
    found.retain(|table| ZONES.contains(&table.name.as_str()));
    Ok(found)
}

/// What is there and not in the base, as whole sentences.
pub async fn left_out(session: &mut Sql, flavour: Flavour) -> Result<Vec<String>, Error> {
    const SERVERS: &str = "SELECT server_name FROM mysql.servers ORDER BY 1";
    const GROUPS: &str = "SELECT resource_group_name FROM information_schema.resource_groups WHERE resource_group_name NOT IN ('USR_default', 'SYS_default', 'SYS_internal') ORDER BY 1";
    // `SHOW CREATE USER` does not tell them, and no statement takes their digests.
    const SECOND_PASSWORDS: &str = "SELECT CONCAT(user, '@', host) FROM mysql.user WHERE JSON_CONTAINS_PATH(user_attributes, _utf8mb4'one', _utf8mb4'$.additional_password') ORDER BY 1";
    let asked: &[(&str, &str)] = match flavour {
        Flavour::Mysql => &[
            ("servers (CREATE SERVER)", SERVERS),
            ("resource groups", GROUPS),
            ("second passwords (RETAIN CURRENT PASSWORD) of", SECOND_PASSWORDS),
        ],
        Flavour::Mariadb => &[("servers (CREATE SERVER)", SERVERS)],
    };
    let mut sentences = Vec::new();
    for (what, statement) in asked {
        let rows = match session.rows(statement).await {
            // No such table or column, no right to see it: not every version has all of it.
            Err(SqlError::Server { code: code @ (1054 | 1109 | 1142 | 1143 | 1146 | 1227), .. }) => {
                tracing::debug!(code, what, "not visible");
                continue;
            }
            other => other?,
        };
        let names: Vec<_> = rows.iter().filter_map(|row| row.text(0)).collect();
        if !names.is_empty() {
            sentences.push(format!("not in the base, and to be made by hand: {what} {}", names.join(", ")));
        }
    }
    Ok(sentences)
}
