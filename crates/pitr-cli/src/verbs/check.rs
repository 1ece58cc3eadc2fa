//! `pitr check`: pending.
use crate::{cli::MaybeSource, context::Context, failure::Failure, report::Report};
/// Pending.
pub async fn run(_: &Context, _: &MaybeSource) -> Result<Report, Failure> {
    Err(Failure::new(pitr_core::ErrorKind::Failed, "pending"))
}
