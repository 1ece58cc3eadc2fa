//! PostgreSQL over its native protocol.
