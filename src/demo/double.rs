//! What the demo's test doubles share: a small HTTP/1.1 server on loopback that remembers what reached it.
//!
//! Test code in the product's clothes: no TLS (the gateway allows `http://` to loopback only), no limits beyond one body bound.
//! The log is what lets the tour prove that a refused request never arrived.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// The largest request body that a double reads, in bytes.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// How many requests a log keeps; older ones are forgotten.
const MAX_SEEN: usize = 1024;

/// One request that reached a double.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The method.
    pub(crate) method: String,
    /// The path with its query, as it came over the wire.
    pub(crate) path: String,
    /// The length of the body in bytes.
    pub(crate) bytes: usize,
}

/// The requests that reached a double and that nobody has taken yet, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<VecDeque<Seen>>>);

impl Log {
    fn push(&self, seen: Seen) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.push_back(seen);
        if log.len() > MAX_SEEN {
            log.pop_front();
        }
    }

    /// Empties the log.
    pub(crate) fn take(&self) -> Vec<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

/// How a double answers. Called on a blocking thread: file access is fine.
pub(crate) trait Answer: Send + Sync + 'static {
    /// The answer to a request whose body was read whole.
    fn answer(&self, request: &Request<Bytes>) -> Response<Pieces>;
}

/// A running double; dropped, it stops.
#[derive(Debug)]
pub(crate) struct Double {
    address: SocketAddr,
    log: Log,
    server: JoinHandle<()>,
}

impl Double {
    /// Serves on loopback, on `port` if that is free, else on any free one.
    ///
    /// # Errors
    /// No port of the loopback address can be had.
    pub(crate) async fn start(port: u16, answer: impl Answer) -> io::Result<Self> {
        let listener = listen(port).await?;
        let address = listener.local_addr()?;
        let log = Log::default();
        let server = tokio::spawn(accept(listener, Arc::new(answer), log.clone()));
        Ok(Self { address, log, server })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What reached it.
    pub(crate) const fn log(&self) -> &Log {
        &self.log
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A listener on loopback: on `port` if that is free, else on any free one.
pub(crate) async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
        }
        other => other,
    }
}

/// Connections live in a set, so that they end with the accept loop.
async fn accept<A: Answer>(listener: TcpListener, answer: Arc<A>, log: Log) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&answer), log.clone()));
                }
                // Out of descriptors, for example: the next accept would fail at once, so give others time to close.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve<A: Answer>(stream: TcpStream, answer: Arc<A>, log: Log) {
    let service = service_fn(move |request| {
        let (answer, log) = (Arc::clone(&answer), log.clone());
        async move { Ok::<_, io::Error>(respond(request, answer, log).await) }
    });
    // A client that hangs up is its own affair.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn respond<A: Answer>(request: Request<Incoming>, answer: Arc<A>, log: Log) -> Response<Pieces> {
    let (parts, body) = request.into_parts();
    let method = parts.method.to_string();
    let path = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let body = Limited::new(body, MAX_BODY).collect().await.map(http_body_util::Collected::to_bytes);
    // A broken body has reached us too: the log must never show fewer requests than came.
    log.push(Seen { method, path, bytes: body.as_ref().map_or(0, Bytes::len) });
    let Ok(body) = body else {
        return text(StatusCode::BAD_REQUEST, "text/plain", "the body is broken or over 16 MiB");
    };
    let request = Request::from_parts(parts, body);
    tokio::task::spawn_blocking(move || answer.answer(&request))
        .await
        .unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "the test double failed"))
}

/// An answer of one piece.
pub(crate) fn text(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response<Pieces> {
    let mut response = Response::new(Pieces::one(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(media_type));
    response
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Pieces> {
    text(status, "application/json", body.to_string())
}

/// A body in pieces, with a pause before each but the first, as a model that thinks.
#[derive(Debug)]
pub(crate) struct Pieces {
    left: VecDeque<Bytes>,
    pause: Duration,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Pieces {
    /// All at once.
    pub(crate) fn one(bytes: Bytes) -> Self {
        let left = if bytes.is_empty() { VecDeque::new() } else { VecDeque::from([bytes]) };
        Self { left, pause: Duration::ZERO, sleep: None }
    }

    /// One after the other.
    pub(crate) const fn paced(left: VecDeque<Bytes>, pause: Duration) -> Self {
        Self { left, pause, sleep: None }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(sleep) = self.sleep.as_mut() {
            ready!(sleep.as_mut().poll(context));
            self.sleep = None;
        }
        let Some(piece) = self.left.pop_front() else { return Poll::Ready(None) };
        if !self.pause.is_zero() && !self.left.is_empty() {
            self.sleep = Some(Box::pin(tokio::time::sleep(self.pause)));
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        let length = self.left.iter().map(Bytes::len).fold(0u64, |sum, n| sum.saturating_add(n as u64));
        // A stream has no length in advance, or it would not look like one to the client.
        if self.pause.is_zero() {
            http_body::SizeHint::with_exact(length)
        } else {
            http_body::SizeHint::default()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use http_body_util::Full;

    use super::*;

    /// Sends one request over a new plain connection and reads the whole answer.
    pub(crate) async fn ask(address: SocketAddr, mut request: Request<Full<Bytes>>) -> Response<Bytes> {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        request.headers_mut().entry(header::HOST).or_insert_with(|| address.to_string().parse().unwrap());
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        let answer = Response::from_parts(parts, body.collect().await.unwrap().to_bytes());
        connection.abort();
        answer
    }

    struct Echo;

    impl Answer for Echo {
        fn answer(&self, request: &Request<Bytes>) -> Response<Pieces> {
            text(StatusCode::OK, "text/plain", request.body().clone())
        }
    }

    #[tokio::test]
    async fn a_taken_port_gives_way_to_a_free_one_and_every_request_is_logged() {
        let first = Double::start(0, Echo).await.unwrap();
        let second = Double::start(first.address().port(), Echo).await.unwrap();
        assert_ne!(first.address(), second.address());
        let request = Request::post("/a/../b?x=%2e").body(Full::from("hello")).unwrap();
        assert_eq!(ask(second.address(), request).await.body(), "hello");
        assert_eq!(first.log().take(), []);
        let seen = Seen { method: "POST".into(), path: "/a/../b?x=%2e".into(), bytes: 5 };
        assert_eq!(second.log().take(), [seen]);
        assert_eq!(second.log().take(), []);
    }
}
