//! One attempt on the wire: from the recorded decision to the head of the answer.

use std::time::Instant;

use http::Response;

use crate::inspect::Operation;
use crate::limit::Slot;
use crate::message::{self, Body, CheckedTrailers};
use crate::meter::Tap;
use crate::policy::Permit;
use crate::telemetry::{AttemptFacts, ClientSpan, UpstreamRequest};
use crate::upstream::{Answer, Endpoint, SendError};

use super::attempt::Crossing;
use super::completion::{Completion, Metered, UpstreamPart};
use super::exchange::{Exchange, stamp};
use super::record;
use super::reject::Reject;

/// An attempt that was sent and not yet answered.
#[derive(Debug)]
pub(super) struct Sending {
    upstream: String,
    span: Option<ClientSpan>,
    sent: Instant,
}

impl Sending {
    pub(super) fn start(
        exchange: &Exchange,
        crossing: &Crossing,
        permit: &Permit,
        endpoint: &Endpoint,
    ) -> Self {
        let (operation, model) = model_call(crossing);
        let span = exchange.span().map(|span| {
            span.client(&AttemptFacts {
                operation,
                model,
                upstream: record::name_of(endpoint.id().upstream()),
                endpoint: endpoint.id().address(),
                method: &crossing.method,
                resend: u32::from(exchange.attempt.saturating_sub(1)),
                protection: permit.protection().name(),
            })
        });
        Self { upstream: record::name_of(endpoint.id().upstream()).to_owned(), span, sent: Instant::now() }
    }

    /// The answer on its way: cleaned, metered, and recorded when its last byte has left.
    pub(super) fn answered(
        self,
        exchange: &mut Exchange,
        crossing: &Crossing,
        answer: Answer,
        slot: Slot,
    ) -> Result<Response<Body>, Reject> {
        let (mut head, body) = answer.response.into_parts();
        let host = exchange.request.as_ref().map_or("", |facts| facts.host.as_str());
        if let Err(error) = message::headers::inbound(head.status, &mut head.headers, host) {
            return Err(Reject::from_stage("upstream_redirect", error));
        }
        let (operation, model) = model_call(crossing);
        let inference = matches!(crossing.inspected.operation, Operation::Inference { .. });
        let mut span = self.span;
        if let Some(span) = &mut span {
            span.answered(head.status);
        }
        let Some(finish) = exchange.finish.take() else {
            return Err(Reject::internal("the request was answered twice"));
        };
        let completion = Completion {
            finish,
            draft: exchange.draft.take(),
            upstream: Some(UpstreamPart {
                name: self.upstream,
                operation,
                model: model.map(str::to_owned),
                sent: self.sent,
                span,
                tap: inference.then(|| Tap::for_response(true, &head.headers)),
                slot,
            }),
            status: head.status,
            request_bytes: exchange.request_bytes.clone(),
            first_byte: None,
        };
        let mut response =
            Response::from_parts(head, message::boxed(CheckedTrailers::new(Metered::new(body, completion))));
        stamp(&mut response, exchange.id);
        Ok(response)
    }

    /// The attempt failed before an answer.
    pub(super) fn failed(self, exchange: &Exchange, error: &SendError) -> Reject {
        if let Some(span) = self.span {
            span.failed(error.code());
        }
        if let Some(finish) = &exchange.finish {
            finish.telemetry.metrics().upstream_ended(&UpstreamRequest {
                upstream: &self.upstream,
                status: 0,
                duration: self.sent.elapsed(),
            });
        }
        Reject::from(error)
    }
}

fn model_call(crossing: &Crossing) -> (&'static str, Option<&str>) {
    match &crossing.inspected.operation {
        Operation::Inference { model, kind, .. } => (kind.name(), Some(model.as_str())),
        _ => ("http", None),
    }
}
