//! Branch keys in memory: opened once, held for a bounded time, counted as they wrap.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use jiff::Timestamp;
use tokio::sync::Mutex;

use super::Limits;
use super::error::KeyError;
use super::name::{KeyName, Scope};
use super::root::{BranchKey, Root, RootError};
use super::settings::KeysSettings;
use super::store::{KeyFile, KeyState, KeyStore, StoreError};
use crate::model::{Clock, RecipientName};

/// How long a failure is remembered, so that a key service that is down is asked once a second and not once a request.
const FAILURE_AGE: Duration = Duration::from_secs(1);
/// The most branch keys that are held.
const MAX_HELD: usize = 16_384;

/// Held by whoever opens a key; in it, when that last failed.
type Busy = Arc<Mutex<Option<(Instant, KeyError)>>>;

/// An opened branch key.
pub(super) struct Branch {
    name: KeyName,
    /// The name as messages carry it.
    text: String,
    key: BranchKey,
    opened: Instant,
    /// Wraps that are left of those set aside; of the version, however often its key is opened again.
    left: Arc<AtomicU64>,
}

impl fmt::Debug for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key would print itself: the wrapper that zeroes it does not hide it.
        write!(f, "Branch({})", self.name)
    }
}

impl Branch {
    fn new(name: KeyName, key: BranchKey, opened: Instant, left: Arc<AtomicU64>) -> Self {
        Self { text: name.to_string(), name, key, opened, left }
    }

    /// The name as messages carry it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) const fn key(&self) -> &BranchKey {
        &self.key
    }

    /// Takes one wrap of those set aside.
    fn take(&self) -> bool {
        let take = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// The branch keys of all scopes.
pub(super) struct Branches {
    store: KeyStore,
    roots: BTreeMap<RecipientName, Root>,
    clock: Arc<dyn Clock>,
    age: Duration,
    rotate_after: Duration,
    limits: Limits,
    /// Wraps that are set aside and not yet done, by version: opening a key again must not cost a lease.
    leased: RwLock<HashMap<KeyName, Arc<AtomicU64>>>,
    sealing: RwLock<HashMap<Scope, Arc<Branch>>>,
    opening: RwLock<HashMap<KeyName, Arc<Branch>>>,
    /// One opens a key while others who want the same wait; and when it last failed.
    busy: RwLock<HashMap<Scope, Busy>>,
}

impl Branches {
    pub(super) fn new(
        settings: &KeysSettings,
        roots: BTreeMap<RecipientName, Root>,
        clock: Arc<dyn Clock>,
        limits: Limits,
    ) -> Self {
        Self {
            store: KeyStore::new(settings.directory.clone()),
            roots,
            clock,
            age: settings.cache.get(),
            rotate_after: settings.rotate_after.get(),
            limits,
            leased: RwLock::default(),
            sealing: RwLock::default(),
            opening: RwLock::default(),
            busy: RwLock::default(),
        }
    }

    pub(super) const fn store(&self) -> &KeyStore {
        &self.store
    }

    #[cfg(test)]
    pub(super) fn held(&self, scope: &Scope) -> Option<Arc<Branch>> {
        get(&self.sealing, scope)
    }

    /// The key that seals for a scope, with one wrap taken.
    pub(super) async fn to_seal(
        self: &Arc<Self>,
        scope: &Scope,
        root: &RecipientName,
    ) -> Result<Arc<Branch>, KeyError> {
        let held = || get(&self.sealing, scope).filter(|branch| branch.opened.elapsed() < self.age);
        if let Some(branch) = held()
            && branch.take()
        {
            if self.is_ageing(&branch) {
                self.refresh(scope, root);
            }
            return Ok(branch);
        }
        let busy = self.busy(scope);
        let mut failed = busy.lock().await;
        // Somebody else may have done it meanwhile.
        if let Some(branch) = held()
            && branch.take()
        {
            return Ok(branch);
        }
        recent(&failed)?;
        let opened = self.open_to_seal(scope, root).await;
        *failed = opened.as_ref().err().map(|error| (Instant::now(), error.clone()));
        let branch = opened?;
        put(&self.sealing, scope.clone(), Arc::clone(&branch));
        self.forget_later();
        if branch.take() { Ok(branch) } else { Err(KeyError::Exhausted(branch.name.clone())) }
    }

    /// Whether it is time to open a key again, a little earlier for some than for others.
    fn is_ageing(&self, branch: &Branch) -> bool {
        let jitter = u32::from(branch.key.first().copied().unwrap_or(0)) % 10;
        branch.opened.elapsed() >= self.age * (80 - jitter) / 100
    }

    /// Opens a sealing key again while the one that is held still serves.
    fn refresh(self: &Arc<Self>, scope: &Scope, root: &RecipientName) {
        let (this, scope, root) = (Arc::clone(self), scope.clone(), root.clone());
        let busy = self.busy(&scope);
        // Somebody else is at it.
        let Ok(mut failed) = busy.try_lock_owned() else { return };
        if recent(&failed).is_err() {
            return;
        }
        tokio::spawn(async move {
            match this.open_anew(&scope, &root).await {
                Ok(branch) => {
                    put(&this.sealing, scope, branch);
                    this.forget_later();
                }
                Err(error) => {
                    tracing::warn!(key = %scope, %error, "branch key could not be opened again; the held one serves until its age");
                    *failed = Some((Instant::now(), error));
                }
            }
        });
    }

    /// As [`Self::open_to_seal`], always by the root key.
    async fn open_anew(&self, scope: &Scope, root: &RecipientName) -> Result<Arc<Branch>, KeyError> {
        let (name, file, left) = self.lease(scope).await?;
        let key = self.unwrap(&name, &file, root).await?;
        Ok(Arc::new(Branch::new(name, key, Instant::now(), left)))
    }

    async fn open_to_seal(&self, scope: &Scope, root: &RecipientName) -> Result<Arc<Branch>, KeyError> {
        let (name, file, left) = self.lease(scope).await?;
        // A lease that ran out does not make the key service be asked again.
        let known =
            get(&self.sealing, scope).filter(|old| old.name == name && old.opened.elapsed() < self.age);
        let (key, opened) = match known {
            Some(old) => (old.key.clone(), old.opened),
            None => (self.unwrap(&name, &file, root).await?, Instant::now()),
        };
        Ok(Arc::new(Branch::new(name, key, opened, left)))
    }

    /// The newest active version, and its wraps that are set aside for us; more are, if none is left.
    async fn lease(&self, scope: &Scope) -> Result<(KeyName, KeyFile, Arc<AtomicU64>), KeyError> {
        let (wanted, limits) = (scope.clone(), self.limits);
        let left = |name: &KeyName| get(&self.leased, name).map_or(0, |left| left.load(Ordering::Relaxed));
        let missing = || KeyError::Missing(scope.clone());
        let active = self.blocking(move |store| Ok(store.active(&wanted)?)).await?.ok_or_else(missing)?;
        let (name, file) = match left(&active.0) {
            0 => {
                let wanted = scope.clone();
                let (name, file, more) = self.blocking(move |store| lease(&store, &wanted, limits)).await?;
                self.counter(&name).fetch_add(more, Ordering::Relaxed);
                (name, file)
            }
            _ => active,
        };
        if self.is_due(&file, self.clock.now()) {
            tracing::warn!(key = %name, wraps = file.wraps, "branch key is due for rotation: run `tidegate keys rotate`");
        }
        let left = self.counter(&name);
        Ok((name, file, left))
    }

    fn counter(&self, name: &KeyName) -> Arc<AtomicU64> {
        let mut leased = self.leased.write().unwrap_or_else(PoisonError::into_inner);
        if leased.len() >= MAX_HELD {
            // Those of keys that nobody holds: what was set aside for them is lost, which is safe.
            leased.retain(|_, left| Arc::strong_count(left) > 1);
        }
        Arc::clone(leased.entry(name.clone()).or_default())
    }

    /// Drops the keys that are over their age, when that of the newest is over: a key that nobody uses does not stay in memory.
    fn forget_later(self: &Arc<Self>) {
        let (this, age) = (Arc::downgrade(self), self.age);
        tokio::spawn(async move {
            tokio::time::sleep(age).await;
            if let Some(this) = this.upgrade() {
                this.forget();
            }
        });
    }

    fn forget(&self) {
        let young = |branch: &Arc<Branch>| branch.opened.elapsed() < self.age;
        self.sealing.write().unwrap_or_else(PoisonError::into_inner).retain(|_, branch| young(branch));
        self.opening.write().unwrap_or_else(PoisonError::into_inner).retain(|_, branch| young(branch));
    }

    /// The key that opens what was sealed under that version; none if it is not here or retired.
    pub(super) async fn to_open(
        self: &Arc<Self>,
        name: &KeyName,
        root: &RecipientName,
    ) -> Result<Option<Arc<Branch>>, KeyError> {
        let held = || get(&self.opening, name).filter(|branch| branch.opened.elapsed() < self.age);
        if let Some(branch) = held() {
            return Ok(Some(branch));
        }
        let busy = self.busy(&name.scope);
        let mut failed = busy.lock().await;
        if let Some(branch) = held() {
            return Ok(Some(branch));
        }
        recent(&failed)?;
        let file = self.blocking({
            let name = name.clone();
            move |store| Ok(store.read(&name)?)
        });
        let Some(file) = file.await?.filter(|file| file.state.opens()) else {
            return Ok(None);
        };
        let key = self.unwrap(name, &file, root).await;
        *failed = key.as_ref().err().map(|error| (Instant::now(), error.clone()));
        let branch = Arc::new(Branch::new(name.clone(), key?, Instant::now(), Arc::default()));
        put(&self.opening, name.clone(), Arc::clone(&branch));
        self.forget_later();
        Ok(Some(branch))
    }

    /// Makes the next version; older ones open only.
    pub(super) async fn make(&self, scope: &Scope, root: &RecipientName) -> Result<KeyName, KeyError> {
        let all = self.blocking(|store| Ok(store.list()?)).await?;
        let newest = all.iter().filter(|(name, _)| name.scope == *scope).map(|(name, _)| name.version).max();
        let version = newest.unwrap_or(0).checked_add(1).ok_or(KeyError::Crypto)?;
        let name = KeyName { scope: scope.clone(), version };
        let mut key = BranchKey::default();
        rand::fill(&mut *key).map_err(|_| KeyError::Crypto)?;
        let wrapped = self.root(root)?.wrap(&name.to_string(), &key).await;
        let wrapped = wrapped.map_err(|error| unavailable(&name, error))?;
        let file = KeyFile {
            name: name.to_string(),
            root: root.clone(),
            created: self.clock.now(),
            state: KeyState::Active,
            wraps: 0,
            wrapped,
        };
        self.blocking({
            let name = name.clone();
            move |store| publish(&store, &name, &file)
        })
        .await?;
        Ok(name)
    }

    /// Wraps the same branch key again.
    pub(super) async fn rewrap(&self, name: &KeyName, root: &RecipientName) -> Result<(), KeyError> {
        let read = self.blocking({
            let name = name.clone();
            move |store| Ok(store.read(&name)?)
        });
        let file = read.await?.ok_or_else(|| KeyError::Missing(name.scope.clone()))?;
        let key = self.unwrap(name, &file, &file.root).await?;
        let wrapped = self.root(root)?.wrap(&name.to_string(), &key).await;
        let wrapped = wrapped.map_err(|error| unavailable(name, error))?;
        let (name, root) = (name.clone(), root.clone());
        self.blocking(move |store| {
            let lock = store.lock()?;
            // Its wraps may have been counted on since.
            let file = store.read(&name)?.ok_or_else(|| KeyError::Missing(name.scope.clone()))?;
            Ok(store.write(&lock, &name, &KeyFile { root, wrapped, ..file })?)
        })
        .await
    }

    pub(super) fn is_due(&self, file: &KeyFile, now: Timestamp) -> bool {
        let age = now.duration_since(file.created);
        let old = Duration::try_from(age).is_ok_and(|age| age >= self.rotate_after);
        file.state == KeyState::Active && (old || file.wraps >= self.limits.due)
    }

    async fn unwrap(
        &self,
        name: &KeyName,
        file: &KeyFile,
        root: &RecipientName,
    ) -> Result<BranchKey, KeyError> {
        if file.root != *root {
            tracing::warn!(key = %name, root = %file.root, "branch key is wrapped by another root key than configured");
        }
        let opened = self.root(root)?.unwrap(&name.to_string(), &file.wrapped).await;
        opened.map_err(|error| unavailable(name, error))
    }

    fn root(&self, name: &RecipientName) -> Result<&Root, KeyError> {
        self.roots.get(name).ok_or_else(|| KeyError::Recipient(name.clone()))
    }

    fn busy(&self, scope: &Scope) -> Busy {
        if let Some(busy) = get(&self.busy, scope) {
            return busy;
        }
        let mut all = self.busy.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_HELD {
            all.retain(|_, busy| Arc::strong_count(busy) > 1);
        }
        Arc::clone(all.entry(scope.clone()).or_default())
    }

    /// Files are looked at where waiting disturbs nobody.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(KeyStore) -> Result<T, KeyError> + Send + 'static,
    ) -> Result<T, KeyError> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || work(store)).await.unwrap_or(Err(KeyError::Crypto))
    }
}

/// Sets wraps aside in the newest active version's file: their number is there before one of them is done.
fn lease(store: &KeyStore, scope: &Scope, limits: Limits) -> Result<(KeyName, KeyFile, u64), KeyError> {
    let lock = store.lock()?;
    let (name, file) = store.active(scope)?.ok_or_else(|| KeyError::Missing(scope.clone()))?;
    let left = limits.lease.min(limits.most.saturating_sub(file.wraps));
    if left == 0 {
        return Err(KeyError::Exhausted(name));
    }
    let file = KeyFile { wraps: file.wraps + left, ..file };
    store.write(&lock, &name, &file)?;
    Ok((name, file, left))
}

/// Writes a new version, then lets those before it open only.
fn publish(store: &KeyStore, name: &KeyName, file: &KeyFile) -> Result<(), KeyError> {
    let lock = store.lock()?;
    if store.read(name)?.is_some() {
        let path = store.directory().to_owned();
        let source = std::io::Error::other(format!("`{name}` was made by somebody else meanwhile"));
        return Err(StoreError::Io { path, source }.into());
    }
    store.write(&lock, name, file)?;
    for (old, file) in store.list()? {
        if old.scope == name.scope && old != *name && file.state == KeyState::Active {
            store.write(&lock, &old, &KeyFile { state: KeyState::Old, ..file })?;
        }
    }
    Ok(())
}

fn unavailable(name: &KeyName, source: RootError) -> KeyError {
    KeyError::Unavailable { name: name.clone(), source: Arc::new(source) }
}

fn recent(failed: &Option<(Instant, KeyError)>) -> Result<(), KeyError> {
    match failed {
        Some((at, error)) if at.elapsed() < FAILURE_AGE => Err(error.clone()),
        _ => Ok(()),
    }
}

fn get<K: std::hash::Hash + Eq, V: Clone>(map: &RwLock<HashMap<K, V>>, key: &K) -> Option<V> {
    map.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
}

/// Puts a key into its place; when there are too many, all go and are opened again when they are wanted.
fn put<K: std::hash::Hash + Eq, V>(map: &RwLock<HashMap<K, V>>, key: K, value: V) {
    let mut map = map.write().unwrap_or_else(PoisonError::into_inner);
    if map.len() >= MAX_HELD {
        map.clear();
    }
    map.insert(key, value);
}
