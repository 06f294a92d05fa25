//! The second listener: health, metrics, version. On loopback unless the configuration says otherwise.
//!
//! Nothing here changes anything, and nothing of it is served on the data listener.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::audit::{Audit, State};
use crate::gateway::Gateway;
use crate::message::{self, Body};
use crate::telemetry::Telemetry;

/// The `[admin]` table.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where `/livez`, `/readyz`, `/metrics` and `/version` are served, in plain HTTP. Port 0 picks a free one.
    pub address: SocketAddr,
}

impl Default for Settings {
    fn default() -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], 9443)) }
    }
}

/// Answers the admin listener.
#[derive(Debug)]
pub struct Admin {
    gateway: Arc<Gateway>,
    audit: Audit,
    telemetry: Arc<Telemetry>,
    status: Arc<Status>,
}

/// What `/readyz` reports besides the journal.
#[derive(Debug, Default)]
pub struct Status {
    draining: AtomicBool,
    reload_problem: ArcSwapOption<String>,
    /// By what was to be reloaded, a closed set.
    refused: Mutex<BTreeMap<&'static str, String>>,
}

impl Status {
    /// The gateway stopped accepting; load balancers shall look elsewhere.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// The outcome of the last reload: what is wrong with the set that was refused, or nothing.
    pub fn reloaded(&self, problem: Option<String>) {
        self.reload_problem.store(problem.map(Arc::new));
    }

    /// The same of certificates or revocations, by name.
    pub fn reloaded_other(&self, what: &'static str, problem: Option<String>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(problem) => refused.insert(what, problem),
            None => refused.remove(what),
        };
    }
}

impl Admin {
    /// The admin interface of one gateway.
    #[must_use]
    pub const fn new(
        gateway: Arc<Gateway>,
        audit: Audit,
        telemetry: Arc<Telemetry>,
        status: Arc<Status>,
    ) -> Self {
        Self { gateway, audit, telemetry, status }
    }

    /// Answers one request.
    #[must_use]
    pub fn answer(&self, method: &Method, path: &str) -> Response<Body> {
        if method != Method::GET && method != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.ready(),
            "/metrics" => {
                let mut response = text(StatusCode::OK, &self.telemetry.prometheus());
                let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, format);
                response
            }
            "/version" => json(
                StatusCode::OK,
                &json!({ "name": "tidegate", "version": env!("CARGO_PKG_VERSION"), "bundle": self.gateway.snapshot().bundle.hash() }),
            ),
            _ => text(StatusCode::NOT_FOUND, "try /livez, /readyz, /metrics or /version\n"),
        }
    }

    fn ready(&self) -> Response<Body> {
        let journal = self.audit.stats().state;
        let draining = self.status.draining.load(Ordering::Acquire);
        let ready = !draining && journal == State::Ok;
        // A refused reload is told, but the working set serves on.
        let reload = self.status.reload_problem.load_full();
        let refused = self.status.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        json(
            status,
            &json!({
                "ready": ready,
                "draining": draining,
                "journal": journal.name(),
                "bundle": self.gateway.snapshot().bundle.hash(),
                "refused_reload": reload.as_deref(),
                "refused_certificates": refused.get("certificates"),
                "refused_revocations": refused.get("revocations"),
            }),
        )
    }
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    content(status, "text/plain; charset=utf-8", body.to_owned())
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    content(status, "application/json", format!("{body:#}\n"))
}

fn content(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(message::full(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
