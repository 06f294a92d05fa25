//! Any answer to the meter, as an event stream and as JSON: however it is cut, it reports the same.

use http::{HeaderMap, HeaderValue};
use tidegate::meter::{Reading, Tap};

use super::in_pieces;

pub(crate) fn read(input: &[u8]) {
    let Some((size, answer)) = in_pieces(input) else { return };
    for media in ["text/event-stream", "application/json"] {
        let whole = reading(media, answer, answer.len().max(1));
        assert_eq!(whole, reading(media, answer, size), "{media}");
    }
}

fn reading(media: &'static str, answer: &[u8], size: usize) -> Reading {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static(media));
    let mut tap = Tap::for_response(true, &headers);
    for piece in answer.chunks(size) {
        tap.feed(piece);
    }
    tap.reading()
}
