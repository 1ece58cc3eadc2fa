//! Taking numbers and slices from the front of bytes. Little-endian, as everything in the log.

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]: [u8; 1]| byte)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// A number of `count` bytes, at most eight.
    pub fn uint(&mut self, count: usize) -> Option<u64> {
        let digits = self.take(count.min(8))?;
        Some(digits.iter().rev().fold(0, |number, digit| number << 8 | u64::from(*digit)))
    }

    /// The client protocol's length-encoded number; `None` also for its mark of a NULL.
    pub fn packed(&mut self) -> Option<u64> {
        match self.u8()? {
            small @ 0..=250 => Some(u64::from(small)),
            0xFC => self.uint(2),
            0xFD => self.uint(3),
            0xFE => self.uint(8),
            _ => None,
        }
    }
}
