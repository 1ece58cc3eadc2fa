//! The contract of a store, as a suite that every store and every wrapper runs.
#![allow(clippy::expect_used, reason = "a suite of assertions")]

use std::ops::Range;

use bytes::Bytes;
use futures::future::join_all;
use pitr_archive::store::DESCRIPTOR;
use pitr_archive::{Created, Error, Store};

type Outcome = Result<(), Error>;

/// Writers that race for one name.
const RACERS: usize = 8;
/// Objects of one listing.
const LISTED: usize = 25;

/// Runs the whole suite below an empty root. Panics where the store breaks its contract; an error is a fault of
/// the store, passed on so that callers can tell the two apart.
///
/// May be run again after an error, under another `run` name, in the same store.
pub async fn store_contract(store: &Store, run: &str) -> Outcome {
    without_a_descriptor_nothing_is_absent(store, run).await?;
    store.create(DESCRIPTOR, Bytes::from_static(b"descriptor")).await?;
    let at = |name: &str| format!("s/{run}/{name}");
    a_created_object_reads_back(store, &at("read")).await?;
    nothing_is_overwritten(store, &at("once")).await?;
    of_racing_writers_one_wins(store, &at("race")).await?;
    absent_is_none(store, &at("absent")).await?;
    listings_are_complete_and_exact(store, &at("list")).await?;
    groups_are_the_names_one_level_below(store, &at("groups")).await?;
    deleting_twice_is_deleting_once(store, &at("delete")).await?;
    large_and_empty_objects_are_whole(store, &at("size")).await
}

async fn without_a_descriptor_nothing_is_absent(store: &Store, run: &str) -> Outcome {
    if store.has_archive().await? {
        // Another run was here before; what this step wants to see is over.
        return Ok(());
    }
    match store.get(&format!("s/{run}/none")).await {
        Err(Error::NoArchive { .. }) => {}
        Err(error) => return Err(error),
        Ok(found) => panic!("without an archive a read answered {found:?}"),
    }
    match store.list(&format!("s/{run}")).await {
        Err(Error::NoArchive { .. }) => {}
        Err(error) => return Err(error),
        Ok(found) => panic!("without an archive a listing answered {found:?}"),
    }
    assert_eq!(store.get(DESCRIPTOR).await?, None, "the descriptor itself is the one thing that may be absent");
    Ok(())
}

async fn a_created_object_reads_back(store: &Store, root: &str) -> Outcome {
    let key = format!("{root}/a-Z_0.9");
    let content = Bytes::from([&b"0123456789"[..]; 10_000].concat());
    store.create(&key, content.clone()).await?;
    assert_eq!(store.get(&key).await?.as_ref(), Some(&content));
    for range in [0..1, 0..100_000, 4_095..4_097, 99_999..100_000] {
        let Range { start, end } = range.clone();
        let expected = content.slice(start as usize..end as usize);
        assert_eq!(store.get_range(&key, range).await?, Some(expected), "bytes {start}..{end}");
    }
    for len in [1, 4_096, 100_000, 1_000_000] {
        let prefix = store.get_prefix(&key, len).await?.expect("it was just created");
        assert_eq!(prefix.bytes, content.slice(..(len as usize).min(content.len())), "first {len} bytes");
        assert_eq!(prefix.object_bytes, 100_000);
    }
    Ok(())
}

async fn nothing_is_overwritten(store: &Store, root: &str) -> Outcome {
    let key = format!("{root}/name");
    store.create(&key, Bytes::from_static(b"first")).await?;
    for other in ["second", "first", ""] {
        let created = store.create(&key, Bytes::from(other)).await?;
        assert_eq!(created, Created::Exists, "{other:?} over \"first\"");
        assert_eq!(store.get(&key).await?.as_deref(), Some(&b"first"[..]));
    }
    Ok(())
}

async fn of_racing_writers_one_wins(store: &Store, root: &str) -> Outcome {
    let key = format!("{root}/name");
    let content = |n: usize| Bytes::from(vec![n as u8; 50_000]);
    let race = (0..RACERS).map(|n| store.create(&key, content(n)));
    let mut winners = Vec::new();
    let mut fault = None;
    for (n, outcome) in join_all(race).await.into_iter().enumerate() {
        match outcome {
            Ok(Created::New) => winners.push(n),
            Ok(Created::Exists) => {}
            // A store may refuse one of two simultaneous writes; it did not win, and may not have lost either.
            Err(error) => fault = Some(error),
        }
    }
    if let Some(fault) = fault {
        return Err(fault);
    }
    let stored = store.get(&key).await?.expect("somebody won");
    assert!(winners.len() <= 1, "writers {winners:?} were all told that they created the object");
    // None at all where the winner's answer was lost and its repetition found the name taken.
    if let [winner] = winners.as_slice() {
        assert_eq!(stored, content(*winner), "the winner's bytes are not what is stored");
    }
    assert!((0..RACERS).any(|n| stored == content(n)), "the object is a mixture of two writers");
    Ok(())
}

async fn absent_is_none(store: &Store, root: &str) -> Outcome {
    let key = format!("{root}/none");
    assert_eq!(store.get(&key).await?, None);
    assert_eq!(store.get_range(&key, 0..1).await?, None);
    assert!(store.get_prefix(&key, 10).await?.is_none());
    assert_eq!(store.list(root).await?, []);
    assert_eq!(store.groups(root).await?, Vec::<String>::new());
    Ok(())
}

async fn listings_are_complete_and_exact(store: &Store, root: &str) -> Outcome {
    let mut expected = Vec::new();
    for n in 0..LISTED {
        let key = format!("{root}/inside/{:02}/{n:04}", n % 3);
        store.create(&key, Bytes::from(vec![0; n + 1])).await?;
        expected.push((key, n as u64 + 1));
    }
    // A name that only begins like the prefix is not below it.
    store.create(&format!("{root}/inside-not/0000"), Bytes::from_static(b"x")).await?;
    expected.sort();
    let listed = store.list(&format!("{root}/inside")).await?;
    assert_eq!(listed.into_iter().map(|entry| (entry.key, entry.bytes)).collect::<Vec<_>>(), expected);
    Ok(())
}

async fn groups_are_the_names_one_level_below(store: &Store, root: &str) -> Outcome {
    for key in ["b/1", "a/1", "a/2", "c.d/e/f/g", "leaf"] {
        store.create(&format!("{root}/{key}"), Bytes::from_static(b"x")).await?;
    }
    assert_eq!(store.groups(root).await?, ["a", "b", "c.d"]);
    Ok(())
}

async fn deleting_twice_is_deleting_once(store: &Store, root: &str) -> Outcome {
    let key = format!("{root}/gone");
    store.create(&key, Bytes::from_static(b"x")).await?;
    store.delete(&key).await?;
    assert_eq!(store.get(&key).await?, None);
    store.delete(&key).await?;
    assert_eq!(store.list(root).await?, []);
    Ok(())
}

async fn large_and_empty_objects_are_whole(store: &Store, root: &str) -> Outcome {
    let large = Bytes::from([&b"some of many bytes, "[..]; 50_000].concat());
    store.create(&format!("{root}/large"), large.clone()).await?;
    assert_eq!(store.get(&format!("{root}/large")).await?, Some(large));
    store.create(&format!("{root}/empty"), Bytes::new()).await?;
    assert_eq!(store.get(&format!("{root}/empty")).await?, Some(Bytes::new()));
    let prefix = store.get_prefix(&format!("{root}/empty"), 100).await?.expect("it was just created");
    assert_eq!((prefix.bytes.len(), prefix.object_bytes), (0, 0));
    Ok(())
}
