#![allow(clippy::unwrap_used)]

use bson::{
    Binary, Bson, DateTime, Decimal128, JavaScriptCodeWithScope, RawDocumentBuf, Regex, Uuid, doc, oid::ObjectId,
};
use proptest::prelude::*;

use super::*;

fn everything() -> RawDocumentBuf {
    let text = |text: &str| text.to_owned();
    let binary = |subtype, bytes: &[u8]| Binary { subtype, bytes: bytes.to_vec() };
    let document = doc! {
        "double": 1.5, "text": "é", "": doc! { "x": 1 }, "array": [1, "two"], "binary": binary(BinarySubtype::Generic, b"abc"),
        "uuid": Uuid::from_bytes([7; 16]), "old": binary(BinarySubtype::BinaryOld, b"abc"), "undefined": Bson::Undefined,
        "id": ObjectId::from_bytes([1; 12]), "yes": true, "date": DateTime::from_millis(-7), "null": Bson::Null,
        "regex": Regex { pattern: "a+".try_into().unwrap(), options: "i".try_into().unwrap() },
        "code": Bson::JavaScriptCode(text("f()")), "symbol": Bson::Symbol(text("s")),
        "scope": JavaScriptCodeWithScope { code: text("f()"), scope: doc! { "x": 1 } },
        "int": 7, "stamp": Timestamp { time: 3, increment: 4 }, "long": -7_i64,
        "decimal": "1.5".parse::<Decimal128>().unwrap(), "least": Bson::MinKey, "most": Bson::MaxKey,
    };
    RawDocumentBuf::try_from(&document).unwrap()
}

#[test]
fn every_type_of_value_is_as_long_as_the_library_says() {
    let document = everything();
    let mut at = 4;
    for (field, element) in fields(&document).zip(document.iter_elements()) {
        let (field, element) = (field.unwrap(), element.unwrap());
        assert_eq!((field.key, field.kind), (element.key().as_str().as_bytes(), element.element_type()));
        assert_eq!(field.value.len(), element.size(), "{:?}", field.kind);
        at += 2 + field.key.len() + field.value.len();
    }
    assert_eq!((at, fields(&document).count()), (document.as_bytes().len() - 1, 22));
}

#[test]
fn values_are_what_they_are_and_nothing_else() {
    let document = everything();
    let field = |name: &str| fields(&document).flatten().find(|field| field.key == name.as_bytes()).unwrap();
    assert_eq!(field("text").as_str(), Some("é"));
    assert_eq!((field("int").as_integer(), field("long").as_integer()), (Some(7), Some(-7)));
    assert_eq!(field("date").as_millis(), Some(-7));
    assert_eq!(field("stamp").as_timestamp(), Some(Timestamp { time: 3, increment: 4 }));
    assert_eq!((field("uuid").as_uuid(), field("binary").as_uuid()), (Some([7; 16]), None));
    assert_eq!(field("").as_document().unwrap().get_i32("x").unwrap(), 1);
    assert_eq!(field("array").as_document().unwrap().get_str("1").unwrap(), "two");
    for field in fields(&document).flatten().filter(|field| field.key == b"symbol" || field.key == b"yes") {
        let nothing = (field.as_str(), field.as_integer(), field.as_millis(), field.as_timestamp(), field.as_uuid());
        assert_eq!((nothing, field.as_document()), ((None, None, None, None, None), None));
    }
}

proptest! {
    /// What the library takes for damaged may pass here, as it is not looked into; what is told is always inside.
    #[test]
    fn damaged_documents_have_an_end(at in 4..400_usize, byte in any::<u8>(), length in 5..400_usize) {
        let mut bytes = everything().into_bytes();
        bytes.truncate(length.min(bytes.len()));
        let (end, at) = (bytes.len(), at.min(bytes.len() - 1));
        bytes[at] = byte;
        bytes[end - 1] = 0;
        bytes[..4].copy_from_slice(&u32::try_from(end).unwrap().to_le_bytes());
        let document = RawDocument::from_bytes(&bytes).unwrap();
        let mut told = 5;
        for field in fields(document) {
            match field {
                Ok(field) => told += 2 + field.key.len() + field.value.len(),
                Err(Damage(at)) => prop_assert!(at < end),
            }
            prop_assert!(told <= end);
        }
    }
}
