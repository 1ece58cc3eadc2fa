//! Limits of the program.

/// Segments fetched ahead of a replaying server; with 16 MiB segments the spool holds 256 MiB at most.
pub const PREFETCH_SEGMENTS: u32 = 16;
