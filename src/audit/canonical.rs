//! Canonical JSON (RFC 8785): the one form in which a record is written, so that whoever has its members has its bytes, and so its leaf hash.
//!
//! Members stand in the order of their names by UTF-16 code units (section 3.2.3), without white space, strings escaped as
//! little as JSON allows (3.2.2.2). Numbers are integers that every JSON reader keeps exactly (I-JSON, RFC 7493 section 2.2):
//! beyond ±(2^53 − 1) they stop there. There are no floats; one in a context becomes a string.
//!
//! It is written in one pass: `serde_json` drives a [`Formatter`] of ours that watches the names. Record types declare their members in
//! canonical order, so in a usual record nothing has to move.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};

/// The largest integer that a double holds exactly with its neighbours: 2^53 − 1.
pub const MAX_INTEGER: i128 = (1 << 53) - 1;
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
    head: Written,
    text: Written,
}

impl Scratch {
    /// The canonical form of a value; none if it cannot be JSON, or is nested too deeply. One allocation once the buffers have grown.
    pub(crate) fn write(&mut self, value: &impl Serialize) -> Option<Vec<u8>> {
        self.head.clear();
        self.finish(value)
    }

    /// The canonical form of the one object that has the members of both, which have no name in common.
    pub(crate) fn merge(&mut self, head: &impl Serialize, value: &impl Serialize) -> Option<Vec<u8>> {
        self.head.clear();
        self.head.write(head, &mut Written::default())?;
        self.finish(value)
    }

    fn finish(&mut self, value: &impl Serialize) -> Option<Vec<u8>> {
        self.text.clear();
        let written = self.text.write(value, &mut self.head).map(|()| self.text.bytes.clone());
        if self.text.bytes.capacity() > KEPT_BYTES {
            *self = Self::default();
        }
        written
    }
}

/// Where a member stands: from its name's first quote, to behind its name, to behind its value.
#[derive(Debug, Clone, Copy)]
struct Member {
    start: usize,
    named: usize,
    end: usize,
    /// Whether the name is ASCII without escapes, so that its bytes sort as its UTF-16 code units do.
    plain: bool,
}

impl Member {
    /// The same in a text where it begins at `start`.
    const fn moved(self, start: usize) -> Self {
        Self { start, named: self.named - self.start + start, end: self.end - self.start + start, ..self }
    }
}

/// An object that is being written.
#[derive(Debug, Clone, Copy)]
struct Object {
    /// Its first member in the list of members.
    base: usize,
    /// Whether all members until now came in order.
    ordered: bool,
}

/// A text, and where the members of its open objects stand. Those of the outermost object stay known when it is closed.
#[derive(Debug, Default)]
struct Written {
    bytes: Vec<u8>,
    members: Vec<Member>,
    objects: Vec<Object>,
    /// Objects and lists that are open.
    depth: usize,
    /// Where the last name begins.
    name: usize,
    /// Whether what was written since is ASCII without escapes.
    plain: bool,
    /// Whether a string is open: then a number is the name of a member.
    quoted: bool,
    /// How many of the members have been merged into another text.
    merged: usize,
    sorted: Vec<u8>,
}

impl Written {
    fn clear(&mut self) {
        self.bytes.clear();
        self.members.clear();
        self.objects.clear();
        (self.depth, self.quoted, self.merged) = (0, false, 0);
    }

    /// Writes a value and, if it is an object, among its members those of `head`.
    fn write(&mut self, value: &impl Serialize, head: &mut Self) -> Option<()> {
        let pen = Pen { text: self, head };
        value.serialize(&mut Serializer::with_formatter(Nowhere, pen)).ok()
    }

    fn key(&self, member: &Member) -> Key<'_> {
        Key { name: self.bytes.get(member.start..member.named).unwrap_or_default(), plain: member.plain }
    }

    /// Notes the member whose name was just written.
    fn named(&mut self) -> Option<()> {
        let (start, named) = (self.name, self.bytes.len());
        let member = Member { start, named, end: named, plain: self.plain };
        let object = *self.objects.last()?;
        let before = self.members.get(object.base..)?.last();
        if before.is_some_and(|before| self.key(before).cmp(&self.key(&member)).is_ge()) {
            self.objects.last_mut()?.ordered = false;
        }
        self.members.push(member);
        Some(())
    }

    /// Puts those members of `head` that come before the last one in front of it; it is the outermost object's, and has no value yet.
    fn merge_before(&mut self, head: &mut Self) -> Option<()> {
        let mut last = self.members.pop()?;
        while let Some(next) = head.members.get(head.merged)
            && head.key(next).cmp(&self.key(&last)).is_lt()
        {
            let (next, start, name) = (*next, last.start, last.named - last.start);
            self.bytes.extend_from_slice(head.bytes.get(next.start..next.end)?);
            self.bytes.push(b',');
            self.bytes.get_mut(start..)?.rotate_left(name);
            self.members.push(next.moved(start));
            last = last.moved(self.bytes.len() - name);
            head.merged += 1;
        }
        self.members.push(last);
        Some(())
    }

    /// Puts the rest of `head` behind the last member of the outermost object.
    fn merge_rest(&mut self, head: &mut Self) -> Option<()> {
        for next in head.members.get(head.merged..)? {
            if !self.members.is_empty() {
                self.bytes.push(b',');
            }
            self.members.push(next.moved(self.bytes.len()));
            self.bytes.extend_from_slice(head.bytes.get(next.start..next.end)?);
        }
        head.merged = head.members.len();
        Some(())
    }

    /// Closes the innermost object, its members in order.
    fn close(&mut self) -> Option<()> {
        let object = self.objects.pop()?;
        if !object.ordered {
            self.sort(object.base)?;
        }
        if !self.objects.is_empty() {
            self.members.truncate(object.base);
        }
        Some(())
    }

    /// Brings the members from `base` on, which are the end of the text, into order.
    fn sort(&mut self, base: usize) -> Option<()> {
        let mut members = std::mem::take(&mut self.members);
        let unordered = members.get_mut(base..)?;
        let from = unordered.first()?.start;
        unordered.sort_by(|a, b| self.key(a).cmp(&self.key(b)));
        self.sorted.clear();
        for member in unordered {
            if !self.sorted.is_empty() {
                self.sorted.push(b',');
            }
            let start = from + self.sorted.len();
            self.sorted.extend_from_slice(self.bytes.get(member.start..member.end)?);
            *member = member.moved(start);
        }
        self.bytes.truncate(from);
        self.bytes.extend_from_slice(&self.sorted);
        self.members = members;
        Some(())
    }
}

/// The name of a member as it stands in a text, with its quotes.
#[derive(Debug, Clone, Copy)]
struct Key<'a> {
    name: &'a [u8],
    plain: bool,
}

impl Key<'_> {
    /// By UTF-16 code units.
    fn cmp(&self, other: &Self) -> Ordering {
        if self.plain && other.plain {
            // Without the closing quote, which would come before other characters.
            let inner = |key: &Self| key.name.split_last().map(|(_, rest)| rest);
            return inner(self).cmp(&inner(other));
        }
        let text = |name| serde_json::from_slice::<Text<'_>>(name).map(|text| text.0).unwrap_or_default();
        text(self.name).encode_utf16().cmp(text(other.name).encode_utf16())
    }
}

#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Where `serde_json` writes what the pen does not: no form of JSON that records have.
struct Nowhere;

impl io::Write for Nowhere {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("a form of JSON that no record has"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what `serde_json` asks for into a text of its own, for it has to look back at what it wrote.
struct Pen<'a> {
    text: &'a mut Written,
    head: &'a mut Written,
}

impl Pen<'_> {
    #[inline]
    fn put(&mut self, byte: u8) -> io::Result<()> {
        self.text.bytes.push(byte);
        Ok(())
    }

    #[inline]
    fn put_all(&mut self, text: &[u8]) -> io::Result<()> {
        self.text.bytes.extend_from_slice(text);
        Ok(())
    }

    fn open(&mut self, bracket: u8) -> io::Result<()> {
        if self.text.depth >= MAX_DEPTH {
            return Err(io::Error::other("nested too deeply"));
        }
        self.text.depth += 1;
        self.put(bracket)
    }

    fn shut(&mut self, bracket: u8) -> io::Result<()> {
        self.text.depth = self.text.depth.saturating_sub(1);
        self.put(bracket)
    }

    const fn is_outermost(&self) -> bool {
        self.text.depth == 1
    }

    /// An integer, no further from zero than all readers know it; the name of a member stays what it is.
    fn integer(&mut self, value: i128) -> io::Result<()> {
        let value = if self.text.quoted { value } else { value.clamp(-MAX_INTEGER, MAX_INTEGER) };
        match i64::try_from(value) {
            Ok(value) => CompactFormatter.write_i64(&mut self.text.bytes, value),
            Err(_) => CompactFormatter.write_i128(&mut self.text.bytes, value),
        }
    }

    /// A float, as a string.
    fn float(&mut self, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        if self.text.quoted {
            return write(&mut self.text.bytes);
        }
        self.put(b'"')?;
        write(&mut self.text.bytes)?;
        self.put(b'"')
    }
}

fn misplaced() -> io::Error {
    io::Error::other("a member outside an object")
}

/// Methods that have nothing to do but to write an integer.
macro_rules! integers {
    ($($method:ident: $integer:ty),*) => {$(
        fn $method<W: ?Sized + io::Write>(&mut self, _: &mut W, value: $integer) -> io::Result<()> {
            self.integer(value.into())
        }
    )*};
}

impl Formatter for Pen<'_> {
    integers!(write_i8: i8, write_i16: i16, write_i32: i32, write_i64: i64, write_i128: i128);
    integers!(write_u8: u8, write_u16: u16, write_u32: u32, write_u64: u64);

    fn write_u128<W: ?Sized + io::Write>(&mut self, _: &mut W, value: u128) -> io::Result<()> {
        self.integer(i128::try_from(value).unwrap_or(i128::MAX))
    }

    fn write_f32<W: ?Sized + io::Write>(&mut self, _: &mut W, value: f32) -> io::Result<()> {
        self.float(|bytes| CompactFormatter.write_f32(bytes, value))
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, _: &mut W, value: f64) -> io::Result<()> {
        self.float(|bytes| CompactFormatter.write_f64(bytes, value))
    }

    fn write_null<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.put_all(b"null")
    }

    fn write_bool<W: ?Sized + io::Write>(&mut self, _: &mut W, value: bool) -> io::Result<()> {
        self.put_all(if value { b"true" } else { b"false" })
    }

    #[inline]
    fn begin_string<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.text.quoted = true;
        self.put(b'"')
    }

    #[inline]
    fn end_string<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.text.quoted = false;
        self.put(b'"')
    }

    #[inline]
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, _: &mut W, text: &str) -> io::Result<()> {
        self.text.plain &= text.is_ascii();
        self.put_all(text.as_bytes())
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, _: &mut W, escape: CharEscape) -> io::Result<()> {
        self.text.plain = false;
        CompactFormatter.write_char_escape(&mut self.text.bytes, escape)
    }

    #[inline]
    fn begin_array<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.open(b'[')
    }

    #[inline]
    fn end_array<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.shut(b']')
    }

    #[inline]
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, _: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { self.put(b',') }
    }

    #[inline]
    fn begin_object<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        let base = self.text.members.len();
        self.text.objects.push(Object { base, ordered: true });
        self.open(b'{')
    }

    #[inline]
    fn end_object<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        if self.is_outermost() {
            self.text.merge_rest(self.head).ok_or_else(misplaced)?;
        }
        self.text.close().ok_or_else(misplaced)?;
        self.shut(b'}')
    }

    #[inline]
    fn begin_object_key<W: ?Sized + io::Write>(&mut self, _: &mut W, first: bool) -> io::Result<()> {
        if !first {
            self.put(b',')?;
        }
        (self.text.name, self.text.plain) = (self.text.bytes.len(), true);
        Ok(())
    }

    #[inline]
    fn end_object_key<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.text.named().ok_or_else(misplaced)?;
        if self.is_outermost() && self.head.merged < self.head.members.len() {
            self.text.merge_before(self.head).ok_or_else(misplaced)?;
        }
        Ok(())
    }

    #[inline]
    fn begin_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.put(b':')
    }

    #[inline]
    fn end_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        let end = self.text.bytes.len();
        self.text.members.last_mut().map(|member| member.end = end).ok_or_else(misplaced)
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
