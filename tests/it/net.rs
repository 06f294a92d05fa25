//! The connector and the small client from outside: who is trusted, what is dialled, what is bounded.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{StatusCode, Uri};
use hyper_util::client::legacy::connect::Connection as _;
use tidegate::model::{ByteSize, Duration as Span};
use tidegate::net::{
    Alpn, Client, ClientAuth, ClientError, ClientIdentityFiles, ClientSettings, ClientTls, ConnectError,
    ConnectTimes, Connector, FetchError, Origin, Plaintext, Reach, Resolver,
};
use tower_service::Service as _;

use super::listen::fixture::{Pki, Running, settings};

fn loopback() -> Reach {
    Reach::new(vec!["127.0.0.0/8".parse().unwrap()])
}

fn origin(name: &str, port: u16) -> Origin {
    Origin::parse(&format!("https://{name}:{port}")).unwrap()
}

fn table(name: &str, ips: &[&str]) -> Resolver {
    let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    Resolver::Table(Arc::new([(name.to_owned(), ips)].into()))
}

async fn connect(connector: &Connector) -> Result<tidegate::net::Stream, ConnectError> {
    let uri: Uri = format!("{}/", connector.origin()).parse().unwrap();
    connector.clone().call(uri).await
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn only_the_pinned_authority_and_name_are_trusted() {
    let (pki, other) = (Pki::new(), Pki::new());
    let running = Running::start(settings(Some(pki.tls(ClientAuth::Off))));
    let port = running.address.port();
    for (ca, host, name, expect) in [
        (&pki, "gateway.test", None, Ok(())),
        (&pki, "127.0.0.1", None, Ok(())),
        (&pki, "127.0.0.1", Some("gateway.test"), Ok(())),
        (&pki, "alias.test", Some("gateway.test"), Ok(())),
        (&pki, "alias.test", None, Err("not valid for name")),
        (&pki, "gateway.test", Some("other.test"), Err("not valid for name")),
        // Of the same name, so that only its key tells it apart.
        (&other, "gateway.test", None, Err("BadSignature")),
    ] {
        let tls = ClientTls::load(&ca.path("ca.pem"), None, Alpn::PreferHttp2).unwrap();
        let connector =
            Connector::secure(origin(host, port), &tls, name, loopback(), ConnectTimes::default());
        let connector = connector.unwrap().with_resolver(table(host, &["127.0.0.1"]));
        match (connect(&connector).await, expect) {
            (Ok(stream), Ok(())) => assert!(stream.connected().is_negotiated_h2()),
            (Err(error), Err(expect)) => {
                assert!(matches!(error, ConnectError::Handshake { .. }));
                let text = chain(&error);
                assert!(text.contains(expect), "{host} {name:?}: {text}");
            }
            (got, _) => panic!("{host} {name:?}: {got:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    let pki = Pki::new();
    let running = Running::start(settings(Some(pki.tls(ClientAuth::Required))));
    let files = ClientIdentityFiles { certificate: pki.path("client.pem"), key: pki.path("client.key") };
    let tls = ClientTls::load(&pki.path("ca.pem"), Some(&files), Alpn::Http1).unwrap();
    let target = origin("localhost", running.address.port());
    let connector = Connector::secure(target, &tls, None, Reach::default(), ConnectTimes::default()).unwrap();
    assert!(!connect(&connector).await.unwrap().connected().is_negotiated_h2());
}

#[tokio::test]
async fn every_address_is_judged_before_any_is_dialled() {
    let pki = Pki::new();
    let running = Running::start(settings(Some(pki.tls(ClientAuth::Off))));
    let port = running.address.port();
    let tls = ClientTls::load(&pki.path("ca.pem"), None, Alpn::Http1).unwrap();
    for (ips, reach, expect) in [
        (&["127.0.0.1"][..], Reach::default(), "not public"),
        (&["127.0.0.1", "10.0.0.1"], loopback(), "`10.0.0.1` is not public"),
        (&["127.0.0.1", "169.254.169.254"], loopback(), "`169.254.169.254` is never dialled"),
        (&["::ffff:169.254.169.254"], Reach::new(vec!["::/0".parse().unwrap()]), "never dialled"),
        (&[], loopback(), "has no address"),
    ] {
        let connector =
            Connector::secure(origin("gateway.test", port), &tls, None, reach, ConnectTimes::default());
        let connector = connector.unwrap().with_resolver(table("gateway.test", ips));
        let text = chain(&connect(&connector).await.unwrap_err());
        assert!(text.contains(expect), "{ips:?}: {text}");
    }
    // A closed first address does not hide an open second one.
    let connector =
        Connector::secure(origin("gateway.test", port), &tls, None, loopback(), ConnectTimes::default());
    let connector = connector.unwrap().with_resolver(table("gateway.test", &["127.0.0.9", "127.0.0.1"]));
    connect(&connector).await.unwrap();
}

#[tokio::test]
async fn a_connector_reaches_its_own_origin_only() {
    let pki = Pki::new();
    let tls = ClientTls::load(&pki.path("ca.pem"), None, Alpn::Http1).unwrap();
    let times = ConnectTimes::default();
    let mut connector = Connector::secure(origin("a.test", 443), &tls, None, loopback(), times).unwrap();
    for url in ["https://b.test/", "https://a.test:444/", "http://a.test:443/"] {
        let error = connector.call(url.parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, ConnectError::OtherOrigin { .. }), "{url}");
    }
    let plain = |url: &str, plaintext| {
        Connector::plain(Origin::parse(url).unwrap(), plaintext, Reach::default(), times)
    };
    assert!(plain("http://localhost:1", Plaintext::LoopbackOnly).is_ok());
    assert!(plain("http://10.0.0.1", Plaintext::Accepted).is_ok());
    let refused = plain("http://10.0.0.1", Plaintext::LoopbackOnly).unwrap_err();
    assert!(matches!(refused, ConnectError::PlaintextRefused(_)));
    assert!(matches!(plain("https://a.test", Plaintext::Accepted), Err(ConnectError::WantsTls(_))));
}

#[tokio::test]
async fn a_silent_peer_is_left() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pki = Pki::new();
    let tls = ClientTls::load(&pki.path("ca.pem"), None, Alpn::Http1).unwrap();
    let times = ConnectTimes { handshake: Duration::from_millis(30), ..ConnectTimes::default() };
    let target = origin("localhost", silent.local_addr().unwrap().port());
    let connector = Connector::secure(target, &tls, None, Reach::default(), times).unwrap();
    assert!(matches!(connect(&connector).await, Err(ConnectError::Timeout { .. })));
}

#[tokio::test]
async fn the_small_client_fetches_within_bounds() {
    let pki = Pki::new();
    let running = Running::start(settings(Some(pki.tls(ClientAuth::Off))));
    let base = format!("https://localhost:{}", running.address.port());
    let settings = ClientSettings {
        ca: Some(pki.path("ca.pem")),
        timeout: Span::millis(30),
        max_bytes: ByteSize::kib(10),
        ..ClientSettings::default()
    };
    let patient = ClientSettings { timeout: Span::secs(5), ..settings.clone() };
    let client = Client::new(&base, &patient).unwrap();
    assert_eq!(client.get(&format!("{base}/jwks")).await.unwrap(), "");
    let body = Bytes::from_static(b"spans");
    let (status, answer) = client.post(&format!("{base}/v1/traces"), HeaderMap::new(), body).await.unwrap();
    assert_eq!((status, answer), (StatusCode::OK, Bytes::from_static(b"spans")));

    assert!(matches!(client.get(&format!("{base}/large")).await, Err(FetchError::TooLarge)));
    let moved = client.get(&format!("{base}/moved")).await;
    assert!(matches!(moved, Err(FetchError::Status(StatusCode::FOUND))));
    assert!(matches!(client.get("https://localhost:1/").await, Err(FetchError::OtherOrigin(_))));
    let hasty = Client::new(&base, &settings).unwrap();
    assert!(matches!(hasty.get(&format!("{base}/slow")).await, Err(FetchError::Timeout)));
    assert!(matches!(Client::new(&base, &ClientSettings::default()), Err(ClientError::NoCa(_))));
    assert!(matches!(Client::new("http://a.test", &settings), Err(ClientError::Connect(_))));
}
