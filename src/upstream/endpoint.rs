//! One endpoint: who it is, what it is told to be trusted with, and how many requests it has in flight.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use http::HeaderValue;
use serde::{Serialize, Serializer};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::address::Address;
use super::health::{EndpointState, Entry, Health, Trial};
use super::pool::Client;
use super::settings::{HealthCheck, Timeouts};
use super::sigv4::Signer;
use crate::model::UpstreamRef;

/// Names an endpoint within its upstream. Shown as its address, `https://gpu.example.com:8443`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointId {
    upstream: UpstreamRef,
    address: Arc<str>,
}

impl EndpointId {
    pub(super) fn new(upstream: UpstreamRef, address: &Address) -> Self {
        Self { upstream, address: address.to_string().into() }
    }

    /// The upstream that it belongs to.
    #[must_use]
    pub const fn upstream(&self) -> &UpstreamRef {
        &self.upstream
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl Serialize for EndpointId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.address)
    }
}

/// How the gateway proves itself to an endpoint; added last, never logged.
pub(super) enum Credential {
    None,
    /// The whole value of `Authorization`, marked sensitive.
    Bearer(HeaderValue),
    SigV4(Signer),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Bearer(_) => "Bearer",
            Self::SigV4(_) => "SigV4",
        })
    }
}

/// What all requests to one endpoint share.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: EndpointId,
    pub(super) address: Address,
    pub(super) client: Client,
    pub(super) credential: Arc<Credential>,
    pub(super) timeouts: Timeouts,
    pub(super) max_in_flight: u32,
    pub(super) in_flight: AtomicU32,
    /// Tells the upstream's queue that a place in flight was given back.
    pub(super) freed: Arc<Notify>,
    pub(super) health: Arc<Health>,
    /// How it is checked, if it is.
    pub(super) check: Option<Arc<HealthCheck>>,
    /// Connections that were cut because it sent HTTP/2 frames without end.
    pub(super) floods: Arc<AtomicU64>,
}

impl Node {
    /// Takes a place in flight, if there is one and its health lets the request in, or `anyway`.
    pub(super) fn lease(self: &Arc<Self>, now: Instant, anyway: bool) -> Option<Endpoint> {
        let more = |count: u32| (count < self.max_in_flight).then_some(count + 1);
        self.in_flight.try_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        let lease = Lease(Arc::new(Place(Arc::clone(self))));
        let trial = match self.health.enter(now) {
            Entry::Open => None,
            Entry::Trial(trial) => Some(trial),
            Entry::Closed if anyway => None,
            Entry::Closed => return None,
        };
        Some(Endpoint { node: Arc::clone(self), lease, _trial: trial })
    }

    pub(super) fn reading(&self) -> EndpointReading<'_> {
        let (state, ejections) = self.health.reading();
        let floods = self.floods.load(Ordering::Relaxed);
        EndpointReading { id: &self.id, in_flight: self.load().into(), state, ejections, floods }
    }

    /// Whether it has a place in flight at the moment.
    pub(super) fn has_room(&self) -> bool {
        self.load() < self.max_in_flight
    }

    pub(super) fn load(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }
}

/// What metrics say of an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct EndpointReading<'a> {
    /// Which.
    pub id: &'a EndpointId,
    /// Requests in flight there.
    pub in_flight: u64,
    /// Whether it is called.
    pub state: EndpointState,
    /// How often it was left out since the start.
    pub ejections: u64,
    /// How many connections were cut since the start because it sent HTTP/2 frames without end.
    pub floods: u64,
}

/// A place in flight; given back when the last holder lets go.
#[derive(Debug, Clone)]
pub(super) struct Lease(#[expect(dead_code, reason = "held to be dropped")] Arc<Place>);

#[derive(Debug)]
struct Place(Arc<Node>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_waiters();
    }
}

/// The endpoint that was chosen for one attempt. It holds a place in flight, so choices made at the same time spread.
///
/// Drop it once the answer has come: the answer's body holds the place from then on.
#[derive(Debug)]
pub struct Endpoint {
    pub(super) node: Arc<Node>,
    pub(super) lease: Lease,
    /// Held while the request is the one that tries an ejected endpoint.
    _trial: Option<Trial>,
}

impl Endpoint {
    /// Who it is.
    #[must_use]
    pub fn id(&self) -> &EndpointId {
        &self.node.id
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.node.address
    }

    /// Whether bytes would leave this machine unencrypted: recorded, and never for level confidential or above.
    #[must_use]
    pub fn is_plaintext_remote(&self) -> bool {
        self.node.address.is_plaintext_remote()
    }
}
