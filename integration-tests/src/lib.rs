//! Real servers, ledgers of truth, random targets, kills.
