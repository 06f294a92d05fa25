//! How much a principal may do at once and in a time: rate and concurrency per principal and route.
//!
//! Limits protect; they do not authorise. A principal is admitted only after the decision, and its slot is held until the answer ends.

mod settings;
mod table;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use governor::clock::Clock as _;

use crate::model::{Principal, Problems, RouteName};

pub use settings::Settings;
use table::{Entry, Key, Rules, Table};

/// How long a principal should wait who has too many requests under way: no one knows when one of them ends.
const CONCURRENCY_RETRY: Duration = Duration::from_secs(1);

/// The limits of all routes.
#[derive(Debug, Default)]
pub struct Limits {
    routes: HashMap<RouteName, Table>,
}

impl Limits {
    /// The limits of each route, as they stand in `file`; a route that is not named is not limited.
    ///
    /// # Errors
    /// All mistakes of the settings.
    pub fn new<'a>(
        routes: impl IntoIterator<Item = (&'a RouteName, &'a Settings)>,
        file: &str,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::new();
        let mut tables = HashMap::new();
        for (name, settings) in routes {
            match Rules::new(settings) {
                Ok(rules) => {
                    tables.insert(name.clone(), Table::new(rules));
                }
                Err(wrong) => {
                    for (member, message, hint) in wrong {
                        problems.push(file, format!("limits.{name}.{member}"), message, hint);
                    }
                }
            }
        }
        if problems.is_empty() { Ok(Self { routes: tables }) } else { Err(problems) }
    }

    /// Counts a request in, if it may start now.
    ///
    /// # Errors
    /// The principal has too many requests under way on the route, or started too many.
    pub fn admit(&self, principal: &Principal, route: &RouteName) -> Result<Slot, LimitExceeded> {
        let Some(table) = self.routes.get(route).filter(|table| table.limits_anything()) else {
            return Ok(Slot { entry: None });
        };
        let full = LimitExceeded { code: LimitKind::Rate, retry_after: table::FULL_RETRY };
        let entry = table.entry(&Key::of(principal)).ok_or(full)?;
        // Concurrency first: a request that is turned away for it must not cost the principal's rate.
        let slot = Slot::take(entry, table.rules().concurrency)?;
        let Some(limiter) = slot.entry.as_ref().and_then(|entry| entry.limiter.as_ref()) else {
            return Ok(slot);
        };
        match limiter.check() {
            Ok(()) => Ok(slot),
            Err(not_until) => {
                let retry_after = not_until.wait_time_from(limiter.clock().now());
                Err(LimitExceeded { code: LimitKind::Rate, retry_after })
            }
        }
    }
}

/// A request that is under way. Dropping it makes room for the next.
#[derive(Debug)]
#[must_use = "the slot is given back when this is dropped: keep it until the answer has ended"]
pub struct Slot {
    entry: Option<Arc<Entry>>,
}

impl Slot {
    fn take(entry: Arc<Entry>, most: Option<u32>) -> Result<Self, LimitExceeded> {
        let more = |under_way: u32| {
            let next = under_way.checked_add(1)?;
            most.is_none_or(|most| next <= most).then_some(next)
        };
        match entry.under_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => Ok(Self { entry: Some(entry) }),
            Err(_) => Err(LimitExceeded { code: LimitKind::Concurrency, retry_after: CONCURRENCY_RETRY }),
        }
    }

    /// Gives the place back before the slot is dropped.
    pub fn free(&mut self) {
        *self = Self { entry: None };
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(entry) = &self.entry {
            entry.under_way.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Which limit was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// Requests in a time.
    Rate,
    /// Requests at once.
    Concurrency,
}

/// A request that may not start now; answered with 429. `Display` is the public reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", match code { LimitKind::Rate => "too many requests", LimitKind::Concurrency => "too many requests at once" })]
pub struct LimitExceeded {
    /// Which limit was met.
    pub code: LimitKind,
    /// After how long the request may be tried again.
    pub retry_after: Duration,
}

impl LimitExceeded {
    /// The stable code of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self.code {
            LimitKind::Rate => "rate_limited",
            LimitKind::Concurrency => "concurrency_limited",
        }
    }

    /// The value of `Retry-After` (RFC 9110 10.2.3): whole seconds, rounded up, at least one.
    #[must_use]
    pub const fn retry_after_seconds(&self) -> u64 {
        let whole = self.retry_after.as_secs();
        let seconds = if self.retry_after.subsec_nanos() > 0 { whole.saturating_add(1) } else { whole };
        if seconds == 0 { 1 } else { seconds }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use crate::model::PrincipalKind;

    use super::*;

    fn alice() -> Principal {
        Principal::fixture(PrincipalKind::User, "alice", "t")
    }

    fn limits(rate: Option<u32>, burst: Option<u32>, concurrency: Option<u32>) -> (Limits, RouteName) {
        let route: RouteName = "chat".parse().unwrap();
        let settings = Settings {
            rate: rate.and_then(NonZeroU32::new),
            per: crate::model::Duration::secs(3_600),
            burst: burst.and_then(NonZeroU32::new),
            concurrency: concurrency.and_then(NonZeroU32::new),
        };
        (Limits::new([(&route, &settings)], "t.toml").unwrap(), route)
    }

    #[test]
    fn a_slot_is_given_back_when_it_is_dropped() {
        let (limits, route) = limits(None, None, Some(2));
        let first = limits.admit(&alice(), &route).unwrap();
        let _second = limits.admit(&alice(), &route).unwrap();
        let refused = limits.admit(&alice(), &route).unwrap_err();
        assert_eq!((refused.code(), refused.retry_after_seconds()), ("concurrency_limited", 1));
        drop(first);
        let _third = limits.admit(&alice(), &route).unwrap();
        assert!(limits.admit(&alice(), &route).is_err());
    }

    #[test]
    fn the_rate_holds_per_principal_and_says_when_to_come_back() {
        let (limits, route) = limits(Some(2), None, None);
        for _ in 0..2 {
            drop(limits.admit(&alice(), &route).unwrap());
        }
        let refused = limits.admit(&alice(), &route).unwrap_err();
        assert_eq!(refused.code(), "rate_limited");
        assert!((1_790..=1_800).contains(&refused.retry_after_seconds()), "{refused:?}");
        for other in [
            Principal::fixture(PrincipalKind::User, "bob", "t"),
            Principal::fixture(PrincipalKind::User, "alice", "u"),
            Principal::fixture(PrincipalKind::Workload, "alice", "t"),
        ] {
            drop(limits.admit(&other, &route).unwrap());
        }
    }

    #[test]
    fn a_request_that_is_turned_away_costs_nothing_of_the_other_limit() {
        let (limits, route) = limits(Some(1), Some(3), Some(1));
        let held = limits.admit(&alice(), &route).unwrap();
        for _ in 0..10 {
            assert_eq!(limits.admit(&alice(), &route).unwrap_err().code(), "concurrency_limited");
        }
        drop(held);
        for _ in 0..2 {
            drop(limits.admit(&alice(), &route).unwrap());
        }
        for _ in 0..3 {
            assert_eq!(limits.admit(&alice(), &route).unwrap_err().code(), "rate_limited");
        }
    }

    #[test]
    fn what_is_not_named_is_not_limited() {
        let (limits, _) = limits(Some(1), None, Some(1));
        let other: RouteName = "other".parse().unwrap();
        let slots: Vec<Slot> = (0..100).map(|_| limits.admit(&alice(), &other).unwrap()).collect();
        assert_eq!(slots.len(), 100);
    }

    #[test]
    fn settings_without_sense_are_problems() {
        let route: RouteName = "chat".parse().unwrap();
        let with = |text: &str| Limits::new([(&route, &toml::from_str::<Settings>(text).unwrap())], "t.toml");
        for wrong in ["burst = 5", "rate = 1\nper = '0s'", "rate = 1\nper = '2d'", "per = '5s'\nburst = 1"] {
            assert!(with(wrong).is_err(), "{wrong}");
        }
        for right in ["", "rate = 1", "rate = 100\nper = '1m'\nburst = 10", "concurrency = 4"] {
            assert!(with(right).is_ok(), "{right}");
        }
        assert!(toml::from_str::<Settings>("rate = 0").is_err());
    }

    #[test]
    fn many_threads_never_exceed_the_concurrency() {
        let (limits, route) = limits(None, None, Some(3));
        let under_way = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        if let Ok(slot) = limits.admit(&alice(), &route) {
                            assert!(under_way.fetch_add(1, Ordering::SeqCst) < 3);
                            under_way.fetch_sub(1, Ordering::SeqCst);
                            drop(slot);
                        }
                    }
                });
            }
        });
    }
}
