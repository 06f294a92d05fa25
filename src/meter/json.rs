//! A streaming scanner that finds the `usage` object of a JSON document without keeping the document.
//!
//! It is exact about strings, escapes and nesting, so `usage` inside a message never counts. It does not validate:
//! what an answer looks like is between the upstream and the client. Memory: [`MAX_KEY`] + [`MAX_OBJECT`] bytes.

use memchr::memchr2;

/// The longest key that is compared, in bytes: `response` with every letter as `\u00xx`.
const MAX_KEY: usize = 48;

/// The longest `usage` object that is kept, in bytes; a longer one is given up. Real ones have some hundred.
const MAX_OBJECT: usize = 16 * 1024;

/// Where `usage` may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// `{"usage": …}`: answers of Chat Completions, Embeddings, Responses.
    Top,
    /// Also `{"response": {"usage": …}}`: the events of a Responses stream.
    TopOrResponse,
}

/// What the scanner found; the last one of a document is the valid one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// The text of a `usage` object, braces included.
    Object(Vec<u8>),
    /// A `usage` that is neither an object nor `null`, or is too long.
    Odd,
}

/// The key whose value comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Usage,
    Response,
    Other,
}

/// Where the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Outside of strings.
    Outside,
    /// In a string.
    String,
    /// In a string, behind a backslash.
    Escape,
}

/// The scanner of one document.
#[derive(Debug)]
pub(super) struct Scanner {
    place: Place,
    at: At,
    /// Open braces and brackets.
    depth: u32,
    /// The depth of the object whose keys are compared: 1, or 2 within `response`.
    level: u32,
    /// Whether the next string at `level` is a key.
    expect_key: bool,
    /// The raw text of a key that is being read; none outside of one.
    key: Option<Vec<u8>>,
    /// The key that was read last and whose value has not begun.
    pending: Option<Key>,
    /// The `usage` object that is being read.
    object: Option<Vec<u8>>,
    /// Whether the document is over or none: nothing counts any more.
    done: bool,
    found: Option<Found>,
}

impl Scanner {
    /// A scanner at the start of a document.
    pub(super) const fn new(place: Place) -> Self {
        Self {
            place,
            at: At::Outside,
            depth: 0,
            level: 1,
            expect_key: false,
            key: None,
            pending: None,
            object: None,
            done: false,
            found: None,
        }
    }

    /// Reads on, and hands over whatever is found, each thing once.
    pub(super) fn feed(&mut self, bytes: &[u8], mut note: impl FnMut(Found)) {
        let mut rest = bytes;
        while !self.done && !rest.is_empty() {
            rest = self.step(rest);
            if let Some(found) = self.found.take() {
                note(found);
            }
        }
    }

    /// Reads one byte, or within a string all that cannot end it, and gives the rest.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some((first, tail)) = bytes.split_first() else { return bytes };
        if self.at == At::String {
            // Most bytes of an answer are text: jump to what could end it.
            let run = memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
            let (text, after) = bytes.split_at_checked(run).unwrap_or((bytes, &[]));
            self.keep(text);
            let Some((mark, tail)) = after.split_first() else { return after };
            self.keep(&[*mark]);
            if *mark == b'\\' {
                self.at = At::Escape;
            } else {
                self.end_string();
            }
            return tail;
        }
        self.keep(&[*first]);
        match self.at {
            At::Escape => self.at = At::String,
            At::Outside | At::String => self.outside(*first),
        }
        tail
    }

    /// One byte outside of strings.
    fn outside(&mut self, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b'"' => {
                self.value_starts(byte);
                self.at = At::String;
                if self.depth == self.level && self.expect_key {
                    self.key = Some(Vec::new());
                }
            }
            b'{' | b'[' => self.open(byte),
            b'}' | b']' => self.close(),
            b',' => {
                if self.depth == self.level {
                    self.expect_key = true;
                    self.pending = None;
                }
            }
            b':' => {}
            _ => self.value_starts(byte),
        }
    }

    fn open(&mut self, byte: u8) {
        let key = (self.depth == self.level).then_some(self.pending.take()).flatten();
        if self.depth == 0 {
            // A document that is no object has no `usage`.
            self.done = byte != b'{';
            self.expect_key = true;
        }
        match (key, byte) {
            (Some(Key::Usage), b'{') => self.object = Some(vec![b'{']),
            (Some(Key::Usage), _) => self.found = Some(Found::Odd),
            (Some(Key::Response), b'{') => {
                self.level = 2;
                self.expect_key = true;
            }
            _ => {}
        }
        // Deeper than 2^32 needs 4 GiB of brackets; saturating then merely finds nothing.
        self.depth = self.depth.saturating_add(1);
    }

    fn close(&mut self) {
        let Some(depth) = self.depth.checked_sub(1) else {
            self.done = true;
            return;
        };
        self.depth = depth;
        if depth == self.level
            && let Some(object) = self.object.take()
        {
            self.found = Some(Found::Object(object));
        }
        if self.level == 2 && depth == 1 {
            self.level = 1;
            self.expect_key = false;
        }
        self.done = depth == 0;
    }

    /// A string, number or word begins: a `usage` of that kind is none, `null` is as good as absent.
    fn value_starts(&mut self, byte: u8) {
        if self.depth == self.level && self.pending.take() == Some(Key::Usage) && byte != b'n' {
            self.found = Some(Found::Odd);
        }
    }

    fn end_string(&mut self) {
        self.at = At::Outside;
        if let Some(raw) = self.key.take() {
            self.expect_key = false;
            self.pending = Some(self.key_of(&raw));
        }
    }

    /// `raw` is the key with its closing quote.
    fn key_of(&self, raw: &[u8]) -> Key {
        let nested = self.place == Place::TopOrResponse && self.level == 1;
        let name = |text: &[u8]| match text {
            b"usage" => Key::Usage,
            b"response" if nested => Key::Response,
            _ => Key::Other,
        };
        let Some((_, text)) = raw.split_last() else { return Key::Other };
        if !text.contains(&b'\\') {
            return name(text);
        }
        let mut quoted = vec![b'"'];
        quoted.extend_from_slice(raw);
        serde_json::from_slice::<String>(&quoted).map_or(Key::Other, |key| name(key.as_bytes()))
    }

    /// Copies bytes to the key or object that is being read.
    fn keep(&mut self, bytes: &[u8]) {
        if let Some(object) = &mut self.object {
            if object.len().saturating_add(bytes.len()) > MAX_OBJECT {
                self.object = None;
                self.found = Some(Found::Odd);
            } else {
                object.extend_from_slice(bytes);
            }
        }
        if let Some(key) = &mut self.key
            && key.len() <= MAX_KEY
        {
            // One byte over the bound is enough to compare unequal to every name.
            let room = (MAX_KEY + 1).saturating_sub(key.len()).min(bytes.len());
            key.extend(bytes.iter().take(room));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn scan(place: Place, text: &[u8], cut: usize) -> Option<Found> {
        let (mut scanner, mut last) = (Scanner::new(place), None);
        for piece in text.chunks(cut.max(1)) {
            scanner.feed(piece, |found| last = Some(found));
        }
        last
    }

    fn object(text: &str) -> Option<Found> {
        Some(Found::Object(text.as_bytes().to_vec()))
    }

    #[test]
    fn only_the_top_level_counts() {
        let cases = [
            (r#"{"usage":{"a":1}}"#, object(r#"{"a":1}"#)),
            (" {\"x\":[{\"usage\":{}}],\r\n\"usage\" : {\"b\":[{}]} }", object(r#"{"b":[{}]}"#)),
            (r#"{"choices":[{"message":{"content":"\"usage\":{\"a\":1}","usage":{"a":2}}}]}"#, None),
            (r#"{"content":"usage","other":{"a":1}}"#, None),
            (r#"{"a":"usage\\","usage":{"s":"}\"{"}}"#, object(r#"{"s":"}\"{"}"#)),
            (r#"{"\u0075sage":{"a":1}}"#, object(r#"{"a":1}"#)),
            (r#"{"usage":{"a":1},"usage":{"a":2}}"#, object(r#"{"a":2}"#)),
            (r#"{"usage":null}"#, None),
            (r#"{"usage":7}"#, Some(Found::Odd)),
            (r#"{"usage":[{}]}"#, Some(Found::Odd)),
            (r#"{"usage":"x"}"#, Some(Found::Odd)),
            (r#"[{"usage":{}}]"#, None),
            (r#"{"response":{"usage":{"a":1}}}"#, None),
            (r#"{"a":1}{"usage":{}}"#, None),
            (r#"}{"usage":{}}"#, None),
            (r#"{"usage":{"a":1"#, None),
            ("", None),
        ];
        for (text, expected) in cases {
            for cut in 1..=text.len().max(1) {
                assert_eq!(scan(Place::Top, text.as_bytes(), cut), expected, "{text} in pieces of {cut}");
            }
        }
    }

    #[test]
    fn events_of_a_responses_stream_nest_it() {
        let text = r#"{"response":{"output":[{"usage":{}}],"usage":{"a":1},"x":{"usage":{}}},"usage":null}"#;
        assert_eq!(scan(Place::TopOrResponse, text.as_bytes(), 3), object(r#"{"a":1}"#));
        let text = r#"{"response":{"response":{"usage":{}}},"n":{"usage":{}},"usage":{"b":2}}"#;
        assert_eq!(scan(Place::TopOrResponse, text.as_bytes(), 5), object(r#"{"b":2}"#));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (mut scanner, mut all) = (Scanner::new(Place::Top), Vec::new());
        scanner.feed(br#"{"usage":{"a":""#, |found| all.push(found));
        for _ in 0..64 {
            scanner.feed(&[b'x'; 4096], |found| all.push(found));
        }
        assert!(scanner.object.is_none());
        scanner.feed(br#""},""#, |found| all.push(found));
        assert_eq!(all, [Found::Odd]);
        for _ in 0..64 {
            scanner.feed(&[b'k'; 4096], |_| {});
        }
        assert!(scanner.key.as_ref().is_some_and(|key| key.capacity() <= 4 * MAX_KEY));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let text = prop_oneof!["usage", "response", "\\PC{0,12}", "[\"\\\\{}:, ]{0,8}"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(text.clone(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_parser(document in any_json(), pretty: bool, cut in 1usize..40, nested: bool) {
            let text = if pretty { serde_json::to_vec_pretty(&document) } else { serde_json::to_vec(&document) };
            let place = if nested { Place::TopOrResponse } else { Place::Top };
            // Of several the last in the text is meant; here keys are sorted, so `response` stands before `usage`.
            let inner = document.get("response").filter(|inner| nested && inner.is_object());
            let values = [document.get("usage"), inner.and_then(|inner| inner.get("usage"))];
            let expected = values.into_iter().flatten().find(|value| !value.is_null()).filter(|_| document.is_object());
            let found = scan(place, &text.unwrap(), cut);
            match (expected, found) {
                (None, None) => {}
                (Some(value), Some(Found::Object(raw))) => {
                    prop_assert_eq!(&serde_json::from_slice::<Value>(&raw).unwrap(), value);
                }
                (Some(value), Some(Found::Odd)) => prop_assert!(!value.is_object()),
                other => prop_assert!(false, "{:?} in {}", other, document),
            }
        }

        #[test]
        fn any_bytes_at_all_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 1usize..50) {
            let whole = scan(Place::TopOrResponse, &bytes, bytes.len());
            prop_assert_eq!(scan(Place::TopOrResponse, &bytes, cut), whole);
        }
    }

    #[test]
    fn a_document_can_be_deep() {
        let mut deep = "[".repeat(100_000) + &"]".repeat(100_000);
        deep = format!(r#"{{"a":{deep},"usage":{}}}"#, json!({"prompt_tokens": 1}));
        assert_eq!(scan(Place::Top, deep.as_bytes(), 1000), object(r#"{"prompt_tokens":1}"#));
    }
}
