//! A gateway with a byte recorder as its upstream, and a client that sends exactly the bytes it is given.

use std::path::Path;
use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tidegate::app::{self, Running};
use tidegate::audit::reader::Reader;
use tidegate::model::{Clock as _, SystemClock};
use tidegate::net::{
    Alpn, Authority, ClientIdentityFiles, ClientTls, ConnectTimes, Connector, Origin, Reach, Subject,
};
use tidegate::policy::embedded;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tower_service::Service as _;

/// Everybody may call the service `status` by any method.
pub(super) const OPEN: &str = r#"
@id("test-open")
permit (principal, action == Tidegate::Action::"call", resource == Tidegate::Service::"status");
"#;

/// The SPIFFE ID of the certificate `peer` in each gateway's directory.
pub(super) const PEER: &str = "spiffe://border.test/gateway/one";

/// A running gateway in a directory of its own.
pub(super) struct Border {
    pub(super) dir: TempDir,
    pub(super) running: Running,
}

impl Border {
    /// Starts a gateway whose route `/*` leads to the service at `endpoints`, without identity.
    pub(super) async fn start(endpoints: &[String]) -> Self {
        Self::start_with(endpoints, "").await
    }

    /// The same with more tables in its configuration.
    pub(super) async fn start_with(endpoints: &[String], more: &str) -> Self {
        Self::start_at("127.0.0.1:0", endpoints, more).await
    }

    /// The same on another address.
    pub(super) async fn start_at(address: &str, endpoints: &[String], more: &str) -> Self {
        Self::prepared(&configuration(address, endpoints, more), |_| {}).await
    }

    /// The same with more tables in its configuration, and its directory changed before the start.
    pub(super) async fn with(more: &str, prepare: impl FnOnce(&Path)) -> Self {
        let nowhere = ["http://127.0.0.1:9".to_owned()];
        Self::prepared(&configuration("127.0.0.1:0", &nowhere, more), prepare).await
    }

    /// A gateway of this configuration; its directory has certificates and shipped policies, and is changed before the start.
    pub(super) async fn prepared(configuration: &str, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("test", SystemClock.now()).unwrap();
        authority.issued().write(dir.path(), "ca").unwrap();
        let server = authority.issue(Subject::Server(&["localhost"])).unwrap();
        server.write(dir.path(), "server").unwrap();
        for (name, id) in [("peer", PEER), ("stranger", "spiffe://border.test/job/stranger")] {
            authority.issue(Subject::Client(id)).unwrap().write(dir.path(), name).unwrap();
        }
        std::fs::create_dir(dir.path().join("policies")).unwrap();
        embedded::write_to(&dir.path().join("policies")).unwrap();
        write_policy(dir.path(), OPEN);
        let file = dir.path().join("tidegate.toml");
        std::fs::write(&file, configuration).unwrap();
        prepare(dir.path());
        let running = app::start(&file).await.unwrap();
        Self { dir, running }
    }

    /// Sends bytes on a new connection, in pieces, and reads until the gateway closes it or the answer is complete.
    pub(super) async fn send(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect().await;
        // The gateway may have refused, answered and closed before all was written.
        let _ = stream.write_all(request).await;
        let (mut bytes, bodiless) = (Vec::new(), request.starts_with(b"HEAD "));
        loop {
            let mut piece = [0; 4096];
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return Answer { bytes },
                Ok(count) => bytes.extend_from_slice(&piece[..count]),
            }
            let answer = Answer { bytes: bytes.clone() };
            if answer.is_complete(bodiless) {
                return answer;
            }
        }
    }

    pub(super) async fn connect(&self) -> TokioIo<tidegate::net::Stream> {
        connect(self.dir.path(), self.running.data_address().port(), None).await
    }

    /// As [`Self::send_as`], for an answer that has no body.
    pub(super) async fn head_as(&self, name: &str, request: &[u8]) -> Answer {
        let mut stream = connect(self.dir.path(), self.running.data_address().port(), Some(name)).await;
        let _ = stream.write_all(request).await;
        let mut bytes = Vec::new();
        while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
            let mut piece = [0; 4096];
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(count) => bytes.extend_from_slice(&piece[..count]),
            }
        }
        Answer { bytes }
    }

    /// Sends a request on a connection that shows a certificate of the gateway's own authority, and reads its whole answer.
    pub(super) async fn send_as(&self, name: &str, request: &[u8]) -> Answer {
        let mut stream = connect(self.dir.path(), self.running.data_address().port(), Some(name)).await;
        let _ = stream.write_all(request).await;
        let mut bytes = Vec::new();
        while !whole_answer(&bytes) {
            let mut piece = [0; 4096];
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(count) => bytes.extend_from_slice(&piece[..count]),
            }
        }
        Answer { bytes }
    }

    /// The files of the journal as bytes.
    pub(super) fn journal_bytes(&self) -> Vec<u8> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.dir.path().join("journal")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                found.extend(std::fs::read(path).unwrap());
            }
        }
        found
    }
}

/// A connection to the gateway whose directory this is; `name` is the certificate to show.
pub(super) async fn connect(dir: &Path, port: u16, name: Option<&str>) -> TokioIo<tidegate::net::Stream> {
    let identity = name.map(|name| ClientIdentityFiles {
        certificate: dir.join(format!("{name}.pem")),
        key: dir.join(format!("{name}.key")),
    });
    let tls = ClientTls::load(&dir.join("ca.pem"), identity.as_ref(), Alpn::Http1).unwrap();
    let uri: http::Uri = format!("https://127.0.0.1:{port}").parse().unwrap();
    let origin = Origin::of(&uri).unwrap();
    let connector =
        Connector::secure(origin, &tls, Some("localhost"), Reach::default(), ConnectTimes::default());
    TokioIo::new(connector.unwrap().call(uri).await.unwrap())
}

/// Whether bytes hold an answer to its end.
pub(super) fn whole_answer(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let body = &bytes[end + 4..];
    match header(&head, "content-length") {
        Some(length) => body.len() >= length.parse::<usize>().unwrap(),
        None if header(&head, "transfer-encoding").is_some() => chunked(body).is_some(),
        None => head.starts_with("HTTP/1.1 204") || head.starts_with("HTTP/1.1 304"),
    }
}

impl Border {
    /// The records of one crossing, in order.
    pub(super) fn records(&self, id: &str) -> Vec<Value> {
        self.journal().into_iter().filter(|record| record["id"] == id).collect()
    }

    /// The first outcome of any crossing.
    pub(super) async fn first_outcome(&self) -> Value {
        for _ in 0..500 {
            if let Some(outcome) = self.journal().into_iter().find(|record| record["kind"] == "outcome") {
                return outcome;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("no outcome: {:?}", self.journal());
    }

    pub(super) fn journal(&self) -> Vec<Value> {
        let mut reader = Reader::open(&self.dir.path().join("journal"), None).unwrap();
        let mut found = Vec::new();
        while let Some(stored) = reader.read_next().unwrap() {
            found.push(serde_json::from_slice(stored.payload).unwrap());
        }
        found
    }

    /// HMAC-SHA-256 under the journal key of the anonymous tenant, hexadecimal.
    pub(super) fn hmac(&self, bytes: &[u8]) -> String {
        let key = std::fs::read(self.dir.path().join("journal/keys/anonymous.key")).unwrap();
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
        aws_lc_rs::hmac::sign(&key, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The records once the crossing has its outcome.
    pub(super) async fn closed_records(&self, id: &str) -> Vec<Value> {
        for _ in 0..500 {
            let records = self.records(id);
            if records.iter().any(|record| record["kind"] == "outcome" || record["kind"] == "refusal") {
                return records;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("no outcome for {id}: {:?}", self.records(id));
    }
}

/// Replaces the test's own policy file, whole.
pub(super) fn write_policy(dir: &Path, text: &str) {
    let beside = dir.join("new.tmp");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, dir.join("policies/90-test.cedar")).unwrap();
}

/// Takes the shipped rule away that only public data leaves without an identity: for tests of what comes after it.
pub(super) fn let_anyone_send(dir: &Path) {
    let file = dir.join("policies/10-safety.cedar");
    let text = std::fs::read_to_string(&file).unwrap();
    let (kept, _) = text.split_once("@id(\"anonymous-only-public\")").unwrap();
    std::fs::write(file, kept).unwrap();
}

/// What the gateways of these tests have in common; `client_auth` as in the configuration.
pub(super) fn head(client_auth: &str) -> String {
    let client_ca = if client_auth == "off" { "" } else { "client_ca = \"ca.pem\"" };
    format!(
        r#"
[listen]
address = "127.0.0.1:0"
drain = "5s"
[listen.tls]
certificate = "server.pem"
key = "server.key"
client_auth = "{client_auth}"
{client_ca}
[listen.limits]
max_connections_per_ip = 0
[admin]
address = "127.0.0.1:0"
[policy]
directory = "policies"
[audit]
directory = "journal"
segment_size = "4MiB"
"#
    )
}

pub(super) fn configuration(address: &str, endpoints: &[String], more: &str) -> String {
    format!(
        r#"
[listen]
address = "{address}"
drain = "5s"
[listen.tls]
certificate = "server.pem"
key = "server.key"
[listen.limits]
max_connections_per_ip = 0
[admin]
address = "127.0.0.1:0"
[policy]
directory = "policies"
poll = "50ms"
[audit]
directory = "journal"
segment_size = "4MiB"
[services.status]
endpoints = {endpoints:?}
[[routes]]
name = "all"
path = "/*"
service = "status"
identity = "none"
audit = "best_effort"
level = "public"
residency = ["world"]
{more}"#
    )
}

/// What the gateway answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The body as bytes, as far as it came; of an answer with a length.
    pub(super) fn payload(&self) -> Vec<u8> {
        let end = self.bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        self.bytes[end..].to_vec()
    }

    /// The body, its framing taken off.
    pub(super) fn body(&self) -> String {
        let end = self.bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let plain = || self.bytes[end..].to_vec();
        let body = if self.header("transfer-encoding").is_some() {
            chunked(&self.bytes[end..]).map_or_else(plain, |(body, _)| body)
        } else {
            plain()
        };
        String::from_utf8_lossy(&body).into_owned()
    }

    pub(super) fn header(&self, name: &str) -> Option<String> {
        header(self.text().split("\r\n\r\n").next().unwrap(), name).map(str::to_owned)
    }

    /// The code of a problem document.
    pub(super) fn code(&self) -> String {
        let problem: Value = serde_json::from_str(&self.body()).unwrap_or_default();
        problem["code"].as_str().unwrap_or_default().to_owned()
    }

    fn is_complete(&self, bodiless: bool) -> bool {
        let text = self.text();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = header(head, "content-length").and_then(|value| value.parse().ok());
        bodiless
            || length.is_some_and(|length: usize| body.len() >= length)
            || (length.is_none() && whole_answer(&self.bytes))
    }

    pub(super) fn status(&self) -> u16 {
        self.text().split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    pub(super) fn record(&self) -> Option<String> {
        let text = self.text();
        header(text.split("\r\n\r\n").next().unwrap(), "tidegate-record").map(str::to_owned)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(found, value)| found.eq_ignore_ascii_case(name).then(|| value.trim()))
}

/// A request as its bytes arrived, read by a parser that shares nothing with the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// An upstream that keeps what it got and answers `ok`.
pub(super) struct Recorder {
    pub(super) endpoint: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Recorder {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let log = Arc::clone(&log);
                tokio::spawn(async move { record(stream, &log).await });
            }
        });
        Self { endpoint, seen }
    }

    pub(super) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

async fn record(mut stream: tokio::net::TcpStream, log: &Mutex<Vec<Seen>>) {
    let mut bytes = Vec::new();
    loop {
        while let Some((seen, used)) = parse(&bytes) {
            bytes.drain(..used);
            let head = if seen.method == "HEAD" { "" } else { "ok" };
            log.lock().unwrap().push(seen);
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{head}");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

/// One whole request at the start of `bytes`, and its length.
pub(super) fn parse(bytes: &[u8]) -> Option<(Seen, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    let (method, target) = (first.next().unwrap().to_owned(), first.next().unwrap().to_owned());
    assert_eq!(first.next(), Some("HTTP/1.1"), "{head}");
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let value = |name: &str| headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
    let rest = &bytes[end + 4..];
    let (body, used) = match (value("content-length"), value("transfer-encoding")) {
        (None, None) => (Vec::new(), 0),
        (Some(length), None) => {
            let length: usize = length.parse().unwrap();
            (rest.get(..length)?.to_vec(), length)
        }
        (None, Some("chunked")) => chunked(rest)?,
        both => panic!("two framings reached the upstream: {both:?}"),
    };
    Some((Seen { method, target, headers, body }, end + 4 + used))
}

pub(super) fn chunked(mut rest: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, whole) = (Vec::new(), rest.len());
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        let data = rest.get(line + 2..line + 2 + size)?;
        let after = rest.get(line + 2 + size..line + 4 + size)?;
        assert_eq!(after, b"\r\n");
        body.extend_from_slice(data);
        rest = &rest[line + 4 + size..];
        if size == 0 {
            return Some((body, whole - rest.len()));
        }
    }
}
