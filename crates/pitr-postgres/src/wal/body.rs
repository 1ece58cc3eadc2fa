//! The contents of transaction and XLOG records.
//!
//! Layouts: `xl_xact_commit` and its optional parts in `access/xact.h` (parsed there by `ParseCommitRecord`),
//! `TwoPhaseFileHeader` in `twophase.c`, `CheckPoint` in `catalog/pg_control.h`, the rest in `xlog_internal.h`.

use pitr_core::Timestamp;

use crate::limits::{MAX_KEPT_BODY, MAX_RESTORE_POINT_NAME};
use crate::lsn::{Lsn, TimelineId};

use super::bytes::Fields;
use super::record::{Checkpoint, Detail, Parameters, RM_XACT, RM_XLOG, RecordHeader, Settled};

/// Enough of any record that is read here, except for a prepared transaction's lists.
const SHORT: usize = 256;

/// `xl_info`: the commit or abort carries `xinfo` and what it announces.
const XACT_HAS_INFO: u8 = 0x80;

/// How many bytes of a record's body [`read`] wants to see.
pub(super) fn wanted(header: &RecordHeader) -> usize {
    match (header.resource, header.info & 0xF0) {
        (RM_XACT, info) => match info & 0x70 {
            0x30 | 0x40 => MAX_KEPT_BODY,
            0x00 | 0x10 | 0x20 => SHORT,
            _ => 0,
        },
        // Next oid, no-op and full-page images say nothing.
        (RM_XLOG, 0x20 | 0x30 | 0xA0 | 0xB0 | 0xC0 | 0xE0) => 0,
        (RM_XLOG, _) => SHORT,
        _ => 0,
    }
}

/// Reads what a record says from the first [`wanted`] bytes of its body.
///
/// # Errors
/// A few words on what does not fit the format of a record that must be understood.
pub(super) fn read(header: &RecordHeader, body: &[u8], version: u32) -> Result<Detail, &'static str> {
    match (header.resource, header.info & 0xF0) {
        (RM_XACT, _) => read_xact(header, body, version),
        (RM_XLOG, 0x20 | 0x30 | 0xA0 | 0xB0 | 0xC0 | 0xE0) => Ok(Detail::Other),
        (RM_XLOG, info) => read_xlog(info, main_data(body).ok_or("no main data")?),
        _ => Ok(Detail::Other),
    }
}

/// The part after the block and other headers. Records that are read here refer to no blocks.
fn main_data(body: &[u8]) -> Option<Fields<'_>> {
    let mut fields = Fields(body);
    while let Some(id) = fields.u8() {
        match id {
            255 => fields.skip(1)?,
            254 => fields.skip(4)?,
            253 => {
                fields.skip(2)?;
                continue;
            }
            252 => {
                fields.skip(4)?;
                continue;
            }
            _ => return None,
        }
        return Some(fields);
    }
    Some(fields)
}

fn read_xact(header: &RecordHeader, body: &[u8], version: u32) -> Result<Detail, &'static str> {
    let main = || main_data(body).ok_or("transaction record without main data");
    let cut = "transaction record is cut off";
    let settled = |prepared| settled(header, main()?, prepared, version).ok_or(cut);
    match header.info & 0x70 {
        0x00 => settled(false).map(Detail::Commit),
        0x20 => settled(false).map(Detail::Abort),
        0x30 => settled(true).map(Detail::Commit),
        0x40 => settled(true).map(Detail::Abort),
        0x10 => prepare(main()?).ok_or(cut),
        _ => Ok(Detail::Other),
    }
}

fn settled(header: &RecordHeader, mut main: Fields<'_>, prepared: bool, version: u32) -> Option<Settled> {
    let time = timestamp(main.i64()?);
    let xinfo = if header.info & XACT_HAS_INFO != 0 { main.u32()? } else { 0 };
    if xinfo & 1 != 0 {
        main.skip(8)?;
    }
    let subtransactions = if xinfo & 2 != 0 { main.u32()? } else { 0 };
    let xid = if prepared { prepared_xid(main, xinfo, subtransactions, version) } else { Some(header.xid) };
    Some(Settled { xid, time, subtransactions, prepared })
}

/// Walks over the lists of a prepared transaction's end to its identifier; `None` if they are longer than
/// what was kept.
fn prepared_xid(mut main: Fields<'_>, xinfo: u32, subtransactions: u32, version: u32) -> Option<u32> {
    main.skip(u64::from(subtransactions) * 4)?;
    let stats_item = if version >= 18 { 16 } else { 12 };
    // In the order in which they are written: relations, dropped statistics, invalidations.
    for (bit, item) in [(2, 12), (8, stats_item), (3, 16)] {
        if xinfo & (1 << bit) != 0 {
            let count = main.u32()?;
            main.skip(u64::from(count) * item)?;
        }
    }
    if xinfo & 0x10 != 0 { main.u32() } else { None }
}

fn prepare(mut main: Fields<'_>) -> Option<Detail> {
    // Magic and length come first, the database stands between identifier and time.
    main.skip(8)?;
    let xid = main.u32()?;
    main.skip(4)?;
    Some(Detail::Prepare { xid, time: timestamp(main.i64()?) })
}

fn read_xlog(info: u8, main: Fields<'_>) -> Result<Detail, &'static str> {
    let detail = match info {
        0x00 => checkpoint(main, true),
        0x10 => checkpoint(main, false),
        0x40 => Some(Detail::Switch),
        0x50 => backup_end(main),
        0x60 => parameters(main),
        0x70 => restore_point(main),
        0x80 => full_page_writes(main),
        0x90 => end_of_recovery(main),
        0xD0 => overwrite_contrecord(main),
        _ => Some(Detail::Other),
    };
    detail.ok_or("XLOG record is cut off")
}

fn checkpoint(mut main: Fields<'_>, shutdown: bool) -> Option<Detail> {
    let redo = Lsn(main.u64()?);
    let (timeline, previous) = (TimelineId(main.u32()?), TimelineId(main.u32()?));
    // `fullPageWrites`, from 17 on `wal_level`, and padding: 8 bytes in all versions.
    main.skip(8)?;
    let next_xid = main.u64()?;
    // Next oid, multixacts and the oldest of each: 28 bytes, and 4 of padding.
    main.skip(32)?;
    let seconds = main.i64()?;
    let time = Timestamp::from_timestamp(seconds, 0).unwrap_or(Timestamp::MIN_UTC);
    Some(Detail::Checkpoint(Checkpoint { shutdown, redo, timeline, previous, next_xid, time }))
}

fn backup_end(mut main: Fields<'_>) -> Option<Detail> {
    Some(Detail::BackupEnd { start: Lsn(main.u64()?) })
}

fn parameters(mut main: Fields<'_>) -> Option<Detail> {
    Some(Detail::ParameterChange(Parameters {
        max_connections: main.u32()?,
        max_worker_processes: main.u32()?,
        max_wal_senders: main.u32()?,
        max_prepared_transactions: main.u32()?,
        max_locks_per_transaction: main.u32()?,
        wal_level: main.u32()?,
    }))
}

fn restore_point(mut main: Fields<'_>) -> Option<Detail> {
    let time = timestamp(main.i64()?);
    let field: [u8; MAX_RESTORE_POINT_NAME + 1] = main.array()?;
    let name = field.split(|byte| *byte == 0).next()?;
    // The name is in the encoding of its database, which the log does not tell.
    Some(Detail::RestorePoint { time, name: String::from_utf8_lossy(name).into_owned() })
}

fn full_page_writes(mut main: Fields<'_>) -> Option<Detail> {
    Some(Detail::FullPageWrites(main.u8()? != 0))
}

fn end_of_recovery(mut main: Fields<'_>) -> Option<Detail> {
    let time = timestamp(main.i64()?);
    Some(Detail::EndOfRecovery { time, timeline: TimelineId(main.u32()?), previous: TimelineId(main.u32()?) })
}

fn overwrite_contrecord(mut main: Fields<'_>) -> Option<Detail> {
    Some(Detail::OverwriteContrecord { lost: Lsn(main.u64()?), time: timestamp(main.i64()?) })
}

/// Microseconds since 2000-01-01 UTC. A clock outside of what a calendar can show is taken as its edge.
fn timestamp(micros: i64) -> Timestamp {
    const EPOCH: i64 = 946_684_800_000_000;
    let edge = if micros < 0 { Timestamp::MIN_UTC } else { Timestamp::MAX_UTC };
    micros.checked_add(EPOCH).and_then(Timestamp::from_timestamp_micros).unwrap_or(edge)
}
