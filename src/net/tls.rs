//! What TLS negotiates, for both directions: versions, key exchange, ALPN, and who is trusted.
//!
//! The provider is passed explicitly to every configuration; the process default is neither set nor read.
//! Post-quantum hybrid key exchange (X25519MLKEM768) comes first; TLS 1.2 stays for old clients; early data is never on, for it can be replayed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::certificate::{CertificateError, read_chain, read_key};
use super::crl::CrlError;

/// Whether a client must show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// None is asked for.
    #[default]
    Off,
    /// One is asked for; if shown it must be valid.
    Optional,
    /// Without a valid one there is no connection.
    Required,
}

/// The application protocols that a client offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2, else HTTP/1.1.
    PreferHttp2,
}

/// A certificate that we show as a client.
#[derive(Debug, Clone)]
pub struct ClientIdentityFiles {
    /// The certificate, then the intermediates.
    pub certificate: PathBuf,
    /// The private key, mode 0600.
    pub key: PathBuf,
}

/// A client's TLS configuration: trust in the authorities of one file and in nothing else.
#[derive(Debug, Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl ClientTls {
    /// Reads the authorities, and the certificate to show if there is one.
    /// To trust the system's roots, name the system's file, for example `/etc/ssl/certs/ca-certificates.crt`.
    ///
    /// # Errors
    /// A file is missing, malformed or open to others, or key and certificate differ.
    pub fn load(ca: &Path, identity: Option<&ClientIdentityFiles>, alpn: Alpn) -> Result<Self, TlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(VERSIONS)
            .map_err(TlsError::Provider)?
            .with_root_certificates(roots(ca)?);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(files) => builder
                .with_client_auth_cert(read_chain(&files.certificate)?, read_key(&files.key)?)
                .map_err(|source| TlsError::Identity { path: files.certificate.clone(), source })?,
        };
        config.alpn_protocols = match alpn {
            Alpn::Http1 => vec![HTTP1.to_vec()],
            Alpn::PreferHttp2 => vec![H2.to_vec(), HTTP1.to_vec()],
        };
        config.enable_early_data = false;
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }
}

/// A TLS configuration that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate or key file.
    #[error(transparent)]
    File(#[from] CertificateError),
    /// Key and certificate do not fit, or rustls cannot use them.
    #[error("certificate `{}` cannot be used with its key", path.display())]
    Identity {
        /// The certificate file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// A certificate that is no trust anchor.
    #[error("file `{}` holds a certificate that is no authority", path.display())]
    Root {
        /// The authorities file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// Client certificates are wanted but nobody is trusted to issue them.
    #[error("client certificates are asked for, but `client_ca` is missing")]
    NoClientCa,
    /// An authorities file without a meaning.
    #[error("`client_ca` has no effect while `client_auth` is `off`")]
    UnusedClientCa,
    /// Revocation lists without a meaning.
    #[error("`crl` has no effect while `client_auth` is `off`")]
    UnusedCrl,
    /// A revocation list that cannot be used.
    #[error(transparent)]
    Crl(#[from] CrlError),
    /// The client certificate verifier cannot be built.
    #[error("client authorities of `{}` cannot be used", path.display())]
    Verifier {
        /// The authorities file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
    /// The cryptography provider refuses our choice of protocols.
    #[error("cryptography provider is unusable")]
    Provider(#[source] rustls::Error),
}

impl TlsError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::File(error) => error.hint(),
            Self::Identity { .. } => "name the key that the certificate was issued for",
            Self::Root { .. } | Self::Verifier { .. } => "name a PEM file of certificate authorities",
            Self::NoClientCa => {
                "name a PEM file of the authorities of clients, or set `client_auth = \"off\"`"
            }
            Self::UnusedCrl => "set `client_auth` to `optional` or `required`, or remove it",
            Self::Crl(error) => error.hint(),
            Self::UnusedClientCa => "set `client_auth` to `optional` or `required`, or remove it",
            Self::Provider(_) => "this is a fault of the build: report it",
        }
    }

    /// The error with its causes, in one line, for a person.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

/// The name of HTTP/2 in ALPN.
pub(crate) const H2: &[u8] = b"h2";
pub(super) const HTTP1: &[u8] = b"http/1.1";
pub(super) const VERSIONS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// AWS-LC with our order of key exchange groups; its suites are AEAD with forward secrecy only.
pub(super) fn provider() -> CryptoProvider {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    CryptoProvider {
        kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1],
        ..aws_lc_rs::default_provider()
    }
}

pub(super) fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(path)? {
        add_root(&mut roots, path, certificate)?;
    }
    Ok(roots)
}

fn add_root(roots: &mut RootCertStore, path: &Path, root: CertificateDer<'static>) -> Result<(), TlsError> {
    roots.add(root).map_err(|source| TlsError::Root { path: path.to_owned(), source })
}
