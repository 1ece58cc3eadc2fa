//! What a look at a server found.

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Good,
    /// Could be better.
    Hint,
    /// Protected, but less than you may think.
    Warning,
    /// Not protected as long as this stays.
    Failure,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The setting or right that was looked at.
    pub topic: &'static str,
    /// What was found, as one sentence.
    pub message: String,
    /// What to do, as a statement or a line of a configuration file.
    pub fix: Option<String>,
}
