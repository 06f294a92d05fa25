//! The keys of one issuer over time: fetched, exchanged, kept while the source fails, and given up when they are too old.
//!
//! At most one refresh runs at a time and at most one starts in 30 s, whoever asks for it; so a storm of unknown key ids costs the
//! issuer one request. A refresh runs in a task of its own: a caller who hangs up does not stop it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::model::Clock;

use super::cache::TokenCache;
use super::discovery::{self, DiscoveryError};
use super::error::IdentityError;
use super::jwks::{Key, KeySet, KeySetError, MAX_SET_BYTES};
use super::read_bounded;
use super::settings::Algorithm;

/// The shortest time between the starts of two refreshes of an issuer's keys.
pub(super) const REFRESH_PAUSE: Duration = Duration::from_secs(30);
/// How often a key set is fetched from its URL without being asked for.
const REFRESH_URL: Duration = Duration::from_secs(300);
/// How long a request waits for a refresh.
pub(super) const WAIT: Duration = Duration::from_secs(5);
/// How long a refresh may take.
const FETCH: Duration = Duration::from_secs(10);

/// Fetches key sets over the network.
#[async_trait]
pub trait KeySource: std::fmt::Debug + Send + Sync + 'static {
    /// The body at `url`, trusting only the authorities of the PEM file `ca` if there is one.
    /// Follows no redirects, and gives up beyond 256 KiB.
    ///
    /// # Errors
    /// Anything but a complete body of a 200.
    async fn fetch(
        &self,
        url: &str,
        ca: Option<&Path>,
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>>;
}

/// Where an issuer's keys come from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Origin {
    File(PathBuf),
    Url {
        url: String,
        ca: Option<PathBuf>,
    },
    /// The issuer says where, at each refresh.
    Discovery {
        ca: Option<PathBuf>,
    },
}

/// Why a refresh brought nothing.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error("the key set cannot be fetched")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the key set did not arrive within 10 s")]
    Slow,
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    #[error(transparent)]
    Content(#[from] KeySetError),
}

/// The keys of one moment.
#[derive(Debug)]
struct Held {
    keys: KeySet,
    /// Grows when a key leaves the set.
    generation: u64,
}

#[derive(Debug, Default)]
struct Flight {
    running: bool,
    started: Option<Timestamp>,
}

/// The state of an issuer's keys, for readiness and `check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHealth {
    /// The issuer.
    pub issuer: String,
    /// How many keys can be used; none before the first success.
    pub keys: usize,
    /// When the source last gave a good set.
    pub fetched_at: Option<Timestamp>,
    /// Whether tokens of the issuer can be verified now.
    pub usable: bool,
}

/// What a token's key id led to.
enum Lookup {
    Found(Arc<Key>, u64),
    /// The set has no such key.
    Unknown,
    /// There is no set, or it is too old.
    Unusable,
}

/// Everything a key ring is made of.
#[derive(Debug)]
pub(super) struct RingParts {
    pub(super) issuer: String,
    /// The issuer's place in the configuration.
    pub(super) index: usize,
    pub(super) origin: Origin,
    pub(super) max_stale: Duration,
    pub(super) source: Arc<dyn KeySource>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) cache: Arc<TokenCache>,
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct KeyRing {
    parts: RingParts,
    held: ArcSwapOption<Held>,
    /// Unix milliseconds of the last success; `i64::MIN` before the first.
    fetched_at: AtomicI64,
    /// Held for a few instructions only, never while a refresh runs.
    flight: Mutex<Flight>,
    finished: watch::Sender<()>,
}

impl KeyRing {
    pub(super) fn new(parts: RingParts) -> Self {
        Self {
            parts,
            held: ArcSwapOption::empty(),
            fetched_at: AtomicI64::new(i64::MIN),
            flight: Mutex::default(),
            finished: watch::Sender::new(()),
        }
    }

    /// Takes over a key set if it is sound; the old one stays otherwise.
    pub(super) fn install(&self, bytes: &[u8], now: Timestamp) -> Result<(), KeySetError> {
        let keys = KeySet::parse(bytes)?;
        let held = self.held.load();
        let (generation, lost) = match held.as_deref() {
            None => (0, false),
            Some(old) if old.keys.loses_a_key_to(&keys) => (old.generation.saturating_add(1), true),
            Some(old) => (old.generation, false),
        };
        self.held.store(Some(Arc::new(Held { keys, generation })));
        self.fetched_at.store(now.as_millisecond(), Ordering::Release);
        if lost {
            let issuer = self.parts.issuer.as_str();
            tracing::info!(issuer, "a key left the set: tokens it verified must be verified again");
            self.parts.cache.forget(self.parts.index, generation);
        }
        Ok(())
    }

    /// The generation of the keys, if they may be used now. A clock that was set back makes keys old as well.
    pub(super) fn usable_generation(&self, now: Timestamp) -> Option<u64> {
        self.is_fresh(now).then(|| self.held.load().as_ref().map(|held| held.generation)).flatten()
    }

    fn is_fresh(&self, now: Timestamp) -> bool {
        let age = now.as_millisecond().abs_diff(self.fetched_at.load(Ordering::Acquire));
        u128::from(age) <= self.parts.max_stale.as_millis()
    }

    fn lookup(&self, kid: Option<&str>, algorithm: Algorithm, now: Timestamp) -> Lookup {
        let held = self.held.load();
        match held.as_deref() {
            Some(held) if self.is_fresh(now) => match held.keys.find(kid, algorithm) {
                Some(key) => Lookup::Found(Arc::clone(key), held.generation),
                None => Lookup::Unknown,
            },
            _ => Lookup::Unusable,
        }
    }

    /// The key that a token names, after one refresh if it is not there and a refresh is due.
    pub(super) async fn key(
        self: &Arc<Self>,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<(Arc<Key>, u64), IdentityError> {
        let first = self.lookup(kid, algorithm, self.parts.clock.now());
        let last = match first {
            Lookup::Found(..) => first,
            // Without a key id there is no telling whether a new key is meant.
            Lookup::Unknown if kid.is_none() => first,
            Lookup::Unknown | Lookup::Unusable => {
                if let Some(refresh) = self.begin() {
                    wait(refresh).await;
                }
                self.lookup(kid, algorithm, self.parts.clock.now())
            }
        };
        match last {
            Lookup::Found(key, generation) => Ok((key, generation)),
            Lookup::Unknown => Err(IdentityError::TokenKeyUnknown),
            Lookup::Unusable => Err(IdentityError::KeysUnavailable),
        }
    }

    /// Joins the running refresh, or starts one if the last start is long enough ago.
    fn begin(self: &Arc<Self>) -> Option<watch::Receiver<()>> {
        let now = self.parts.clock.now();
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        // Subscribed under the lock: the end of a running refresh cannot be missed.
        let finished = self.finished.subscribe();
        if flight.running {
            return Some(finished);
        }
        let pause = u64::try_from(REFRESH_PAUSE.as_millis()).unwrap_or(u64::MAX);
        let age = |started: Timestamp| now.as_millisecond().abs_diff(started.as_millisecond());
        if flight.started.is_some_and(|started| age(started) < pause) {
            return None;
        }
        flight.running = true;
        flight.started = Some(now);
        drop(flight);
        let landing = Landing(Arc::clone(self));
        tokio::spawn(async move { landing.0.refresh().await });
        Some(finished)
    }

    async fn refresh(&self) {
        let issuer = self.parts.issuer.as_str();
        let fetched = tokio::time::timeout(FETCH, self.fetch()).await.unwrap_or(Err(RefreshError::Slow));
        let done = fetched
            .and_then(|bytes| self.install(&bytes, self.parts.clock.now()).map_err(RefreshError::from));
        match done {
            Ok(()) => tracing::debug!(issuer, "key set refreshed"),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(issuer, %error, cause, "key set not refreshed: the last good one stays in use");
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<u8>, RefreshError> {
        match &self.parts.origin {
            Origin::Url { url, ca } => self.get(url, ca.as_deref()).await,
            Origin::Discovery { ca } => {
                let issuer = &self.parts.issuer;
                let document = self.get(&discovery::address(issuer), ca.as_deref()).await?;
                self.get(&discovery::keys_address(issuer, &document)?, ca.as_deref()).await
            }
            Origin::File(path) => {
                let path = path.clone();
                let max = u64::try_from(MAX_SET_BYTES).unwrap_or(u64::MAX);
                match tokio::task::spawn_blocking(move || read_bounded(&path, max)).await {
                    Ok(read) => read.map_err(|error| RefreshError::Source(error.into())),
                    Err(error) => Err(RefreshError::Source(error.into())),
                }
            }
        }
    }

    async fn get(&self, url: &str, ca: Option<&Path>) -> Result<Vec<u8>, RefreshError> {
        self.parts.source.fetch(url, ca).await.map_err(RefreshError::Source)
    }

    /// Takes the keys of the same source over from an earlier configuration, with their age.
    pub(super) fn adopt(&self, earlier: &Self) {
        if self.held.load().is_none() && self.parts.origin == earlier.parts.origin {
            self.fetched_at.store(earlier.fetched_at.load(Ordering::Acquire), Ordering::Release);
            self.held.store(earlier.held.load_full());
        }
    }

    /// If there are no keys yet: starts to fetch them, and gives the wait for their arrival, bounded by 5 s.
    pub(super) fn fetch_missing(self: &Arc<Self>) -> Option<impl Future<Output = ()> + Send + use<>> {
        if self.held.load().is_some() {
            return None;
        }
        self.begin().map(wait)
    }

    /// Starts a refresh if it is time for a regular one, and does not wait for it.
    pub(super) fn keep_fresh(self: &Arc<Self>) {
        let now = self.parts.clock.now();
        let age = now.as_millisecond().abs_diff(self.fetched_at.load(Ordering::Acquire));
        let due = match self.parts.origin {
            Origin::File(_) => true,
            Origin::Url { .. } | Origin::Discovery { .. } => u128::from(age) >= REFRESH_URL.as_millis(),
        };
        if due {
            let _ = self.begin();
        }
    }

    pub(super) fn health(&self) -> KeyHealth {
        KeyHealth {
            issuer: self.parts.issuer.clone(),
            keys: self.held.load().as_ref().map_or(0, |held| held.keys.len()),
            fetched_at: Timestamp::from_millisecond(self.fetched_at.load(Ordering::Acquire)).ok(),
            usable: self.usable_generation(self.parts.clock.now()).is_some(),
        }
    }
}

/// Ends a refresh however it ends, also by a panic: the next one must be able to start.
struct Landing(Arc<KeyRing>);

impl Drop for Landing {
    fn drop(&mut self) {
        self.0.flight.lock().unwrap_or_else(PoisonError::into_inner).running = false;
        self.0.finished.send_replace(());
    }
}

async fn wait(mut finished: watch::Receiver<()>) {
    let _ = tokio::time::timeout(WAIT, finished.changed()).await;
}
