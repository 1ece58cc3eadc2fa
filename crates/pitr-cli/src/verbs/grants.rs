//! `pitr grants`: the least-privilege role script of an engine.

use serde_json::json;

use crate::cli::Grants;
use crate::engine::{Product, by_engine};
use crate::failure::Failure;
use crate::report::Report;

/// Prints the script; nothing is run.
pub fn run(args: &Grants) -> Result<Report, Failure> {
    let script = by_engine!(args.engine, E => E::grants(args)?);
    Ok(Report::new("pitr.grants/1", json!({ "engine": args.engine, "script": script }), script))
}
