//! The messages that walsender and receiver exchange inside `CopyBoth`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pitr_core::Timestamp;

use crate::lsn::Lsn;

/// Seconds from 1970 to 2000, where the server's clock begins.
const EPOCH_OFFSET: i64 = 946_684_800;

/// What a walsender sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromServer {
    /// Log.
    Wal {
        /// Position of the first byte.
        start: Lsn,
        /// The bytes.
        data: Bytes,
    },
    /// A sign of life.
    KeepAlive {
        /// True if the server ends the connection unless it is answered soon.
        reply_requested: bool,
    },
}

impl FromServer {
    /// Reads the body of a `CopyData` message; `None` if it is neither.
    pub fn parse(mut body: Bytes) -> Option<Self> {
        const WAL_HEADER: usize = 24;
        const KEEPALIVE: usize = 17;
        let kind = *body.first()?;
        body.advance(1);
        match kind {
            b'w' if body.len() >= WAL_HEADER => {
                let start = Lsn(body.get_u64());
                // End of the log on the server, and its clock.
                body.advance(16);
                Some(Self::Wal { start, data: body })
            }
            b'k' if body.len() == KEEPALIVE => {
                body.advance(16);
                Some(Self::KeepAlive { reply_requested: body.get_u8() != 0 })
            }
            _ => None,
        }
    }
}

/// A standby status update.
///
/// Only what is durable is reported, as written as well as flushed: `synchronous_commit = remote_write` must not mean
/// "in the memory of another process". Nothing is ever applied.
pub fn status(durable: Lsn, now: Timestamp, reply_requested: bool) -> BytesMut {
    const APPLIED: u64 = 0;
    let mut body = BytesMut::with_capacity(34);
    body.put_u8(b'r');
    body.put_u64(durable.0);
    body.put_u64(durable.0);
    body.put_u64(APPLIED);
    body.put_i64(now.timestamp_micros() - EPOCH_OFFSET * 1_000_000);
    body.put_u8(u8::from(reply_requested));
    body
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn log_and_signs_of_life_are_read_and_anything_else_is_refused() {
        let mut wal = BytesMut::from(&b"w"[..]);
        wal.put_u64(0x5000_0000);
        wal.put_u64(0x5000_0004);
        wal.put_i64(7);
        wal.put_slice(b"log!");
        let expected = FromServer::Wal { start: Lsn(0x5000_0000), data: Bytes::from_static(b"log!") };
        assert_eq!(FromServer::parse(wal.freeze()), Some(expected));
        let mut keepalive = BytesMut::from(&b"k"[..]);
        keepalive.put_u64(1);
        keepalive.put_i64(2);
        keepalive.put_u8(1);
        let keepalive = keepalive.freeze();
        assert_eq!(FromServer::parse(keepalive.clone()), Some(FromServer::KeepAlive { reply_requested: true }));
        for odd in [&b""[..], b"k", b"w1234567", b"x", &keepalive[..17]] {
            assert_eq!(FromServer::parse(Bytes::copy_from_slice(odd)), None);
        }
    }

    #[test]
    fn a_status_counts_microseconds_from_the_year_2000() {
        let now = "2000-01-01T00:00:01Z".parse().unwrap();
        let body = status(Lsn(5), now, true);
        assert_eq!(body.len(), 34);
        assert_eq!(body[1..9], body[9..17], "written is what is flushed");
        assert_eq!(body[17..25], [0; 8], "nothing is applied");
        assert_eq!(body[25..33], 1_000_000_i64.to_be_bytes());
    }
}
