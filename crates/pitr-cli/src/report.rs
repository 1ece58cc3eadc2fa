//! What a verb hands back, and how it is printed: text for people or one JSON document.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::Format;
use crate::failure::Failure;

/// Exit code of a run that finished but has something to say about it.
const DONE_WITH_WARNINGS: u8 = 3;

/// The result of a verb.
#[derive(Debug)]
pub struct Report {
    /// Name and version of the shape of `data`: `pitr.status/1`.
    pub schema: &'static str,
    /// For scripts.
    pub data: Value,
    /// For people: whole lines.
    pub text: String,
    /// What is not as it should be; any makes the exit code 3.
    pub warnings: Vec<Warning>,
    /// The next command to type.
    pub next: Vec<String>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone)]
pub struct Warning {
    /// A stable word for scripts.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// What to do about it.
    pub next: Vec<String>,
}

impl Report {
    /// A result without warnings.
    pub fn new(schema: &'static str, data: Value, text: impl Into<String>) -> Self {
        Self { schema, data, text: text.into(), warnings: Vec::new(), next: Vec::new() }
    }

    /// Adds the next command to type.
    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next.push(step.into());
        self
    }

    /// Prints the result and gives the exit code.
    pub fn print(self, format: Format) -> ExitCode {
        let code = if self.warnings.is_empty() { 0 } else { DONE_WITH_WARNINGS };
        match format {
            Format::Text => self.print_text(),
            Format::Json => print_json(&json!({
                "schema": self.schema,
                "success": true,
                "data": self.data,
                "warnings": self.warnings.iter().map(|warning| json!({
                    "code": warning.code, "message": warning.message, "next": warning.next,
                })).collect::<Vec<_>>(),
                "errors": [],
                "next": self.next,
            })),
        }
        ExitCode::from(code)
    }

    fn print_text(&self) {
        let mut out = self.text.trim_end().to_owned();
        for warning in &self.warnings {
            out.push_str(&format!("\n! {}", warning.message));
            for step in &warning.next {
                out.push_str(&format!("\n    -> {step}"));
            }
        }
        let mut steps = self.next.iter();
        if let Some(first) = steps.next() {
            out.push_str(&format!("\nNext: {first}"));
            for step in steps {
                out.push_str(&format!("\n      {step}"));
            }
        }
        if !out.is_empty() {
            print_lines(&out);
        }
    }
}

/// Prints a failure and gives its exit code.
pub fn print_failure(failure: &Failure, format: Format) -> ExitCode {
    match format {
        Format::Text => eprint_failure(failure),
        Format::Json => print_json(&json!({
            "schema": "pitr.error/1",
            "success": false,
            "data": failure.data,
            "warnings": [],
            "errors": [{
                "code": failure.kind.code(),
                "message": failure.message,
                "retryable": failure.kind.is_retryable(),
                "next": failure.next,
            }],
        })),
    }
    ExitCode::from(failure.kind.exit_code())
}

/// Prints a failure on stderr, as text.
pub fn eprint_failure(failure: &Failure) {
    if let Some(screen) = &failure.screen {
        eprintln!("{}", screen.trim_end());
        return;
    }
    eprintln!("pitr: {}", escape(&failure.message));
    for step in &failure.next {
        eprintln!("  next: {}", escape(step));
    }
}

fn print_json(value: &Value) {
    print_lines(&format!("{value:#}"));
}

/// A closed pipe (`pitr list | head`) is no failure.
fn print_lines(text: &str) {
    let written = writeln!(io::stdout().lock(), "{text}");
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        eprintln!("pitr: cannot write the result: {error}");
    }
}

/// Makes control characters visible, so that a name from a database cannot steer the terminal.
pub fn escape(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}
