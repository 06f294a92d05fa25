//! Whether an endpoint is called: what its calls and its checks say of it, and how it comes back.
//!
//! ```text
//!             `failures` in a row                the time is over
//! available ───────────────────────► ejected ─────────────────────► due ── one request ──► on trial
//!     ▲                                 ▲                                                     │
//!     └──────────── an answer ──────────┴──────────────── no answer, for longer ──────────────┘
//! ```
//!
//! Checks, where they are configured, are a second opinion: an endpoint that fails them is not called, whatever its calls say.
//! This is a preference among endpoints and no wall: if none is left, all are tried. It widens nothing that policy permits.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::endpoint::EndpointId;
use super::settings::{Ejection, HealthCheck};

/// What is known of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointState {
    /// It is called.
    Available,
    /// Its calls failed: it is left out for a time, or one request tries it.
    Ejected,
    /// Its checks fail.
    Failing,
}

impl EndpointState {
    /// The number in metrics: 0 available, 1 ejected, 2 failing its checks.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::Available => 0,
            Self::Ejected => 1,
            Self::Failing => 2,
        }
    }
}

/// The health of one endpoint.
#[derive(Debug)]
pub(super) struct Health {
    id: EndpointId,
    rules: Ejection,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Calls that failed since the last answer that came to its end.
    failures: u32,
    out: Out,
    /// Ejections in a row.
    round: u32,
    /// When it last came back.
    returned: Option<Instant>,
    /// Ejections since the start.
    ejections: u64,
    checks: Checks,
    trials: u64,
}

#[derive(Debug, Default, Clone, Copy)]
enum Out {
    /// It is called.
    #[default]
    No,
    /// Not before then, and then by one request.
    Until(Instant),
    /// By the request of that number.
    Trial(u64),
}

#[derive(Debug, Default)]
struct Checks {
    failing: bool,
    /// Checks in a row that say the opposite.
    against: u32,
}

/// Whether a request may go to an endpoint.
#[derive(Debug)]
pub(super) enum Entry {
    /// As any other.
    Open,
    /// As the one that tries it.
    Trial(Trial),
    /// Not now.
    Closed,
}

/// The one request that tries an ejected endpoint. Dropped without a verdict, it leaves the trial to the next.
#[derive(Debug)]
pub(super) struct Trial {
    health: Arc<Health>,
    number: u64,
}

impl Drop for Trial {
    fn drop(&mut self) {
        let mut state = self.health.lock();
        if matches!(state.out, Out::Trial(number) if number == self.number) {
            state.out = Out::Until(Instant::now());
        }
    }
}

impl Health {
    pub(super) fn new(id: EndpointId, rules: Ejection) -> Self {
        Self { id, rules, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code between changes of the state can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the next request may go there.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        let state = self.lock();
        !state.checks.failing
            && match state.out {
                Out::No => true,
                Out::Until(end) => end <= now,
                Out::Trial(_) => false,
            }
    }

    /// Lets a request in; the first after an ejection is its trial.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> Entry {
        let mut state = self.lock();
        match state.out {
            _ if state.checks.failing => Entry::Closed,
            Out::No => Entry::Open,
            Out::Until(end) if end <= now => {
                state.trials = state.trials.wrapping_add(1);
                let number = state.trials;
                state.out = Out::Trial(number);
                drop(state);
                Entry::Trial(Trial { health: Arc::clone(self), number })
            }
            Out::Until(_) | Out::Trial(_) => Entry::Closed,
        }
    }

    /// The head of an answer came.
    pub(super) fn answered(&self) {
        let mut state = self.lock();
        if matches!(state.out, Out::No) {
            return;
        }
        state.out = Out::No;
        state.returned = Some(Instant::now());
        // It must prove itself: one more failure before a whole answer ejects it again.
        state.failures = self.rules.failures.saturating_sub(1);
        drop(state);
        tracing::info!(upstream = %self.id.upstream(), endpoint = %self.id, "the endpoint answers again: it is called as before");
    }

    /// An answer came to its end.
    pub(super) fn ended(&self) {
        self.lock().failures = 0;
    }

    /// A call brought no answer, or half of one, or one that says that nothing can be served.
    pub(super) fn failed(&self, now: Instant) {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        let over = match state.out {
            Out::No => self.rules.failures > 0 && state.failures >= self.rules.failures,
            Out::Until(end) => end <= now,
            Out::Trial(_) => true,
        };
        if !over {
            return;
        }
        // Who stayed well for longer than any ejection lasts begins anew.
        let longest = self.rules.longest.get();
        if state.returned.is_some_and(|returned| now.duration_since(returned) > longest) {
            state.round = 0;
        }
        state.round = state.round.saturating_add(1);
        let time = with_jitter(self.rules.base.get().saturating_mul(state.round).min(longest));
        state.out = Out::Until(now + time);
        state.ejections = state.ejections.saturating_add(1);
        let (failures, round) = (state.failures, state.round);
        drop(state);
        tracing::warn!(
            upstream = %self.id.upstream(),
            endpoint = %self.id,
            failures,
            round,
            for_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            "the endpoint fails: it is left out for a time"
        );
    }

    /// A check passed or not.
    pub(super) fn checked(&self, passed: bool, rules: &HealthCheck) {
        let mut state = self.lock();
        let checks = &mut state.checks;
        if passed != checks.failing {
            checks.against = 0;
            return;
        }
        checks.against = checks.against.saturating_add(1);
        if checks.against < if passed { rules.healthy } else { rules.unhealthy } {
            return;
        }
        *checks = Checks { failing: !passed, against: 0 };
        drop(state);
        if passed {
            tracing::info!(upstream = %self.id.upstream(), endpoint = %self.id, "the endpoint passes its checks again");
        } else {
            tracing::warn!(upstream = %self.id.upstream(), endpoint = %self.id, "the endpoint fails its checks: it is not called");
        }
    }

    /// What is known of it, and how often it was ejected since the start.
    pub(super) fn reading(&self) -> (EndpointState, u64) {
        let state = self.lock();
        let known = match state.out {
            _ if state.checks.failing => EndpointState::Failing,
            Out::No => EndpointState::Available,
            Out::Until(_) | Out::Trial(_) => EndpointState::Ejected,
        };
        (known, state.ejections)
    }
}

/// Up to a fifth more, so that what failed at one moment is not tried again at one moment.
fn with_jitter(time: Duration) -> Duration {
    let random = u32::try_from(RandomState::new().build_hasher().finish() % 1000).unwrap_or(0);
    time.saturating_add(time / 5 * random / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Duration as Span, UpstreamRef};

    fn health(failures: u32) -> Arc<Health> {
        let upstream = UpstreamRef::Cluster("eu".parse().unwrap());
        let id = EndpointId::new(upstream, &"http://127.0.0.1:1".parse().unwrap());
        let rules = Ejection { failures, base: Span::secs(10), longest: Span::secs(25) };
        Arc::new(Health::new(id, rules))
    }

    fn trial(health: &Arc<Health>, now: Instant) -> Option<Trial> {
        match health.enter(now) {
            Entry::Trial(trial) => Some(trial),
            Entry::Open | Entry::Closed => None,
        }
    }

    #[tokio::test]
    async fn failures_in_a_row_eject_and_one_answer_brings_back() {
        let (health, start) = (health(3), Instant::now());
        health.failed(start);
        health.failed(start);
        health.ended();
        health.failed(start);
        health.failed(start);
        assert!(health.is_open(start), "an answer in between breaks the row");
        health.failed(start);
        assert!(!health.is_open(start + Duration::from_secs(9)));
        assert_eq!(health.reading(), (EndpointState::Ejected, 1));

        let later = start + Duration::from_secs(13);
        let one = trial(&health, later).expect("one request tries it");
        assert!(matches!(health.enter(later), Entry::Closed), "and only one");
        drop(one);
        let one = trial(&health, later).expect("a trial without a verdict is the next one's");
        health.answered();
        drop(one);
        assert!(matches!(health.enter(later), Entry::Open));
        // It has not yet proved itself.
        health.failed(later);
        assert_eq!(health.reading(), (EndpointState::Ejected, 2));
    }

    #[tokio::test]
    async fn each_ejection_in_a_row_is_longer_up_to_the_longest() {
        let (health, mut now) = (health(1), Instant::now());
        for seconds in [10, 20, 25, 25] {
            health.failed(now);
            assert!(!health.is_open(now + Duration::from_secs(seconds - 1)), "{seconds}");
            now += Duration::from_secs(seconds) + Duration::from_secs(seconds) / 5;
            assert!(health.is_open(now), "{seconds}");
            drop(trial(&health, now).unwrap());
        }
    }

    #[tokio::test]
    async fn failures_before_the_time_is_over_change_nothing() {
        let (health, now) = (health(1), Instant::now());
        health.failed(now);
        health.failed(now + Duration::from_secs(1));
        assert_eq!(health.reading(), (EndpointState::Ejected, 1));
        let never = self::health(0);
        (0..100).for_each(|_| never.failed(now));
        assert_eq!(never.reading(), (EndpointState::Available, 0));
    }

    #[tokio::test]
    async fn checks_close_and_open_by_their_thresholds() {
        let rules: HealthCheck =
            toml::from_str("path = '/health'\nhealthy = 2\nunhealthy = 3").expect("it is sound");
        let (health, now) = (health(1), Instant::now());
        for passed in [false, false, true, false, false] {
            health.checked(passed, &rules);
            assert!(health.is_open(now));
        }
        health.checked(false, &rules);
        assert_eq!(health.reading().0, EndpointState::Failing);
        health.answered();
        assert!(!health.is_open(now), "a call does not overrule its checks");
        for (passed, open) in [(true, false), (false, false), (true, false), (true, true)] {
            health.checked(passed, &rules);
            assert_eq!(health.is_open(now), open);
        }
    }
}
