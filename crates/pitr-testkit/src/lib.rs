//! Toy engine, contract suites, faulty store and brute-force planner: for tests only.
