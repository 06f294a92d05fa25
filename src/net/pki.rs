//! A development authority, and certificates from it: for a first start, the demo and tests.
//!
//! ECDSA P-256 throughout. Nothing here is meant for production: the authority's key lies unencrypted beside what it signed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};

use crate::model::Secret;

const CA_YEARS: i64 = 5;
const LEAF_YEARS: i64 = 1;

/// A certificate and its private key, in PEM form.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: Secret,
}

impl Issued {
    /// Writes `STEM.pem` and `STEM.key` (mode 0600) into `dir` and gives their paths.
    ///
    /// # Errors
    /// One of them exists or cannot be written.
    pub fn write(&self, dir: &Path, stem: &str) -> Result<(PathBuf, PathBuf), PkiError> {
        let certificate = dir.join(format!("{stem}.pem"));
        let key = dir.join(format!("{stem}.key"));
        write_new(&key, self.key.expose(), 0o600)?;
        write_new(&certificate, self.certificate.as_bytes(), 0o644)?;
        Ok((certificate, key))
    }
}

/// Whom a certificate is for.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// A server with these DNS names and addresses; the first is also its common name.
    Server(&'a [&'a str]),
    /// A client, known by one SPIFFE ID (`spiffe://trust-domain/path`).
    Client(&'a str),
}

/// A certificate authority that can issue.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    today: Date,
}

impl Authority {
    /// A new authority, valid for five years from the day of `now`.
    ///
    /// # Errors
    /// Key generation or signing fails, or `now` is out of the calendar's range.
    pub fn new(name: &str, now: Timestamp) -> Result<Self, PkiError> {
        let today = TimeZone::UTC.to_datetime(now).date();
        let mut params = valid(CertificateParams::default(), today, CA_YEARS)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, new_key()?)?;
        Ok(Self { issuer, today })
    }

    /// The authority itself.
    #[must_use]
    pub fn issued(&self) -> Issued {
        let key = Secret::new(self.issuer.key().serialize_pem().into_bytes());
        Issued { certificate: self.issuer.pem(), key }
    }

    /// A certificate with a new key, valid for a year.
    ///
    /// # Errors
    /// A name is malformed, or signing fails.
    pub fn issue(&self, subject: Subject<'_>) -> Result<Issued, PkiError> {
        let (mut params, name, usage) = match subject {
            Subject::Server(names) => {
                let mut params = CertificateParams::default();
                for name in names {
                    params.subject_alt_names.push(match name.parse::<IpAddr>() {
                        Ok(ip) => SanType::IpAddress(ip),
                        Err(_) => SanType::DnsName((*name).try_into()?),
                    });
                }
                let name = names.first().ok_or(PkiError::NoName)?;
                (params, *name, ExtendedKeyUsagePurpose::ServerAuth)
            }
            Subject::Client(id) => {
                let path = id.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
                let Some((domain, path)) = path else { return Err(PkiError::SpiffeId(id.to_owned())) };
                if domain.is_empty() || path.is_empty() {
                    return Err(PkiError::SpiffeId(id.to_owned()));
                }
                let mut params = CertificateParams::default();
                params.subject_alt_names.push(SanType::URI(id.try_into()?));
                (params, path, ExtendedKeyUsagePurpose::ClientAuth)
            }
        };
        params = valid(params, self.today, LEAF_YEARS)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate: certificate.pem(), key: Secret::new(key.serialize_pem().into_bytes()) })
    }
}

/// Writes a file that must not exist yet: it appears whole or not at all.
///
/// # Errors
/// It exists, or cannot be written.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let at = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists(path.to_owned()),
        _ => PkiError::Write { path: path.to_owned(), source },
    };
    if path.symlink_metadata().is_ok() {
        return Err(PkiError::Exists(path.to_owned()));
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", uuid::Uuid::now_v7().simple()));
    let draft = path.with_file_name(name);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        // A link, unlike a rename, never replaces what somebody else has put there meanwhile.
        .and_then(|()| fs::hard_link(&draft, path));
    let removed = fs::remove_file(&draft);
    written.and(removed).map_err(at)
}

fn new_key() -> Result<KeyPair, PkiError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// From yesterday, so that a clock a little behind accepts it.
fn valid(mut params: CertificateParams, today: Date, years: i64) -> Result<CertificateParams, PkiError> {
    let date = |date: Date| {
        let part = |value: i8| u8::try_from(value).map_err(|_| PkiError::Date);
        Ok::<_, PkiError>(date_time_ymd(date.year().into(), part(date.month())?, part(date.day())?))
    };
    let first = today.checked_sub(1.day()).map_err(|_| PkiError::Date)?;
    let last = today.checked_add(years.years()).map_err(|_| PkiError::Date)?;
    params.not_before = date(first)?;
    params.not_after = date(last)?;
    Ok(params)
}

/// A certificate that cannot be made or written.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// Key generation, encoding or signing failed, or a name is malformed.
    #[error("certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// A server without a name.
    #[error("server certificate needs a name")]
    NoName,
    /// Not a SPIFFE ID.
    #[error("`{0}` is not a spiffe id: write for example `spiffe://example.org/app`")]
    SpiffeId(String),
    /// The clock is out of the calendar's range.
    #[error("date is out of range")]
    Date,
    /// The file exists and is not replaced.
    #[error("file `{}` exists and is not replaced", .0.display())]
    Exists(PathBuf),
    /// The file cannot be written.
    #[error("file `{}` cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::net::CertificateFacts;

    fn now() -> Timestamp {
        "2026-02-28T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn certificates_say_what_was_asked() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::new("Test CA", now()).unwrap();
        let (path, key) = ca.issued().write(dir.path(), "ca").unwrap();
        let facts = CertificateFacts::read(&path).unwrap();
        assert!(facts.is_ca);
        assert_eq!(facts.not_after.to_string(), "2031-02-28T00:00:00Z");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);

        let id = "spiffe://example.org/app";
        let (path, _) = ca.issue(Subject::Client(id)).unwrap().write(dir.path(), "app").unwrap();
        let facts = CertificateFacts::read(&path).unwrap();
        assert_eq!(facts.uri_sans, [id.into()]);
        assert!(!facts.is_ca);
        assert_eq!(facts.not_before.to_string(), "2026-02-27T00:00:00Z");
        assert_eq!(facts.not_after.to_string(), "2027-02-28T00:00:00Z");
    }

    #[test]
    fn nothing_is_replaced_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_new(&path, b"one", 0o600).unwrap();
        assert!(matches!(write_new(&path, b"two", 0o600), Err(PkiError::Exists(_))));
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn malformed_subjects_are_refused() {
        let ca = Authority::new("Test CA", now()).unwrap();
        assert!(matches!(ca.issue(Subject::Server(&[])), Err(PkiError::NoName)));
        for id in ["https://a/b", "spiffe://", "spiffe:///x", "spiffe://a/"] {
            assert!(matches!(ca.issue(Subject::Client(id)), Err(PkiError::SpiffeId(_))), "{id}");
        }
    }
}
