//! Certificate revocation lists (RFC 5280, section 5) from files: PEM or DER, read whole, and how old they may be.
//!
//! Parses and dates only; the signature of a list and whether a certificate is on it are judged by rustls in each handshake.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

/// The largest file of revocation lists, in bytes: some 400,000 entries.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// What becomes of client certificates when a revocation list is older than its `nextUpdate`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StaleCrl {
    /// They are refused: who was revoked since nobody knows.
    #[default]
    Deny,
    /// The list counts on.
    Allow,
}

/// A revocation list, and when the next one is due.
#[derive(Debug, Clone)]
pub(super) struct Crl {
    pub(super) der: CertificateRevocationListDer<'static>,
    /// When a newer one should be there (`nextUpdate`); a list without that date counts for ever.
    pub(super) next_update: Option<Timestamp>,
}

impl Crl {
    /// Checks that it may be used now.
    pub(super) fn check(&self, path: &Path, policy: StaleCrl, now: Timestamp) -> Result<(), CrlError> {
        match self.next_update {
            Some(due) if policy == StaleCrl::Deny && now >= due => {
                Err(CrlError::Stale { path: path.to_owned(), due })
            }
            _ => Ok(()),
        }
    }
}

/// All revocation lists of a file; at least one.
pub(super) fn read(path: &Path) -> Result<Vec<Crl>, CrlError> {
    let failed = |source| CrlError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(CrlError::TooLarge(path.to_owned()));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    let malformed = || CrlError::Malformed(path.to_owned());
    // DER begins with the tag of a sequence, which is no character of PEM.
    let lists: Vec<CertificateRevocationListDer<'static>> = if bytes.first() == Some(&0x30) {
        vec![bytes.into()]
    } else {
        CertificateRevocationListDer::pem_slice_iter(&bytes)
            .collect::<Result<_, _>>()
            .map_err(|_| malformed())?
    };
    if lists.is_empty() {
        return Err(malformed());
    }
    lists.into_iter().map(|der| dated(der).ok_or_else(malformed)).collect()
}

fn dated(der: CertificateRevocationListDer<'static>) -> Option<Crl> {
    let (rest, list) = CertificateRevocationList::from_der(&der).ok()?;
    let due = list.next_update().map(|time| Timestamp::from_second(time.timestamp()));
    let whole = rest.is_empty();
    let next_update = due.transpose().ok()?;
    whole.then_some(Crl { der, next_update })
}

impl CrlError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } => "mend the path, or put the file there",
            Self::TooLarge(_) => "split it: `crl` takes several files",
            Self::Malformed(_) => "name a revocation list of the authority, as PEM or DER",
            Self::Stale { .. } => "fetch a new one from the authority, or set `stale_crl = \"allow\"`",
        }
    }
}

/// A revocation list that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// The file cannot be read.
    #[error("file `{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file has more than 16 MiB.
    #[error("file `{}` is larger than 16 MiB", .0.display())]
    TooLarge(PathBuf),
    /// The file holds no revocation list, or one that cannot be parsed.
    #[error("file `{}` is no certificate revocation list", .0.display())]
    Malformed(PathBuf),
    /// A newer list should be there.
    #[error("the revocation list of file `{}` ended on {due}", path.display())]
    Stale {
        /// The file.
        path: PathBuf,
        /// When the next one was due (`nextUpdate`).
        due: Timestamp,
    },
}
