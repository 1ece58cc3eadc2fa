//! Docs name files and types; this finds the names that no longer exist.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Findings, House};
use crate::shell::root;

/// Directories of ours: what begins with one of them, in backticks, is a path.
const OURS: [&str; 6] = ["crates/", "integration-tests/", "docs/", "docker/", ".ci/", ".cargo/"];
/// Types of other crates that docs may speak of.
const FOREIGN: [&str; 2] = ["PutMode", "Arc"];

pub fn check(house: &House, findings: &mut Findings) -> Result<()> {
    let mut words = BTreeSet::new();
    let mut defined = BTreeSet::new();
    for file in house.files.iter().filter(|file| file.ends_with(".rs")) {
        let text = house.read(file)?;
        collect(&text, &mut words, &mut defined);
    }
    for file in house.files.iter().filter(|file| file.ends_with(".md")) {
        let text = house.read(file)?;
        for (number, line) in text.lines().enumerate() {
            let place = format!("{file}:{}", number + 1);
            for token in line.split('`').skip(1).step_by(2) {
                if names_a_missing_file(token) {
                    findings.push(format!("{place}: there is no {token}"));
                } else if let Some(name) = missing_name(token, &words, &defined) {
                    findings.push(format!("{place}: {token} names {name}, which is not in the sources"));
                }
            }
            for link in relative_links(line) {
                let from = root().join(file);
                if from.parent().is_some_and(|dir| !dir.join(link).exists()) {
                    findings.push(format!("{place}: links to {link}, which does not exist"));
                }
            }
        }
    }
    Ok(())
}

/// All identifiers, and those that are declared.
fn collect(text: &str, words: &mut BTreeSet<String>, defined: &mut BTreeSet<String>) {
    let mut before = "";
    for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty()) {
        if ["struct", "enum", "trait", "type", "fn", "mod", "const", "static"].contains(&before) {
            defined.insert(word.to_owned());
        }
        words.insert(word.to_owned());
        before = word;
    }
}

fn names_a_missing_file(token: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    OURS.iter().any(|ours| token.starts_with(ours)) && token.chars().all(plain) && !root().join(token).exists()
}

/// For `Type::member` and `pitr_crate::item`: the part that the sources do not know.
fn missing_name<'t>(token: &'t str, words: &BTreeSet<String>, defined: &BTreeSet<String>) -> Option<&'t str> {
    let path = token.split(['(', '<', ' ']).next()?;
    let parts: Vec<&str> = path.split("::").collect();
    let identifier = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let (first, rest) = parts.split_first()?;
    if rest.is_empty() || !parts.iter().all(identifier) || FOREIGN.contains(first) {
        return None;
    }
    if first.starts_with("pitr_") {
        let item = rest.last()?;
        return (!defined.contains(*item)).then_some(item);
    }
    if !first.starts_with(|c: char| c.is_ascii_uppercase()) {
        return None;
    }
    if !defined.contains(*first) {
        return Some(first);
    }
    rest.iter().find(|part| !words.contains(**part)).copied()
}

/// Targets of Markdown links into this repository, without their anchors.
fn relative_links(line: &str) -> Vec<&str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let relative =
        targets.filter(|target| !target.contains("://") && !target.starts_with(['#', '/']) && !target.contains(' '));
    relative.filter_map(|target| target.split('#').next()).filter(|target| !target.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_type_is_found() {
        let (mut words, mut defined) = (BTreeSet::new(), BTreeSet::new());
        collect(
            "pub struct Archive; impl Archive { pub fn catalog() {} } enum E { Variant }",
            &mut words,
            &mut defined,
        );
        let missing = |token| missing_name(token, &words, &defined);
        for good in ["Archive::catalog", "E::Variant", "pitr_archive::Archive", "PutMode::Create", "plain", "a::b"] {
            assert_eq!(missing(good), None, "{good}");
        }
        assert_eq!(missing("Store::catalog"), Some("Store"));
        assert_eq!(missing("Archive::list_all"), Some("list_all"));
        assert_eq!(missing("pitr_archive::Store"), Some("Store"));
    }

    #[test]
    fn only_links_into_the_repository_are_followed() {
        let line = "see [a](guide/a.md#top), [b](https://example.org/x) and [c](#below)";
        assert_eq!(relative_links(line), ["guide/a.md"]);
    }
}
