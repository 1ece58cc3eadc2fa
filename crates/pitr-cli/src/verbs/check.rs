//! `pitr check`: is everything set up: archive, keys, server settings, rights. Prints the exact fix for what is not.

use std::path::Path;

use bytes::Bytes;
use pitr_archive::SourceArchive;
use pitr_core::Facts;
use pitr_postgres::check::{Finding, Severity, check};
use serde_json::{Value, json};

use crate::cli::MaybeSource;
use crate::config::Source;
use crate::context::{Context, Purpose, connection};
use crate::failure::{During, Failure};
use crate::report::{Report, Warning};

/// Side files of this namespace only prove that writing works.
const ROUND_TRIP: (&str, &str) = ("check", "round-trip");

/// Checks one source or all.
pub async fn run(context: &Context, args: &MaybeSource) -> Result<Report, Failure> {
    let names: Vec<&str> = match &args.source {
        Some(name) => vec![context.config.source(Some(name))?.0],
        None => context.config.sources.keys().map(String::as_str).collect(),
    };
    if names.is_empty() {
        context.config.source(None)?;
    }
    let archive = context.archive(Purpose::Write).await?;
    let mut report = Report::new("pitr.check/1", Value::Null, format!("ok    archive {}\n", archive.store().label()));
    let mut data = Vec::new();
    let mut worst = Severity::Good;
    for name in names {
        let source = archive.source(name)?;
        round_trip(&source).await.during(format!("writing to the archive for {name}"))?;
        report.text.push_str(&format!("ok    {name}: an object was written and read back\n"));
        let (_, config) = context.config.source(Some(name))?;
        let findings = check_server(context, name, config).await?;
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

/// A writer can create objects and read their headers back. Written once; later runs find it there.
async fn round_trip(source: &SourceArchive) -> Result<(), Failure> {
    let (namespace, name) = ROUND_TRIP;
    let content = Bytes::from_static(b"pitr check wrote this to prove that it can.\n");
    source.put_file(namespace, name, &Facts::new(), content).await?;
    let key = source.layout().file(namespace, name)?;
    match source.objects().header(&key).await? {
        Some(_) => Ok(()),
        None => Err(Failure::new(pitr_core::ErrorKind::Integrity, format!("{key} was written and cannot be found"))),
    }
}

async fn check_server(context: &Context, name: &str, source: &Source) -> Result<Vec<Finding>, Failure> {
    let settings = connection(name, source)?;
    let report =
        check(&settings, &archive_command(context, name)).await.during(format!("checking the server of {name}"))?;
    Ok(report.findings)
}

/// The line for `postgresql.conf`, with this program and configuration by absolute name.
fn archive_command(context: &Context, name: &str) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| Path::new("pitr").to_owned());
    let config = context.config.path.as_ref().map(|path| format!(" --config {}", path.display())).unwrap_or_default();
    format!("{}{config} wal push --source {name} %p", program.display())
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
