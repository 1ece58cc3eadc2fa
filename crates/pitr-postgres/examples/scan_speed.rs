//! How fast WAL is checked and scanned: `cargo run --release --example scan_speed DIRECTORY`.
//!
//! Reads all segments of a directory into memory, then measures the check of `wal push` over them.

use std::time::Instant;

use pitr_postgres::push::check_file;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args().nth(1).ok_or("usage: scan_speed DIRECTORY")?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.len() == 24 {
            files.push((name, std::fs::read(entry.path())?));
        }
    }
    let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    for _ in 0..5 {
        let (begin, mut commits) = (Instant::now(), 0);
        for (name, bytes) in &files {
            let checked = check_file(name, bytes, None).inspect_err(|error| eprintln!("{name}: {error:?}"))?;
            commits += checked.slices.iter().map(|slice| slice.summary.commits.count).sum::<u64>();
        }
        let seconds = begin.elapsed().as_secs_f64();
        println!("{} files, {commits} commits, {:.0} MB/s", files.len(), bytes as f64 / 1e6 / seconds);
    }
    Ok(())
}
