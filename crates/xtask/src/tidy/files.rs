//! What may lie where, how long it may be, and what it may not say.

use anyhow::Result;

use super::{Findings, House};

/// What the top level may hold, besides dot files and licences.
const TOP: [&str; 7] = ["Cargo.toml", "Cargo.lock", "crates", "integration-tests", "docker", "docs", "README.md"];
/// A file that does not fit a sitting is split by noun.
const MAX_LINES: usize = 600;
/// The seam must stay small enough to be read at once.
const MAX_CORE_LINES: usize = 1_500;

/// Words that are about how the project is made or where, and not about the project. Written in two halves, so
/// that this file does not find itself.
const FORBIDDEN: [(&str, &str); 9] = [
    ("pypi", ".org"),
    ("npmjs", ".org"),
    ("deb.debian", ".org"),
    ("index.crates", ".io"),
    ("static.crates", ".io"),
    ("/wo", "rk/"),
    ("sub", "agent"),
    ("sub-", "agent"),
    ("Cla", "ude"),
];

pub fn check(house: &House, findings: &mut Findings) -> Result<()> {
    let mut core_lines = 0;
    for file in &house.files {
        top_level(file, findings);
        if file == "Cargo.lock" {
            continue;
        }
        let text = house.read(file)?;
        let lines = text.lines().count();
        if file.ends_with(".rs") && lines > MAX_LINES {
            findings.push(format!("{file}: {lines} lines, more than {MAX_LINES}"));
        }
        if file.starts_with("crates/pitr-core/src/") {
            core_lines += lines;
        }
        forbidden(file, &text, findings);
    }
    if core_lines > MAX_CORE_LINES {
        findings.push(format!("crates/pitr-core: {core_lines} lines, more than {MAX_CORE_LINES}"));
    }
    Ok(())
}

fn top_level(file: &str, findings: &mut Findings) {
    let top = file.split('/').next().unwrap_or(file);
    if !TOP.contains(&top) && !top.starts_with('.') && !top.starts_with("LICENSE") {
        findings.push(format!("{top}: does not belong at the top level"));
    }
}

fn forbidden(file: &str, text: &str, findings: &mut Findings) {
    for (number, line) in text.lines().enumerate() {
        for (head, tail) in FORBIDDEN {
            if line.contains(&format!("{head}{tail}")) {
                findings.push(format!("{file}:{}: says {head}{tail:?}", number + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stray_entry_at_the_top_is_found() {
        let mut findings = Findings::new();
        for file in ["Cargo.toml", "crates/x/src/lib.rs", ".ci/run", "LICENSE-MIT", "docs/a.md"] {
            top_level(file, &mut findings);
        }
        assert_eq!(findings, Findings::new());
        top_level("scripts/run.sh", &mut findings);
        assert_eq!(findings.len(), 1);
    }

    #[test]
    fn a_forbidden_word_is_found_with_its_line() {
        let mut findings = Findings::new();
        let (head, tail) = FORBIDDEN[0];
        forbidden("README.md", &format!("one\ntwo {head}{tail}\n"), &mut findings);
        assert_eq!(findings.len(), 1);
        assert!(findings.iter().all(|finding| finding.starts_with("README.md:2:")));
    }
}
