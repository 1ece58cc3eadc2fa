//! Bases through the archive: taken, deduplicated, resumed, damaged.
#![allow(clippy::unwrap_used)]

mod base_support;

use base_support::*;
use pitr_archive::base::{self, BaseOptions, BaseWriter};
use pitr_archive::{Access, Archive};
use pitr_core::ports::{BaseReader, Chunking, PartSink, PartWriter};
use pitr_core::{Classify, ErrorKind};
use pitr_testkit::toy::Toy;
use proptest::prelude::*;

/// A tree like a small database: an empty file, small ones, copies, one of several chunks, a dump.
fn sample() -> Tree {
    let pages = [noise(CHUNK, 1), vec![0; 2 * CHUNK], noise(CHUNK / 2, 2)].concat();
    Tree::from([
        ("base".to_owned(), None),
        ("base/1".to_owned(), None),
        file("base/1/112", noise(8_192, 3)),
        file("base/1/113", Vec::new()),
        file("base/4/112", noise(8_192, 3)),
        file("base/5/2619", pages),
        ("dump.sql".to_owned(), Some((Chunking::Content, noise(5_000_000, 4)))),
        file("global/pg_control", noise(8_192, 5)),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_comes_back_as_it_was_taken() {
    for encrypted in [false, true] {
        let lab = Lab::new(encrypted).await;
        let tree = sample();
        let written = lab.take(&tree).await;
        assert_eq!(lab.pour(&written).await.unwrap(), tree);
        assert_eq!(written.parts, tree.len() as u64);
        let bytes: usize = tree.values().flatten().map(|(_, content)| content.len()).sum();
        assert_eq!(written.base.bytes, bytes as u64);
        // The copy of a file, and the second half of the zeros.
        assert_eq!(written.reused, (8_192 + CHUNK) as u64);
        assert!(base::verify(&lab.source, &written.base.id).await.unwrap().is_sound());
    }
}

// A runtime with one thread delivers, too, only without overlap.
#[tokio::test]
async fn a_base_comes_back_on_a_single_thread() {
    let lab = Lab::new(true).await;
    let tree = sample();
    let written = lab.take(&tree).await;
    assert_eq!(lab.pour(&written).await.unwrap(), tree);
}

#[tokio::test]
async fn the_catalog_shows_what_the_engine_said() {
    let lab = Lab::new(true).await;
    let written = lab.take(&sample()).await;
    let bases = base::list::<Toy>(lab.archive.objects(), "shop").await.unwrap();
    assert_eq!(bases, [written.base]);
    let base = &bases[0];
    let expected = record();
    assert_eq!((base.start, base.consistent, base.taken), (expected.start, expected.consistent, expected.taken));
    assert_eq!((&base.lineage, &base.facts), (&expected.lineage, &expected.facts));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_may_be_open_at_the_same_time() {
    let lab = Lab::new(false).await;
    let tree: Tree = (0..12).map(|n| file(&format!("f{n}"), noise(CHUNK * 2 + n * 10_000, n as u64 / 2))).collect();
    let writer = lab.begin().await;
    let tasks = tree.iter().enumerate().map(|(n, (path, entry))| add(&writer, path, entry, 50_000 + n * 7_000));
    for outcome in futures::future::join_all(tasks).await {
        outcome.unwrap();
    }
    let written = writer.commit(record()).await.unwrap();
    assert_eq!(lab.pour(&written).await.unwrap(), tree);
}

#[tokio::test]
async fn a_second_base_of_unchanged_content_stores_next_to_nothing() {
    let lab = Lab::new(false).await;
    let tree = sample();
    let first = lab.take(&tree).await;
    let second = lab.take(&tree).await;
    assert_eq!(second.reused, second.base.bytes);
    assert!(second.base.stored * 100 < first.base.stored, "{} of {}", second.base.stored, first.base.stored);
    assert_eq!(lab.pour(&second).await.unwrap(), tree);
    // Without reuse only what the base itself repeats is found.
    let reuse = BaseOptions { reuse: 0, ..BaseOptions::default() };
    let writer = BaseWriter::begin(lab.archive.objects(), "shop", &reuse).await.unwrap();
    add(&writer, "all", &tree["base/5/2619"], 100_000).await.unwrap();
    assert_eq!(writer.commit(record()).await.unwrap().reused, CHUNK as u64);
}

#[tokio::test]
async fn a_writer_without_identity_reuses_packs() {
    let lab = Lab::new(true).await;
    lab.take(&sample()).await;
    let keys = lab.archive.keys();
    let access = Access::writer(keys.encryption.clone(), keys.digest_key.clone());
    let blind = Archive::open(lab.archive.store().clone(), access).await.unwrap();
    let writer = BaseWriter::begin(blind.objects(), "shop", &BaseOptions::default()).await.unwrap();
    for (path, entry) in &sample() {
        add(&writer, path, entry, 65_536).await.unwrap();
    }
    let second = writer.commit(record()).await.unwrap();
    assert_eq!(second.reused, second.base.bytes);
    assert_eq!(lab.pour(&second).await.unwrap(), sample());
    let refused = blind.source("shop").unwrap().small_part(&second.base.id, "dump.sql").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_changed_page_stores_one_chunk() {
    let lab = Lab::new(false).await;
    let mut tree = Tree::from([file("base/5/2619", noise(8 * CHUNK, 1))]);
    lab.take(&tree).await;
    if let Some((_, content)) = tree.get_mut("base/5/2619").unwrap() {
        content[3 * CHUNK + 8_192..3 * CHUNK + 16_384].fill(1);
    }
    let second = lab.take(&tree).await;
    assert_eq!(second.base.bytes - second.reused, CHUNK as u64);
    assert!(second.base.stored < CHUNK as u64 + 10_000, "{}", second.base.stored);
    assert_eq!(lab.pour(&second).await.unwrap(), tree);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_pour_fetches_only_what_differs() {
    let lab = Lab::new(true).await;
    // Three packs of 8 MiB.
    let tree: Tree = (0..6).map(|n| file(&format!("f{n}"), noise(8 * CHUNK, n))).collect();
    let written = lab.take(&tree).await;
    lab.store.packs_read();
    assert_eq!(lab.pour(&written).await.unwrap(), tree);
    assert_eq!(lab.store.packs_read(), 3);

    let mut remains = tree.clone();
    remains.get_mut("f5").unwrap().as_mut().unwrap().1.truncate(7 * CHUNK);
    remains.get_mut("f4").unwrap().as_mut().unwrap().1[5 * CHUNK] ^= 1;
    let target = MemoryTarget::with_remains(&remains);
    lab.source.pour(&written.base.id, &|_| true, &target).await.unwrap();
    assert_eq!(target.writes(), 2);
    assert_eq!(target.finished(), tree);
    assert_eq!(lab.store.packs_read(), 1);

    let whole = MemoryTarget::with_remains(&tree);
    lab.source.pour(&written.base.id, &|_| true, &whole).await.unwrap();
    assert_eq!((whole.writes(), lab.store.packs_read()), (0, 0));
}

#[tokio::test]
async fn only_wanted_parts_are_poured() {
    let lab = Lab::new(false).await;
    let written = lab.take(&sample()).await;
    let target = MemoryTarget::default();
    lab.source.pour(&written.base.id, &|part| part.path.ends_with("/112"), &target).await.unwrap();
    assert_eq!(target.finished().into_keys().collect::<Vec<_>>(), ["base/1/112", "base/4/112"]);
}

#[tokio::test]
async fn a_small_part_is_read_alone() {
    let lab = Lab::new(true).await;
    let written = lab.take(&sample()).await;
    let read = async |path| lab.source.small_part(&written.base.id, path).await.unwrap();
    assert_eq!(read("global/pg_control").await.unwrap(), noise(8_192, 5));
    assert_eq!(read("dump.sql").await.unwrap(), noise(5_000_000, 4));
    assert_eq!(read("base/1/113").await.unwrap(), "");
    assert_eq!(read("base/1").await, None);
    assert_eq!(read("nowhere").await, None);
}

#[tokio::test]
async fn an_interrupted_base_is_invisible() {
    let lab = Lab::new(false).await;
    let writer = lab.begin().await;
    let id = writer.id().clone();
    let content = Some((Chunking::Fixed, noise(20 * CHUNK, 1)));
    add(&writer, "big", &content, 100_000).await.unwrap();
    drop(writer);
    assert!(base::list::<Toy>(lab.archive.objects(), "shop").await.unwrap().is_empty());
    let target = MemoryTarget::default();
    let error = lab.source.pour(&id, &|_| true, &target).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Absent);
    // What it stored is not trusted either: it may be swept at any time.
    let next = lab.take(&Tree::from([("big".to_owned(), content)])).await;
    assert_eq!(next.reused, 0);
}

#[tokio::test]
async fn a_base_with_an_unfinished_part_cannot_be_committed() {
    let lab = Lab::new(false).await;
    let writer = lab.begin().await;
    let entry = Some((Chunking::Fixed, vec![1]));
    let mut part = writer.open(info("half", &entry)).await.unwrap();
    part.write(b"the first half").await.unwrap();
    drop(part);
    let error = writer.commit(record()).await.unwrap_err();
    assert!(error.to_string().contains("1 of 1 parts"), "{error}");
    assert!(base::list::<Toy>(lab.archive.objects(), "shop").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_path_that_leaves_the_directory_spoils_the_base() {
    let lab = Lab::new(false).await;
    for path in ["../etc/passwd", "/etc/passwd", "a/../../b", "", "a//b", "a/./b", "nul\0"] {
        let writer = lab.begin().await;
        add(&writer, path, &None, 1).await.unwrap_err();
        writer.commit(record()).await.unwrap_err();
    }
}

#[tokio::test]
async fn more_open_files_than_the_limit_are_an_error_and_not_a_deadlock() {
    let lab = Lab::new(false).await;
    let writer = lab.begin().await;
    let entry = Some((Chunking::Fixed, vec![1]));
    let mut parts = Vec::new();
    let error = loop {
        match writer.open(info(&format!("f{}", parts.len()), &entry)).await {
            Ok(part) => parts.push(part),
            Err(error) => break error,
        }
    };
    assert!(parts.len() >= 8 && error.to_string().contains("open at the same time"), "{error}");
}

#[tokio::test]
async fn a_part_of_very_many_chunks_goes_on_over_several_lines() {
    let lab = Lab::new(true).await;
    // Zeros make one chunk that is referred to 2,500 times.
    let tree = Tree::from([file("huge", vec![0; 2_500 * CHUNK]), file("small", noise(10, 1))]);
    let written = lab.take(&tree).await;
    assert_eq!(written.chunks, 2_501);
    assert!(written.base.stored < 100_000, "{}", written.base.stored);
    assert!(lab.pour(&written).await.unwrap() == tree);
}

fn trees() -> impl Strategy<Value = Tree> {
    let content = (0_usize..1_500_000, 0_u64..4, any::<bool>()).prop_map(|(len, seed, content)| {
        let chunking = if content { Chunking::Content } else { Chunking::Fixed };
        Some((chunking, noise(len / 3, seed).repeat(3)))
    });
    let small = (0_usize..20_000, 0_u64..4).prop_map(|(len, seed)| Some((Chunking::Fixed, noise(len, seed))));
    let entry = prop_oneof![4 => small, 2 => content, 1 => Just(None)];
    proptest::collection::btree_map("[a-c]{1,2}(/[a-z0-9 ]{1,6}){0,2}", entry, 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn random_trees_come_back(first in trees(), second in trees(), encrypted: bool) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let lab = Lab::new(encrypted).await;
            for tree in [&first, &second] {
                let written = lab.take(tree).await;
                prop_assert!(lab.pour(&written).await.unwrap() == *tree);
                let check = base::verify(&lab.source, &written.base.id).await.unwrap();
                prop_assert_eq!((check.is_sound(), check.parts, check.bytes), (true, written.parts, written.base.bytes));
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_base_of_nothing_is_a_base() {
    let lab = Lab::new(true).await;
    let written = lab.take(&Tree::new()).await;
    assert_eq!((written.parts, written.base.bytes), (0, 0));
    assert_eq!(lab.pour(&written).await.unwrap(), Tree::new());
    assert!(base::verify(&lab.source, &written.base.id).await.unwrap().is_sound());
}
