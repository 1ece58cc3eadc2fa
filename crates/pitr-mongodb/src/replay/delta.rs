//! Updates as servers since 5.0 log them: what differs between a document before and after.
//!
//! `{$v: 2, diff: {d: {gone: false}, u: {changed: value}, i: {added: value}, sinner: {…}}}`: fields that are removed, changed
//! in their place, put at the end (also if they were elsewhere), and documents and arrays of which a part differs. Of an array:
//! `{a: true, l: length, u3: value, s4: {…}}`.
//!
//! A replay that knows a document whole applies its updates itself, and two differences become one ([`super::pending`]). Only
//! what means one thing is accepted, and the server is asked for the rest: an answer of `None` is no fault.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use bson::spec::ElementType;
use bson::{RawDocument, RawDocumentBuf};

use crate::limits::{MAX_DELTA_DEPTH, MAX_ENTRY};
use crate::raw::{Field, close, fields, open, put_key};

/// A value, and its type in BSON.
#[derive(Debug, Clone)]
struct Value<'a> {
    kind: ElementType,
    bytes: Cow<'a, [u8]>,
}

/// What happens to a field of a document, or an element of an array.
#[derive(Debug, Clone)]
enum Change<'a> {
    Remove,
    Set(Value<'a>),
    /// It is at the end from now on, with that value, wherever it was.
    Add(Value<'a>),
    Within(Value<'a>),
}

/// The difference between two documents.
#[derive(Debug, Default)]
struct Fields<'a> {
    changes: HashMap<&'a [u8], Change<'a>>,
    /// Names in the order in which they were first mentioned; that of the fields that are added is one of the document.
    order: Vec<&'a [u8]>,
}

/// The difference between two arrays, neither of which is cut off.
type Elements<'a> = BTreeMap<u32, Change<'a>>;

/// How an update is logged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Update<'a> {
    /// As the document that it leaves.
    Whole(&'a RawDocument),
    /// As a difference.
    Delta(&'a RawDocument),
    /// As older servers do it, or in a way that is not known.
    Other,
}

impl<'a> Update<'a> {
    /// Of the object of an update.
    pub fn of(object: &'a RawDocument) -> Self {
        let mut fields = fields(object).flatten();
        let Some(first) = fields.next() else { return Self::Other };
        match (first.key, first.as_integer()) {
            (b"$v", Some(2)) => match (fields.next(), fields.next()) {
                (Some(Field { key: b"diff", kind: ElementType::EmbeddedDocument, value }), None) => {
                    RawDocument::from_bytes(value).map_or(Self::Other, Self::Delta)
                }
                _ => Self::Other,
            },
            (key, _) if !key.starts_with(b"$") => Self::Whole(object),
            _ => Self::Other,
        }
    }
}

/// The document that an update makes of this one.
pub fn applied(document: &RawDocument, delta: &RawDocument) -> Option<RawDocumentBuf> {
    let mut out = Vec::with_capacity(document.as_bytes().len() + delta.as_bytes().len());
    apply_to_document(&mut out, document, delta, 0)?;
    RawDocumentBuf::from_bytes(out).ok()
}

/// One difference that does what two do one after the other.
pub fn merged(first: &RawDocument, second: &RawDocument) -> Option<RawDocumentBuf> {
    let mut out = Vec::with_capacity(first.as_bytes().len() + second.as_bytes().len());
    merge_fields(&mut out, first, second, 0)?;
    RawDocumentBuf::from_bytes(out).ok()
}

fn apply_to_document(out: &mut Vec<u8>, document: &RawDocument, delta: &RawDocument, depth: usize) -> Option<()> {
    let delta = Fields::of(delta)?;
    let begin = open(out);
    let mut found = 0_usize;
    for field in walk(document) {
        let (key, value) = field?;
        match delta.changes.get(key) {
            None => put(out, key, &value),
            Some(Change::Remove | Change::Add(_)) => {}
            Some(Change::Set(new)) => {
                put(out, key, new);
                found += 1;
            }
            Some(Change::Within(inner)) => {
                apply_within(out, key, &value, inner, depth)?;
                found += 1;
            }
        }
    }
    // What differs within a field that is not there, or is there twice, is not a difference to this document.
    if found != delta.changes.values().filter(|change| matches!(change, Change::Set(_) | Change::Within(_))).count() {
        return None;
    }
    for key in &delta.order {
        if let Some(Change::Add(value)) = delta.changes.get(key) {
            put(out, key, value);
        }
    }
    close(out, begin);
    (out.len() <= MAX_ENTRY).then_some(())
}

fn apply_to_array(out: &mut Vec<u8>, array: &RawDocument, delta: &RawDocument, depth: usize) -> Option<()> {
    let (length, mut delta) = elements(delta)?;
    let begin = open(out);
    let mut at = 0_u32;
    for element in walk(array) {
        let (key, value) = element?;
        if number(key) != Some(at) {
            return None;
        }
        if length.is_some_and(|length| at >= length) {
            break;
        }
        match delta.remove(&at) {
            None => put(out, key, &value),
            Some(Change::Set(new)) => put(out, key, &new),
            Some(Change::Within(inner)) => apply_within(out, key, &value, &inner, depth)?,
            Some(Change::Remove | Change::Add(_)) => return None,
        }
        at += 1;
    }
    // Behind its end an array is filled up.
    while !delta.is_empty() || length.is_some_and(|length| at < length) {
        match delta.remove(&at) {
            None => put(out, at.to_string().as_bytes(), &Value { kind: ElementType::Null, bytes: Cow::Borrowed(&[]) }),
            Some(Change::Set(new)) => put(out, at.to_string().as_bytes(), &new),
            Some(_) => return None,
        }
        at = at.checked_add(1).filter(|_| out.len() <= MAX_ENTRY)?;
    }
    close(out, begin);
    (out.len() <= MAX_ENTRY).then_some(())
}

/// Puts a field of which a part differs.
fn apply_within(out: &mut Vec<u8>, key: &[u8], value: &Value<'_>, delta: &Value<'_>, depth: usize) -> Option<()> {
    if depth >= MAX_DELTA_DEPTH {
        return None;
    }
    let (inner, delta) = (value.document()?, delta.document()?);
    put_key(out, key, value.kind);
    match (value.kind, is_of_array(delta)) {
        (ElementType::EmbeddedDocument, false) => apply_to_document(out, inner, delta, depth + 1),
        (ElementType::Array, true) => apply_to_array(out, inner, delta, depth + 1),
        _ => None,
    }
}

/// A value of which a part differs, as it is afterwards.
fn value_within<'a>(value: &Value<'a>, delta: &Value<'a>, depth: usize) -> Option<Value<'a>> {
    let mut field = Vec::new();
    apply_within(&mut field, b"", value, delta, depth)?;
    // Type and empty name stand before it.
    Some(Value { kind: value.kind, bytes: Cow::Owned(field.split_off(2)) })
}

fn merge_fields(out: &mut Vec<u8>, first: &RawDocument, second: &RawDocument, depth: usize) -> Option<()> {
    let (mut first, second) = (Fields::of(first)?, Fields::of(second)?);
    let mut later = second.changes;
    for key in second.order {
        let change = later.remove(key)?;
        let change = match first.changes.remove(key) {
            None => {
                first.order.push(key);
                change
            }
            Some(before) => {
                if matches!(change, Change::Add(_)) {
                    first.order.retain(|known| *known != key);
                    first.order.push(key);
                }
                both(before, change, depth)?
            }
        };
        first.changes.insert(key, change);
    }
    first.put(out);
    Some(())
}

fn merge_elements(out: &mut Vec<u8>, first: &RawDocument, second: &RawDocument, depth: usize) -> Option<()> {
    let ((None, mut merged), (None, second)) = (elements(first)?, elements(second)?) else { return None };
    for (at, change) in second {
        let change = match merged.remove(&at) {
            None => change,
            Some(before) => both(before, change, depth)?,
        };
        merged.insert(at, change);
    }
    let begin = open(out);
    put(out, b"a", &Value { kind: ElementType::Boolean, bytes: Cow::Borrowed(&[1]) });
    for (at, change) in &merged {
        match change {
            Change::Set(value) => put(out, format!("u{at}").as_bytes(), value),
            Change::Within(delta) => put(out, format!("s{at}").as_bytes(), delta),
            Change::Remove | Change::Add(_) => return None,
        }
    }
    close(out, begin);
    Some(())
}

/// What two changes of one field are together.
fn both<'a>(first: Change<'a>, second: Change<'a>, depth: usize) -> Option<Change<'a>> {
    Some(match (first, second) {
        (_, second @ (Change::Remove | Change::Add(_))) => second,
        (Change::Remove, _) => return None,
        (Change::Add(_), Change::Set(value)) => Change::Add(value),
        (_, second @ Change::Set(_)) => second,
        (Change::Set(value), Change::Within(delta)) => Change::Set(value_within(&value, &delta, depth)?),
        (Change::Add(value), Change::Within(delta)) => Change::Add(value_within(&value, &delta, depth)?),
        (Change::Within(first), Change::Within(second)) => {
            let (first, second) = (first.document()?, second.document()?);
            let mut out = Vec::new();
            match (is_of_array(first), is_of_array(second)) {
                _ if depth >= MAX_DELTA_DEPTH => return None,
                (false, false) => merge_fields(&mut out, first, second, depth + 1)?,
                (true, true) => merge_elements(&mut out, first, second, depth + 1)?,
                _ => return None,
            }
            Change::Within(Value { kind: ElementType::EmbeddedDocument, bytes: Cow::Owned(out) })
        }
    })
}

impl<'a> Fields<'a> {
    fn of(delta: &'a RawDocument) -> Option<Self> {
        let mut fields = Self::default();
        for section in walk(delta) {
            let (key, value) = section?;
            let change: fn(Value<'a>) -> Change<'a> = match key {
                b"d" => |_| Change::Remove,
                b"u" => Change::Set,
                b"i" => Change::Add,
                _ => {
                    fields.note(key.strip_prefix(b"s")?, Change::Within(value))?;
                    continue;
                }
            };
            for field in walk(value.borrowed_document()?) {
                let (key, value) = field?;
                fields.note(key, change(value))?;
            }
        }
        Some(fields)
    }

    fn note(&mut self, key: &'a [u8], change: Change<'a>) -> Option<()> {
        self.order.push(key);
        self.changes.insert(key, change).is_none().then_some(())
    }

    fn put(&self, out: &mut Vec<u8>) {
        let begin = open(out);
        for section in [b"d", b"u", b"i"] {
            let mut fields = self.section(section).peekable();
            if fields.peek().is_some() {
                put_key(out, section, ElementType::EmbeddedDocument);
                let begin = open(out);
                fields.for_each(|(key, value)| put(out, key, value));
                close(out, begin);
            }
        }
        for (key, delta) in self.section(b"s") {
            put(out, &[b"s", key].concat(), delta);
        }
        close(out, begin);
    }

    /// What is logged under one letter, in order.
    fn section(&self, letter: &[u8; 1]) -> impl Iterator<Item = (&'a [u8], &Value<'a>)> {
        self.order.iter().filter_map(move |key| match (letter, self.changes.get(key)?) {
            (b"d", Change::Remove) => Some((*key, &GONE)),
            (b"u", Change::Set(value)) | (b"i", Change::Add(value)) | (b"s", Change::Within(value)) => {
                Some((*key, value))
            }
            _ => None,
        })
    }
}

/// What a field that is removed is logged with.
static GONE: Value<'static> = Value { kind: ElementType::Boolean, bytes: Cow::Borrowed(&[0]) };

impl<'a> Value<'a> {
    fn document(&self) -> Option<&RawDocument> {
        let is_one = matches!(self.kind, ElementType::EmbeddedDocument | ElementType::Array);
        is_one.then(|| RawDocument::from_bytes(&self.bytes).ok()).flatten()
    }

    fn length(&self) -> Option<u32> {
        u32::try_from(Field { key: b"", kind: self.kind, value: &self.bytes }.as_integer()?).ok()
    }

    /// Of a value that was read, for as long as what it was read from.
    fn borrowed_document(&self) -> Option<&'a RawDocument> {
        match (self.kind, &self.bytes) {
            (ElementType::EmbeddedDocument, Cow::Borrowed(bytes)) => RawDocument::from_bytes(*bytes).ok(),
            _ => None,
        }
    }
}

fn is_of_array(delta: &RawDocument) -> bool {
    let first = fields(delta).next().and_then(Result::ok);
    first.is_some_and(|first| first == Field { key: b"a", kind: ElementType::Boolean, value: &[1] })
}

/// The new length, if it is told, and the elements that differ.
fn elements(delta: &RawDocument) -> Option<(Option<u32>, Elements<'_>)> {
    let (mut length, mut changes) = (None, Elements::new());
    for field in walk(delta).skip(1) {
        let (key, value) = field?;
        let change = match key {
            b"l" => {
                length = Some(value.length()?);
                continue;
            }
            [b'u', ..] => Change::Set(value),
            [b's', ..] => Change::Within(value),
            _ => return None,
        };
        changes.insert(number(key.get(1..)?)?, change).is_none().then_some(())?;
    }
    Some((length, changes))
}

/// The number of an element of an array, which is its name.
fn number(key: &[u8]) -> Option<u32> {
    std::str::from_utf8(key).ok()?.parse().ok()
}

fn walk(document: &RawDocument) -> impl Iterator<Item = Option<(&[u8], Value<'_>)>> {
    fields(document).map(|field| {
        let Field { key, kind, value } = field.ok()?;
        Some((key, Value { kind, bytes: Cow::Borrowed(value) }))
    })
}

fn put(out: &mut Vec<u8>, key: &[u8], value: &Value<'_>) {
    put_key(out, key, value.kind);
    out.extend_from_slice(&value.bytes);
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
