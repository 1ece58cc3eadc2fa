//! Randomness that can be replayed.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// The seed of this run: `PITR_SEED`, else a new one. Printed, so that a failure can be replayed.
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("PITR_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    eprintln!("{test}: PITR_SEED={seed}");
    seed
}

/// A generator for one purpose; different purposes of one seed are independent.
pub fn generator(seed: u64, purpose: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ purpose.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}
