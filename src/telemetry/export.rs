//! Exporters: OTLP over HTTP/protobuf through our own TLS client, and a Prometheus registry.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{MetricExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::Sampler;
use prometheus::{Registry, TextEncoder};
use tokio::runtime::Handle;

use crate::message::BoxError;
use crate::net;

use super::collector::Collector;
use super::spool::Spool;
use super::trace::Destination;
use super::{Gauge, Instruments, Settings};

/// How long the last flush may take.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// The exporters could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The OTLP exporter refused its settings.
    #[error("failed to set up OTLP export to `{endpoint}`")]
    Otlp {
        /// The configured endpoint.
        endpoint: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The Prometheus registry refused the exporter.
    #[error("failed to set up the Prometheus page")]
    Prometheus(#[source] opentelemetry_sdk::error::OTelSdkError),
    /// The thread that sends spans could not be started.
    #[error("failed to start the thread that sends spans")]
    Thread(#[source] std::io::Error),
}

/// Providers of traces and metrics with whatever exports them.
#[derive(Debug)]
pub struct Exporters {
    /// None if spans are not exported.
    spans: Option<Destination>,
    meters: SdkMeterProvider,
    registry: Registry,
}

impl Exporters {
    /// Sets up export as configured, through `client`; `instance` becomes `service.instance.id`.
    ///
    /// # Errors
    /// The endpoint is no URL.
    pub fn new(
        settings: &Settings,
        instance: &str,
        client: Option<Arc<net::Client>>,
        runtime: Handle,
    ) -> Result<Self, ExportError> {
        let resource = Resource::builder()
            .with_service_name("tidegate")
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", instance.to_owned()),
            ])
            .build();
        let registry = Registry::new();
        let page = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .build()
            .map_err(ExportError::Prometheus)?;
        let mut meters = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(page);
        let mut spans = None;
        if let (Some(endpoint), Some(client)) = (&settings.otlp_endpoint, client) {
            let transport = Transport { client, runtime };
            let collector = Collector::new(endpoint, transport.clone(), &resource);
            let spool = Spool::start(collector).map_err(ExportError::Thread)?;
            let metrics = metrics(endpoint, &transport)
                .map_err(|source| ExportError::Otlp { endpoint: endpoint.clone(), source })?;
            spans = Some(Destination { spool, sampler: sampler(settings.sample_percent) });
            let push =
                PeriodicReader::builder(metrics).with_interval(settings.metrics_interval.get()).build();
            meters = meters.with_reader(push);
        }
        Ok(Self { spans, meters: meters.build(), registry })
    }

    pub(super) const fn spans(&self) -> Option<&Destination> {
        self.spans.as_ref()
    }

    /// Registers the readings of the export itself.
    pub(super) fn observe(&self, instruments: &Instruments) {
        let Some(destination) = &self.spans else { return };
        let spool = Arc::clone(&destination.spool);
        let gauge = Gauge {
            name: "tidegate.spans.dropped",
            unit: "{span}",
            description: "Spans that were not sent since the start",
        };
        instruments.observe(gauge, move || spool.dropped());
    }

    pub(super) const fn meter_provider(&self) -> &SdkMeterProvider {
        &self.meters
    }

    pub(super) fn prometheus(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    pub(super) fn shutdown(&self) {
        if self.spans.as_ref().is_some_and(|spans| !spans.spool.close(SHUTDOWN)) {
            tracing::warn!("spans were left unsent");
        }
        if let Err(error) = self.meters.shutdown_with_timeout(SHUTDOWN) {
            tracing::warn!(%error, "metrics were left unsent");
        }
    }
}

fn sampler(percent: u8) -> Sampler {
    match percent {
        0 => Sampler::AlwaysOff,
        100.. => Sampler::AlwaysOn,
        some => Sampler::TraceIdRatioBased(f64::from(some) / 100.0),
    }
}

fn metrics(
    endpoint: &str,
    transport: &Transport,
) -> Result<MetricExporter, Box<dyn std::error::Error + Send + Sync>> {
    let exporter = MetricExporter::builder()
        .with_http()
        .with_http_client(transport.clone())
        .with_endpoint(format!("{}/v1/metrics", endpoint.trim_end_matches('/')))
        .build()?;
    Ok(exporter)
}

/// Spans and metrics are sent from threads without a runtime: each post is spawned onto ours.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    client: Arc<net::Client>,
    runtime: Handle,
}

impl Transport {
    /// Posts a body and waits for the answer.
    pub(super) fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), BoxError> {
        let (client, url) = (Arc::clone(&self.client), url.to_owned());
        let post = self.runtime.spawn(async move { client.post(&url, headers, body).await });
        Ok(self.runtime.block_on(post)??)
    }
}

#[async_trait]
impl HttpClient for Transport {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let client = Arc::clone(&self.client);
        let (head, body) = request.into_parts();
        let post =
            self.runtime.spawn(async move { client.post(&head.uri.to_string(), head.headers, body).await });
        let (status, body) = post.await??;
        let mut response = http::Response::new(body);
        *response.status_mut() = status;
        Ok(response)
    }
}
