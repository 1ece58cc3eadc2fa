//! The recipe of the format page: stock tools give a segment back, without anything of ours.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::process::Command;

use pitr_archive::{Access, Archive, Identities, Store};

#[allow(dead_code, reason = "one segment is needed")]
mod segments;

const FORMAT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/FORMAT.md");
const HEADING: &str = "## Restore a segment without pitr";

/// The script under the heading, as it stands on the page.
fn recipe() -> String {
    let page = std::fs::read_to_string(FORMAT).unwrap();
    let section = page.split_once(HEADING).unwrap().1;
    let script = section.split_once("```bash\n").unwrap().1;
    script.split_once("```").unwrap().0.to_owned()
}

#[tokio::test]
async fn the_recipe_on_the_format_page_gives_a_segment_byte_for_byte() {
    for tool in ["age", "zstd"] {
        let found = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
        assert!(found, "this test needs {tool}: install the Debian package of that name");
    }
    for encrypted in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let identity = age::x25519::Identity::generate();
        let identity_file = directory.path().join("identity.txt");
        std::fs::write(&identity_file, age::secrecy::ExposeSecret::expose_secret(&identity.to_string())).unwrap();
        let access = if encrypted { Access::reader(Identities::from(identity)) } else { Access::plain() };
        let root = directory.path().join("archive");
        let store = Store::open(&format!("file://{}", root.display()), &BTreeMap::new()).unwrap();
        let source = Archive::create(store, access).await.unwrap().source("orders").unwrap();

        let mut segment = segments::segment(7);
        // More than one frame, and content that hardly compresses beside content that does.
        segment.bytes = (0..9_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect::<Vec<_>>().into();
        source.put_segment(&segment).await.unwrap();

        let object = root.join(source.layout().segment(&segment.lineage, &segment.name));
        let target = directory.path().join("segment");
        let run = Command::new("bash")
            .args(["-c", &recipe(), "recipe"])
            .args([&object, &target, &identity_file])
            .output()
            .unwrap();
        assert!(run.status.success(), "encrypted {encrypted}: {}", String::from_utf8_lossy(&run.stderr));
        assert_eq!(std::fs::read(&target).unwrap(), segment.bytes, "encrypted: {encrypted}");
    }
}
