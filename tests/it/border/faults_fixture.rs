//! Upstreams that answer as they are told and count what they are asked; and what a gateway's metrics say.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use tidegate::net::{Alpn, ClientTls, ConnectTimes, Connector, Origin, Reach, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower_service::Service as _;

use super::fixture::{Answer, Border, Seen, parse, write_policy};

/// What an upstream answers.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// These bytes.
    Bytes(Vec<u8>),
    /// `ok`, once a permit of the semaphore is there; it is used up.
    Held(Arc<Semaphore>),
    /// A body without end, as quickly as it is taken.
    Endless,
}

impl Reply {
    /// An empty answer with this status.
    pub(super) fn status(status: u16) -> Self {
        Self::Bytes(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n").into_bytes())
    }

    pub(super) fn ok() -> Self {
        Self::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec())
    }

    /// A stream of events of ten bytes, after a head; and how long the head is.
    pub(super) fn events(count: usize) -> (Self, usize) {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let body = "a\r\ndata: {}\n\n\r\n".repeat(count);
        (Self::Bytes(format!("{head}{body}0\r\n\r\n").into_bytes()), head.len())
    }
}

/// An upstream. `/health` is answered by a reply of its own, and not counted.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    checks: Arc<Mutex<Vec<Seen>>>,
    replies: Arc<Mutex<(Reply, Reply)>>,
}

impl Upstream {
    pub(super) async fn start(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            checks: Arc::default(),
            replies: Arc::new(Mutex::new((reply, Reply::ok()))),
        };
        let (seen, checks) = (Arc::clone(&upstream.seen), Arc::clone(&upstream.checks));
        let replies = Arc::clone(&upstream.replies);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, checks) = (Arc::clone(&seen), Arc::clone(&checks));
                let replies = Arc::clone(&replies);
                tokio::spawn(async move { serve(stream, (&seen, &checks), &replies).await });
            }
        });
        upstream
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn answer_checks(&self, reply: Reply) {
        self.replies.lock().unwrap().1 = reply;
    }

    /// How many requests came whole.
    pub(super) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(super) fn checks(&self) -> Vec<Seen> {
        self.checks.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    (seen, checks): (&Mutex<Vec<Seen>>, &Mutex<Vec<Seen>>),
    replies: &Mutex<(Reply, Reply)>,
) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        while let Some((request, used)) = parse(&bytes) {
            bytes.drain(..used);
            let check = request.target == "/health";
            if check { checks } else { seen }.lock().unwrap().push(request);
            let reply = {
                let replies = replies.lock().unwrap();
                if check { replies.1.clone() } else { replies.0.clone() }
            };
            match reply {
                Reply::Bytes(answer) => stream.write_all(&answer).await.ok()?,
                Reply::Held(permits) => {
                    permits.acquire().await.ok()?.forget();
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.ok()?;
                }
                Reply::Endless => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await.ok()?;
                    loop {
                        stream.write_all(&[b'x'; 16 * 1024]).await.ok()?;
                    }
                }
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// A gateway with the route `chat` to the clusters `eu` and `us`, tried in that order; `more` are members of both, `tables`
/// further tables.
pub(super) async fn two_clusters(eu: &str, us: &str, more: &str, tables: &str) -> Border {
    let cluster = |name: &str, endpoint: &str| {
        format!("[clusters.{name}]\nendpoints = [\"{endpoint}\"]\nmodels = [\"tide-small\"]\n{more}\n")
    };
    let configuration = format!(
        r#"{}{}
[[routes]]
name = "chat"
path = "/v1/chat/completions"
infer = {{ clusters = ["eu", "us"] }}
identity = "none"
audit = "best_effort"
level = "public"
residency = ["world"]
{tables}"#,
        cluster("eu", eu),
        cluster("us", us)
    );
    Border::with(&configuration, |dir| {
        write_policy(
            dir,
            "@id(\"test-chat\")\npermit (principal, action == Tidegate::Action::\"infer\", resource);\n",
        );
    })
    .await
}

impl Border {
    /// Asks a model on a connection of its own; `more` are header lines.
    pub(super) async fn chat(&self, more: &str) -> Answer {
        self.send(chat(more).as_bytes()).await
    }

    /// What the admin listener answers.
    pub(super) async fn admin(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.running.admin_address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    /// The reading of a metric whose line holds all `labels`; 0 if there is none.
    pub(super) async fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let page = self.admin("/metrics").await;
        let of = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
        let line = page.lines().find(of);
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Waits until a metric reads `value`.
    pub(super) async fn reads(&self, name: &str, labels: &[&str], value: u64) {
        for _ in 0..500 {
            if self.metric(name, labels).await == value {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} {labels:?} is {}", self.metric(name, labels).await);
    }

    /// Waits until nothing is under way any more: no place in flight is taken, nobody waits.
    pub(super) async fn settles(&self) {
        for upstream in ["eu", "us"] {
            let label = format!("tidegate_upstream=\"{upstream}\"");
            self.reads("tidegate_upstream_endpoint_in_flight", &[&label], 0).await;
            self.reads("tidegate_upstream_waiting", &[&label], 0).await;
        }
    }

    /// The destinations that were decided for one crossing, in order.
    pub(super) async fn destinations(&self, answer: &Answer) -> Vec<String> {
        let records = self.closed_records(&answer.record().unwrap()).await;
        let decisions = records.iter().filter(|record| record["kind"] == "decision");
        decisions.map(|record| record["destination"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits until a refusal with this code is in the record of an anonymous caller's crossing.
    pub(super) async fn recorded(&self, answer: &Answer, code: &str) {
        let id = answer.record().unwrap();
        for _ in 0..500 {
            if self.records(&id).iter().any(|record| record["kind"] == "refusal" && record["code"] == code) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no refusal `{code}`: {:?}", self.records(&id));
    }

    /// The last outcome of one crossing.
    pub(super) async fn last_outcome(&self, id: &str) -> serde_json::Value {
        let records = self.closed_records(id).await;
        records.into_iter().rfind(|record| record["kind"] == "outcome").unwrap()
    }
}

pub(super) fn chat(more: &str) -> String {
    let body = r#"{"model":"tide-small","messages":[],"stream":true}"#;
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// What sends requests on an HTTP/2 connection, and the connection itself, which somebody must run.
pub(super) type Http2<B> = (
    hyper::client::conn::http2::SendRequest<B>,
    hyper::client::conn::http2::Connection<TokioIo<TokioIo<Stream>>, B, TokioExecutor>,
);

/// An HTTP/2 connection whose streams take `window` bytes until they are read.
pub(super) async fn http2<B>(border: &Border, window: u32) -> Http2<B>
where
    B: http_body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static,
{
    let tls = ClientTls::load(&border.dir.path().join("ca.pem"), None, Alpn::PreferHttp2).unwrap();
    let uri: http::Uri =
        format!("https://127.0.0.1:{}", border.running.data_address().port()).parse().unwrap();
    let origin = Origin::of(&uri).unwrap();
    let connector =
        Connector::secure(origin, &tls, Some("localhost"), Reach::default(), ConnectTimes::default());
    let stream = connector.unwrap().call(uri).await.unwrap();
    hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(TokioIo::new(stream)))
        .await
        .unwrap()
}
