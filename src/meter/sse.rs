//! Server-sent events (WHATWG HTML, 9.2) read as they pass: a byte order mark, CR, LF and CRLF, comments, data of several lines.
//!
//! Only `data` matters here. An event that the stream never ends with an empty line is none, as the standard says.

use memchr::{memchr2, memmem};

use super::json::{Found, Place, Scanner};

/// The most data of one event that is kept, in bytes; the rest of a longer one is scanned as it comes.
const MAX_EVENT: usize = 16 * 1024;

/// Where in a line the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// So many bytes of `data:` have been seen and nothing else.
    Name(usize),
    /// Behind `data:`; a single space is dropped.
    Space,
    /// In the value of `data`.
    Data,
    /// In a comment or another field.
    Other,
}

const FIELD: &[u8] = b"data:";
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The reader of one stream.
#[derive(Debug)]
pub(super) struct Events {
    /// Bytes of a byte order mark that are still to come; none once the stream has begun.
    bom: Option<usize>,
    line: Line,
    /// Whether the last byte was a CR, so that a LF belongs to it.
    after_cr: bool,
    event: Event,
    count: u64,
}

impl Events {
    /// A reader at the start of a stream.
    pub(super) const fn new() -> Self {
        Self { bom: Some(0), line: Line::Name(0), after_cr: false, event: Event::new(), count: 0 }
    }

    /// Events with data so far, `[DONE]` not counted.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// Reads on; `found` is called for each event that reports usage.
    pub(super) fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(Found)) {
        let mut rest = self.skip_bom(bytes);
        while let Some((first, tail)) = rest.split_first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                rest = tail;
                continue;
            }
            let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            let Some((text, after)) = rest.split_at_checked(end) else { return };
            self.text(text);
            let Some((mark, tail)) = after.split_first() else { return };
            self.after_cr = *mark == b'\r';
            rest = tail;
            if let Some(usage) = self.end_line() {
                found(usage);
            }
        }
    }

    /// A byte order mark cannot begin a field's name, so what turns out to be none needs no replay but its line is no `data`.
    fn skip_bom<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let mut rest = bytes;
        while let (Some(seen), Some((first, tail))) = (self.bom, rest.split_first()) {
            match BOM.get(seen) {
                Some(expected) if expected == first => {
                    self.bom = Some(seen + 1);
                    rest = tail;
                }
                _ => {
                    if seen > 0 && seen < BOM.len() {
                        self.line = Line::Other;
                    }
                    self.bom = None;
                }
            }
        }
        rest
    }

    /// Part of a line, without its end.
    fn text(&mut self, mut text: &[u8]) {
        while let Some((first, tail)) = text.split_first() {
            match self.line {
                Line::Name(seen) => match FIELD.get(seen) {
                    Some(expected) if expected == first => {
                        self.line = if seen + 1 == FIELD.len() { Line::Space } else { Line::Name(seen + 1) };
                        text = tail;
                    }
                    _ => self.line = Line::Other,
                },
                Line::Space => {
                    self.event.next_line();
                    self.line = Line::Data;
                    if *first == b' ' {
                        text = tail;
                    }
                }
                Line::Data => {
                    self.event.push(text);
                    return;
                }
                Line::Other => return,
            }
        }
    }

    fn end_line(&mut self) -> Option<Found> {
        match std::mem::replace(&mut self.line, Line::Name(0)) {
            Line::Name(0) => {
                let (real, found) = self.event.finish();
                self.count = self.count.saturating_add(u64::from(real));
                return found;
            }
            // `data` alone and `data:` are both an empty line of data.
            Line::Space | Line::Name(4) => self.event.next_line(),
            Line::Name(_) | Line::Data | Line::Other => {}
        }
        None
    }
}

/// The data of the event that is being read.
#[derive(Debug)]
struct Event {
    /// Its lines so far, joined by LF; reused from event to event.
    data: Vec<u8>,
    /// Reads the data instead once it is longer than [`MAX_EVENT`], and what it found last.
    long: Option<(Scanner, Option<Found>)>,
    /// Whether there was a `data` line.
    some: bool,
}

impl Event {
    const fn new() -> Self {
        Self { data: Vec::new(), long: None, some: false }
    }

    /// A `data` line begins.
    fn next_line(&mut self) {
        if self.some {
            self.push(b"\n");
        }
        self.some = true;
    }

    fn push(&mut self, text: &[u8]) {
        if let Some((scanner, last)) = &mut self.long {
            scanner.feed(text, |found| *last = Some(found));
        } else if self.data.len().saturating_add(text.len()) <= MAX_EVENT {
            self.data.extend_from_slice(text);
        } else {
            let (mut scanner, mut last) = (Scanner::new(Place::TopOrResponse), None);
            scanner.feed(&self.data, |found| last = Some(found));
            scanner.feed(text, |found| last = Some(found));
            self.long = Some((scanner, last));
        }
    }

    /// The event is over: whether it carried anything, and the usage in it.
    fn finish(&mut self) -> (bool, Option<Found>) {
        let long = self.long.take();
        // Of a long event only the head is in `data`, and which depends on how it came.
        let real = std::mem::take(&mut self.some) && (long.is_some() || self.data != b"[DONE]");
        let found = match long {
            Some((_, last)) => last,
            None if may_report(&self.data) => {
                let mut last = None;
                Scanner::new(Place::TopOrResponse).feed(&self.data, |found| last = Some(found));
                last
            }
            None => None,
        };
        self.data.clear();
        (real, found)
    }
}

/// Whether `"usage":` with another value than `null` occurs anywhere, be it in the wrong place: most events stop here.
/// A key that is written with `\u` escapes is not seen; no server writes one.
fn may_report(data: &[u8]) -> bool {
    const KEY: &[u8] = b"\"usage\"";
    memmem::find_iter(data, KEY).any(|at| {
        let mut value = data.iter().skip(at + KEY.len()).filter(|byte| !byte.is_ascii_whitespace());
        value.next() == Some(&b':') && value.next() != Some(&b'n')
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(stream: &[u8], cut: usize) -> (Vec<String>, u64) {
        let mut events = Events::new();
        let mut all = Vec::new();
        for piece in stream.chunks(cut.max(1)) {
            events.feed(piece, |found| match found {
                Found::Object(text) => all.push(String::from_utf8(text).unwrap()),
                Found::Odd => all.push("odd".to_owned()),
            });
        }
        (all, events.count())
    }

    #[test]
    fn a_long_event_that_begins_like_the_last_one_counts_however_it_comes() {
        let stream = [b"data:[DONE]".as_slice(), &[b'x'; MAX_EVENT], b"\n\n"].concat();
        for cut in 1..32 {
            let mut events = Events::new();
            let (head, tail) = stream.split_at(cut);
            events.feed(head, |_| ());
            events.feed(tail, |_| ());
            assert_eq!(events.count(), 1, "cut at {cut}");
        }
    }

    #[test]
    fn lines_end_in_three_ways_and_any_split_is_the_same() {
        let template = "data: {\"choices\":[],\"usage\":null}|:comment|event: x|data:{|data|data: \"usage\":{\"a\":1}}|id: 7||data: [DONE]||";
        for end in ["\n", "\r\n", "\r"] {
            for bom in ["", "\u{feff}"] {
                let stream = format!("{bom}data: one||{template}").replace('|', end);
                for cut in 1..=stream.len() {
                    // The first event of the template has two data lines and is no JSON, hence no usage from its first line.
                    let (found, count) = read(stream.as_bytes(), cut);
                    assert_eq!((found, count), (vec![], 2), "{end:?} {bom:?} {cut}");
                }
                let stream =
                    format!("{bom}data: one||data:{{|data|data: \"usage\":{{\"a\":1}}}}||").replace('|', end);
                for cut in 1..=stream.len() {
                    let (found, count) = read(stream.as_bytes(), cut);
                    assert_eq!((found, count), (vec![r#"{"a":1}"#.to_owned()], 2), "{end:?} {bom:?} {cut}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_event_is_not_read() {
        let usage = r#"{"usage":{"a":1}}"#;
        for stream in [
            format!("data: {usage}\n"),
            format!("data: {usage}"),
            format!(": {usage}\n\n"),
            format!("dat: {usage}\n\n"),
            format!("datum: {usage}\n\n"),
            format!("xdata: {usage}\n\n"),
            format!(" data: {usage}\n\n"),
            format!("\u{feff}\u{feff}data: {usage}\n\n"),
            format!("event: data: {usage}\n\n"),
            "data: {\"a\":\"\\\"usage\\\":{}\"}\n\n".to_owned(),
            "data: {\"choices\":[{\"usage\":{}}]}\n\n".to_owned(),
        ] {
            assert_eq!(read(stream.as_bytes(), 7).0, Vec::<String>::new(), "{stream:?}");
        }
        assert_eq!(read(b"\xef\xbbdata: {\"usage\":{}}\n\n", 1).0, Vec::<String>::new());
    }

    #[test]
    fn a_long_event_is_read_in_bounded_memory() {
        let text = "x".repeat(300_000);
        let stream = format!(
            "data: {{\"response\":{{\"text\":\"{text}\",\"usage\":{{\"a\":1}}}}}}\n\ndata: {{\"usage\":{{\"b\":2}}}}\n\n"
        );
        let mut events = Events::new();
        let mut all = 0;
        for piece in stream.as_bytes().chunks(1000) {
            events.feed(piece, |_| all += 1);
            assert!(events.event.data.capacity() <= 2 * MAX_EVENT);
        }
        assert_eq!((all, events.count()), (2, 2));
    }

    proptest! {
        #[test]
        fn any_split_is_the_same(
            parts in prop::collection::vec(
                prop_oneof![
                    Just("data: {\"usage\":{\"a\":1}}"), Just("data:"), Just("data"), Just("\n"), Just("\r"), Just("\r\n"),
                    Just(":c"), Just("{\"usage\":"), Just("{}}"), Just("\u{feff}"), Just("[DONE]"), Just(" "),
                ],
                0..30,
            ),
            cuts in prop::collection::vec(1usize..9, 1..9),
        ) {
            let stream = parts.concat().into_bytes();
            let whole = read(&stream, stream.len());
            let mut events = Events::new();
            let mut all = 0;
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                events.feed(piece, |_| all += 1);
                rest = tail;
            }
            prop_assert_eq!((all, events.count()), (whole.0.len(), whole.1));
        }
    }
}
