//! OpenTelemetry traces and metrics, and the operator's log.
//!
//! Lossy by design: a full queue drops spans and never delays a request. What must not be lost is in the
//! audit journal. Spans use the native API (no `tracing` bridge: a fifth of the cost); `tracing` carries the
//! operator's log only. Principals and resources go on spans, never on metrics, whose label sets are closed.

mod export;
mod log;
mod metrics;
mod settings;
mod trace;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracer;

pub use export::{ExportError, Exporters};
pub use log::init as init_log;
pub use metrics::{Gauge, Instruments, ServerRequest, UpstreamRequest};
pub use settings::{LogFormat, Settings};
pub use trace::{AttemptFacts, ClientSpan, DecisionFacts, LeafFacts, RecordFacts, RequestSpan, ServerFacts};

/// The facade that the gateway writes to.
#[derive(Debug)]
pub struct Telemetry {
    tracer: SdkTracer,
    instruments: Instruments,
    exporters: Exporters,
}

impl Telemetry {
    /// Builds spans and instruments on top of the exporters.
    #[must_use]
    pub fn new(exporters: Exporters) -> Self {
        let tracer = exporters.tracer_provider().tracer("tidegate");
        let instruments = Instruments::new(exporters.meter_provider());
        Self { tracer, instruments, exporters }
    }

    /// The instruments.
    pub const fn metrics(&self) -> &Instruments {
        &self.instruments
    }

    /// Starts the server span of a request. The caller's `traceparent` is linked, never continued: an
    /// untrusted caller must not choose our trace ids or sampling.
    pub fn request(&self, method: &'static str, traceparent: Option<&http::HeaderValue>) -> RequestSpan {
        RequestSpan::start(self.tracer.clone(), method, traceparent)
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
