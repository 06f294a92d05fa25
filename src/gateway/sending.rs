//! One attempt on the wire: from the recorded decision to the head of the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Response, StatusCode};

use crate::inspect::Operation;
use crate::limit::Slot;
use crate::message::{self, Body, CheckedTrailers, Observer as _, Paced};
use crate::meter::Tap;
use crate::model::{ModelName, RecordId};
use crate::policy::Permit;
use crate::protect::{SealFacts, WireDigest};
use crate::telemetry::AttemptFacts;
use crate::upstream::Endpoint;

use super::attempt::Crossing;
use super::completion::{AtRestSeal, Completion, Meter, UpstreamPart};
use super::exchange::{Exchange, stamp};
use super::live::{self, Entry};
use super::reject::Reject;

/// An answer in plaintext.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) response: Response<Body>,
    /// The sealed message that it came in.
    pub(super) seal: Option<AnswerSeal>,
    /// The sealed message that the object is at rest.
    pub(super) object: Option<AtRestSeal>,
}

/// The sealed message of an answer that was opened.
#[derive(Debug)]
pub(crate) struct AnswerSeal {
    pub(crate) facts: SealFacts,
    /// The far side's record, if it is the far side that sealed it.
    pub(crate) record: Option<RecordId>,
    pub(crate) wire: WireDigest,
}

/// An attempt that was sent and not yet answered. Dropped (the caller hung up), it ends its span and counts.
#[derive(Debug)]
pub(super) struct Sending {
    part: Option<UpstreamPart>,
}

impl Sending {
    pub(super) fn start(
        exchange: &Exchange,
        crossing: &Crossing,
        permit: &Permit,
        endpoint: &Endpoint,
    ) -> Self {
        let (operation, model) = model_call(crossing);
        let upstream = endpoint.id().upstream();
        let part = exchange.finish.as_ref().map(|finish| UpstreamPart {
            upstream: upstream.clone(),
            operation,
            model: model.cloned(),
            sent: Instant::now(),
            telemetry: Arc::clone(&finish.telemetry),
            span: finish.span.client(AttemptFacts {
                operation,
                model: model.cloned(),
                upstream: upstream.clone(),
                endpoint: endpoint.address().authority().clone(),
                port: endpoint.address().port(),
                method: crossing.case.method.clone(),
                resend: u32::from(exchange.attempt().saturating_sub(1)),
                protection: permit.protection().name(),
                record: finish.record(),
            }),
        });
        Self { part }
    }

    /// The answer on its way: cleaned, metered, and recorded when its last byte has left.
    pub(super) fn answered(
        mut self,
        exchange: &mut Exchange,
        crossing: &Crossing,
        answer: Answered,
        (slot, stall, entry): (Slot, Duration, Entry),
    ) -> Result<Response<Body>, Reject> {
        let (mut head, body) = answer.response.into_parts();
        if let Some(part) = &mut self.part {
            part.span.answered(head.status);
        }
        let host = exchange.facts.target.as_ref().map_or("", |target| target.host());
        if let Err(error) = message::headers::inbound(head.status, &mut head.headers, host) {
            if let Some(part) = self.part.take() {
                part.end(head.status.as_u16(), Some("redirect"), None);
            }
            return Err(Reject::from_stage("upstream_redirect", error));
        }
        let (Some(finish), Some(upstream)) = (exchange.finish.take(), self.part.take()) else {
            return Err(Reject::internal("the request was answered twice"));
        };
        let inference = matches!(crossing.case.inspected.operation, Operation::Inference { .. });
        let completion = Completion {
            draft: exchange.draft.take(),
            upstream,
            tap: inference.then(|| Tap::for_response(true, &head.headers)),
            slot,
            status: head.status,
            sent: Arc::clone(&exchange.sent),
            sealed: exchange.request_ciphertext(),
            answer: answer.seal,
            object: answer.object,
            live: Arc::clone(&entry.live),
            closing: exchange.facts.owed_sealed().map(|_| Arc::clone(&exchange.closing)),
            first_byte: None,
            finish,
        };
        let bodiless = crossing.case.method == Method::HEAD
            || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let mut meter = Meter::new(completion);
        if bodiless {
            // The server never asks for the body of such an answer: it is whole with its head.
            meter.ended();
        }
        let metered = message::boxed(Paced::new(body, meter, stall));
        let metered = message::boxed(CheckedTrailers::new(metered));
        let body = if bodiless { metered } else { live::answer(entry, &head.headers, metered) };
        let mut response = Response::from_parts(head, body);
        stamp(&mut response, exchange.facts.id);
        Ok(response)
    }

    /// The answer says that nothing can be served, and another attempt follows.
    pub(super) fn declined(mut self, status: StatusCode, code: &'static str) {
        if let Some(mut part) = self.part.take() {
            part.span.answered(status);
            part.end(status.as_u16(), Some(code), None);
        }
    }

    /// The attempt failed before an answer that is believed.
    pub(super) fn failed(mut self, code: &'static str) {
        if let Some(part) = self.part.take() {
            part.end(0, Some(code), None);
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(part) = self.part.take() {
            part.end(0, Some("client_gone"), None);
        }
    }
}

fn model_call(crossing: &Crossing) -> (&'static str, Option<&ModelName>) {
    match &crossing.case.inspected.operation {
        Operation::Inference { model, kind, .. } => (kind.name(), Some(model)),
        _ => ("http", None),
    }
}
