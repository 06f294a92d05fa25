//! Certificates and keys from PEM files, and the facts of one certificate.
//!
//! Reads and parses only; whether a chain is trusted is decided by rustls in `tls.rs`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::model::{Secret, SecretFileError};

/// The largest certificate file, in bytes; a bundle of all public roots is a quarter of it.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// The most URI names that are looked at in one certificate.
const MAX_URI_SANS: usize = 32;

/// What identity rules and alarms look at in a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// SHA-256 of the DER form.
    pub sha256: [u8; 32],
    /// All URI subject alternative names, as they stand.
    pub uri_sans: Vec<Arc<str>>,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// Whether the basic constraints say CA.
    pub is_ca: bool,
}

impl CertificateFacts {
    /// The facts of a certificate in DER form.
    ///
    /// # Errors
    /// It cannot be parsed, has trailing bytes, or more than 32 URI names.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let malformed = |_| CertificateError::Malformed;
        let (rest, certificate) = X509Certificate::from_der(der).map_err(malformed)?;
        if !rest.is_empty() {
            return Err(CertificateError::Malformed);
        }
        let names = certificate.subject_alternative_name().map_err(|_| CertificateError::Malformed)?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let uri_sans: Vec<Arc<str>> = names
            .iter()
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(Arc::from(*uri)) } else { None })
            .take(MAX_URI_SANS + 1)
            .collect();
        if uri_sans.len() > MAX_URI_SANS {
            return Err(CertificateError::TooManyNames);
        }
        let constraints = certificate.basic_constraints().map_err(|_| CertificateError::Malformed)?;
        let time = |seconds| Timestamp::from_second(seconds).map_err(|_| CertificateError::Malformed);
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, der).as_ref());
        Ok(Self {
            sha256,
            uri_sans,
            not_before: time(certificate.validity().not_before.timestamp())?,
            not_after: time(certificate.validity().not_after.timestamp())?,
            is_ca: constraints.is_some_and(|extension| extension.value.ca),
        })
    }

    /// Why the certificate is not valid at this time, if it is not.
    #[must_use]
    pub fn outside_validity(&self, now: Timestamp) -> Option<String> {
        if now < self.not_before {
            Some(format!("is not valid before {}", self.not_before))
        } else if now > self.not_after {
            Some(format!("expired on {}", self.not_after))
        } else {
            None
        }
    }

    /// The facts of all certificates of a PEM file, in order, for expiry alarms; at least one.
    ///
    /// # Errors
    /// The file cannot be read or one of its certificates not parsed.
    pub fn read_all(path: &Path) -> Result<Vec<Self>, CertificateError> {
        read_chain(path)?.iter().map(|der| Self::parse(der)).collect()
    }

    /// The facts of the first certificate of a PEM file, for checks.
    ///
    /// # Errors
    /// The file cannot be read or its first certificate not parsed.
    pub fn read(path: &Path) -> Result<Self, CertificateError> {
        let chain = read_chain(path)?;
        chain
            .first()
            .map_or_else(|| Err(CertificateError::Empty(path.to_owned())), |first| Self::parse(first))
    }
}

/// All certificates of a PEM file, in order; at least one.
pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let bytes = read_file(path, MAX_FILE_BYTES)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|source| CertificateError::Pem { path: path.to_owned(), source })?;
    if chain.is_empty() { Err(CertificateError::Empty(path.to_owned())) } else { Ok(chain) }
}

/// A file of at most `max` bytes.
fn read_file(path: &Path, max: u64) -> Result<Vec<u8>, CertificateError> {
    let read = |source| CertificateError::Read { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(read)?.len();
    if length > max {
        return Err(CertificateError::TooLarge(path.to_owned()));
    }
    std::fs::read(path).map_err(read)
}

/// The private key of a PEM file that only its owner may read.
pub(super) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let secret = Secret::read(path)?;
    PrivateKeyDer::from_pem_slice(secret.expose())
        .map_err(|source| CertificateError::Pem { path: path.to_owned(), source })
}

impl CertificateError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } => "mend the path, or put the file there; `tidegate certs init` makes a set",
            Self::Key(error) => error.hint(),
            Self::TooLarge(_) => "name a file with only the certificates that are needed",
            Self::Pem { .. } | Self::Empty(_) => {
                "name a PEM file: `-----BEGIN ...-----` lines and base64 between"
            }
            Self::Malformed | Self::TooManyNames => "issue it anew",
        }
    }
}

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file cannot be read.
    #[error("file `{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file has more than 1 MiB.
    #[error("file `{}` is larger than 1 MiB", .0.display())]
    TooLarge(PathBuf),
    /// The file is not PEM, or does not hold what was looked for.
    #[error("file `{}` is not valid pem", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The file holds no certificate.
    #[error("file `{}` holds no certificate", .0.display())]
    Empty(PathBuf),
    /// The key file is missing or open to others.
    #[error(transparent)]
    Key(#[from] SecretFileError),
    /// Not a certificate in DER form.
    #[error("certificate is malformed")]
    Malformed,
    /// More URI names than are looked at.
    #[error("certificate has more than 32 uri names")]
    TooManyNames,
}
