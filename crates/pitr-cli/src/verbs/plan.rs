//! `pitr plan`: what a restore would do. Nothing is touched.

use pitr_plan::{PlanReport, explain};
use pitr_postgres::Postgres;

use crate::cli;
use crate::context::{Context, Purpose};
use crate::failure::Failure;
use crate::planning;
use crate::report::Report;
use crate::time;

/// Plans and explains.
pub async fn run(context: &Context, args: &cli::Plan) -> Result<Report, Failure> {
    let (name, _) = context.config.source(args.source.as_deref())?;
    let request = planning::request(&args.target)?;
    let archive = context.source(name, Purpose::Read).await?;
    let plan = planning::plan(&archive, &request).await?;
    let screen = explain::<Postgres>(&plan, name, time::now(), &planning::zone());
    let data = serde_json::to_value(PlanReport::from(plan.as_ref())).map_err(|error| {
        Failure::new(pitr_core::ErrorKind::Failed, format!("cannot print the plan as JSON: {error}"))
    })?;
    Ok(Report::new("pitr.plan/1", data, screen))
}
