//! Whether, where and at whose cost another attempt is made.
//!
//! Never after the first byte of an answer, but for one that says that nothing can be served (429, 502, 503, 504). Only if it
//! cannot do anything twice: no byte of the request was taken; or its body is held whole and it changes nothing, as a question
//! to a model or an idempotent method (RFC 9110 9.2.2). At most three attempts, two that time out; and of all requests to an
//! upstream a tenth.
//! Health orders the candidates; which of them are permitted is Cedar's to say, each time anew.

use http::StatusCode;

use crate::inspect::Operation;
use crate::model::{Candidate, UpstreamRef};
use crate::upstream::{Endpoint, EndpointId, SendError, Standing, Upstreams};

use super::attempt::{Crossing, RUNGS};
use super::exchange::Exchange;
use super::reject::Reject;
use super::{Gateway, Snapshot};

/// Attempts for one request, the first included.
const MAX_ATTEMPTS: u16 = 3;

/// What has been tried of one crossing.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// The last failure, answered when nothing is left to try.
    failure: Option<Reject>,
    endpoints: Vec<EndpointId>,
    /// The upstream whose budget the next attempt is charged to.
    owed: Option<UpstreamRef>,
}

impl Tries {
    /// The endpoints that are not tried again.
    pub(super) fn endpoints(&self) -> &[EndpointId] {
        &self.endpoints
    }
}

/// Whether an answer says that nothing can be served there at the moment.
const fn is_declined(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

impl Crossing {
    /// Puts the candidates that can serve before those that are full, down or tried; otherwise they stay as they are.
    pub(super) fn order(&mut self, upstreams: &Upstreams) {
        if self.candidates.len() > 1 {
            let tried = &self.tries.endpoints;
            self.candidates.sort_by_cached_key(|candidate| upstreams.standing(&candidate.upstream, tried));
        }
    }

    /// Drops a candidate that cannot serve; with none left the last failure is the answer.
    pub(super) fn without(&mut self, candidate: &Candidate, failure: Reject) -> Result<(), Reject> {
        self.candidates.retain(|other| other != candidate);
        if self.candidates.is_empty() {
            return Err(self.tries.failure.take().unwrap_or(failure));
        }
        self.tries.failure.get_or_insert(failure);
        Ok(())
    }

    /// Charges an attempt that is about to be made to the upstream where the one before failed.
    pub(super) fn pay(&mut self, upstreams: &Upstreams) -> Result<(), Reject> {
        match self.tries.owed.take() {
            Some(upstream) if !upstreams.may_retry(&upstream) => {
                Err(Reject::without_retry(self.tries.failure.as_ref()))
            }
            _ => Ok(()),
        }
    }

    /// Whether another attempt is safe after one that brought no answer; otherwise the failure is the answer.
    pub(super) fn next(
        &mut self,
        exchange: &Exchange,
        endpoint: &Endpoint,
        error: &SendError,
    ) -> Result<&Reject, Reject> {
        let failure = Reject::from(error);
        self.tries.endpoints.push(endpoint.id().clone());
        // What comes back of a sealed request is sealed for that attempt alone: a stream is spent.
        self.payload.give_back(error.take_body().filter(|_| exchange.sealed.is_none()));
        let safe = error.retryable() || (error.kind().is_the_endpoints() && self.changes_nothing());
        // What two endpoints could not answer in time is not asked of a third.
        let slow = |failure: &Reject| failure.code() == "upstream_timeout";
        let too_slow = slow(&failure) && self.tries.failure.as_ref().is_some_and(slow);
        if !safe || too_slow || !self.may_go_again(exchange) {
            return Err(failure);
        }
        self.tries.owed = Some(endpoint.id().upstream().clone());
        Ok(self.tries.failure.insert(failure))
    }

    /// Whether an answer is dropped because it says that nothing can be served, and another endpoint could: another attempt
    /// is permitted, safe and paid for. If not, it is passed on like any other.
    pub(super) fn declined(
        &mut self,
        (gateway, snapshot): (&Gateway, &Snapshot),
        exchange: &Exchange,
        (endpoint, status): (&Endpoint, StatusCode),
    ) -> bool {
        if !is_declined(status) || !self.changes_nothing() || !self.may_go_again(exchange) {
            return false;
        }
        self.tries.endpoints.push(endpoint.id().clone());
        let goes_on =
            self.is_elsewhere(gateway, snapshot) && snapshot.upstreams.may_retry(endpoint.id().upstream());
        if goes_on {
            self.tries.failure = Some(Reject::declined(status));
        }
        goes_on
    }

    /// The failure of the attempt before, for its record.
    pub(super) fn failure(&mut self) -> &Reject {
        self.tries.failure.get_or_insert_with(|| Reject::internal("an attempt failed without a failure"))
    }

    /// Whether the same bytes can be sent once more.
    fn may_go_again(&mut self, exchange: &Exchange) -> bool {
        self.payload.is_there() && exchange.attempt() < MAX_ATTEMPTS
    }

    /// Whether it is all the same how often the request is served.
    fn changes_nothing(&self) -> bool {
        matches!(self.case.inspected.operation, Operation::Inference { .. })
            || self.case.method.is_idempotent()
    }

    /// Whether a candidate that is permitted has an endpoint that can serve. Nothing follows from the permit: the attempt gets
    /// one of its own, and a record.
    fn is_elsewhere(&self, gateway: &Gateway, snapshot: &Snapshot) -> bool {
        let ready = |candidate: &&Candidate| {
            snapshot.upstreams.standing(&candidate.upstream, &self.tries.endpoints) == Standing::Ready
        };
        let candidates: Vec<Candidate> = self.candidates.iter().filter(ready).cloned().collect();
        let request = self.case.authorization(gateway.clock.now());
        !candidates.is_empty() && snapshot.bundle.decide(&request, &candidates, RUNGS).is_ok()
    }
}
