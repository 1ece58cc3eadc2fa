//! Users and roles, and what they were granted.

use super::BaseError;
use super::format::{Definition, Kind, Statement, literal};
use crate::error::Error;
use crate::event::Flavour;
use crate::sql::Sql;

/// Accounts that every server makes for itself.
const OWN: &str = "('mysql.sys', 'mysql.session', 'mysql.infoschema', 'mariadb.sys')";

/// All accounts, sorted; roles first, since a user may have one by default.
pub async fn accounts(session: &mut Sql, flavour: Flavour) -> Result<Vec<Definition>, Error> {
    match flavour {
        Flavour::Mysql => of_mysql(session).await,
        Flavour::Mariadb => of_mariadb(session).await,
    }
}

/// What all accounts of MariaDB may do, as checksums of the tables that say so.
pub async fn fingerprint(session: &mut Sql) -> Result<Vec<Option<String>>, Error> {
    const TABLES: &str = "CHECKSUM TABLE mysql.global_priv, mysql.db, mysql.tables_priv, mysql.columns_priv, mysql.procs_priv, mysql.roles_mapping, mysql.proxies_priv";
    Ok(session.rows(TABLES).await?.iter().map(|row| row.text(1)).collect())
}

async fn of_mysql(session: &mut Sql) -> Result<Vec<Definition>, Error> {
    // Hashes are bytes that a text would not survive.
    session.execute("SET SESSION print_identified_with_as_hex = ON").await?;
    let asked = format!("SELECT user, host FROM mysql.user WHERE user NOT IN {OWN} ORDER BY user, host");
    let mut found = Vec::new();
    for row in session.rows(&asked).await? {
        let name = account(&row.text(0).unwrap_or_default(), &row.text(1).unwrap_or_default());
        found.push(definition(session, &name, vec![format!("DROP USER IF EXISTS {name}")], true).await?);
    }
    Ok(found)
}

async fn of_mariadb(session: &mut Sql) -> Result<Vec<Definition>, Error> {
    let asked =
        format!("SELECT user, host, is_role FROM mysql.user WHERE user NOT IN {OWN} ORDER BY is_role DESC, user, host");
    let mut found = Vec::new();
    for row in session.rows(&asked).await? {
        let (user, host) = (row.text(0).unwrap_or_default(), row.text(1).unwrap_or_default());
        if user == "PUBLIC" && host.is_empty() {
            // What everybody may do: a role that is there by itself, whose name is a word.
            found.push(definition(session, "PUBLIC", Vec::new(), false).await?);
        } else if row.text(2).as_deref() == Some("Y") {
            let name = literal(&user);
            let make = vec![format!("DROP ROLE IF EXISTS {name}"), format!("CREATE ROLE {name}")];
            found.push(definition(session, &name, make, false).await?);
        } else {
            let name = account(&user, &host);
            found.push(definition(session, &name, vec![format!("DROP USER IF EXISTS {name}")], true).await?);
        }
    }
    Ok(found)
}

async fn definition(
    session: &mut Sql,
    name: &str,
    mut make: Vec<String>,
    show_create: bool,
) -> Result<Definition, Error> {
    if show_create {
        let create = session.value(&format!("SHOW CREATE USER {name}")).await?;
        make.push(create.ok_or_else(|| BaseError::Odd(format!("account {name}")))?);
    }
    for row in session.rows(&format!("SHOW GRANTS FOR {name}")).await? {
        make.extend(row.text(0));
    }
    Ok(Definition {
        kind: Kind::Account,
        schema: String::new(),
        name: name.to_owned(),
        sql: make.into_iter().map(Statement::Text).collect(),
        session: [("character_set_client", "utf8mb4")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    })
}

/// An account as the dump names it.
pub fn account(user: &str, host: &str) -> String {
    format!("{}@{}", literal(user), literal(host))
}
