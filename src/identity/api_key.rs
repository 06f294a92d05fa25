//! API keys: `tgk_<id>_<secret>`. Only SHA-256 of the whole key is stored, and compared in constant time.
//!
//! The secret has 256 random bits, so that a plain hash cannot be searched.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use crate::model::{Authn, Chain, Principal, PrincipalKind, Problems, TeamName, TenantName};

use super::error::IdentityError;
use super::{ANONYMOUS, hex, read_bounded};

/// How every key begins.
pub(super) const PREFIX: &str = "tgk_";
/// base64url of 32 bytes without padding.
const SECRET_CHARS: usize = 43;
/// The longest id of a key, in bytes.
const MAX_ID_BYTES: usize = 64;
/// The largest file of keys, in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// The most keys of a file.
const MAX_KEYS: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File<T> {
    keys: Vec<T>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    sha256: String,
    tenant: TenantName,
    kind: Kind,
    #[serde(default)]
    teams: Vec<TeamName>,
    #[serde(default)]
    expires: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    User,
    Workload,
}

#[derive(Debug)]
struct Key {
    sha256: [u8; 32],
    principal: Arc<Principal>,
}

/// The keys of the configured file.
#[derive(Debug, Default)]
pub(super) struct ApiKeys(HashMap<String, Key>);

impl ApiKeys {
    pub(super) fn read(path: &Path, problems: &mut Problems) -> Self {
        let name = path.display().to_string();
        let text = match read_bounded(path, MAX_FILE_BYTES).map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(_)) => {
                problems.push(name, "", "is not UTF-8", "save it as UTF-8");
                return Self::default();
            }
            Err(error) => {
                problems.push(
                    name,
                    "",
                    format!("cannot be read: {error}"),
                    "mend `identity.api_keys`, or put the file there",
                );
                return Self::default();
            }
        };
        let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let entries = if is_json { json_entries(&text) } else { toml_entries(&text) };
        match entries {
            Ok(entries) => Self::new(entries, &name, problems),
            Err((place, message)) => {
                problems.push(name, place, message, "write a list `keys` of tables, `[[keys]]` in TOML");
                Self::default()
            }
        }
    }

    /// Entries that do not parse come with what is wrong.
    fn new(entries: Vec<Result<Entry, String>>, name: &str, problems: &mut Problems) -> Self {
        if entries.len() > MAX_KEYS {
            problems.push(name, "keys", "more than 10000 keys", "remove some");
        }
        let mut keys = HashMap::new();
        for (index, entry) in entries.into_iter().enumerate().take(MAX_KEYS) {
            let place = format!("keys[{index}]");
            let entry = match entry {
                Ok(entry) => entry,
                Err(message) => {
                    let hint =
                        "a key has `id`, `sha256`, `tenant`, `kind`, and may have `teams` and `expires`";
                    problems.push(name, place, message, hint);
                    continue;
                }
            };
            if !is_id(&entry.id) || entry.id == ANONYMOUS {
                let hint = "use 1 to 64 letters, digits, `-` and `.`, but not `anonymous`";
                problems.push(name, format!("{place}.id"), format!("`{}` is no id", entry.id), hint);
                continue;
            }
            let Some(sha256) = parse_hex(&entry.sha256) else {
                let hint = "`printf %s KEY | sha256sum` prints it";
                problems.push(name, format!("{place}.sha256"), "is not 64 hexadecimal digits", hint);
                continue;
            };
            let id = entry.id.clone();
            let key = Key { sha256, principal: Arc::new(principal(entry)) };
            if keys.insert(id, key).is_some() {
                problems.push(name, place, "has the id of an earlier key", "give each key its own id");
            }
        }
        Self(keys)
    }

    /// Whether a key of a workload has this id.
    pub(super) fn names_workload(&self, id: &str) -> bool {
        self.0.get(id).is_some_and(|key| key.principal.kind == PrincipalKind::Workload)
    }

    /// The principal of a key as it was presented.
    pub(super) fn identify(&self, text: &[u8], now: Timestamp) -> Result<&Arc<Principal>, IdentityError> {
        let id = split(text).ok_or(IdentityError::ApiKeyUnknown)?;
        let found = self.0.get(id);
        let presented = digest(&SHA256, text);
        // An unknown id costs the same comparison as a wrong secret.
        let expected = found.map_or(&[0; 32], |key| &key.sha256);
        let equal = bool::from(presented.as_ref().ct_eq(expected.as_slice()));
        let key = found.filter(|_| equal).ok_or(IdentityError::ApiKeyUnknown)?;
        match key.principal.expires_at {
            Some(end) if now >= end => Err(IdentityError::ApiKeyExpired),
            _ => Ok(&key.principal),
        }
    }
}

/// The entries one by one, so that a mistake in one hides none in another; else the place and what is wrong.
type Entries = Result<Vec<Result<Entry, String>>, (String, String)>;

fn json_entries(text: &str) -> Entries {
    let file: File<serde_json::Value> = serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        (format!("line {}, column {}", error.line(), error.column()), message)
    })?;
    Ok(file
        .keys
        .into_iter()
        .map(|entry| serde_json::from_value(entry).map_err(|error| error.to_string()))
        .collect())
}

fn toml_entries(text: &str) -> Entries {
    let file: File<toml::Value> = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        let place = format!("line {}, column {column}", before.matches('\n').count() + 1);
        (place, error.message().to_owned())
    })?;
    Ok(file
        .keys
        .into_iter()
        .map(|entry| {
            // Its second line repeats the key.
            entry.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
        })
        .collect())
}

/// The id of a key of the right form.
fn split(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?;
    let rest = text.strip_prefix(PREFIX)?;
    let (id, secret) = rest.split_at_checked(rest.len().checked_sub(SECRET_CHARS)?)?;
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let id = id.strip_suffix('_')?;
    (is_id(id) && secret.bytes().all(fine)).then_some(id)
}

fn is_id(id: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    !id.is_empty() && id.len() <= MAX_ID_BYTES && id.bytes().all(fine)
}

fn principal(entry: Entry) -> Principal {
    let mut teams = entry.teams;
    teams.sort();
    teams.dedup();
    let credential = hex(digest(&SHA256, entry.id.as_bytes()).as_ref());
    let (kind, id) = match entry.kind {
        Kind::User => (PrincipalKind::User, format!("apikey|{}", entry.id)),
        Kind::Workload => (PrincipalKind::Workload, entry.id),
    };
    Principal {
        kind,
        id: Arc::from(id),
        tenant: entry.tenant,
        teams,
        authn: Authn::ApiKey,
        chain: Chain::default(),
        issued_at: None,
        expires_at: entry.expires,
        credential: Some(credential),
    }
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || pairs.len() != 32 {
        return None;
    }
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; 32];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// A key that was just made. The text is shown once and stored nowhere.
#[derive(Clone)]
pub struct NewApiKey {
    /// The key as its holder presents it.
    pub text: zeroize::Zeroizing<String>,
    /// SHA-256 of the text in lower-case hexadecimal: what the file of keys holds.
    pub sha256: String,
}

impl std::fmt::Debug for NewApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewApiKey").field("sha256", &self.sha256).finish_non_exhaustive()
    }
}

/// Why no key could be made.
#[derive(Debug, thiserror::Error)]
pub enum NewApiKeyError {
    /// The id does not fit.
    #[error("`{0}` is no id of an API key: use 1 to 64 letters, digits, `-` and `.`, but not `anonymous`")]
    Id(String),
    /// The system gave no random bytes.
    #[error("the system's random generator failed")]
    Random,
}

/// Makes a key with 256 random bits.
///
/// # Errors
/// The id does not fit, or there is no randomness.
pub fn new_api_key(id: &str) -> Result<NewApiKey, NewApiKeyError> {
    if !is_id(id) || id == ANONYMOUS {
        return Err(NewApiKeyError::Id(id.chars().take(MAX_ID_BYTES).collect()));
    }
    let mut secret = zeroize::Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(secret.as_mut_slice()).map_err(|_| NewApiKeyError::Random)?;
    let encoded = zeroize::Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.as_slice()));
    let text = zeroize::Zeroizing::new(format!("{PREFIX}{id}_{}", encoded.as_str()));
    let sha256 = hex(digest(&SHA256, text.as_bytes()).as_ref()).as_ref().to_owned();
    Ok(NewApiKey { text, sha256 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(text: &str) -> (ApiKeys, Problems) {
        let mut problems = Problems::new();
        let keys = ApiKeys::new(toml_entries(text).unwrap(), "keys.toml", &mut problems);
        (keys, problems)
    }

    #[test]
    fn a_new_key_identifies_its_holder_until_it_ends() {
        let new = new_api_key("ci-1").unwrap();
        let (keys, problems) = keys(&format!(
            "[[keys]]\nid = 'ci-1'\nsha256 = '{}'\ntenant = 'acme'\nkind = 'user'\nexpires = '2026-01-01T00:00:00Z'",
            new.sha256
        ));
        assert!(problems.is_empty(), "{problems}");
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let found = keys.identify(new.text.as_bytes(), at("2025-12-31T23:59:59Z")).unwrap();
        assert_eq!((found.kind, found.id.as_ref()), (PrincipalKind::User, "apikey|ci-1"));
        let late = keys.identify(new.text.as_bytes(), at("2026-01-01T00:00:00Z")).unwrap_err();
        assert_eq!(late.code(), "api_key_expired");
        assert!(!format!("{new:?}").contains(new.text.as_str()));
    }

    #[test]
    fn wrong_entries_are_problems() {
        let entry = |id: &str, sha: &str| {
            format!("[[keys]]\nid = '{id}'\nsha256 = '{sha}'\ntenant = 't'\nkind = 'workload'\n")
        };
        let good = "a".repeat(64);
        for text in [
            entry("a_b", &good),
            entry("anonymous", &good),
            entry("spiffe://td/a", &good),
            entry("a", "abc"),
            entry("a", &"g".repeat(64)),
            entry("a", &good) + &entry("a", &good),
        ] {
            assert!(!keys(&text).1.is_empty(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_but_the_key_is_accepted(text in "tgk_[a-c]{1,3}_[A-Za-z0-9_-]{41,45}") {
            let (keys, _) = keys(&format!(
                "[[keys]]\nid = 'a'\nsha256 = '{}'\ntenant = 't'\nkind = 'workload'", "0".repeat(64)
            ));
            prop_assert!(keys.identify(text.as_bytes(), Timestamp::UNIX_EPOCH).is_err());
            if let Some(id) = split(text.as_bytes()) {
                prop_assert_eq!(text.len(), PREFIX.len() + id.len() + 1 + SECRET_CHARS);
            }
        }
    }
}
