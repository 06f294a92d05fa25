//! The facts of one downstream connection, fixed when its handshake ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

/// What is known of the connection that a request came on.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The address of whoever connected.
    pub peer: SocketAddr,
    /// Our address that they reached.
    pub local: SocketAddr,
    /// The name asked for by SNI, lower case.
    pub server_name: Option<Arc<str>>,
    /// The HTTP version that ALPN settled.
    pub protocol: Protocol,
    /// The TLS session; none on a plain listener.
    pub tls: Option<TlsFacts>,
    /// The leaf of the verified client chain, if the client showed one.
    pub client: Option<Arc<ClientCertificate>>,
}

/// The HTTP version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 (RFC 9112).
    Http1,
    /// HTTP/2 (RFC 9113).
    Http2,
}

impl Protocol {
    /// The value of `network.protocol.version`.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::Http1 => "1.1",
            Self::Http2 => "2",
        }
    }
}

/// The parameters that a TLS handshake settled, by their registered names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1_3` or `TLSv1_2`.
    pub version: Arc<str>,
    /// The cipher suite.
    pub suite: Arc<str>,
    /// The key exchange group.
    pub group: Arc<str>,
}

/// The facts of a client certificate that identity rules look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// SHA-256 of the DER form: `x5t#S256` of RFC 8705.
    pub sha256: [u8; 32],
    /// All URI subject alternative names, as they stand.
    pub uri_sans: Vec<Arc<str>>,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// Whether the basic constraints say CA.
    pub is_ca: bool,
    /// Whether it would still be let in.
    pub standing: Standing,
}

/// Whether a client certificate that was verified in its handshake would still be let in: authorities and revocation lists change
/// while connections live. The one fact of a connection that can change, and only once.
#[derive(Debug, Clone, Default)]
pub struct Standing(Arc<AtomicBool>);

impl Standing {
    /// Whether it is still trusted.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !self.0.load(Ordering::Acquire)
    }

    /// It is trusted no longer; every copy of this shows it.
    pub fn withdraw(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl PartialEq for Standing {
    fn eq(&self, other: &Self) -> bool {
        self.is_good() == other.is_good()
    }
}

impl Eq for Standing {}
