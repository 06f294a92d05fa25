//! Refusals before anybody was identified: written one by one up to a limit, counted beyond it.
//!
//! Whoever can open a connection can cause them, so their share of the journal is bounded: 10 a second and source
//! network, a tenth of each segment in all. What is over goes into one count a second.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;

use super::record::Refusals;

/// Single records a second for one source network.
const PER_SOURCE: u32 = 10;
/// Source networks that are told apart within one second; those beyond are only counted.
const MAX_SOURCES: usize = 4096;
/// Codes that a count keeps apart; the codes are ours, so this is only a guard.
const MAX_CODES: usize = 64;
/// Source networks that a count names.
const NAMED_SOURCES: usize = 16;

/// The source network: /24 of IPv4 (also when mapped into IPv6), /64 of IPv6.
pub(crate) fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() & 0xffff_ff00).into()),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

#[derive(Debug, Default)]
struct Count {
    total: u64,
    codes: BTreeMap<String, u64>,
    sources: BTreeSet<IpAddr>,
    from: Option<Timestamp>,
}

/// Decides which refusals are written.
#[derive(Debug)]
pub(crate) struct Limiter {
    second: Instant,
    sources: HashMap<IpAddr, u32>,
    /// Bytes that refusals may still take in this segment.
    room: u64,
    room_per_segment: u64,
    count: Count,
    aggregated: u64,
}

pub(crate) fn lock(limiter: &Mutex<Limiter>) -> MutexGuard<'_, Limiter> {
    limiter.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Limiter {
    pub(crate) fn new(segment_size: u64) -> Self {
        let room_per_segment = segment_size / 10;
        Self {
            second: Instant::now(),
            sources: HashMap::new(),
            room: room_per_segment,
            room_per_segment,
            count: Count::default(),
            aggregated: 0,
        }
    }

    /// Whether a refusal from here may be a record of its own now.
    pub(crate) fn admits(&mut self, source: IpAddr, now: Instant) -> bool {
        if now.saturating_duration_since(self.second).as_secs() >= 1 {
            self.second = now;
            self.sources.clear();
        }
        let network = network(source);
        if self.room == 0 || (self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&network)) {
            return false;
        }
        let seen = self.sources.entry(network).or_default();
        *seen = seen.saturating_add(1);
        *seen <= PER_SOURCE
    }

    /// Takes room for a record; whether there was enough.
    pub(crate) fn spend(&mut self, bytes: usize) -> bool {
        match u64::try_from(bytes).ok().and_then(|bytes| self.room.checked_sub(bytes)) {
            Some(room) => {
                self.room = room;
                true
            }
            None => false,
        }
    }

    /// Counts a refusal that is not written.
    pub(crate) fn count(&mut self, code: &str, source: IpAddr, now: Timestamp) {
        self.aggregated = self.aggregated.saturating_add(1);
        let count = &mut self.count;
        count.total = count.total.saturating_add(1);
        count.from.get_or_insert(now);
        if count.sources.len() < NAMED_SOURCES {
            count.sources.insert(network(source));
        }
        if let Some(of_code) = count.codes.get_mut(code) {
            *of_code = of_code.saturating_add(1);
        } else if count.codes.len() < MAX_CODES {
            count.codes.insert(code.to_owned(), 1);
        }
    }

    /// What was counted since the last time, if the segment has room for `bytes` more.
    pub(crate) fn harvest(&mut self, bytes: usize, now: Timestamp) -> Option<Refusals> {
        if self.count.total == 0 || !self.spend(bytes) {
            return None;
        }
        let count = std::mem::take(&mut self.count);
        Some(Refusals {
            count: count.total,
            codes: count.codes,
            sources: count.sources.into_iter().collect(),
            from: count.from.unwrap_or(now),
            to: now,
        })
    }

    /// A new segment began.
    pub(crate) const fn new_segment(&mut self) {
        self.room = self.room_per_segment;
    }

    /// Refusals that were counted instead of written.
    pub(crate) const fn aggregated(&self) -> u64 {
        self.aggregated
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ten_a_second_and_network() {
        let mut limiter = Limiter::new(1 << 20);
        let start = Instant::now();
        let admitted = |limiter: &mut Limiter, address: &str, at| {
            (0..30).filter(|_| limiter.admits(address.parse().unwrap(), at)).count()
        };
        assert_eq!(admitted(&mut limiter, "192.0.2.1", start), 10);
        assert_eq!(admitted(&mut limiter, "192.0.2.200", start), 0);
        assert_eq!(admitted(&mut limiter, "::ffff:192.0.2.9", start), 0);
        assert_eq!(admitted(&mut limiter, "192.0.3.1", start), 10);
        assert_eq!(admitted(&mut limiter, "2001:db8::1", start), 10);
        assert_eq!(admitted(&mut limiter, "2001:db8::ffff", start), 0);
        assert_eq!(admitted(&mut limiter, "192.0.2.1", start + Duration::from_secs(1)), 10);
    }

    #[test]
    fn many_sources_and_a_spent_segment_are_only_counted() {
        let mut limiter = Limiter::new(1 << 20);
        let now = Instant::now();
        let admitted = (0..10_000_u32).filter(|i| limiter.admits(IpAddr::V4((i << 8).into()), now)).count();
        assert_eq!(admitted, MAX_SOURCES);
        while limiter.spend(1000) {}
        limiter.count("no_host", "192.0.2.1".parse().unwrap(), Timestamp::UNIX_EPOCH);
        assert!(limiter.harvest(1000, Timestamp::UNIX_EPOCH).is_none());
        limiter.new_segment();
        let counted = limiter.harvest(1000, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((counted.count, counted.codes["no_host"]), (1, 1));
        assert!(limiter.harvest(1000, Timestamp::UNIX_EPOCH).is_none());
    }
}
