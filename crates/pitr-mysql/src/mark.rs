//! Named points: transactions in a table of our own, which whoever has the log finds again.
//!
//! A binary log has no place for a name, so `pitr mark` inserts one row. How the server writes that down depends on its
//! settings: as a row, as a statement, or inside of a compressed transaction.

use crate::connect::Settings;
use crate::error::{Error, ServerError};
use crate::event::{Event, Flavour, Header, Kind, body, bytes::Bytes};
use crate::limits::{MAX_MARK_NAME, MAX_MARK_TRANSACTION};
use crate::position::LogFile;
use crate::server::log_end;
use crate::sql::{Sql, SqlError};
use crate::unlogged::Unlogged;

/// The database in which the table is.
pub const DATABASE: &str = "pitr";
/// The table; its first column is the name.
pub const TABLE: &str = "mark";
/// How each row comes into it. The name follows in hexadecimal, so that nothing in it needs to be escaped.
const INSERT: &str = "INSERT INTO `pitr`.`mark` (`name`) VALUES (X'";

/// Writes a named point into the log of a server; returns where its log ends behind it.
pub async fn write(settings: &Settings, name: &str) -> Result<(LogFile, u64), Error> {
    let session = settings.open().await?;
    let (version, flavour) = (session.hello.version, session.hello.flavour);
    let mut sql = Sql::new(session.wire);
    refuse_what_hides_it(&mut sql, flavour, &version).await?;
    let insert = format!("{INSERT}{}')", hex::encode(name));
    if let Err(error) = sql.execute(&insert).await {
        if !is_missing(&error) {
            return Err(error.into());
        }
        make_table(&mut sql).await?;
        sql.execute(&insert).await?;
    }
    let end = log_end(&mut sql, flavour, &version).await?;
    sql.close().await;
    Ok(end)
}

/// A mark that does not reach the log, or cannot be read in it, would be found to be missing in an emergency.
async fn refuse_what_hides_it(sql: &mut Sql, flavour: Flavour, version: &str) -> Result<(), Error> {
    if let Some((option, value)) = Unlogged::ask(sql, flavour, version).await?.filters.into_iter().next() {
        return Err(ServerError::MarkHidden(format!("{option} is {value}")).into());
    }
    let shortest = "SELECT @@GLOBAL.log_bin_compress_min_len FROM DUAL WHERE @@GLOBAL.log_bin_compress = 1";
    if flavour == Flavour::Mariadb
        && let Some(length) = sql.value(shortest).await?
        && length.parse::<usize>().is_ok_and(|length| length < INSERT.len() + 2 * MAX_MARK_NAME + 2)
    {
        return Err(ServerError::MarkHidden(format!("log_bin_compress_min_len is {length}")).into());
    }
    Ok(())
}

fn is_missing(error: &SqlError) -> bool {
    const NO_SUCH_DATABASE: u16 = 1049;
    const NO_SUCH_TABLE: u16 = 1146;
    matches!(error.code(), Some(NO_SUCH_DATABASE | NO_SUCH_TABLE))
}

async fn make_table(sql: &mut Sql) -> Result<(), SqlError> {
    sql.execute(&format!("CREATE DATABASE IF NOT EXISTS `{DATABASE}`")).await?;
    // The name first, where a reader of the log finds it; a key, which some servers ask for.
    let table = format!(
        "CREATE TABLE IF NOT EXISTS `{DATABASE}`.`{TABLE}` (name VARBINARY({MAX_MARK_NAME}) NOT NULL, \
         id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, \
         at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)) ENGINE = InnoDB"
    );
    sql.execute(&table).await.map(drop)
}

/// Finds named points among the events of a log, which it is shown in order.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    /// The number under which the events of the transaction speak of the table.
    table: Option<u64>,
    name: Option<String>,
}

impl Marks {
    /// Looks at the next event.
    pub fn see(&mut self, event: &Event<'_>) {
        match event.header.kind {
            Kind::GTID | Kind::ANONYMOUS_GTID | Kind::GTID_TAGGED | Kind::MARIA_GTID => *self = Self::default(),
            Kind::TABLE_MAP => self.table = table(event.body).or(self.table),
            Kind::WRITE_ROWS | Kind::WRITE_ROWS_V1 => {
                let rows = self.table.and_then(|table| row(event, table));
                self.name = rows.or_else(|| self.name.take());
            }
            Kind::QUERY => self.name = statement(event).or_else(|| self.name.take()),
            Kind::TRANSACTION_PAYLOAD => self.unpack(event.body).unwrap_or_default(),
            _ => {}
        }
    }

    /// The name of the point, if the transaction that ends here marks one.
    pub fn take(&mut self) -> Option<String> {
        self.table = None;
        self.name.take()
    }

    /// Looks into a compressed transaction, if it is small enough to be a mark.
    fn unpack(&mut self, body: &[u8]) -> Option<()> {
        let (compressed, length) = payload(body)?;
        let events = zstd::bulk::decompress(compressed, length.min(MAX_MARK_TRANSACTION + 1)).ok()?;
        let mut rest = events.as_slice();
        while let Some(header) = Header::parse(rest) {
            let (event, behind) = rest.split_at_checked(header.length as usize)?;
            // Events in there have no checksums.
            self.see(&Event { offset: 0, header, body: event.get(Header::LEN..)? });
            rest = behind;
        }
        Some(())
    }
}

/// The compressed events of a transaction, and their length; `None` where it is no small one compressed with zstd.
fn payload(body: &[u8]) -> Option<(&[u8], usize)> {
    const END: u64 = 0;
    const COMPRESSION: u64 = 2;
    const LENGTH: u64 = 3;
    const ZSTD: u64 = 0;
    let mut body = Bytes(body);
    let mut length = None;
    loop {
        let field = body.packed()?;
        if field == END {
            return Some((body.0, length?));
        }
        let size = usize::try_from(body.packed()?).ok()?;
        let mut value = Bytes(body.take(size)?);
        match field {
            COMPRESSION if value.packed()? != ZSTD => return None,
            LENGTH => length = usize::try_from(value.packed()?).ok().filter(|length| *length <= MAX_MARK_TRANSACTION),
            _ => {}
        }
    }
}

/// The number of the table, if a `TABLE_MAP` is about ours.
fn table(body: &[u8]) -> Option<u64> {
    let mut body = Bytes(body);
    let number = body.uint(6)?;
    let _flags = body.u16()?;
    let mut name = || {
        let length = usize::from(body.u8()?);
        let name = body.take(length)?;
        body.u8()?;
        Some(name)
    };
    (name()? == DATABASE.as_bytes() && name()? == TABLE.as_bytes()).then_some(number)
}

/// The first column of the first row, if a `WRITE_ROWS` is about this table.
fn row(event: &Event<'_>, table: u64) -> Option<String> {
    let mut body = Bytes(event.body);
    if body.uint(6)? != table {
        return None;
    }
    let _flags = body.u16()?;
    if event.header.kind == Kind::WRITE_ROWS {
        // Its own two bytes count.
        let more = usize::from(body.u16()?).checked_sub(2)?;
        body.take(more)?;
    }
    let columns = usize::try_from(body.packed()?).ok()?;
    let present = body.take(columns.div_ceil(8))?;
    let nulls = present.iter().map(|byte| byte.count_ones() as usize).sum::<usize>().div_ceil(8);
    let nulls = body.take(nulls)?;
    let (is_present, is_null) = (present.first()? & 1 == 1, nulls.first()? & 1 == 1);
    if !is_present || is_null {
        return None;
    }
    let length = usize::from(body.u8()?);
    String::from_utf8(body.take(length)?.to_vec()).ok()
}

/// The name in a statement that inserts one.
fn statement(event: &Event<'_>) -> Option<String> {
    let query = body::Query::parse(event).ok()?;
    let name = query.statement.strip_prefix(INSERT.as_bytes())?.strip_suffix(b"')")?;
    String::from_utf8(hex::decode(name).ok()?).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn see(marks: &mut Marks, kind: Kind, body: &[u8]) {
        let length = (Header::LEN + body.len()) as u32;
        let header = Header { timestamp: 1, kind, server_id: 1, length, log_pos: 0, flags: 0 };
        marks.see(&Event { offset: 0, header, body });
    }

    fn map(database: &str, table: &str) -> Vec<u8> {
        let mut body = b"\x09\0\0\0\0\0\0\0".to_vec();
        for name in [database, table] {
            body.push(name.len() as u8);
            body.extend_from_slice(name.as_bytes());
            body.push(0);
        }
        body.extend_from_slice(b"\x03\x0f\x08\x11");
        body
    }

    const ROW: &[u8] = b"\x09\0\0\0\0\0\x01\0\x02\0\x03\x07\0\x06before\x01\0\0\0\0\0\0\0";

    #[test]
    fn a_row_of_our_table_is_a_mark_and_one_of_another_is_none() {
        let mut marks = Marks::default();
        see(&mut marks, Kind::TABLE_MAP, &map("pitr", "mark"));
        see(&mut marks, Kind::WRITE_ROWS, ROW);
        assert_eq!((marks.take().as_deref(), marks.take()), (Some("before"), None));
        see(&mut marks, Kind::TABLE_MAP, &map("pitr", "other"));
        see(&mut marks, Kind::WRITE_ROWS, ROW);
        assert_eq!(marks.take(), None);
    }

    #[test]
    fn a_statement_that_inserts_one_is_a_mark_and_one_that_looks_alike_is_none() {
        // Thread, seconds, length of the database's name, error, length of the variables; no variables, no name.
        let head = b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        let query = |statement: &str| [&head[..], statement.as_bytes()].concat();
        let mut marks = Marks::default();
        for (statement, name) in [
            ("INSERT INTO `pitr`.`mark` (`name`) VALUES (X'6974277320')", Some("it's ")),
            ("INSERT INTO `pitr`.`mark` (`name`) VALUES (X'6')", None),
            ("INSERT INTO `pitr`.`mark` (`name`) VALUES (X'61'), (X'62')", None),
            ("INSERT INTO `shop`.`mark` (`name`) VALUES (X'61')", None),
        ] {
            see(&mut marks, Kind::QUERY, &query(statement));
            assert_eq!(marks.take().as_deref(), name, "{statement}");
        }
    }

    #[test]
    fn a_transaction_that_is_packed_is_looked_into() {
        let mut events = Vec::new();
        for (kind, body) in [(Kind::TABLE_MAP, map("pitr", "mark")), (Kind::WRITE_ROWS, ROW.to_vec())] {
            let length = (Header::LEN + body.len()) as u32;
            let header = Header { timestamp: 1, kind, server_id: 1, length, log_pos: 0, flags: 0 };
            events.extend_from_slice(&header.encode());
            events.extend_from_slice(&body);
        }
        let mut body = vec![2, 1, 0, 3, 1, events.len() as u8, 0];
        body.extend(zstd::bulk::compress(&events, 1).unwrap());
        let mut marks = Marks::default();
        see(&mut marks, Kind::TRANSACTION_PAYLOAD, &body);
        assert_eq!(marks.take().as_deref(), Some("before"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..120)) {
            let mut marks = Marks { table: Some(9), name: None };
            for kind in [Kind::TABLE_MAP, Kind::WRITE_ROWS, Kind::WRITE_ROWS_V1, Kind::QUERY, Kind::TRANSACTION_PAYLOAD] {
                see(&mut marks, kind, &bytes);
            }
        }
    }
}
