//! Limits of the planner, with their units.

/// Segments named in a scan request as possible continuations of a record. A PostgreSQL record has at most
/// 1 GiB, and a segment in the archive 16 MiB: 64 of them, and one for page headers.
pub const MAX_CONTINUATIONS: usize = 65;

/// Segments scanned for commits that are stamped before the target but lie after the cut.
pub const MAX_INVERSION_SCANS: usize = 8;

/// Such commits shown as examples.
pub const MAX_INVERSION_EXAMPLES: usize = 5;

/// Levels of roll-ups inside roll-ups.
pub const MAX_ROLL_UP_DEPTH: usize = 4;

/// Names of points listed when the one asked for does not exist.
pub const MAX_KNOWN_NAMES: usize = 10;

/// Characters of a name from a database shown on a screen before it is cut off.
pub const MAX_SHOWN_NAME: usize = 64;

/// Width of a screen, in characters.
pub const SCREEN_WIDTH: usize = 80;
