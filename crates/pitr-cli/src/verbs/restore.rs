//! `pitr restore`: plans, then has the engine lay the base down and replay the log up to the planned cut.

use std::path::{Path, PathBuf};

use pitr_core::ErrorKind;
use pitr_plan::{Plan, PlanReport};
use serde_json::{Value, json};

use crate::cli::Restore;
use crate::config::password_from;
use crate::context::{Context, Purpose};
use crate::engine::{Destination, Product, RestoreJob, Restored, Site, by_engine};
use crate::failure::{During, Failure};
use crate::planning::{self, describe};
use crate::report::Report;
use crate::time;

/// Restores one source.
pub async fn run(context: &Context, args: &Restore, quiet: bool) -> Result<Report, Failure> {
    let site = Site::of(context, args.source.as_deref())?;
    by_engine!(site.source.engine, E => restore::<E>(site, args, quiet).await)
}

async fn restore<E: Product>(site: Site<'_>, args: &Restore, quiet: bool) -> Result<Report, Failure> {
    planning::refuse_foreign_flags::<E>(&args.special_flags())?;
    let request = planning::request::<E>(&args.target)?;
    let destination = destination(args)?;
    let archive = site.context.source(site.name, Purpose::Read).await?;

    let plan = planning::plan::<E>(&archive, &request).await?;
    if !quiet {
        announce::<E>(site.name, &plan, &destination);
    }
    let job = RestoreJob { site, archive: &archive, recovery: plan.recovery(), destination, args };
    let restored = E::restore(job).await.during(format!("restore of {}", site.name))?;
    if let Some(reached) = &restored.reached {
        expect_planned::<E>(reached, &plan.recovery().cut)?;
    }
    done::<E>(site.name, &plan, restored)
}

fn destination(args: &Restore) -> Result<Destination, Failure> {
    if let Some(url) = &args.target_url {
        let file = std::env::var_os("PITR_TARGET_PASSWORD_FILE").map(PathBuf::from);
        let password = file.as_deref().map(password_from).transpose()?;
        return Ok(Destination::Server { url: url.clone(), password });
    }
    let into = args.into.as_deref().unwrap_or(Path::new(""));
    let into = std::path::absolute(into)
        .map_err(|error| Failure::new(ErrorKind::Usage, format!("cannot use {}: {error}", into.display())))?;
    Ok(Destination::Directory(into))
}

/// Says what is going to happen before it does.
fn announce<E: Product>(name: &str, plan: &Plan<E::Position>, destination: &Destination) {
    eprintln!(
        "restore {name} to {}: base {}, {} segments of log, into {destination}",
        describe::<E>(&plan.halt),
        plan.chain.base.id,
        plan.chain.segments,
    );
}

/// The engine says where the replay stopped; whether that is what was asked for is decided here.
fn expect_planned<E: Product>(reached: &E::Position, planned: &E::Position) -> Result<(), Failure> {
    if reached <= planned && planned <= reached {
        return Ok(());
    }
    let (reached, planned) = (describe::<E>(reached), describe::<E>(planned));
    Err(Failure::new(ErrorKind::Integrity, format!("the replay stopped at {reached}, planned was {planned}"))
        .next("do not use what was restored; run pitr verify, and restore again"))
}

fn done<E: Product>(name: &str, plan: &Plan<E::Position>, restored: Restored<E::Position>) -> Result<Report, Failure> {
    let mut text = format!("Restored {name} {}", restored.what);
    let kept = plan.end.last_kept.as_ref().map(|event| {
        let id = event.transaction.as_deref().unwrap_or("?");
        let at = event.time.map(|at| format!(", committed {}", time::utc(at))).unwrap_or_default();
        format!("Last transaction kept: {id}{at}.\n")
    });
    text.push_str(&kept.unwrap_or_default());
    text.push_str(&restored.state);
    let mut data = restored.data;
    data.insert("source".to_owned(), json!(name));
    data.insert("reached".to_owned(), json!(restored.reached.as_ref().map(ToString::to_string)));
    data.insert("plan".to_owned(), json!(PlanReport::from(plan)));
    let mut report = Report::new("pitr.restore/1", Value::Object(data), text);
    report.next = restored.next;
    report.warnings = restored.warnings;
    Ok(report)
}
