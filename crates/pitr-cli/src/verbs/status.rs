//! `pitr status`: am I protected now, what can I reach, what is missing, what next.

use chrono::TimeDelta;
use pitr_archive::SourceArchive;
use pitr_core::{Base, Catalog, Engine, Gap, Timestamp};
use pitr_plan::{GapReport, Window, gaps, windows};
use serde_json::{Value, json};

use crate::cli::MaybeSource;
use crate::context::{Context, Purpose};
use crate::engine::{Product, Site, by_engine};
use crate::failure::Failure;
use crate::limits::{BASE_TOO_OLD, FLUSH_INTERVAL, LOG_TOO_OLD, SHOWN_GAPS};
use crate::planning::describe;
use crate::report::{Report, Warning};
use crate::time;

/// Shows one source or all.
pub async fn run(context: &Context, args: &MaybeSource) -> Result<Report, Failure> {
    let sites = Site::all(context, args.source.as_deref())?;
    let archive = context.archive(Purpose::Write).await?;
    let now = time::now();
    let mut report = Report::new(
        "pitr.status/1",
        Value::Null,
        format!("pitr {}   {}   archive {}\n", env!("CARGO_PKG_VERSION"), time::utc(now), archive.store().label()),
    );
    let mut data = Vec::new();
    for site in sites {
        let source = archive.source(site.name)?;
        let part = by_engine!(site.source.engine, E => Status::<E>::read(&source, now, idle_age::<E>(&site)).await?.report(site.name));
        report.text.push_str(&part.text);
        report.warnings.extend(part.warnings);
        report.next.push(part.next);
        data.push(part.data);
    }
    report.data = json!({ "archive": archive.id().as_str(), "url": archive.store().label(), "sources": data });
    Ok(report)
}

/// The lines of one source in the report.
struct Part {
    text: String,
    warnings: Vec<Warning>,
    next: String,
    data: Value,
}

/// The age of the end of the log, if the source is idle and all is well; `None` if that can be any.
fn idle_age<E: Product>(site: &Site<'_>) -> Option<TimeDelta> {
    let waits = site.source.flush_interval.map_or(FLUSH_INTERVAL, |interval| interval.0);
    Some(E::IDLE_LOG_AGE? + TimeDelta::from_std(waits).ok()?)
}

/// What there is to say about one source.
struct Status<E: Engine> {
    now: Timestamp,
    idle_age: Option<TimeDelta>,
    catalog: Catalog<E::Position>,
    windows: Vec<Window<E::Position>>,
    gaps: Vec<Gap<E::Position>>,
}

impl<E: Engine> Status<E> {
    async fn read(source: &SourceArchive, now: Timestamp, idle_age: Option<TimeDelta>) -> Result<Self, Failure> {
        let catalog = source.catalog::<E>().await?;
        let (windows, gaps) = (windows::<E>(&catalog), gaps::<E>(&catalog));
        Ok(Self { now, idle_age, catalog, windows, gaps })
    }

    fn report(&self, name: &str) -> Part {
        Part { text: self.text(name), warnings: self.warnings(name), next: self.next(name), data: self.data(name) }
    }

    /// The window that goes on to the end of the newest history.
    fn current(&self) -> Option<&Window<E::Position>> {
        let newest = self.windows.first().map(|window| &window.leaf)?;
        self.windows.iter().find(|window| window.newest && window.leaf == *newest)
    }

    fn newest_base(&self) -> Option<&Base<E::Position>> {
        self.current().and_then(|window| self.catalog.bases.iter().find(|base| base.id == window.newest_base))
    }

    fn segments(&self) -> (u64, u64) {
        self.catalog.spans.iter().fold((0, 0), |(count, bytes), span| (count + span.count, bytes + span.bytes))
    }

    fn state(&self) -> &'static str {
        match (self.current(), self.gaps.is_empty()) {
            (None, _) => "NOT RESTORABLE",
            (Some(_), false) => "GAP",
            (Some(current), true) if self.idle_age.is_some() && self.too_old(current).is_some() => "BEHIND",
            (Some(_), true) => "OK",
        }
    }

    /// Where the log of a window ends, if that is longer ago than it should.
    fn too_old(&self, window: &Window<E::Position>) -> Option<Timestamp> {
        window.end_time.filter(|end| self.now - *end > self.idle_age.unwrap_or(LOG_TOO_OLD))
    }

    fn text(&self, name: &str) -> String {
        let mut out = format!("\n{name}   {}   {}\n", E::NAME, self.state());
        let mut line = |label: &str, text: String| out.push_str(&format!("  {label:<14}{text}\n"));
        for window in &self.windows {
            line("window", self.window_text(window));
            line("", format!("from {} to {}", describe::<E>(&window.start), describe::<E>(&window.end)));
        }
        match self.newest_base() {
            Some(base) => {
                let (bytes, age) = (time::bytes(base.bytes), time::full(base.taken.1, self.now));
                line("newest base", format!("{} {bytes}, {age}", base.id));
            }
            None => line("newest base", "none that the newest log continues".to_owned()),
        }
        let (segments, bytes) = self.segments();
        line("log", format!("{segments} segments, {} before compression", time::bytes(bytes)));
        for gap in self.gaps.iter().take(SHOWN_GAPS) {
            line("GAP", gap_text::<E>(gap));
        }
        if self.gaps.len() > SHOWN_GAPS {
            line("", format!("and {} more: pitr list {name}", self.gaps.len() - SHOWN_GAPS));
        }
        out
    }

    fn window_text(&self, window: &Window<E::Position>) -> String {
        let from = time::utc(window.start_time);
        let bases = if window.bases == 1 { "1 base".to_owned() } else { format!("{} bases", window.bases) };
        match window.end_time {
            Some(end) if end >= window.start_time => {
                format!("{from} -> {} ({}), {bases}", time::utc(end), time::age(end, self.now))
            }
            // The base was complete later than the last thing that carries a time.
            _ => format!("{from}, when the base was complete; no later commit is archived, {bases}"),
        }
    }

    fn warnings(&self, name: &str) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut warn =
            |code, message: String, next: &[String]| warnings.push(Warning { code, message, next: next.to_vec() });
        for gap in &self.gaps {
            warn(
                "gap",
                format!("{name}: gap {}", gap_text::<E>(gap)),
                &[format!("pitr backup {name}"), "docs/runbooks/gap.md".to_owned()],
            );
        }
        let Some(current) = self.current() else {
            let what = match (self.catalog.bases.is_empty(), self.catalog.spans.is_empty()) {
                (true, true) => "nothing is archived yet",
                (true, false) => "there is log, and no base to apply it to",
                (false, true) => "there is a base, and none of the log it needs",
                (false, false) => "no base is continued by the newest log",
            };
            warn(
                "not_restorable",
                format!("{name}: nothing can be restored: {what}"),
                &[format!("pitr check {name}"), format!("pitr backup {name}")],
            );
            return warnings;
        };
        if let Some(end) = self.too_old(current) {
            let why = match self.idle_age {
                // Even without writes it would go on.
                Some(_) => "archiving stands still, or does not keep up",
                None => "an idle server, or archiving stands still",
            };
            let message = format!("{name}: the archived log ends {}: {why}", time::age(end, self.now));
            warn("log_old", message, &[format!("pitr check {name}")]);
        }
        if let Some(base) = self.newest_base().filter(|base| self.now - base.taken.1 > BASE_TOO_OLD) {
            warn(
                "base_old",
                format!("{name}: the newest base was taken {}", time::age(base.taken.1, self.now)),
                &[format!("pitr backup {name}")],
            );
        }
        warnings
    }

    fn next(&self, name: &str) -> String {
        match self.current() {
            Some(_) => format!("pitr plan {name} --to '15m ago'"),
            None if self.catalog.bases.is_empty() => format!("pitr backup {name}"),
            None => format!("pitr check {name}"),
        }
    }

    fn data(&self, name: &str) -> Value {
        let (segments, bytes) = self.segments();
        json!({
            "source": name,
            "engine": E::NAME,
            "state": self.state(),
            "windows": self.windows.iter().map(|window| json!({
                "lineage": window.leaf, "start": window.start.to_string(), "end": window.end.to_string(),
                "start_time": window.start_time, "end_time": window.end_time, "bases": window.bases,
                "newest_base": window.newest_base, "newest": window.newest,
            })).collect::<Vec<_>>(),
            "gaps": self.gaps.iter().map(GapReport::from).collect::<Vec<_>>(),
            "newest_base": self.newest_base().map(|base| json!({ "base": base.id, "taken": base.taken.1, "bytes": base.bytes })),
            "segments": segments,
            "log_bytes": bytes,
        })
    }
}

/// A gap with both edges and its cause.
pub fn gap_text<E: Engine>(gap: &Gap<E::Position>) -> String {
    let edge = |position: Option<&E::Position>, at: Option<Timestamp>| match (position, at) {
        (Some(position), Some(at)) => format!("{} ({})", describe::<E>(position), time::utc(at)),
        (Some(position), None) => describe::<E>(position),
        (None, _) => "nothing archived since".to_owned(),
    };
    format!(
        "{} -> {}: {}",
        edge(Some(&gap.after), gap.after_time),
        edge(gap.before.as_ref(), gap.before_time),
        gap.cause
    )
}
