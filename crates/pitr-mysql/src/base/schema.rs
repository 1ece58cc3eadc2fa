//! Definitions: the statements that make every object, as the server prints them.

use std::collections::BTreeMap;

use super::BaseError;
use super::format::{Definition, Kind, Statement, literal, quoted};
use crate::error::Error;
use crate::sql::{Row, Sql};

/// Databases that every server makes for itself.
pub const SYSTEM: &str = "('information_schema', 'performance_schema', 'mysql', 'sys', 'ndbinfo')";

/// The databases of the users, sorted.
pub async fn databases(session: &mut Sql) -> Result<Vec<String>, Error> {
    let asked = format!("SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN {SYSTEM}");
    let mut names = texts(session, &asked).await?;
    names.sort_unstable();
    Ok(names)
}

/// All definitions of one database, in the order in which they can be created.
pub async fn definitions(session: &mut Sql, schema: &str) -> Result<Vec<Definition>, Error> {
    let mut found = vec![show(session, Kind::Database, schema, schema, &DATABASE).await?];
    for (kind, name) in named(session, schema).await? {
        let layout = match kind {
            Kind::Table => &TABLE,
            Kind::Sequence => &SEQUENCE,
            Kind::View => &VIEW,
            Kind::Event => &EVENT,
            Kind::Library => &LIBRARY,
            _ => &ROUTINE,
        };
        found.push(show(session, kind, schema, &name, layout).await?);
    }
    // Stable: triggers of one table keep the order in which they fire.
    found.sort_by_key(|definition| definition.kind);
    Ok(found)
}

/// What the definitions of all databases looked like, cheaply: when each was made or last changed.
pub async fn fingerprint(session: &mut Sql) -> Result<BTreeMap<String, String>, Error> {
    let questions = [
        "SELECT 'table', table_schema, table_name, CONCAT_WS(' ', table_type, engine, create_time) FROM information_schema.tables WHERE table_schema NOT IN SYSTEM",
        "SELECT routine_type, routine_schema, routine_name, last_altered FROM information_schema.routines WHERE routine_schema NOT IN SYSTEM",
        "SELECT 'trigger', trigger_schema, trigger_name, CONCAT_WS(' ', created, event_object_table, action_order) FROM information_schema.triggers WHERE trigger_schema NOT IN SYSTEM",
        "SELECT 'event', event_schema, event_name, last_altered FROM information_schema.events WHERE event_schema NOT IN SYSTEM",
        "SELECT 'view', table_schema, table_name, view_definition FROM information_schema.views WHERE table_schema NOT IN SYSTEM",
    ];
    let mut objects = BTreeMap::new();
    for question in questions {
        for row in session.rows(&question.replace("SYSTEM", SYSTEM)).await? {
            let text = |place| row.text(place).unwrap_or_default();
            let name = format!("{} {}.{}", text(0).to_lowercase(), text(1), text(2));
            objects.insert(name, text(3));
        }
    }
    Ok(objects)
}

/// The first object that is in one of them and not the same in the other.
pub fn first_difference<'a>(a: &'a BTreeMap<String, String>, b: &'a BTreeMap<String, String>) -> Option<&'a str> {
    let differs = |other: &BTreeMap<String, String>, name: &String, what: &String| other.get(name) != Some(what);
    let changed = a.iter().find(|(name, what)| differs(b, name, what));
    changed.or_else(|| b.iter().find(|(name, what)| differs(a, name, what))).map(|(name, _)| name.as_str())
}

/// Names and kinds of what is in a database.
async fn named(session: &mut Sql, schema: &str) -> Result<Vec<(Kind, String)>, Error> {
    let schema = literal(schema);
    let mut found = Vec::new();
    let tables = format!(
        "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = {schema} ORDER BY table_name"
    );
    for row in session.rows(&tables).await? {
        let kind = match row.text(1).as_deref() {
            Some("VIEW") => Kind::View,
            Some("SEQUENCE") => Kind::Sequence,
            // A view of the server's own, or a temporary table of a session.
            Some("SYSTEM VIEW" | "TEMPORARY") => continue,
            _ => Kind::Table,
        };
        found.push((kind, name(&row)?));
    }
    let routines = format!(
        "SELECT routine_name, routine_type FROM information_schema.routines WHERE routine_schema = {schema} ORDER BY routine_type, routine_name"
    );
    for row in session.rows(&routines).await? {
        let kind = match row.text(1).as_deref() {
            Some("FUNCTION") => Kind::Function,
            Some("PACKAGE") => Kind::Package,
            Some("PACKAGE BODY") => Kind::PackageBody,
            _ => Kind::Procedure,
        };
        found.push((kind, name(&row)?));
    }
    found.extend(libraries(session, &schema).await?.into_iter().map(|name| (Kind::Library, name)));
    let triggers = format!(
        "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = {schema} ORDER BY event_object_table, action_timing, event_manipulation, action_order, trigger_name"
    );
    found.extend(texts(session, &triggers).await?.into_iter().map(|name| (Kind::Trigger, name)));
    let events =
        format!("SELECT event_name FROM information_schema.events WHERE event_schema = {schema} ORDER BY event_name");
    found.extend(texts(session, &events).await?.into_iter().map(|name| (Kind::Event, name)));
    Ok(found)
}

/// Names of libraries, which MySQL has since 9.2.
async fn libraries(session: &mut Sql, schema: &str) -> Result<Vec<String>, Error> {
    let asked =
        format!("SELECT library_name FROM information_schema.libraries WHERE library_schema = {schema} ORDER BY 1");
    match texts(session, &asked).await {
        // No such table.
        Err(Error::Sql(error)) if error.code() == Some(1109) => Ok(Vec::new()),
        other => other,
    }
}

/// Where `SHOW CREATE` puts what: the statement, and the session variables that it depends on.
struct Layout {
    statement: usize,
    session: &'static [(&'static str, usize)],
}

const DATABASE: Layout = Layout { statement: 1, session: &[] };
const TABLE: Layout = Layout { statement: 1, session: &[] };
const SEQUENCE: Layout = Layout { statement: 1, session: &[] };
const VIEW: Layout = Layout { statement: 1, session: &[("character_set_client", 2), ("collation_connection", 3)] };
const ROUTINE: Layout =
    Layout { statement: 2, session: &[("sql_mode", 1), ("character_set_client", 3), ("collation_connection", 4)] };
const LIBRARY: Layout = Layout { statement: 2, session: &[("sql_mode", 1)] };
const EVENT: Layout = Layout {
    statement: 3,
    session: &[("sql_mode", 1), ("time_zone", 2), ("character_set_client", 4), ("collation_connection", 5)],
};

async fn show(session: &mut Sql, kind: Kind, schema: &str, object: &str, layout: &Layout) -> Result<Definition, Error> {
    let word = match kind {
        Kind::Database => "DATABASE",
        Kind::Sequence => "SEQUENCE",
        Kind::Table => "TABLE",
        Kind::Library => "LIBRARY",
        Kind::Function => "FUNCTION",
        Kind::Procedure => "PROCEDURE",
        Kind::Package => "PACKAGE",
        Kind::PackageBody => "PACKAGE BODY",
        Kind::View => "VIEW",
        Kind::Trigger => "TRIGGER",
        Kind::Event => "EVENT",
        Kind::Account => "USER",
        Kind::Tablespace => "TABLESPACE",
        Kind::Loadable => "FUNCTION",
        Kind::SpatialReference => "SPATIAL REFERENCE SYSTEM",
    };
    let name = if kind == Kind::Database { quoted(schema) } else { format!("{}.{}", quoted(schema), quoted(object)) };
    let row = session.row(&format!("SHOW CREATE {word} {name}")).await?;
    let odd = || BaseError::Odd(format!("{} {schema}.{object}", word.to_lowercase()));
    let row = row.ok_or_else(odd)?;
    // NULL where the user may not see the definition.
    let statement = row.bytes(layout.statement).ok_or_else(odd)?.to_vec();
    let variable = |(name, place): &(&str, usize)| Some(((*name).to_owned(), row.text(*place)?));
    Ok(Definition {
        kind,
        schema: schema.to_owned(),
        name: object.to_owned(),
        sql: vec![Statement::new(statement)],
        session: layout.session.iter().filter_map(variable).collect(),
    })
}

/// A sequence goes on where its cached values end, as after a restart of the server.
pub async fn sequence_value(session: &mut Sql, schema: &str, name: &str) -> Result<Option<Definition>, Error> {
    let asked = format!("SELECT next_not_cached_value, cycle_count FROM {}.{}", quoted(schema), quoted(name));
    let Some(row) = session.row(&asked).await? else { return Ok(None) };
    let (Some(next), Some(round)) = (row.text(0), row.text(1)) else {
        return Err(BaseError::Odd(format!("sequence {schema}.{name}")).into());
    };
    let set = format!("SELECT SETVAL({}.{}, {next}, 0, {round})", quoted(schema), quoted(name));
    Ok(Some(Definition {
        kind: Kind::Sequence,
        schema: schema.to_owned(),
        name: name.to_owned(),
        sql: vec![Statement::Text(set)],
        session: BTreeMap::new(),
    }))
}

fn name(row: &Row) -> Result<String, BaseError> {
    row.text(0).ok_or_else(|| BaseError::Odd("the names of objects".to_owned()))
}

async fn texts(session: &mut Sql, statement: &str) -> Result<Vec<String>, Error> {
    Ok(session.rows(statement).await?.iter().filter_map(|row| row.text(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_or_vanished_object_is_named() {
        let map = |entries: &[(&str, &str)]| -> BTreeMap<String, String> {
            entries.iter().map(|(name, what)| ((*name).to_owned(), (*what).to_owned())).collect()
        };
        let before = map(&[("table a.t", "1"), ("view a.v", "2")]);
        assert_eq!(first_difference(&before, &before), None);
        assert_eq!(first_difference(&before, &map(&[("table a.t", "9"), ("view a.v", "2")])), Some("table a.t"));
        assert_eq!(first_difference(&before, &map(&[("table a.t", "1")])), Some("view a.v"));
        let more = map(&[("table a.t", "1"), ("table a.u", "1"), ("view a.v", "2")]);
        assert_eq!(first_difference(&before, &more), Some("table a.u"));
    }
}
