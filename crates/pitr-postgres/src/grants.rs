//! The role that `pitr` needs on a server, and no more.

use std::fmt::Write as _;

/// What the script is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantOptions {
    /// Name of the role.
    pub role: String,
    /// Address of the machine where `pitr` runs (`10.0.0.7/32`); `None` for the server's own machine.
    pub address: Option<String>,
}

/// SQL that makes the role, with the lines for `pg_hba.conf` as comments at its end. Safe to run again.
///
/// The role reads no table: a base backup goes over the replication protocol. It holds no password; that is set by
/// hand, so that it is in no script and in no history.
pub fn role_script(options: &GrantOptions) -> String {
    let role = identifier(&options.role);
    let literal = format!("'{}'", options.role.replace('\'', "''"));
    let mut script = format!(
        "-- Run as a superuser. Then set the password by hand: \\password {role}\n\
         DO $$ BEGIN\n  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal}) THEN\n    CREATE ROLE {role};\n  END IF;\nEND $$;\n\
         -- base backups and streaming of the log; nothing else needs a right on data\n\
         ALTER ROLE {role} LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;\n\
         -- pitr check and pitr status: settings, pg_stat_archiver, what waits to be archived\n\
         GRANT pg_monitor TO {role};\n\
         -- pitr mark: named points; pitr backup: to have the last segment archived at once\n\
         GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO {role};\n\
         GRANT EXECUTE ON FUNCTION pg_switch_wal() TO {role};\n"
    );
    script.push_str("-- pg_hba.conf, above any broader line, then SELECT pg_reload_conf();\n");
    let name = if options.role.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') { &options.role } else { &role };
    for database in ["replication", "postgres"] {
        // Writing to a string does not fail.
        let _ = match &options.address {
            Some(address) => writeln!(script, "-- hostssl {database} {name} {address} scram-sha-256"),
            None => writeln!(script, "-- local {database} {name} scram-sha-256"),
        };
    }
    script
}

/// A name as SQL takes it, whatever characters it has.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_end_its_quotes() {
        let script = role_script(&GrantOptions { role: "o'x\"; DROP TABLE t; --".to_owned(), address: None });
        assert!(script.contains("CREATE ROLE \"o'x\"\"; DROP TABLE t; --\";"), "{script}");
        assert!(script.contains("rolname = 'o''x\"; DROP TABLE t; --'"), "{script}");
    }

    #[test]
    fn another_machine_must_use_tls() {
        let script = role_script(&GrantOptions { role: "pitr".to_owned(), address: Some("10.0.0.7/32".to_owned()) });
        assert!(script.contains("-- hostssl replication pitr 10.0.0.7/32 scram-sha-256"), "{script}");
    }
}
