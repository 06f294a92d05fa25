//! HTTP/2: served, bounded, and cut when it floods.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidegate::message::Protocol;
use tidegate::model::Duration as Span;
use tidegate::net::{Alpn, ClientAuth};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::fixture::{BOTH, Client, Pki, Running, client_of, eventually, settings};

#[tokio::test]
async fn http2_is_served() {
    let pki = Pki::new();
    let running = Running::start(settings(Some(pki.tls(ClientAuth::Off))));
    let client = client_of(&pki, running.address, Alpn::PreferHttp2);
    let url = format!("https://gateway.test:{}/echo", running.address.port());
    let request = Request::post(&url).body(Full::new(Bytes::from_static(b"hello"))).unwrap();
    let answer = client.request(request).await.unwrap();
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, http::Version::HTTP_2));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(running.echo.connections.lock().unwrap()[0].protocol, Protocol::Http2);
}

#[tokio::test]
async fn an_idle_http2_connection_ends() {
    let pki = Pki::new();
    let mut settings = settings(Some(pki.tls(ClientAuth::Off)));
    settings.limits.idle_timeout = Span::millis(40);
    let running = Running::start(settings);
    let client = Client { versions: BOTH, alpn: &[b"h2"], identity: None };
    let stream = client.connect(&pki, running.address).await.unwrap();
    let (_, connection) = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(
        TokioExecutor::new(),
        TokioIo::new(stream),
    )
    .await
    .unwrap();
    timeout(Duration::from_secs(1), connection).await.unwrap().unwrap();
}

/// One HTTP/2 frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Each flood is cut within a second and reported once, while the listener goes on serving.
#[tokio::test]
async fn http2_floods_are_cut() {
    const HEADERS: u8 = 1;
    const PRIORITY: u8 = 2;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;
    const CONTINUATION: u8 = 9;
    // GET https://a/slow in HPACK: three indexed fields, then path and authority as literals.
    let get = [&[0x82, 0x87, 0x04, 5][..], b"/slow", &[0x01, 1], b"a"].concat();
    let streams = || (0..3000_u32).map(|n| n * 2 + 1);
    let open = |id| frame(HEADERS, 0x5, id, &get);
    let rapid_reset: Vec<u8> = streams()
        .flat_map(|id| [open(id), frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat())
        .collect();
    let made_you_reset: Vec<u8> = streams()
        .flat_map(|id| [open(id), frame(WINDOW_UPDATE, 0, id, &0x7fff_ffff_u32.to_be_bytes())].concat())
        .collect();
    let field = [&[0x00, 1][..], b"x", &[100], &[b'y'; 100]].concat();
    let continuation: Vec<u8> = std::iter::once(frame(HEADERS, 0, 1, &get))
        .chain((0..3000).map(|_| frame(CONTINUATION, 0, 1, &field)))
        .flatten()
        .collect();
    let pki = Pki::new();
    let running = Running::start(settings(Some(pki.tls(ClientAuth::Off))));
    let client = Client { versions: BOTH, alpn: &[b"h2"], identity: None };
    let uncounted = |kind, stream, payload: &[u8]| frame(kind, 0, stream, payload).repeat(12_000);
    let floods = [
        ("rapid reset", rapid_reset, "protocol_violation"),
        ("made you reset", made_you_reset, "protocol_violation"),
        ("continuation", continuation, "protocol_violation"),
        ("ping", uncounted(PING, 0, b"tidegate"), "http2_flood"),
        ("settings", uncounted(SETTINGS, 0, &[]), "http2_flood"),
        ("window update", uncounted(WINDOW_UPDATE, 0, &1_u32.to_be_bytes()), "http2_flood"),
        ("priority", uncounted(PRIORITY, 1, &[0, 0, 0, 0, 1]), "http2_flood"),
        ("unknown", uncounted(0xbe, 0, b"?"), "http2_flood"),
    ];
    for (at, (name, flood, code)) in floods.into_iter().enumerate() {
        let stream = client.connect(&pki, running.address).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let sending = tokio::spawn(async move {
            let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat();
            drop(writer.write_all(&preface).await);
            drop(writer.write_all(&flood).await);
            writer
        });
        let mut got = Vec::new();
        let ended = timeout(Duration::from_secs(1), reader.read_to_end(&mut got)).await;
        assert!(ended.is_ok(), "{name} goes on");
        eventually("the cut is reported", || running.refused().len() == at + 1).await;
        assert_eq!(running.refused().last(), Some(&code), "{name}");
        drop(sending.await.unwrap());
    }
    let url = format!("https://gateway.test:{}/echo", running.address.port());
    let request = Request::get(url).body(Full::default()).unwrap();
    assert_eq!(
        client_of(&pki, running.address, Alpn::PreferHttp2).request(request).await.unwrap().status(),
        200
    );
}

/// A header list over the bound is answered or cut, never handled.
#[tokio::test]
async fn http2_headers_are_bounded() {
    let pki = Pki::new();
    let running = Running::start(settings(Some(pki.tls(ClientAuth::Off))));
    let url = format!("https://gateway.test:{}/echo", running.address.port());
    let request = Request::get(url).header("x", "y".repeat(40 * 1024)).body(Full::default()).unwrap();
    let answer = client_of(&pki, running.address, Alpn::PreferHttp2).request(request).await;
    assert!(answer.map_or(true, |answer| answer.status() == 431));
    assert_eq!(running.handled(), 0);
}
