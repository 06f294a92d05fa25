//! Personal data in records under a key of its subject: when the key is destroyed nobody can read it any more, and every hash stays.
//!
//! Each user gets a random data key, kept in `keys/subjects/<key id>.json` wrapped under the tenant's journal key. What identifies
//! the user leaves a decision's clear members and stands encrypted (AES-256-GCM) in its member `personal`. Only
//! `<lookup>.id`, named by an HMAC of the user under the tenant's key, leads from a user to the key's id; both files go with an erasure.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use super::keys::{FRESH, KeyError, Keys, make_directory};
use super::notes::write_synced;
use super::record::{Decision, Personal, PersonalDecision};
use super::refusals::network;
use crate::model::{RecordId, TenantName};

/// Where their keys lie, within the journal's directory.
pub const DIRECTORY: &str = "keys/subjects";
/// Subjects whose keys are held in memory; with more, all are read again.
const MAX_HELD: usize = 65_536;

/// The key of a subject, in memory.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    id: RecordId,
    key: Arc<RandomizedNonceKey>,
    checked: Instant,
}

/// The keys of subjects, for the writer.
#[derive(Debug)]
pub(crate) struct Subjects {
    keys: Arc<Keys>,
    directory: PathBuf,
    held: RwLock<HashMap<String, Held>>,
    /// Held while a key is read or made, so that it is made once.
    making: Mutex<()>,
}

/// A subject's key on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    tenant: TenantName,
    /// The data key under the tenant's journal key: nonce, ciphertext and tag in base64.
    wrapped: String,
}

/// What is left of a key that was destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// When.
    pub at: Timestamp,
    /// Who did it.
    pub actor: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

fn aead(key: &[u8]) -> Result<RandomizedNonceKey, KeyError> {
    RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| KeyError::Random)
}

fn seal(key: &RandomizedNonceKey, aad: &str, mut bytes: Vec<u8>) -> Result<String, KeyError> {
    let nonce = key.seal_in_place_append_tag(Aad::from(aad), &mut bytes).map_err(|_| KeyError::Random)?;
    Ok(STANDARD.encode([nonce.as_ref().as_slice(), &bytes].concat()))
}

fn open(key: &RandomizedNonceKey, aad: &str, text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = STANDARD.decode(text).ok()?;
    let (nonce, _) = bytes.split_first_chunk::<NONCE_LEN>()?;
    let nonce = Nonce::from(nonce);
    let mut sealed = Zeroizing::new(bytes.split_off(NONCE_LEN));
    let length = key.open_in_place(nonce, Aad::from(aad), &mut sealed).ok()?.len();
    sealed.truncate(length);
    Some(sealed)
}

fn wrapping(keys: &Keys, tenant: &TenantName) -> Result<RandomizedNonceKey, KeyError> {
    aead(&keys.derive(tenant, b"tidegate subject keys")?[..])
}

/// The name under which a user's key is found.
fn lookup(keys: &Keys, tenant: &TenantName, user: &str) -> Result<String, KeyError> {
    keys.digest(tenant, format!("tidegate subject\0{user}").as_bytes())
}

fn write_failed(path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Write { path, source }
}

impl Subjects {
    pub(crate) fn new(keys: Arc<Keys>, journal: &Path) -> Self {
        let directory = journal.join(DIRECTORY);
        Self { keys, directory, held: RwLock::default(), making: Mutex::default() }
    }

    /// The key of a decision's user, if it is held and fresh.
    pub(crate) fn held(&self, lookup: &str) -> Option<Held> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.get(lookup).filter(|held| held.checked.elapsed() < FRESH).cloned()
    }

    /// The name of a user's key.
    pub(crate) fn lookup(&self, tenant: &TenantName, user: &str) -> Result<String, KeyError> {
        lookup(&self.keys, tenant, user)
    }

    /// Reads the key of a user, or makes it. Blocks for some reads, or for writes that are synced.
    pub(crate) fn key(&self, tenant: &TenantName, lookup: &str) -> Result<Held, KeyError> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = self.held(lookup) {
            return Ok(held);
        }
        let held = match self.read(tenant, lookup)? {
            Some(held) => held,
            None => self.make(tenant, lookup)?,
        };
        let mut all = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_HELD {
            all.clear();
        }
        all.insert(lookup.to_owned(), held.clone());
        Ok(held)
    }

    fn read(&self, tenant: &TenantName, lookup: &str) -> Result<Option<Held>, KeyError> {
        let Some(id) = pointed(&self.directory, lookup)? else { return Ok(None) };
        let Some(key) = stored(&self.directory, &self.keys, id)? else { return Ok(None) };
        tracing::trace!(%tenant, %id, "the key of a subject was read");
        Ok(Some(Held { id, key: Arc::new(key), checked: Instant::now() }))
    }

    fn make(&self, tenant: &TenantName, lookup: &str) -> Result<Held, KeyError> {
        let id = RecordId::new();
        let mut bytes = Zeroizing::new([0_u8; 32]);
        aws_lc_rs::rand::fill(&mut bytes[..]).map_err(|_| KeyError::Random)?;
        let key = aead(&bytes[..])?;
        let wrapped = seal(&wrapping(&self.keys, tenant)?, &id.to_string(), bytes.to_vec())?;
        let stored = Stored { tenant: tenant.clone(), wrapped };
        let text =
            serde_json::to_vec(&stored).map_err(|error| write_failed(&self.directory)(error.into()))?;
        make_directory(&self.directory)
            .and_then(|()| write_synced(&self.directory, &format!("{id}.json"), &text))
            .and_then(|()| write_synced(&self.directory, &format!("{lookup}.id"), id.to_string().as_bytes()))
            .map_err(write_failed(&self.directory))?;
        Ok(Held { id, key: Arc::new(key), checked: Instant::now() })
    }

    /// The decision with what identifies its user encrypted.
    pub(crate) fn protect<'a, C: Serialize>(
        held: &Held,
        (id, attempt): (RecordId, u16),
        record: &Decision<'a, C>,
    ) -> Result<PersonalDecision<'a>, KeyError> {
        let mut decision = readable(record)?;
        let mut taken: BTreeMap<String, Value> = BTreeMap::new();
        let alias = format!("subject:{}", held.id);
        let user = std::mem::replace(&mut decision.principal.id, Cow::Owned(alias.clone()));
        taken.insert("/principal/id".to_owned(), user.as_ref().into());
        if let Some(credential) = decision.principal.credential.take() {
            taken.insert("/principal/credential".to_owned(), credential.into());
        }
        if let Some(agent) = decision.request.user_agent.take() {
            taken.insert("/request/user_agent".to_owned(), agent.into());
        }
        let peer = decision.peer;
        taken.insert("/peer".to_owned(), peer.to_string().into());
        decision.peer = coarse(peer);
        let swaps = [
            (user.into_owned(), alias),
            (peer.to_string(), decision.peer.to_string()),
            (peer.ip().to_string(), decision.peer.ip().to_string()),
        ];
        let mut pointer = "/context".to_owned();
        for (name, value) in decision.context.to_mut() {
            step(&mut pointer, name, |pointer| swap(value, pointer, &swaps, &mut taken));
        }
        let text = serde_json::to_vec(&taken).unwrap_or_default();
        let sealed = seal(&held.key, &format!("{id}/{attempt}"), text)?;
        Ok(PersonalDecision {
            decision,
            personal: Some(Personal { subject: held.id, sealed: sealed.into() }),
        })
    }
}

/// The decision with its context as a map, to be changed.
fn readable<'a, C: Serialize>(record: &Decision<'a, C>) -> Result<Decision<'a>, KeyError> {
    let context = serde_json::to_value(&record.context).and_then(serde_json::from_value);
    Ok(record.with_context(Cow::Owned(context.map_err(KeyError::Context)?)))
}

/// The network of an address, /24 or /64, which identifies nobody by itself.
pub(crate) fn coarse(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(network(peer.ip()), 0)
}

/// Goes to a member and back.
fn step(pointer: &mut String, name: &str, with: impl FnOnce(&mut String)) {
    let length = pointer.len();
    pointer.push('/');
    pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
    with(pointer);
    pointer.truncate(length);
}

/// Replaces texts that identify the user, and keeps what they were under their JSON pointers (RFC 6901).
fn swap(
    value: &mut Value,
    pointer: &mut String,
    swaps: &[(String, String)],
    taken: &mut BTreeMap<String, Value>,
) {
    match value {
        Value::String(text) => {
            if let Some((_, other)) = swaps.iter().find(|(known, _)| known == text) {
                taken.insert(pointer.clone(), std::mem::replace(text, other.clone()).into());
            }
        }
        Value::Array(members) => {
            for (index, member) in members.iter_mut().enumerate() {
                step(pointer, &index.to_string(), |pointer| swap(member, pointer, swaps, taken));
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                step(pointer, name, |pointer| swap(member, pointer, swaps, taken));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The key that a user's name leads to.
fn pointed(directory: &Path, lookup: &str) -> Result<Option<RecordId>, KeyError> {
    let path = directory.join(format!("{lookup}.id"));
    match fs::read_to_string(&path) {
        Ok(text) => text.parse().map(Some).map_err(|_| KeyError::Size(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeyError::Read { path, source }),
    }
}

/// A key, unwrapped, if it is there.
fn stored(directory: &Path, keys: &Keys, id: RecordId) -> Result<Option<RandomizedNonceKey>, KeyError> {
    let path = directory.join(format!("{id}.json"));
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(KeyError::Read { path, source }),
    };
    let wrong = || KeyError::Size(path.clone());
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    if !keys.exists(&stored.tenant) {
        return Ok(None);
    }
    let key = open(&wrapping(keys, &stored.tenant)?, &id.to_string(), &stored.wrapped).ok_or_else(wrong)?;
    aead(&key).map(Some)
}

/// What a reader sees of a record's personal members.
#[derive(Debug, Clone)]
enum Access {
    Key(Arc<RandomizedNonceKey>),
    Erased(Erased),
    /// Neither key nor tombstone: the tenant's journal key was destroyed, or this is a copy without keys.
    Missing,
}

/// What came of putting personal members back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// There are none, or none that this key and this program can open.
    Nothing,
    /// The record is as it was before they were encrypted.
    Whole,
    /// The key was destroyed; the record says so in the principal's place.
    Erased,
    /// Neither the key nor a note that it was destroyed is here; the alias stands.
    NoKey,
}

/// Puts personal members back for readers on the gateway's host.
#[derive(Debug)]
pub struct Opener {
    keys: Keys,
    directory: PathBuf,
    known: HashMap<RecordId, Access>,
}

impl Opener {
    /// For the records of this journal.
    #[must_use]
    pub fn new(journal: &Path) -> Self {
        let keys = Keys::new(journal.join("keys"));
        Self { keys, directory: journal.join(DIRECTORY), known: HashMap::new() }
    }

    /// The record as it was before its personal members were encrypted; one whose key was destroyed says so in
    /// the principal's place: `erased on DATE`. None if it has no such members. The bytes in the journal, which are what is proved, are others.
    pub fn restored(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        if !Self::is_hidden(payload) {
            return None;
        }
        let mut record: Value = serde_json::from_slice(payload).ok()?;
        (self.restore(&mut record) != Restored::Nothing).then(|| serde_json::to_vec(&record).ok())?
    }

    /// Whether the bytes of a record hold encrypted personal members.
    #[must_use]
    pub fn is_hidden(payload: &[u8]) -> bool {
        memchr::memmem::find(payload, b"\"personal\":{\"sealed\":").is_some()
    }

    /// Like [`Opener::restored`], of a parsed record.
    pub fn restore(&mut self, record: &mut Value) -> Restored {
        let Some(personal) = record.get("personal").cloned() else { return Restored::Nothing };
        let Ok(personal) = serde_json::from_value::<Personal<'_>>(personal) else { return Restored::Nothing };
        let aad = format!(
            "{}/{}",
            record.get("id").and_then(Value::as_str).unwrap_or_default(),
            record.get("attempt").and_then(Value::as_u64).unwrap_or_default()
        );
        match self.access(personal.subject) {
            Access::Key(key) => {
                let Some(text) = open(&key, &aad, &personal.sealed) else { return Restored::Nothing };
                let Ok(taken) = serde_json::from_slice::<BTreeMap<String, Value>>(&text) else {
                    return Restored::Nothing;
                };
                for (pointer, value) in taken {
                    put(record, &pointer, value);
                }
                Restored::Whole
            }
            Access::Erased(erased) => {
                let says = format!("erased on {}", erased.at.strftime("%Y-%m-%d"));
                put(record, "/principal/id", says.into());
                Restored::Erased
            }
            Access::Missing => Restored::NoKey,
        }
    }

    fn access(&mut self, id: RecordId) -> Access {
        if let Some(known) = self.known.get(&id) {
            return known.clone();
        }
        let erased = fs::read(self.directory.join(format!("{id}.erased"))).ok();
        let access = match (erased, stored(&self.directory, &self.keys, id)) {
            (Some(text), _) => serde_json::from_slice(&text).map_or(Access::Missing, Access::Erased),
            (None, Ok(Some(key))) => Access::Key(Arc::new(key)),
            (None, _) => Access::Missing,
        };
        if self.known.len() >= MAX_HELD {
            self.known.clear();
        }
        self.known.insert(id, access.clone());
        access
    }
}

fn put(record: &mut Value, pointer: &str, value: Value) {
    if let Some(place) = record.pointer_mut(pointer) {
        *place = value;
    } else if let Some((parent, name)) = pointer.rsplit_once('/')
        && let Some(Value::Object(members)) = record.pointer_mut(parent)
    {
        members.insert(name.replace("~1", "/").replace("~0", "~"), value);
    }
}

/// An erasure that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// A key cannot be read.
    #[error("the keys cannot be read")]
    Key(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file operation failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The id of a user's key in this journal, if there is one.
///
/// # Errors
/// The tenant's key or the pointer cannot be read.
pub fn find(journal: &Path, tenant: &TenantName, user: &str) -> Result<Option<RecordId>, EraseError> {
    let keys = Keys::new(journal.join("keys"));
    let found = || {
        if !keys.exists(tenant) {
            return Ok(None);
        }
        pointed(&journal.join(DIRECTORY), &lookup(&keys, tenant, user)?)
    };
    found().map_err(|error: KeyError| EraseError::Key(Box::new(error)))
}

/// Whether there is a key with this id.
#[must_use]
pub fn is_known(journal: &Path, subject: RecordId) -> bool {
    journal.join(DIRECTORY).join(format!("{subject}.json")).exists()
}

/// Destroys the key of a subject and every name that leads to it. Done again it does nothing.
///
/// # Errors
/// A file cannot be written or removed.
pub fn destroy(journal: &Path, subject: RecordId, erased: &Erased) -> Result<(), EraseError> {
    let directory = journal.join(DIRECTORY);
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| EraseError::Io { action, path, source }
    };
    let tombstone = directory.join(format!("{subject}.erased"));
    if !tombstone.exists() {
        let text = serde_json::to_vec(erased).map_err(|error| failed("write", &tombstone)(error.into()))?;
        make_directory(&directory)
            .and_then(|()| write_synced(&directory, &format!("{subject}.erased"), &text))
            .map_err(failed("write", &tombstone))?;
    }
    let text = subject.to_string();
    for entry in fs::read_dir(&directory).map_err(failed("read", &directory))? {
        let path = entry.map_err(failed("read", &directory))?.path();
        let is_key = path.file_name().is_some_and(|name| *name == *format!("{text}.json"));
        let is_pointer = path.extension().is_some_and(|extension| extension == "id")
            && fs::read_to_string(&path).is_ok_and(|id| id == text);
        if is_key || is_pointer {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
    }
    fs::File::open(&directory).and_then(|file| file.sync_all()).map_err(failed("sync", &directory))
}
