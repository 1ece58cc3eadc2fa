//! `pitr grants`: the least-privilege role script of an engine.

use pitr_core::ErrorKind;
use pitr_postgres::grants::{GrantOptions, role_script};
use serde_json::json;

use crate::cli::Grants;
use crate::failure::Failure;
use crate::report::Report;

/// Prints the script; nothing is run.
pub fn run(args: &Grants) -> Result<Report, Failure> {
    if args.engine != "postgres" {
        let what = format!("no grants for engine {:?}", args.engine);
        return Err(Failure::new(ErrorKind::Usage, what).next("pitr grants postgres"));
    }
    let options = GrantOptions { role: args.role.clone(), address: args.address.clone() };
    let script = role_script(&options);
    Ok(Report::new("pitr.grants/1", json!({ "engine": args.engine, "script": script }), script))
}
