//! Connections that end when the upstream takes nothing any more.
//!
//! HTTP clients watch what they wait to read. What they cannot write they wait for without end, even when nobody wants the
//! answer any more: this wrapper bounds that, so that an upstream cannot collect our connections.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use tower_service::Service;

use super::idle::Idle;
use crate::net;

/// Dials as `net` does; see there.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    connector: net::Connector,
    limit: Duration,
}

impl Dialer {
    /// `limit` bounds how long a write may wait.
    pub(super) const fn new(connector: net::Connector, limit: Duration) -> Self {
        Self { connector, limit }
    }
}

impl Service<Uri> for Dialer {
    type Response = Watched;
    type Error = net::ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Watched, net::ConnectError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), net::ConnectError>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let stream = self.connector.call(uri);
        let limit = self.limit;
        Box::pin(async move { Ok(Watched { stream: stream.await?, idle: Idle::new(limit) }) })
    }
}

/// A connection whose writes may wait only so long.
#[derive(Debug)]
pub(super) struct Watched {
    stream: net::Stream,
    idle: Idle,
}

impl Watched {
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut net::Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let written = write(Pin::new(&mut self.stream), cx);
        if written.is_ready() {
            self.idle.progress();
        } else if self.idle.poll_expired(cx) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")));
        }
        written
    }
}

impl Connection for Watched {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.watch(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch(cx, |stream, cx| stream.poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watch(cx, |stream, cx| stream.poll_write_vectored(cx, parts))
    }
}
