//! `pg_control`: checked, and disarmed, before it makes a directory startable.

/// Offset of the checkpoint's position; the same in all supported versions.
const CHECKPOINT: std::ops::Range<usize> = 32..40;

/// A position that no log has. A server that is started without its `backup_label` would otherwise begin at the
/// wrong checkpoint and open a broken database without a word; so it stops with "could not locate a valid checkpoint
/// record". With the label, the server takes the position from there and writes it back.
const NOWHERE: u64 = 0xDEAD;

/// Where the checksum can stand: the structure's length differs between versions.
const CHECKSUM_OFFSETS: std::ops::Range<usize> = 200..512;

/// Checks a control file and points it at no checkpoint. The error is a sentence about the file.
pub fn disarm(mut content: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    let at = checksum_offset(&content).ok_or("its checksum is wrong")?;
    content.get_mut(CHECKPOINT).ok_or("it is too short")?.copy_from_slice(&NOWHERE.to_le_bytes());
    let sum = crc32c::crc32c(content.get(..at).unwrap_or_default());
    content.get_mut(at..at + 4).ok_or("it is too short")?.copy_from_slice(&sum.to_le_bytes());
    Ok(content)
}

/// The offset at which the CRC32C of everything before it stands.
fn checksum_offset(content: &[u8]) -> Option<usize> {
    CHECKSUM_OFFSETS.step_by(4).find(|at| {
        let stored = content.get(*at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
        stored == content.get(..*at).map(crc32c::crc32c)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_disarmed_file_passes_its_own_check_and_a_damaged_one_does_not() {
        let mut content = vec![7; 8192];
        let sum = crc32c::crc32c(&content[..292]);
        content[292..296].copy_from_slice(&sum.to_le_bytes());
        let disarmed = disarm(content.clone()).unwrap();
        assert_eq!(checksum_offset(&disarmed), Some(292));
        assert_eq!(disarmed[32..40], NOWHERE.to_le_bytes());
        content[100] ^= 1;
        assert!(disarm(content).is_err());
        assert!(disarm(vec![]).is_err());
    }
}
