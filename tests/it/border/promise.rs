//! Promise 1: what Cedar saw, what the record says and what an independent parser finds in the bytes that left are one request;
//! what is refused leaves no byte.

use std::cell::Cell;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::fixture::{Border, Recorder, Seen};

#[derive(Debug, Clone)]
struct Case {
    method: &'static str,
    target: String,
    chunked: bool,
    body: Vec<u8>,
    extra: Vec<&'static str>,
}

/// Pieces that gateways and servers are known to read differently, between harmless ones.
fn target() -> impl Strategy<Value = String> {
    let plain = prop::sample::select(vec!["a", "B", "api", "1", "~", "%20", "%41", "%c3%a9", "v1", "chat"]);
    let odd = prop::sample::select(vec![
        "a", "B", "api", "1", "~", "%20", "%41", "%c3%a9", "%2f", "%2F", "%5c", "%2e", "%2e%2e", "..", ".",
        "%00", "%25", "%252e", "%ff", "%zz", "%", "\\", ";x=1", "//", "@", ":", "=", "&", "+", "'", "é",
        "admin", "*", "|",
    ]);
    let piece = prop_oneof![8 => plain, 1 => odd];
    let segments = vec(vec(piece.clone(), 1..4).prop_map(|pieces| pieces.concat()), 0..5);
    let pair = (vec(piece.clone(), 0..3), vec(piece, 0..3));
    let pair = pair.prop_map(|(name, value)| format!("{}={}", name.concat(), value.concat()));
    (segments, vec(pair, 0..3)).prop_map(|(segments, pairs)| {
        let path = format!("/{}", segments.join("/"));
        if pairs.is_empty() { path } else { format!("{path}?{}", pairs.join("&")) }
    })
}

fn case() -> impl Strategy<Value = Case> {
    let method = prop::sample::select(vec![
        "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "FOO",
    ]);
    let extra = prop::sample::select(vec![
        "X-Forwarded-For: 1.2.3.4",
        "Authorization: Bearer x.y.z",
        "Connection: x-a",
        "X-A: hop",
        "tidegate-record: x",
        "Forwarded: for=9.9.9.9",
        "baggage: a=b",
        "Cookie: a=b",
        "X_Bad: 1",
        "Upgrade: h2c",
        "Accept: */*",
    ]);
    (method, target(), any::<bool>(), vec(any::<u8>(), 0..64), vec(extra, 0..3))
        .prop_map(|(method, target, chunked, body, extra)| Case { method, target, chunked, body, extra })
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: localhost\r\n", self.method, self.target);
        for line in &self.extra {
            head.push_str(line);
            head.push_str("\r\n");
        }
        let has_body = !self.body.is_empty() && !matches!(self.method, "GET" | "HEAD");
        let mut bytes = Vec::new();
        match (has_body, self.chunked) {
            (false, _) => bytes.extend(format!("{head}\r\n").into_bytes()),
            (true, true) => {
                let size = self.body.len();
                bytes.extend(format!("{head}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n").into_bytes());
                bytes.extend(&self.body);
                bytes.extend(b"\r\n0\r\n\r\n");
            }
            (true, false) => {
                bytes.extend(format!("{head}Content-Length: {}\r\n\r\n", self.body.len()).into_bytes());
                bytes.extend(&self.body);
            }
        }
        bytes
    }
}

/// Percent-decoding, written for this test.
fn decode(text: &str, plus: bool) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            b'+' if plus => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn compare(case: &Case, seen: &Seen, decision: &serde_json::Value) {
    let cedar = &decision["context"]["context"]["request"];
    let (path, query) =
        seen.target.split_once('?').map_or((seen.target.as_str(), None), |(p, q)| (p, Some(q)));
    assert_eq!(cedar["method"], seen.method.as_str(), "{case:?}");
    assert_eq!(cedar["path"], decode(path, false), "{case:?}");
    assert_eq!(decision["request"]["path"], decode(path, false), "{case:?}");
    let names: Vec<String> = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter(|pair| !pair.is_empty())
        .map(|pair| decode(pair.split('=').next().unwrap(), true))
        .collect();
    let recorded: Vec<&str> = decision["request"]["query"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pair| pair["name"].as_str().unwrap())
        .collect();
    assert_eq!(recorded, names, "{case:?}");
    assert_eq!(seen.target, case.target, "{case:?}");
    let sent = if matches!(case.method, "GET" | "HEAD") { &[][..] } else { &case.body };
    assert_eq!(seen.body, sent, "{case:?}");
    let hosts = seen.headers.iter().filter(|(name, _)| name == "host").count();
    assert_eq!(hosts, 1, "{case:?}");
    for (name, value) in &seen.headers {
        let private =
            ["authorization", "forwarded", "x-forwarded-for", "baggage", "cookie", "connection", "upgrade"];
        assert!(!private.contains(&name.as_str()) && !name.starts_with("tidegate-"), "{name}: {value}");
    }
}

#[test]
fn what_cedar_saw_is_what_left() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (recorder, border) = runtime.block_on(async {
        let recorder = Recorder::start().await;
        let border = Border::start(std::slice::from_ref(&recorder.endpoint)).await;
        (recorder, border)
    });
    let (passed, refused) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let result = runner.run(&case(), |case| {
        let (answer, seen) = runtime.block_on(async {
            let answer = border.send(&case.bytes()).await;
            (answer, recorder.take())
        });
        let id = answer.record().unwrap_or_default();
        if answer.status() == 200 {
            passed.set(passed.get() + 1);
            assert_eq!(seen.len(), 1, "{case:?}");
            let records = runtime.block_on(border.closed_records(&id));
            compare(&case, &seen[0], &records[0]);
            let recorded =
                records.iter().find_map(|r| r["body_digest"].as_str().or(r["request_digest"].as_str()));
            assert_eq!(recorded.unwrap(), border.hmac(&seen[0].body), "{case:?}: {records:?}");
        } else {
            refused.set(refused.get() + 1);
            assert!((400..500).contains(&answer.status()), "{case:?}: {answer:?}");
            assert!(seen.is_empty(), "{case:?} was refused and left: {seen:?}");
            assert!(!id.is_empty(), "{case:?}: {answer:?}");
        }
        Ok(())
    });
    result.unwrap();
    let (passed, refused) = (passed.get(), refused.get());
    assert!(passed > 40 && refused > 40, "{passed} passed, {refused} refused: the cases are too one-sided");
    runtime.block_on(border.running.shutdown());
}
