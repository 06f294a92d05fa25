//! The accept loop: places for connections, the TLS handshake, the facts of a connection, and the listener's end.
//!
//! A peer that finds no place is closed at once rather than left waiting, so that it can go elsewhere. What happens on a connection is `serve.rs`.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConnection;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::proxy;
use super::refusal::RefusedConnection;
use super::serve::{Handler, Serving, Stopping, serve};
use super::settings::{Settings, is_loopback};
use super::trust::Trust;
use crate::message::{ClientCertificate, Connection, Protocol, Standing, TlsFacts};
use crate::model::{Clock as _, SystemClock};
use crate::net::{CertificateFacts, H2, ServerTls, TlsError};

/// Connections that the kernel completes before we accept them.
const BACKLOG: u32 = 1024;
/// The first and the longest pause after an accept that failed for want of resources.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// A bound socket with its configuration.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    local: SocketAddr,
    tls: Option<ServerTls>,
    settings: Arc<Settings>,
}

impl Listener {
    /// Reads the TLS files and binds.
    ///
    /// # Errors
    /// The address cannot be bound, TLS cannot be set up, or is missing on an address that others can reach.
    pub fn bind(settings: Settings) -> Result<Self, ListenError> {
        let address = settings.address;
        let tls = match &settings.tls {
            Some(tls) => Some(ServerTls::load(&tls.files(), SystemClock.now())?),
            None if is_loopback(address.ip()) => None,
            None => return Err(ListenError::Plaintext(address)),
        };
        let bound = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // A restart must not wait for the last connections of the one before.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let socket = socket.listen(BACKLOG)?;
            Ok((socket.local_addr()?, socket))
        };
        let (local, socket) = bound().map_err(|source| ListenError::Bind { address, source })?;
        Ok(Self { socket, local, tls, settings: Arc::new(settings) })
    }

    /// The address that was bound, with the port that was taken.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The TLS configuration, to be replaced while it serves.
    #[must_use]
    pub const fn tls(&self) -> Option<&ServerTls> {
        self.tls.as_ref()
    }

    /// Serves until `stop` ends and then until all connections are gone, at most the drain time of the settings.
    pub async fn run<H: Handler>(self, handler: Arc<H>, stop: impl Future<Output = ()>) {
        let limits = self.settings.limits;
        let places = Arc::new(Places::new(limits.max_connections, limits.max_connections_per_ip));
        let (stopping, signal) = watch::channel(false);
        let view = Stopping::new(signal, self.settings.drain.get());
        let shared = Shared { settings: Arc::clone(&self.settings), tls: self.tls.clone(), handler };
        tokio::select! {
            () = stop => {}
            () = accept_all(&self.socket, &shared, &places, &view) => {}
        }
        drop(self.socket);
        stopping.send_replace(true);
        places.all_left().await;
    }
}

/// What every connection of a listener shares.
struct Shared<H> {
    settings: Arc<Settings>,
    tls: Option<ServerTls>,
    handler: Arc<H>,
}

impl<H> Clone for Shared<H> {
    fn clone(&self) -> Self {
        Self {
            settings: Arc::clone(&self.settings),
            tls: self.tls.clone(),
            handler: Arc::clone(&self.handler),
        }
    }
}

async fn accept_all<H: Handler>(
    socket: &TcpListener,
    shared: &Shared<H>,
    places: &Arc<Places>,
    stopping: &Stopping,
) {
    let mut pause = PAUSE.0;
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                pause = PAUSE.0;
                // A dual-stack socket gives IPv4 peers in their mapped form; policies and limits speak of the plain one.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                match places.take() {
                    Ok(place) => {
                        let (shared, stopping) = (shared.clone(), stopping.clone());
                        tokio::spawn(async move { shared.accepted(stream, peer, place, stopping).await });
                    }
                    Err(reason) => shared.handler.refused(peer, &reason),
                }
            }
            Err(error) if is_peers_fault(&error) => {}
            Err(error) => {
                tracing::warn!(%error, ?pause, "accept failed");
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// Errors that concern one connection and say nothing of the next (accept(2)).
fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

impl<H: Handler> Shared<H> {
    /// Finds out whose connection this is, gives it a place among those of that address, and serves it.
    async fn accepted(&self, mut stream: TcpStream, peer: SocketAddr, place: Place, mut stopping: Stopping) {
        let limit = self.settings.limits.handshake_timeout.get();
        let client = if self.settings.is_balancer(peer.ip()) {
            // Boxed for the same reason as the handshake below.
            let client = Box::pin(proxy::client(&mut stream, limit));
            tokio::select! {
                client = client => client.map(|client| client.unwrap_or(peer)),
                () = stopping.begun() => return,
            }
        } else {
            Ok(peer)
        };
        match client.map_err(RefusedConnection::ProxyHeader) {
            Ok(client) => match place.of(client.ip()) {
                Ok(place) => {
                    // Boxed, because its state is large and over when the connection's long life begins.
                    if let Some(serving) = Box::pin(self.connection(stream, client, stopping)).await {
                        serving.await;
                    }
                    drop(place);
                }
                Err(reason) => self.handler.refused(client, &reason),
            },
            Err(reason) => self.handler.refused(peer, &reason),
        }
    }

    /// Shakes hands, if that is to be done; none if there is nothing to be served.
    async fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        mut stopping: Stopping,
    ) -> Option<Serving> {
        let local = stream.local_addr().ok()?;
        stream.set_nodelay(true).ok()?;
        let handler = Arc::clone(&self.handler);
        let Some(tls) = &self.tls else {
            let connection = Connection {
                peer,
                local,
                server_name: None,
                protocol: Protocol::Http1,
                tls: None,
                client: None,
            };
            let ends = (stopping, Trust::none());
            return Some(serve(stream, Arc::new(connection), handler, &self.settings, ends));
        };
        let serving = tls.current();
        let limit = self.settings.limits.handshake_timeout.get();
        let shaken = tokio::select! {
            shaken = timeout(limit, TlsAcceptor::from(Arc::clone(&serving.config)).accept(stream)) => shaken,
            () = stopping.begun() => return None,
        };
        let connection = match shaken {
            Ok(Ok(stream)) => facts(&stream, peer, local).map(|facts| (stream, facts)),
            Ok(Err(error)) => Err(RefusedConnection::Handshake(error)),
            Err(_) => Err(RefusedConnection::HandshakeTimeout),
        };
        match connection {
            Ok((stream, connection)) => {
                let standing = connection.client.as_ref().map(|client| client.standing.clone());
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
                let ends = (stopping, Trust::new(tls, serving.generation, chain, standing));
                Some(serve(stream, Arc::new(connection), handler, &self.settings, ends))
            }
            Err(reason) => {
                handler.refused(peer, &reason);
                None
            }
        }
    }
}

/// What the handshake settled.
fn facts(
    stream: &TlsStream<TcpStream>,
    peer: SocketAddr,
    local: SocketAddr,
) -> Result<Connection, RefusedConnection> {
    let session = stream.get_ref().1;
    let client = match session.peer_certificates().and_then(|chain| chain.first()) {
        None => None,
        Some(leaf) => {
            let facts = CertificateFacts::parse(leaf).map_err(RefusedConnection::ClientCertificate)?;
            Some(Arc::new(ClientCertificate {
                sha256: facts.sha256,
                uri_sans: facts.uri_sans,
                not_before: facts.not_before,
                not_after: facts.not_after,
                is_ca: facts.is_ca,
                standing: Standing::default(),
            }))
        }
    };
    Ok(Connection {
        peer,
        local,
        server_name: session.server_name().map(|name| name.to_ascii_lowercase().into()),
        protocol: if session.alpn_protocol() == Some(H2) { Protocol::Http2 } else { Protocol::Http1 },
        tls: Some(tls_facts(session)),
        client,
    })
}

fn tls_facts(session: &ServerConnection) -> TlsFacts {
    let version = session.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default();
    let suite = session.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
    let group = session.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
    TlsFacts {
        version: version.into(),
        // rustls writes the suites of TLS 1.3 with the version in their name, the registry does not.
        suite: suite.unwrap_or_default().replacen("TLS13_", "TLS_", 1).into(),
        group: group.unwrap_or_default().into(),
    }
}

/// The places for connections: so many in all, so many for one address.
#[derive(Debug)]
struct Places {
    all: Arc<Semaphore>,
    total: u32,
    per_address: u32,
    /// At most `total` entries, for each has a place.
    by_address: Mutex<HashMap<IpAddr, u32>>,
}

impl Places {
    fn new(total: u32, per_address: u32) -> Self {
        let count = usize::try_from(total).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { all: Arc::new(Semaphore::new(count)), total, per_address, by_address: Mutex::default() }
    }

    fn take(self: &Arc<Self>) -> Result<Place, RefusedConnection> {
        let permit = Arc::clone(&self.all).try_acquire_owned().map_err(|_| RefusedConnection::TooMany)?;
        Ok(Place { places: Arc::clone(self), address: None, _permit: permit })
    }

    async fn all_left(&self) {
        drop(self.all.acquire_many(self.total).await);
    }
}

/// One IPv4 address, or the /64 that one IPv6 subscriber usually has for itself.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

/// A taken place; given back when dropped, also by a panic.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    address: Option<IpAddr>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Counts it among the places of an address, which is known once a load balancer has named it.
    fn of(mut self, peer: IpAddr) -> Result<Self, RefusedConnection> {
        let Places { by_address, per_address, .. } = &*self.places;
        if *per_address > 0 {
            let peer = network_of(peer);
            let mut counts = by_address.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(peer).or_default();
            if *count >= *per_address {
                return Err(RefusedConnection::TooManyFromAddress);
            }
            *count += 1;
            drop(counts);
            self.address = Some(peer);
        }
        Ok(self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut counts = self.places.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&address);
            }
        }
    }
}

/// A listener that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// No TLS on an address that others can reach.
    #[error("listening on `{0}` without tls is refused: it is no loopback address")]
    Plaintext(SocketAddr),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be bound.
    #[error("address `{address}` cannot be bound")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let places = Arc::new(Places::new(3, 2));
        let [one, two, three] = ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let take = |ip| places.take().and_then(|place| place.of(ip));
        let first = take(one).unwrap();
        let _second = take(two).unwrap();
        assert!(matches!(take(one), Err(RefusedConnection::TooManyFromAddress)));
        let third = take(three).unwrap();
        assert!(matches!(take(three), Err(RefusedConnection::TooMany)));
        drop((first, third));
        assert!(take(one).is_ok());
        assert_eq!(places.by_address.lock().unwrap().len(), 1);
    }

    #[test]
    fn an_ipv6_subscriber_counts_once() {
        let [one, two] =
            ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9"].map(|ip| network_of(ip.parse().unwrap()));
        assert_eq!(one, two);
    }
}
