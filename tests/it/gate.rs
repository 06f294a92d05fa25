//! The gate: every row of the refusal table by raw bytes through a real HTTP/1.1 server, and its properties.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tidegate::message::{self, Connection, GateError, GateSettings, Inbound, Protocol, gate};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn connection(protocol: Protocol) -> Connection {
    let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
    Connection { peer: address, local: address, server_name: None, protocol, tls: None, client: None }
}

/// What one connection gave: the status line's code and `x-code` of the first answer, and what the gate let through.
struct Exchange {
    status: u16,
    code: String,
    passed: Vec<String>,
}

/// Sends raw bytes to hyper with our gate behind it. Codes `hyper` are refusals that hyper makes itself.
async fn exchange(raw: &[u8]) -> Exchange {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let passed: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&passed);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let log = Arc::clone(&log);
        async move {
            let answer = match gate(&connection(Protocol::Http1), request, &GateSettings::default()) {
                Ok(inbound) => {
                    let line =
                        format!("{} {} {}", inbound.method, inbound.target.host(), inbound.target.path());
                    let body = message::collect_bounded(inbound.body, 1 << 20).await;
                    log.lock().unwrap().push(format!("{line} {:?}", body.map(|b| b.len()).ok()));
                    Response::builder().status(200).header("x-code", "passed")
                }
                Err(error) => {
                    let mut answer =
                        Response::builder().status(error.status()).header("x-code", error.code());
                    if error.close() {
                        answer = answer.header("connection", "close");
                    }
                    answer
                }
            };
            Ok::<_, Infallible>(answer.body(Empty::<Bytes>::new()).unwrap())
        }
    });
    let serving = tokio::spawn(async move {
        let _ = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(server), service)
            .await;
    });
    client.write_all(raw).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    serving.await.unwrap();
    let status = answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
    let code = answer.split("x-code: ").nth(1).and_then(|rest| rest.split('\r').next()).unwrap_or("hyper");
    let passed = passed.lock().unwrap().clone();
    Exchange { status, code: code.to_owned(), passed }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: gw.test\r\n\r\n")
}

fn with(lines: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: gw.test\r\n{lines}\r\n")
}

fn post(lines: &str, body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: gw.test\r\n{lines}\r\n{body}")
}

/// All rows are refused as they say, and nothing passes.
async fn refused(rows: Vec<(String, u16, &str)>) {
    let mut wrong = Vec::new();
    for (raw, status, code) in rows {
        let first: String = raw.chars().take(120).collect();
        let seen = exchange(raw.as_bytes()).await;
        if (seen.status, seen.code.as_str(), seen.passed.len()) != (status, code, 0) {
            wrong.push(format!("{first:?}: {} {} {:?}", seen.status, seen.code, seen.passed));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn ambiguous_hosts_and_targets() {
    refused(vec![
        // Hosts.
        ("GET /x HTTP/1.1\r\n\r\n".into(), 400, "host_missing"),
        ("GET http://a/x HTTP/1.1\r\n\r\n".into(), 400, "host_missing"),
        ("GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), 400, "host_ambiguous"),
        ("GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400, "host_ambiguous"),
        ("GET /x HTTP/1.1\r\nHost: \r\n\r\n".into(), 400, "host_missing"),
        ("GET /x HTTP/1.1\r\nHost: loc/al?host#x\r\n\r\n".into(), 400, "host_invalid"),
        ("GET /x HTTP/1.1\r\nHost: user@a\r\n\r\n".into(), 400, "host_invalid"),
        ("GET /x HTTP/1.1\r\nHost: a, b\r\n\r\n".into(), 400, "host_invalid"),
        ("GET /x HTTP/1.1\r\nHost: a:99999\r\n\r\n".into(), 400, "host_invalid"),
        ("GET /x HTTP/1.1\r\nHost: a:\r\n\r\n".into(), 400, "host_invalid"),
        ("GET /x HTTP/1.1\r\nHost: a.\r\n\r\n".into(), 400, "host_invalid"),
        ("GET /x HTTP/1.1\r\nHost: a\u{e9}\r\n\r\n".into(), 400, "host_invalid"),
        ("GET http://a/x HTTP/1.1\r\nHost: b\r\n\r\n".into(), 400, "host_ambiguous"),
        ("GET http://a:81/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "host_ambiguous"),
        ("GET http://u@a/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "host_invalid"),
        ("GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "target_form"),
        // Target forms.
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "target_form"),
        ("GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".into(), 400, "target_form"),
        (get("x"), 400, "target_form"),
        (get(&format!("/{}", "a".repeat(8192))), 414, "uri_too_long"),
    ])
    .await;
}

#[tokio::test]
async fn ambiguous_paths_and_queries() {
    refused(vec![
        (get("//x"), 400, "path_ambiguous"),
        (get("/a//b"), 400, "path_ambiguous"),
        (get("/a/../b"), 400, "path_ambiguous"),
        (get("/a/."), 400, "path_ambiguous"),
        (get("/.."), 400, "path_ambiguous"),
        (get("/..;a/b"), 400, "path_ambiguous"),
        (get("/..%3ba/b"), 400, "path_ambiguous"),
        (get("/a;b=c"), 400, "path_ambiguous"),
        (get("/a%2e%2e/b"), 400, "path_encoding"),
        (get("/%2E/b"), 400, "path_encoding"),
        (get("/a%2fb"), 400, "path_encoding"),
        (get("/a%5cb"), 400, "path_encoding"),
        (get("/a%00"), 400, "path_encoding"),
        (get("/a%0d%0ab"), 400, "path_encoding"),
        (get("/a%7f"), 400, "path_encoding"),
        (get("/a%c2%85"), 400, "path_encoding"),
        (get("/a%ff"), 400, "path_encoding"),
        (get("/a%252e"), 400, "path_encoding"),
        (get("/a%25%32%65"), 400, "path_encoding"),
        (get("/a%"), 400, "path_encoding"),
        (get("/a%2"), 400, "path_encoding"),
        (get("/a%zz"), 400, "path_encoding"),
        (get("/a|b"), 400, "path_encoding"),
        (get("/a\"b"), 400, "path_encoding"),
        (get("/a\u{e9}"), 400, "path_encoding"),
        // Queries.
        (get("/a?b;c"), 400, "query_ambiguous"),
        (get("/a?b=%zz"), 400, "query_encoding"),
        (get("/a?b=%00"), 400, "query_encoding"),
        (get(&format!("/a?{}", "b&".repeat(101))), 400, "query_too_many_pairs"),
    ])
    .await;
}

#[tokio::test]
async fn methods_versions_and_headers() {
    refused(vec![
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".into(), 405, "method_not_allowed"),
        ("TRACE /x HTTP/1.1\r\nHost: a\r\n\r\n".into(), 405, "method_not_allowed"),
        ("PROPFIND /x HTTP/1.1\r\nHost: a\r\n\r\n".into(), 405, "method_not_allowed"),
        ("get /x HTTP/1.1\r\nHost: a\r\n\r\n".into(), 405, "method_not_allowed"),
        ("GET /x HTTP/1.0\r\nHost: a\r\n\r\n".into(), 505, "version_unsupported"),
        (with("Connection: upgrade\r\nUpgrade: websocket\r\n"), 400, "upgrade_refused"),
        (
            with("Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"),
            400,
            "upgrade_refused",
        ),
        // Headers.
        (with("X_User: a\r\n"), 400, "header_underscore"),
        (with("Content-Type: a/b\r\nContent-Type: a/b\r\n"), 400, "header_duplicated"),
        (with("Range: bytes=0-1\r\nRange: bytes=2-3\r\n"), 400, "header_duplicated"),
        (with("tidegate-label: public\r\nTidegate-Label: internal\r\n"), 400, "header_duplicated"),
        (with("x-amz-content-sha256: a\r\nx-amz-content-sha256: b\r\n"), 400, "header_duplicated"),
        (with("Connection: authorization\r\n"), 400, "connection_option"),
        (with("Connection: close, Host\r\n"), 400, "connection_option"),
        (with("Connection: x-anything\r\n"), 400, "connection_option"),
        (with("Expect: the-unexpected\r\n"), 417, "expectation_failed"),
        (with(&format!("A: {}\r\n", "a".repeat(33 * 1024))), 431, "header_too_large"),
        (with(&"A: b\r\n".repeat(100)), 431, "hyper"),
        (with("A : b\r\n"), 400, "hyper"),
        (with("A: b\r\n c\r\n"), 400, "hyper"),
        (with("A: b\rc\r\n"), 400, "hyper"),
    ])
    .await;
}

#[tokio::test]
async fn bodies_and_framing() {
    refused(vec![
        (with("Content-Length: 1\r\n") + "a", 400, "body_unexpected"),
        (with("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400, "body_unexpected"),
        (post("Content-Length: 5368709121\r\n", ""), 413, "body_too_large"),
        (post("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"), 400, "hyper"),
        (post("Content-Length: +3\r\n", "abc"), 400, "hyper"),
        (post("Content-Length: 3, 3\r\n", "abc"), 400, "hyper"),
        (post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 400, "hyper"),
        (post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), 400, "hyper"),
        (post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 501, "transfer_coding"),
        (
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            400,
            "framing_ambiguous",
        ),
    ])
    .await;
}

#[tokio::test]
async fn raw_bytes_that_hyper_refuses() {
    for raw in [&b"GET /a\xff HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let seen = exchange(raw).await;
        assert_eq!((seen.status, seen.passed.len()), (400, 0));
    }
}

#[tokio::test]
async fn accepted_rows_have_one_reading() {
    for (raw, expected) in [
        (get("/"), "GET gw.test / Some(0)"),
        (get("/a%20b/%C3%A4/100%25?x=1"), "GET gw.test /a b/ä/100% Some(0)"),
        (get("/a/b/"), "GET gw.test /a/b/ Some(0)"),
        (get("/a..b/...c/~!$&'()*+,=:@"), "GET gw.test /a..b/...c/~!$&'()*+,=:@ Some(0)"),
        ("GET http://GW.test/x HTTP/1.1\r\nHost: gw.test:80\r\n\r\n".into(), "GET gw.test /x Some(0)"),
        ("GET http://gw.test HTTP/1.1\r\nHost: gw.test\r\n\r\n".into(), "GET gw.test / Some(0)"),
        ("GET /x HTTP/1.1\r\nHost: [::0:1]:8443\r\n\r\n".into(), "GET [::1] /x Some(0)"),
        (post("Content-Length: 3\r\nExpect: 100-Continue\r\n", "abc"), "POST gw.test /x Some(3)"),
        (post("Transfer-Encoding: Chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), "POST gw.test /x Some(3)"),
        (with("Content-Length: 0\r\n"), "GET gw.test /x Some(0)"),
        (with("Connection: keep-alive, TE\r\nTE: trailers\r\n"), "GET gw.test /x Some(0)"),
    ] {
        let seen = exchange(raw.as_bytes()).await;
        assert_eq!(seen.passed, [expected], "{raw:?} {}", seen.code);
    }
}

/// Rows that hyper resolves before the gate sees them: one reading, never two requests.
#[tokio::test]
async fn rows_that_hyper_resolves() {
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: gw.test\r\n\r\n";
    let both =
        post(&format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", smuggled.len()), smuggled);
    let seen = exchange(both.as_bytes()).await;
    assert_eq!(seen.passed, ["POST gw.test /x Some(0)"]);
    let equal = exchange(post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc").as_bytes()).await;
    assert_eq!(equal.passed, ["POST gw.test /x Some(3)"]);
    let fragment = exchange(get("/a#/../b").as_bytes()).await;
    assert_eq!(fragment.passed, ["GET gw.test /a Some(0)"]);
}

fn request(protocol: Protocol, uri: &str, headers: &[(&str, &str)]) -> Option<Request<Full<Bytes>>> {
    let version = if protocol == Protocol::Http1 { Version::HTTP_11 } else { Version::HTTP_2 };
    let mut builder = Request::builder().version(version).uri(uri);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::default()).ok()
}

fn pass(protocol: Protocol, uri: &str, headers: &[(&str, &str)]) -> Result<Inbound, GateError> {
    gate(&connection(protocol), request(protocol, uri, headers).unwrap(), &GateSettings::default())
}

#[test]
fn http2_names_one_authority() {
    let host = |uri: &str, headers: &[(&str, &str)]| {
        pass(Protocol::Http2, uri, headers).map(|i| i.target.host().to_owned()).map_err(|e| e.code())
    };
    assert_eq!(host("https://A.test/x", &[]).as_deref(), Ok("a.test"));
    assert_eq!(host("https://a.test/x", &[("host", "a.test:443")]).as_deref(), Ok("a.test"));
    assert_eq!(host("/x", &[("host", "a.test")]).as_deref(), Ok("a.test"));
    assert_eq!(host("https://a.test/x", &[("host", "b.test")]), Err("host_ambiguous"));
    assert_eq!(host("https://a.test/x", &[("host", "a.test"), ("host", "a.test")]), Err("host_ambiguous"));
    assert_eq!(host("/x", &[]), Err("host_missing"));
}

#[tokio::test]
async fn request_trailers_and_bodies_are_bounded() {
    let settings = GateSettings { max_body: tidegate::model::ByteSize::bytes(4), ..GateSettings::default() };
    let body = Pieces(vec!["de", "abc"]);
    let request = Request::post("/x").header("host", "a").body(body).unwrap();
    let inbound = gate(&connection(Protocol::Http1), request, &settings).unwrap();
    assert_eq!(inbound.declared_bytes, None);
    assert!(inbound.body.collect().await.is_err());

    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("authorization", "x".parse().unwrap());
    let body = Full::new(Bytes::from("abc")).with_trailers(std::future::ready(Some(Ok(trailers))));
    let request = Request::post("/x").header("host", "a").body(body).unwrap();
    let inbound = gate(&connection(Protocol::Http1), request, &GateSettings::default()).unwrap();
    let trailers = inbound.body.collect().await.unwrap().trailers().cloned().unwrap();
    assert_eq!(trailers.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["grpc-status"]);
}

/// A body of unknown length; the last piece comes first.
struct Pieces(Vec<&'static str>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(|piece| Ok(http_body::Frame::data(piece.into()))))
    }
}

/// A second parser of the bytes that travel on, written apart from the first: what a strict upstream reads.
#[expect(clippy::indexing_slicing, clippy::string_slice, reason = "a test may panic")]
fn reparse(target: &str) -> (String, Vec<(String, String)>) {
    fn decode(text: &str, plus: bool) -> String {
        let bytes = text.as_bytes();
        let mut out = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'%' => {
                    out.push(u8::from_str_radix(&text[at + 1..at + 3], 16).unwrap());
                    at += 3;
                    continue;
                }
                b'+' if plus => out.push(b' '),
                byte => out.push(byte),
            }
            at += 1;
        }
        String::from_utf8(out).unwrap()
    }
    let mut halves = target.splitn(2, '?');
    let path = decode(halves.next().unwrap(), false);
    let mut pairs = Vec::new();
    for part in halves.next().unwrap_or("").split('&') {
        if part.is_empty() {
            continue;
        }
        let mut sides = part.splitn(2, '=');
        let name = decode(sides.next().unwrap(), true);
        pairs.push((name, decode(sides.next().unwrap_or(""), true)));
    }
    (path, pairs)
}

/// Targets made of the pieces that parsers quarrel about.
fn targets() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "/", "a", "b.c", "..", ".", "%2e", "%2F", "%5c", "\\", "%25", "%20", "%c3%a4", "%ff", "%00",
        "%", ";", "+", "~", ":", "@", "&", "=", "?", "%3f", "%26", "%3B", "%41", "!", "*", "%2b", "2e", "|",
        "\"",
    ]);
    prop::collection::vec(piece, 0..10).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_policy_sees_is_what_travels(target in targets(), http2 in any::<bool>()) {
        let protocol = if http2 { Protocol::Http2 } else { Protocol::Http1 };
        let Some(request) = request(protocol, &target, &[("host", "gw.test")]) else { return Ok(()) };
        let Ok(inbound) = gate(&connection(protocol), request, &GateSettings::default()) else { return Ok(()) };
        let seen = &inbound.target;
        prop_assert_eq!(seen.path_and_query(), target.as_str());
        let (path, pairs) = reparse(&target);
        prop_assert_eq!(seen.path(), path.as_str());
        prop_assert_eq!(seen.query(), pairs.as_slice());
        // No server that normalises, splits parameters or decodes again sees another path.
        prop_assert!(!path.contains("//") && !path.contains('\\') && path.starts_with('/'));
        prop_assert!(path.split('/').all(|s| !matches!(s.split(';').next(), Some("." | ".."))));
        let again = percent_encoding::percent_decode_str(&path).decode_utf8().unwrap().into_owned();
        prop_assert_eq!(again, path);
    }

    #[test]
    fn the_gate_is_idempotent(
        target in targets(),
        names in prop::collection::vec(prop::sample::select(vec![
            "accept", "x-forwarded-for", "te", "connection", "cookie", "authorization", "content-type", "tidegate-x",
            "range", "via", "x-real-ip", "x-plain",
        ]), 0..8),
        values in prop::collection::vec(prop::sample::select(vec!["trailers", "close", "a", "keep-alive, te"]), 8),
    ) {
        let mut headers = vec![("host", "gw.test")];
        headers.extend(names.into_iter().zip(values));
        let Some(first) = request(Protocol::Http1, &target, &headers) else { return Ok(()) };
        let Ok(once) = gate(&connection(Protocol::Http1), first, &GateSettings::default()) else { return Ok(()) };
        let mut second = Request::builder().uri(once.target.path_and_query()).body(Full::<Bytes>::default()).unwrap();
        *second.headers_mut() = once.headers.clone();
        second.headers_mut().insert("host", once.target.host().parse().unwrap());
        let twice = gate(&connection(Protocol::Http1), second, &GateSettings::default()).unwrap();
        prop_assert_eq!(&twice.target, &once.target);
        prop_assert_eq!(&twice.headers, &once.headers);
        prop_assert!(twice.caller.authorization.is_empty());
    }

    #[test]
    fn any_host_is_refused_or_canonical(host in "[a-zA-Z0-9.:_@\\[\\]/%# -]{0,20}") {
        let Some(request) = request(Protocol::Http1, "/", &[("host", &host)]) else { return Ok(()) };
        if let Ok(inbound) = gate(&connection(Protocol::Http1), request, &GateSettings::default()) {
            let seen = inbound.target.host();
            prop_assert_eq!(message::target::canonical_host(seen), Some(seen.to_owned()));
            prop_assert!(host.to_ascii_lowercase().starts_with(seen) || host.starts_with('['));
        }
    }
}
