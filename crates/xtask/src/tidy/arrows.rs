//! Who may import whom: the table in `docs/ARCHITECTURE.md` against `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Findings, House, directory_of};

const TABLE: &str = "docs/ARCHITECTURE.md";
/// Nothing of a runtime or a store may be below the vocabulary.
const NOT_IN_CORE: [&str; 4] = ["tokio", "object_store", "reqwest", "rustls"];
/// Any of ours may use it in tests.
const TESTKIT: &str = "pitr-testkit";

enum May {
    Import(BTreeSet<String>),
    ImportAll,
}

pub fn check(house: &House, findings: &mut Findings) -> Result<()> {
    let table = table(&house.read(TABLE)?)?;
    let ours = house.ours()?;
    let directories: BTreeMap<&str, &str> =
        ours.iter().filter_map(|(dir, package)| Some((package["name"].as_str()?, dir.as_str()))).collect();
    for (dir, package) in &ours {
        let Some(may) = table.get(dir) else {
            findings.push(format!("{TABLE}: the table of crates does not name {dir}"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let Some(name) = dependency["name"].as_str() else { continue };
            let Some(&import) = directories.get(name) else { continue };
            let in_tests = dependency["kind"].as_str() == Some("dev");
            let excused = in_tests && import == TESTKIT;
            if !excused && !allowed(may, import) {
                findings.push(format!("crates/{dir}: may not import {import} (the table in {TABLE})"));
            }
        }
    }
    core_is_pure(house, findings)
}

fn allowed(may: &May, import: &str) -> bool {
    match may {
        May::ImportAll => true,
        May::Import(names) => names.contains(import),
    }
}

/// Reads the rows of the form "crate names | job | imports".
fn table(text: &str) -> Result<BTreeMap<String, May>> {
    let mut table = BTreeMap::new();
    let rows = text.lines().skip_while(|line| !line.starts_with("| crate |")).skip(2);
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let (Some(names), Some(imports)) = (cells.first(), cells.last()) else { continue };
        for name in names.split(',') {
            let may = match *imports {
                "all" | "any" => May::ImportAll,
                "none" => May::Import(BTreeSet::new()),
                list => May::Import(list.split(',').map(|name| format!("pitr-{}", name.trim())).collect()),
            };
            table.insert(name.trim().trim_matches('`').to_owned(), may);
        }
    }
    if table.is_empty() {
        bail!("{TABLE} has no table of crates");
    }
    Ok(table)
}

/// Walks everything below `pitr-core` that is not for tests alone.
fn core_is_pure(house: &House, findings: &mut Findings) -> Result<()> {
    let nodes = house.metadata["resolve"]["nodes"].as_array().context("cargo metadata has no graph")?;
    let below: BTreeMap<&str, Vec<&str>> =
        nodes.iter().filter_map(|node| Some((node["id"].as_str()?, normal_dependencies(node)))).collect();
    let name_of: BTreeMap<&str, &str> =
        house.packages()?.iter().filter_map(|p| Some((p["id"].as_str()?, p["name"].as_str()?))).collect();
    let core = house.packages()?.iter().find(|p| directory_of(p).is_ok_and(|dir| dir == "pitr-core"));
    let mut open = vec![core.and_then(|core| core["id"].as_str()).context("there is no pitr-core")?];
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            open.extend(below.get(id).into_iter().flatten());
        }
    }
    for id in seen {
        let name = name_of.get(id).copied().unwrap_or_default();
        if NOT_IN_CORE.contains(&name) {
            findings.push(format!("crates/pitr-core: {name} is among its dependencies"));
        }
    }
    Ok(())
}

fn normal_dependencies(node: &Value) -> Vec<&str> {
    let normal =
        |dep: &&Value| dep["dep_kinds"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k["kind"].is_null()));
    node["deps"].as_array().into_iter().flatten().filter(normal).filter_map(|dep| dep["pkg"].as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_as_people_read_it() -> Result<()> {
        let text = "| crate | job | imports of ours |\n|---|---|---|\n| `pitr-core` | words | none |\n\
                    | `pitr-plan` | plans | core |\n| `xtask`, `integration-tests` | tools | any |\n\nend | x |";
        let table = table(text)?;
        assert_eq!(table.len(), 4);
        assert!(table.get("pitr-core").is_some_and(|may| !allowed(may, "pitr-plan")));
        assert!(table.get("pitr-plan").is_some_and(|may| allowed(may, "pitr-core") && !allowed(may, "pitr-archive")));
        assert!(table.get("integration-tests").is_some_and(|may| allowed(may, "pitr-archive")));
        Ok(())
    }
}
