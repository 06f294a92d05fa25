//! What goes wrong has a kind, a code, and the truth about whether trying again is safe.

use std::error::Error as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::json;
use tidegate::message::{Body, BodyFault, empty, full};
use tidegate::upstream::{AnswerError, SendError, SendErrorKind, Upstreams};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

use super::support::{
    accept, answer_raw, data, nobody, outbound, outbound_to, script, serve, service, settles, upstreams,
};

async fn fails(upstreams: &Upstreams, method: &str, body: Body) -> SendError {
    let endpoint = upstreams.select(&service(), &[]).unwrap();
    let request = http::Request::builder().method(method).uri("/");
    upstreams.send(&endpoint, outbound(request, body)).await.unwrap_err()
}

async fn text(body: Option<Body>) -> Option<Bytes> {
    match body {
        Some(body) => Some(body.collect().await.unwrap().to_bytes()),
        None => None,
    }
}

#[tokio::test]
async fn without_a_connection_everything_is_retryable_and_the_body_comes_back() {
    let upstreams = upstreams(&[nobody().await], &json!({}));
    for method in ["POST", "GET"] {
        let error = fails(&upstreams, method, full(Bytes::from_static(b"body"))).await;
        assert_eq!((error.kind(), error.code()), (SendErrorKind::Connect, "upstream_unreachable"));
        assert_eq!((error.status().as_u16(), error.retryable()), (502, true));
        assert_eq!(text(error.take_body()).await.unwrap(), "body");
        assert!(error.take_body().is_none(), "only once");
    }
    assert!(fails(&upstreams, "POST", empty()).await.retryable());
    assert!(settles(&upstreams).await);
}

#[tokio::test]
async fn a_reset_after_the_body_was_taken_is_not_retryable() {
    let address = answer_raw(b"").await;
    for http2 in ["never", "only"] {
        let upstreams = upstreams(&[address], &json!({ "http2": http2 }));
        let error = fails(&upstreams, "POST", full(Bytes::from_static(b"body"))).await;
        assert_eq!((error.code(), error.status().as_u16()), ("upstream_reset", 502), "{error:?}");
        assert!(!error.retryable() && error.take_body().is_none());
        assert!(settles(&upstreams).await);
    }
}

#[tokio::test]
async fn a_reset_before_the_body_was_taken_depends_on_what_the_head_could_do() {
    let upstreams = upstreams(&[answer_raw(b"").await], &json!({}));
    // The client has sent nothing yet: the upstream cannot have acted on a body that it never saw.
    let (pen, body) = script();
    let error = fails(&upstreams, "POST", body).await;
    assert_eq!((error.kind(), error.retryable()), (SendErrorKind::Reset, true));
    let body = error.take_body();
    pen.send(data(b"late")).await.unwrap();
    drop(pen);
    assert_eq!(text(body).await.unwrap(), "late");
    // Without a body the head is the whole request.
    for (method, retryable) in [("GET", true), ("DELETE", true), ("POST", false), ("PATCH", false)] {
        let error = fails(&upstreams, method, empty()).await;
        assert_eq!((error.kind(), error.retryable()), (SendErrorKind::Reset, retryable), "{method}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_said_so() {
    for answer in [
        &b"SSH-2.0-OpenSSH_9\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        let upstreams = upstreams(&[answer_raw(answer).await], &json!({}));
        let error = fails(&upstreams, "GET", empty()).await;
        assert_eq!((error.kind(), error.code()), (SendErrorKind::Protocol, "upstream_reset"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_times_out_and_a_slow_client_is_not_the_upstreams_fault() {
    let address = serve(|request| async move {
        if request.uri().path() == "/never" {
            std::future::pending::<()>().await;
        }
        let body = request.into_body().collect().await;
        http::Response::new(body.map_or_else(|_| empty(), |body| full(body.to_bytes())))
    })
    .await;
    let timeouts = json!({ "timeouts": { "first_byte": "200ms", "idle": "600ms" } });
    let upstreams = upstreams(&[address], &timeouts);
    let endpoint = upstreams.select(&service(), &[]).unwrap();

    let start = Instant::now();
    let never = outbound(http::Request::post("/never"), full(Bytes::from_static(b"x")));
    let error = upstreams.send(&endpoint, never).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code(), error.status().as_u16()),
        (SendErrorKind::Timeout, "upstream_timeout", 504)
    );
    assert!(!error.retryable());
    assert!((200..1500).contains(&start.elapsed().as_millis()));

    // The client takes longer than the upstream may, three times over.
    let (pen, body) = script();
    let write = async move {
        for _ in 0..3 {
            sleep(Duration::from_millis(300)).await;
            pen.send(data(b"ab")).await.unwrap();
        }
    };
    let (answer, ()) =
        tokio::join!(upstreams.send(&endpoint, outbound(http::Request::put("/"), body)), write);
    assert_eq!(answer.unwrap().response.into_body().collect().await.unwrap().to_bytes(), "ababab");

    // And then it stalls.
    let (_pen, body) = script();
    let error = upstreams.send(&endpoint, outbound(http::Request::put("/"), body)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code(), error.status().as_u16()),
        (SendErrorKind::Body, "request_body_timeout", 408)
    );
    assert!(!error.retryable());
}

#[tokio::test]
async fn a_body_that_fails_is_the_clients_and_keeps_its_cause() {
    let address = serve(|request| async move {
        let _ = request.into_body().collect().await;
        http::Response::new(empty())
    })
    .await;
    for http2 in ["never", "only"] {
        let upstreams = upstreams(&[address], &json!({ "http2": http2 }));
        let (pen, body) = script();
        pen.send(Err(tidegate::message::BodyTooLarge { limit: 7 }.into())).await.unwrap();
        let error = fails(&upstreams, "PUT", body).await;
        assert_eq!((error.kind(), error.code()), (SendErrorKind::Body, "request_body_failed"));
        assert!(matches!(BodyFault::find(error.source().unwrap()), Some(BodyFault::TooLarge(_))));

        // More or less than was announced never arrives as something whole.
        for sent in [&b"ab"[..], b"abcd"] {
            let (pen, body) = script();
            pen.send(data(sent)).await.unwrap();
            drop(pen);
            let endpoint = upstreams.select(&service(), &[]).unwrap();
            let request = http::Request::put("/").header("content-length", "3");
            let error = upstreams.send(&endpoint, outbound(request, body)).await.unwrap_err();
            assert_eq!((error.kind(), error.retryable()), (SendErrorKind::Body, false), "{sent:?} {http2}");
        }
        assert!(settles(&upstreams).await);
    }
}

async fn broken(address: SocketAddr) -> (Vec<u8>, AnswerError) {
    let upstreams = upstreams(&[address], &json!({}));
    let endpoint = upstreams.select(&service(), &[]).unwrap();
    let answer = upstreams.send(&endpoint, outbound(http::Request::get("/"), empty())).await.unwrap();
    drop(endpoint);
    let mut body = answer.response.into_body();
    let mut read = Vec::new();
    let error = loop {
        match body.frame().await.unwrap() {
            Ok(frame) => read.extend_from_slice(frame.data_ref().unwrap()),
            Err(error) => break *error.downcast::<AnswerError>().unwrap(),
        }
    };
    assert!(body.frame().await.is_none());
    assert!(settles(&upstreams).await);
    (read, error)
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_falls_silent_is_a_typed_error() {
    let (read, error) = broken(answer_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await).await;
    assert_eq!((read.as_slice(), error.code()), (&b"half"[..], "upstream_reset"));
    let (read, error) =
        broken(answer_raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await).await;
    assert_eq!((read.as_slice(), error.code()), (&b"half"[..], "upstream_reset"));
    let silent = serve(|_| async move {
        let (pen, body) = script();
        tokio::spawn(async move {
            let _ = pen.send(data(b"half")).await;
            pen.closed().await;
        });
        http::Response::new(body)
    })
    .await;
    let (read, error) = broken(silent).await;
    assert_eq!(
        (read.as_slice(), error.code(), error.status().as_u16()),
        (&b"half"[..], "upstream_timeout", 504)
    );
}

#[tokio::test]
async fn a_connection_that_was_closed_while_pooled_costs_no_request() {
    // Answers one request a connection, announces keep-alive, and closes a moment later.
    let address = accept(|mut socket| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"body") {
            if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    let upstreams = upstreams(&[address], &json!({}));
    let mut failed = 0;
    for round in 0..40 {
        let endpoint = upstreams.select(&service(), &[]).unwrap();
        let request = outbound(http::Request::post("/"), full(Bytes::from_static(b"body")));
        match upstreams.send(&endpoint, request).await {
            Ok(answer) => assert_eq!(answer.response.status().as_u16(), 200),
            Err(error) => {
                failed += 1;
                // Nothing is tried again in secret; what was not taken is given back.
                assert!(matches!(error.kind(), SendErrorKind::Pool | SendErrorKind::Reset), "{error:?}");
                assert_eq!(error.retryable(), error.take_body().is_some());
            }
        }
        if round % 2 == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(failed <= 20, "{failed} of 40");
}

#[tokio::test]
async fn a_request_goes_only_where_its_permit_says() {
    let address = serve(|_| async { panic!("nothing may arrive") }).await;
    let upstreams = upstreams(&[address], &json!({}));
    let endpoint = upstreams.select(&service(), &[]).unwrap();
    let other = tidegate::model::UpstreamRef::Service("other".parse().unwrap());
    let request = outbound_to(other.clone(), http::Request::get("/"), empty());
    let error = upstreams.send(&endpoint, request).await.unwrap_err();
    assert_eq!((error.kind(), error.status().as_u16()), (SendErrorKind::Misdirected, 500));
    assert_eq!(upstreams.select(&other, &[]).unwrap_err().code(), "upstream_unreachable");
}

#[tokio::test]
async fn an_endpoint_that_failed_can_be_left_out() {
    let alive = serve(|_| async { http::Response::new(empty()) }).await;
    let upstreams = upstreams(&[nobody().await, alive], &json!({}));
    for _ in 0..20 {
        let mut tried = Vec::new();
        let mut body = full(Bytes::from_static(b"body"));
        loop {
            let endpoint = upstreams.select(&service(), &tried).unwrap();
            match upstreams.send(&endpoint, outbound(http::Request::post("/"), body)).await {
                Ok(_) => break,
                Err(error) => {
                    tried.push(endpoint.id().clone());
                    body = error.take_body().unwrap();
                }
            }
        }
        assert!(tried.len() <= 1);
        tried = upstreams.loads().map(|(id, _)| id.clone()).collect();
        assert_eq!(upstreams.select(&service(), &tried).unwrap_err().code(), "upstream_unreachable");
    }
}

#[tokio::test]
async fn load_spreads_over_endpoints() {
    let address = [nobody().await, nobody().await, nobody().await];
    let upstreams = upstreams(&address, &json!({ "max_in_flight": 100 }));
    let held: Vec<_> = (0..90).map(|_| upstreams.select(&service(), &[]).unwrap()).collect();
    assert!(
        upstreams.loads().all(|(_, load)| (25..=35).contains(&load)),
        "{:?}",
        upstreams.loads().collect::<Vec<_>>()
    );
    let more: Vec<_> = (0..210).map(|_| upstreams.select(&service(), &[]).unwrap()).collect();
    assert_eq!(upstreams.select(&service(), &[]).unwrap_err().code(), "upstream_overloaded");
    drop((held, more));
    assert!(upstreams.loads().all(|(_, load)| load == 0));
}

/// One HTTP/2 frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Frames that the library answers or passes over: the connection ends with a request on it, and also when the request has been answered before.
#[tokio::test]
async fn an_upstream_that_sends_frames_without_end_is_cut() {
    const SETTINGS: (u8, u32, &[u8]) = (4, 0, &[]);
    // `:status: 103`, as a literal that is not indexed.
    const EARLY: (u8, u32, &[u8]) = (1, 1, &[0x08, 3, b'1', b'0', b'3']);
    let floods = [
        ("ping", (6, 0, &[7; 8][..])),
        ("settings", SETTINGS),
        ("1xx", EARLY),
        ("goaway", (7, 0, &[0x7f, 255, 255, 255, 0, 0, 0, 0])),
    ];
    // Without a request the first of these ends the connection anyway.
    let answers = ["1xx", "goaway"];
    for (name, (kind, stream, payload)) in floods {
        for answered in [false, true].into_iter().take(if answers.contains(&name) { 1 } else { 2 }) {
            let address = accept(move |mut socket| async move {
                let (end_headers, end_both) = (0x4, 0x5);
                let answer = if answered { frame(1, end_both, 1, &[0x88]) } else { Vec::new() };
                let flood =
                    frame(kind, if kind == 1 { end_headers } else { 0 }, stream, payload).repeat(1000);
                let (mut reader, mut writer) = socket.split();
                let mut seen = vec![0; 24];
                reader.read_exact(&mut seen).await.unwrap();
                writer.write_all(&frame(4, 0, 0, &[])).await.unwrap();
                // The head of the request is on its way when its frame has come: then the settings have been answered too.
                while !seen.windows(9).any(|head| head[3] == 1 && head[5..] == [0, 0, 0, 1]) {
                    assert!(reader.read_buf(&mut seen).await.unwrap() > 0);
                }
                writer.write_all(&answer).await.unwrap();
                let reading = async { while reader.read(&mut seen).await.is_ok_and(|count| count > 0) {} };
                let writing = async { while writer.write_all(&flood).await.is_ok() {} };
                tokio::join!(reading, writing);
            })
            .await;
            let upstreams =
                upstreams(&[address], &json!({ "http2": "only", "timeouts": { "first_byte": "5s" } }));
            let endpoint = upstreams.select(&service(), &[]).unwrap();
            let began = Instant::now();
            let got = upstreams.send(&endpoint, outbound(http::Request::get("/"), empty())).await;
            match got {
                Ok(answer) => assert!(answered && answer.response.status() == 200, "{name}"),
                Err(error) => assert!(!answered && error.code() == "upstream_reset", "{name}: {error:?}"),
            }
            while upstreams.endpoints().all(|endpoint| endpoint.floods == 0) {
                assert!(began.elapsed() < Duration::from_secs(1), "{name}, answered: {answered}: not cut");
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

#[tokio::test]
async fn an_answer_with_too_many_header_fields_is_refused_in_both_versions() {
    for http2 in ["never", "only"] {
        for (fields, passes) in [(90, true), (140, false)] {
            let address = serve(move |_| async move {
                let mut answer = http::Response::new(empty());
                for at in 0..fields {
                    let name = http::HeaderName::try_from(format!("x-{at}")).unwrap();
                    answer.headers_mut().insert(name, http::HeaderValue::from_static("y"));
                }
                answer
            })
            .await;
            let upstreams = upstreams(&[address], &json!({ "http2": http2 }));
            let endpoint = upstreams.select(&service(), &[]).unwrap();
            let got = upstreams.send(&endpoint, outbound(http::Request::get("/"), empty())).await;
            let kind = got.map(|_| ()).map_err(|error| error.kind());
            assert_eq!(kind, if passes { Ok(()) } else { Err(SendErrorKind::Protocol) }, "{fields} {http2}");
        }
    }
}
