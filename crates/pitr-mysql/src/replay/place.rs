//! Where a replica is whose transactions have no names: kept beside the ledger while the replica itself cannot say.
//!
//! A replica forgets its place when it is given another source, and it may be killed in the middle of that. So the place is
//! written down before, as one that nothing moves from; and as one that only the replica knows, once it begins to apply.

use super::ReplayError;
use super::target::{Status, Target};
use crate::base::format::literal;
use crate::error::Error;
use crate::restore::LEDGER;

/// File and offset.
pub type Place = (String, u64);

/// What is known of the place without asking the replica.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kept {
    /// Nothing was applied since it was written.
    Standing(Place),
    /// Something may have been applied since.
    Left(Place),
}

/// Writes the place down: the replica is told nothing else before, and applies nothing until [`leave`].
pub async fn keep(target: &mut Target<'_>, place: &Place) -> Result<(), Error> {
    let session = &mut *target.session;
    session
        .execute(&format!(
            "CREATE TABLE IF NOT EXISTS {LEDGER}.place (one INT PRIMARY KEY, file VARCHAR(512) NOT NULL, offset_in_it BIGINT UNSIGNED NOT NULL, standing INT NOT NULL) ENGINE = InnoDB"
        ))
        .await?;
    let (file, offset) = (literal(&place.0), place.1);
    session.execute(&format!("REPLACE INTO {LEDGER}.place VALUES (1, {file}, {offset}, 1)")).await?;
    Ok(())
}

/// From here on only the replica knows its place.
pub async fn leave(target: &mut Target<'_>) -> Result<(), Error> {
    target.session.execute(&format!("UPDATE {LEDGER}.place SET standing = 0")).await?;
    Ok(())
}

/// Where an interrupted replay goes on; `None` where it had not begun.
pub async fn find(target: &mut Target<'_>) -> Result<Option<Place>, Error> {
    let Some(kept) = kept(target).await? else { return Ok(None) };
    let said = match target.settled().await {
        Ok(Status { applied, .. }) => applied.filter(|(file, _)| !file.is_empty()),
        // It was killed while it forgot what it knew, or while it made or removed files of what it had received.
        Err(error) if matches!(&error, Error::Sql(error) if matches!(error.code(), Some(1201 | 1871 | 1872))) => None,
        Err(error) => return Err(error),
    };
    match (said, kept) {
        // A server that was started again may have applied what it had received already.
        (Some(said), Kept::Standing(place)) => Ok(Some(if super::reaches(&said, &place) { said } else { place })),
        (Some(said), Kept::Left(_)) => Ok(Some(said)),
        (None, Kept::Standing(place)) => Ok(Some(place)),
        (None, Kept::Left((file, offset))) => Err(ReplayError::Lost { file, offset }.into()),
    }
}

async fn kept(target: &mut Target<'_>) -> Result<Option<Kept>, Error> {
    let row = match target.session.row(&format!("SELECT file, offset_in_it, standing FROM {LEDGER}.place")).await {
        // Not there yet.
        Err(error) if error.code() == Some(1146) => None,
        other => other?,
    };
    let Some(row) = row else { return Ok(None) };
    let number = |at| row.text(at).and_then(|text| text.parse::<u64>().ok());
    let (file, offset) = (row.text(0).unwrap_or_default(), number(1).unwrap_or_default());
    Ok(Some(if number(2) == Some(1) { Kept::Standing((file, offset)) } else { Kept::Left((file, offset)) }))
}
