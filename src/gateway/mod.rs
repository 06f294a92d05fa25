//! The enforcement point. Read this first: `Gateway::enforce` is the life of a request, one line a step.
//!
//! `handle` always answers and always records; `enforce` goes through the steps; `attempt` decides, admits,
//! prepares, records and sends, again for each retry. No filters, no registry, no hidden arguments: what a step
//! needs is what it is given.

mod again;
mod attempt;
pub mod codes;
mod completion;
mod exchange;
mod live;
mod object;
mod payload;
mod range;
mod record;
mod reject;
mod sealed;
mod sending;
pub mod shadow;
mod snapshot;
mod source;
mod stored;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;

use crate::audit::Audit;
use crate::inspect;
use crate::message::{self, Body, BoxError, Connection};
use crate::model::{Clock, RecordId};
use crate::telemetry::Telemetry;

use attempt::Crossing;
use exchange::Exchange;
use live::Lives;
use payload::Payload;
use shadow::Shadow;

pub use reject::Reject;
pub use snapshot::Snapshot;

/// The enforcement point of one listener.
#[derive(Debug)]
pub struct Gateway {
    snapshot: ArcSwap<Snapshot>,
    audit: Audit,
    telemetry: Arc<Telemetry>,
    clock: Arc<dyn Clock>,
    shadow: Option<Arc<Shadow>>,
    lives: Arc<Lives>,
}

impl Gateway {
    /// An enforcement point that starts with this snapshot.
    #[must_use]
    pub fn new(snapshot: Snapshot, audit: Audit, telemetry: Arc<Telemetry>, clock: Arc<dyn Clock>) -> Self {
        let snapshot = ArcSwap::from_pointee(snapshot);
        Self { snapshot, audit, telemetry, clock, shadow: None, lives: Arc::default() }
    }

    /// The same with a candidate bundle beside the live one.
    #[must_use]
    pub fn with_shadow(self, shadow: Option<Arc<Shadow>>) -> Self {
        Self { shadow, ..self }
    }

    /// The candidate beside the live bundle, if there may be one.
    #[must_use]
    pub const fn shadow(&self) -> Option<&Arc<Shadow>> {
        self.shadow.as_ref()
    }

    /// The snapshot that new requests see.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Lets new requests see another snapshot. Those under way keep theirs, and end if it would not permit them: see
    /// [`Gateway::keep_deciding`].
    pub fn replace(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }

    /// The steps of a request. Each `?` is a refusal that `handle` records and answers.
    async fn enforce(
        &self,
        snapshot: &Snapshot,
        connection: &Connection,
        request: Request<impl HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static>,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Reject> {
        let mut inbound = message::gate(connection, request, &snapshot.gate)?;
        exchange.parsed(&inbound);
        let route = snapshot.routes.find(inbound.target.host(), &inbound.method, inbound.target.path())?;
        exchange.routed(route);
        let principal = snapshot.identity.authenticate(connection, &inbound.caller, route.identity).await?;
        exchange.identified(&principal, &self.audit)?;
        let revocations = snapshot.identity.revocations_version();
        snapshot.identity.not_revoked(&principal)?;
        sealed::open(snapshot, route, &principal, &mut inbound, exchange).await?;
        let (inspected, body) = inspect::inspect(
            &mut inbound,
            Snapshot::facts(route),
            &snapshot.catalog,
            snapshot.bundle.jurisdictions(),
            &snapshot.identity.placement_of(&principal),
            &snapshot.held,
        )
        .await?;
        exchange.inspected(&inspected);
        let path = Snapshot::forwarded_path(route, &inbound.target)
            .ok_or_else(|| Reject::internal("nothing of the path is left to forward"))?;
        let payload = Payload::new(body, &exchange.sent, || self.audit.digester(&principal.tenant))?;
        let crossing =
            Crossing::new((&principal, connection), inbound, inspected, (payload, path), revocations);
        attempt::run(self, snapshot, exchange, crossing).await
    }

    /// Answers a request, whatever happens: a refusal is recorded, a panic is a refusal.
    pub async fn handle<B>(&self, connection: &Connection, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let snapshot = self.snapshot();
        let mut exchange =
            Exchange::begin(connection, &request, Arc::clone(&self.telemetry), snapshot.bundle.shared_hash());
        let id = exchange.facts.id;
        let enforced = {
            let mut steps = pin!(self.enforce(&snapshot, connection, request, &mut exchange));
            poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| steps.as_mut().poll(cx))) {
                Ok(polled) => polled,
                Err(_) => {
                    Poll::Ready(Err(Reject::new("panicked", "the gateway failed to handle the request")))
                }
            })
            .await
        };
        let (opened, closing) = (exchange.facts.owed_sealed().cloned(), Arc::clone(&exchange.closing));
        let response = match enforced {
            Ok(response) => response,
            Err(reject) => Box::pin(exchange.refuse(reject, &self.audit)).await,
        };
        match opened {
            None => response,
            // Whoever sealed the request gets no word of the answer in clear.
            Some(opened) => Box::pin(sealed::answer(&snapshot, (&opened, closing), id, response)).await,
        }
    }

    /// Answers bytes that never became a request: `code` is one of [`codes::ALL`], `detail` its public reason.
    #[must_use]
    pub fn malformed(&self, peer: SocketAddr, code: &'static str, detail: &str) -> Response<Body> {
        let (id, reject) = (RecordId::new(), Reject::new(code, detail));
        self.telemetry.metrics().connection_refused(code);
        self.audit.refusal(id, peer.ip(), &record::connection(peer, code, reject.status().as_u16()));
        let mut response = reject.response(Some(id));
        exchange::stamp(&mut response, id);
        response
    }

    /// Records a connection that ended without an answer.
    pub fn unanswered(&self, peer: SocketAddr, code: &'static str) {
        self.telemetry.metrics().connection_refused(code);
        self.audit.refusal(RecordId::new(), peer.ip(), &record::connection(peer, code, 0));
    }
}
