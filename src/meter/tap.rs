//! The tap on one answer: it looks at the bytes that pass and says at any time what they reported.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::json::{Found, Place, Scanner};
use super::sse::Events;
use super::usage;
use crate::model::Usage;

/// What an answer said of itself so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// The last sound usage report; none if there was none yet.
    pub usage: Option<Usage>,
    /// Events of a stream, `[DONE]` not counted; 0 for a plain answer. About one for each output token.
    pub events: u64,
    /// Usage reports, or members of one, that were ignored because they were no token counts.
    pub odd: u64,
    /// Whether the answer could not be read at all: it is encoded, or neither JSON nor an event stream.
    pub unreadable: bool,
}

/// Observes the body of one answer. Feeding it never fails and never keeps more than about 48 KiB.
#[derive(Debug)]
pub struct Tap {
    form: Form,
    reading: Reading,
}

#[derive(Debug)]
enum Form {
    Json(Box<Scanner>),
    Events(Box<Events>),
    Blind,
}

impl Tap {
    /// A tap for an answer with these headers; it is blind if the request was no inference or the body cannot be read.
    #[must_use]
    pub fn for_response(inference: bool, headers: &HeaderMap) -> Self {
        if !inference {
            return Self::blind();
        }
        let plain = headers
            .get_all(CONTENT_ENCODING)
            .iter()
            .all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"));
        let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let form = match media.as_str() {
            _ if !plain => Form::Blind,
            "text/event-stream" => Form::Events(Box::new(Events::new())),
            "application/json" => Form::Json(Box::new(Scanner::new(Place::Top))),
            other if other.ends_with("+json") => Form::Json(Box::new(Scanner::new(Place::Top))),
            _ => Form::Blind,
        };
        let unreadable = matches!(form, Form::Blind);
        Self { form, reading: Reading { unreadable, ..Reading::default() } }
    }

    /// A tap that looks at nothing.
    #[must_use]
    pub fn blind() -> Self {
        Self { form: Form::Blind, reading: Reading::default() }
    }

    /// Looks at the next bytes of the body.
    pub fn feed(&mut self, bytes: &[u8]) {
        let reading = &mut self.reading;
        match &mut self.form {
            Form::Blind => {}
            Form::Json(scanner) => scanner.feed(bytes, |found| note(reading, &found)),
            Form::Events(events) => {
                events.feed(bytes, |found| note(reading, &found));
                reading.events = events.count();
            }
        }
    }

    /// The usage that was reported last.
    #[must_use]
    pub const fn usage(&self) -> Option<Usage> {
        self.reading.usage
    }

    /// All that is known so far.
    #[must_use]
    pub const fn reading(&self) -> Reading {
        self.reading
    }
}

/// The last sound report wins; an odd one leaves the one before it.
fn note(reading: &mut Reading, found: &Found) {
    let parsed = match found {
        Found::Object(text) => usage::parse(text),
        Found::Odd => usage::Parsed::ODD,
    };
    reading.odd = reading.odd.saturating_add(u64::from(parsed.odd));
    reading.usage = parsed.usage.or(reading.usage);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(http::HeaderName, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn an_odd_report_leaves_the_sound_one_before_it_however_they_come() {
        let body = br#"{"usage":{"prompt_tokens":1,"completion_tokens":2},"usage":"none"}"#;
        for size in [1, body.len()] {
            let mut tap = Tap::for_response(true, &headers(&[(CONTENT_TYPE, "application/json")]));
            body.chunks(size).for_each(|piece| tap.feed(piece));
            assert_eq!(
                (tap.usage().unwrap().output_tokens, tap.reading().odd),
                (2, 1),
                "in pieces of {size}"
            );
        }
    }

    #[test]
    fn only_readable_answers_to_inference_are_read() {
        let body = br#"{"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
        let read = |inference, list: &[_]| {
            let mut tap = Tap::for_response(inference, &headers(list));
            tap.feed(body);
            (tap.usage().is_some(), tap.reading().unreadable)
        };
        assert_eq!(read(true, &[(CONTENT_TYPE, "application/json")]), (true, false));
        assert_eq!(read(true, &[(CONTENT_TYPE, "Application/JSON; charset=utf-8")]), (true, false));
        assert_eq!(read(true, &[(CONTENT_TYPE, "application/vnd.x+json")]), (true, false));
        let identity = [(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "identity")];
        assert_eq!(read(true, &identity), (true, false));
        let gzip = [(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "gzip")];
        assert_eq!(read(true, &gzip), (false, true));
        assert_eq!(read(true, &[(CONTENT_TYPE, "text/html")]), (false, true));
        assert_eq!(read(true, &[]), (false, true));
        assert_eq!(read(false, &[(CONTENT_TYPE, "application/json")]), (false, false));
    }
}
