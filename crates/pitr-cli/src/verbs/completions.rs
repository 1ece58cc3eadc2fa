//! `pitr completions` and `pitr man`: both made from the command line itself.

use clap::CommandFactory;
use clap_complete::Shell;
use pitr_core::ErrorKind;
use serde_json::json;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::report::Report;

/// The completion script of a shell.
pub fn completions(shell: Shell) -> Result<Report, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pitr", &mut script);
    text("pitr.completions/1", script)
}

/// The manual page, in troff.
pub fn man() -> Result<Report, Failure> {
    let mut page = Vec::new();
    let failed =
        |error: std::io::Error| Failure::new(ErrorKind::Failed, format!("cannot make the manual page: {error}"));
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(failed)?;
    text("pitr.man/1", page)
}

fn text(schema: &'static str, bytes: Vec<u8>) -> Result<Report, Failure> {
    let text = String::from_utf8(bytes).map_err(|error| Failure::new(ErrorKind::Failed, error.to_string()))?;
    Ok(Report::new(schema, json!({ "text": text }), text))
}
