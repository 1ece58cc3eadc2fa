//! Tails in a strip, as readers see them: while it is written, after a crash, beside another writer's, and damaged.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use pitr_archive::{Access, Archive, Identities, SourceArchive, Store};
use pitr_core::{Classify, ErrorKind};
use pitr_testkit::toy::{Toy, ToyPosition};

mod segments;

use segments::{lineage, name, segment, tail_of};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/FORMAT.md");
const WORDS: [&str; 4] = ["one ", "two ", "three ", "four "];

async fn local(directory: &Path, access: Access) -> SourceArchive {
    let url = format!("file://{}", directory.join("archive").display());
    Archive::create(Store::open(&url, &BTreeMap::new()).unwrap(), access).await.unwrap().source("orders").unwrap()
}

fn strips_in(directory: &Path, orders: &SourceArchive) -> Vec<PathBuf> {
    let tails = directory.join("archive").join(orders.layout().segment_tails(&lineage(), &name(9)));
    let mut files: Vec<_> = std::fs::read_dir(tails).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.file_name().unwrap().to_string_lossy().starts_with("strip-"));
    files.sort();
    files
}

/// Writes the words as tails of segment 9, from the given offset of the segment on.
async fn write(orders: &SourceArchive, words: &[&str], mut from: usize) {
    let strips = orders.strips().unwrap();
    for (n, word) in (1..).zip(words) {
        strips.put(&tail_of(&segment(9), from as u64, word, n)).await.unwrap();
        from += word.len();
    }
}

async fn text(orders: &SourceArchive) -> String {
    let bytes = orders.segment(&lineage(), &name(9)).await.unwrap();
    String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap()
}

#[tokio::test]
async fn what_is_in_a_strip_reads_as_tails_at_once_and_ends_with_the_last_whole_one() {
    for encrypted in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let identities = Identities::from(age::x25519::Identity::generate());
        let access = if encrypted { Access::reader(identities) } else { Access::plain() };
        let orders = local(directory.path(), access).await;
        orders.put_lineage::<ToyPosition>(&lineage(), None, &Default::default()).await.unwrap();
        let strips = orders.strips().unwrap();
        let mut written = String::new();
        for (n, word) in (1..).zip(WORDS) {
            strips.put(&tail_of(&segment(9), written.len() as u64, word, n)).await.unwrap();
            written.push_str(word);
            // While its writer has it open.
            assert_eq!(text(&orders).await, written);
            let tails = orders.catalog::<Toy>().await.unwrap().tails;
            assert_eq!((tails.len(), tails[0].end.offset, tails[0].bytes), (1, 90 + n, written.len() as u64));
        }
        let [strip] = &strips_in(directory.path(), &orders)[..] else { panic!("not one strip") };
        let full = std::fs::metadata(strip).unwrap().len();
        drop(strips);
        assert!(std::fs::metadata(strip).unwrap().len() < full, "space that nobody will use is given back");
        // A crash in the middle of the last append.
        let mut bytes = std::fs::read(strip).unwrap();
        let sectors = bytes.len() / 512;
        bytes[(sectors - 1) * 512..].fill(0);
        std::fs::write(strip, &bytes).unwrap();
        assert_eq!(text(&orders).await, WORDS[..3].concat());
        let key = format!("{}/{}", orders.layout().segment_tails(&lineage(), &name(9)), file_name(strip));
        assert_eq!(orders.check_object(&key).await.unwrap(), Some(WORDS[..3].concat().len() as u64));
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[tokio::test]
async fn strips_of_several_writers_and_tails_beside_them_are_one_segment_unless_they_differ() {
    let directory = tempfile::tempdir().unwrap();
    let orders = local(directory.path(), Access::plain()).await;
    write(&orders, &WORDS[..2], 0).await;
    // A second start: from the begin again, in other pieces.
    write(&orders, &["one tw", "o thr"], 0).await;
    orders.put_tail(&tail_of(&segment(9), 8, "three four ", 6)).await.unwrap();
    assert_eq!(strips_in(directory.path(), &orders).len(), 2);
    assert_eq!(text(&orders).await, WORDS.concat());
    // Another server under the same name.
    write(&orders, &["FIVE and more than anybody else has"], 15).await;
    let error = orders.segment(&lineage(), &name(9)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Integrity && error.to_string().contains("two writers"), "{error}");
}

#[tokio::test]
async fn a_flipped_bit_anywhere_in_a_strip_is_named_or_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let orders = local(directory.path(), Access::plain()).await;
    write(&orders, &WORDS, 0).await;
    let [strip] = &strips_in(directory.path(), &orders)[..] else { panic!("not one strip") };
    let key = format!("{}/{}", orders.layout().segment_tails(&lineage(), &name(9)), file_name(strip));
    let whole = std::fs::read(strip).unwrap();
    let mut harmless = 0;
    for byte in (0..whole.len()).step_by(97) {
        let mut flipped = whole.clone();
        flipped[byte] ^= 1 << (byte % 8);
        std::fs::write(strip, &flipped).unwrap();
        match orders.check_object(&key).await {
            Err(error) => {
                assert!(
                    error.kind() == ErrorKind::Integrity && error.to_string().contains(&key),
                    "byte {byte}: {error}"
                );
                assert!(orders.segment(&lineage(), &name(9)).await.is_err(), "byte {byte} reaches a restore");
            }
            Ok(_) => {
                harmless += 1;
                assert_eq!(text(&orders).await, WORDS.concat(), "byte {byte}");
            }
        }
    }
    assert!(harmless * 2 < whole.len() / 97, "hardly anything is covered: {harmless}");
}

#[tokio::test]
async fn a_full_disk_costs_no_tail_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6M", "tmpfs"]).arg(directory.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("no file system can be mounted here: nothing was proved");
        return;
    }
    let orders = local(directory.path(), Access::plain()).await;
    let strips = orders.strips().unwrap();
    let (mut written, mut refused) = (Vec::new(), None);
    let word = "x".repeat(60_000);
    while refused.is_none() {
        assert!(written.len() < 6_000_000, "the disk never fills");
        match strips.put(&tail_of(&segment(9), written.len() as u64, &noise(written.len(), &word), 1)).await {
            Ok(_) => written.extend_from_slice(noise(written.len(), &word).as_bytes()),
            Err(error) => refused = Some(error),
        }
    }
    let found = orders.segment(&lineage(), &name(9)).await.unwrap().unwrap_or_default();
    assert!(Command::new("umount").arg(directory.path()).status().unwrap().success());
    assert!(written.len() > 1_000_000, "only {} bytes were acknowledged", written.len());
    assert!(found.starts_with(&written), "{} bytes are acknowledged, {} are there", written.len(), found.len());
    assert!(refused.unwrap().to_string().contains("s/orders/tail/"));
}

/// Text that does not compress to nothing, the same for the same place.
fn noise(place: usize, like: &str) -> String {
    let mut state = place as u64 + 1;
    let mut digit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b' ' + (state >> 58) as u8)
    };
    like.chars().map(|_| digit()).collect()
}

#[tokio::test]
async fn the_recipe_on_the_format_page_takes_the_objects_out_of_a_strip() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let section = page.split_once("### Take the tails out of a strip").unwrap().1;
    let script = section.split_once("```bash\n").unwrap().1.split_once("```").unwrap().0;
    let directory = tempfile::tempdir().unwrap();
    let orders = local(directory.path(), Access::plain()).await;
    write(&orders, &WORDS, 0).await;
    let [strip] = &strips_in(directory.path(), &orders)[..] else { panic!("not one strip") };
    let run = Command::new("bash").args(["-c", script, "recipe"]).arg(strip).arg(directory.path()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    // As they would lie beside the strip, so that everything reads them.
    for (from, to) in [(0, 4), (4, 8), (8, 14), (14, 19)] {
        let file = format!("{from:016x}-{to:016x}");
        std::fs::copy(directory.path().join(&file), strip.with_file_name(&file)).unwrap();
    }
    std::fs::remove_file(strip).unwrap();
    assert_eq!(text(&orders).await, WORDS.concat());
}
