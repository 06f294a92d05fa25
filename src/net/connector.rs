//! One connection to one configured origin: resolve, check every address, dial one of those that were checked, speak TLS with pinned trust.
//!
//! A connector reaches its origin and nothing else, so neither a request nor an answer can choose where bytes go. There is no second look-up between the
//! check and the dialling, so a name cannot change its meaning in between.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::address::{AddressError, Host, Origin, OriginError, Reach};
use super::tls::{ClientTls, H2};

/// The most addresses of one name that are looked at.
const MAX_ADDRESSES: usize = 32;
/// The most addresses that are dialled, one after the other.
const MAX_DIALLED: usize = 4;

/// The times of one connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnectTimes {
    /// To resolve the name.
    pub resolve: Duration,
    /// To dial, all addresses together.
    pub dial: Duration,
    /// For the TLS handshake.
    pub handshake: Duration,
}

impl Default for ConnectTimes {
    /// 2 s, 2 s and 5 s.
    fn default() -> Self {
        Self {
            resolve: Duration::from_secs(2),
            dial: Duration::from_secs(2),
            handshake: Duration::from_secs(5),
        }
    }
}

/// Whether `http://` may be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plaintext {
    /// Only to `localhost` and loopback literals.
    LoopbackOnly,
    /// The operator accepted it for this origin.
    Accepted,
}

/// Where names come from.
#[derive(Debug, Clone, Default)]
pub enum Resolver {
    /// The operating system.
    #[default]
    System,
    /// This table and nothing else.
    Table(Arc<HashMap<String, Vec<IpAddr>>>),
}

impl Resolver {
    async fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<IpAddr>> {
        match self {
            Self::System => {
                let found = tokio::net::lookup_host((name, port)).await?;
                Ok(found.map(|address| address.ip()).take(MAX_ADDRESSES).collect())
            }
            Self::Table(table) => Ok(table.get(name).cloned().unwrap_or_default()),
        }
    }
}

/// Connects to one origin. Clones share everything.
#[derive(Clone)]
pub struct Connector(Arc<Target>);

struct Target {
    origin: Origin,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    reach: Reach,
    resolver: Resolver,
    times: ConnectTimes,
}

impl Connector {
    /// For an `https` origin. The certificate must carry `server_name`, or the origin's host if there is none; that name is also sent as SNI.
    ///
    /// # Errors
    /// The origin is `http`, or the name is no DNS name or address.
    pub fn secure(
        origin: Origin,
        tls: &ClientTls,
        server_name: Option<&str>,
        reach: Reach,
        times: ConnectTimes,
    ) -> Result<Self, ConnectError> {
        if !origin.secure {
            return Err(ConnectError::NotSecure(origin));
        }
        let name = match (server_name, &origin.host) {
            (Some(name), _) => ServerName::try_from(name.to_owned()),
            (None, Host::Name(name)) => ServerName::try_from(name.to_string()),
            (None, Host::Literal(ip)) => Ok(ServerName::from(*ip)),
        };
        let name = name.map_err(|_| ConnectError::ServerName(origin.clone()))?;
        let tls = Some((TlsConnector::from(tls.config()), name));
        Ok(Self(Arc::new(Target { origin, tls, reach, resolver: Resolver::System, times })))
    }

    /// For an `http` origin.
    ///
    /// # Errors
    /// The origin is `https`, or not on this machine while plaintext is not accepted.
    pub fn plain(
        origin: Origin,
        plaintext: Plaintext,
        reach: Reach,
        times: ConnectTimes,
    ) -> Result<Self, ConnectError> {
        if origin.secure {
            return Err(ConnectError::WantsTls(origin));
        }
        if plaintext == Plaintext::LoopbackOnly && !origin.host.is_loopback() {
            return Err(ConnectError::PlaintextRefused(origin));
        }
        Ok(Self(Arc::new(Target { origin, tls: None, reach, resolver: Resolver::System, times })))
    }

    /// The same with another source of names.
    #[must_use]
    pub fn with_resolver(self, resolver: Resolver) -> Self {
        let target = &self.0;
        Self(Arc::new(Target {
            origin: target.origin.clone(),
            tls: target.tls.clone(),
            reach: target.reach.clone(),
            resolver,
            times: target.times,
        }))
    }

    /// What it reaches.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connector").field(&self.0.origin).finish()
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let target = Arc::clone(&self.0);
        Box::pin(async move { target.connect(&uri).await })
    }
}

impl Target {
    async fn connect(&self, uri: &Uri) -> Result<Stream, ConnectError> {
        let asked = Origin::of(uri)?;
        if asked != self.origin {
            return Err(ConnectError::OtherOrigin { asked, own: self.origin.clone() });
        }
        let stream = self.dial(&self.addresses().await?).await?;
        stream.set_nodelay(true).map_err(|source| ConnectError::Dial { origin: asked.clone(), source })?;
        let Some((connector, name)) = &self.tls else { return Ok(Stream::Plain(TokioIo::new(stream))) };
        match timeout(self.times.handshake, connector.connect(name.clone(), stream)).await {
            Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(TokioIo::new(stream)))),
            Ok(Err(source)) => Err(ConnectError::Handshake { origin: asked, source }),
            Err(_) => Err(ConnectError::Timeout { origin: asked, step: "the tls handshake" }),
        }
    }

    /// All addresses of the origin. One that is not allowed spoils all: an answer that mixes inside and outside is not to be trusted.
    async fn addresses(&self) -> Result<Vec<IpAddr>, ConnectError> {
        let origin = &self.origin;
        let found = match &origin.host {
            Host::Literal(ip) => vec![*ip],
            Host::Name(name) => {
                match timeout(self.times.resolve, self.resolver.resolve(name, origin.port)).await {
                    Ok(found) => {
                        found.map_err(|source| ConnectError::Resolve { origin: origin.clone(), source })?
                    }
                    Err(_) => {
                        return Err(ConnectError::Timeout {
                            origin: origin.clone(),
                            step: "name resolution",
                        });
                    }
                }
            }
        };
        if found.is_empty() {
            return Err(ConnectError::NoAddress(origin.clone()));
        }
        let check = |ip| self.reach.check(&origin.host, ip);
        let checked: Result<Vec<_>, _> = found.into_iter().map(check).collect();
        checked.map_err(|source| ConnectError::Address { origin: origin.clone(), source })
    }

    /// Dials one after the other; each gets an equal share of the time that is left.
    async fn dial(&self, addresses: &[IpAddr]) -> Result<TcpStream, ConnectError> {
        let deadline = Instant::now() + self.times.dial;
        let mut last = None;
        let dialled = addresses.len().min(MAX_DIALLED);
        for (tried, ip) in addresses.iter().take(dialled).enumerate() {
            let left = u32::try_from(dialled - tried).unwrap_or(1);
            let until = Instant::now() + deadline.saturating_duration_since(Instant::now()) / left;
            match timeout_at(until, TcpStream::connect(SocketAddr::new(*ip, self.origin.port))).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(source)) => last = Some(source),
                Err(_) => {}
            }
        }
        let origin = self.origin.clone();
        Err(match last {
            Some(source) => ConnectError::Dial { origin, source },
            None => ConnectError::Timeout { origin, step: "dialling" },
        })
    }
}

/// A connection to an origin.
pub enum Stream {
    /// Without TLS.
    Plain(TokioIo<TcpStream>),
    /// With TLS.
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Stream::Plain",
            Self::Tls(_) => "Stream::Tls",
        })
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Tls(stream) if stream.inner().get_ref().1.alpn_protocol() == Some(H2) => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        }
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
        }
    }
}

/// A connector that cannot be made, or a connection that cannot.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TLS was wanted for an `http` origin.
    #[error("origin `{0}` is not https")]
    NotSecure(Origin),
    /// An `https` origin without TLS.
    #[error("origin `{0}` wants tls")]
    WantsTls(Origin),
    /// Plaintext to another machine.
    #[error("origin `{0}` is plaintext and not on this machine")]
    PlaintextRefused(Origin),
    /// The name that the certificate must carry is malformed.
    #[error("server name for `{0}` is malformed")]
    ServerName(Origin),
    /// A URL without an origin.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// A connector was asked for an origin that is not its own.
    #[error("connector of `{own}` was asked for `{asked}`")]
    OtherOrigin {
        /// What was asked for.
        asked: Origin,
        /// What it reaches.
        own: Origin,
    },
    /// The name cannot be resolved.
    #[error("name of `{origin}` cannot be resolved")]
    Resolve {
        /// The origin.
        origin: Origin,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The name has no address.
    #[error("name of `{0}` has no address")]
    NoAddress(Origin),
    /// An address of the name may not be dialled.
    #[error("origin `{origin}` may not be reached")]
    Address {
        /// The origin.
        origin: Origin,
        /// Why.
        #[source]
        source: AddressError,
    },
    /// No address took the connection.
    #[error("connection to `{origin}` failed")]
    Dial {
        /// The origin.
        origin: Origin,
        /// Why the last one did not.
        #[source]
        source: io::Error,
    },
    /// TLS failed: usually a certificate that is not trusted or carries another name.
    #[error("tls handshake with `{origin}` failed")]
    Handshake {
        /// The origin.
        origin: Origin,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A step took too long.
    #[error("{step} for `{origin}` took too long")]
    Timeout {
        /// The origin.
        origin: Origin,
        /// The step.
        step: &'static str,
    },
}
