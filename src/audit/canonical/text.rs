//! A text that is being written, which knows where the members of its open objects stand: what came out of order is brought into order
//! when its object ends.

use std::borrow::Cow;
use std::cmp::Ordering;

/// Bytes that a text is looked at together.
const WORD: usize = 8;
/// A byte in each place of a word.
const ONES: u64 = u64::from_ne_bytes([1; WORD]);
const HIGH: u64 = ONES << 7;

/// Where a member stands: from its name's first quote, to behind its name, to behind its value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
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
pub(super) struct Object {
    /// Its first member in the list of members.
    base: usize,
    /// Whether all members until now came in order.
    ordered: bool,
}

/// A text, and where the members of its open objects stand.
#[derive(Debug, Default)]
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    members: Vec<Member>,
    sorted: Vec<u8>,
}

impl Text {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.members.clear();
    }

    pub(super) fn push(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// Writes a string with its quotes; whether it is ASCII without escapes.
    pub(super) fn string(&mut self, text: &str) -> bool {
        self.push(b'"');
        let plain = self.fragment(text);
        self.push(b'"');
        plain
    }

    /// Writes a part of a string (section 3.2.2.2); whether it is ASCII without escapes.
    pub(super) fn fragment(&mut self, text: &str) -> bool {
        let found = look(text.as_bytes());
        if !found.escapes {
            self.bytes.extend_from_slice(text.as_bytes());
            return !found.foreign;
        }
        for byte in text.bytes() {
            match escape(byte) {
                None => self.push(byte),
                Some(b'u') => {
                    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
                    self.bytes.extend_from_slice(&[
                        b'\\',
                        b'u',
                        b'0',
                        b'0',
                        digit(byte >> 4),
                        digit(byte & 15),
                    ]);
                }
                Some(letter) => self.bytes.extend_from_slice(&[b'\\', letter]),
            }
        }
        false
    }

    /// Begins an object.
    pub(super) fn open(&mut self) -> Object {
        self.push(b'{');
        Object { base: self.members.len(), ordered: true }
    }

    /// Begins a member of the innermost object.
    pub(super) fn name(&mut self, object: &mut Object, name: &str) {
        self.comma(object);
        let start = self.bytes.len();
        let plain = self.string(name);
        let named = self.bytes.len();
        let member = Member { start, named, end: named, plain };
        let before = self.members.get(object.base..).and_then(<[_]>::last);
        if before.is_some_and(|before| self.key(before).cmp(&self.key(&member)).is_ge()) {
            object.ordered = false;
        }
        self.members.push(member);
        self.push(b':');
    }

    /// Ends the member that was begun last.
    pub(super) fn valued(&mut self) {
        let end = self.bytes.len();
        if let Some(member) = self.members.last_mut() {
            member.end = end;
        }
    }

    /// Ends the innermost object, its members in order.
    pub(super) fn close(&mut self, object: Object) {
        if !object.ordered {
            self.sort(object.base);
        }
        self.members.truncate(object.base);
        self.push(b'}');
    }

    fn comma(&mut self, object: &Object) {
        if self.members.len() > object.base {
            self.push(b',');
        }
    }

    fn key(&self, member: &Member) -> Key<'_> {
        Key { name: self.bytes.get(member.start..member.named).unwrap_or_default(), plain: member.plain }
    }

    /// Brings the members from `base` on, which are the end of the text, into order.
    fn sort(&mut self, base: usize) {
        let mut members = std::mem::take(&mut self.members);
        let unordered = members.get_mut(base..).unwrap_or_default();
        let from = unordered.first().map_or(self.bytes.len(), |first| first.start);
        unordered.sort_by(|a, b| self.key(a).cmp(&self.key(b)));
        self.sorted.clear();
        for member in unordered {
            if !self.sorted.is_empty() {
                self.sorted.push(b',');
            }
            let start = from + self.sorted.len();
            self.sorted.extend_from_slice(self.bytes.get(member.start..member.end).unwrap_or_default());
            *member = member.moved(start);
        }
        self.bytes.truncate(from);
        self.bytes.extend_from_slice(&self.sorted);
        self.members = members;
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
            let (inner, other) = (self.inner(), other.inner());
            // Most names differ in their first letter.
            return inner.first().cmp(&other.first()).then_with(|| inner.cmp(other));
        }
        self.text().encode_utf16().cmp(other.text().encode_utf16())
    }

    /// Without the closing quote, which would come before other characters.
    fn inner(&self) -> &[u8] {
        let quoted = self.name.split_first().and_then(|(_, rest)| rest.split_last());
        quoted.map_or(&[], |(_, inner)| inner)
    }

    fn text(&self) -> Cow<'_, str> {
        #[derive(serde::Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
        serde_json::from_slice::<Name<'_>>(self.name).map(|name| name.0).unwrap_or_default()
    }
}

/// What a string has that is not written as it stands, or sorts differently.
struct Found {
    /// Quotes, backslashes or control characters.
    escapes: bool,
    /// Characters beyond ASCII.
    foreign: bool,
}

/// Looks at eight bytes together; the last word overlaps the one before.
fn look(bytes: &[u8]) -> Found {
    let (mut escapes, mut all) = (0, 0);
    let mut add = |word: u64| {
        escapes |= marks(word);
        all |= word;
    };
    if let Some(last) = bytes.last_chunk::<WORD>() {
        let (words, _) = bytes.as_chunks::<WORD>();
        words.iter().for_each(|word| add(u64::from_ne_bytes(*word)));
        add(u64::from_ne_bytes(*last));
    } else if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        add(u64::from(u32::from_ne_bytes(*first)) << 32 | u64::from(u32::from_ne_bytes(*last)));
    } else {
        add(bytes.iter().fold(ONES * u64::from(b' '), |word, byte| word << 8 | u64::from(*byte)));
    }
    Found { escapes: escapes & HIGH != 0, foreign: all & HIGH != 0 }
}

/// The highest bits of a word that has bytes to be escaped; what a borrow adds to them stands beside one that is.
const fn marks(word: u64) -> u64 {
    // With this bit turned, a quote (0x22) comes to stand right behind the control characters, and a space does not.
    let low = (word ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21) & !word;
    let backslash = word ^ (ONES * b'\\' as u64);
    low | (backslash.wrapping_sub(ONES) & !backslash)
}

/// What stands behind the backslash for a byte that cannot stand for itself; `u` with its number.
const fn escape(byte: u8) -> Option<u8> {
    match byte {
        b'"' | b'\\' => Some(byte),
        0x08 => Some(b'b'),
        0x09 => Some(b't'),
        0x0a => Some(b'n'),
        0x0c => Some(b'f'),
        0x0d => Some(b'r'),
        0..0x20 => Some(b'u'),
        _ => None,
    }
}
