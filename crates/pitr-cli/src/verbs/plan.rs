//! `pitr plan`: what a restore would do. Nothing is touched.

use pitr_plan::{PlanReport, explain};

use crate::cli;
use crate::context::{Context, Purpose};
use crate::engine::{Product, Site, by_engine};
use crate::failure::Failure;
use crate::planning;
use crate::report::Report;
use crate::time;

/// Plans and explains.
pub async fn run(context: &Context, args: &cli::Plan) -> Result<Report, Failure> {
    let site = Site::of(context, args.source.as_deref())?;
    by_engine!(site.source.engine, E => plan::<E>(site, args).await)
}

async fn plan<E: Product>(site: Site<'_>, args: &cli::Plan) -> Result<Report, Failure> {
    let request = planning::request::<E>(&args.target)?;
    let archive = site.context.source(site.name, Purpose::Read).await?;
    let plan = planning::plan::<E>(&archive, &request).await?;
    let screen = explain::<E>(&plan, site.name, time::now(), &planning::zone());
    let data = serde_json::to_value(PlanReport::from(plan.as_ref())).map_err(|error| {
        Failure::new(pitr_core::ErrorKind::Failed, format!("cannot print the plan as JSON: {error}"))
    })?;
    Ok(Report::new("pitr.plan/1", data, screen))
}
