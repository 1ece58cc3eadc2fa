//! Damage: from a piece of real input to one that is almost real.

use rand::RngExt;
use rand::rngs::StdRng;

/// Numbers at which lengths and counters go wrong.
const NUMBERS: [u64; 14] = [
    0,
    1,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x7FFF_FFFF_FFFF_FFFF,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Text that means something to one parser or another.
const WORDS: [&str; 16] = [
    "\0",
    "\n",
    "\r\n",
    " ",
    "/",
    ":",
    "..",
    "%",
    "\"",
    "{",
    "ago",
    "99999999999999999999",
    "-1",
    "FFFFFFFF",
    "é",
    "T24",
];

/// Damages `bytes` in one to four places; `other` is what splices come from.
pub fn mutate(bytes: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..=4) {
        once(bytes, other, rng);
    }
}

fn once(bytes: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
    let at = rng.random_range(0..=bytes.len());
    match rng.random_range(0..10) {
        0..3 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        3 if at < bytes.len() => bytes[at] = rng.random(),
        4 => bytes.truncate(at),
        5 => overwrite(bytes, at, &number(rng)),
        6 => insert(bytes, at, WORDS[rng.random_range(0..WORDS.len())].as_bytes()),
        7 => {
            let piece = piece(other, rng).to_vec();
            insert(bytes, at, &piece);
        }
        8 => {
            let piece = piece(other, rng).to_vec();
            overwrite(bytes, at, &piece);
        }
        _ => {
            let length = piece(&bytes[at..], rng).len();
            bytes.drain(at..at + length);
        }
    }
}

/// One of the numbers, of any width and byte order.
fn number(rng: &mut StdRng) -> Vec<u8> {
    let number = NUMBERS[rng.random_range(0..NUMBERS.len())];
    let width = 1 << rng.random_range(0..4);
    match rng.random_bool(0.5) {
        true => number.to_le_bytes()[..width].to_vec(),
        false => number.to_be_bytes()[8 - width..].to_vec(),
    }
}

/// Mostly short, sometimes long.
fn piece<'a>(from: &'a [u8], rng: &mut StdRng) -> &'a [u8] {
    let from = &from[rng.random_range(0..=from.len())..];
    let most = if rng.random_bool(0.8) { from.len().min(64) } else { from.len() };
    &from[..rng.random_range(0..=most)]
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    bytes.splice(at..at, piece.iter().copied());
}

fn overwrite(bytes: &mut [u8], at: usize, piece: &[u8]) {
    for (to, from) in bytes[at..].iter_mut().zip(piece) {
        *to = *from;
    }
}
