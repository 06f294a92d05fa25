//! Keys: a root key wraps branch keys, a branch key wraps the data key of each message, and no data key is used twice.
//!
//! There is a branch key for each [`Scope`]: tenant, recipient, direction. It lies wrapped in the key directory, is unwrapped by its
//! root key when it is first used, and is held for at most five minutes; within these, a request asks no key service. Branch
//! keys are made by `tidegate keys init` and never on the way: an unknown one is a refusal.

mod branch;
mod error;
mod init;
mod name;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod public;
mod root;
mod settings;
mod store;
#[cfg(test)]
mod tests;
mod transit;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::model::{Clock, Problems, RecipientName};
use crate::protect::seal::{DataKey, Edk, EncryptionContext, aes_edk};

use branch::Branches;
use public::PublicKey;
use root::Root;

pub use error::KeyError;
pub use init::{RootFileError, make_root_files};
pub use name::{Direction, InvalidKeyName, KeyName, Scope};
#[cfg(feature = "pkcs11")]
pub use pkcs11::Pkcs11Error;
pub use public::PublicKeyError;
pub use root::{BranchKey, KEY_BYTES, RootError};
pub use settings::{KeysSettings, Pkcs11Settings, RecipientSettings, RootSettings, TransitSettings};
pub use store::{KeyFile, KeyState, KeyStore, StoreError, WriteLock};
pub use transit::TransitError;

/// Wraps at which a branch key is due for rotation: a quarter of what random nonces allow (NIST SP 800-38D, 8.3).
pub const WRAPS_DUE: u64 = 1 << 30;
/// Wraps at which it is not used any more.
pub const WRAPS_MAX: u64 = 1 << 31;

/// How much one branch key may wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Wraps that are set aside in the key file at once; those that are not done when the process ends are lost.
    pub lease: u64,
    /// Wraps at which the key is reported as due for rotation.
    pub due: u64,
    /// Wraps at which it is not used any more.
    pub most: u64,
}

impl Limits {
    /// For a command that seals one message: it sets aside one wrap.
    pub const COMMAND: Self = Self { lease: 1, due: WRAPS_DUE, most: WRAPS_MAX };
}

impl Default for Limits {
    fn default() -> Self {
        Self { lease: 1 << 20, due: WRAPS_DUE, most: WRAPS_MAX }
    }
}

/// A data key, wrapped for everybody who may open the message.
#[derive(Debug)]
pub struct Wrapped {
    /// The fresh data key.
    pub data_key: DataKey,
    /// It, encrypted for each recipient.
    pub edks: Vec<Edk>,
    /// The names of the keys that encrypted it, the recipient's own first; for records.
    pub keys: Vec<String>,
}

/// All keys of a configuration. Clones share them.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    namespace: String,
    recipients: BTreeMap<RecipientName, Recipient>,
    branches: Arc<Branches>,
}

/// Who can open.
struct Recipient {
    kind: Kind,
    also: Vec<RecipientName>,
}

enum Kind {
    /// Whoever may use that root key.
    Branch(RecipientName),
    /// The holder of the private key.
    Public(PublicKey),
}

impl Keys {
    /// The keys of these settings; reads public keys, opens no branch key and asks no key service.
    ///
    /// # Errors
    /// All problems of `[keys]` and `[recipients]` at once; `file` is the configuration's name.
    pub fn new(
        settings: &KeysSettings,
        recipients: &BTreeMap<RecipientName, RecipientSettings>,
        file: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Problems> {
        Self::with_limits(settings, recipients, file, clock, Limits::default())
    }

    /// As [`Self::new`], with other limits on what one branch key may wrap.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn with_limits(
        settings: &KeysSettings,
        recipients: &BTreeMap<RecipientName, RecipientSettings>,
        file: &str,
        clock: Arc<dyn Clock>,
        limits: Limits,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::new();
        settings.check(file, &mut problems);
        let mut roots = BTreeMap::new();
        for (name, root) in &settings.roots {
            match Root::new(root) {
                Ok(root) => {
                    roots.insert(name.clone(), root);
                }
                Err(error) => problems.push(
                    file,
                    format!("keys.roots.{name}.transit"),
                    error,
                    "write `https://` with `ca`, or `http://` to a loopback address",
                ),
            }
        }
        let mut known = BTreeMap::new();
        for (name, recipient) in recipients {
            if let Some(recipient) = check(name, recipient, (settings, recipients), file, &mut problems) {
                known.insert(name.clone(), recipient);
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let branches = Arc::new(Branches::new(settings, roots, clock, limits));
        Ok(Self(Arc::new(Inner { namespace: settings.namespace.clone(), recipients: known, branches })))
    }

    /// Whether the recipient is configured.
    #[must_use]
    pub fn knows(&self, recipient: &RecipientName) -> bool {
        self.0.recipients.contains_key(recipient)
    }

    /// The key directory.
    #[must_use]
    pub fn store(&self) -> &KeyStore {
        self.0.branches.store()
    }

    /// A fresh data key, wrapped for the recipient and for those that it names in `also`. `context` is the message's whole
    /// context, stored and required.
    ///
    /// # Errors
    /// A branch key is missing, exhausted or cannot be opened now.
    pub async fn wrap(&self, scope: &Scope, context: &EncryptionContext) -> Result<Wrapped, KeyError> {
        let data_key = DataKey::random().map_err(|_| KeyError::Crypto)?;
        let (edks, keys) = self.wrap_again(scope, &data_key, context).await?;
        Ok(Wrapped { data_key, edks, keys })
    }

    /// The data key of a message that is there already, wrapped anew for the same recipients, under the newest branch keys; and
    /// their names. The message's frames stay as they are.
    ///
    /// # Errors
    /// See [`Self::wrap`].
    pub async fn wrap_again(
        &self,
        scope: &Scope,
        data_key: &DataKey,
        context: &EncryptionContext,
    ) -> Result<(Vec<Edk>, Vec<String>), KeyError> {
        let recipient = self.recipient(&scope.recipient)?;
        let (mut edks, mut keys) = (Vec::new(), Vec::new());
        for name in std::iter::once(&scope.recipient).chain(&recipient.also) {
            let scope = Scope { recipient: name.clone(), ..scope.clone() };
            let (edk, key) = self.wrap_for(&scope, data_key, context).await?;
            edks.push(edk);
            keys.push(key);
        }
        Ok((edks, keys))
    }

    async fn wrap_for(
        &self,
        scope: &Scope,
        data_key: &DataKey,
        context: &EncryptionContext,
    ) -> Result<(Edk, String), KeyError> {
        match &self.recipient(&scope.recipient)?.kind {
            Kind::Public(key) => {
                let edk = key.wrap(&self.0.namespace, data_key).ok_or(KeyError::Crypto)?;
                Ok((edk, key.name().to_owned()))
            }
            Kind::Branch(root) => {
                let branch = self.0.branches.to_seal(scope, root).await?;
                let name = branch.text();
                let edk = aes_edk::wrap(branch.key(), &self.0.namespace, name, data_key, context);
                Ok((edk.map_err(|_| KeyError::Crypto)?, name.to_owned()))
            }
        }
    }

    /// The data key of a message, if one of its encrypted data keys is of exactly this scope; no other is tried.
    ///
    /// # Errors
    /// None is, or the branch key is retired or cannot be opened now.
    pub async fn unwrap(
        &self,
        edks: &[Edk],
        context: &EncryptionContext,
        scope: &Scope,
    ) -> Result<(DataKey, KeyName), KeyError> {
        let Kind::Branch(root) = &self.recipient(&scope.recipient)?.kind else {
            return Err(KeyError::Sealed(scope.recipient.clone()));
        };
        for edk in edks.iter().filter(|edk| edk.provider == self.0.namespace.as_bytes()) {
            let Some(name) = key_of(edk).filter(|name| name.scope == *scope) else { continue };
            let Some(branch) = self.0.branches.to_open(&name, root).await? else { continue };
            let opened = aes_edk::unwrap(branch.key(), &self.0.namespace, branch.text(), edk, context);
            if let Some(data_key) = opened {
                return Ok((data_key, name));
            }
        }
        Err(KeyError::Foreign(scope.clone()))
    }

    /// The recipients that a message names, as far as their names are ours and configured; nothing of it is verified.
    pub fn named<'a>(&'a self, edks: &'a [Edk]) -> impl Iterator<Item = KeyName> + 'a {
        let ours = edks.iter().filter(|edk| edk.provider == self.0.namespace.as_bytes());
        ours.filter_map(key_of).filter(|name| self.knows(&name.scope.recipient))
    }

    /// Makes the next version of a branch key; the one before it opens only.
    ///
    /// # Errors
    /// The recipient has no branch keys, its root key cannot be used, or the directory cannot be written.
    pub async fn make(&self, scope: &Scope) -> Result<KeyName, KeyError> {
        self.0.branches.make(scope, self.root_of(scope)?).await
    }

    /// Wraps a branch key anew under the newest version of its recipient's root key.
    ///
    /// # Errors
    /// The key is not there, its root key cannot be used, or the directory cannot be written.
    pub async fn rewrap(&self, name: &KeyName) -> Result<(), KeyError> {
        self.0.branches.rewrap(name, self.root_of(&name.scope)?).await
    }

    /// A branch key in the clear, to hand it to a job that has no Tidegate.
    ///
    /// # Errors
    /// The key is not there or retired, or its root key cannot be used.
    pub async fn export(&self, name: &KeyName) -> Result<BranchKey, KeyError> {
        let branch = self.0.branches.to_open(name, self.root_of(&name.scope)?).await?;
        branch.map(|branch| branch.key().clone()).ok_or_else(|| KeyError::Foreign(name.scope.clone()))
    }

    /// Whether a version is due for rotation, by its age or its wraps.
    #[must_use]
    pub fn is_due(&self, file: &KeyFile, now: Timestamp) -> bool {
        self.0.branches.is_due(file, now)
    }

    fn recipient(&self, name: &RecipientName) -> Result<&Recipient, KeyError> {
        self.0.recipients.get(name).ok_or_else(|| KeyError::Recipient(name.clone()))
    }

    fn root_of(&self, scope: &Scope) -> Result<&RecipientName, KeyError> {
        match &self.recipient(&scope.recipient)?.kind {
            Kind::Branch(root) => Ok(root),
            Kind::Public(_) => Err(KeyError::Sealed(scope.recipient.clone())),
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("recipients", &self.0.recipients.keys()).finish_non_exhaustive()
    }
}

fn key_of(edk: &Edk) -> Option<KeyName> {
    aes_edk::name_of(edk)?.parse().ok()
}

/// One recipient; none if something is wrong with it, which is then in `problems`.
fn check(
    name: &RecipientName,
    recipient: &RecipientSettings,
    (settings, all): (&KeysSettings, &BTreeMap<RecipientName, RecipientSettings>),
    file: &str,
    problems: &mut Problems,
) -> Option<Recipient> {
    let mut note = |key: &str, message: String, hint: &str| {
        problems.push(file, format!("recipients.{name}{key}"), message, hint);
    };
    if recipient.also.len() >= settings::MAX_RECIPIENTS {
        let message = format!("names {} more recipients", recipient.also.len());
        note(".also", message, "a message is wrapped for 4 at most");
    }
    for other in &recipient.also {
        if other == name || !all.contains_key(other) {
            let message = format!("`{other}` is no other recipient of `[recipients]`");
            note(".also", message, "correct the name, or add the recipient");
        }
    }
    let kind = match (&recipient.root, &recipient.public_key) {
        (Some(root), None) if settings.roots.contains_key(root) => Some(Kind::Branch(root.clone())),
        (Some(root), None) => {
            let message = format!("`{root}` is no root key of `[keys.roots]`");
            note(".root", message, "correct the name, or add the root key");
            None
        }
        (None, Some(path)) => match PublicKey::read(name, path) {
            Ok(key) => Some(Kind::Public(key)),
            Err(error) => {
                note(".public_key", error.to_string(), error.hint());
                None
            }
        },
        _ => {
            let hint = "a root key for another Tidegate, a public key for a job";
            note("", "needs exactly one of `root` and `public_key`".to_owned(), hint);
            None
        }
    };
    kind.map(|kind| Recipient { kind, also: recipient.also.clone() })
}
