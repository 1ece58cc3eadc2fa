//! The recipe of the format page: stock tools restore a base, without anything of ours.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use pitr_archive::base::{BaseOptions, BaseWriter};
use pitr_archive::{Access, Archive, Identities, Store};
use pitr_core::ports::{Chunking, PartInfo, PartKind, PartSink, PartWriter};

mod base_support;

use base_support::{CHUNK, Tree, add, file, noise, record};

const FORMAT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/FORMAT.md");
const HEADING: &str = "### Restore a base without pitr";

/// The script under the heading, as it stands on the page.
fn recipe() -> String {
    let page = std::fs::read_to_string(FORMAT).unwrap();
    let section = page.split_once(HEADING).unwrap().1;
    let script = section.split_once("```bash\n").unwrap().1;
    script.split_once("```").unwrap().0.to_owned()
}

fn tree() -> Tree {
    Tree::from([
        ("base".to_owned(), None),
        ("base/pg_empty".to_owned(), None),
        file("base/5/1259", [noise(CHUNK, 1), vec![0; 3 * CHUNK], noise(8_192, 2)].concat()),
        file("base/5/a name with spaces, a 'quote', a\ttab and a \\backslash", noise(10, 3)),
        file("base/5/empty", Vec::new()),
        ("dump.sql".to_owned(), Some((Chunking::Content, noise(4_000_000, 4)))),
        // More than one pack.
        file("large", noise(17 * CHUNK, 5)),
    ])
}

#[tokio::test]
async fn the_recipe_on_the_format_page_restores_a_base() {
    for encrypted in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let (store, target) = (directory.path().join("archive"), directory.path().join("target"));
        let identity_file = directory.path().join("identity.txt");
        let identity = age::x25519::Identity::generate();
        let text = age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).to_owned();
        std::fs::write(&identity_file, text).unwrap();
        let access = if encrypted { Access::reader(Identities::from(identity)) } else { Access::plain() };
        std::fs::create_dir(&store).unwrap();
        let url = format!("file://{}", store.display());
        let archive = Archive::create(Store::open(&url, &BTreeMap::new()).unwrap(), access).await.unwrap();
        // The second base refers to packs of the first one.
        let mut bases = Vec::new();
        for _ in 0..2 {
            let writer = BaseWriter::begin(archive.objects(), "shop", &BaseOptions::default()).await.unwrap();
            for (path, entry) in &tree() {
                add(&writer, path, entry, 100_000).await.unwrap();
            }
            // Some engines keep no permissions.
            let info = PartInfo { path: "collection.bson".into(), kind: PartKind::File(Chunking::Content), mode: None };
            let mut part = writer.open(info).await.unwrap();
            part.write(b"documents").await.unwrap();
            part.finish().await.unwrap();
            bases.push(writer.commit(record()).await.unwrap());
        }
        assert_eq!(bases[1].reused, bases[1].base.bytes);

        let mut script = Command::new("bash");
        script.args(["-c", &recipe(), "recipe"]).arg(&store).args(["shop", bases[1].base.id.as_str()]).arg(&target);
        if encrypted {
            script.arg(&identity_file);
        }
        let run = script.output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        assert_restored(&target);
        assert_eq!(std::fs::read(target.join("collection.bson")).unwrap(), b"documents");
    }
}

fn assert_restored(target: &Path) {
    for (path, entry) in tree() {
        let place = target.join(&path);
        match entry {
            None => assert!(place.is_dir(), "{path}"),
            Some((_, content)) => {
                assert!(std::fs::read(&place).unwrap() == content, "{path}");
                assert_eq!(place.metadata().unwrap().permissions().mode() & 0o7777, 0o600, "{path}");
            }
        }
    }
}
