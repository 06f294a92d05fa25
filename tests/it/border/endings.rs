//! Requests that do not end as planned leave a record that says how they ended.

use std::net::{Ipv6Addr, TcpListener as StdListener};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::fixture::{Border, Recorder};

/// A service route with a small body, beside the fixture's own.
const SMALL: &str = r#"
[[routes]]
name = "small"
path = "/small"
service = "status"
identity = "none"
audit = "best_effort"
level = "public"
residency = ["world"]
max_body = "1KiB"
"#;

/// An upstream that takes everything and never answers; tells when it has a whole request of `bytes` body bytes.
async fn silent(bytes: usize) -> (String, oneshot::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (told, got) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
        let mut told = Some(told);
        while let Ok(count @ 1..) = stream.read(&mut piece).await {
            seen.extend_from_slice(&piece[..count]);
            let head = seen.windows(4).position(|four| four == b"\r\n\r\n");
            if head.is_some_and(|head| seen.len() - head - 4 >= bytes)
                && let Some(told) = told.take()
            {
                told.send(()).unwrap();
            }
        }
    });
    (endpoint, got)
}

#[tokio::test]
async fn a_client_that_hangs_up_before_the_answer_leaves_an_outcome_that_says_so() {
    let (endpoint, got) = silent(500).await;
    let border = Border::start(&[endpoint]).await;
    let mut stream = border.connect().await;
    let body = "x".repeat(500);
    let request = format!("POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    got.await.unwrap();
    drop(stream);
    let outcome = border.first_outcome().await;
    assert_eq!(
        (&outcome["ending"], &outcome["request_bytes"]),
        (&"client_gone".into(), &500.into()),
        "{outcome}"
    );
    border.running.shutdown().await;
}

#[tokio::test]
async fn a_chunked_body_over_the_bound_is_413_whatever_it_announced() {
    let recorder = Recorder::start().await;
    let border = Border::start_with(std::slice::from_ref(&recorder.endpoint), SMALL).await;
    let piece = "y".repeat(0x400);
    let request = format!(
        "POST /small HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n{piece}\r\n400\r\n{piece}\r\n0\r\n\r\n"
    );
    let answer = border.send(request.as_bytes()).await;
    assert_eq!(answer.status(), 413, "{answer:?}");
    let records = border.closed_records(&answer.record().unwrap()).await;
    let outcome = records.iter().rfind(|record| record["kind"] == "outcome").unwrap();
    assert_eq!(outcome["code"], "body_too_large", "{records:?}");
    assert!(recorder.take().is_empty(), "the cut body was taken for a whole one");
    border.running.shutdown().await;
}

#[tokio::test]
async fn a_dual_stack_listener_serves_ipv4_callers_under_their_own_address() {
    if StdListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_err() {
        // No IPv6 on this machine: nothing to test.
        return;
    }
    let recorder = Recorder::start().await;
    let border = Border::start_at("[::]:0", std::slice::from_ref(&recorder.endpoint), "").await;
    let answer = border.send(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    let records = border.closed_records(&answer.record().unwrap()).await;
    assert_eq!(records[0]["context"]["context"]["peerAddress"], "127.0.0.1", "{records:?}");
    border.running.shutdown().await;
}
