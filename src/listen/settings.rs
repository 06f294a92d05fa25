//! What the operator sets for a listener: address, TLS, bounds.
//!
//! A value here has been read, not yet tried: [`Settings::check`] finds everything that [`super::Listener::bind`] would refuse, without binding.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{ByteSize, Clock as _, Duration, Problems, SystemClock};
use crate::net::{ClientAuth, ServerTlsFiles, StaleCrl};

/// The smallest head bound that the HTTP library can work with.
const MIN_HEADER_BYTES: u64 = 1024;
/// The largest head bound: what one connection may make us hold.
const MAX_HEADER_BYTES: u64 = 1024 * 1024;
/// HTTP/2 windows are 31 bits (RFC 9113 section 6.9.1).
const MAX_WINDOW: u64 = (1 << 31) - 1;

/// One listener.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// IP address and port to listen on; port 0 takes a free one.
    #[schemars(with = "String")]
    pub address: SocketAddr,
    /// TLS. Absent: plain HTTP, which only a loopback address may speak.
    #[serde(default)]
    pub tls: Option<TlsSettings>,
    /// Networks in CIDR form of the load balancers in front. A connection from there must begin with a header of the PROXY protocol, version 2,
    /// and whoever it names is the peer; all others are taken as they come.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub proxy_protocol: Vec<IpNet>,
    /// Bounds on connections and heads.
    #[serde(default)]
    pub limits: Limits,
    /// Bounds on HTTP/2.
    #[serde(default)]
    pub http2: Http2,
    /// How long requests in flight may go on after the stop signal.
    #[serde(default = "default_drain")]
    pub drain: Duration,
}

/// The certificate that a listener shows, and what it asks of clients.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// PEM file: the certificate, then the intermediates.
    pub certificate: PathBuf,
    /// PEM file: the private key; mode 0600.
    pub key: PathBuf,
    /// Whether clients must show a certificate: `off`, `optional` or `required`.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// PEM file: the authorities that client certificates must come from. Required unless `client_auth` is `off`.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// Files of revocation lists of these authorities, PEM or DER. With any, a client certificate is refused if it is on one, and
    /// if no list is of its issuer. Absent: nothing is revoked.
    #[serde(default)]
    pub crl: Vec<PathBuf>,
    /// What a revocation list does that is older than its `nextUpdate`: `deny` every client certificate, or `allow` it to count on.
    #[serde(default)]
    pub stale_crl: StaleCrl,
    /// How often the contents of these files are compared with what is loaded; SIGHUP compares at once.
    #[serde(default = "default_poll")]
    pub poll: Duration,
}

/// Bounds on connections and heads.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once; more are closed at once.
    pub max_connections: u32,
    /// Connections at once from one IPv4 address or one IPv6 /64; 0 is no bound.
    pub max_connections_per_ip: u32,
    /// Time for the TLS handshake.
    pub handshake_timeout: Duration,
    /// Time for a request head, from its first byte to its last.
    pub header_timeout: Duration,
    /// Bytes of a request head (HTTP/1).
    pub max_header_bytes: ByteSize,
    /// Header fields of a request.
    pub max_headers: u16,
    /// Time without a request, or without progress of a write, after which a connection is closed; over HTTP/2 an answer that its client
    /// leaves lying ends its stream alone, and each KiB of it buys a second, at most as much again.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_ip: 100,
            handshake_timeout: Duration::secs(10),
            header_timeout: Duration::secs(10),
            max_header_bytes: ByteSize::kib(32),
            max_headers: 100,
            idle_timeout: Duration::secs(60),
        }
    }
}

/// Bounds on HTTP/2.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http2 {
    /// Requests at once on one connection.
    pub max_concurrent_streams: u32,
    /// Bytes of a decoded header list.
    pub max_header_list_size: ByteSize,
    /// Streams that a client reset before we took them; more end the connection (CVE-2023-44487).
    pub max_pending_accept_reset_streams: u16,
    /// Streams that we reset for the client's errors; more end the connection (CVE-2025-8671).
    pub max_local_error_reset_streams: u16,
    /// Bytes that a client may send ahead on one stream.
    pub initial_stream_window: ByteSize,
    /// Bytes that a client may send ahead on a connection.
    pub initial_connection_window: ByteSize,
    /// Bytes of answers held for one stream while the client does not take them.
    pub max_send_buffer: ByteSize,
    /// Time between keep-alive pings.
    pub keepalive_interval: Duration,
    /// Time for the answer to a ping.
    pub keepalive_timeout: Duration,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 100,
            max_header_list_size: ByteSize::kib(32),
            max_pending_accept_reset_streams: 20,
            max_local_error_reset_streams: 1024,
            initial_stream_window: ByteSize::kib(64),
            initial_connection_window: ByteSize::mib(1),
            max_send_buffer: ByteSize::kib(64),
            keepalive_interval: Duration::secs(20),
            keepalive_timeout: Duration::secs(10),
        }
    }
}

const fn default_drain() -> Duration {
    Duration::secs(120)
}

const fn default_poll() -> Duration {
    Duration::secs(1)
}

impl Settings {
    /// A listener with default bounds.
    #[must_use]
    pub fn new(address: SocketAddr, tls: Option<TlsSettings>) -> Self {
        Self {
            address,
            tls,
            proxy_protocol: Vec::new(),
            limits: Limits::default(),
            http2: Http2::default(),
            drain: default_drain(),
        }
    }

    /// Whether an address is of a load balancer that speaks the PROXY protocol.
    pub(super) fn is_balancer(&self, ip: IpAddr) -> bool {
        self.proxy_protocol.iter().any(|network| network.contains(&ip))
    }

    /// Everything that would keep the listener from starting, but for the address being taken. `place` is where these settings stand in `file`.
    #[must_use]
    pub fn check(&self, file: &str, place: &str) -> Problems {
        let mut problems = Problems::new();
        match &self.tls {
            Some(tls) => {
                for (setting, error) in tls.files().problems(SystemClock.now()) {
                    problems.push(file, format!("{place}.tls.{setting}"), error.describe(), error.hint());
                }
            }
            None if !is_loopback(self.address.ip()) => problems.push(
                file,
                format!("{place}.tls"),
                format_args!("is missing: `{}` is no loopback address", self.address),
                "add certificate and key, or listen on `127.0.0.1`",
            ),
            None => {}
        }
        for network in self.proxy_protocol.iter().filter(|network| network.prefix_len() == 0) {
            problems.push(
                file,
                format!("{place}.proxy_protocol"),
                format_args!("`{network}` is every address: anybody could say whose connection it is"),
                "name the addresses of the load balancers",
            );
        }
        let mut bound = |name: &str, value: u64, min: u64, max: u64| {
            if value < min || value > max {
                let hint = format!("use {min} to {max}");
                problems.push(file, format!("{place}.{name}"), format_args!("{value} is out of range"), hint);
            }
        };
        let (limits, http2) = (&self.limits, &self.http2);
        bound("limits.max_connections", limits.max_connections.into(), 1, 1_000_000);
        bound("limits.max_header_bytes", limits.max_header_bytes.get(), MIN_HEADER_BYTES, MAX_HEADER_BYTES);
        bound("limits.max_headers", limits.max_headers.into(), 1, 1_000);
        bound("http2.max_concurrent_streams", http2.max_concurrent_streams.into(), 1, 10_000);
        let list = http2.max_header_list_size.get();
        bound("http2.max_header_list_size", list, MIN_HEADER_BYTES, MAX_HEADER_BYTES);
        bound("http2.initial_stream_window", http2.initial_stream_window.get(), 1, MAX_WINDOW);
        bound("http2.initial_connection_window", http2.initial_connection_window.get(), 65_535, MAX_WINDOW);
        bound("http2.max_send_buffer", http2.max_send_buffer.get(), MIN_HEADER_BYTES, MAX_WINDOW);
        problems
    }
}

impl TlsSettings {
    /// Certificate and key, with default settings.
    #[must_use]
    pub fn new(certificate: PathBuf, key: PathBuf) -> Self {
        Self {
            certificate,
            key,
            client_auth: ClientAuth::Off,
            client_ca: None,
            crl: Vec::new(),
            stale_crl: StaleCrl::Deny,
            poll: default_poll(),
        }
    }

    /// The files, as `net` takes them.
    #[must_use]
    pub fn files(&self) -> ServerTlsFiles {
        ServerTlsFiles {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            client_auth: self.client_auth,
            client_ca: self.client_ca.clone(),
            crl: self.crl.clone(),
            stale_crl: self.stale_crl,
        }
    }
}

pub(super) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_file_takes_the_defaults() {
        let settings: Settings =
            toml::from_str("address = '127.0.0.1:0'\n[limits]\nmax_headers = 7").unwrap();
        assert_eq!(settings.limits.max_headers, 7);
        assert_eq!(settings.limits.max_connections, 10_000);
        assert_eq!(settings.http2.max_concurrent_streams, 100);
        assert!(settings.check("t.toml", "listen").is_empty());
        assert!(toml::from_str::<Settings>("address = '127.0.0.1:0'\nlimit = 1").is_err());
    }

    #[test]
    fn not_everybody_is_a_load_balancer() {
        for (networks, good) in
            [("'10.1.0.0/16', 'fd00::/8'", true), ("'0.0.0.0/0'", false), ("'::/0'", false)]
        {
            let text = format!("address = '127.0.0.1:0'\nproxy_protocol = [{networks}]");
            let settings: Settings = toml::from_str(&text).unwrap();
            assert_eq!(settings.check("t.toml", "listen").is_empty(), good, "{networks}");
        }
    }

    #[test]
    fn all_problems_come_at_once() {
        let text = "address = '0.0.0.0:0'\n[limits]\nmax_headers = 0\nmax_header_bytes = '1B'";
        let settings: Settings = toml::from_str(text).unwrap();
        assert_eq!(settings.check("t.toml", "listen").iter().count(), 3);
    }
}
