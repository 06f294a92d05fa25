//! Canonical JSON (RFC 8785): the one form in which a record is written, so that whoever has its members has its bytes, and so its leaf hash.
//!
//! Members stand in the order of their names by UTF-16 code units (section 3.2.3), without white space, strings escaped as
//! little as JSON allows (3.2.2.2). Numbers are integers that every JSON reader keeps exactly (I-JSON, RFC 7493 section 2.2):
//! beyond ±(2^53 − 1) they stop there. There are no floats; one in a context becomes a string.
//!
//! It is written in one pass by a serializer of its own (`pen`). Record types declare their members in canonical order, so in a usual record
//! nothing has to move (`text`).

mod name;
mod pen;
mod text;

use serde::Serialize;
use serde_json::Value;

use text::Text;

/// The largest integer that a double holds exactly with its neighbours: 2^53 − 1.
pub const MAX_INTEGER: i64 = (1 << 53) - 1;
/// Objects and lists inside each other, as deep as `serde_json` reads.
const MAX_DEPTH: usize = 127;
/// What a thread keeps of its buffers between two records.
const KEPT_BYTES: usize = 64 * 1024;

/// The canonical form of any JSON text.
///
/// # Errors
/// It is no JSON, or nested more than 127 deep.
pub fn canonical(json: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let value: Value = serde_json::from_slice(json)?;
    let deep = || serde::de::Error::custom("it is nested too deeply");
    Scratch::default().write(&value).ok_or_else(deep)
}

/// Buffers that are used again for each record.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    text: Text,
}

impl Scratch {
    /// The canonical form of a value; none if it cannot be JSON, or is nested too deeply. One allocation once the buffer has grown.
    pub(crate) fn write(&mut self, value: &impl Serialize) -> Option<Vec<u8>> {
        self.merge::<()>(&[], value)
    }

    /// The canonical form of an object with the members of `head` among its own, if they have a value. They are sorted and ASCII without
    /// escapes, and the object has none of their names.
    pub(crate) fn merge<H: Serialize>(
        &mut self,
        head: &[(&'static str, Option<H>)],
        value: &impl Serialize,
    ) -> Option<Vec<u8>> {
        self.text.clear();
        let written = pen::write(value, &mut self.text, head).map(|()| self.text.bytes.clone()).ok();
        if self.text.bytes.capacity() > KEPT_BYTES {
            *self = Self::default();
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Values as contexts may hold them, with names that need care.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-(1_i64 << 53) + 1..(1_i64 << 53)).prop_map(Value::from),
            "\\PC{0,12}|[\\x00-\\x1f\"\\\\/]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 60, 8, |inner| {
            let name = "[a-c]{0,3}|\\PC{0,4}|[\\x00-\\x1f\"\\\\]{1,2}|[\u{e000}\u{fffd}\u{10000}]{1,2}";
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(name, inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_is_what_another_implementation_writes_and_canonical_again(value in value()) {
            let pretty = serde_json::to_vec_pretty(&value).unwrap();
            let ours = canonical(&pretty).unwrap();
            prop_assert_eq!(&ours, &serde_json_canonicalizer::to_vec(&value).unwrap());
            prop_assert_eq!(&ours, &canonical(&ours).unwrap());
            prop_assert_eq!(serde_json::from_slice::<Value>(&ours).unwrap(), value);
        }
    }

    proptest! {
        /// Wherever in a text it stands, alone or among others.
        #[test]
        fn what_must_be_escaped_is_and_nothing_else(text in "([a-zé\\x7f]|[\\x00-\\x1f\"\\\\]?){0,40}") {
            prop_assert_eq!(Scratch::default().write(&text).unwrap(), serde_json::to_vec(&text).unwrap());
        }
    }

    /// The examples of RFC 8785 sections 3.2.2 and 3.2.3, without their floats.
    #[test]
    fn the_examples_of_the_specification() {
        let order = canonical(
            br#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#,
        )
        .unwrap();
        let values: Vec<String> =
            String::from_utf8(order).unwrap().split('"').skip(3).step_by(4).map(str::to_owned).collect();
        assert_eq!(
            values,
            [
                "Carriage Return",
                "One",
                "Control",
                "Latin Small Letter O With Diaeresis",
                "Euro Sign",
                "Emoji: Grinning Face",
                "Hebrew Letter Dalet With Dagesh"
            ]
        );
        let text = canonical(
            br#"{"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#,
        );
        assert_eq!(
            String::from_utf8(text.unwrap()).unwrap(),
            "{\"literals\":[null,true,false],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
        );
    }

    /// Each kind of value that a record may have, as `serde_json` writes it.
    #[test]
    fn all_that_serde_knows() {
        use std::collections::BTreeMap;
        #[derive(Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
        enum Kind {
            Unit,
            One(u8),
            Two(u8, char),
            Named { b: Option<u8>, a: bool },
        }
        #[derive(Serialize)]
        struct Unit;
        #[derive(Serialize)]
        struct Pair(i8, u16);
        #[derive(Serialize)]
        struct All<'a> {
            kinds: [Kind; 4],
            unit: Unit,
            pair: Pair,
            numbers: (i64, u64, i128, u128),
            float: (f32, f64),
            bytes: &'a [u8],
            address: std::net::SocketAddr,
            by_number: BTreeMap<i64, ()>,
            by_kind: BTreeMap<char, BTreeMap<bool, Kind>>,
        }
        let all = All {
            kinds: [Kind::Unit, Kind::One(1), Kind::Two(2, '"'), Kind::Named { b: None, a: true }],
            unit: Unit,
            pair: Pair(-3, 4),
            numbers: (i64::MIN, u64::MAX, i128::MIN, u128::MAX),
            float: (f32::NAN, -0.5),
            bytes: b"\x00a",
            address: ([192, 0, 2, 7], 80).into(),
            by_number: [(i64::MAX, ()), (-1, ())].into(),
            by_kind: [('\n', [(true, Kind::Unit)].into())].into(),
        };
        let expected = concat!(
            r#"{"address":"192.0.2.7:80","by_kind":{"\n":{"true":"Unit"}},"by_number":{"-1":null,"9223372036854775807":null},"bytes":[0,97],"#,
            r#""float":[null,"-0.5"],"head":{"Named":{"a":true,"b":1}},"kinds":["Unit",{"One":1},{"Two":[2,"\""]},{"Named":{"a":true,"b":null}}],"#,
            r#""numbers":[-9007199254740991,9007199254740991,-9007199254740991,9007199254740991],"pair":[-3,4],"unit":null}"#
        );
        let head = [("absent", None), ("head", Some(Kind::Named { b: Some(1), a: true }))];
        let text = Scratch::default().merge(&head, &all).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        // Also an `enum` is one object with its head.
        let text = Scratch::default().merge(&head, &Kind::Two(3, 'x')).unwrap();
        assert_eq!(text, br#"{"Two":[3,"x"],"head":{"Named":{"a":true,"b":1}}}"#);
        assert!(Scratch::default().write(&BTreeMap::from([((1, 2), 3)])).is_none());
    }

    #[test]
    fn what_is_nested_too_deeply_has_no_form() {
        let nested = |depth| (0..depth).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        assert!(Scratch::default().write(&nested(MAX_DEPTH)).is_some());
        assert!(Scratch::default().write(&nested(MAX_DEPTH + 1)).is_none());
    }

    #[test]
    fn numbers_that_some_reader_would_round_are_none() {
        let text = canonical(
            b"[9007199254740991,9007199254740992,18446744073709551615,-9223372036854775808,0.5,1e3]",
        );
        let expected =
            r#"[9007199254740991,9007199254740991,9007199254740991,-9007199254740991,"0.5","1000.0"]"#;
        assert_eq!(String::from_utf8(text.unwrap()).unwrap(), expected);
    }
}
