//! A request that passed the gate: the only form in which stages see one.

use std::sync::Arc;

use http::{HeaderMap, Method, Version};

use super::{Body, CallerHeaders, Target};

/// A request without ambiguities; `gate` makes it.
#[derive(Debug)]
pub struct Inbound {
    /// One of the methods that the gate allows.
    pub method: Method,
    /// Host, path and query.
    pub target: Arc<Target>,
    /// The headers to forward: sanitised, without `Host`, `Content-Length` and the caller's own.
    pub headers: HeaderMap,
    /// What the caller said to the gateway itself; never forwarded.
    pub caller: CallerHeaders,
    /// HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// The length of the body in bytes, if it is known before reading; 0 without a body.
    pub declared_bytes: Option<u64>,
    /// The body, bounded in bytes and idle time. Polling it sends `100 Continue` to a client that waits for it.
    pub body: Body,
}
