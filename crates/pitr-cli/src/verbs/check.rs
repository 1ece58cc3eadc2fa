//! `pitr check`: is everything set up: archive, keys, server settings, rights. Prints the exact fix for what is not.

use bytes::Bytes;
use pitr_archive::{Put, SourceArchive};
use pitr_core::{ErrorKind, Facts, Finding, Severity};
use serde_json::{Value, json};

use crate::cli::MaybeSource;
use crate::context::{Context, Purpose};
use crate::engine::{Product, Site, by_engine};
use crate::failure::{During, Failure};
use crate::report::{Report, Warning};
use crate::time;

/// Side files of this namespace only prove that writing works.
const ROUND_TRIP: &str = "check";

/// Checks one source or all.
pub async fn run(context: &Context, args: &MaybeSource) -> Result<Report, Failure> {
    let sites = Site::all(context, args.source.as_deref())?;
    let archive = context.archive(Purpose::Write).await?;
    let mut report = Report::new("pitr.check/1", Value::Null, format!("ok    archive {}\n", archive.store().label()));
    let mut data = Vec::new();
    let mut worst = Severity::Good;
    for site in sites {
        let name = site.name;
        let source = archive.source(name)?;
        let put = round_trip(&source).await.during(format!("writing to the archive for {name}"))?;
        report.text.push_str(&match put {
            Put::Stored { .. } => format!("ok    {name}: an object was written and read back\n"),
            Put::Identical => format!("ok    {name}: an object that was written within this hour was read back\n"),
        });
        let checked = by_engine!(site.source.engine, E => E::check(site).await);
        let findings = checked.during(format!("checking the server of {name}"))?;
        report.text.push_str(&findings.iter().map(|finding| line(name, finding)).collect::<String>());
        report.warnings.extend(findings.iter().filter(|f| f.severity >= Severity::Warning).map(|f| warning(name, f)));
        worst = findings.iter().map(|finding| finding.severity).fold(worst, Ord::max);
        data.push(json!({ "source": name, "findings": findings.iter().map(finding_data).collect::<Vec<_>>() }));
        report.next.push(format!("pitr backup {name}"));
    }
    report.data = json!({ "sources": data });
    if worst == Severity::Failure {
        report.next = vec!["apply the fixes above, then: pitr check".to_owned()];
    }
    Ok(report)
}

/// A writer can create objects and read their headers back. A new one every hour: what could be written long ago says
/// nothing about today.
async fn round_trip(source: &SourceArchive) -> Result<Put, Failure> {
    let name = time::now().format("round-trip-%Y%m%dT%H").to_string();
    let content = Bytes::from_static(b"pitr check wrote this to prove that it can.\n");
    let put = source.put_file(ROUND_TRIP, &name, &Facts::new(), content).await?;
    let key = source.layout().file(ROUND_TRIP, &name)?;
    match source.objects().header(&key).await? {
        Some(_) => Ok(put),
        None => Err(Failure::new(ErrorKind::Integrity, format!("{key} was written and cannot be found"))),
    }
}

fn line(name: &str, finding: &Finding) -> String {
    let mark = match finding.severity {
        Severity::Good => "ok   ",
        Severity::Hint => "hint ",
        Severity::Warning => "WARN ",
        Severity::Failure => "FAIL ",
    };
    let mut line = format!("{mark} {name}: {}\n", finding.message);
    // Those of warnings follow below, with the warnings.
    if let (Severity::Hint, Some(fix)) = (finding.severity, &finding.fix) {
        line.push_str(&format!("          {}\n", fix.replace('\n', "\n          ")));
    }
    line
}

fn warning(name: &str, finding: &Finding) -> Warning {
    let code = if finding.severity == Severity::Failure { "not_protected" } else { "check" };
    Warning { code, message: format!("{name}: {}", finding.message), next: finding.fix.iter().cloned().collect() }
}

fn finding_data(finding: &Finding) -> Value {
    let severity = match finding.severity {
        Severity::Good => "good",
        Severity::Hint => "hint",
        Severity::Warning => "warning",
        Severity::Failure => "failure",
    };
    json!({ "severity": severity, "topic": finding.topic, "message": finding.message, "fix": finding.fix })
}
