//! Can the server's user read what its `restore_command` will read?
//!
//! Root reads everything, and may lay down a directory for a user who cannot open the identity: the restore would look
//! complete and its server would end at the first file that it asks for. So this is looked at before anything is written.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pitr_core::ErrorKind;

use crate::context::Context;
use crate::failure::Failure;

const READ: u32 = 0o4;
const ENTER: u32 = 0o1;

/// A user of this machine.
#[derive(Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
    /// As `chown` takes it: the name, or the number of one without name.
    name: String,
    /// All groups, the first one included.
    groups: Vec<u32>,
}

/// Refuses a restore by root into a directory of a user who could not replay the log there.
pub fn check(context: &Context, into: &Path, starts: bool) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let place = into.ancestors().find_map(|path| fs::metadata(path).ok());
    let Some((uid, gid)) = place.map(|meta| (meta.uid(), meta.gid())) else { return Ok(()) };
    if uid == 0 {
        return if starts { Err(of_root(into)) } else { Ok(()) };
    }
    let user = User::find(uid, gid);
    let fixes: Vec<String> = needed(context).iter().filter_map(|path| obstacle(path, &user)).collect();
    // Access lists are not in the bits: the last word has the system.
    if fixes.is_empty() || opens_the_archive(context, &user) {
        return Ok(());
    }
    let what = format!(
        "the restored server would run as {}, who cannot read what its restore_command needs; nothing was written",
        user.name
    );
    Err(fixes.into_iter().fold(Failure::new(ErrorKind::Refused, what), Failure::next))
}

fn of_root(into: &Path) -> Failure {
    let into = into.display();
    let what = format!("{into} would belong to root, and no server runs as root; nothing was written");
    Failure::new(ErrorKind::Refused, what).next(format!("install -d -o postgres -g postgres -m 700 {into}"))
}

/// The files that every `wal fetch` opens.
fn needed(context: &Context) -> Vec<PathBuf> {
    let config = &context.config;
    let mut paths: Vec<PathBuf> = config.path.iter().cloned().collect();
    if !config.encryption.disabled {
        paths.extend(config.encryption.identity_file.clone());
        paths.extend(Some(config.digest_key_file()).filter(|path| path.exists()));
    }
    let local = config.archive.url.as_deref().and_then(|url| url.strip_prefix("file://"));
    paths.extend(local.map(|root| Path::new(root).join("archive")));
    paths
}

/// What is in the way of reading a file, as the command that removes it.
fn obstacle(path: &Path, user: &User) -> Option<String> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    for directory in above {
        // One that cannot even be looked at is for the archive or the configuration to report.
        let meta = fs::metadata(directory).ok()?;
        if !user.may(ENTER, &meta) {
            return Some(format!("chmod a+x {}   # or: chown {} {0}", directory.display(), user.name));
        }
    }
    let meta = fs::metadata(path).ok()?;
    (!user.may(READ, &meta)).then(|| format!("chown {} {}", user.name, path.display()))
}

/// Asks this very program, as that user.
fn opens_the_archive(context: &Context, user: &User) -> bool {
    let Ok(program) = std::env::current_exe() else { return false };
    let mut command = Command::new(program);
    if let Some(config) = &context.config.path {
        command.arg("--config").arg(config);
    }
    command.args(["--quiet", "key", "check"]).uid(user.uid).gid(user.gid);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl User {
    fn find(uid: u32, gid: u32) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::parse(uid, gid, &read("/etc/passwd"), &read("/etc/group"))
    }

    /// From the text of `/etc/passwd` and `/etc/group`; one who is not there has a number and one group.
    fn parse(uid: u32, gid: u32, passwd: &str, group: &str) -> Self {
        let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let number = |fields: &[String], at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok());
        let entry = passwd.lines().map(fields).find(|fields| number(fields, 2) == Some(uid));
        let Some(entry) = entry else {
            return Self { uid, gid, name: uid.to_string(), groups: vec![gid] };
        };
        let name = entry.first().cloned().unwrap_or_default();
        let first = number(&entry, 3).unwrap_or(gid);
        let member = |fields: &Vec<String>| fields.get(3).is_some_and(|members| members.split(',').any(|m| m == name));
        let further = group.lines().map(fields).filter(member).filter_map(|fields| number(&fields, 2));
        let groups = std::iter::once(first).chain(further).collect();
        Self { uid, gid: first, name, groups }
    }

    /// What the permission bits say.
    fn may(&self, bit: u32, meta: &Metadata) -> bool {
        self.may_with(bit, meta.mode(), meta.uid(), meta.gid())
    }

    fn may_with(&self, bit: u32, mode: u32, owner: u32, group: u32) -> bool {
        let shift = match () {
            () if owner == self.uid => 6,
            () if self.groups.contains(&group) => 3,
            () => 0,
        };
        mode >> shift & bit != 0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\npostgres:x:105:113:,,,:/var/lib/postgresql:/bin/bash\n";
    const GROUP: &str = "root:x:0:\nssl-cert:x:112:postgres,pitr\npostgres:x:113:\npitr:x:200:orders\n";

    #[test]
    fn a_user_has_a_name_and_all_of_its_groups() {
        let user = User::parse(105, 7, PASSWD, GROUP);
        assert_eq!((user.name.as_str(), user.gid, user.groups), ("postgres", 113, vec![113, 112]));
        let nobody = User::parse(4711, 12, PASSWD, GROUP);
        assert_eq!((nobody.name.as_str(), nobody.groups), ("4711", vec![12]));
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let user = User::parse(105, 113, PASSWD, GROUP);
        assert!(user.may_with(READ, 0o600, 105, 0) && !user.may_with(READ, 0o600, 0, 0));
        assert!(user.may_with(READ, 0o640, 0, 112) && !user.may_with(READ, 0o640, 0, 200));
        assert!(user.may_with(ENTER, 0o711, 0, 0) && !user.may_with(READ, 0o711, 0, 0));
        // The owner's own bits count for the owner, also where others may do more.
        assert!(!user.may_with(READ, 0o077, 105, 113));
    }

    #[test]
    fn what_is_in_the_way_is_named_with_the_command_that_removes_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("identity.txt");
        fs::write(&file, "secret").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let stranger = User { uid: u32::MAX - 7, gid: u32::MAX - 7, name: "postgres".into(), groups: vec![] };
        set(dir.path(), 0o755);
        set(&file, 0o600);
        assert_eq!(obstacle(&file, &stranger), Some(format!("chown postgres {}", file.display())));
        set(&file, 0o644);
        assert_eq!(obstacle(&file, &stranger), None);
        set(dir.path(), 0o700);
        assert!(obstacle(&file, &stranger).unwrap().starts_with(&format!("chmod a+x {}", dir.path().display())));
    }
}
