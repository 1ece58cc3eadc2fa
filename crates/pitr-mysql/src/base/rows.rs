//! Rows as `INSERT` statements, cut where the rows themselves say so.
//!
//! Pure. A file must come out the same as long as its rows are the same, and mostly the same when a few rows change:
//! that is what lets the archive store an unchanged table only once. So where a statement and a file end is decided
//! by a digest of the row, as in content-defined chunking, and never by a counter.

use crate::limits::{FILE_MAX, FILE_MIN, STATEMENT_MAX, STATEMENT_MIN};

/// How a value is written, decided by the type of its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As the server prints it: whole numbers and decimals.
    Number,
    /// `'…'`: bytes that the column takes as they are. Also floating point, whose minus zero is no number literal.
    Quoted,
    /// `_utf8mb4'…'`: types that take a text, but read bytes in another way (JSON, INET6, UUID).
    Text,
    /// `0x…`: bit fields.
    Bits,
}

/// Whether the row just added ends something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// Nothing.
    Nothing,
    /// The statement.
    Statement,
    /// The statement and the file.
    File,
}

/// Writes the rows of one table into files.
#[derive(Debug)]
pub struct RowWriter {
    head: Vec<u8>,
    forms: Vec<Form>,
    buffer: Vec<u8>,
    /// Where the current statement begins in the buffer.
    statement: usize,
    /// Bytes of the file that have left the buffer.
    flushed: u64,
    rows: u64,
}

/// The first lines of every file. The session that loads it also switches off checks of keys that are not there yet.
pub const FILE_HEAD: &str = "SET NAMES binary;\nSET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO', foreign_key_checks = 0, unique_checks = 0;\n";

impl RowWriter {
    /// `insert` is the statement up to and with `VALUES`; `forms` says how each of its columns is written.
    pub fn new(insert: &str, forms: Vec<Form>) -> Self {
        let head = format!("{insert}\n").into_bytes();
        Self { head, forms, buffer: Vec::new(), statement: 0, flushed: 0, rows: 0 }
    }

    /// Adds a row; `None` is NULL. The iterator yields as many values as there are forms.
    pub fn add<'a>(&mut self, values: impl Iterator<Item = Option<&'a [u8]>>) -> Ends {
        if self.buffer.is_empty() && self.flushed == 0 {
            self.buffer.extend_from_slice(FILE_HEAD.as_bytes());
            self.statement = self.buffer.len();
        }
        if self.statement == self.buffer.len() {
            self.buffer.extend_from_slice(&self.head);
        } else {
            self.buffer.extend_from_slice(b",\n");
        }
        let begin = self.buffer.len();
        self.buffer.push(b'(');
        for (place, (value, form)) in values.zip(&self.forms).enumerate() {
            if place > 0 {
                self.buffer.push(b',');
            }
            write_value(&mut self.buffer, value, *form);
        }
        self.buffer.push(b')');
        self.rows += 1;
        self.cut(begin)
    }

    /// True if the file that is being written has rows.
    pub fn has_rows(&self) -> bool {
        self.rows > 0
    }

    /// Puts the complete statements in place of what is in `text`, whose room is used again. After one that a row has
    /// ended, that is everything.
    pub fn take(&mut self, text: &mut Vec<u8>) {
        text.clear();
        std::mem::swap(&mut self.buffer, text);
        self.buffer.extend_from_slice(text.get(self.statement..).unwrap_or_default());
        text.truncate(self.statement);
        self.flushed += text.len() as u64;
        self.statement = 0;
    }

    /// Ends the file: puts the rest of it in place of what is in `text`, and tells how many rows and bytes it has. `None` if it has none at all.
    pub fn end_file(&mut self, text: &mut Vec<u8>) -> Option<(u64, u64)> {
        if self.rows == 0 {
            return None;
        }
        if self.buffer.len() > self.statement {
            self.end_statement();
        }
        self.take(text);
        Some((std::mem::take(&mut self.rows), std::mem::take(&mut self.flushed)))
    }

    fn end_statement(&mut self) {
        self.buffer.extend_from_slice(b";\n");
        self.statement = self.buffer.len();
    }

    fn cut(&mut self, begin: usize) -> Ends {
        let row = self.buffer.get(begin..).unwrap_or_default();
        let statement = self.buffer.len() - self.statement;
        let digest = digest(row);
        if !is_end(digest as u32, row.len(), statement, STATEMENT_MIN, STATEMENT_MAX) {
            return Ends::Nothing;
        }
        self.end_statement();
        let file = usize::try_from(self.flushed).unwrap_or(usize::MAX).saturating_add(self.buffer.len());
        match is_end((digest >> 32) as u32, statement, file, FILE_MIN, FILE_MAX) {
            true => Ends::File,
            false => Ends::Statement,
        }
    }
}

/// True with a probability of `step / min` once `size` is beyond `min`, and in any case beyond `max`: so ends lie `2 * min`
/// apart on average, whatever the size of a step.
fn is_end(digest: u32, step: usize, size: usize, min: usize, max: usize) -> bool {
    if size < min {
        return false;
    }
    size >= max || u64::from(digest) * min as u64 <= (step as u64) << 32
}

/// Eight bytes at a time, over the begin of a row, where its key usually is. Stored nowhere: a change of it costs
/// one base without reuse.
fn digest(row: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let begin = row.get(..64).unwrap_or(row);
    let (words, rest) = begin.as_chunks::<8>();
    let last = rest.iter().fold(rest.len() as u64, |word, byte| word << 8 | u64::from(*byte));
    for word in words.iter().map(|word| u64::from_le_bytes(*word)).chain([last]) {
        hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

fn write_value(into: &mut Vec<u8>, value: Option<&[u8]>, form: Form) {
    match (value, form) {
        (None, _) => into.extend_from_slice(b"NULL"),
        (Some(value), Form::Number) => into.extend_from_slice(value),
        (Some(value), Form::Quoted) => write_quoted(into, value),
        (Some(value), Form::Text) => {
            into.extend_from_slice(b"_utf8mb4");
            write_quoted(into, value);
        }
        (Some([]), Form::Bits) => into.extend_from_slice(b"''"),
        (Some(value), Form::Bits) => {
            into.extend_from_slice(b"0x");
            into.extend_from_slice(hex::encode(value).as_bytes());
        }
    }
}

/// In quotes. Line ends are escaped too: a line of the file is a row.
fn write_quoted(into: &mut Vec<u8>, value: &[u8]) {
    into.push(b'\'');
    let mut rest = value;
    while !rest.is_empty() {
        // Most values have nothing to escape, which a processor sees in sixteen bytes at once.
        let (blocks, _) = rest.as_chunks::<16>();
        let plain = blocks.iter().take_while(|block| !block.iter().fold(false, |any, byte| any | is_special(*byte)));
        let (plain, tail) = rest.split_at(16 * plain.count());
        into.extend_from_slice(plain);
        let (block, tail) = tail.split_at(tail.len().min(16));
        block.iter().for_each(|byte| write_byte(into, *byte));
        rest = tail;
    }
    into.push(b'\'');
}

fn is_special(byte: u8) -> bool {
    (byte == 0) | (byte == b'\n') | (byte == b'\r') | (byte == b'\\') | (byte == b'\'') | (byte == 0x1a)
}

fn write_byte(into: &mut Vec<u8>, byte: u8) {
    if is_special(byte) {
        into.push(b'\\');
    }
    into.push(match byte {
        0 => b'0',
        b'\n' => b'n',
        b'\r' => b'r',
        0x1a => b'Z',
        other => other,
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn files(rows: impl Iterator<Item = u32>) -> Vec<Vec<u8>> {
        let mut writer = RowWriter::new("INSERT INTO `t` (`a`,`b`) VALUES", vec![Form::Number, Form::Quoted]);
        let (mut files, mut file, mut text) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let (key, filler) = (row.to_string(), vec![b'x'; 2_000]);
            let ends = writer.add([Some(key.as_bytes()), Some(&filler[..])].into_iter());
            if ends != Ends::Nothing {
                writer.take(&mut text);
                file.extend_from_slice(&text);
            }
            if ends == Ends::File {
                let (_, bytes) = writer.end_file(&mut text).unwrap();
                file.extend_from_slice(&text);
                assert_eq!(bytes, file.len() as u64);
                files.push(std::mem::take(&mut file));
            }
        }
        if writer.end_file(&mut text).is_some() {
            file.extend_from_slice(&text);
            files.push(file);
        }
        files
    }

    #[test]
    fn values_are_written_so_that_they_come_back_as_they_were() {
        let forms = vec![Form::Number, Form::Quoted, Form::Text, Form::Bits, Form::Quoted];
        let mut writer = RowWriter::new("INSERT INTO `t` (`a`) VALUES", forms);
        let odd = b"a'b\\c\nd\re\0f\x1a\xff";
        writer.add([Some(&b"-1"[..]), Some(odd), Some(b"{}"), Some(&[0, 0x0a]), None].into_iter());
        let mut text = b"left over".to_vec();
        let (rows, _) = writer.end_file(&mut text).unwrap();
        let text = text.strip_prefix(FILE_HEAD.as_bytes()).unwrap();
        let expected =
            b"INSERT INTO `t` (`a`) VALUES\n(-1,'a\\'b\\\\c\\nd\\re\\0f\\Z\xff',_utf8mb4'{}',0x000a,NULL);\n";
        assert_eq!((text, rows), (&expected[..], 1));
    }

    proptest::proptest! {
        /// Wherever a special byte lies in a block of sixteen.
        #[test]
        fn a_quoted_value_is_escaped_byte_by_byte(value in proptest::collection::vec(proptest::sample::select(&b"\0\n\r\\'\x1aabc\xff"[..]), 0..70)) {
            let mut written = Vec::new();
            write_quoted(&mut written, &value);
            let mut expected = vec![b'\''];
            for byte in &value {
                match byte {
                    0 => expected.extend(b"\\0"),
                    b'\n' => expected.extend(b"\\n"),
                    b'\r' => expected.extend(b"\\r"),
                    0x1a => expected.extend(b"\\Z"),
                    b'\\' | b'\'' => expected.extend([b'\\', *byte]),
                    _ => expected.push(*byte),
                }
            }
            expected.push(b'\'');
            proptest::prop_assert_eq!(written, expected);
        }
    }

    #[test]
    fn the_same_rows_make_the_same_files_and_one_row_more_changes_few() {
        let before = files(0..60_000);
        assert_eq!(before, files(0..60_000));
        assert!(before.len() >= 2, "{}", before.len());
        assert!(before.iter().all(|file| file.len() >= FILE_MIN / 2 && file.len() <= FILE_MAX + STATEMENT_MAX));
        let after = files((0..60_000).filter(|row| *row != 7));
        assert_eq!(before.last(), after.last(), "the cuts find each other again");
    }

    #[test]
    fn statements_stay_small() {
        let all = files(0..5_000);
        let text = all.first().unwrap();
        let longest = text.split(|byte| *byte == b';').map(<[u8]>::len).max().unwrap();
        assert!(longest <= STATEMENT_MAX + 4_096, "{longest}");
        assert_eq!(
            text.iter().filter(|byte| **byte == b'(').count(),
            5_000 + text.windows(7).filter(|w| w == b"INSERT ").count()
        );
    }

    #[test]
    fn a_table_without_rows_makes_no_file() {
        let mut writer = RowWriter::new("INSERT", vec![]);
        assert_eq!(writer.end_file(&mut Vec::new()), None);
    }
}
