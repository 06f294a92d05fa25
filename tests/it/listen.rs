//! The listener from outside: handshakes, and bounds on connections.

pub(crate) mod fixture;
mod http2;
mod proxied;
mod raw;
mod stop;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::listen::{Listener, Settings};
use tidegate::message::Protocol;
use tidegate::model::{Clock as _, Duration as Span, SystemClock};
use tidegate::net::ClientAuth;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::client::TlsStream;

use fixture::{BOTH, Client, Echo, Pki, Running, SPIFFE, answer, eventually, exchange, settings, statuses};

#[tokio::test]
async fn handshakes_settle_what_they_should() {
    let pki = Pki::new();
    let running = Running::start(settings(Some(pki.tls(ClientAuth::Off))));
    for (versions, version, suite, group) in [
        (&[&rustls::version::TLS13][..], "TLSv1_3", "TLS_AES_256_GCM_SHA384", "X25519MLKEM768"),
        (&[&rustls::version::TLS12][..], "TLSv1_2", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "X25519"),
    ] {
        let client = Client { versions, alpn: &[b"http/1.1"], identity: None };
        let mut stream = client.connect(&pki, running.address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let (text, closed) = exchange(&mut stream, request).await;
        assert_eq!((statuses(&text), closed), (vec!["200"], true));
        let connection = running.echo.connections.lock().unwrap().pop().unwrap();
        let tls = connection.tls.clone().unwrap();
        assert_eq!((&*tls.version, &*tls.suite, &*tls.group), (version, suite, group));
        assert_eq!(connection.server_name.as_deref(), Some("gateway.test"));
        assert_eq!(connection.protocol, Protocol::Http1);
        assert!(connection.client.is_none());
    }
}

#[tokio::test]
async fn alpn_decides_the_version() {
    let pki = Pki::new();
    let running = Running::start(settings(Some(pki.tls(ClientAuth::Off))));
    let ask = async |alpn: &[&[u8]]| {
        Client { versions: BOTH, alpn, identity: None }.connect(&pki, running.address).await
    };
    let chosen = |stream: &TlsStream<TcpStream>| stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    assert_eq!(chosen(&ask(&[b"http/1.1", b"h2"]).await.unwrap()), Some(b"h2".to_vec()));
    assert_eq!(chosen(&ask(&[b"http/1.1"]).await.unwrap()), Some(b"http/1.1".to_vec()));
    assert_eq!(chosen(&ask(&[]).await.unwrap()), None);
    assert!(ask(&[b"spdy/3"]).await.is_err());

    // A client that settled HTTP/1.1 cannot go on in HTTP/2.
    let mut stream = ask(&[b"http/1.1"]).await.unwrap();
    let (text, closed) = exchange(&mut stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert_eq!((statuses(&text), closed, running.handled()), (vec!["400"], true, 0));
}

#[tokio::test]
async fn client_certificates_are_off_optional_or_required() {
    let pki = Pki::new();
    let other = Pki::new();
    let good = pki.path("client");
    let foreign = other.path("client");
    for (auth, shown, expect) in [
        (ClientAuth::Off, Some(&good), Some(None)),
        (ClientAuth::Optional, None, Some(None)),
        (ClientAuth::Optional, Some(&good), Some(Some(SPIFFE))),
        (ClientAuth::Optional, Some(&foreign), None),
        (ClientAuth::Required, Some(&good), Some(Some(SPIFFE))),
        (ClientAuth::Required, None, None),
        (ClientAuth::Required, Some(&foreign), None),
    ] {
        let running = Running::start(settings(Some(pki.tls(auth))));
        let client = Client { versions: BOTH, alpn: &[], identity: shown.map(PathBuf::as_path) };
        let mut text = String::new();
        // TLS 1.3 tells a client of its rejected certificate only after the client's handshake has ended.
        if let Ok(mut stream) = client.connect(&pki, running.address).await
            && stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.is_ok()
        {
            drop(stream.read_to_string(&mut text).await);
        }
        let connection = running.echo.connections.lock().unwrap().pop();
        let seen = connection.map(|connection| {
            connection.client.as_ref().map(|client| {
                assert!(!client.is_ca && client.not_before < client.not_after);
                client.uri_sans[0].to_string()
            })
        });
        assert_eq!(seen, expect.map(|id| id.map(str::to_owned)), "{auth:?} {shown:?}");
        assert_eq!(text.starts_with("HTTP/1.1 200"), expect.is_some());
        if expect.is_none() {
            eventually("the refusal is reported", || running.refused() == ["handshake_failed"]).await;
        }
    }
}

#[tokio::test]
async fn a_certificate_is_replaced_while_serving_and_a_broken_one_is_not_taken() {
    let pki = Pki::new();
    let next = Pki::new();
    let listener = Listener::bind(settings(Some(pki.tls(ClientAuth::Off)))).unwrap();
    let (address, tls) = (listener.local_addr(), listener.tls().unwrap().clone());
    let (_stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(listener.run(Arc::new(Echo::default()), async {
        drop(stopped.await);
    }));
    let client = Client { versions: BOTH, alpn: &[], identity: None };
    client.connect(&pki, address).await.unwrap();
    let mut mixed = pki.tls(ClientAuth::Off).files();
    mixed.key = next.path("server.key");
    assert!(
        tls.reload(&mixed, SystemClock.now()).unwrap_err().describe().contains("cannot be used with its key")
    );
    client.connect(&pki, address).await.unwrap();
    tls.reload(&next.tls(ClientAuth::Off).files(), SystemClock.now()).unwrap();
    assert!(client.connect(&pki, address).await.is_err());
    client.connect(&next, address).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_served_safely_does_not_start() {
    let pki = Pki::new();
    let refused = |settings: Settings| Listener::bind(settings).unwrap_err().to_string();
    let open = Settings::new("0.0.0.0:0".parse().unwrap(), None);
    assert!(refused(open).contains("no loopback address"));
    let mut tls = pki.tls(ClientAuth::Required);
    tls.client_ca = None;
    assert!(refused(settings(Some(tls))).contains("client_ca"));
    let key = pki.path("server.key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert!(refused(settings(Some(pki.tls(ClientAuth::Off)))).contains("others can read it"));
    let problems = settings(Some(pki.tls(ClientAuth::Off))).check("gateway.toml", "listen");
    assert!(problems.to_string().starts_with("gateway.toml: listen.tls.key: "), "{problems}");
}

#[tokio::test]
async fn a_slow_handshake_ends() {
    let pki = Pki::new();
    let mut settings = settings(Some(pki.tls(ClientAuth::Off)));
    settings.limits.handshake_timeout = Span::millis(30);
    let running = Running::start(settings);
    let mut stream = running.connect().await;
    let (text, closed) = exchange(&mut stream, b"\x16\x03\x01").await;
    assert_eq!((text.as_str(), closed), ("", true));
    assert_eq!(running.refused(), ["handshake_timeout"]);
}

#[tokio::test]
async fn slow_heads_and_idle_connections_end() {
    let mut settings = settings(None);
    settings.limits.header_timeout = Span::millis(40);
    settings.limits.idle_timeout = Span::millis(120);
    let running = Running::start(settings);

    let started = Instant::now();
    let (text, closed) = exchange(&mut running.connect().await, b"").await;
    assert_eq!((text.as_str(), closed), ("", true));
    assert!(started.elapsed() < Duration::from_secs(2));

    let (text, closed) = exchange(&mut running.connect().await, b"GET / HTTP/1.1\r\nHost:").await;
    assert_eq!((statuses(&text), closed), (vec!["408"], true));

    // Between requests the longer time holds; a slow answer is no idleness.
    let mut stream = running.connect().await;
    let started = Instant::now();
    let (text, closed) = exchange(&mut stream, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((statuses(&text), closed), (vec!["200"], true));
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(170) && took < Duration::from_secs(3), "{took:?}");

    // The head of a pipelined request that never ends does not harm the answer before it.
    let sent = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET / HT";
    let (text, closed) = exchange(&mut running.connect().await, sent).await;
    assert_eq!((statuses(&text), closed), (vec!["200", "408"], true));
}

#[tokio::test]
async fn connections_are_bounded_in_all_and_by_address() {
    let mut bounded = settings(None);
    bounded.limits.max_connections = 2;
    let running = Running::start(bounded);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut first, mut second) = (running.connect().await, running.connect().await);
    assert_eq!(statuses(&answer(&mut first, request, "\r\n\r\n").await), ["200"]);
    assert_eq!(statuses(&answer(&mut second, request, "\r\n\r\n").await), ["200"]);
    let mut third = running.connect().await;
    assert_eq!(third.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert_eq!(running.refused(), ["connections_exhausted"]);
    drop(first);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let started = Instant::now();
    while exchange(&mut running.connect().await, request).await.0.is_empty() {
        assert!(started.elapsed() < Duration::from_secs(2), "the place is not given back");
    }

    let mut bounded = settings(None);
    bounded.limits.max_connections_per_ip = 1;
    let running = Running::start(bounded);
    let _first = running.connect().await;
    let mut second = running.connect().await;
    assert_eq!(second.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert_eq!(running.refused(), ["connections_per_address_exhausted"]);
}
