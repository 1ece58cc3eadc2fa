//! Licences of all dependencies, against the list that `cargo deny` reads too.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::{Findings, House};

const LIST: &str = ".cargo/deny.toml";

pub fn check(house: &House, findings: &mut Findings) -> Result<()> {
    let list: toml::Table = house.read(LIST)?.parse().with_context(|| format!("{LIST} is not TOML"))?;
    let allowed: BTreeSet<&str> = list
        .get("licenses")
        .and_then(|licences| licences.get("allow")?.as_array())
        .with_context(|| format!("{LIST} has no licenses.allow"))?
        .iter()
        .filter_map(|licence| licence.as_str())
        .collect();
    for package in house.packages()? {
        let name = package["name"].as_str().unwrap_or_default();
        match package["license"].as_str() {
            Some(licence) if permits(licence, &allowed) => {}
            Some(licence) => findings.push(format!("{name}: licence {licence} is not in {LIST}")),
            None => findings.push(format!("{name}: has no licence expression")),
        }
    }
    Ok(())
}

/// Evaluates an SPDX expression: `OR` needs one side, `AND` both. An old-style slash means `OR`.
fn permits(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    either(&mut rest, allowed) && rest.is_empty()
}

fn either(rest: &mut &[&str], allowed: &BTreeSet<&str>) -> bool {
    let mut result = both(rest, allowed);
    while let Some(("OR", tail)) = next(rest) {
        *rest = tail;
        // Not `||`: the right side must be read in any case.
        result |= both(rest, allowed);
    }
    result
}

fn both(rest: &mut &[&str], allowed: &BTreeSet<&str>) -> bool {
    let mut result = one(rest, allowed);
    while let Some(("AND", tail)) = next(rest) {
        *rest = tail;
        result &= one(rest, allowed);
    }
    result
}

fn one(rest: &mut &[&str], allowed: &BTreeSet<&str>) -> bool {
    let Some((word, tail)) = next(rest) else { return false };
    *rest = tail;
    if word == "(" {
        let result = either(rest, allowed);
        let closed = next(rest).filter(|(word, _)| *word == ")");
        *rest = closed.map_or(&[], |(_, tail)| tail);
        return result && closed.is_some();
    }
    let mut name = word.to_owned();
    if let Some(("WITH", [exception, tail @ ..])) = next(rest) {
        name = format!("{name} WITH {exception}");
        *rest = tail;
    }
    allowed.contains(name.as_str())
}

fn next<'a, 'w>(rest: &&'a [&'w str]) -> Option<(&'w str, &'a [&'w str])> {
    rest.split_first().map(|(first, tail)| (*first, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_permitted_if_some_choice_is() {
        let allowed = BTreeSet::from(["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]);
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0/MIT",
            "MIT AND Apache-2.0",
            "(GPL-3.0 OR MIT) AND Apache-2.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(permits(good, &allowed), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR GPL-3.0) AND GPL-2.0", "", "(MIT", "MIT)", "MIT WITH x"] {
            assert!(!permits(bad, &allowed), "{bad}");
        }
    }
}
