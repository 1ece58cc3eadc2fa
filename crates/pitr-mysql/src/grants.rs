//! The account that `pitr` needs on a server, and no more.

use crate::event::Flavour;
use crate::mark::DATABASE;

/// What the script is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantOptions {
    /// The family of the server.
    pub flavour: Flavour,
    /// Name of the account.
    pub user: String,
    /// From where it may come, as the servers write hosts (`10.0.0.7`, `10.0.0.0/255.255.255.0`); `None` for the
    /// server's own machine.
    pub host: Option<String>,
}

/// A right, and what needs it.
struct Right {
    name: &'static str,
    purpose: &'static str,
}

const STREAM: Right = Right { name: "REPLICATION SLAVE", purpose: "pitr stream: the binary log" };
const MYSQL: &[Right] = &[
    STREAM,
    Right { name: "REPLICATION CLIENT", purpose: "names and lengths of its files" },
    Right { name: "SELECT", purpose: "pitr backup: rows, accounts" },
    Right { name: "SHOW VIEW", purpose: "definitions of views" },
    Right { name: "TRIGGER", purpose: "definitions of triggers" },
    Right { name: "EVENT", purpose: "definitions of events" },
    Right { name: "PROCESS", purpose: "definitions of tablespaces" },
    Right { name: "RELOAD", purpose: "one moment for all sessions that read (FLUSH TABLES WITH READ LOCK)" },
    Right { name: "BACKUP_ADMIN", purpose: "no changes of definitions meanwhile (LOCK INSTANCE FOR BACKUP)" },
    Right { name: "SHOW_ROUTINE", purpose: "definitions of routines" },
];
const MARIADB: &[Right] = &[
    STREAM,
    Right { name: "BINLOG MONITOR", purpose: "names and lengths of its files" },
    Right { name: "SELECT", purpose: "pitr backup: rows, accounts, routines" },
    Right { name: "SHOW VIEW", purpose: "definitions of views" },
    Right { name: "TRIGGER", purpose: "definitions of triggers" },
    Right { name: "EVENT", purpose: "definitions of events" },
    Right { name: "PROCESS", purpose: "definitions of tablespaces" },
    Right { name: "RELOAD", purpose: "one moment for all sessions that read (BACKUP STAGE)" },
];

/// The names of the rights that the account needs, in the words of the server.
pub fn rights(flavour: Flavour) -> impl Iterator<Item = &'static str> {
    table(flavour).iter().map(|right| right.name)
}

fn table(flavour: Flavour) -> &'static [Right] {
    match flavour {
        Flavour::Mysql => MYSQL,
        Flavour::Mariadb => MARIADB,
    }
}

/// What `pitr mark` needs, in a database of its own; a source that is never marked can do without.
const MARK: Right = Right { name: "CREATE, INSERT", purpose: "pitr mark: named points, in a table of their own" };

/// SQL that makes the account. Safe to run again. It holds no password; that is set by hand, so that it is in no
/// script and in no history.
pub fn account_script(options: &GrantOptions) -> String {
    let account = account(&options.user, options.host.as_deref().unwrap_or("localhost"));
    let encrypted = if options.host.is_some() { " REQUIRE SSL" } else { "" };
    // Without a password nobody can log in before one is set.
    let locked = match options.flavour {
        Flavour::Mysql => "IDENTIFIED BY RANDOM PASSWORD",
        Flavour::Mariadb => "IDENTIFIED VIA mysql_native_password USING 'invalid'",
    };
    let mut script = format!(
        "-- Run as an administrator. Then set the password by hand:\n\
         --   ALTER USER {account} IDENTIFIED BY '…';\n\
         CREATE USER IF NOT EXISTS {account} {locked}{encrypted};\n"
    );
    for right in table(options.flavour) {
        script.push_str(&format!("-- {}\nGRANT {} ON *.* TO {account};\n", right.purpose, right.name));
    }
    script.push_str(&format!("-- {}\nGRANT {} ON `{DATABASE}`.* TO {account};\n", MARK.purpose, MARK.name));
    script
}

/// `'user'@'host'` as SQL takes it, whatever characters it has.
pub fn account(user: &str, host: &str) -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
    format!("{}@{}", quote(user), quote(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_break_out_of_the_script() {
        assert_eq!(account("o'b\\", "%"), "'o''b\\\\'@'%'");
    }

    #[test]
    fn an_account_from_elsewhere_must_come_encrypted() {
        let script = |host: Option<&str>| {
            account_script(&GrantOptions {
                flavour: Flavour::Mysql,
                user: "pitr".to_owned(),
                host: host.map(str::to_owned),
            })
        };
        assert!(script(Some("10.0.0.7")).contains("'pitr'@'10.0.0.7' IDENTIFIED BY RANDOM PASSWORD REQUIRE SSL;"));
        assert!(!script(None).contains("REQUIRE SSL") && script(None).contains("'pitr'@'localhost'"));
    }
}
