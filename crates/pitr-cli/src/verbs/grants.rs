//! `pitr grants`: pending.
use crate::{cli::Grants, failure::Failure, report::Report};
/// Pending.
pub fn run(_: &Grants) -> Result<Report, Failure> {
    Err(Failure::new(pitr_core::ErrorKind::Failed, "pending"))
}
