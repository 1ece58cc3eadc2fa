//! What the server's own tools say of its log: `pg_waldump`, or the extension `pg_walinspect` where a
//! distribution has no client programs.

use pitr_core::Timestamp;
use pitr_postgres::Lsn;
use pitr_postgres::wal::{Detail, Record};

use super::Server;

/// One record, in the words that both sides know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub lsn: Lsn,
    pub prev: Lsn,
    pub len: u32,
    pub xid: u32,
    pub resource: String,
    /// When the transaction ended or was prepared; no other time is printed by all versions.
    pub time: Option<Timestamp>,
}

impl Known {
    pub fn of(record: &Record) -> Self {
        let time = match &record.detail {
            Detail::Commit(settled) | Detail::Abort(settled) => Some(settled.time),
            Detail::Prepare { time, .. } => Some(*time),
            _ => None,
        };
        Self {
            lsn: record.lsn,
            prev: record.prev,
            len: record.total_len,
            xid: record.xid,
            resource: record.resource.name().to_owned(),
            time,
        }
    }
}

/// All records from the first to the last of these files, by the best tool there is; `None` if there is none.
pub async fn all_records(server: &Server, first: &str, last: &str, start: Lsn, end: Lsn) -> Option<Vec<Known>> {
    if server.has("pg_waldump") {
        return Some(waldump(server, first, last));
    }
    let client = server.connect().await;
    client.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect").await.ok()?;
    let query = "SELECT start_lsn::text, prev_lsn::text, record_length, xid::text, resource_manager, record_type, \
                 description FROM pg_get_wal_records_info($1::text::pg_lsn, $2::text::pg_lsn)";
    let rows = client.query(query, &[&start.to_string(), &end.to_string()]).await.unwrap();
    let known = rows.iter().map(|row| {
        let (resource, kind, description): (String, String, Option<String>) = (row.get(4), row.get(5), row.get(6));
        Known {
            lsn: row.get::<_, &str>(0).parse().unwrap(),
            prev: row.get::<_, &str>(1).parse().unwrap(),
            len: u32::try_from(row.get::<_, i32>(2)).unwrap(),
            xid: row.get::<_, &str>(3).parse().unwrap(),
            time: time_of(&resource, &format!("{kind} {}", description.unwrap_or_default())),
            resource,
        }
    });
    Some(known.collect())
}

fn waldump(server: &Server, first: &str, last: &str) -> Vec<Known> {
    let archive = server.archive();
    let output = server.program("pg_waldump", &["-p", archive.to_str().unwrap(), first, last]);
    String::from_utf8_lossy(&output.stdout).lines().map(parse_line).collect()
}

/// `rmgr: Heap  len (rec/tot):  54/  150, tx:  725, lsn: 0/01000028, prev 0/00000000, desc: INSERT …`
fn parse_line(line: &str) -> Known {
    let after = |word: &str| line.split_once(word).unwrap_or_else(|| panic!("no {word:?} in {line:?}")).1.trim_start();
    let until = |text: &str, end: char| text.split(end).next().unwrap().trim().to_owned();
    let resource = until(after("rmgr:"), ' ');
    Known {
        lsn: until(after("lsn:"), ',').parse().unwrap(),
        prev: until(after("prev "), ',').parse().unwrap(),
        len: until(after("len (rec/tot):").split_once('/').unwrap().1, ',').parse().unwrap(),
        xid: until(after("tx:"), ',').parse().unwrap(),
        time: time_of(&resource, after("desc:")),
        resource,
    }
}

/// The first `2026-11-23 12:00:00.123456` in the description of a transaction's end.
fn time_of(resource: &str, description: &str) -> Option<Timestamp> {
    let ends = ["COMMIT", "ABORT", "PREPARE"].iter().any(|kind| description.starts_with(kind));
    if resource != "Transaction" || !ends {
        return None;
    }
    // Builds without names of time zones write the offset.
    let zone = [" UTC", "+00"].iter().filter_map(|zone| description.find(zone)).min();
    let before = &description[..zone.unwrap_or_else(|| panic!("no time in {description:?}"))];
    let text = before.rmatch_indices(' ').nth(1).map_or(before, |(at, _)| &before[at + 1..]);
    let time = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f");
    Some(time.unwrap_or_else(|error| panic!("{text:?} in {description:?}: {error}")).and_utc())
}
