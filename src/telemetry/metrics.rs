//! The instruments. Label sets are closed: routes, clusters, models and codes come from configuration and code,
//! never from a caller.

use std::time::Duration;

use opentelemetry::metrics::{Counter, Histogram, Meter, MeterProvider as _, UpDownCounter};
use opentelemetry::{KeyValue, StringValue};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use crate::model::{ModelName, RouteName, UpstreamRef, Usage};

/// Seconds; the boundaries that the HTTP semantic conventions advise.
const DURATION_BOUNDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Seconds; a decision is far quicker than a request.
const DECISION_BOUNDS: [f64; 10] = [5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2.5e-2];
/// Tokens; the boundaries that the GenAI conventions advise.
const TOKEN_BOUNDS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// All instruments that the request path writes to.
#[derive(Debug)]
pub struct Instruments {
    meter: Meter,
    server_duration: Histogram<f64>,
    client_duration: Histogram<f64>,
    decision_duration: Histogram<f64>,
    decisions: Counter<u64>,
    rejects: Counter<u64>,
    tokens: Histogram<u64>,
    active: UpDownCounter<i64>,
    refused_connections: Counter<u64>,
    reloads: Counter<u64>,
    ended: Counter<u64>,
}

/// One answered request.
#[derive(Debug, Clone, Copy)]
pub struct ServerRequest<'a> {
    /// The route, or none before routing.
    pub route: Option<&'a RouteName>,
    /// The HTTP method; anything outside the gate's list is `_OTHER`.
    pub method: &'static str,
    /// The status that the caller got.
    pub status: u16,
    /// From the first byte of the request to the last of the answer.
    pub duration: Duration,
}

/// One attempt at an upstream.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamRequest<'a> {
    /// The far side.
    pub upstream: &'a UpstreamRef,
    /// Its status, or 0 if it gave none.
    pub status: u16,
    /// From sending to the last byte of the answer.
    pub duration: Duration,
}

/// A reading that is taken when metrics are collected.
#[derive(Debug, Clone, Copy)]
pub struct Gauge {
    /// The metric's name.
    pub name: &'static str,
    /// Its unit, in UCUM.
    pub unit: &'static str,
    /// What it means.
    pub description: &'static str,
}

impl Instruments {
    pub(super) fn new(provider: &SdkMeterProvider) -> Self {
        let meter = provider.meter("tidegate");
        let seconds = |name: &'static str, bounds: &[f64]| {
            meter.f64_histogram(name).with_unit("s").with_boundaries(bounds.to_vec()).build()
        };
        Self {
            server_duration: seconds("http.server.request.duration", &DURATION_BOUNDS),
            client_duration: seconds("http.client.request.duration", &DURATION_BOUNDS),
            decision_duration: seconds("tidegate.decision.duration", &DECISION_BOUNDS),
            decisions: meter
                .u64_counter("tidegate.decisions")
                .with_description("Cedar decisions by action and outcome")
                .build(),
            rejects: meter
                .u64_counter("tidegate.rejects")
                .with_description("Requests that the gateway answered itself, by code")
                .build(),
            tokens: meter
                .u64_histogram("gen_ai.client.token.usage")
                .with_unit("{token}")
                .with_boundaries(TOKEN_BOUNDS.to_vec())
                .build(),
            active: meter.i64_up_down_counter("http.server.active_requests").build(),
            refused_connections: meter
                .u64_counter("tidegate.connections.refused")
                .with_description("Connections and raw heads refused before HTTP, by reason")
                .build(),
            reloads: meter
                .u64_counter("tidegate.reloads")
                .with_description("Reloads of policies, certificates and revocations, by kind and result")
                .build(),
            ended: meter
                .u64_counter("tidegate.streams.ended")
                .with_description(
                    "Live exchanges that were ended because they are permitted no longer, by code",
                )
                .build(),
            meter,
        }
    }

    /// A request began.
    pub fn request_began(&self) {
        self.active.add(1, &[]);
    }

    /// A request ended.
    pub fn request_ended(&self, request: &ServerRequest<'_>) {
        self.active.add(-1, &[]);
        let route = request.route.map_or_else(|| StringValue::from("none"), |name| name.shared().into());
        self.server_duration.record(
            request.duration.as_secs_f64(),
            &[
                KeyValue::new("http.request.method", request.method),
                KeyValue::new("http.response.status_code", i64::from(request.status)),
                KeyValue::new("http.route", route),
            ],
        );
    }

    /// An attempt ended.
    pub fn upstream_ended(&self, request: &UpstreamRequest<'_>) {
        self.client_duration.record(
            request.duration.as_secs_f64(),
            &[
                KeyValue::new("tidegate.upstream", request.upstream.shared()),
                KeyValue::new("http.response.status_code", i64::from(request.status)),
            ],
        );
    }

    /// A decision was taken.
    pub fn decided(&self, action: &'static str, outcome: &'static str, code: &'static str, took: Duration) {
        let labels = [
            KeyValue::new("tidegate.action", action),
            KeyValue::new("tidegate.decision", outcome),
            KeyValue::new("tidegate.code", code),
        ];
        self.decisions.add(1, &labels);
        self.decision_duration.record(took.as_secs_f64(), labels.get(..1).unwrap_or_default());
    }

    /// The gateway answered a request itself.
    pub fn rejected(&self, code: &'static str) {
        self.rejects.add(1, &[KeyValue::new("tidegate.code", code)]);
    }

    /// Tokens were used on a cluster's model.
    pub fn tokens_used(&self, operation: &'static str, model: &ModelName, usage: &Usage) {
        for (kind, count) in [("input", usage.input_tokens), ("output", usage.output_tokens)] {
            let labels = [
                KeyValue::new("gen_ai.operation.name", operation),
                KeyValue::new("gen_ai.request.model", model.shared()),
                KeyValue::new("gen_ai.token.type", kind),
            ];
            self.tokens.record(count, &labels);
        }
    }

    /// A connection was refused before HTTP.
    pub fn connection_refused(&self, reason: &'static str) {
        self.refused_connections.add(1, &[KeyValue::new("tidegate.reason", reason)]);
    }

    /// Policies were reloaded, or kept because the new ones are broken.
    pub fn reloaded(&self, accepted: bool) {
        self.reloaded_kind("policies", accepted);
    }

    /// The same of something else that is followed.
    pub fn reloaded_kind(&self, kind: &'static str, accepted: bool) {
        let result = if accepted { "accepted" } else { "refused" };
        self.reloads
            .add(1, &[KeyValue::new("tidegate.kind", kind), KeyValue::new("tidegate.result", result)]);
    }

    /// A live exchange was ended because it is permitted no longer.
    pub fn stream_ended(&self, code: &'static str) {
        self.ended.add(1, &[KeyValue::new("tidegate.code", code)]);
    }

    /// Registers a reading of several things of the configuration, each under its name in the label `label`.
    pub fn observe_each<F>(&self, gauge: Gauge, label: &'static str, read: F)
    where
        F: Fn(&mut dyn FnMut(&str, u64)) + Send + Sync + 'static,
    {
        self.meter
            .u64_observable_gauge(gauge.name)
            .with_unit(gauge.unit)
            .with_description(gauge.description)
            .with_callback(move |observer| {
                read(&mut |name, value| observer.observe(value, &[KeyValue::new(label, name.to_owned())]));
            })
            .build();
    }

    /// Registers a reading of several things of the configuration, each under its values of the labels `labels`.
    pub fn observe_labelled<const N: usize, F>(&self, gauge: Gauge, labels: [&'static str; N], read: F)
    where
        F: Fn(&mut dyn FnMut([&str; N], u64)) + Send + Sync + 'static,
    {
        self.meter
            .u64_observable_gauge(gauge.name)
            .with_unit(gauge.unit)
            .with_description(gauge.description)
            .with_callback(move |observer| {
                read(&mut |values, value| {
                    let labels = labels.iter().zip(values);
                    let labels: Vec<KeyValue> =
                        labels.map(|(label, name)| KeyValue::new(*label, name.to_owned())).collect();
                    observer.observe(value, &labels);
                });
            })
            .build();
    }

    /// Registers a reading that is taken whenever metrics are collected.
    pub fn observe(&self, gauge: Gauge, read: impl Fn() -> u64 + Send + Sync + 'static) {
        self.meter
            .u64_observable_gauge(gauge.name)
            .with_unit(gauge.unit)
            .with_description(gauge.description)
            .with_callback(move |observer| observer.observe(read(), &[]))
            .build();
    }
}
