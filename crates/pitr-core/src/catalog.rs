//! What an archive holds of one source, as pure data.

use crate::{Base, Gap, Lineage, LineageId, Span};

/// Everything the planner may know of one source.
///
/// # Contract
/// Made by the archive from a listing and plain headers, read by the planner. `spans` are sealed segments
/// and roll-ups of contiguous ones, sorted by lineage and by name within it; two neighbours may overlap or
/// leave a hole, which the planner finds by [`Span::continued_by`]. A roll-up never bridges a hole.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalog<P> {
    /// Histories, by ordinal.
    pub lineages: Vec<Lineage<P>>,
    /// Sealed log.
    pub spans: Vec<Span<P>>,
    /// Segments that are not sealed yet, one span each, in log order: from the segment's start as far as its tails
    /// go. Each is superseded by a span that covers it.
    pub tails: Vec<Span<P>>,
    /// Bases, in no particular order.
    pub bases: Vec<Base<P>>,
    /// Gaps that a writer recorded with their cause. Holes between spans are not among them.
    pub gaps: Vec<Gap<P>>,
}

impl<P> Default for Catalog<P> {
    fn default() -> Self {
        Self { lineages: Vec::new(), spans: Vec::new(), tails: Vec::new(), bases: Vec::new(), gaps: Vec::new() }
    }
}

impl<P> Catalog<P> {
    /// The lineage of that name.
    pub fn lineage(&self, id: &LineageId) -> Option<&Lineage<P>> {
        self.lineages.iter().find(|lineage| lineage.id == *id)
    }

    /// The histories from the root to `leaf`, oldest first; `None` if one of them is not in the catalog or
    /// they form a circle.
    pub fn path(&self, leaf: &LineageId) -> Option<Vec<&Lineage<P>>> {
        let mut path = vec![self.lineage(leaf)?];
        while let Some(fork) = path.last().and_then(|lineage| lineage.fork.as_ref()) {
            if path.len() > self.lineages.len() {
                return None;
            }
            path.push(self.lineage(&fork.parent)?);
        }
        path.reverse();
        Some(path)
    }
}
