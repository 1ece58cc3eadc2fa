//! Memory of a backup and a restore stays bounded, whatever the size.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use pitr_archive::base::{self, BaseOptions, BaseWriter};
use pitr_archive::{Access, Archive, Identities, Store};
use pitr_core::PortError;
use pitr_core::ports::{BaseReader, Chunking, PartInfo, PartKind, PartSink, PartTarget, PartWriter};
use pitr_testkit::toy::Toy;

mod base_support;

/// Bytes that pass through: several times the limit.
const BYTES: usize = 512 << 20;
/// The promise for the whole program, in KiB.
const LIMIT_KIB: u64 = 128 * 1024;

/// Takes everything and keeps nothing.
struct Nowhere;

impl PartTarget for Nowhere {
    fn begin(&self, _: &PartInfo, bytes: u64) -> Result<(), PortError> {
        assert_eq!(bytes, BYTES as u64);
        Ok(())
    }

    fn read_at(&self, _: &PartInfo, _: u64, _: usize) -> Result<Option<Vec<u8>>, PortError> {
        Ok(None)
    }

    fn write_at(&self, _: &PartInfo, _: u64, _: &[u8]) -> Result<(), PortError> {
        Ok(())
    }

    fn end(&self, _: &PartInfo) -> Result<(), PortError> {
        Ok(())
    }
}

/// A process of its own for each half: the measure is the peak of a whole process.
fn run(half: &str, directory: &std::path::Path) -> String {
    let program = std::env::current_exe().unwrap();
    let run = std::process::Command::new(program)
        .args(["--exact", half, "--ignored", "--nocapture"])
        .env("BASE_MEMORY_DIRECTORY", directory)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success(), "{output}");
    output
}

#[test]
fn a_part_far_larger_than_memory_passes_through() {
    let directory = tempfile::tempdir().unwrap();
    for half in ["backup", "restore"] {
        let output = run(half, directory.path());
        let peak = output.lines().find_map(|line| line.split_once("peak ")?.1.parse::<u64>().ok()).unwrap();
        println!("{half}: {peak} KiB");
        assert!(peak < LIMIT_KIB, "{half} took {peak} KiB");
    }
}

async fn archive() -> Archive {
    let directory = std::path::PathBuf::from(std::env::var_os("BASE_MEMORY_DIRECTORY").unwrap());
    let store = Store::open(&format!("file://{}", directory.display()), &BTreeMap::new()).unwrap();
    let file = directory.join("identity");
    if !file.exists() {
        let identity = age::x25519::Identity::generate().to_string();
        std::fs::write(&file, age::secrecy::ExposeSecret::expose_secret(&identity)).unwrap();
    }
    Archive::create(store, Access::reader(Identities::from_file(&file).unwrap())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test above, in a process of its own"]
async fn backup() {
    let archive = archive().await;
    let writer = BaseWriter::begin(archive.objects(), "shop", &BaseOptions::default()).await.unwrap();
    let info = PartInfo { path: "huge".into(), kind: PartKind::File(Chunking::Fixed), mode: None };
    let mut part = writer.open(info).await.unwrap();
    let mut stream = blake3::Hasher::new().finalize_xof();
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..BYTES / buffer.len() {
        stream.fill(&mut buffer);
        part.write(&buffer).await.unwrap();
    }
    part.finish().await.unwrap();
    let written = writer.commit(base_support::record()).await.unwrap();
    // Nothing of it compresses: all of it went through every buffer.
    assert!(written.base.stored >= BYTES as u64);
    println!("\npeak {}", peak_kib());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test above, in a process of its own"]
async fn restore() {
    let archive = archive().await;
    let bases = base::list::<Toy>(archive.objects(), "shop").await.unwrap();
    let source = archive.source("shop").unwrap();
    source.pour(&bases.first().unwrap().id, &|_| true, &Nowhere).await.unwrap();
    println!("\npeak {}", peak_kib());
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}
