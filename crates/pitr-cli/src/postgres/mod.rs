//! What only PostgreSQL needs: which lineage a file belongs to, and where the bytes of a WAL file are.

pub mod fetch;
pub mod lineage;
pub mod scan;
