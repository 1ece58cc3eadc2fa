//! Sorted, disjoint intervals of transaction numbers.

use std::fmt;

/// Numbers from 1 on, as half-open intervals that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Intervals(Vec<(u64, u64)>);

impl Intervals {
    /// True if it holds no number.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The intervals as (first, one past the last), ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Count of the numbers.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// True if the number is in.
    pub fn contains(&self, number: u64) -> bool {
        let behind = self.0.partition_point(|(start, _)| *start <= number);
        behind.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, end)| number < *end)
    }

    /// Adds `start..end`; an empty range adds nothing.
    pub fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        // The usual case by far: the next number of a source that counts on.
        match self.0.last_mut() {
            Some(last) if last.1 == start => return last.1 = end,
            Some(last) if last.1 < start => return self.0.push((start, end)),
            None => return self.0.push((start, end)),
            _ => {}
        }
        let first = self.0.partition_point(|interval| interval.1 < start);
        let behind = self.0.partition_point(|interval| interval.0 <= end);
        let touched = self.0.get(first..behind).unwrap_or(&[]);
        let start = touched.first().map_or(start, |interval| interval.0.min(start));
        let end = touched.last().map_or(end, |interval| interval.1.max(end));
        self.0.splice(first..behind, [(start, end)]);
    }

    /// Removes `start..end`.
    pub fn remove(&mut self, start: u64, end: u64) {
        let outside = |&(a, b): &(u64, u64)| {
            let left = (a, b.min(start));
            let right = (a.max(end), b);
            [left, right].into_iter().filter(|(a, b)| a < b)
        };
        self.0 = if start < end { self.0.iter().flat_map(outside).collect() } else { std::mem::take(&mut self.0) };
    }

    /// True if every number of `self` is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.iter().all(|(start, end)| {
            let behind = other.0.partition_point(|interval| interval.0 <= *start);
            behind.checked_sub(1).and_then(|at| other.0.get(at)).is_some_and(|interval| *end <= interval.1)
        })
    }
}

/// As MySQL writes it: `1-5:8:11-12`.
impl fmt::Display for Intervals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (start, end)) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(":")?;
            }
            match end - start {
                1 => write!(f, "{start}")?,
                _ => write!(f, "{start}-{}", end - 1)?,
            }
        }
        Ok(())
    }
}
