//! The `pitr` program.

fn main() {}
