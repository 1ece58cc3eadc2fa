//! The role that `pitr` needs on a replica set, and no more.

/// What the script is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantOptions {
    /// Name of the user.
    pub user: String,
}

/// A script for `mongosh` that makes the role and the user. It asks for the password.
///
/// Of the built-in roles, `backup` reads all data, users and roles included, and may write notes. What it lacks is to
/// read a collection by its identifier, by which a dump follows renames, and the lists of the oplog and the
/// transactions, which are named one by one.
pub fn role_script(options: &GrantOptions) -> String {
    let user = serde_json::Value::from(options.user.as_str());
    format!(
        r#"// Run in mongosh as an administrator, on the primary: mongosh "mongodb://HOST/admin" FILE
const admin = db.getSiblingDB("admin");
const role = {{
  role: "pitrSource",
  privileges: [
    // reading by identifier; the state of the set; the compatibility version; notes
    {{ resource: {{ cluster: true }}, actions: ["useUUID", "replSetGetStatus", "replSetGetConfig", "getParameter", "appendOplogNote", "listDatabases"] }},
    // the log, the identity of the set, open transactions
    {{ resource: {{ db: "local", collection: "oplog.rs" }}, actions: ["find", "collStats"] }},
    {{ resource: {{ db: "local", collection: "system.replset" }}, actions: ["find"] }},
    {{ resource: {{ db: "config", collection: "transactions" }}, actions: ["find"] }},
  ],
  roles: [{{ role: "backup", db: "admin" }}],
}};
if (admin.getRole(role.role)) admin.updateRole(role.role, {{ privileges: role.privileges, roles: role.roles }});
else admin.createRole(role);
if (admin.getUser({user})) admin.updateUser({user}, {{ roles: ["pitrSource"] }});
else admin.createUser({{ user: {user}, pwd: passwordPrompt(), roles: ["pitrSource"] }});

// To restore with --target-url into a server with access control, use an administrator of that server that also
// may apply log entries:
//   admin.createRole({{ role: "pitrTarget", roles: [{{ role: "root", db: "admin" }}],
//     privileges: [{{ resource: {{ anyResource: true }}, actions: ["anyAction"] }}] }});
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        let script = role_script(&GrantOptions { user: "a\"); db.dropDatabase(); (\"".to_owned() });
        assert!(script.contains(r#"getUser("a\"); db.dropDatabase(); (\"")"#), "{script}");
    }
}
