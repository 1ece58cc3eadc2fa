//! Pure planner: catalog and target in, recovery plan or the exact reason why not out.
