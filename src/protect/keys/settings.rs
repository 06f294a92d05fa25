//! `[keys]` and `[recipients]`: where branch keys lie, what opens them, and who may open what is sealed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Duration, Problems, RecipientName};

/// The longest time that a branch key is held in memory.
const MAX_CACHE: std::time::Duration = std::time::Duration::from_secs(300);
/// The namespace of AWS's own key service, which is not ours to use.
const FOREIGN_NAMESPACE: &str = "aws-kms";
/// The most recipients that one message is wrapped for.
pub(super) const MAX_RECIPIENTS: usize = crate::protect::seal::MAX_EDKS;

/// The `[keys]` table.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeysSettings {
    /// The folder of the branch keys, each wrapped by a root key; `tidegate keys init` fills it.
    pub directory: PathBuf,
    /// How long a branch key is held in memory, and so how long the gateway goes on while the key service is down. At most `5m`.
    #[serde(default = "default_cache")]
    pub cache: Duration,
    /// The key namespace in sealed messages: an opener has to be told the same. Not `aws-kms`.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// The age at which a branch key is due for rotation, which `keys list` and the log then say. At most `365d`.
    #[serde(default = "default_rotate_after")]
    pub rotate_after: Duration,
    /// Root keys by name; each wraps branch keys and nothing else.
    #[serde(default)]
    pub roots: BTreeMap<RecipientName, RootSettings>,
}

/// A root key.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RootSettings {
    /// File with 32 random bytes in base64, mode 0600; `tidegate keys init` makes it. Exactly one of `file`, `transit` and `pkcs11`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// A key of the transit engine of OpenBao or Vault. Absent: see `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transit: Option<TransitSettings>,
    /// A key in a hardware module, by PKCS#11; only in a build with the feature `pkcs11`. Absent: see `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pkcs11: Option<Pkcs11Settings>,
}

/// A key of a transit engine.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TransitSettings {
    /// Base URL: `https`, or `http` to a loopback address.
    pub address: String,
    /// PEM file of the authorities that it is trusted by. Required for `https`; absent for `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Where the engine is mounted.
    #[serde(default = "default_mount")]
    pub mount: String,
    /// The key's name there: an AES-256-GCM key that the token may encrypt and decrypt with.
    pub key: String,
    /// File with the token, mode 0600; read again at each call, so that an agent may renew it.
    pub token_file: PathBuf,
    /// The longest wait for an answer. At most `10s`.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
}

/// A key in a hardware module.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pkcs11Settings {
    /// The module: the maker's shared library.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The key's label: AES, 256 bits, not extractable.
    pub key: String,
    /// File with the PIN, mode 0600.
    pub pin_file: PathBuf,
}

/// One `[recipients.NAME]` table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecipientSettings {
    /// The root key that wraps its branch keys: the far side opens them if it may use that root key too. Exactly one of `root` and
    /// `public_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RecipientName>,
    /// PEM file of an RSA public key of 2048 bits or more (RSA-OAEP with SHA-256): only its holder can open. Absent: see `root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PathBuf>,
    /// Other recipients that each message is wrapped for as well; at most 3. Absent: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<RecipientName>,
}

const fn default_cache() -> Duration {
    Duration::secs(300)
}

fn default_namespace() -> String {
    "tidegate".to_owned()
}

const fn default_rotate_after() -> Duration {
    Duration::secs(30 * 24 * 3600)
}

fn default_mount() -> String {
    "transit".to_owned()
}

const fn default_timeout() -> Duration {
    Duration::secs(2)
}

impl KeysSettings {
    /// What is wrong with the table itself; `file` is the configuration's name.
    pub(super) fn check(&self, file: &str, problems: &mut Problems) {
        let mut note = |key: &str, message: String, hint: &str| {
            problems.push(file, format!("keys.{key}"), message, hint);
        };
        if self.cache.get() > MAX_CACHE || self.cache.get().is_zero() {
            note("cache", format!("`{}` is not within 1ms and 5m", self.cache), "leave it out for `5m`");
        }
        if self.namespace.is_empty() || self.namespace.len() > 64 || self.namespace == FOREIGN_NAMESPACE {
            let message = format!("`{}` is no namespace for our keys", self.namespace);
            note("namespace", message, "leave it out for `tidegate`");
        }
        if self.rotate_after.get() > std::time::Duration::from_secs(365 * 24 * 3600) {
            note(
                "rotate_after",
                format!("`{}` is more than a year", self.rotate_after),
                "leave it out for `30d`",
            );
        }
        for (name, root) in &self.roots {
            root.check(&mut |key, message, hint| note(&format!("roots.{name}{key}"), message, hint));
        }
    }
}

impl RootSettings {
    fn check(&self, note: &mut dyn FnMut(&str, String, &str)) {
        let kinds = [self.file.is_some(), self.transit.is_some(), self.pkcs11.is_some()];
        if kinds.iter().filter(|kind| **kind).count() != 1 {
            let message = "needs exactly one of `file`, `transit` and `pkcs11`".to_owned();
            note("", message, "a file for one machine, transit or a hardware module for more");
        }
        if let Some(transit) = &self.transit
            && transit.timeout.get() > std::time::Duration::from_secs(10)
        {
            let message = format!("`{}` is more than 10s", transit.timeout);
            note(".transit.timeout", message, "requests wait for it when a key is first used");
        }
        #[cfg(not(feature = "pkcs11"))]
        if self.pkcs11.is_some() {
            let message = "this build has no PKCS#11".to_owned();
            note(".pkcs11", message, "build it with `cargo build --release --features pkcs11`");
        }
    }
}
