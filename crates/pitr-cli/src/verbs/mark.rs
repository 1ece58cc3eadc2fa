//! `pitr mark`: writes a named point into the log of a source.

use pitr_core::ErrorKind;
use serde_json::json;

use crate::cli::Mark;
use crate::context::Context;
use crate::engine::{Product, Site, by_engine};
use crate::failure::{During, Failure};
use crate::report::Report;

/// Marks one source.
pub async fn run(context: &Context, args: &Mark) -> Result<Report, Failure> {
    let site = Site::of(context, Some(&args.source))?;
    if args.name.is_empty() || args.name.chars().any(char::is_control) {
        return Err(Failure::new(ErrorKind::Usage, format!("{:?} is no name for a point", args.name))
            .next("use letters, digits and signs, as in before_deploy"));
    }
    let (source, name) = (site.name, &args.name);
    let marked = by_engine!(site.source.engine, E => E::mark(site, name).await);
    let at = marked.during(format!("marking {source}"))?;
    let text = format!("Marked {source} with {name:?} at {at}. It can be restored to once that log is archived.\n");
    let data = json!({ "source": source, "name": name, "at": at });
    Ok(Report::new("pitr.mark/1", data, text).next(format!("pitr plan {source} --to {:?}", format!("name:{name}"))))
}
