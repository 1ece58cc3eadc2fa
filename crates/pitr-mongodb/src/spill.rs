//! Bytes that are kept in memory as long as they are few, and in an unnamed file beyond that.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::error::{Doing, Result};

/// Where a piece is.
#[derive(Debug)]
pub enum Piece {
    /// In memory.
    Memory(Vec<u8>),
    /// In the file, at this offset, of this length.
    File(u64, usize),
}

/// A store of pieces with a bound on what is in memory.
///
/// What was in the file is not used again until all of it has been taken back; then the file begins anew.
#[derive(Debug, Default)]
pub struct Spill {
    budget: usize,
    in_memory: usize,
    in_file: usize,
    end: u64,
    file: Option<File>,
}

impl Spill {
    /// Keeps up to `budget` bytes in memory.
    pub fn new(budget: usize) -> Self {
        Self { budget, ..Self::default() }
    }

    /// Puts a piece aside.
    pub fn put(&mut self, bytes: &[u8]) -> Result<Piece> {
        if self.in_memory + bytes.len() <= self.budget {
            self.in_memory += bytes.len();
            return Ok(Piece::Memory(bytes.to_vec()));
        }
        let doing = "writing to a temporary file";
        let at = self.end;
        let file = match self.file.take() {
            Some(file) => file,
            None => unnamed_file().doing("making a temporary file")?,
        };
        file.write_all_at(bytes, at).doing(doing)?;
        self.file = Some(file);
        self.end += bytes.len() as u64;
        self.in_file += 1;
        Ok(Piece::File(at, bytes.len()))
    }

    /// Takes a piece back.
    pub fn take(&mut self, piece: Piece) -> Result<Vec<u8>> {
        match piece {
            Piece::Memory(bytes) => {
                self.in_memory -= bytes.len();
                Ok(bytes)
            }
            Piece::File(at, length) => {
                let mut bytes = vec![0; length];
                if let Some(file) = &self.file {
                    file.read_exact_at(&mut bytes, at).doing("reading a temporary file")?;
                }
                self.forget_one();
                Ok(bytes)
            }
        }
    }

    /// Gives up on pieces that nobody needs any more.
    pub fn discard(&mut self, pieces: impl IntoIterator<Item = Piece>) {
        for piece in pieces {
            match piece {
                Piece::Memory(bytes) => self.in_memory -= bytes.len(),
                Piece::File(..) => self.forget_one(),
            }
        }
    }

    fn forget_one(&mut self) {
        self.in_file -= 1;
        if self.in_file == 0 {
            self.end = 0;
        }
    }
}

/// A file that is gone with its handle, whatever happens to us.
fn unnamed_file() -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let dir = std::env::temp_dir();
    match rustix::fs::open(&dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(File::from(file)),
        Err(error) => Err(error.into()),
    }
}

/// Pieces in the order in which they came.
pub type Pieces = VecDeque<Piece>;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_taken_from_memory_and_from_the_file() {
        let mut spill = Spill::new(10);
        for _ in 0..3 {
            let pieces: Vec<_> = (0..5_u8).map(|n| spill.put(&[n; 4]).unwrap()).collect();
            assert_eq!(pieces.iter().filter(|piece| matches!(piece, Piece::Memory(_))).count(), 2);
            for (n, piece) in (0..5_u8).zip(pieces) {
                assert_eq!(spill.take(piece).unwrap(), [n; 4]);
            }
            assert_eq!((spill.in_memory, spill.in_file, spill.end), (0, 0, 0));
        }
        let pieces: Vec<_> = (0..5_u8).map(|n| spill.put(&[n; 4]).unwrap()).collect();
        spill.discard(pieces);
        assert_eq!((spill.in_memory, spill.in_file), (0, 0));
    }
}
