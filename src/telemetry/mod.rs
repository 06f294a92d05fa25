//! OpenTelemetry traces and metrics, and the operator's log.
//!
//! Lossy by design: a full queue drops spans and never delays a request. What must not be lost is in the
//! audit journal. A request leaves the facts of its spans and a thread makes spans of them (`spool`); `tracing`
//! carries the operator's log only. Principals and resources go on spans, never on metrics, whose label sets are closed.

mod collector;
mod export;
mod log;
mod metrics;
mod otlp;
mod settings;
mod span;
mod spool;
mod trace;

pub use export::{ExportError, Exporters};
pub use log::init as init_log;
pub use metrics::{Gauge, Instruments, ServerRequest, UpstreamRequest};
pub use settings::{LogFormat, Settings};
pub use span::{AttemptFacts, DecisionFacts, LeafFacts, RecordFacts, ServerFacts};
pub use trace::{ClientSpan, RequestSpan, TraceText};

/// The facade that the gateway writes to.
#[derive(Debug)]
pub struct Telemetry {
    instruments: Instruments,
    exporters: Exporters,
}

impl Telemetry {
    /// Builds spans and instruments on top of the exporters.
    #[must_use]
    pub fn new(exporters: Exporters) -> Self {
        let instruments = Instruments::new(exporters.meter_provider());
        exporters.observe(&instruments);
        Self { instruments, exporters }
    }

    /// The instruments.
    pub const fn metrics(&self) -> &Instruments {
        &self.instruments
    }

    /// Starts the server span of a request. The caller's `traceparent` is linked, never continued: an
    /// untrusted caller must not choose our trace ids or sampling.
    pub fn request(&self, method: &'static str, traceparent: Option<&http::HeaderValue>) -> RequestSpan {
        RequestSpan::start(self.exporters.spans(), method, traceparent)
    }

    /// All metrics in the Prometheus text format 0.0.4.
    pub fn prometheus(&self) -> String {
        self.exporters.prometheus()
    }

    /// Sends what is queued and stops the exporters. Blocks for up to five seconds: call it off the runtime's
    /// workers.
    pub fn shutdown(&self) {
        self.exporters.shutdown();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use http::{Method, StatusCode};

    use super::*;
    use crate::message::Target;
    use crate::model::{Principal, RecordId, Resource, RouteName, UpstreamRef};
    use crate::net::{Client, ClientSettings};

    /// The list of policies, and the value of `traceparent`.
    const ALLOCATIONS: u64 = 2;

    /// Nobody listens there.
    fn telemetry(runtime: &tokio::runtime::Runtime) -> Telemetry {
        let endpoint = "http://127.0.0.1:9";
        let client =
            ClientSettings { allow_networks: vec!["127.0.0.0/8".parse().unwrap()], ..Default::default() };
        let client = Arc::new(Client::new(endpoint, &client).unwrap());
        let settings = Settings { otlp_endpoint: Some(endpoint.to_owned()), ..Settings::default() };
        let exporters = Exporters::new(&settings, "border-1", Some(client), runtime.handle().clone());
        Telemetry::new(exporters.unwrap())
    }

    struct Facts {
        principal: Arc<Principal>,
        policies: [Arc<str>; 2],
        resource: Resource,
        bundle: Arc<str>,
        route: RouteName,
        target: Arc<Target>,
        upstream: UpstreamRef,
        record: RecordFacts,
    }

    fn facts() -> Facts {
        let uri = "https://gateway.example/v1/chat/completions".parse().unwrap();
        let leaf = LeafFacts { seq: 7, log: "border-1".into(), index: 7 };
        Facts {
            principal: span::tests::principal(),
            policies: ["a".into(), "b".into()],
            resource: Resource::Model {
                cluster: "eu".parse().unwrap(),
                model: "tide-small".parse().unwrap(),
            },
            bundle: "00ff".into(),
            route: "chat".parse().unwrap(),
            target: Arc::new(Target::parse(&uri, &http::HeaderMap::new(), 1024).unwrap()),
            upstream: UpstreamRef::Cluster("eu".parse().unwrap()),
            record: RecordFacts { id: RecordId::new(), leaf: Some(leaf) },
        }
    }

    /// All that the gateway tells telemetry about one request.
    fn request(telemetry: &Telemetry, facts: &Facts) {
        let (now, took) = (SystemTime::now(), Duration::from_micros(9));
        let metrics = telemetry.metrics();
        metrics.request_began();
        let span = telemetry.request("POST", None);
        assert!(span.is_recording() && span.trace_id() != TraceText::default());
        metrics.decided("infer", "allow", "", took);
        span.decision(
            (now, took),
            DecisionFacts {
                decision: "allow",
                code: "",
                policies: facts.policies.to_vec(),
                action: "infer",
                resource: Some(facts.resource.clone()),
                principal: Arc::clone(&facts.principal),
                bundle: Arc::clone(&facts.bundle),
                record: facts.record.clone(),
            },
        );
        let mut attempt = span.client(AttemptFacts {
            operation: "chat",
            model: None,
            upstream: facts.upstream.clone(),
            endpoint: http::uri::Authority::from_static("gpu.example"),
            port: 443,
            method: Method::POST,
            resend: 0,
            protection: "none",
            record: facts.record.clone(),
        });
        assert!(span.traceparent().is_some());
        attempt.answered(StatusCode::OK);
        attempt.finish();
        metrics.upstream_ended(&UpstreamRequest { upstream: &facts.upstream, status: 200, duration: took });
        metrics.request_ended(&ServerRequest {
            route: Some(&facts.route),
            method: "POST",
            status: 200,
            duration: took,
        });
        span.finish(ServerFacts {
            method: "POST",
            status: 200,
            route: Some(facts.route.clone()),
            target: Some(Arc::clone(&facts.target)),
            path_is_plain: true,
            peer: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
            code: None,
            record: facts.record.clone(),
        });
    }

    #[test]
    fn telemetry_of_a_request_takes_few_allocations() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (telemetry, facts) = (telemetry(&runtime), facts());
        // Labels are made at first, and the list of spans grows.
        (0..64).for_each(|_| request(&telemetry, &facts));
        let least =
            (0..64).map(|_| allocation_counter::measure(|| request(&telemetry, &facts)).count_total).min();
        assert_eq!(least, Some(ALLOCATIONS));
    }
}
