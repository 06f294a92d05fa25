//! Metering from outside: whatever the pieces in which an answer arrives, the same usage is read.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use proptest::prelude::*;
use serde_json::json;
use tidegate::meter::{Reading, Tap};
use tidegate::model::Usage;

fn read<'a>(media: &'static str, pieces: impl IntoIterator<Item = &'a [u8]>) -> Reading {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, media.parse().unwrap());
    let mut tap = Tap::for_response(true, &headers);
    for piece in pieces {
        tap.feed(piece);
    }
    tap.reading()
}

fn split<'a>(mut bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for cut in cuts.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at((*cut).clamp(1, bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

fn any_usage() -> impl Strategy<Value = Usage> {
    let tokens = 0u64..1_000_000;
    (tokens.clone(), tokens.clone(), prop::option::of(tokens.clone()), prop::option::of(tokens)).prop_map(
        |(input_tokens, output_tokens, cached_input_tokens, reasoning_tokens)| Usage {
            input_tokens,
            output_tokens,
            cached_input_tokens,
            reasoning_tokens,
        },
    )
}

fn report(usage: Usage) -> serde_json::Value {
    json!({
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": { "cached_tokens": usage.cached_input_tokens },
        "completion_tokens_details": { "reasoning_tokens": usage.reasoning_tokens },
    })
}

fn chunk(content: &str, usage: Option<Usage>) -> serde_json::Value {
    json!({ "choices": [{ "delta": { "content": content } }], "usage": usage.map(report) })
}

proptest! {
    #[test]
    fn a_plain_answer_in_any_pieces(usage in any_usage(), content in "\\PC{0,40}", pretty: bool, cuts in prop::collection::vec(1usize..30, 1..8)) {
        let answer = json!({ "choices": [{ "message": { "content": content, "usage": { "prompt_tokens": 1 } } }], "usage": report(usage) });
        let text = if pretty { serde_json::to_vec_pretty(&answer) } else { serde_json::to_vec(&answer) }.unwrap();
        let reading = read("application/json", split(&text, &cuts));
        prop_assert_eq!(reading, Reading { usage: Some(usage), ..Reading::default() });
    }

    #[test]
    fn a_stream_in_any_pieces(
        reports in prop::collection::vec((prop::option::of(any_usage()), "\\PC{0,20}"), 1..12),
        end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
        cuts in prop::collection::vec(1usize..60, 1..8),
    ) {
        let mut stream = String::new();
        for (usage, content) in &reports {
            stream += &format!("data: {}{end}{end}", chunk(content, *usage));
        }
        stream += &format!(": ping{end}{end}data: [DONE]{end}{end}");
        let reading = read("text/event-stream; charset=utf-8", split(stream.as_bytes(), &cuts));
        let last = reports.iter().rev().find_map(|(usage, _)| *usage);
        prop_assert_eq!(reading, Reading { usage: last, events: reports.len() as u64, ..Reading::default() });
    }
}

#[test]
fn an_odd_report_leaves_the_one_before_it() {
    let stream = "data: {\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":6}}\n\n\
        data: {\"usage\":{\"prompt_tokens\":-5,\"completion_tokens\":7}}\n\n\
        data: {\"usage\":[]}\n\n";
    let reading = read("text/event-stream", [stream.as_bytes()]);
    let usage = Usage { input_tokens: 5, output_tokens: 6, ..Usage::default() };
    assert_eq!(reading, Reading { usage: Some(usage), events: 3, odd: 2, unreadable: false });
}

#[test]
fn a_responses_stream_reports_in_its_last_event() {
    let stream = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\n\
        event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"output\":[],\"usage\":\
        {\"input_tokens\":11,\"input_tokens_details\":{\"cached_tokens\":0},\"output_tokens\":3}}}\n\n";
    let reading = read("text/event-stream", [stream.as_bytes()]);
    let usage =
        Usage { input_tokens: 11, output_tokens: 3, cached_input_tokens: Some(0), reasoning_tokens: None };
    assert_eq!(reading.usage, Some(usage));
}

#[test]
fn a_hang_up_keeps_what_was_complete() {
    let text = br#"{"usage":{"prompt_tokens":5,"completion_tokens":6},"choices":[{"mess"#;
    assert!(read("application/json", [text.as_slice()]).usage.is_some());
    let text = br#"{"usage":{"prompt_tokens":5,"completion_tokens":6"#;
    assert_eq!(read("application/json", [text.as_slice()]), Reading::default());
}
