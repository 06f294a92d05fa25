//! How Tidegate reaches and is reached: TLS configurations, certificates, the connector with its address rules, a small HTTPS client.
//!
//! Nothing here knows of requests, policies or records. Trust is always a named file: the system's roots are never taken silently, redirects are never
//! followed, and an address is checked at the moment it is dialled. Start with `tls.rs` for what is negotiated, `address.rs` for what may be dialled,
//! `flood.rs` for how much an HTTP/2 peer may send.

mod address;
mod certificate;
mod client;
mod connector;
mod crl;
mod flood;
mod pki;
mod server;
mod tls;

pub use address::{AddressError, Host, Origin, OriginError, Reach};
pub use certificate::{CertificateError, CertificateFacts};
pub use client::{Client, ClientError, ClientSettings, FetchError, private_networks};
pub use connector::{ConnectError, ConnectTimes, Connector, Plaintext, Resolver, Stream};
pub use crl::{CrlError, StaleCrl};
pub(crate) use flood::{Counted, Flood, Side};
pub use pki::{Authority, Issued, PkiError, Subject, write_new};
pub use server::{ServerTls, ServerTlsFiles, TlsChange};
pub(crate) use tls::H2;
pub use tls::{Alpn, ClientAuth, ClientIdentityFiles, ClientTls, TlsError};
