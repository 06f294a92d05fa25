//! Bytes pass both ways as they come.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::support::{data, outbound, script, serve, service, settles, upstreams};
use tidegate::message::{empty, full};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn the_request_arrives_as_it_was_under_the_configured_host() {
    let (seen, mut heads) = tokio::sync::mpsc::channel(8);
    let address = serve(move |request| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            seen.send((head, body)).await.unwrap();
            http::Response::builder()
                .status(307)
                .header("location", "http://elsewhere/")
                .body(empty())
                .unwrap()
        }
    })
    .await;
    let upstreams = upstreams(&[address], &json!({}));
    let endpoint = upstreams.select(&service(), &[]).unwrap();
    let request = http::Request::post("http://evil.example/a%2Fb/%7e?q=%20+&&x")
        .version(http::Version::HTTP_2)
        .header("host", "evil.example")
        .header("authorization", "Bearer client")
        .header("expect", "100-continue")
        .header("content-length", "4")
        .header("range", "bytes=1-2");
    let answer =
        upstreams.send(&endpoint, outbound(request, full(Bytes::from_static(b"body")))).await.unwrap();
    assert_eq!(answer.response.status().as_u16(), 307, "a redirect is an answer like others");
    let (head, body) = heads.recv().await.unwrap();
    assert_eq!(head.uri, "/a%2Fb/%7e?q=%20+&&x");
    assert_eq!(body, "body");
    let header = |name| head.headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("host"), Some(address.to_string().as_str()));
    assert_eq!(header("content-length"), Some("4"));
    assert_eq!(header("range"), Some("bytes=1-2"));
    assert_eq!((header("authorization"), header("expect"), header("transfer-encoding")), (None, None, None));

    // Unknown length is chunked, a declared one is kept, none is said to be none.
    for (method, body, declared, length, coding) in [
        ("PUT", script(), None, None, Some("chunked")),
        ("PUT", script(), Some("3"), Some("3"), None),
        ("PUT", (script().0, empty()), None, Some("0"), None),
        ("DELETE", (script().0, empty()), None, None, None),
        ("GET", script(), None, None, Some("chunked")),
    ] {
        let (pen, body) = body;
        let mut request = http::Request::builder().method(method).uri("/");
        if let Some(declared) = declared {
            request = request.header("content-length", declared);
        }
        let write = async move {
            let _ = pen.send(data(b"abc")).await;
        };
        let (answer, ()) = tokio::join!(upstreams.send(&endpoint, outbound(request, body)), write);
        answer.unwrap();
        let (head, _) = heads.recv().await.unwrap();
        let header = |name| head.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!((header("content-length"), header("transfer-encoding")), (length, coding), "{method}");
    }
}

#[tokio::test]
async fn frames_and_trailers_pass_at_once_in_both_directions() {
    for http2 in ["never", "only"] {
        // An echo that answers each frame when it comes.
        let address = serve(|request| async move {
            let (pen, body) = script();
            tokio::spawn(async move {
                let mut incoming = request.into_body();
                while let Some(Ok(frame)) = incoming.frame().await {
                    if pen.send(Ok(frame)).await.is_err() {
                        return;
                    }
                }
            });
            http::Response::builder().header("trailer", "x-sum").body(body).unwrap()
        })
        .await;
        let upstreams = upstreams(&[address], &json!({ "http2": http2 }));
        let endpoint = upstreams.select(&service(), &[]).unwrap();
        let (pen, body) = script();
        let request = http::Request::post("/").header("trailer", "x-sum").header("te", "trailers");
        let answer = upstreams.send(&endpoint, outbound(request, body)).await.unwrap().response;
        let version = if http2 == "only" { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
        assert_eq!(answer.version(), version);
        drop(endpoint);
        let mut answer = answer.into_body();
        for _ in 0..3 {
            pen.send(data(b"token")).await.unwrap();
            let frame = timeout(SECOND, answer.frame()).await.unwrap().unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "token");
        }
        let trailers: HeaderMap = [("x-sum".parse().unwrap(), "3".parse().unwrap())].into_iter().collect();
        pen.send(Ok(Frame::trailers(trailers.clone()))).await.unwrap();
        drop(pen);
        let frame = timeout(SECOND, answer.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_trailers().unwrap(), trailers, "http2 = {http2}");
        assert!(answer.frame().await.is_none());
        assert!(settles(&upstreams).await);
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_in_both_directions() {
    const PIECE: &[u8] = &[7; 64 * 1024];
    for http2 in ["never", "only"] {
        let served = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&served);
        let address = serve(move |request| {
            let count = Arc::clone(&count);
            let (pen, body) = script();
            tokio::spawn(async move {
                // Never reads the request, writes without end.
                let _unread = request;
                while pen.send(data(PIECE)).await.is_ok() {
                    count.fetch_add(PIECE.len(), Ordering::Relaxed);
                }
            });
            async move { http::Response::new(body) }
        })
        .await;
        let upstreams = upstreams(&[address], &json!({ "http2": http2 }));
        let endpoint = upstreams.select(&service(), &[]).unwrap();
        let (pen, body) = script();
        let taken = Arc::new(AtomicUsize::new(0));
        let given = Arc::clone(&taken);
        let writer = tokio::spawn(async move {
            while pen.send(data(PIECE)).await.is_ok() {
                given.fetch_add(PIECE.len(), Ordering::Relaxed);
            }
        });
        let answer = upstreams.send(&endpoint, outbound(http::Request::post("/"), body)).await.unwrap();
        sleep(Duration::from_millis(400)).await;
        let before = (served.load(Ordering::Relaxed), taken.load(Ordering::Relaxed));
        sleep(Duration::from_millis(200)).await;
        let after = (served.load(Ordering::Relaxed), taken.load(Ordering::Relaxed));
        assert_eq!(before, after, "still while nobody reads, http2 = {http2}");
        // What the kernel holds for a loopback socket, and our own buffers.
        assert!(after.0 < 16 << 20 && after.1 < 16 << 20, "{after:?}");
        drop(answer);
        drop(endpoint);
        timeout(SECOND, writer).await.expect("the request body is dropped with the answer").unwrap();
        // An HTTP/2 stream that the upstream neither reads nor resets keeps its place.
        assert!(http2 == "only" || settles(&upstreams).await);
    }
}

#[tokio::test]
async fn a_place_in_flight_is_held_until_the_body_ends_or_is_dropped() {
    let address = serve(|request| async move {
        if request.uri().path() == "/short" {
            return http::Response::new(full(Bytes::from_static(b"short")));
        }
        let (pen, body) = script();
        tokio::spawn(async move {
            let _ = pen.send(data(b"first")).await;
            pen.closed().await;
        });
        http::Response::new(body)
    })
    .await;
    let upstreams = upstreams(&[address], &json!({ "max_in_flight": 2 }));
    let load = || upstreams.loads().map(|(_, load)| load).sum::<u32>();
    let get = |path: &'static str| {
        let endpoint = upstreams.select(&service(), &[]).unwrap();
        let upstreams = &upstreams;
        async move { upstreams.send(&endpoint, outbound(http::Request::get(path), empty())).await.unwrap() }
    };
    let (one, two) = tokio::join!(get("/long"), get("/long"));
    assert_eq!(load(), 2);
    let error = upstreams.select(&service(), &[]).unwrap_err();
    assert_eq!((error.code(), error.status().as_u16()), ("upstream_overloaded", 503));
    drop(one);
    assert_eq!(load(), 1);
    let mut short = get("/short").await.response.into_body();
    assert_eq!(load(), 2);
    while short.frame().await.is_some() {}
    assert_eq!(load(), 1, "the end gives it back, though the body is still there");
    drop(two);
    assert_eq!(load(), 0);
}
