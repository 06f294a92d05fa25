//! Raw HTTP/1 bytes: what two readers could read differently never reaches a handler.

use tokio::io::AsyncWriteExt as _;

use super::fixture::{Running, answer, exchange, settings, statuses};

/// The rows of the desync matrix that the scan decides on the head: refused, closed, never handled, and nothing rides behind.
#[tokio::test]
async fn ambiguous_heads_are_refused_and_nothing_rides_behind() {
    let running = Running::start(settings(None));
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(100 * 1024));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: a\r\n".repeat(200));
    let rows: &[(&str, &[u8], &str)] = &[
        (
            "equal lengths",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            "400",
        ),
        (
            "two lengths",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
            "400",
        ),
        ("length +3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", "400"),
        (
            "cl+te",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        ("xchunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400"),
        (
            "chunked,identity",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            "400",
        ),
        ("te in 1.0", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("bare lf", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", "400"),
        ("all bare lf", b"GET / HTTP/1.1\nHost: a\n\n", "400"),
        ("bare cr", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", "400"),
        ("space before colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
        ("obs-fold", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "400"),
        ("fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("nul", b"GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("0xff", b"GET /a\xffb HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("h2c", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"),
        ("http/0.9", b"GET /\r\n\r\n", "400"),
        ("100 KiB header", long.as_bytes(), "431"),
        ("200 headers", many.as_bytes(), "431"),
    ];
    let good = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n";
    for (name, bytes, status) in rows {
        for before in [0, 2] {
            let handled = running.handled();
            let mut sent = good.repeat(before);
            sent.extend_from_slice(bytes);
            sent.extend_from_slice(&good.repeat(3));
            let (text, closed) = exchange(&mut running.connect().await, &sent).await;
            let mut expect = vec!["200"; before];
            expect.push(status);
            assert_eq!((statuses(&text), closed), (expect, true), "{name}, {before} before: {text}");
            assert!(text.to_ascii_lowercase().contains("connection: close"), "{name}");
            assert_eq!(running.handled() - handled, before, "{name}");
        }
    }
    assert_eq!(running.echo.rejected.lock().unwrap().len(), rows.len() * 2);
}

/// The rows that the scan decides within a body: the handler sees the body break, the connection closes, and nothing rides behind.
#[tokio::test]
async fn broken_chunk_framing_breaks_the_body() {
    let running = Running::start(settings(None));
    for (chunks, code) in [
        ("3;a\nabc\r\n0\r\n\r\n", "bare_line_feed"),
        ("0x3\r\nabc\r\n0\r\n\r\n", "chunk_size_malformed"),
        ("3 \r\nabc\r\n0\r\n\r\n", "chunk_size_malformed"),
        ("3\r\nabc\n0\r\n\r\n", "bare_line_feed"),
        ("3\r\nabc\r\n3\nabc\r\n0\r\n\r\n", "bare_line_feed"),
        ("3\r\nabcdef\r\n0\r\n\r\n", "chunk_end_malformed"),
        ("0\r\nTransfer-Encoding: chunked\r\n\r\n", "trailer_forbidden"),
        ("0\r\n\n", "bare_line_feed"),
    ] {
        let handled = running.handled();
        let sent = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let (text, closed) = exchange(&mut running.connect().await, sent.as_bytes()).await;
        assert_eq!((statuses(&text), closed), (vec!["400"], true), "{chunks:?}: {text}");
        assert!(text.ends_with(code), "{chunks:?}: {text}");
        assert_eq!(running.handled() - handled, 1);

        // A handler that never looks at the body does not save the connection.
        let sent = sent.replace("POST /", "POST /slow");
        let (text, closed) = exchange(&mut running.connect().await, sent.as_bytes()).await;
        assert_eq!((statuses(&text), closed), (vec!["200"], true), "{chunks:?}: {text}");
        assert_eq!(running.handled() - handled, 2);
    }
}

#[tokio::test]
async fn legitimate_requests_pass_however_they_are_split() {
    let running = Running::start(settings(None));
    let sent = b"\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
        POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\ndef\r\n0\r\nT: 1\r\n\r\n\
        GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for size in [1, 7, sent.len()] {
        let mut stream = running.connect().await;
        stream.set_nodelay(true).unwrap();
        let (head, tail) = sent.split_at(sent.len() - 1);
        for piece in head.chunks(size) {
            stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let (text, closed) = exchange(&mut stream, tail).await;
        assert_eq!((statuses(&text), closed), (vec!["200"; 3], true), "{size}: {text}");
        assert!(text.contains("\r\n\r\nabc") && text.contains("\r\n\r\ndef"));
    }
}

#[tokio::test]
async fn one_hundred_continue_is_sent_when_the_body_is_wanted() {
    let running = Running::start(settings(None));
    let mut stream = running.connect().await;
    let head = b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(answer(&mut stream, head, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(answer(&mut stream, b"abc", "abc").await.starts_with("HTTP/1.1 200 "));
}
