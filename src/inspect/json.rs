//! The facts of an OpenAI-compatible JSON body, read without building its tree.
//!
//! Upstreams written in other languages read JSON differently; what they could read differently is refused: doubled
//! top-level keys (first or last wins), keys that differ from a known one by letter case (Go matches them all the same), non-ASCII keys
//! (Go also folds `ſ` and the Kelvin sign), and anywhere in the body half of a surrogate pair (RFC 8259 section 8.2) and a number that no
//! double holds (section 6).

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

use super::InspectError;

/// The deepest nesting of a body, the top-level object included.
pub(super) const MAX_DEPTH: usize = 64;

/// The most top-level keys; OpenAI defines about 40.
const MAX_KEYS: usize = 128;

/// The largest count: the integers that every JSON reader keeps exact (RFC 8259 section 6).
const MAX_COUNT: u64 = (1 << 53) - 1;

const NO_OBJECT: &str = "it is not one JSON object, or a number or an escape in it is out of range";

const STREAM_OPTIONS: &str =
    "`stream_options` must be null or an object with at most one `include_usage`: true, false or null";

/// Keys that bound the answer. Servers differ in the name, so all are read and the largest counts.
const TOKEN_KEYS: &[&str] = &["max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"];

/// The key of `stream_options` that is read.
const INCLUDE_USAGE: &str = "include_usage";

/// Other keys that are read.
const OTHER_KEYS: &[&str] = &["model", "stream", "stream_options", "n"];

/// What the gateway wants to know of a body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JsonFacts {
    /// `model`.
    pub model: String,
    /// `stream`; absent or null is false.
    pub stream: bool,
    /// `stream_options.include_usage`; absent or null is false.
    pub include_usage: bool,
    /// The largest of `max_tokens`, `max_completion_tokens`, `max_output_tokens` and `n_predict`, for one choice.
    pub max_tokens: Option<u64>,
    /// `n`: how many choices; absent or null is 1.
    pub choices: Option<u64>,
}

impl JsonFacts {
    /// The most tokens of the whole answer: those of one choice times the choices. Fits a Cedar `Long`.
    #[must_use]
    pub fn max_answer_tokens(&self) -> Option<u64> {
        let choices = self.choices.unwrap_or(1).max(1);
        self.max_tokens.map(|tokens| tokens.saturating_mul(choices).min(i64::MAX.unsigned_abs()))
    }
}

/// Reads a whole body in one pass, after one for its encoding and depth.
///
/// # Errors
/// It is no JSON object in UTF-8, too deep, ambiguous, has no model, or a known key has a value of the wrong type.
pub fn read_json(body: &[u8]) -> Result<JsonFacts, InspectError> {
    let text = std::str::from_utf8(body).map_err(|_| InspectError::BodyInvalid("it is not UTF-8"))?;
    if !is_shallow(body) {
        return Err(InspectError::BodyTooDeep);
    }
    let mut reading = Reading::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = TopLevel(&mut reading).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match (read, reading.fault) {
        (_, Some(Fault::Ambiguous)) => Err(InspectError::BodyAmbiguous),
        (_, Some(Fault::Invalid(reason))) => Err(InspectError::BodyInvalid(reason)),
        (Err(_), None) => Err(InspectError::BodyInvalid(NO_OBJECT)),
        (Ok(()), None) => {
            if reading.facts.model.is_empty() {
                return Err(InspectError::BodyInvalid("`model` is missing"));
            }
            Ok(reading.facts)
        }
    }
}

/// Whether brackets outside of strings nest at most [`MAX_DEPTH`] deep. Exact for valid JSON; others are refused by the parser,
/// which skips unknown values without a depth limit of its own.
fn is_shallow(body: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return false;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(inside) = bytes.next() {
                    match inside {
                        b'"' => break,
                        b'\\' => {
                            bytes.next();
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    true
}

#[derive(Debug, Default)]
struct Reading {
    facts: JsonFacts,
    fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Ambiguous,
    Invalid(&'static str),
}

struct TopLevel<'a>(&'a mut Reading);

impl<'de> DeserializeSeed<'de> for TopLevel<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TopLevel<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen: Vec<Cow<'de, str>> = Vec::with_capacity(16);
        while let Some(Key(key)) = map.next_key()? {
            if seen.len() == MAX_KEYS {
                return self.0.fail(Fault::Invalid("it has too many keys"));
            }
            if seen.contains(&key) || is_misleading(&key) {
                return self.0.fail(Fault::Ambiguous);
            }
            self.0.value(&key, &mut map)?;
            seen.push(key);
        }
        Ok(())
    }
}

impl Reading {
    fn fail<E: de::Error>(&mut self, fault: Fault) -> Result<(), E> {
        self.fault = Some(fault);
        Err(E::custom("refused"))
    }

    /// Reads the value of one key. A syntax error inside the value is reported as one of its type.
    fn value<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "model" => match map.next_value() {
                Ok(model) => self.facts.model = model,
                Err(_) => return self.fail(Fault::Invalid("`model` must be a string")),
            },
            "stream" => match map.next_value::<Option<bool>>() {
                Ok(stream) => self.facts.stream = stream.unwrap_or_default(),
                Err(_) => return self.fail(Fault::Invalid("`stream` must be true, false or null")),
            },
            "stream_options" => match map.next_value::<Option<StreamOptions>>() {
                Ok(options) => {
                    self.facts.include_usage = options.is_some_and(|o| o.include_usage == Some(true))
                }
                Err(_) => return self.fail(Fault::Invalid(STREAM_OPTIONS)),
            },
            "n" => match map.next_value() {
                Ok(Count(choices)) => self.facts.choices = choices,
                Err(_) => {
                    return self.fail(Fault::Invalid("`n` must be a whole number of at least 0, or null"));
                }
            },
            _ if TOKEN_KEYS.contains(&key) => match map.next_value() {
                Ok(Count(tokens)) => self.facts.max_tokens = self.facts.max_tokens.max(tokens),
                Err(_) => {
                    let reason = "a bound on tokens must be a whole number of at least 0, or null";
                    return self.fail(Fault::Invalid(reason));
                }
            },
            _ => {
                map.next_value::<Skipped>()?;
            }
        }
        Ok(())
    }
}

/// Whether some reader would take the key for one that is read here.
fn is_misleading(key: &str) -> bool {
    let near = |known: &&str| known.eq_ignore_ascii_case(key) && **known != *key;
    !key.is_ascii() || OTHER_KEYS.iter().chain(TOKEN_KEYS).any(near)
}

/// A key, borrowed unless it has escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E: de::Error>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E: de::Error>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }

        deserializer.deserialize_str(KeyVisitor)
    }
}

/// A whole number up to [`MAX_COUNT`], or null.
struct Count(Option<u64>);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let count = Option::<u64>::deserialize(deserializer)?;
        if count.is_some_and(|count| count > MAX_COUNT) {
            return Err(de::Error::custom("too large"));
        }
        Ok(Self(count))
    }
}

#[derive(Default)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// By hand, for a derived one also takes a list of the values, which no upstream does.
impl<'de> Deserialize<'de> for StreamOptions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Options;

        impl<'de> Visitor<'de> for Options {
            type Value = StreamOptions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StreamOptions, A::Error> {
                let (mut options, mut seen) = (StreamOptions::default(), false);
                while let Some(Key(key)) = map.next_key()? {
                    if key != INCLUDE_USAGE {
                        if !key.is_ascii() || key.eq_ignore_ascii_case(INCLUDE_USAGE) {
                            return Err(de::Error::custom("a key that some reader takes for a known one"));
                        }
                        map.next_value::<Skipped>()?;
                    } else if std::mem::replace(&mut seen, true) {
                        return Err(de::Error::custom("a key stands twice"));
                    } else {
                        options.include_usage = map.next_value()?;
                    }
                }
                Ok(options)
            }
        }

        deserializer.deserialize_map(Options)
    }
}

/// A value that is not wanted, read in full all the same: what serde ignores, serde_json lets pass with halves of surrogate pairs and
/// numbers without bound, which other readers refuse or replace.
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Skipped {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        while entries.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> Result<JsonFacts, &'static str> {
        read_json(body.as_bytes()).map_err(|e| e.code())
    }

    #[test]
    fn facts_are_read_past_what_is_skipped() {
        let facts = code(
            r#" {"messages":[{"role":"user","content":"\"model\": \"x\" {["}],"m\u006fdel":"a/b","max_tokens":5,
               "max_completion_tokens":7,"n":3,"stream":true,"stream_options":{"include_usage":true,"x":[1]}} "#,
        )
        .unwrap();
        assert_eq!((facts.model.as_str(), facts.stream, facts.include_usage), ("a/b", true, true));
        assert_eq!(
            (facts.max_tokens, facts.choices, facts.max_answer_tokens()),
            (Some(7), Some(3), Some(21))
        );
    }

    #[test]
    fn what_could_be_read_differently_is_refused() {
        for (body, expected) in [
            (r#"{"model":"a","model":"b"}"#, "body_ambiguous"),
            (r#"{"model":"a","m\u006fdel":"b"}"#, "body_ambiguous"),
            (r#"{"model":"a","Model":"b"}"#, "body_ambiguous"),
            (r#"{"model":"a","max_to\u212Aens":9}"#, "body_ambiguous"),
            (r#"{"model":"a","x":1,"x":2}"#, "body_ambiguous"),
            (r#"{"model":"a"} {}"#, "body_invalid"),
            (r#"{"model":"a"}x"#, "body_invalid"),
            (r#"{"model":1}"#, "body_invalid"),
            (r#"{"model":null}"#, "body_invalid"),
            (r#"{"model":""}"#, "body_invalid"),
            (r#"{"stream":true}"#, "body_invalid"),
            (r#"{"model":"a","stream":"true"}"#, "body_invalid"),
            (r#"{"model":"a","stream":1}"#, "body_invalid"),
            (r#"{"model":"a","x":"\ud800"}"#, "body_invalid"),
            (r#"{"model":"a","x":[{"\ud800":1}]}"#, "body_invalid"),
            (r#"{"model":"a","x":1e999}"#, "body_invalid"),
            (r#"{"model":"a","stream_options":[true]}"#, "body_invalid"),
            (r#"{"model":"a","stream_options":{"Include_Usage":true}}"#, "body_invalid"),
            (
                r#"{"model":"a","stream_options":{"include_usage":true,"include_usage":false}}"#,
                "body_invalid",
            ),
            (r#"{"model":"a","stream_options":{"include_usage":true,"x":"\udc00"}}"#, "body_invalid"),
            (r#"{"model":"a","max_tokens":-1}"#, "body_invalid"),
            (r#"{"model":"a","max_tokens":1.5}"#, "body_invalid"),
            (r#"{"model":"a","max_tokens":1e400}"#, "body_invalid"),
            (r#"{"model":"a","max_tokens":9007199254740992}"#, "body_invalid"),
            (r#"{"model":"a","n":"3"}"#, "body_invalid"),
            (r#"{"model":"a",}"#, "body_invalid"),
            (r#"["model"]"#, "body_invalid"),
            ("", "body_invalid"),
            ("\u{feff}{\"model\":\"a\"}", "body_invalid"),
        ] {
            assert_eq!(code(body), Err(expected), "{body}");
        }
        assert_eq!(read_json(b"{\"model\":\"\xff\"}").unwrap_err().code(), "body_invalid");
    }

    #[test]
    fn depth_and_keys_are_bounded() {
        let nested =
            |depth: usize| format!(r#"{{"model":"a","x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(code(&nested(63)).is_ok());
        assert_eq!(code(&nested(64)), Err("body_too_deep"));
        assert_eq!(code(&nested(100_000)), Err("body_too_deep"));
        assert!(code(&format!(r#"{{"model":"a","x":"{}"}}"#, "[".repeat(100))).is_ok());
        let keys: Vec<String> = (0..128).map(|i| format!(r#""k{i}":0"#)).collect();
        assert_eq!(code(&format!(r#"{{"model":"a",{}}}"#, keys.join(","))), Err("body_invalid"));
    }
}
