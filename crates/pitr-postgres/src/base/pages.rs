//! Page checksums of relation files: which page of which file is damaged.
//!
//! The server checks the same pages while it sends them, reads a page again that it caught half-written, and so
//! has the last word on whether there is damage. Its warnings are few per file and in its own language; what is
//! found here gives every page by file and block number.

use crate::Lsn;
use crate::limits::RELATION_PAGE;

/// Lanes of the checksum: columns of 32-bit words of a page that are mixed independently.
const LANES: usize = 32;
const FNV_PRIME: u32 = 16_777_619;
/// Where each lane starts, fixed by the on-disk format (`storage/checksum_impl.h`).
const LANE_SEEDS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// The checksum of a page at a block number of its relation, as the server stores it: never 0.
pub fn page_checksum(page: &[u8; RELATION_PAGE], block: u32) -> u16 {
    const STORED_CHECKSUM: std::ops::Range<usize> = 8..10;
    let mut lanes = LANE_SEEDS;
    let mut mix_row = |row: &[u8]| {
        for (lane, word) in lanes.iter_mut().zip(row.as_chunks::<4>().0) {
            *lane = mix(*lane, u32::from_le_bytes(*word));
        }
    };
    let (rows, _) = page.as_chunks::<{ LANES * 4 }>();
    for (number, row) in rows.iter().enumerate() {
        if number == 0 {
            // The checksum is computed with its own field as zero.
            let mut first = *row;
            first.get_mut(STORED_CHECKSUM).unwrap_or_default().fill(0);
            mix_row(&first);
        } else {
            mix_row(row);
        }
    }
    // Two more rounds of zeros, so that the last words are mixed as well as the first.
    mix_row(&[0; LANES * 4]);
    mix_row(&[0; LANES * 4]);
    let folded = lanes.iter().fold(block, |sum, lane| sum ^ lane);
    // At most 65535, so it fits.
    (folded % 65_535 + 1) as u16
}

fn mix(lane: u32, value: u32) -> u32 {
    let mixed = lane ^ value;
    mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17)
}

/// False if the page says that it was last changed before `start`, and its checksum is wrong.
///
/// A page changed since may have been read half-written; the log replaces it during recovery. A page that was
/// never used has no checksum.
fn is_plausible(page: &[u8; RELATION_PAGE], block: u32, start: Lsn) -> bool {
    let [l0, l1, l2, l3, l4, l5, l6, l7, c0, c1, _, _, _, _, u0, u1, ..] = *page;
    let high = u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
    let changed = Lsn(high << 32 | u64::from(u32::from_le_bytes([l4, l5, l6, l7])));
    let is_new = u16::from_le_bytes([u0, u1]) == 0;
    is_new || changed >= start || u16::from_le_bytes([c0, c1]) == page_checksum(page, block)
}

/// Follows one relation file and notes the blocks that are damaged.
#[derive(Debug)]
pub struct PageCheck {
    /// A page that was cut by the end of the last bytes.
    partial: Vec<u8>,
    block: u32,
    start: Lsn,
    damaged: Vec<u32>,
}

impl PageCheck {
    /// A check for the file at `path`; `None` if it holds no pages with checksums.
    ///
    /// `file_pages` is the number of pages after which the server begins a new file of the same relation.
    pub fn of_file(path: &str, start: Lsn, file_pages: u32) -> Option<Self> {
        let part = relation_part(path)?;
        let block = part.checked_mul(file_pages)?;
        Some(Self { partial: Vec::new(), block, start, damaged: Vec::new() })
    }

    /// The next bytes of the file.
    pub fn push(&mut self, mut bytes: &[u8]) {
        if !self.partial.is_empty() {
            let missing = RELATION_PAGE - self.partial.len();
            let (head, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
            self.partial.extend_from_slice(head);
            bytes = rest;
            let partial = std::mem::take(&mut self.partial);
            match partial.first_chunk() {
                Some(page) => self.check(page),
                None => self.partial = partial,
            }
        }
        let (pages, rest) = bytes.as_chunks();
        for page in pages {
            self.check(page);
        }
        self.partial.extend_from_slice(rest);
    }

    /// Block numbers, within the relation, of the damaged pages.
    pub fn finish(self) -> Vec<u32> {
        self.damaged
    }

    fn check(&mut self, page: &[u8; RELATION_PAGE]) {
        if !is_plausible(page, self.block, self.start) {
            self.damaged.push(self.block);
        }
        self.block = self.block.wrapping_add(1);
    }
}

/// Number of the file within its relation, from names such as `16384`, `16384.1`, `16384_fsm`, `16384_vm.2`.
fn relation_part(path: &str) -> Option<u32> {
    let mut parts = path.split('/');
    let name = parts.next_back()?;
    let in_place = match parts.next()? {
        "global" => parts.next().is_none(),
        "base" => true,
        // The directory of a tablespace for this catalog version: PG_15_202209061.
        version => version.starts_with("PG_") || version == "pg_tblspc",
    };
    let (relation, part) = name.split_once('.').unwrap_or((name, "0"));
    let (number, fork) = relation.split_once('_').unwrap_or((relation, "main"));
    let known = matches!(fork, "main" | "fsm" | "vm" | "init");
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (in_place && known && digits(number) && digits(part)).then(|| part.parse().ok()).flatten()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn page(fill: u8, block: u32) -> [u8; RELATION_PAGE] {
        let mut page = [fill; RELATION_PAGE];
        page[..8].fill(0);
        let sum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn a_flipped_bit_is_found_in_whatever_pieces_the_file_arrives() {
        let mut bytes = [page(1, 262_144), page(2, 262_145), page(3, 262_146)].concat();
        bytes[RELATION_PAGE + 5000] ^= 4;
        for piece in [1000, RELATION_PAGE, 20_000, usize::MAX] {
            let mut check = PageCheck::of_file("base/5/16384.2", Lsn(100), 131_072).unwrap();
            bytes.chunks(piece.min(bytes.len())).for_each(|bytes| check.push(bytes));
            assert_eq!(check.finish(), [262_145], "pieces of {piece}");
        }
    }

    #[test]
    fn a_page_in_the_wrong_place_is_damage_a_new_or_younger_page_is_not() {
        let mut check = PageCheck::of_file("base/5/1", Lsn(100), 131_072).unwrap();
        check.push(&page(1, 7));
        check.push(&[0; RELATION_PAGE]);
        let mut young = page(1, 2);
        young[4] = 100;
        check.push(&young);
        assert_eq!(check.finish(), [0]);
    }

    #[test]
    fn only_files_with_pages_are_checked() {
        for (path, part) in
            [("base/5/16384", 0), ("base/5/16384.12", 12), ("global/1262_fsm", 0), ("PG_15_202209061/5/3_vm.1", 1)]
        {
            assert_eq!(relation_part(path), Some(part), "{path}");
        }
        for path in [
            "global/pg_control",
            "base/5/pg_filenode.map",
            "base/5/PG_VERSION",
            "backup_label",
            "pg_xact/0000",
            "pg_multixact/members/0000",
            "base/5/t3_16384",
            "base/5/16384.x",
        ] {
            assert_eq!(relation_part(path), None, "{path}");
        }
    }
}
