//! Transactions that are not decided yet.

use std::collections::HashMap;

use crate::entry::{Entry, Session};
use crate::error::Result;
use crate::limits::TRANSACTION_MEMORY;
use crate::spill::{Pieces, Spill};

/// The entries of open transactions, by session. Bounded in memory; what is more waits in a temporary file.
#[derive(Debug)]
pub struct Transactions {
    open: HashMap<Vec<u8>, Open>,
    spill: Spill,
}

#[derive(Debug)]
struct Open {
    number: i64,
    pieces: Pieces,
}

impl Default for Transactions {
    fn default() -> Self {
        Self { open: HashMap::new(), spill: Spill::new(TRANSACTION_MEMORY) }
    }
}

impl Transactions {
    /// Keeps one more entry of a transaction. A session has one at a time: a new number ends the one before.
    pub fn add(&mut self, session: Session<'_>, entry: &Entry<'_>) -> Result<()> {
        let piece = self.spill.put(entry.raw.as_bytes())?;
        let (key, number) = session.key();
        let open = self.open.entry(key).or_insert_with(|| Open { number, pieces: Pieces::new() });
        if open.number != number {
            self.spill.discard(std::mem::take(&mut open.pieces));
            open.number = number;
        }
        open.pieces.push_back(piece);
        Ok(())
    }

    /// Forgets a transaction: it was aborted, or is in the base already.
    pub fn forget(&mut self, session: Session<'_>) {
        if let Some(open) = self.open.remove(&session.key().0) {
            self.spill.discard(open.pieces);
        }
    }

    /// Takes a transaction that commits now, as its entries in order. `None` if nothing of it was seen.
    pub fn take(&mut self, session: Session<'_>) -> Option<Pieces> {
        let (key, number) = session.key();
        let open = self.open.remove(&key)?;
        if open.number == number {
            return Some(open.pieces);
        }
        self.spill.discard(open.pieces);
        None
    }

    /// The bytes of one of its entries.
    pub fn read(&mut self, piece: crate::spill::Piece) -> Result<Vec<u8>> {
        self.spill.take(piece)
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }
}
