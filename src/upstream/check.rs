//! The checks of one endpoint beside its traffic: a GET that carries nothing of any caller.
//!
//! A check takes no place in flight and goes through the endpoint's own pool, so it sees the network, the TLS and the server that
//! requests see. Policy is not asked: nothing crosses the border but the question.

use std::sync::Arc;

use http::header::{HeaderValue, USER_AGENT};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::endpoint::Node;
use super::send::{address, credential};
use super::settings::HealthCheck;
use super::upload::Upload;
use crate::message::{self, ReadBodyError, collect_bounded};
use crate::model::Clock;

/// Bytes of an answer that are read so that the connection can be used again.
const MOST: u64 = 16 * 1024;

/// Checks until it is aborted.
pub(super) async fn run(node: Arc<Node>, rules: Arc<HealthCheck>, clock: Arc<dyn Clock>) {
    let mut ticks = interval(rules.interval.get());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let passed = timeout(rules.timeout.get(), passes(&node, &rules, &*clock)).await.unwrap_or(false);
        node.health.checked(passed, &rules);
    }
}

/// Whether the endpoint answers with 2xx. What it says is of no interest.
async fn passes(node: &Node, rules: &HealthCheck, clock: &dyn Clock) -> bool {
    let body = message::empty();
    let Ok(request) = http::Request::get(&rules.path).body(()) else { return false };
    let (mut parts, ()) = request.into_parts();
    parts.headers.insert(USER_AGENT, HeaderValue::from_static("tidegate-health"));
    if address(&mut parts, node).and_then(|()| credential(&mut parts, node, &body, clock)).is_err() {
        return false;
    }
    let (upload, _watch) = Upload::new(body, None, rules.timeout.get(), None);
    match node.client.request(http::Request::from_parts(parts, upload)).await {
        Ok(response) if response.status().is_success() => drained(response.into_body()).await,
        Ok(_) | Err(_) => false,
    }
}

/// Reads the rest, if it is short. An answer that breaks off is no pass, one that is long is.
async fn drained(body: Incoming) -> bool {
    body.is_end_stream()
        || !matches!(collect_bounded(message::boxed(body), MOST).await, Err(ReadBodyError::Broken(_)))
}
