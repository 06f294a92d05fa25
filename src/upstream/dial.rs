//! Connections that end when the upstream takes nothing any more.
//!
//! HTTP clients watch what they wait to read. What they cannot write they wait for without end, even when nobody wants the
//! answer any more: this wrapper bounds that, so that an upstream cannot collect our connections. HTTP/2 connections also end when the upstream sends
//! frames without end ([`net::Counted`]), so that none goes on in the pool after the request that began it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tower_service::Service;

use super::idle::Idle;
use crate::net;

/// Dials as `net` does; see there.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    connector: net::Connector,
    limit: Duration,
    http2: bool,
    floods: Arc<AtomicU64>,
}

impl Dialer {
    /// `limit` bounds how long a write may wait. `http2` says that HTTP/2 is spoken whether it was negotiated or not. `floods` counts the connections that
    /// were cut because of one.
    pub(super) const fn new(
        connector: net::Connector,
        limit: Duration,
        http2: bool,
        floods: Arc<AtomicU64>,
    ) -> Self {
        Self { connector, limit, http2, floods }
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
        let stream = self.connector.call(uri.clone());
        let (limit, http2, floods) = (self.limit, self.http2, Arc::clone(&self.floods));
        Box::pin(async move {
            let stream = stream.await?;
            let http2 = http2 || stream.connected().is_negotiated_h2();
            let counted = net::Counted::new(TokioIo::new(stream), http2.then_some(net::Side::Client), floods);
            Ok(Watched { endpoint: uri, stream: TokioIo::new(counted), idle: Idle::new(limit) })
        })
    }
}

/// The client library's view of a connection whose frames are counted.
type Stream = TokioIo<net::Counted<TokioIo<net::Stream>>>;

/// A connection whose writes may wait only so long.
#[derive(Debug)]
pub(super) struct Watched {
    endpoint: Uri,
    stream: Stream,
    idle: Idle,
}

impl Watched {
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
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
        self.stream.inner().io().inner().connected()
    }
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Err(error)) = &read
            && error.get_ref().is_some_and(|cause| cause.is::<net::Flood>())
        {
            tracing::warn!(endpoint = %self.endpoint, "a connection was cut: {error}");
        }
        read
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
