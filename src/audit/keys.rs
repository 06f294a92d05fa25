//! Journal keys: one per tenant, `keys/<tenant>.key`, made when first needed. Deleting the file makes all digests of
//! that tenant meaningless (crypto-shredding); a running gateway notices within [`FRESH`].

use std::collections::HashMap;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::model::{Secret, SecretFileError, TenantName, hex};

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Tenants whose keys are held; a claim may name tenants, so there is a bound.
const MAX_TENANTS: usize = 16_384;
/// How long a held key is used before the file is looked at again.
pub(crate) const FRESH: Duration = Duration::from_secs(5);

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// The file is there but cannot be used.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The file has the wrong size.
    #[error("journal key `{}` has not {KEY_BYTES} bytes", .0.display())]
    Size(PathBuf),
    /// A key's file cannot be read.
    #[error("journal key `{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A new key could not be written.
    #[error("journal key `{}` cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The context of a decision is no JSON object, so nothing in it can be encrypted.
    #[error("the context of a decision cannot be read")]
    Context(#[source] serde_json::Error),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// There are too many tenants.
    #[error("more than {MAX_TENANTS} tenants have journal keys")]
    Tenants,
}

#[derive(Debug, Clone)]
struct Held {
    key: Arc<hmac::Key>,
    checked: Instant,
}

/// The keys of all tenants.
#[derive(Debug)]
pub(crate) struct Keys {
    directory: PathBuf,
    held: RwLock<HashMap<TenantName, Held>>,
    /// Held while a file is read or made, so that a key is made once.
    making: Mutex<()>,
}

/// HMAC-SHA-256 under a tenant's journal key of bytes as they pass.
pub struct Digester(hmac::Context);

impl fmt::Debug for Digester {
    /// The context holds key material.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digester")
    }
}

impl Digester {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that came, hexadecimal.
    #[must_use]
    pub fn finish(self) -> String {
        hex(self.0.sign().as_ref())
    }
}

impl Keys {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, held: RwLock::default(), making: Mutex::default() }
    }

    /// HMAC-SHA-256 under the tenant's key, hexadecimal.
    pub(crate) fn digest(&self, tenant: &TenantName, bytes: &[u8]) -> Result<String, KeyError> {
        let key = self.key(tenant)?;
        Ok(hex(hmac::sign(&key, bytes).as_ref()))
    }

    /// The same, of bytes that come one after the other.
    pub(crate) fn digester(&self, tenant: &TenantName) -> Result<Digester, KeyError> {
        Ok(Digester(hmac::Context::with_key(&*self.key(tenant)?)))
    }

    /// A key for another purpose than digests, derived from the tenant's (HMAC-SHA-256 as a pseudorandom function).
    pub(crate) fn derive(
        &self,
        tenant: &TenantName,
        purpose: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let key = self.key(tenant)?;
        let tag = hmac::sign(&key, purpose);
        tag.as_ref().first_chunk().copied().map(Zeroizing::new).ok_or(KeyError::Random)
    }

    /// Whether the tenant has a key.
    pub(crate) fn exists(&self, tenant: &TenantName) -> bool {
        self.path(tenant).exists()
    }

    fn fresh(&self, tenant: &TenantName) -> Option<Arc<hmac::Key>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.get(tenant).filter(|held| held.checked.elapsed() < FRESH).map(|held| held.key.clone())
    }

    fn key(&self, tenant: &TenantName) -> Result<Arc<hmac::Key>, KeyError> {
        if let Some(key) = self.fresh(tenant) {
            return Ok(key);
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = self.fresh(tenant) {
            return Ok(key);
        }
        let path = self.path(tenant);
        let secret = if path.exists() { Secret::read(&path)? } else { self.make(tenant, &path)? };
        if secret.expose().len() != KEY_BYTES {
            return Err(KeyError::Size(path));
        }
        let key = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret.expose()));
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.insert(tenant.clone(), Held { key: key.clone(), checked: Instant::now() });
        Ok(key)
    }

    /// `/` becomes `+`, which no name has: every tenant has a file of its own, and all are in one directory.
    fn path(&self, tenant: &TenantName) -> PathBuf {
        self.directory.join(format!("{}.key", tenant.as_str().replace('/', "+")))
    }

    fn make(&self, tenant: &TenantName, path: &Path) -> Result<Secret, KeyError> {
        let known = self.held.read().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_TENANTS && !known.contains_key(tenant) {
            return Err(KeyError::Tenants);
        }
        drop(known);
        let mut bytes = Zeroizing::new(vec![0; KEY_BYTES]);
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError::Random)?;
        self.write(path, &bytes).map_err(|source| KeyError::Write { path: path.to_owned(), source })?;
        Ok(Secret::new(bytes.to_vec()))
    }

    /// The file appears whole and durable, or not at all.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        make_directory(&self.directory)?;
        let partial = self.directory.join(".new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)?;
        File::open(&self.directory)?.sync_all()
    }
}

/// Makes a directory that only its owner may enter, with those above it.
///
/// # Errors
/// It cannot be made.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_belongs_to_one_tenant() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other): (TenantName, TenantName) = ("a/b".parse().unwrap(), "a:b".parse().unwrap());
        let keys = Keys::new(dir.path().join("keys"));
        let digest = keys.digest(&one, b"x").unwrap();
        assert_eq!(digest.len(), 64);
        assert_eq!(digest, Keys::new(dir.path().join("keys")).digest(&one, b"x").unwrap());
        assert_ne!(digest, keys.digest(&other, b"x").unwrap());
        let mode = std::fs::metadata(dir.path().join("keys/a+b.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_file(dir.path().join("keys/a+b.key")).unwrap();
        assert_ne!(digest, Keys::new(dir.path().join("keys")).digest(&one, b"x").unwrap());
    }

    #[test]
    fn a_key_that_others_can_read_or_of_wrong_size_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let tenant: TenantName = "acme".parse().unwrap();
        let path = dir.path().join("acme.key");
        std::fs::write(&path, [1; 32]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Keys::new(dir.path().into()).digest(&tenant, b""), Err(KeyError::File(_))));
        std::fs::write(&path, [1; 31]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Keys::new(dir.path().into()).digest(&tenant, b""), Err(KeyError::Size(_))));
    }
}
