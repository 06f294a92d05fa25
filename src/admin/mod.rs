//! The second listener: health, metrics, version. Plain HTTP on loopback; elsewhere TLS, and a client certificate for all but health.
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
use crate::listen::TlsSettings;
use crate::message::{self, Body, Connection};
use crate::model::{Clock as _, SystemClock};
use crate::telemetry::Telemetry;

/// The `[admin]` table.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where `/livez`, `/readyz`, `/metrics` and `/version` are served. Port 0 picks a free one.
    pub address: SocketAddr,
    /// TLS; absent: plain HTTP, which only a loopback address may speak. Callers without a client certificate then get `/livez` and `/readyz`
    /// alone, and of the latter no more than yes or no: `client_auth = "optional"` serves probes and metrics.
    pub tls: Option<TlsSettings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], 9443)), tls: None }
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
    sources: Mutex<BTreeMap<&'static str, String>>,
    /// By what was to be reloaded, a closed set.
    refused: Mutex<BTreeMap<&'static str, String>>,
}

impl Status {
    /// The gateway stopped accepting; load balancers shall look elsewhere.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// What is wrong with a URL that policies come from, or nothing. Whether that is news.
    pub fn fetched(&self, source: &'static str, problem: Option<String>) -> bool {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(problem) => sources.insert(source, problem.clone()) != Some(problem),
            None => sources.remove(source).is_some(),
        }
    }

    /// Whether something is wrong with a URL.
    pub fn has_problem(&self, source: &str) -> bool {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).contains_key(source)
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
    pub fn answer(&self, connection: &Connection, method: &Method, path: &str) -> Response<Body> {
        if method != Method::GET && method != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let known = connection.tls.is_none() || connection.client.is_some();
        match path {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.ready(known),
            _ if !known => {
                text(StatusCode::FORBIDDEN, "show a client certificate for more than /livez and /readyz\n")
            }
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

    fn ready(&self, known: bool) -> Response<Body> {
        let journal = self.audit.stats().state;
        let draining = self.status.draining.load(Ordering::Acquire);
        let snapshot = self.gateway.snapshot();
        let release = snapshot.bundle.release();
        let expired = release.is_some_and(|release| release.is_over(SystemClock.now()));
        let denies = expired && release.is_some_and(|release| release.denies_expired);
        let ready = !draining && journal == State::Ok && !denies;
        let sources = self.status.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // A refused reload is told, but the working set serves on.
        let reload = self.status.reload_problem.load_full();
        let shadow = self.gateway.shadow().map(|shadow| {
            let (candidate, problem) = (shadow.candidate(), shadow.problem());
            json!({
                "candidate": candidate.as_ref().map(|bundle| bundle.hash()),
                "problem": (!problem.is_empty()).then_some(&*problem),
            })
        });
        let refused = self.status.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        if !known {
            return json(status, &json!({ "ready": ready }));
        }
        json(
            status,
            &json!({
                "ready": ready,
                "draining": draining,
                "journal": journal.name(),
                "bundle": snapshot.bundle.hash(),
                "release": release.map(|release| json!({
                    "serial": release.serial,
                    "expires": release.expires,
                    "expired": expired,
                    "override": release.override_reason,
                })),
                "sources": sources,
                "refused_reload": reload.as_deref(),
                "shadow": shadow,
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
