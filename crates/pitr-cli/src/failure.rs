//! How the program fails: one message, its kind, and what to type next.

use std::fmt;

use pitr_core::{Classify, ErrorKind};

/// A failure on its way to the screen.
#[derive(Debug)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: ErrorKind,
    /// What was tried, on what, and what happened.
    pub message: String,
    /// Commands or steps that lead on, the likeliest first.
    pub next: Vec<String>,
    /// A whole screen that explains it, printed instead of message and steps.
    pub screen: Option<String>,
    /// What a script may want to know.
    pub data: Option<serde_json::Value>,
}

impl Failure {
    /// A failure with a message of the program's own.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), next: Vec::new(), screen: None, data: None }
    }

    /// Adds a step that leads on.
    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next.push(step.into());
        self
    }

    /// Says what was being done.
    pub fn during(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Every classified error becomes a failure with the messages of its whole chain of sources.
impl<E: Classify> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Wrappers often repeat their source; say each thing once.
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            source = cause.source();
        }
        Self { next: error.hint().into_iter().collect(), ..Self::new(error.kind(), message) }
    }
}

/// Adds what was being done to a failure that passes by.
pub trait During<T> {
    /// Prefixes the failure's message.
    fn during(self, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> During<T> for Result<T, E> {
    fn during(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| error.into().during(what))
    }
}
