//! Tables: what to read of each, in which order and in which stretches.

use std::collections::BTreeMap;

use super::BaseError;
use super::format::{literal, quoted};
use super::ranges::{Range, divide};
use super::rows::Form;
use crate::error::Error;
use crate::limits::YOUNG;
use crate::sql::Sql;

/// A table with rows to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The database.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// True if it can be read at the moment of a snapshot.
    pub transactional: bool,
    /// About how many bytes its rows take.
    pub bytes: u64,
    /// True if it was made or altered lately: what comes often goes soon.
    pub young: bool,
    /// Of which kind it is, and when it was made or last altered, as [`Table::check`] asks.
    made: String,
    /// Rows that are no longer current are kept too.
    versioned: bool,
    columns: Vec<Column>,
    /// Columns of the primary key, if rows can be read in its order.
    key: Vec<String>,
    has_key: bool,
}

/// A column that is stored, and so is read and written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    name: String,
    data_type: String,
}

impl Column {
    fn form(&self) -> Form {
        match self.data_type.as_str() {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "year" => Form::Number,
            "bit" => Form::Bits,
            "float" | "double" | "date" | "time" | "datetime" | "timestamp" | "char" | "varchar" | "tinytext"
            | "text" | "mediumtext" | "longtext" | "enum" | "set" | "binary" | "varbinary" | "tinyblob" | "blob"
            | "mediumblob" | "longblob" | "vector" | "geometry" | "point" | "linestring" | "polygon" | "multipoint"
            | "multilinestring" | "multipolygon" | "geometrycollection" | "geomcollection" => Form::Quoted,
            // JSON, INET4, INET6, UUID, and what comes after them.
            _ => Form::Text,
        }
    }

    /// The server prints a FLOAT with six digits; as a DOUBLE with as many as it takes to come back the same.
    fn expression(&self) -> String {
        match self.data_type.as_str() {
            "float" => format!("CAST({} AS DOUBLE)", quoted(&self.name)),
            _ => quoted(&self.name),
        }
    }

    fn is_whole_number(&self) -> bool {
        matches!(self.data_type.as_str(), "tinyint" | "smallint" | "mediumint" | "int" | "bigint")
    }
}

impl Table {
    /// The begin of every statement that loads it.
    pub fn insert(&self) -> String {
        let columns: Vec<_> = self.columns.iter().map(|column| quoted(&column.name)).collect();
        let table = format!("{}.{}", quoted(&self.schema), quoted(&self.name));
        let history = if self.versioned { "SET system_versioning_insert_history = 1;\n" } else { "" };
        format!("{history}INSERT INTO {table} ({}) VALUES", columns.join(","))
    }

    /// How each value is written.
    pub fn forms(&self) -> Vec<Form> {
        self.columns.iter().map(Column::form).collect()
    }

    /// The statement that reads a stretch of it.
    pub fn select(&self, range: Range) -> String {
        let columns: Vec<_> = self.columns.iter().map(Column::expression).collect();
        let history = if self.versioned { " FOR SYSTEM_TIME ALL" } else { "" };
        let index = if self.has_key { " FORCE INDEX (PRIMARY)" } else { "" };
        let key: Vec<_> = self.key.iter().map(|name| quoted(name)).collect();
        let condition = key.first().map(|first| range.condition(first)).unwrap_or_default();
        let order = if key.is_empty() { String::new() } else { format!(" ORDER BY {}", key.join(", ")) };
        let columns = if columns.is_empty() { "1".to_owned() } else { columns.join(",") };
        format!("SELECT {columns} FROM {}{history}{index}{condition}{order}", self.full_name())
    }

    /// `schema`.`name`
    pub fn full_name(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    /// Fails if it is no longer the table that it was when it was listed. The session has read from it, so it stays what it
    /// is meanwhile.
    pub async fn check(&self, session: &mut Sql) -> Result<(), Error> {
        let asked = format!(
            "SELECT {STATE} FROM information_schema.tables WHERE table_schema = {} AND table_name = {}",
            literal(&self.schema),
            literal(&self.name)
        );
        let found = session.value(&asked).await?;
        if found.as_deref() != Some(&self.made) {
            return Err(BaseError::DefinitionsChanged(self.full_name()).into());
        }
        Ok(())
    }

    /// The stretches in which it is read. Asks for the first and last key only if it is worth dividing.
    pub async fn ranges(&self, session: &mut Sql) -> Result<Vec<Range>, Error> {
        let first = self.key.first();
        let column = first.and_then(|key| self.columns.iter().find(|column| column.name == *key));
        let Some(column) = column.filter(|column| column.is_whole_number() && !self.versioned) else {
            return Ok(vec![Range::ALL]);
        };
        if self.bytes < 2 * crate::limits::RANGE_BYTES {
            return Ok(vec![Range::ALL]);
        }
        let name = quoted(&column.name);
        let row = session.row(&format!("SELECT MIN({name}), MAX({name}) FROM {}", self.full_name())).await?;
        let ends = row.and_then(|row| Some((row.number(0)?, row.number(1)?)));
        Ok(ends.map_or_else(|| vec![Range::ALL], |(min, max)| divide(min, max, self.bytes)))
    }
}

/// What changes with a table's definition. Renaming counts, and emptying it.
const STATE: &str = "CONCAT_WS(' ', table_type, engine, create_time)";

/// All tables of a database that have rows of their own.
pub async fn tables(session: &mut Sql, schema: &str) -> Result<Vec<Table>, Error> {
    let mut columns = columns(session, schema).await?;
    let mut keys = keys(session, schema).await?;
    let asked = format!(
        "SELECT table_name, table_type, engine, data_length, {STATE}, create_time > NOW() - INTERVAL {} SECOND FROM information_schema.tables WHERE table_schema = {} ORDER BY table_name",
        YOUNG.as_secs(),
        literal(schema)
    );
    let mut found = Vec::new();
    for row in session.rows(&asked).await? {
        let name = row.text(0).ok_or_else(|| BaseError::Odd(format!("the tables of {schema}")))?;
        let engine = row.text(2).unwrap_or_default().to_lowercase();
        let versioned = row.text(1).as_deref() == Some("SYSTEM VERSIONED");
        // Those others show the rows of other tables or servers, or have none.
        let own =
            !matches!(engine.as_str(), "mrg_myisam" | "federated" | "connect" | "spider" | "blackhole" | "oqgraph");
        if !(versioned || row.text(1).as_deref() == Some("BASE TABLE")) || !own {
            continue;
        }
        // A table without columns is one that somebody is just altering or dropping.
        let Some((mut stored, period)) = columns.remove(&name) else {
            return Err(BaseError::DefinitionsChanged(format!("{}.{}", quoted(schema), quoted(&name))).into());
        };
        if versioned {
            stored.extend(period.unwrap_or_else(|| {
                let implicit = |name: &str| Column { name: name.to_owned(), data_type: "timestamp".to_owned() };
                vec![implicit("row_start"), implicit("row_end")]
            }));
        }
        let key = keys.remove(&name);
        found.push(Table {
            schema: schema.to_owned(),
            transactional: matches!(engine.as_str(), "innodb" | "rocksdb" | "tokudb"),
            bytes: row.number(3).unwrap_or(0),
            made: row.text(4).unwrap_or_default(),
            young: row.text(5).as_deref() == Some("1"),
            versioned,
            columns: stored,
            has_key: key.is_some(),
            key: key.flatten().unwrap_or_default(),
            name,
        });
    }
    Ok(found)
}

/// Stored columns by table, and those of a period that the server fills in itself.
type Columns = BTreeMap<String, (Vec<Column>, Option<Vec<Column>>)>;

async fn columns(session: &mut Sql, schema: &str) -> Result<Columns, Error> {
    let asked = format!(
        "SELECT table_name, column_name, data_type, generation_expression FROM information_schema.columns WHERE table_schema = {} ORDER BY table_name, ordinal_position",
        literal(schema)
    );
    let mut found = Columns::new();
    for row in session.rows(&asked).await? {
        let (Some(table), Some(name), Some(data_type)) = (row.text(0), row.text(1), row.text(2)) else {
            return Err(BaseError::Odd(format!("the columns of {schema}")).into());
        };
        let column = Column { name, data_type: data_type.to_lowercase() };
        let (stored, period) = found.entry(table).or_default();
        match row.text(3).as_deref() {
            None | Some("") => stored.push(column),
            Some("ROW START" | "ROW END") => period.get_or_insert_default().push(column),
            Some(_) => {}
        }
    }
    Ok(found)
}

/// Primary keys by table; `None` inside where a column of it counts only in part.
async fn keys(session: &mut Sql, schema: &str) -> Result<BTreeMap<String, Option<Vec<String>>>, Error> {
    let asked = format!(
        "SELECT table_name, column_name, sub_part FROM information_schema.statistics WHERE table_schema = {} AND index_name = 'PRIMARY' ORDER BY table_name, seq_in_index",
        literal(schema)
    );
    let mut found: BTreeMap<String, Option<Vec<String>>> = BTreeMap::new();
    for row in session.rows(&asked).await? {
        let (Some(table), Some(column)) = (row.text(0), row.text(1)) else {
            return Err(BaseError::Odd(format!("the keys of {schema}")).into());
        };
        let key = found.entry(table).or_insert_with(|| Some(Vec::new()));
        match row.bytes(2) {
            None => key.iter_mut().for_each(|key| key.push(column.clone())),
            Some(_) => *key = None,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(columns: &[(&str, &str)], key: &[&str]) -> Table {
        Table {
            schema: "shop".to_owned(),
            name: "t`x".to_owned(),
            transactional: true,
            bytes: 0,
            young: false,
            made: String::new(),
            versioned: false,
            columns: columns
                .iter()
                .map(|(name, kind)| Column { name: (*name).to_owned(), data_type: (*kind).to_owned() })
                .collect(),
            key: key.iter().map(|name| (*name).to_owned()).collect(),
            has_key: !key.is_empty(),
        }
    }

    #[test]
    fn rows_are_read_in_the_order_of_the_key() {
        let table = table(&[("id", "int"), ("f", "float"), ("j", "json")], &["id"]);
        assert_eq!(
            table.select(Range { from: Some(4), to: None }),
            "SELECT `id`,CAST(`f` AS DOUBLE),`j` FROM `shop`.`t``x` FORCE INDEX (PRIMARY) WHERE `id` >= 4 ORDER BY `id`"
        );
        assert_eq!(table.insert(), "INSERT INTO `shop`.`t``x` (`id`,`f`,`j`) VALUES");
        assert_eq!(table.forms(), [Form::Number, Form::Quoted, Form::Text]);
    }

    #[test]
    fn a_table_without_key_is_read_as_it_lies() {
        let table = table(&[("a", "varchar")], &[]);
        assert_eq!(table.select(Range::ALL), "SELECT `a` FROM `shop`.`t``x`");
    }
}
