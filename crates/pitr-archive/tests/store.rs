//! Every store, and every store behind a faulty one, keeps the contract of `Store`. Real servers are in
//! `integration-tests/tests/stores.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::prefix::PrefixStore;
use pitr_archive::{Error, Retry, Store};
use pitr_core::{Classify, ErrorKind};
use pitr_testkit::faulty_store::{Faults, FaultyStore, Moment};
use pitr_testkit::store_contract::store_contract;

/// Repeats quickly, for faults that pass at once.
const PATIENT: Retry = Retry {
    first_pause: Duration::from_micros(200),
    max_pause: Duration::from_millis(2),
    deadline: Duration::from_secs(20),
};
/// Never repeats: the first pause would be longer than the deadline.
const IMPATIENT: Retry = Retry { first_pause: YEARS, max_pause: YEARS, deadline: Duration::from_secs(20) };
const YEARS: Duration = Duration::from_secs(1_000_000_000);

fn local(directory: &Path) -> Store {
    Store::open(&format!("file://{}", directory.display()), &BTreeMap::new()).unwrap()
}

/// The raw object store below a fresh `Store`, so that it can be wrapped.
fn raw(store: &Store) -> Arc<dyn ObjectStore> {
    store.object_store()
}

/// Calls that one run of the suite makes.
async fn calls_of_a_run(inner: Arc<dyn ObjectStore>) -> u64 {
    let counting = Arc::new(FaultyStore::new(inner, Faults::Random { rate: -1.0, seed: 0 }));
    store_contract(&Store::from_object_store(counting.clone()), "count").await.unwrap();
    counting.calls()
}

/// One passing fault at every step-th call, before and after its effect: repeated, nothing is noticed; not
/// repeated, it is reported as what it is, and a later run succeeds.
async fn survives_each_single_fault(fresh: impl Fn() -> Arc<dyn ObjectStore>, step: usize) {
    let calls = calls_of_a_run(fresh()).await;
    assert!(calls > 50, "the suite makes only {calls} calls");
    for moment in [Moment::BeforeEffect, Moment::AfterEffect] {
        for call in (1..=calls).step_by(step) {
            let once = Arc::new(FaultyStore::new(fresh(), Faults::Once(call, moment)));
            let patient = Store::from_object_store(once).with_retry(PATIENT);
            store_contract(&patient, "patient").await.unwrap_or_else(|e| panic!("call {call} {moment:?}: {e}"));

            let inner = fresh();
            let once = Arc::new(FaultyStore::new(inner.clone(), Faults::Once(call, moment)));
            let impatient = Store::from_object_store(once).with_retry(IMPATIENT);
            if let Err(error) = store_contract(&impatient, "impatient").await {
                assert_eq!(error.kind(), ErrorKind::Unreachable, "call {call} {moment:?}: {error}");
            }
            let later = Store::from_object_store(inner);
            store_contract(&later, "later").await.unwrap_or_else(|e| panic!("after call {call} {moment:?}: {e}"));
        }
    }
}

async fn survives_random_faults(fresh: impl Fn() -> Arc<dyn ObjectStore>, seeds: u64) {
    for seed in 0..seeds {
        for rate in [0.01, 0.1, 0.5] {
            let faulty = Arc::new(FaultyStore::new(fresh(), Faults::Random { rate, seed }));
            let store = Store::from_object_store(faulty).with_retry(PATIENT);
            store_contract(&store, "random").await.unwrap_or_else(|e| panic!("rate {rate} seed {seed}: {e}"));
        }
    }
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    store_contract(&Store::memory(), "memory").await.unwrap();
}

#[tokio::test]
async fn memory_keeps_the_contract_behind_every_single_fault() {
    survives_each_single_fault(|| Arc::new(InMemory::new()), 1).await;
}

#[tokio::test]
async fn memory_keeps_the_contract_behind_random_faults() {
    survives_random_faults(|| Arc::new(InMemory::new()), 5).await;
}

#[tokio::test]
async fn a_directory_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    // The name has what a URL would encode, and does not exist yet.
    let root = directory.path().join("new/with space, ümlaut & 100%");
    let url = url::Url::from_directory_path(&root).unwrap();
    let store = Store::open(url.as_str(), &BTreeMap::new()).unwrap();
    store_contract(&store, "directory").await.unwrap();
    assert!(root.join("archive").is_file(), "objects lie below the directory that the URL names");
}

#[tokio::test]
async fn a_directory_keeps_the_contract_behind_single_faults() {
    let directory = tempfile::tempdir().unwrap();
    let fresh = || {
        let root = directory.path().join(rand::random::<u64>().to_string());
        std::fs::create_dir(&root).unwrap();
        let path = object_store::path::Path::from_absolute_path(&root).unwrap();
        Arc::new(PrefixStore::new(raw(&local(&root)), path)) as Arc<dyn ObjectStore>
    };
    survives_each_single_fault(&fresh, 41).await;
    survives_random_faults(&fresh, 1).await;
}

#[tokio::test]
async fn a_store_that_went_away_is_unreachable_and_never_absent() {
    let calls = calls_of_a_run(Arc::new(InMemory::new())).await;
    let quick = Retry { deadline: Duration::from_millis(5), ..PATIENT };
    for moment in [Moment::BeforeEffect, Moment::AfterEffect] {
        for call in 1..=calls {
            let gone = FaultyStore::new(Arc::new(InMemory::new()), Faults::From(call, moment));
            let store = Store::from_object_store(Arc::new(gone)).with_retry(quick);
            let error = store_contract(&store, "gone").await.expect_err("the store went away");
            assert_eq!(error.kind(), ErrorKind::Unreachable, "call {call} {moment:?}: {error}");
        }
    }
}

#[tokio::test]
async fn a_directory_that_vanishes_is_no_archive_rather_than_an_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("archive");
    store_contract(&local(&root), "before").await.unwrap();
    std::fs::rename(&root, directory.path().join("elsewhere")).unwrap();
    for root in [root.clone(), directory.path().join("never")] {
        let store = local(&root);
        assert!(matches!(store.get("s/x/log/a").await, Err(Error::NoArchive { .. })));
        assert!(matches!(store.list("s/x/log").await, Err(Error::NoArchive { .. })));
        assert!(matches!(store.groups("s/x/log").await, Err(Error::NoArchive { .. })));
        assert!(!root.exists(), "reading made a directory");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn objects_in_a_directory_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("archive");
    local(&root).create("s/a/b/c", bytes::Bytes::from_static(b"x")).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for path in ["", "s", "s/a", "s/a/b"] {
        assert_eq!(mode(&root.join(path)), 0o700, "directory {path:?}");
    }
    assert_eq!(mode(&root.join("s/a/b/c")), 0o600);
    let left: Vec<_> = std::fs::read_dir(root.join("s/a/b")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["c"], "no temporary file stays behind");
}

#[tokio::test]
async fn what_a_killed_writer_left_is_in_no_listing() {
    let directory = tempfile::tempdir().unwrap();
    let store = local(directory.path());
    store.create("archive", bytes::Bytes::new()).await.unwrap();
    store.create("s/a/done", bytes::Bytes::new()).await.unwrap();
    std::fs::write(directory.path().join("s/a/half#1234567"), b"half").unwrap();
    let keys: Vec<_> = store.list("s").await.unwrap().into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["s/a/done"]);
}

#[tokio::test]
async fn a_server_that_refuses_the_connection_is_unreachable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = s3_at(&endpoint).get("s/a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
}

#[tokio::test]
async fn every_answer_of_a_server_keeps_its_kind() {
    for (status, kind) in [
        (401, ErrorKind::Denied),
        (403, ErrorKind::Denied),
        (404, ErrorKind::Absent),
        (400, ErrorKind::Failed),
        (408, ErrorKind::Unreachable),
        (429, ErrorKind::Unreachable),
        (500, ErrorKind::Unreachable),
        (503, ErrorKind::Unreachable),
    ] {
        let endpoint = answering(status);
        let error = s3_at(&endpoint).get("s/a").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error:?}");
        if status == 404 {
            assert!(matches!(error, Error::NoArchive { .. }), "{error:?}");
        }
    }
}

fn s3_at(endpoint: &str) -> Store {
    let options = [
        ("endpoint", endpoint),
        ("allow_http", "true"),
        ("region", "us-east-1"),
        ("access_key_id", "test"),
        ("secret_access_key", "test"),
    ];
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let quick = Retry { deadline: Duration::from_millis(300), ..PATIENT };
    Store::open("s3://bucket/prefix", &options).unwrap().with_retry(quick)
}

/// A server that gives every request the same answer.
fn answering(status: u16) -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((mut connection, _)) = listener.accept() {
            let mut request = [0; 4096];
            // The test ends when it has its answer, whatever becomes of this thread.
            let _ = connection.read(&mut request);
            let answer = format!("HTTP/1.1 {status} Test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = connection.write_all(answer.as_bytes());
        }
    });
    endpoint
}

#[test]
fn a_url_or_option_that_means_nothing_is_refused() {
    let none = BTreeMap::new();
    let some = BTreeMap::from([("reigon".to_owned(), "x".to_owned())]);
    for (url, options) in [
        ("ftp://host/x", &none),
        ("file:relative", &none),
        ("not a url", &none),
        ("s3://user:password@bucket/x", &none),
        ("s3://bucket/x", &some),
        ("file:///tmp/x", &some),
    ] {
        let error = Store::open(url, options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{url}: {error}");
        assert!(!error.to_string().contains("password"), "{error}");
    }
}
