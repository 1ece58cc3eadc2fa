//! Toy engine, contract suites, faulty store and brute-force planner: for tests only.
//!
//! [`toy`] is a counter with a log, an engine like any other. [`catalogs`] makes random archives of it,
//! and [`brute`] says what is right about them; together they are the oracle of the planner.

pub mod brute;
pub mod catalogs;
pub mod dice;
pub mod faulty_store;
pub mod store_contract;
pub mod toy;
