//! What a server holds: its definitions, written down as they are read, and its tables, to be copied.

use pitr_core::ports::PartWriter;

use super::format::Kind;
use super::tables::{self, Table};
use super::{BaseError, Lines, accounts, beside, schema};
use crate::error::Error;
use crate::event::Flavour;
use crate::limits::YOUNG_BYTES;
use crate::sql::Sql;

/// What a server holds.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Tables with rows that are still to be copied.
    pub tables: Vec<Table>,
    /// Sequences of MariaDB, whose next values are still to be read.
    pub sequences: Vec<(String, String)>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Inventory {
    /// Writes all definitions into `definitions`.
    pub async fn take<P: PartWriter>(
        session: &mut Sql,
        flavour: Flavour,
        definitions: &mut Lines<P>,
    ) -> Result<Self, Error> {
        let mut inventory = Self::default();
        for definition in beside::definitions(session, flavour).await? {
            definitions.add(&definition).await?;
        }
        inventory.tables.extend(beside::zones(session).await?);
        inventory.warnings.extend(beside::left_out(session, flavour).await?);
        for database in schema::databases(session).await? {
            for definition in schema::definitions(session, &database).await? {
                definitions.add(&definition).await?;
                if definition.kind == Kind::Sequence {
                    inventory.sequences.push((definition.schema, definition.name));
                }
            }
            inventory.tables.extend(tables::tables(session, &database).await?);
        }
        for account in accounts::accounts(session, flavour).await? {
            definitions.add(&account).await?;
        }
        Ok(inventory)
    }

    /// Writes where each sequence goes on.
    pub async fn sequence_values<P: PartWriter>(
        &self,
        session: &mut Sql,
        definitions: &mut Lines<P>,
    ) -> Result<(), Error> {
        for (schema, name) in &self.sequences {
            if let Some(value) = schema::sequence_value(session, schema, name).await? {
                definitions.add(&value).await?;
            }
        }
        Ok(())
    }

    /// Takes out the tables that no snapshot can hold still.
    pub fn take_still(&mut self) -> Vec<Table> {
        self.tables.extract_if(.., |table| !table.transactional && table.schema != beside::SYSTEM_DATABASE).collect()
    }

    /// Takes out some small tables that were made lately: they would go before they can be read, and one that is gone spoils
    /// the base.
    pub fn take_young(&mut self) -> Vec<Table> {
        let mut left = YOUNG_BYTES;
        let mut fits = |table: &Table| {
            let fits = table.young && table.transactional && table.bytes <= left;
            left -= if fits { table.bytes } else { 0 };
            fits
        };
        self.tables.extract_if(.., |table| fits(table)).collect()
    }
}

/// Tables without transactions. Only their databases are looked at closely: everybody waits meanwhile.
pub async fn still_tables(session: &mut Sql) -> Result<Vec<Table>, Error> {
    let asked = format!(
        "SELECT DISTINCT table_schema FROM information_schema.tables WHERE table_schema NOT IN {} AND table_type <> 'VIEW' AND engine NOT IN ('InnoDB', 'ROCKSDB')",
        schema::SYSTEM
    );
    let mut found = Vec::new();
    for row in session.rows(&asked).await? {
        let Some(database) = row.text(0) else { continue };
        found.extend(tables::tables(session, &database).await?.into_iter().filter(|table| !table.transactional));
    }
    Ok(found)
}

/// A sentence about tables without transactions, if there are any.
pub fn about_still(tables: &[Table]) -> Option<String> {
    let names: Vec<_> = tables.iter().map(Table::full_name).collect();
    (!names.is_empty())
        .then(|| format!("writes had to wait while tables without transactions were read: {}", names.join(", ")))
}

/// Fails if something was done between two looks.
pub fn unchanged(changed: Option<&str>) -> Result<(), Error> {
    match changed {
        Some(what) => Err(BaseError::DefinitionsChanged(what.to_owned()).into()),
        None => Ok(()),
    }
}

/// A change that began before definitions were held may not have ended: it waits for us, and we for it.
pub fn overtaken(error: Error) -> Error {
    match &error {
        // Lock wait timeout, no such table.
        Error::Sql(sql) if matches!(sql.code(), Some(1205 | 1146)) => {
            BaseError::DefinitionsChanged(sql.to_string()).into()
        }
        _ => error,
    }
}
