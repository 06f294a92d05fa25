//! Canonical JSON (RFC 8785): the one form in which a record is written, so that whoever has its members has its bytes, and so its leaf hash.
//!
//! Members stand in the order of their names by UTF-16 code units (section 3.2.3), without white space, strings escaped as
//! little as JSON allows (3.2.2.2). Numbers are integers that every JSON reader keeps exactly (I-JSON, RFC 7493 section 2.2):
//! beyond ±(2^53 − 1) they stop there. There are no floats; one in a context becomes a string.

use std::borrow::Cow;

use serde_json::Value;

/// The largest integer that a double holds exactly with its neighbours: 2^53 − 1.
pub const MAX_INTEGER: i128 = (1 << 53) - 1;
/// Objects and lists inside each other, as deep as `serde_json` reads.
const MAX_DEPTH: usize = 127;
/// Digits below which an integer cannot be too large.
const SAFE_DIGITS: usize = 15;
/// What a thread keeps of its buffers between two records.
const KEPT_BYTES: usize = 64 * 1024;

/// Where a member stands in the output: from its name's first quote, to behind its name, to behind its comma.
#[derive(Debug, Clone, Copy)]
struct Member {
    start: usize,
    named: usize,
    end: usize,
}

/// Buffers that are used again for each record.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    raw: Vec<u8>,
    members: Vec<Member>,
    sorted: Vec<u8>,
}

impl Scratch {
    /// The canonical form of a value; none if it is no JSON, or nested too deeply. One allocation once the buffers have grown.
    pub(crate) fn write(&mut self, value: &impl serde::Serialize) -> Option<Vec<u8>> {
        self.raw.clear();
        self.members.clear();
        self.sorted.clear();
        let written = serde_json::to_writer(&mut self.raw, value).ok().and_then(|()| {
            let out = Vec::with_capacity(self.raw.len());
            let (members, sorted) = (&mut self.members, &mut self.sorted);
            let mut pass = Pass { input: &self.raw, at: 0, out, members, sorted };
            pass.value(0)?;
            (pass.at == pass.input.len()).then_some(pass.out)
        });
        if self.raw.capacity() > KEPT_BYTES {
            *self = Self::default();
        }
        written
    }
}

/// The canonical form of any JSON text.
///
/// # Errors
/// It is no JSON, or nested more than 127 deep.
pub fn canonical(json: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let value: Value = serde_json::from_slice(json)?;
    let deep = || serde::de::Error::custom("it is nested too deeply");
    Scratch::default().write(&value).ok_or_else(deep)
}

/// One pass over compact JSON as `serde_json` writes it: its strings are escaped as RFC 8785 asks, only members may be out of order.
struct Pass<'a> {
    input: &'a [u8],
    at: usize,
    out: Vec<u8>,
    members: &'a mut Vec<Member>,
    sorted: &'a mut Vec<u8>,
}

impl Pass<'_> {
    fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    fn take(&mut self, expected: u8) -> Option<()> {
        (self.peek()? == expected).then(|| self.at += 1)
    }

    /// Copies the next bytes.
    fn copy(&mut self, length: usize) -> Option<()> {
        let end = self.at.checked_add(length)?;
        self.out.extend_from_slice(self.input.get(self.at..end)?);
        self.at = end;
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'{' if depth < MAX_DEPTH => self.object(depth),
            b'[' if depth < MAX_DEPTH => self.list(depth),
            b'"' => self.string(),
            b't' | b'n' => self.copy(4),
            b'f' => self.copy(5),
            b'-' | b'0'..=b'9' => self.number(),
            _ => None,
        }
    }

    fn list(&mut self, depth: usize) -> Option<()> {
        self.copy(1)?;
        while self.peek()? != b']' {
            self.value(depth + 1)?;
            if self.peek()? == b',' {
                self.copy(1)?;
            }
        }
        self.copy(1)
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.copy(1)?;
        let base = self.members.len();
        while self.peek()? != b'}' {
            let start = self.out.len();
            self.string()?;
            let named = self.out.len();
            self.take(b':')?;
            self.out.push(b':');
            self.value(depth + 1)?;
            self.out.push(b',');
            if self.peek()? == b',' {
                self.at += 1;
            }
            self.members.push(Member { start, named, end: self.out.len() });
        }
        self.at += 1;
        self.sort(base)?;
        if self.members.len() > base {
            self.out.pop();
        }
        self.members.truncate(base);
        self.out.push(b'}');
        Some(())
    }

    /// Brings the members from `base` on into order, if they are not.
    fn sort(&mut self, base: usize) -> Option<()> {
        let Self { out, members, sorted, .. } = self;
        let members = members.get_mut(base..)?;
        let name = |member: &Member| out.get(member.start..member.named).unwrap_or_default();
        let before = |a: &Member, b: &Member| compare(name(a), name(b));
        if members.is_sorted_by(|a, b| before(a, b).is_lt()) {
            return Some(());
        }
        let from = members.first()?.start;
        members.sort_unstable_by(before);
        sorted.clear();
        for member in members.iter() {
            sorted.extend_from_slice(out.get(member.start..member.end)?);
        }
        out.truncate(from);
        out.extend_from_slice(sorted);
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        self.take(b'"')?;
        let start = self.at;
        loop {
            let found = memchr::memchr2(b'"', b'\\', self.input.get(self.at..)?)?;
            self.at += found;
            match self.peek()? {
                b'\\' => self.at += 2,
                _ => break,
            }
        }
        self.at += 1;
        self.out.extend_from_slice(self.input.get(start - 1..self.at)?);
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        let rest = self.input.get(self.at..)?;
        let length = rest.iter().position(|byte| matches!(byte, b',' | b']' | b'}')).unwrap_or(rest.len());
        let text = rest.get(..length)?;
        if text.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
            self.out.push(b'"');
            self.copy(length)?;
            self.out.push(b'"');
            return Some(());
        }
        if length <= SAFE_DIGITS {
            return self.copy(length);
        }
        let number: i128 = std::str::from_utf8(text).ok()?.parse().ok()?;
        let number = number.clamp(-MAX_INTEGER, MAX_INTEGER);
        self.out.extend_from_slice(number.to_string().as_bytes());
        self.at += length;
        Some(())
    }
}

/// The order of two names that are JSON strings: by UTF-16 code units.
fn compare(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    let plain = |name: &[u8]| name.is_ascii() && memchr::memchr(b'\\', name).is_none();
    if plain(a) && plain(b) {
        // Without the closing quote, which would come before other characters.
        let inner = |name| <[u8]>::split_last(name).map(|(_, rest)| rest);
        return inner(a).cmp(&inner(b));
    }
    let text = |name| serde_json::from_slice::<Text<'_>>(name).map(|text| text.0).unwrap_or_default();
    text(a).encode_utf16().cmp(text(b).encode_utf16())
}

#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

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
