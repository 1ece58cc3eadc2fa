//! How a large table is divided among workers: by stretches of its primary key that stay the same from one base to
//! the next, so that equal rows come to lie in equal files.

use crate::limits::{RANGE_BYTES, RANGES_PER_TABLE};

/// A stretch of the first column of the key: `from <= key < to`, open where `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First value.
    pub from: Option<i128>,
    /// First value of the next stretch.
    pub to: Option<i128>,
}

impl Range {
    /// Everything.
    pub const ALL: Self = Self { from: None, to: None };

    /// As the condition of a `WHERE` on that column; empty for everything.
    pub fn condition(&self, column: &str) -> String {
        match (self.from, self.to) {
            (None, None) => String::new(),
            (Some(from), None) => format!(" WHERE {column} >= {from}"),
            (None, Some(to)) => format!(" WHERE {column} < {to}"),
            (Some(from), Some(to)) => format!(" WHERE {column} >= {from} AND {column} < {to}"),
        }
    }
}

/// Divides a table whose keys lie between `min` and `max` and whose rows take about `bytes`.
///
/// Borders are multiples of a power of two: they do not move when keys are added at the end, and seldom when the
/// server's idea of the size changes. The first and the last stretch are open, so that nothing falls through.
pub fn divide(min: i128, max: i128, bytes: u64) -> Vec<Range> {
    let wanted = i128::from(bytes / RANGE_BYTES).min(RANGES_PER_TABLE);
    let span = max.saturating_sub(min);
    if wanted < 2 || span < wanted {
        return vec![Range::ALL];
    }
    // The smallest power of two that makes no more stretches than wanted.
    let mut width: i128 = 1;
    while span / width >= wanted {
        width *= 2;
    }
    let first = min.div_euclid(width) + 1;
    let last = max.div_euclid(width);
    let mut from = None;
    let mut ranges = Vec::new();
    for border in first..=last {
        let at = border * width;
        ranges.push(Range { from, to: Some(at) });
        from = Some(at);
    }
    ranges.push(Range { from, to: None });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_table_is_not_divided() {
        assert_eq!(divide(1, 1_000_000, RANGE_BYTES), [Range::ALL]);
        assert_eq!(divide(1, 3, u64::MAX), [Range::ALL]);
        assert_eq!(Range::ALL.condition("`id`"), "");
    }

    #[test]
    fn stretches_cover_everything_once_and_do_not_move_when_keys_are_added() {
        let before = divide(1, 1_000_000, 10 * RANGE_BYTES);
        let after = divide(1, 1_040_000, 10 * RANGE_BYTES + 5);
        assert_eq!(before.len(), 8);
        assert_eq!(before.first().map(|range| range.from), Some(None));
        assert_eq!(before.last().map(|range| range.to), Some(None));
        for pair in before.windows(2) {
            assert_eq!(pair.first().map(|range| range.to), pair.last().map(|range| range.from));
        }
        assert_eq!(before.get(..7), after.get(..7));
    }

    #[test]
    fn the_whole_width_of_the_largest_key_can_be_divided() {
        let ranges = divide(i128::from(i64::MIN), i128::from(u64::MAX), 100 * RANGE_BYTES);
        assert!(ranges.len() > 50 && ranges.len() <= 101, "{}", ranges.len());
        assert_eq!(Range { from: Some(-4), to: Some(4) }.condition("`id`"), " WHERE `id` >= -4 AND `id` < 4");
    }
}
