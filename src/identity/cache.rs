//! Tokens that were verified lately. Only the signature is spared: time, audience, binding and keys are judged again on each hit.
//!
//! Failures are never remembered: an attacker could fill the cache with them.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use jiff::Timestamp;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::model::Principal;

use super::claims::Facts;
use super::settings::{CacheSettings, MAX_CACHE_ENTRIES, MAX_CACHE_TTL};

/// Bytes of a principal that count as one entry, so that tokens with hundreds of teams cannot fill the memory.
const BYTES_PER_ENTRY: usize = 1_024;

/// SHA-256 of a token, and of the client certificate it was shown with: the principal names the workload that connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CacheKey {
    token: [u8; 32],
    certificate: Option<[u8; 32]>,
}

impl CacheKey {
    pub(super) fn new(token: &[u8], certificate: Option<[u8; 32]>) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(token);
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        Self { token: bytes, certificate }
    }

    /// SHA-256 of the token.
    pub(super) const fn token(&self) -> &[u8; 32] {
        &self.token
    }
}

/// What was found when a token was verified.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) principal: Arc<Principal>,
    /// The issuer's place in the configuration.
    pub(super) issuer: usize,
    /// The generation of the issuer's keys that verified it.
    pub(super) generation: u64,
    pub(super) facts: Facts,
    pub(super) verified_at: Timestamp,
}

#[derive(Debug, Clone)]
struct Size;

impl Weighter<CacheKey, Arc<Verified>> for Size {
    fn weight(&self, _: &CacheKey, verified: &Arc<Verified>) -> u64 {
        let teams: usize = verified.principal.teams.iter().map(|team| team.as_str().len() + 32).sum();
        let audiences: usize = verified.facts.audiences.iter().map(|audience| audience.len() + 32).sum();
        u64::try_from(1 + (teams + audiences) / BYTES_PER_ENTRY).unwrap_or(u64::MAX)
    }
}

/// The verified tokens.
#[derive(Debug)]
pub(super) struct TokenCache {
    entries: Option<Cache<CacheKey, Arc<Verified>, Size>>,
    ttl_ms: i64,
}

impl TokenCache {
    pub(super) fn new(settings: &CacheSettings) -> Self {
        let entries = settings.entries.min(MAX_CACHE_ENTRIES);
        let ttl = settings.ttl.min(MAX_CACHE_TTL).get().as_millis();
        let weight = u64::try_from(entries).unwrap_or(u64::MAX);
        Self {
            entries: (entries > 0).then(|| Cache::with_weighter(entries, weight, Size)),
            ttl_ms: i64::try_from(ttl).unwrap_or(0),
        }
    }

    /// What was found earlier, if that is not too long ago. A clock that was set back ages an entry as well.
    pub(super) fn get(&self, key: &CacheKey, now: Timestamp) -> Option<Arc<Verified>> {
        let found = self.entries.as_ref()?.get(key)?;
        let age = now.as_millisecond().abs_diff(found.verified_at.as_millisecond());
        (age <= self.ttl_ms.unsigned_abs()).then_some(found)
    }

    pub(super) fn insert(&self, key: CacheKey, verified: Arc<Verified>) {
        if let Some(entries) = &self.entries {
            entries.insert(key, verified);
        }
    }

    /// Forgets what an issuer's keys of an older generation verified.
    pub(super) fn forget(&self, issuer: usize, before: u64) {
        if let Some(entries) = &self.entries {
            entries.retain(|_, verified| verified.issuer != issuer || verified.generation >= before);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.as_ref().map_or(0, Cache::len)
    }
}

#[cfg(test)]
mod tests {
    use crate::model::{Duration, PrincipalKind};

    use super::*;

    fn verified(issuer: usize, generation: u64, verified_at: Timestamp) -> Arc<Verified> {
        Arc::new(Verified {
            principal: Arc::new(Principal::fixture(PrincipalKind::User, "i|s", "t")),
            issuer,
            generation,
            facts: Facts::read(serde_json::json!({"exp": 0, "aud": "a"}).as_object().unwrap()).unwrap(),
            verified_at,
        })
    }

    #[test]
    fn entries_age_in_both_directions_and_certificates_are_told_apart() {
        let cache = TokenCache::new(&CacheSettings { entries: 10, ttl: Duration::secs(60) });
        let now = Timestamp::from_second(1_000).unwrap();
        let at = |seconds: i64| Timestamp::from_second(1_000 + seconds).unwrap();
        cache.insert(CacheKey::new(b"token", None), verified(0, 0, now));
        assert!(cache.get(&CacheKey::new(b"token", None), at(60)).is_some());
        assert!(cache.get(&CacheKey::new(b"token", None), at(61)).is_none());
        assert!(cache.get(&CacheKey::new(b"token", None), at(-61)).is_none());
        assert!(cache.get(&CacheKey::new(b"token", Some([1; 32])), now).is_none());
        assert!(cache.get(&CacheKey::new(b"tokem", None), now).is_none());
    }

    #[test]
    fn it_is_bounded_and_forgets_by_issuer_and_generation() {
        let cache = TokenCache::new(&CacheSettings { entries: 50, ttl: Duration::secs(60) });
        let now = Timestamp::UNIX_EPOCH;
        for i in 0..1_000_u32 {
            cache.insert(CacheKey::new(&i.to_be_bytes(), None), verified(0, 0, now));
        }
        assert!((1..=50).contains(&cache.len()), "{}", cache.len());
        cache.insert(CacheKey::new(b"new", None), verified(0, 1, now));
        cache.insert(CacheKey::new(b"other", None), verified(1, 0, now));
        cache.forget(0, 1);
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn nothing_is_kept_without_entries() {
        let cache = TokenCache::new(&CacheSettings { entries: 0, ttl: Duration::secs(60) });
        cache.insert(CacheKey::new(b"token", None), verified(0, 0, Timestamp::UNIX_EPOCH));
        assert!(cache.get(&CacheKey::new(b"token", None), Timestamp::UNIX_EPOCH).is_none());
    }
}
