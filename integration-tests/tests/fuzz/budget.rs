//! How many inputs a decoder gets, and what is watched meanwhile.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use integration_tests::seed::{generator, seed};
use rand::rngs::StdRng;

/// Time for each decoder, unless the environment says otherwise.
const DEFAULT: Duration = Duration::from_secs(2);
/// One input that takes longer hangs.
const HANG: Duration = Duration::from_secs(30);
/// Most memory of the whole process, all decoders together, in bytes. What they reserve because their input says so
/// is limited to 32 MiB each.
const MEMORY: u64 = 512 << 20;

/// Gives one decoder input after input; `one` makes an input, decodes it, and tells whether it was accepted.
///
/// `PITR_FUZZ_ITERATIONS` or `PITR_FUZZ_SECONDS` set how many. The inputs depend on the seed alone.
pub fn fuzz(decoder: &str, mut one: impl FnMut(&mut StdRng) -> bool) {
    let seed = seed(decoder);
    let mut rng = generator(seed, 0);
    let (iterations, time) = limits();
    let done = Arc::new(AtomicU64::new(0));
    watch(decoder, seed, &done);
    let begun = Instant::now();
    let mut accepted = 0_u64;
    while done.load(Ordering::Relaxed) < iterations && begun.elapsed() < time {
        match catch_unwind(AssertUnwindSafe(|| one(&mut rng))) {
            Ok(yes) => accepted += u64::from(yes),
            Err(panic) => {
                eprintln!("{decoder}: PITR_SEED={seed} panics at input {}", done.load(Ordering::Relaxed) + 1);
                resume_unwind(panic);
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    let inputs = done.swap(u64::MAX, Ordering::Relaxed);
    eprintln!("{decoder}: {inputs} inputs, {accepted} accepted, {:.1} s", begun.elapsed().as_secs_f64());
    assert!(accepted < inputs, "{decoder} accepts everything: the inputs are not damaged");
    let peak = peak_memory();
    assert!(peak < MEMORY, "{decoder}: the process needed {} MiB", peak >> 20);
}

fn limits() -> (u64, Duration) {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse().expect("a number"));
    match (number("PITR_FUZZ_ITERATIONS"), number("PITR_FUZZ_SECONDS")) {
        (Some(iterations), _) => (iterations, Duration::MAX),
        (None, Some(seconds)) => (u64::MAX, Duration::from_secs(seconds)),
        (None, None) => (u64::MAX, DEFAULT),
    }
}

/// An endless loop cannot be caught, only told: ends the process when one input takes too long.
fn watch(decoder: &str, seed: u64, done: &Arc<AtomicU64>) {
    let (decoder, done) = (decoder.to_owned(), done.clone());
    std::thread::spawn(move || {
        let mut before = 0;
        loop {
            std::thread::sleep(HANG);
            match done.load(Ordering::Relaxed) {
                u64::MAX => return,
                now if now == before => {
                    eprintln!("{decoder}: PITR_SEED={seed} hangs at input {}", now + 1);
                    std::process::abort();
                }
                now => before = now,
            }
        }
    });
}

/// The most memory that this process ever had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let kib: u64 = line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number of KiB");
    kib << 10
}
