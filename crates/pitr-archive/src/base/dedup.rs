//! What is already in the archive: chunk id -> pack, in bounded memory.

use std::collections::HashMap;

use pitr_core::BaseId;

use super::chunk::ChunkId;
use super::limits::{KNOWN_CHUNKS, RECENT_CHUNKS};
use super::pack::{PackList, PackName};

/// Where a known chunk is: the place of a pack in [`Dedup`], not its number in the new base.
type Place = u32;

/// The chunks that need not be stored again, and the packs that hold them.
///
/// Filled with the packs of complete bases when a base begins, then with every chunk that the base adds. A
/// pack gets its number in the new base when a chunk of it is first referred to, so that a base lists
/// exactly the packs it needs.
#[derive(Debug)]
pub(crate) struct Dedup {
    known: Table,
    bases: Vec<BaseId>,
    places: Vec<Pack>,
    list: PackList,
}

#[derive(Debug)]
struct Pack {
    base: u32,
    sequence: u32,
    number: Option<u32>,
}

impl Dedup {
    /// Knows nothing; for the base that is about to be written.
    pub(crate) fn new() -> Self {
        Self::with_capacity(KNOWN_CHUNKS)
    }

    fn with_capacity(chunks: usize) -> Self {
        Self { known: Table::new(chunks), bases: Vec::new(), places: Vec::new(), list: PackList::default() }
    }

    /// Adds a pack, of an earlier base or the one that is being filled.
    pub(crate) fn add_pack(&mut self, name: &PackName) -> Place {
        let base = match self.bases.iter().rposition(|base| *base == name.base) {
            Some(base) => base,
            None => {
                self.bases.push(name.base.clone());
                self.bases.len() - 1
            }
        };
        self.places.push(Pack { base: base as u32, sequence: name.sequence, number: None });
        (self.places.len() - 1) as Place
    }

    /// Adds a chunk of a pack. Beyond the limit it is not remembered, and will be stored again.
    pub(crate) fn add_chunk(&mut self, id: ChunkId, place: Place) {
        self.known.insert(id, place);
    }

    /// True when no further chunk will be remembered.
    pub(crate) fn is_full(&self) -> bool {
        self.known.len() >= self.known.limit
    }

    /// Refers to a chunk: the number of its pack in the new base, or `None` if it must be stored.
    pub(crate) fn refer(&mut self, id: &ChunkId) -> Option<u32> {
        let place = self.known.get(id)?;
        Some(self.number(place))
    }

    /// The number of a pack in the new base.
    pub(crate) fn number(&mut self, place: Place) -> u32 {
        let Self { places, bases, list, .. } = self;
        // A place is only ever made by `add_pack`.
        let pack = &mut places[place as usize];
        *pack.number.get_or_insert_with(|| {
            let base = bases[pack.base as usize].clone();
            list.push(PackName { base, sequence: pack.sequence })
        })
    }

    /// The packs that the new base refers to.
    pub(crate) fn list(&self) -> &PackList {
        &self.list
    }
}

/// A map from id to place of 20 bytes an entry: a sorted array, and a small map of what came last.
#[derive(Debug)]
struct Table {
    sorted: Vec<Entry>,
    recent: HashMap<ChunkId, Place>,
    limit: usize,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Entry {
    id: [u8; ChunkId::LEN],
    place: [u8; 4],
}

impl Table {
    fn new(limit: usize) -> Self {
        Self { sorted: Vec::new(), recent: HashMap::new(), limit }
    }

    fn len(&self) -> usize {
        self.sorted.len() + self.recent.len()
    }

    fn get(&self, id: &ChunkId) -> Option<Place> {
        if let Some(place) = self.recent.get(id) {
            return Some(*place);
        }
        let at = self.sorted.binary_search_by(|entry| entry.id.cmp(id.bytes())).ok()?;
        self.sorted.get(at).map(|entry| Place::from_le_bytes(entry.place))
    }

    fn insert(&mut self, id: ChunkId, place: Place) {
        if self.len() >= self.limit || self.get(&id).is_some() {
            return;
        }
        self.recent.insert(id, place);
        if self.recent.len() >= RECENT_CHUNKS {
            self.merge();
        }
    }

    fn merge(&mut self) {
        // Grown exactly: doubling would overshoot the bound on memory.
        self.sorted.reserve_exact(self.recent.len());
        self.sorted
            .extend(self.recent.drain().map(|(id, place)| Entry { id: *id.bytes(), place: place.to_le_bytes() }));
        self.sorted.sort_unstable_by_key(|entry| entry.id);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn id(number: u64) -> ChunkId {
        ChunkId::from_digest(blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn name(base: &str, sequence: u32) -> PackName {
        PackName { base: BaseId::new(base).unwrap(), sequence }
    }

    #[test]
    fn chunks_are_found_before_and_after_they_are_merged() {
        let mut dedup = Dedup::new();
        let count = 3 * RECENT_CHUNKS as u64 + 17;
        let places: Vec<_> = (0..4).map(|sequence| dedup.add_pack(&name("old", sequence))).collect();
        for number in 0..count {
            dedup.add_chunk(id(number), places[(number % 4) as usize]);
        }
        for number in 0..count {
            assert_eq!(dedup.known.get(&id(number)), Some(places[(number % 4) as usize]));
        }
        assert_eq!(dedup.refer(&id(count)), None);
    }

    #[test]
    fn packs_are_numbered_when_they_are_first_referred_to() {
        let mut dedup = Dedup::new();
        for sequence in 0..3 {
            let place = dedup.add_pack(&name("old", sequence));
            dedup.add_chunk(id(u64::from(sequence)), place);
        }
        let new = dedup.add_pack(&name("new", 0));
        assert_eq!(dedup.refer(&id(2)), Some(0));
        assert_eq!(dedup.number(new), 1);
        assert_eq!(dedup.refer(&id(0)), Some(2));
        assert_eq!(dedup.refer(&id(2)), Some(0));
        let listed: Vec<_> = dedup.list().iter().map(|name| format!("{}/{}", name.base, name.sequence)).collect();
        assert_eq!(listed, ["old/2", "new/0", "old/0"]);
    }

    #[test]
    fn beyond_the_limit_chunks_are_forgotten_and_never_mistaken() {
        let mut dedup = Dedup::with_capacity(100);
        let place = dedup.add_pack(&name("old", 0));
        for number in 0..1_000 {
            dedup.add_chunk(id(number), place);
        }
        assert!(dedup.is_full());
        let found = (0..2_000).filter(|number| dedup.refer(&id(*number)).is_some()).count();
        assert_eq!(found, 100);
    }

    #[test]
    fn an_entry_takes_twenty_bytes() {
        assert_eq!(size_of::<Entry>(), 20);
    }
}
