//! The collector that spans are sent to: OTLP over HTTP/protobuf, one batch a request.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_sdk::Resource;
use prost::Message as _;

use super::export::Transport;
use super::otlp::{Attributes, Message};
use super::span::Finished;
use super::spool::Backend;
use crate::message::BoxError;

/// A collector as spans see it.
#[derive(Debug)]
pub(super) struct Collector {
    transport: Transport,
    url: String,
    /// `service.name` and what else is said of the sender.
    resource: Vec<(String, String)>,
    /// Bytes of the largest batch until now.
    largest: usize,
}

/// The collector answered with an error.
#[derive(Debug, thiserror::Error)]
#[error("the collector answered {0}")]
struct Refused(http::StatusCode);

impl Collector {
    /// `endpoint` is the base, to which the path of traces is added (OTLP specification, OTLP/HTTP request).
    pub(super) fn new(endpoint: &str, transport: Transport, resource: &Resource) -> Self {
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let resource = resource.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Self { transport, url, resource, largest: 0 }
    }

    /// `ExportTraceServiceRequest`.
    fn request(&mut self, spans: &[Finished]) -> Bytes {
        let mut request = Message::with_capacity(self.largest);
        request.field(1, |resource_spans| {
            resource_spans.field(1, |resource| {
                let mut attributes = Attributes { message: resource, number: 1 };
                self.resource.iter().for_each(|(key, value)| attributes.text(key, value));
            });
            resource_spans.field(2, |scope_spans| {
                scope_spans.field(1, |scope| scope.field(1, |name| name.show("tidegate")));
                spans.iter().for_each(|span| scope_spans.span(2, span));
            });
        });
        self.largest = self.largest.max(request.len());
        request.into_bytes().into()
    }
}

impl Backend for Collector {
    fn send(&mut self, spans: &[Finished]) -> Result<u64, BoxError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let body = self.request(spans);
        let (status, answer) = self.transport.post(&self.url, headers, body)?;
        if !status.is_success() {
            return Err(Refused(status).into());
        }
        // What cannot be read says nothing of spans that were refused.
        let partial = ExportTraceServiceResponse::decode(answer).unwrap_or_default().partial_success;
        Ok(partial.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0)))
    }
}
