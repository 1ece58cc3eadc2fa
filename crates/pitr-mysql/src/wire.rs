//! Packets of the client protocol, in both directions: what a client and what a server sends look the same.
//!
//! A packet is three bytes of length, one byte of sequence number, and the payload. A payload of 16 MiB - 1 or more
//! goes on in the next packet; here it is one again.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest payload of one packet.
const FULL: usize = 0xFF_FFFF;
/// Bytes before the payload.
const HEADER: usize = 4;
/// Bytes asked of the connection at a time.
const READ: usize = 64 << 10;
/// Bytes collected before they are sent.
const WRITE: usize = 64 << 10;

/// Packets over a connection.
#[derive(Debug)]
pub struct Wire<S> {
    stream: S,
    sequence: u8,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// The begin of a payload whose end has not arrived.
    joining: BytesMut,
    limit: usize,
    /// Bytes of the payload being written that are still to come, and how many of them fit into the packet begun.
    left: usize,
    room: usize,
    /// True if the packet begun is a full one, so that another follows.
    full: bool,
    /// True if incoming packets may have any number.
    unnumbered: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Packets over `stream`, none larger than `limit` bytes.
    pub fn new(stream: S, limit: usize) -> Self {
        Self {
            stream,
            sequence: 0,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            joining: BytesMut::new(),
            limit,
            left: 0,
            room: 0,
            full: false,
            unnumbered: false,
        }
    }

    /// Begins a new exchange: the next packet has the number 0.
    pub fn restart(&mut self) {
        self.sequence = 0;
    }

    /// From now on incoming packets may have any number: both sides send at the same time, and count each on its own.
    pub fn expect_any_number(&mut self) {
        self.unnumbered = true;
    }

    /// Largest payload that is accepted from now on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The number of the next packet.
    pub fn sequence(&self) -> u8 {
        self.sequence
    }

    /// Begins with this number: the packets go on over another layer.
    #[must_use]
    pub fn with_sequence(mut self, sequence: u8) -> Self {
        self.sequence = sequence;
        self
    }

    /// The connection.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The connection, for another layer under the packets (TLS). Nothing may have been read beyond the last packet.
    pub fn into_stream(self) -> S {
        self.stream
    }

    /// The same packets over another stream that carries the same bytes.
    pub fn map<T>(self, change: impl FnOnce(S) -> T) -> Wire<T> {
        let Self { stream, sequence, incoming, outgoing, joining, limit, left, room, full, unnumbered } = self;
        let stream = change(stream);
        Wire { stream, sequence, incoming, outgoing, joining, limit, left, room, full, unnumbered }
    }

    /// The next payload, joined. A closed connection is [`io::ErrorKind::UnexpectedEof`]. A dropped call loses nothing.
    pub async fn read(&mut self) -> io::Result<BytesMut> {
        loop {
            let (payload, last) = self.read_fragment().await?;
            let size = self.joining.len() + payload.len();
            if size > self.limit {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a packet of at least {size} bytes")));
            }
            if self.joining.is_empty() && last {
                return Ok(payload);
            }
            self.joining.extend_from_slice(&payload);
            if last {
                return Ok(std::mem::take(&mut self.joining));
            }
        }
    }

    /// One packet, and whether its payload ends with it: for payloads that are too large to be joined. A dropped call
    /// loses nothing.
    pub async fn read_fragment(&mut self) -> io::Result<(BytesMut, bool)> {
        let (payload, full) = self.read_one().await?;
        Ok((payload, !full))
    }

    async fn read_one(&mut self) -> io::Result<(BytesMut, bool)> {
        loop {
            if let Some(header) = self.incoming.first_chunk::<HEADER>() {
                let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
                let sequence = header[3];
                if self.incoming.len() >= HEADER + length {
                    if sequence != self.sequence && !self.unnumbered {
                        let what = format!("packet {sequence} came where {} belongs", self.sequence);
                        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                    }
                    self.sequence = sequence.wrapping_add(1);
                    self.incoming.advance(HEADER);
                    return Ok((self.incoming.split_to(length), length == FULL));
                }
                self.incoming.reserve(HEADER + length - self.incoming.len());
            }
            self.incoming.reserve(READ);
            if self.stream.read_buf(&mut self.incoming).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Queues a payload that stands in `parts`, one after the other. Sent with [`Wire::flush`] at the latest.
    pub async fn write(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        self.begin(parts.iter().map(|part| part.len()).sum());
        for part in parts {
            self.put(part).await?;
        }
        Ok(())
    }

    /// Begins a payload of `length` bytes, which come with [`Wire::put`] and are exactly as many.
    pub fn begin(&mut self, length: usize) {
        self.left = length;
        self.header();
    }

    /// Queues the next bytes of a payload.
    pub async fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.room).min(WRITE));
            self.outgoing.extend_from_slice(now);
            self.room -= now.len();
            self.left = self.left.saturating_sub(now.len());
            bytes = later;
            if self.room == 0 {
                if !self.full {
                    break;
                }
                // A payload that fills its last packet is ended by an empty one.
                self.header();
            }
            if self.outgoing.len() >= WRITE {
                self.drain().await?;
            }
        }
        Ok(())
    }

    /// Queues the header of the next packet of the payload.
    fn header(&mut self) {
        self.room = self.left.min(FULL);
        self.full = self.room == FULL;
        let [a, b, c, ..] = (self.room as u32).to_le_bytes();
        self.outgoing.extend_from_slice(&[a, b, c, self.sequence]);
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// Sends what is queued.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.drain().await?;
        self.stream.flush().await
    }

    async fn drain(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.outgoing).await?;
        self.outgoing.clear();
        Ok(())
    }

    /// Queues and sends one payload.
    pub async fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        self.write(&[payload]).await?;
        self.flush().await
    }
}

/// Takes what packets are made of from the front of a payload; `None` where it ends too early.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.uint(1).and_then(|number| u8::try_from(number).ok())
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.uint(2).and_then(|number| u16::try_from(number).ok())
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.uint(4).and_then(|number| u32::try_from(number).ok())
    }

    /// `count` bytes, at most eight, as a number.
    pub fn uint(&mut self, count: usize) -> Option<u64> {
        let bytes = self.bytes(count)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// A number with its length before it; `Some(None)` for the mark of NULL.
    pub fn packed(&mut self) -> Option<Option<u64>> {
        let number = match self.u8()? {
            0xfb => return Some(None),
            0xfc => self.uint(2)?,
            0xfd => self.uint(3)?,
            0xfe => self.uint(8)?,
            0xff => return None,
            small => u64::from(small),
        };
        Some(Some(number))
    }

    /// Bytes with their packed length before them; `Some(None)` for NULL.
    pub fn packed_bytes(&mut self) -> Option<Option<&'a [u8]>> {
        match self.packed()? {
            None => Some(None),
            Some(length) => self.bytes(usize::try_from(length).ok()?).map(Some),
        }
    }

    /// Bytes up to a zero, which is taken too.
    pub fn zero_ended(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let bytes = self.bytes(end)?;
        self.0 = self.0.get(1..)?;
        Some(bytes)
    }
}

/// Appends a number with its length before it.
pub fn put_packed(into: &mut Vec<u8>, number: u64) {
    let bytes = number.to_le_bytes();
    let (mark, count) = match number {
        0..=0xfa => return into.push(bytes[0]),
        0xfb..=0xffff => (0xfc, 2),
        0x1_0000..=0xff_ffff => (0xfd, 3),
        _ => (0xfe, 8),
    };
    into.push(mark);
    into.extend(bytes.iter().take(count));
}

/// Appends bytes with their packed length before them.
pub fn put_packed_bytes(into: &mut Vec<u8>, bytes: &[u8]) {
    put_packed(into, bytes.len() as u64);
    into.extend_from_slice(bytes);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn payloads_of_any_size_arrive_whole() {
        for size in [0, 1, FULL - 1, FULL, FULL + 1, 2 * FULL] {
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            let payload = vec![7_u8; size];
            let sent = payload.clone();
            let sending = tokio::spawn(async move {
                let mut wire = Wire::new(ours, usize::MAX);
                let (head, tail) = sent.split_at(size / 3);
                wire.write(&[head, tail]).await.unwrap();
                wire.send(b"next").await.unwrap();
            });
            let mut wire = Wire::new(theirs, usize::MAX);
            assert_eq!(wire.read().await.unwrap().len(), payload.len());
            assert_eq!(&wire.read().await.unwrap()[..], b"next");
            sending.await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_too_large_or_out_of_order_is_an_error() {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (mut ours, mut theirs) = (Wire::new(ours, 100), Wire::new(theirs, 100));
        ours.send(&[0; 101]).await.unwrap();
        assert_eq!(theirs.read().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        ours.restart();
        ours.send(b"again").await.unwrap();
        assert!(theirs.read().await.unwrap_err().to_string().contains("packet 0 came where 1 belongs"));
    }

    #[test]
    fn packed_numbers_round_trip() {
        for number in [0, 250, 251, 0xffff, 0x1_0000, 0xff_ffff, 0x100_0000, u64::MAX] {
            let mut bytes = Vec::new();
            put_packed(&mut bytes, number);
            assert_eq!(Fields(&bytes).packed(), Some(Some(number)));
        }
        assert_eq!(Fields(&[0xfb]).packed(), Some(None));
        assert_eq!(Fields(&[0xfc, 1]).packed(), None);
    }
}
