//! Large commands, put together without copying their documents more than once.

use bson::spec::ElementType;
use bson::{RawDocument, RawDocumentBuf};

use crate::error::{Error, Result};
use crate::raw::{close, open, put_key};

/// Bytes of an element besides its key and value, and of the longest number that is a key.
const ELEMENT: usize = 12;

/// A document on its way into a command.
pub trait Piece {
    /// Its length in bytes.
    fn size(&self) -> usize;
    /// Adds it.
    fn put(&self, out: &mut Vec<u8>);
}

impl Piece for &[u8] {
    fn size(&self) -> usize {
        self.len()
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

/// A command that begins like `begin`, holds an array of documents, and ends with `options`.
pub fn with_documents(
    begin: &RawDocument,
    key: &str,
    documents: impl Iterator<Item = impl Piece> + Clone,
    options: &RawDocument,
) -> Result<RawDocumentBuf> {
    let content: usize = documents.clone().map(|document| document.size() + ELEMENT).sum();
    let around = begin.as_bytes().len() + options.as_bytes().len() + key.len() + ELEMENT;
    let mut bytes = Vec::with_capacity(content + around);
    open(&mut bytes);
    bytes.extend_from_slice(elements(begin));
    put_key(&mut bytes, key.as_bytes(), ElementType::Array);
    let array = open(&mut bytes);
    for (number, document) in documents.enumerate() {
        put_key(&mut bytes, number.to_string().as_bytes(), ElementType::EmbeddedDocument);
        document.put(&mut bytes);
    }
    close(&mut bytes, array);
    bytes.extend_from_slice(elements(options));
    close(&mut bytes, 0);
    RawDocumentBuf::from_bytes(bytes).map_err(|error| Error::answer("putting a command together", error))
}

/// What stands between the length and the end of a document.
fn elements(document: &RawDocument) -> &[u8] {
    let bytes = document.as_bytes();
    bytes.get(size_of::<u32>()..bytes.len().saturating_sub(1)).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bson::{Document, doc, rawdoc};

    use super::with_documents;

    #[test]
    fn a_command_is_what_the_library_would_make_of_it() {
        let documents: Vec<Document> =
            (0..12_u8).map(|n| doc! { "_id": i32::from(n), "text": "x".repeat(n.into()) }).collect();
        let bytes: Vec<Vec<u8>> = documents.iter().map(|document| document.to_vec().unwrap()).collect();
        let slices = || bytes.iter().map(Vec::as_slice);
        let command = with_documents(&rawdoc! { "insert": "a" }, "documents", slices(), &rawdoc! { "ordered": false });
        let expected = doc! { "insert": "a", "documents": documents, "ordered": false };
        assert_eq!(command.unwrap().as_bytes(), expected.to_vec().unwrap());
        let command = with_documents(&rawdoc! {}, "applyOps", std::iter::empty::<&[u8]>(), &rawdoc! {}).unwrap();
        assert_eq!(command.as_bytes(), doc! { "applyOps": [] }.to_vec().unwrap());
    }
}
