//! A record for other programs: as a line of JSON, as a row of CSV, as an OCSF event.
//!
//! Each format is a function that writes one record and needs nothing but the record; what a format has no place for stands in a
//! member of its own, so none loses anything. Outcomes say neither who nor what: those who have the decision at hand pass it along.
//! The exact bytes, for hashing, are none of these: see [`super::report`].

pub mod csv;
pub mod json_lines;
pub mod ocsf;
mod open;

pub use open::OpenDecisions;

use std::io;

use serde_json::Value;

/// One record on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Its number in the journal.
    pub seq: u64,
    /// Its bytes, JSON.
    pub payload: &'a [u8],
    /// The decision that it is the outcome of, if it is one and the decision is known.
    pub decision: Option<&'a Value>,
}

impl<'a> Entry<'a> {
    /// A record by itself.
    #[must_use]
    pub const fn new(seq: u64, payload: &'a [u8]) -> Self {
        Self { seq, payload, decision: None }
    }

    fn parse(&self) -> io::Result<Value> {
        let failed = |error| {
            let text = format!("record {} is no JSON: {error}", self.seq);
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        serde_json::from_slice(self.payload).map_err(failed)
    }
}

/// A text at a path of members.
fn text_at<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}

/// The identity of a record, by which copies of it are known: crossing, attempt and kind; or run and number where there is no crossing.
/// The same as `log.record.uid` of its export to OpenTelemetry.
#[must_use]
pub fn uid(seq: u64, record: &Value) -> String {
    let text = |name: &str| record.get(name).and_then(Value::as_str);
    let kind = text("kind").unwrap_or("record");
    match (text("id"), record.get("attempt").and_then(Value::as_u64)) {
        (Some(id), Some(attempt)) => format!("{id}/{attempt}/{kind}"),
        (Some(id), None) => format!("{id}/{kind}"),
        (None, _) => format!("{}/{seq}", text("boot").unwrap_or("seq")),
    }
}

/// Takes out members that have a place elsewhere; objects that are empty then go too.
fn remove(value: &mut Value, pointer: &str) {
    let mut names = pointer.trim_start_matches('/').split('/');
    let (Some(first), rest) = (names.next(), names.collect::<Vec<_>>().join("/")) else { return };
    let Some(members) = value.as_object_mut() else { return };
    if rest.is_empty() {
        members.remove(first);
    } else if let Some(inner) = members.get_mut(first) {
        remove(inner, &rest);
        if inner.as_object().is_some_and(serde_json::Map::is_empty) {
            members.remove(first);
        }
    }
}
