//! Plans and refusals as screens for a person: 80 columns, what matters first, the next command last.

use chrono::{DateTime, FixedOffset, SecondsFormat};
use pitr_core::ports::Stop;
use pitr_core::{Classify, Engine, Event, Timestamp, What};

use crate::limits::SCREEN_WIDTH;
use crate::refusal::{Candidate, Reason};
use crate::text::{bytes, count, safe, short, span, utc};
use crate::{Moment, Plan, Refusal};

/// How the reader's clock reads: a name for people, and its distance from UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// A name such as `Europe/Berlin`.
    pub name: String,
    /// The offset that was in force at the target.
    pub offset: FixedOffset,
}

impl Zone {
    fn local(&self, time: Timestamp) -> String {
        let local: DateTime<FixedOffset> = time.with_timezone(&self.offset);
        local.to_rfc3339_opts(SecondsFormat::AutoSi, true).replacen('T', " ", 1)
    }
}

/// Width of the first column.
const LABEL: usize = 13;

/// Lines of a label and text, wrapped between words.
#[derive(Default)]
struct Screen {
    out: String,
}

impl Screen {
    /// One field. Text that does not fit goes on in the next line, under its begin; a word is never cut.
    fn field(&mut self, label: &str, text: &str) {
        let mut line = format!("{label:<LABEL$}");
        let mut filled = false;
        for word in text.split(' ') {
            let fits = line.chars().count() + 1 + word.chars().count() <= SCREEN_WIDTH;
            if filled && !fits {
                self.line(&line);
                line = " ".repeat(LABEL);
                filled = false;
            }
            if filled {
                line.push(' ');
            }
            line.push_str(word);
            filled = true;
        }
        self.line(&line);
    }

    fn line(&mut self, line: &str) {
        self.out.push_str(line.trim_end());
        self.out.push('\n');
    }

    /// A command to type: alone on its line, never wrapped, so that it can be copied.
    fn command(&mut self, label: &str, command: &str) {
        self.line(&format!("{label:<LABEL$}{command}"));
    }
}

/// The screen of a plan. `now` is what ages count from.
pub fn explain<E: Engine>(plan: &Plan<E::Position>, source: &str, now: Timestamp, zone: &Zone) -> String {
    let mut screen = Screen::default();
    let source = safe(source);
    let target = format!("{} {}", plan.bound, safe(&plan.target.to_string()));
    screen.field("Target", &target);
    if let pitr_core::Target::Time(time) = &plan.target {
        screen.field("", &format!("= {} {} = {}", zone.local(*time), safe(&zone.name), age(*time, now)));
    }
    let stop = match &plan.end.stop {
        Stop::Before(at) => format!("stop BEFORE {}", E::describe(at)),
        Stop::After(at) => format!("stop AFTER the record at {}", E::describe(at)),
    };
    screen.field("Resolves to", &stop);
    screen.field("  last kept", &event_text::<E>(plan.end.last_kept.as_ref(), "no commit in this stretch of log"));
    screen
        .field("  not kept", &event_text::<E>(plan.end.first_dropped.as_ref(), "nothing: no later commit is archived"));
    inversions::<E>(&mut screen, plan);
    let base = &plan.chain.base;
    let taken = base.taken.1;
    screen.field("Base", &format!("{}, complete {} ({}), {}", base.id, utc(taken), age(taken, now), bytes(base.bytes)));
    let log = match (plan.chain.log.first(), plan.chain.log.last()) {
        (Some(first), Some(last)) => format!(
            "{} -> {}, {}, {}",
            first.start,
            last.end,
            count(plan.chain.segments, "segment"),
            bytes(plan.chain.bytes)
        ),
        _ => "none needed".to_owned(),
    };
    screen.field("Log", &log);
    if plan.chain.path.len() > 1 {
        let path: Vec<_> = plan.chain.path.iter().map(ToString::to_string).collect();
        screen.field("Histories", &path.join(" -> "));
    }
    screen.field("You lose", &lost_text(plan));
    for warning in &plan.warnings {
        screen.field("! warning", &safe(warning));
    }
    screen.field("Touches", "nothing yet: this is a plan");
    let lineage = if plan.other_leaves.is_empty() { String::new() } else { format!(" --lineage {}", plan.leaf) };
    let arguments = format!("--{} {}{lineage}", plan.bound, quoted(&plan.target.to_string()));
    screen.command("Run it", &format!("pitr restore {source} {arguments} --into DIR"));
    screen.out
}

/// The screen of a refusal.
pub fn explain_refusal<E: Engine>(refusal: &Refusal<E::Position>, source: &str, now: Timestamp, zone: &Zone) -> String {
    let mut screen = Screen::default();
    let source = safe(source);
    screen.field("Target", &format!("{} {}", refusal.bound, safe(&refusal.target.to_string())));
    if let pitr_core::Target::Time(time) = &refusal.target {
        screen.field("", &format!("= {} {} = {}", zone.local(*time), safe(&zone.name), age(*time, now)));
    }
    screen.field("NO", &refusal.to_string());
    if let Some(moment) = &refusal.nearest_before {
        screen.field("  before it", &moment_text::<E>(moment, now));
    }
    if let Some(moment) = &refusal.nearest_after {
        screen.field("  after it", &moment_text::<E>(moment, now));
    }
    match &refusal.reason {
        Reason::Ambiguous { candidates, .. } => {
            for candidate in candidates {
                screen.field("  could be", &candidate_text::<E>(candidate));
            }
        }
        Reason::UnknownTransaction { aborted: Some(at), .. } => {
            screen.field("  aborted", &candidate_text::<E>(at));
        }
        _ => {}
    }
    let commands = next_commands(refusal, &source);
    if commands.is_empty()
        && let Some(hint) = refusal.hint()
    {
        screen.field("Hint", &hint.replace("SOURCE", &source));
    }
    for (at, command) in commands.iter().enumerate() {
        screen.command(if at == 0 { "Use" } else { "" }, command);
    }
    if commands.is_empty() {
        screen.command("Next", &format!("pitr status {source}"));
    }
    screen.out
}

/// The commands that lead on from a refusal, the likeliest first; none if nothing can be restored instead.
pub fn next_commands<P: pitr_core::Position>(refusal: &Refusal<P>, source: &str) -> Vec<String> {
    let lineage = |lineage: &Option<_>| match lineage {
        Some(lineage) => format!(" --lineage {lineage}"),
        None => String::new(),
    };
    let plan = |target: &str, extra: &str| format!("pitr plan {source} --to {}{extra}", quoted(target));
    match &refusal.reason {
        Reason::Ambiguous { candidates, .. } => {
            let bound = |c: &Candidate<P>| format!("pitr plan {source} --{} {}", refusal.bound, quoted(&c.target));
            candidates.iter().map(bound).collect()
        }
        Reason::UnknownTransaction { aborted: Some(at), .. } => vec![plan(&at.target, "")],
        Reason::NoBase | Reason::NoLineage => vec![format!("pitr backup {source}")],
        Reason::BeforeLatest => vec![plan("latest", "")],
        _ => refusal.nearest().map(|moment| plan(&moment.target, &lineage(&moment.lineage))).collect(),
    }
}

fn event_text<E: Engine>(event: Option<&Event<E::Position>>, none: &str) -> String {
    let Some(event) = event else { return none.to_owned() };
    let mut text = match &event.what {
        What::Commit => "commit".to_owned(),
        What::Abort => "rollback".to_owned(),
        What::Mark(name) => format!("point {}", short(name)),
        What::Clock => "clock".to_owned(),
    };
    if let Some(time) = event.time {
        text.push_str(&format!(" {}", utc(time)));
    }
    if let Some(id) = &event.transaction {
        text.push_str(&format!(" transaction {}", short(id)));
    }
    format!("{text} at {}", E::describe(&event.begin))
}

fn inversions<E: Engine>(screen: &mut Screen, plan: &Plan<E::Position>) {
    let found = &plan.end.inversions;
    if found.count == 0 {
        return;
    }
    let more = if found.complete { "" } else { " or more" };
    let text = format!("{}{more} stamped before the target, later in the log: NOT kept", count(found.count, "commit"));
    screen.field("  also not", &text);
    for event in &found.examples {
        screen.field("", &event_text::<E>(Some(event), ""));
    }
}

fn lost_text<P>(plan: &Plan<P>) -> String {
    let lost = &plan.lost;
    if lost.commits == 0 && !lost.at_least {
        return "nothing that is archived".to_owned();
    }
    let least = if lost.at_least { "at least " } else { "" };
    let mut text = format!("{least}{}", count(lost.commits, "commit"));
    if let (Some(from), Some(until)) = (lost.from, lost.until)
        && until > from
    {
        text.push_str(&format!(" in {} up to {}", span(until - from), utc(until)));
    }
    text
}

fn moment_text<E: Engine>(moment: &Moment<E::Position>, now: Timestamp) -> String {
    let position = E::describe(&moment.position);
    match moment.time {
        Some(time) => format!("{} ({}), {position}", utc(time), age(time, now)),
        None => position,
    }
}

fn candidate_text<E: Engine>(candidate: &Candidate<E::Position>) -> String {
    let position = E::describe(&candidate.begin);
    match candidate.time {
        Some(time) => format!("{}, {position}", utc(time)),
        None => position,
    }
}

/// `15m 44s ago`, or how far a clock is ahead.
fn age(time: Timestamp, now: Timestamp) -> String {
    match now - time {
        past if past >= chrono::TimeDelta::zero() => format!("{} ago", span(past)),
        ahead => format!("{} ahead of now", span(ahead)),
    }
}

/// An argument as a POSIX shell reads it back.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:/+@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", safe(text).replace('\'', "'\\''"))
}
