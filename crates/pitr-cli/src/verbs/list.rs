//! `pitr list`: bases, log ranges and the tree of histories.

use pitr_core::{Catalog, Engine, Lineage, Position, Span};
use pitr_plan::{GapReport, gaps};
use serde_json::json;

use crate::cli::MaybeSource;
use crate::context::{Context, Purpose};
use crate::engine::{Product, Site, by_engine};
use crate::failure::Failure;
use crate::planning::describe;
use crate::report::Report;
use crate::time;
use crate::verbs::status::gap_text;

/// Lists one source.
pub async fn run(context: &Context, args: &MaybeSource) -> Result<Report, Failure> {
    let site = Site::of(context, args.source.as_deref())?;
    by_engine!(site.source.engine, E => list::<E>(site).await)
}

async fn list<E: Product>(site: Site<'_>) -> Result<Report, Failure> {
    let name = site.name;
    let archive = site.context.source(name, Purpose::Write).await?;
    let catalog = archive.catalog::<E>().await?;
    let ranges = ranges(&catalog);
    let gaps = gaps::<E>(&catalog);

    let mut text = format!("{name}: {} lineages, {} bases\n", catalog.lineages.len(), catalog.bases.len());
    for (depth, lineage) in tree(&catalog.lineages) {
        let indent = "    ".repeat(depth);
        let from =
            lineage.fork.as_ref().map(|fork| format!(", left {} at {}", fork.parent, describe::<E>(&fork.parent_at)));
        text.push_str(&format!("\n{indent}lineage {}{}\n", lineage.id, from.unwrap_or_default()));
        for range in ranges.iter().filter(|range| range.lineage == lineage.id) {
            text.push_str(&format!("{indent}  log   {}\n", range_text::<E>(range)));
        }
        for tail in catalog.tails.iter().filter(|tail| tail.lineage == lineage.id) {
            text.push_str(&format!("{indent}  tail  {}\n", tail_text::<E>(tail)));
        }
        let mut bases: Vec<_> = catalog.bases.iter().filter(|base| base.lineage == lineage.id).collect();
        bases.sort_by(|a, b| a.consistent.partial_cmp(&b.consistent).unwrap_or(std::cmp::Ordering::Equal));
        for base in bases {
            text.push_str(&format!(
                "{indent}  base  {}  {} ({} stored), consistent at {}, {}\n",
                base.id,
                time::bytes(base.bytes),
                time::bytes(base.stored),
                describe::<E>(&base.consistent),
                time::utc(base.taken.1),
            ));
        }
        for gap in gaps.iter().filter(|gap| gap.lineage == lineage.id) {
            text.push_str(&format!("{indent}  GAP   {}\n", gap_text::<E>(gap)));
        }
    }
    let data = json!({
        "source": name,
        "lineages": catalog.lineages.iter().map(|lineage| json!({
            "id": lineage.id, "ordinal": lineage.ordinal, "parent": lineage.fork.as_ref().map(|fork| &fork.parent),
            "left_at": lineage.fork.as_ref().map(|fork| fork.parent_at.to_string()), "facts": lineage.facts,
        })).collect::<Vec<_>>(),
        "log": ranges.iter().map(|range| json!({
            "lineage": range.lineage, "start": range.start.to_string(), "end": range.end.to_string(),
            "segments": range.count, "bytes": range.bytes, "commits": range.commits.count,
            "first_commit": range.commits.min, "last_commit": range.commits.max,
        })).collect::<Vec<_>>(),
        "tails": catalog.tails.iter().map(|tail| json!({
            "lineage": tail.lineage, "start": tail.start.to_string(), "end": tail.end.to_string(), "bytes": tail.bytes,
            "commits": tail.commits.count, "last_commit": tail.commits.max,
        })).collect::<Vec<_>>(),
        "bases": catalog.bases.iter().map(|base| json!({
            "id": base.id, "lineage": base.lineage, "start": base.start.to_string(), "consistent": base.consistent.to_string(),
            "taken": [base.taken.0, base.taken.1], "bytes": base.bytes, "stored_bytes": base.stored, "facts": base.facts,
        })).collect::<Vec<_>>(),
        "gaps": gaps.iter().map(GapReport::from).collect::<Vec<_>>(),
    });
    Ok(Report::new("pitr.list/1", data, text).next(format!("pitr plan {name} --to latest")))
}

/// Every history below the one that it left, each with its depth; those of one parent in order of appearance.
fn tree<P>(lineages: &[Lineage<P>]) -> Vec<(usize, &Lineage<P>)> {
    let parent = |lineage: &Lineage<P>| lineage.fork.as_ref().map(|fork| fork.parent.clone());
    let is_root = |lineage: &&Lineage<P>| parent(lineage).is_none_or(|id| lineages.iter().all(|other| other.id != id));
    let mut open: Vec<(usize, &Lineage<P>)> = lineages.iter().rev().filter(is_root).map(|root| (0, root)).collect();
    let mut tree = Vec::with_capacity(lineages.len());
    while let Some((depth, lineage)) = open.pop() {
        let children = lineages.iter().rev().filter(|child| parent(child).as_ref() == Some(&lineage.id));
        open.extend(children.map(|child| (depth + 1, child)));
        tree.push((depth, lineage));
    }
    // Histories that name each other as parent are damage; they are shown all the same.
    let lost = lineages.iter().filter(|lineage| tree.iter().all(|(_, known)| known.id != lineage.id));
    let lost: Vec<_> = lost.map(|lineage| (0, lineage)).collect();
    tree.extend(lost);
    tree
}

fn tail_text<E: Engine>(tail: &Span<E::Position>) -> String {
    let commits = tail.commits.max.map(|max| format!(", last commit {}", time::utc(max))).unwrap_or_default();
    format!("{} -> {}, not sealed yet{commits}", describe::<E>(&tail.start), describe::<E>(&tail.end))
}

/// Unbroken stretches of log of one lineage.
fn ranges<P: Position>(catalog: &Catalog<P>) -> Vec<Span<P>> {
    let mut ranges: Vec<Span<P>> = Vec::new();
    for span in &catalog.spans {
        match ranges.last_mut() {
            Some(last) if last.lineage == span.lineage && last.continued_by(span) => {
                last.last = span.last.clone();
                last.end = span.end.clone();
                last.count += span.count;
                last.bytes += span.bytes;
                last.commits.extend(&span.commits);
            }
            // Wholly inside what is there already: an unfinished copy of a sealed segment.
            Some(last) if last.lineage == span.lineage && span.end <= last.end => {}
            _ => ranges.push(span.clone()),
        }
    }
    ranges
}

fn range_text<E: Engine>(range: &Span<E::Position>) -> String {
    let times = match (range.commits.min, range.commits.max) {
        (Some(min), Some(max)) => format!("{} commits {} -> {}", range.commits.count, time::utc(min), time::utc(max)),
        _ => "no commits".to_owned(),
    };
    format!("{} -> {}, {} segments, {times}", describe::<E>(&range.start), describe::<E>(&range.end), range.count)
}
