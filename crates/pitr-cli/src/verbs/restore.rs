//! `pitr restore`: pending.
use crate::{cli::Restore, context::Context, failure::Failure, report::Report};
/// Pending.
pub async fn run(_: &Context, _: &Restore, _: bool) -> Result<Report, Failure> {
    Err(Failure::new(pitr_core::ErrorKind::Failed, "pending"))
}
