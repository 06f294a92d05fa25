//! HTTP/1 on one connection.
//!
//! Between requests nothing is kept but the stream: the library's buffers are most of what a connection would weigh, and most connections
//! wait most of the time. So the library is given the stream when a request comes, and gives it back when the connection has rested for a while.

use std::convert::Infallible;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};

use super::guard::{Guard, GuardTimes};
use super::head::HeadLimits;
use super::refusal::Refusal;
use super::serve::{AnswerBody, BodyWith, Handler, RequestBody, Stopping};
use super::settings::Settings;
use super::trust::Trust;
use super::turns::{Lull, Turn};
use crate::message::Connection;

/// Room that the HTTP library needs besides one whole head.
const READ_AHEAD: usize = 16 * 1024;
/// The header fields that the HTTP library takes without being told; told so, it fills an array for each request.
const LIBRARY_FIELDS: usize = 100;

/// The body of an answer, which holds the turn until it has ended.
type TurnBody = BodyWith<AnswerBody, Turn>;

/// Serves a connection until it ends. Not an `async fn`, for the reason that `serve` gives.
pub(super) fn serve_http1<H, S>(
    io: S,
    connection: Arc<Connection>,
    handler: Arc<H>,
    settings: &Settings,
    (stopping, trust): (Stopping, Trust),
) -> impl Future<Output = hyper::Result<()>> + Send + use<H, S>
where
    H: Handler,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &settings.limits;
    let head = HeadLimits { bytes: limits.max_header_bytes.as_usize(), fields: limits.max_headers.into() };
    let idle = limits.idle_timeout.get();
    let guard = Guard::new(io, head, GuardTimes { head: limits.header_timeout.get(), write: idle });
    let mut http = http1::Builder::new();
    if head.fields != LIBRARY_FIELDS {
        http.max_headers(head.fields);
    }
    // Without a timer: the guard times heads and writes, and the wait between requests is timed here.
    http.max_buf_size(head.bytes + READ_AHEAD).half_close(false).keep_alive(true);
    let last = Arc::<AtomicBool>::default();
    let service = service(&guard, connection, handler, Arc::clone(&last));
    let mut ends = Ends { stopping, trust, last };
    async move {
        let (mut guard, mut service, mut rests_since) = (guard, service, Instant::now());
        loop {
            if ends.wait(&mut guard, rests_since + idle).await.is_break() {
                // An error of the farewell concerns nobody any more.
                drop(timeout(ends.stopping.drain, guard.shutdown()).await);
                return Ok(());
            }
            let lull = Lull::new(guard.turns(), idle);
            let served = Box::pin(http.serve_connection(TokioIo::new(guard), service));
            match ends.talk(served, lull).await {
                ControlFlow::Break(ended) => return ended,
                ControlFlow::Continue((parts, since)) => {
                    (guard, service, rests_since) = (parts.io.into_inner(), parts.service, since);
                    guard.give_back(&parts.read_buf);
                }
            }
        }
    }
}

/// What answers the requests of a connection, one at a time.
fn service<H: Handler, S>(
    guard: &Guard<S>,
    connection: Arc<Connection>,
    handler: Arc<H>,
    last: Arc<AtomicBool>,
) -> impl Service<Request<Incoming>, Response = Response<TurnBody>, Error = Infallible, Future: Send>
+ Unpin
+ Send
+ use<H, S> {
    let (turns, verdict) = (guard.turns(), guard.verdict());
    service_fn(move |request: Request<Incoming>| {
        let turn = turns.begin();
        let (connection, handler, verdict) =
            (Arc::clone(&connection), Arc::clone(&handler), Arc::clone(&verdict));
        let last = Arc::clone(&last);
        async move {
            let answer = match verdict.of_request(turn.ordinal) {
                Some(refusal) => closing(handler.reject(connection, refusal).await, refusal),
                None => {
                    let request = request.map(|body| RequestBody { body, verdict: Some(verdict) });
                    // Boxed, because the library keeps room for one call on each connection, also while it is idle.
                    let mut answer = Box::pin(handler.handle(connection, request)).await;
                    if last.load(Ordering::Relaxed) {
                        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    answer
                }
            };
            Ok(answer.map(|body| BodyWith { body, _kept: turn }))
        }
    })
}

/// The answer to a refused request: its status is the refusal's, and it is the last.
fn closing(mut answer: Response<AnswerBody>, refusal: Refusal) -> Response<AnswerBody> {
    *answer.status_mut() = refusal.status();
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// What ends a connection from our side.
struct Ends {
    stopping: Stopping,
    trust: Trust,
    /// Set when the next answer is to be the last.
    last: Arc<AtomicBool>,
}

type Served<S, V> = Pin<Box<http1::Connection<TokioIo<Guard<S>>, V>>>;
type Parts<S, V> = http1::Parts<TokioIo<Guard<S>>, V>;

impl Ends {
    /// Waits for the next request, at most until `idle`, unless it has begun by then. Breaks if the connection is to be closed.
    async fn wait<S: AsyncRead + Unpin>(&mut self, guard: &mut Guard<S>, idle: Instant) -> ControlFlow<()> {
        loop {
            let mid_head = guard.mid_head();
            tokio::select! {
                // A request that is here is answered, also if it is the last.
                biased;
                arrived = poll_fn(|cx| guard.poll_arrival(cx)) => {
                    return if arrived.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
                }
                () = sleep_until(idle), if !mid_head => {}
                () = self.stopping.begun() => return ControlFlow::Break(()),
                trusted = self.trust.outdated() => {
                    self.last.store(true, Ordering::Relaxed);
                    if !trusted {
                        return ControlFlow::Break(());
                    }
                    continue;
                }
            }
            if !guard.mid_head() {
                return ControlFlow::Break(());
            }
        }
    }

    /// Lets the library serve requests until the connection ends or rests.
    async fn talk<S, V>(
        &mut self,
        mut served: Served<S, V>,
        mut lull: Lull,
    ) -> ControlFlow<hyper::Result<()>, (Parts<S, V>, Instant)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        V: Service<Request<Incoming>, Response = Response<TurnBody>, Error = Infallible> + Unpin,
    {
        loop {
            tokio::select! {
                biased;
                ended = served.as_mut() => return ControlFlow::Break(ended),
                () = self.stopping.begun() => break,
                trusted = self.trust.outdated() => {
                    // To close an idle connection would race with a request that is on its way, so whoever would be let in again gets
                    // one more answer.
                    self.last.store(true, Ordering::Relaxed);
                    if !trusted {
                        served.as_mut().graceful_shutdown();
                    }
                }
                since = lull.begun() => {
                    return ControlFlow::Continue(((*Pin::into_inner(served)).into_parts(), since));
                }
            }
        }
        served.as_mut().graceful_shutdown();
        ControlFlow::Break(timeout(self.stopping.drain, served).await.unwrap_or(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, ready};
    use std::time::Duration;

    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::{BodyExt as _, Full};
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
    use tokio::sync::watch;
    use tokio::time::{Sleep, sleep};

    use super::*;
    use crate::listen::refusal::RefusedConnection;
    use crate::listen::serve::BoxError;
    use crate::message::Protocol;

    const IDLE: Duration = Duration::from_secs(30);
    /// Longer than it takes to be sure of a lull.
    const SLOW: Duration = Duration::from_millis(170);

    /// Answers with the path; `/slow` after a while, `/slow-body` with a body that takes one.
    struct Paths;

    impl Handler for Paths {
        async fn handle(&self, _: Arc<Connection>, request: Request<RequestBody>) -> Response<AnswerBody> {
            let path = request.uri().path().to_owned();
            drop(request.into_body().collect().await);
            if path == "/slow" {
                sleep(SLOW).await;
            }
            let late = path == "/slow-body";
            let wait = Box::pin(sleep(if late { SLOW } else { Duration::ZERO }));
            Response::new(Late { wait, data: Some(path.into()) }.boxed_unsync())
        }

        async fn reject(&self, _: Arc<Connection>, _: Refusal) -> Response<AnswerBody> {
            Response::new(Full::default().map_err(|never| match never {}).boxed_unsync())
        }

        fn refused(&self, _: std::net::SocketAddr, _: &RefusedConnection) {}
    }

    /// A body of unknown length that comes after a while.
    struct Late {
        wait: Pin<Box<Sleep>>,
        data: Option<Bytes>,
    }

    impl http_body::Body for Late {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            ready!(self.wait.as_mut().poll(cx));
            Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
        }
    }

    fn connection() -> Arc<Connection> {
        let address = "127.0.0.1:1".parse().unwrap();
        let (server_name, tls, client) = (None, None, None);
        Arc::new(Connection {
            peer: address,
            local: address,
            server_name,
            protocol: Protocol::Http1,
            tls,
            client,
        })
    }

    fn guarded(io: DuplexStream) -> Guard<DuplexStream> {
        let times = GuardTimes { head: IDLE, write: IDLE };
        Guard::new(io, HeadLimits { bytes: 4096, fields: 100 }, times)
    }

    fn ends() -> (watch::Sender<bool>, Ends) {
        let (stop, signal) = watch::channel(false);
        (stop, Ends { stopping: Stopping::new(signal, SLOW), trust: Trust::none(), last: Arc::default() })
    }

    async fn read_until(peer: &mut DuplexStream, end: &[u8]) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end) {
            assert_ne!(peer.read_buf(&mut text).await.unwrap(), 0, "{}", String::from_utf8_lossy(&text));
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn the_stream_comes_back_at_rest_and_not_while_anything_is_under_way() {
        let (mut peer, io) = duplex(4096);
        let (_stop, mut ends) = ends();
        let mut guard = guarded(io);
        let mut service = service(&guard, connection(), Arc::new(Paths), Arc::default());
        for (request, answers, last, takes) in [
            ("GET /one HTTP/1.1\r\nHost: a\r\n\r\n", 1, "/one", Duration::ZERO),
            ("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n", 1, "/slow", SLOW),
            ("GET /slow-body HTTP/1.1\r\nHost: a\r\n\r\n", 1, "/slow-body", SLOW),
            ("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /slow HTTP/1.1\r\nHost: a\r\n\r\n", 2, "/slow", SLOW),
            ("PUT /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\n", 1, "/2", Duration::ZERO),
        ] {
            peer.write_all(request.as_bytes()).await.unwrap();
            poll_fn(|cx| guard.poll_arrival(cx)).await.unwrap();
            let (began, turns) = (Instant::now(), guard.turns());
            let served = Box::pin(http1::Builder::new().serve_connection(TokioIo::new(guard), service));
            let talked = ends.talk(served, Lull::new(turns, IDLE)).await;
            let ControlFlow::Continue((parts, since)) = talked else {
                panic!("{request:?} ended the connection")
            };
            assert!(began.elapsed() >= takes && since >= began + takes / 2, "{request:?}");
            (guard, service) = (parts.io.into_inner(), parts.service);
            guard.give_back(&parts.read_buf);
            let text = read_until(&mut peer, format!("{last}\r\n0\r\n\r\n").as_bytes()).await;
            assert_eq!(text.matches("HTTP/1.1 200").count(), answers, "{text}");
        }
    }

    #[tokio::test]
    async fn what_waits_ends_in_its_time_and_a_request_that_has_begun_is_heard() {
        // Nothing comes.
        let (_peer, io) = duplex(4096);
        let (_stop, mut waiting) = ends();
        let mut guard = guarded(io);
        guard.give_back(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(waiting.wait(&mut guard, Instant::now() + IDLE).await.is_continue());
        let (_peer, io) = duplex(4096);
        assert!(waiting.wait(&mut guarded(io), Instant::now() + SLOW / 4).await.is_break());
        // A head begins a moment before the time is over, and goes on.
        let (mut peer, io) = duplex(4096);
        let mut guard = guarded(io);
        let began = Instant::now();
        let slowly = async {
            peer.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            sleep(SLOW).await;
            peer.write_all(b"Host: a\r\n\r\n").await.unwrap();
        };
        let heard = async { waiting.wait(&mut guard, began + SLOW / 2).await };
        assert!(tokio::join!(heard, slowly).0.is_continue());
        // The listener stops.
        let (stop, mut stopped) = ends();
        stop.send_replace(true);
        let (_peer, io) = duplex(4096);
        let mut guard = guarded(io);
        assert!(stopped.wait(&mut guard, Instant::now() + IDLE).await.is_break());
        guard.give_back(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(stopped.wait(&mut guard, Instant::now() + IDLE).await.is_continue());
    }
}
