//! One pooled HTTP client per endpoint. It keeps connections and nothing else: no retries, no redirects, no proxies.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::address::Address;
use super::dial::Dialer;
use super::settings::{Dial, Http2, Plaintext};
use super::upload::Upload;
use super::validate::NO_CA;
use crate::model::Problem;
use crate::net;

pub(super) type Client = legacy::Client<Dialer, Upload>;

/// How long an unused connection is kept. Shorter than the keep-alive of common servers, so that they rarely close it first.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// Bound on the head of an HTTP/1.1 answer and on what is read ahead of a slow client, in bytes.
const HTTP1_BUFFER: usize = 128 * 1024;
/// Bound on the header fields of an answer. The library keeps the same one for HTTP/1.1 by itself (and would fill an array for each answer
/// if told so); `send.rs` keeps it for both.
pub(super) const MAX_HEADERS: usize = 100;
/// Bound on the header list of an HTTP/2 answer, in bytes.
const HTTP2_HEADER_LIST: u32 = 32 * 1024;
/// What an HTTP/2 upstream may send ahead of a slow client, in bytes, for one stream and for all of a connection.
const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What is buffered of one request body for HTTP/2, in bytes.
const HTTP2_SEND_BUFFER: usize = 64 * 1024;
/// Streams that an upstream may make us reset before its connection is closed (CVE-2023-44487 from the other side).
const HTTP2_LOCAL_RESETS: usize = 1024;
/// A connection that answers no PING for so long is dead.
const HTTP2_PING_EVERY: Duration = Duration::from_secs(20);
const HTTP2_PING_ANSWER: Duration = Duration::from_secs(10);

/// The client for one endpoint; `floods` counts its connections that were cut because of one.
pub(super) fn client(
    address: &Address,
    dial: &Dial<'_>,
    (file, place): (&str, &str),
    floods: &Arc<AtomicU64>,
) -> Result<Client, Problem> {
    let http2 = dial.http2 == Http2::Only;
    let connector = connector(address, dial, file, place)?;
    let connector = Dialer::new(connector, dial.timeouts.idle.get(), http2, Arc::clone(floods));
    let idle = usize::try_from(dial.max_in_flight).unwrap_or(usize::MAX);
    Ok(legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(idle)
        .retry_canceled_requests(false)
        .http1_max_buf_size(HTTP1_BUFFER)
        .http2_only(http2)
        .http2_initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .http2_initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .http2_max_send_buf_size(HTTP2_SEND_BUFFER)
        .http2_max_header_list_size(HTTP2_HEADER_LIST)
        .http2_max_local_error_reset_streams(HTTP2_LOCAL_RESETS)
        .http2_keep_alive_interval(HTTP2_PING_EVERY)
        .http2_keep_alive_timeout(HTTP2_PING_ANSWER)
        .build(connector))
}

/// The one place that knows how `net` is asked for a connector.
fn connector(address: &Address, dial: &Dial<'_>, file: &str, place: &str) -> Result<net::Connector, Problem> {
    let problem = |member: &str, message: String| Problem {
        file: file.to_owned(),
        place: format!("{place}.{member}"),
        message,
        hint: String::new(),
    };
    let limit = dial.timeouts.connect.get();
    let times = net::ConnectTimes { resolve: limit, dial: limit, handshake: limit };
    let origin =
        net::Origin { secure: address.is_tls(), host: net::Host::new(address.host()), port: address.port() };
    let reach = net::Reach::new(dial.allow_networks.to_vec());
    let identity = dial.client.map(|(certificate, key)| net::ClientIdentityFiles {
        certificate: certificate.clone(),
        key: key.clone(),
    });
    let connector = match (address.is_tls(), dial.ca) {
        (true, Some(ca)) => {
            let alpn = match dial.http2 {
                Http2::Auto | Http2::Only => net::Alpn::PreferHttp2,
                Http2::Never => net::Alpn::Http1,
            };
            let tls = net::ClientTls::load(ca, identity.as_ref(), alpn).map_err(|error| Problem {
                hint: error.hint().to_owned(),
                ..problem("ca", error.describe())
            })?;
            net::Connector::secure(origin, &tls, dial.server_name, reach, times)
        }
        // `validate` has said that the authorities are missing; until then nothing may be dialled without TLS.
        (true, None) => {
            let (message, hint) = NO_CA;
            return Err(Problem { hint: hint.to_owned(), ..problem("ca", message.to_owned()) });
        }
        (false, _) => {
            let plaintext = match dial.plaintext {
                Plaintext::Refused => net::Plaintext::LoopbackOnly,
                Plaintext::Accepted => net::Plaintext::Accepted,
            };
            net::Connector::plain(origin, plaintext, reach, times)
        }
    };
    connector.map_err(|error| problem("endpoints", error.to_string()))
}

/// Whether a connection failed in its TLS handshake.
pub(super) fn is_tls(error: &legacy::Error) -> bool {
    std::iter::successors(error.source(), |cause| (*cause).source())
        .filter_map(|cause| cause.downcast_ref())
        .any(|cause| matches!(cause, net::ConnectError::Handshake { .. }))
}
