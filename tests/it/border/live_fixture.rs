//! A gateway with every kind of credential, an upstream that streams without end, and clients that read what comes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tidegate::identity::new_api_key;
use tidegate::model::{Clock as _, SystemClock};
use tidegate::net::{Alpn, ClientIdentityFiles, ClientTls, ConnectTimes, Connector, Origin, Reach};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tower_service::Service as _;

use super::fixture::{Border, connect, head};

/// Forbids everything.
pub(super) const CLOSED: &str = "@id(\"test-closed\")\nforbid (principal, action, resource);\n";
pub(super) const ISSUER: &str = "https://login.test";

/// A gateway whose route `/open/*` asks for nothing and `/*` for an identity; both lead to the streams.
pub(super) struct Stand {
    pub(super) border: Border,
    pub(super) streams: Streams,
    signer: rcgen::KeyPair,
    pub(super) api_key: String,
}

impl Stand {
    pub(super) async fn start() -> Self {
        let streams = Streams::start().await;
        let signer = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let point = signer.public_key_raw();
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwks = json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "1",
            "x": encoded(&point[1..33]), "y": encoded(&point[33..]),
        }]});
        let key = new_api_key("build").unwrap();
        let keys = format!(
            "[[keys]]\nid = 'build'\nsha256 = '{}'\ntenant = 'acme'\nkind = 'workload'\n",
            key.sha256
        );
        let border = Border::prepared(&configuration(&streams.endpoint), |dir| {
            std::fs::write(dir.join("jwks.json"), jwks.to_string()).unwrap();
            std::fs::write(dir.join("keys.toml"), keys).unwrap();
            std::fs::write(dir.join("revoked.toml"), "revoked = []\n").unwrap();
        })
        .await;
        Self { border, streams, signer, api_key: key.text.as_str().to_owned() }
    }

    /// A token of `subject` with this `jti` that ends in `seconds`.
    pub(super) fn token(&self, subject: &str, id: &str, seconds: i64) -> String {
        let now = SystemClock.now().as_second();
        let claims = json!({
            "iss": ISSUER, "aud": "tidegate", "sub": subject, "jti": id, "iat": now, "exp": now + seconds,
        });
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        header.kid = Some("1".to_owned());
        let key = jsonwebtoken::EncodingKey::from_ec_der(&self.signer.serialize_der());
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }

    pub(super) fn dir(&self) -> &Path {
        self.border.dir.path()
    }

    /// Replaces the list of revocations and lets the gateway look at it.
    pub(super) fn revoke(&self, text: &str) {
        replace(self.dir(), "revoked.toml", text.as_bytes(), 0o644);
        self.border.running.reload();
    }

    /// Starts to read an answer over HTTP/1, without an identity or with this header line and certificate.
    pub(super) async fn http1(&self, path: &str, header: &str, certificate: Option<&str>) -> Raw {
        let mut stream = connect(self.dir(), self.border.running.data_address().port(), certificate).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Raw { stream, bytes: Vec::new(), ended: false }
    }

    /// A connection over HTTP/2; ends when the gateway closes it.
    pub(super) async fn http2(&self, certificate: Option<&str>) -> Http2 {
        http2_of(self.dir(), self.border.running.data_address().port(), certificate).await
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.border.running.data_address().port())
    }

    /// `/readyz`, as JSON.
    pub(super) async fn ready(&self) -> Value {
        ready(&self.border).await
    }

    /// The outcome of a crossing.
    pub(super) async fn outcome(&self, record: &str) -> Value {
        let records = self.border.closed_records(record).await;
        records.into_iter().find(|record| record["kind"] == "outcome").unwrap()
    }
}

pub(super) async fn http2_of(dir: &Path, port: u16, certificate: Option<&str>) -> Http2 {
    let identity = certificate.map(|name| ClientIdentityFiles {
        certificate: dir.join(format!("{name}.pem")),
        key: dir.join(format!("{name}.key")),
    });
    let tls = ClientTls::load(&dir.join("ca.pem"), identity.as_ref(), Alpn::PreferHttp2).unwrap();
    let uri: http::Uri = format!("https://127.0.0.1:{port}").parse().unwrap();
    let origin = Origin::of(&uri).unwrap();
    let connector =
        Connector::secure(origin, &tls, Some("localhost"), Reach::default(), ConnectTimes::default());
    let stream = connector.unwrap().call(uri).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    (sender, tokio::spawn(async move { drop(connection.await) }))
}

/// A sender of requests, and the task of its connection.
pub(super) type Http2 = (http2::SendRequest<Full<Bytes>>, tokio::task::JoinHandle<()>);

pub(super) async fn get(sender: &mut http2::SendRequest<Full<Bytes>>, url: &str) -> Response<Incoming> {
    sender.send_request(Request::get(url).body(Full::default()).unwrap()).await.unwrap()
}

/// Reads a body until it holds `wanted` or is over; what came, and how it ended if it did.
pub(super) async fn read_until(
    body: &mut Incoming,
    seen: &mut String,
    wanted: &str,
) -> Option<Result<(), hyper::Error>> {
    while !seen.contains(wanted) {
        match body.frame().await {
            None => return Some(Ok(())),
            Some(Err(error)) => return Some(Err(error)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    seen.push_str(&String::from_utf8_lossy(&data));
                }
            }
        }
    }
    None
}

/// An answer over HTTP/1 as it comes.
pub(super) struct Raw {
    pub(super) stream: TokioIo<tidegate::net::Stream>,
    pub(super) bytes: Vec<u8>,
    /// Whether the gateway closed the connection.
    pub(super) ended: bool,
}

impl Raw {
    /// Reads until the text holds `wanted`; panics if the connection ends before, or nothing comes for five seconds.
    pub(super) async fn until(&mut self, wanted: &str) {
        while !self.text().contains(wanted) {
            assert!(!self.ended, "no `{wanted}` in: {}", self.text());
            self.more().await;
        }
    }

    pub(super) async fn more(&mut self) {
        let mut piece = [0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(5), self.stream.read(&mut piece)).await;
        match read {
            Err(_) => panic!("nothing comes after: {}", self.text()),
            Ok(Ok(0) | Err(_)) => self.ended = true,
            Ok(Ok(count)) => self.bytes.extend_from_slice(&piece[..count]),
        }
    }

    /// Reads until the connection is closed.
    pub(super) async fn read_to_end(&mut self) {
        while !self.ended {
            self.more().await;
        }
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(super) fn record(&self) -> String {
        let text = self.text();
        let line = text.lines().find_map(|line| line.strip_prefix("tidegate-record: ")).unwrap();
        line.trim().to_owned()
    }
}

/// `/readyz` of a gateway, as JSON.
pub(super) async fn ready(border: &Border) -> Value {
    let mut stream = TcpStream::connect(border.running.admin_address()).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap()
}

/// Waits for something; ten seconds at most.
pub(super) async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(10), "it never came to pass: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Replaces a file as a whole.
pub(super) fn replace(dir: &Path, name: &str, bytes: &[u8], mode: u32) {
    let beside = dir.join("replacement.tmp");
    std::fs::write(&beside, bytes).unwrap();
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::rename(beside, dir.join(name)).unwrap();
}

pub(super) fn configuration(endpoint: &str) -> String {
    let tls = head("optional").replace("client_auth", "poll = \"50ms\"\nclient_auth");
    let tls = tls.replacen("directory = \"policies\"", "directory = \"policies\"\npoll = \"50ms\"", 1);
    let route = |name: &str, path: &str, identity: &str| {
        format!(
            "[[routes]]\nname = \"{name}\"\npath = \"{path}\"\nservice = \"status\"\nidentity = \"{identity}\"\n\
             audit = \"best_effort\"\nlevel = \"public\"\nresidency = [\"world\"]\n"
        )
    };
    format!(
        r#"{tls}
[identity]
api_keys = "keys.toml"
[[identity.issuers]]
issuer = "{ISSUER}"
audiences = ["tidegate"]
algorithms = ["ES256"]
jwks_file = "jwks.json"
tenant = "acme"
leeway = "0s"
[[identity.mtls.trust_domains]]
name = "border.test"
tenant = "acme"
[identity.revoked]
file = "revoked.toml"
poll = "50ms"
[services.status]
endpoints = ["{endpoint}"]
{}{}"#,
        route("open", "/open/*", "none"),
        route("all", "/*", "required"),
    )
}

/// An upstream that answers `…/quick` at once, `…/events` with an event every 10 ms, `…/bytes` with as many plain bytes, `…/flood` with all it can, and takes uploads without a word.
pub(super) struct Streams {
    pub(super) endpoint: String,
    /// How many requests it has not finished with.
    open: Arc<AtomicUsize>,
    /// Uploads that came to their end.
    pub(super) whole: Arc<AtomicUsize>,
}

impl Streams {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (open, whole) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (Arc::clone(&open), Arc::clone(&whole));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (open, whole) = counts.clone();
                tokio::spawn(async move {
                    open.fetch_add(1, Ordering::SeqCst);
                    serve(stream, &whole).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { endpoint, open, whole }
    }

    /// How many of its connections are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, whole: &AtomicUsize) {
    let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
    while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(count) => seen.extend_from_slice(&piece[..count]),
        }
    }
    let text = String::from_utf8_lossy(&seen).into_owned();
    let path = text.split(' ').nth(1).unwrap().to_owned();
    if path.ends_with("/quick") {
        let _ =
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
        return;
    }
    if path.ends_with("/upload") || path.ends_with("/silent") {
        loop {
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(count) => seen.extend_from_slice(&piece[..count]),
            }
        }
        if seen.ends_with(b"0\r\n\r\n") {
            whole.fetch_add(1, Ordering::SeqCst);
        }
        return;
    }
    let media = if !path.ends_with("/events") { "application/octet-stream" } else { "text/event-stream" };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {media}\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut failed = stream.write_all(head.as_bytes()).await.is_err();
    if path.ends_with("/flood") {
        let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
        while stream.write_all(chunk.as_bytes()).await.is_ok() {}
        return;
    }
    let mut number = 0;
    while !failed {
        let event = format!("data: {{\"n\":{number}}}\n\n");
        number += 1;
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        failed = stream.write_all(chunk.as_bytes()).await.is_err();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
