//! Who is under way: a bounded table of principals for one route.
//!
//! An entry may be forgotten when nothing of it is under way and its rate has recovered: then a new one is the same. If none may be, a
//! principal who is not in the table is turned away, because one who is not counted is not limited.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::model::{Principal, PrincipalKind, TenantName};

use super::Settings;

/// The most principals of a route: 16 shards of 4096.
const SHARDS: usize = 16;
const MAX_PER_SHARD: usize = 4_096;
/// The shortest time between two searches for entries to forget, so that a full table is not searched on each request.
pub(super) const FULL_RETRY: Duration = Duration::from_secs(1);
/// The longest time that a rate counts for.
const MAX_PER: Duration = Duration::from_secs(86_400);

/// Whom an entry is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    kind: PrincipalKind,
    tenant: TenantName,
    id: Arc<str>,
}

impl Key {
    pub(super) fn of(principal: &Principal) -> Self {
        Self { kind: principal.kind, tenant: principal.tenant.clone(), id: Arc::clone(&principal.id) }
    }
}

/// The rules of a route.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    quota: Option<Quota>,
    pub(super) concurrency: Option<u32>,
}

/// A key, what is wrong with it, and the mend.
pub(super) type Mistake = (&'static str, &'static str, &'static str);

impl Rules {
    /// # Errors
    /// Each mistake: its key, what is wrong, and the mend.
    pub(super) fn new(settings: &Settings) -> Result<Self, Vec<Mistake>> {
        let per = settings.per.get();
        let mut wrong = Vec::new();
        if !(Duration::from_secs(1)..=MAX_PER).contains(&per) {
            wrong.push(("per", "is out of range", "use `1s` to `1d`"));
        }
        let quota = match (settings.rate, settings.burst) {
            (None, None) => None,
            (None, Some(_)) => {
                wrong.push(("burst", "has no effect without `rate`", "set `rate`, or remove it"));
                None
            }
            (Some(rate), burst) => {
                let one = per.checked_div(rate.get()).and_then(Quota::with_period);
                if one.is_none() && wrong.is_empty() {
                    wrong.push((
                        "rate",
                        "is more than one request in a nanosecond",
                        "use less, or remove it",
                    ));
                }
                one.map(|one| one.allow_burst(burst.unwrap_or(rate)))
            }
        };
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(Self { quota, concurrency: settings.concurrency.map(NonZeroU32::get) })
    }

    /// After how long without a request the rate has recovered wholly.
    fn recovery(&self) -> Duration {
        self.quota.map_or(Duration::ZERO, |quota| quota.burst_size_replenished_in())
    }
}

/// One principal on one route.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) limiter: Option<DefaultDirectRateLimiter>,
    /// Requests that have begun and not ended.
    pub(super) under_way: AtomicU32,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Key, (Arc<Entry>, Instant)>,
    searched: Option<Instant>,
}

/// The principals of one route.
#[derive(Debug)]
pub(super) struct Table {
    rules: Rules,
    hasher: RandomState,
    /// Each is held for one look-up, and never across an await.
    shards: [Mutex<Shard>; SHARDS],
}

impl Table {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, hasher: RandomState::new(), shards: Default::default() }
    }

    pub(super) const fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(super) const fn limits_anything(&self) -> bool {
        self.rules.quota.is_some() || self.rules.concurrency.is_some()
    }

    /// The entry of a principal, a new one if need be; `None` if the table is full of others.
    pub(super) fn entry(&self, key: &Key) -> Option<Arc<Entry>> {
        self.entry_at(key, Instant::now())
    }

    fn entry_at(&self, key: &Key, now: Instant) -> Option<Arc<Entry>> {
        let [byte, ..] = self.hasher.hash_one(key).to_le_bytes();
        let index = usize::from(byte) % SHARDS;
        let mut shard = self.shards.get(index)?.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((entry, last)) = shard.entries.get_mut(key) {
            *last = now;
            return Some(Arc::clone(entry));
        }
        if shard.entries.len() >= MAX_PER_SHARD {
            self.forget_idle(&mut shard, now);
            if shard.entries.len() >= MAX_PER_SHARD {
                return None;
            }
        }
        let limiter = self.rules.quota.map(RateLimiter::direct);
        let entry = Arc::new(Entry { limiter, under_way: AtomicU32::new(0) });
        shard.entries.insert(key.clone(), (Arc::clone(&entry), now));
        Some(entry)
    }

    fn forget_idle(&self, shard: &mut Shard, now: Instant) {
        let age = |then: Instant| now.saturating_duration_since(then);
        if shard.searched.is_some_and(|then| age(then) < FULL_RETRY) {
            return;
        }
        shard.searched = Some(now);
        let recovery = self.rules.recovery();
        // Someone else who holds the entry is about to count in, or counts already.
        shard.entries.retain(|_, (entry, last)| {
            Arc::strong_count(entry) > 1
                || entry.under_way.load(Ordering::Acquire) > 0
                || age(*last) <= recovery
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: usize) -> Key {
        Key { kind: PrincipalKind::User, tenant: "t".parse().unwrap(), id: id.to_string().into() }
    }

    fn len(table: &Table) -> usize {
        table.shards.iter().map(|shard| shard.lock().unwrap().entries.len()).sum()
    }

    #[test]
    fn it_is_bounded_and_forgets_only_who_is_idle() {
        let table = Table::new(Rules { quota: None, concurrency: Some(1) });
        let start = Instant::now();
        let mut held = Vec::new();
        let mut id = 0;
        while held.len() < 70_000 && id < 70_000 {
            if let Some(entry) = table.entry_at(&key(id), start) {
                held.push(entry);
            }
            id += 1;
        }
        assert!(held.len() < 70_000 && len(&table) <= SHARDS * MAX_PER_SHARD);
        // All entries are held: a newcomer to a full shard finds no place, those who are known do.
        let later = start + Duration::from_secs(60);
        assert!((70_000..70_200).any(|id| table.entry_at(&key(id), later).is_none()));
        assert!(table.entry_at(&key(0), later).is_some());
        held.clear();
        let much_later = later + Duration::from_secs(60);
        assert!((70_000..80_000).all(|id| table.entry_at(&key(id), much_later).is_some()));
    }

    #[test]
    fn a_spent_rate_is_not_forgotten_before_it_has_recovered() {
        let settings: Settings = toml::from_str("rate = 2\nper = '10s'").unwrap();
        let table = Table::new(Rules::new(&settings).unwrap());
        let start = Instant::now();
        drop(table.entry_at(&key(1), start));
        let count_after = |seconds| {
            let now = start + Duration::from_secs(seconds);
            for shard in &table.shards {
                table.forget_idle(&mut shard.lock().unwrap(), now);
            }
            len(&table)
        };
        assert_eq!(count_after(10), 1);
        assert_eq!(count_after(12), 0);
    }
}
