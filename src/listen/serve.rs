//! HTTP on one accepted connection, from its first byte to its last: version by ALPN, every bound set explicitly, and an orderly end.
//!
//! HTTP/1 is `http1.rs`. HTTP/2 framing is the library's, with every bound against floods set by hand because its defaults have
//! changed over time; the frames that it does not count are [`Counted`]. There is no upgrade and no guessing of versions.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use super::guard::Verdict;
use super::http1::serve_http1;
use super::refusal::{Refusal, RefusedConnection};
use super::settings::Settings;
use super::stall::{Streams, Watched};
use super::trust::Trust;
use crate::message::{Connection, Protocol};
use crate::net::{Counted, Side};

/// What a body or a handler may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of an answer.
pub type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// How long a closing HTTP/2 connection without requests may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);
/// The largest frame that a client may send; the smallest that RFC 9113 allows.
const MAX_FRAME: u32 = 16 * 1024;

/// Whoever answers the requests of a listener.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn handle(
        &self,
        connection: Arc<Connection>,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Response<AnswerBody>> + Send;

    /// Answers an HTTP/1 request of which nothing but the refusal is known. The connection closes after it; the status is set by the caller.
    fn reject(
        &self,
        connection: Arc<Connection>,
        refusal: Refusal,
    ) -> impl Future<Output = Response<AnswerBody>> + Send;

    /// Notes a connection that ended without an answer. Must not block.
    fn refused(&self, peer: std::net::SocketAddr, reason: &RefusedConnection);
}

/// A connection's view of the listener's end.
#[derive(Debug, Clone)]
pub(super) struct Stopping {
    signal: watch::Receiver<bool>,
    pub(super) drain: Duration,
}

impl Stopping {
    pub(super) const fn new(signal: watch::Receiver<bool>, drain: Duration) -> Self {
        Self { signal, drain }
    }

    /// Waits for the signal; a listener that is gone has stopped too.
    pub(super) async fn begun(&mut self) {
        drop(self.signal.wait_for(|stopping| *stopping).await);
    }
}

/// Serves a connection until it ends.
pub(super) type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What serves a connection. Neither this nor what it calls is an `async fn`: the state of one keeps room for what it has handed on, and a
/// connection is large and lives long.
pub(super) fn serve<H, S>(
    io: S,
    connection: Arc<Connection>,
    handler: Arc<H>,
    settings: &Settings,
    ends: (Stopping, Trust),
) -> Serving
where
    H: Handler,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (peer, protocol) = (connection.peer, connection.protocol);
    let floods = Arc::<AtomicU64>::default();
    let served: Served = match protocol {
        Protocol::Http1 => Box::pin(serve_http1(io, connection, Arc::clone(&handler), settings, ends)),
        Protocol::Http2 => {
            let io = Counted::new(io, Some(Side::Server), Arc::clone(&floods));
            Box::pin(serve_http2(io, connection, Arc::clone(&handler), settings, ends))
        }
    };
    Box::pin(async move {
        let ended = served.await;
        if floods.load(Ordering::Relaxed) > 0 {
            return handler.refused(peer, &RefusedConnection::Flood);
        }
        if let Err(error) = ended
            && is_violation(protocol, &error)
        {
            handler.refused(peer, &RefusedConnection::Protocol(error));
        }
    })
}

type Served = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

fn serve_http2<H, S>(
    io: S,
    connection: Arc<Connection>,
    handler: Arc<H>,
    settings: &Settings,
    (mut stopping, mut trust): (Stopping, Trust),
) -> impl Future<Output = hyper::Result<()>> + Send + use<H, S>
where
    H: Handler,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (in_flight, watched) = watch::channel(0_usize);
    let in_flight = Arc::new(in_flight);
    let service = service_fn(move |request: Request<Incoming>| {
        let (connection, handler) = (Arc::clone(&connection), Arc::clone(&handler));
        let busy = Busy::new(Arc::clone(&in_flight));
        async move {
            let request = request.map(|body| RequestBody { body, verdict: None });
            // Boxed, because the library moves it into a task of its own.
            let answer = Box::pin(handler.handle(connection, request)).await;
            Ok::<_, std::convert::Infallible>(
                answer.map(|body| BodyWith { body: Watched::new(body), _kept: busy }),
            )
        }
    });
    let mut served = Box::pin(http2_builder(settings).serve_connection(TokioIo::new(io), service));
    let idle = idle(watched, settings.limits.idle_timeout.get());
    async move {
        let mut idle = pin!(idle);
        let limit = loop {
            tokio::select! {
                ended = served.as_mut() => return ended,
                () = idle.as_mut() => break GOODBYE,
                () = stopping.begun() => break stopping.drain,
                // GOAWAY (RFC 9113 section 6.8): the client opens no stream any more, those that are open go on.
                _ = trust.outdated() => served.as_mut().graceful_shutdown(),
            }
        };
        served.as_mut().graceful_shutdown();
        timeout(limit, served).await.unwrap_or(Ok(()))
    }
}

fn http2_builder(settings: &Settings) -> http2::Builder<Streams> {
    let bounds = &settings.http2;
    let u32_of = |size: crate::model::ByteSize| u32::try_from(size.get()).unwrap_or(u32::MAX >> 1);
    let mut builder = http2::Builder::new(Streams { limit: settings.limits.idle_timeout.get() });
    builder
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(u32_of(bounds.initial_stream_window))
        .initial_connection_window_size(u32_of(bounds.initial_connection_window))
        .max_frame_size(MAX_FRAME)
        .max_concurrent_streams(bounds.max_concurrent_streams)
        .max_header_list_size(u32_of(bounds.max_header_list_size))
        .max_pending_accept_reset_streams(usize::from(bounds.max_pending_accept_reset_streams))
        .max_local_error_reset_streams(usize::from(bounds.max_local_error_reset_streams))
        .max_send_buf_size(bounds.max_send_buffer.as_usize())
        .keep_alive_interval(bounds.keepalive_interval.get())
        .keep_alive_timeout(bounds.keepalive_timeout.get());
    builder
}

/// Waits until no request was in flight for `limit`.
async fn idle(mut in_flight: watch::Receiver<usize>, limit: Duration) {
    loop {
        if in_flight.wait_for(|count| *count == 0).await.is_err() {
            return std::future::pending().await;
        }
        if timeout(limit, in_flight.changed()).await.is_err() {
            return;
        }
    }
}

/// Whether the peer broke the protocol, rather than went away or was slow.
fn is_violation(protocol: Protocol, error: &hyper::Error) -> bool {
    match protocol {
        Protocol::Http1 => error.is_parse(),
        // What is left of the library's errors when those of the socket, of time and of our own making are taken away.
        Protocol::Http2 => {
            let source = std::error::Error::source(error);
            let ours = error.is_timeout() || error.is_user() || error.is_canceled() || error.is_closed();
            !ours && source.is_some_and(|source| !source.is::<std::io::Error>())
        }
    }
}

/// The body of a request. Broken chunk framing ends it with the [`Refusal`] as its error.
#[derive(Debug)]
pub struct RequestBody {
    pub(super) body: Incoming,
    pub(super) verdict: Option<Arc<Verdict>>,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| {
                let refusal = self.verdict.as_ref().and_then(|verdict| verdict.of_body());
                refusal.map_or_else(|| error.into(), Into::into)
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Counts a request as in flight while it lives.
#[derive(Debug)]
struct Busy(Arc<watch::Sender<usize>>);

impl Busy {
    fn new(count: Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

pin_project_lite::pin_project! {
    /// The body of an answer, and what lives as long as it.
    pub(super) struct BodyWith<B, K> {
        #[pin]
        pub(super) body: B,
        pub(super) _kept: K,
    }
}

impl<B: HttpBody, K> HttpBody for BodyWith<B, K> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
