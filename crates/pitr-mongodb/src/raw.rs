//! The fields of a BSON document as bytes, read and written.
//!
//! Log is read entry by entry, field by field, and most of a field is passed over. The library's own iterator looks at every
//! name as text, and at what it passes over more than once; it is used wherever it is not in the way.

use bson::spec::{BinarySubtype, ElementType};
use bson::{RawDocument, Timestamp};

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name; servers do not insist on UTF-8.
    pub key: &'a [u8],
    /// The type of its value.
    pub kind: ElementType,
    /// The value, without type and name.
    pub value: &'a [u8],
}

/// Bytes that are no document, from this offset on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no field of a document at its byte {0}")]
pub struct Damage(pub usize);

/// The fields of a document, in order. Ends after damage.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The fields of a document. Its length is taken as checked, as [`RawDocument::from_bytes`] does.
pub fn fields(document: &RawDocument) -> Fields<'_> {
    Fields { bytes: document.as_bytes(), at: size_of::<u32>() }
}

/// The field of that name.
pub fn field<'a>(document: &'a RawDocument, key: &[u8]) -> Option<Field<'a>> {
    fields(document).flatten().find(|field| field.key == key)
}

impl<'a> Fields<'a> {
    fn read(&self) -> Option<(Field<'a>, usize)> {
        let rest = self.bytes.get(self.at..self.bytes.len() - 1)?;
        let (kind, rest) = rest.split_first()?;
        let kind = ElementType::from(*kind)?;
        let name = rest.iter().position(|byte| *byte == 0)?;
        let (key, rest) = (rest.get(..name)?, rest.get(name + 1..)?);
        let value = rest.get(..size(kind, rest)?)?;
        Some((Field { key, kind, value }, self.at + 2 + key.len() + value.len()))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at + 1 >= self.bytes.len() {
            return None;
        }
        match self.read() {
            Some((field, end)) => {
                self.at = end;
                Some(Ok(field))
            }
            None => {
                let damage = Damage(self.at);
                self.at = self.bytes.len();
                Some(Err(damage))
            }
        }
    }
}

/// Length of a value that begins there; `None` if it cannot be one.
fn size(kind: ElementType, bytes: &[u8]) -> Option<usize> {
    let told = || usize::try_from(i32::from_le_bytes(*bytes.first_chunk()?)).ok();
    let cstring = |bytes: &[u8]| Some(bytes.iter().position(|byte| *byte == 0)? + 1);
    match kind {
        ElementType::Null | ElementType::Undefined | ElementType::MinKey | ElementType::MaxKey => Some(0),
        ElementType::Boolean => Some(1),
        ElementType::Int32 => Some(4),
        ElementType::Int64 | ElementType::Double | ElementType::DateTime | ElementType::Timestamp => Some(8),
        ElementType::ObjectId => Some(12),
        ElementType::Decimal128 => Some(16),
        // Their length counts the zero at their end, but not itself.
        ElementType::String | ElementType::Symbol | ElementType::JavaScriptCode => {
            told().filter(|length| *length > 0)?.checked_add(4)
        }
        ElementType::DbPointer => told().filter(|length| *length > 0)?.checked_add(16),
        ElementType::Binary => told()?.checked_add(5),
        // Theirs counts all.
        ElementType::EmbeddedDocument | ElementType::Array => {
            told().filter(|length| *length >= 5 && bytes.get(length - 1) == Some(&0))
        }
        ElementType::JavaScriptCodeWithScope => told().filter(|length| *length >= 14),
        ElementType::RegularExpression => {
            let pattern = cstring(bytes)?;
            pattern.checked_add(cstring(bytes.get(pattern..)?)?)
        }
    }
}

impl<'a> Field<'a> {
    /// The value as a document or an array.
    pub fn as_document(&self) -> Option<&'a RawDocument> {
        let is_one = matches!(self.kind, ElementType::EmbeddedDocument | ElementType::Array);
        is_one.then(|| RawDocument::from_bytes(self.value).ok()).flatten()
    }

    /// The value as text.
    pub fn as_str(&self) -> Option<&'a str> {
        let text = self.value.get(size_of::<u32>()..self.value.len().checked_sub(1)?)?;
        if self.kind == ElementType::String { std::str::from_utf8(text).ok() } else { None }
    }

    /// The value as a whole number.
    pub fn as_integer(&self) -> Option<i64> {
        match self.kind {
            ElementType::Int32 => Some(i32::from_le_bytes(*self.value.first_chunk()?).into()),
            ElementType::Int64 => Some(i64::from_le_bytes(*self.value.first_chunk()?)),
            _ => None,
        }
    }

    /// The value as a date, in milliseconds since 1970.
    pub fn as_millis(&self) -> Option<i64> {
        let bytes = self.value.first_chunk()?;
        (self.kind == ElementType::DateTime).then(|| i64::from_le_bytes(*bytes))
    }

    /// The value as a timestamp.
    pub fn as_timestamp(&self) -> Option<Timestamp> {
        let (increment, time) = self.value.split_first_chunk()?;
        let [increment, time] = [*increment, *time.first_chunk()?].map(u32::from_le_bytes);
        (self.kind == ElementType::Timestamp).then_some(Timestamp { time, increment })
    }

    /// The value as a UUID.
    pub fn as_uuid(&self) -> Option<[u8; 16]> {
        let (subtype, uuid) = self.value.get(size_of::<u32>()..)?.split_first()?;
        let is_one = self.kind == ElementType::Binary && *subtype == u8::from(BinarySubtype::Uuid);
        if is_one { uuid.try_into().ok() } else { None }
    }
}

/// Leaves room for the length of a document or array. Returns where it begins.
pub fn open(bytes: &mut Vec<u8>) -> usize {
    bytes.extend_from_slice(&[0; size_of::<u32>()]);
    bytes.len() - size_of::<u32>()
}

/// Ends what was opened there.
pub fn close(bytes: &mut Vec<u8>, begin: usize) {
    bytes.push(0);
    // No command is that long: a server takes 48 MB.
    let length = u32::try_from(bytes.len() - begin).unwrap_or(u32::MAX);
    if let Some(place) = bytes.get_mut(begin..begin + size_of::<u32>()) {
        place.copy_from_slice(&length.to_le_bytes());
    }
}

/// Begins a field: its type and its name.
pub fn put_key(bytes: &mut Vec<u8>, key: &[u8], kind: ElementType) {
    bytes.push(kind as u8);
    bytes.extend_from_slice(key);
    bytes.push(0);
}

#[cfg(test)]
#[path = "raw_tests.rs"]
mod tests;
