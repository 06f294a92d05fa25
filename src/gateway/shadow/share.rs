//! How much of the processors' time the comparison may take.
//!
//! A decision of the candidate costs as much as one of the live policies. At low rates that is nothing, and all are compared; at rates that
//! fill the processors it would be requests that are not served, so beyond its share the thread rests, the queue fills, and
//! what finds no place is counted as dropped.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The thread takes at most one part in so many of the time of the threads that serve.
const PART: u32 = 32;
/// The longest rest, so that ending the thread does not take long.
const LONGEST: Duration = Duration::from_secs(1);

/// The share of one thread, which measures itself.
#[derive(Debug)]
pub(super) struct Share {
    /// Threads that serve; the share grows with them, up to one whole processor.
    workers: u32,
    /// Processor time of this thread when it rested last, and when that was.
    before: Option<(Duration, Instant)>,
}

impl Share {
    pub(super) fn of(workers: usize) -> Self {
        Self { workers: u32::try_from(workers).unwrap_or(u32::MAX).clamp(1, PART), before: None }
    }

    /// How long to rest, so that what was used since the last rest stays within the share. To be asked by the thread itself.
    pub(super) fn rest(&mut self) -> Duration {
        let (used, now) = (thread_time(), Instant::now());
        let (used_before, since) = self.before.replace((used, now)).unwrap_or((used, now));
        let entitled = used.saturating_sub(used_before).saturating_mul(PART) / self.workers;
        entitled.saturating_sub(now - since).min(LONGEST)
    }
}

/// Processor time of the calling thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_works_rests_in_proportion_and_who_waits_does_not() {
        let mut share = Share::of(4);
        share.rest();
        let goal = thread_time() + Duration::from_millis(20);
        while thread_time() < goal {
            std::hint::black_box(0);
        }
        // 20 ms of one in eight are 160 ms, of which the work itself and what else ran meanwhile are over.
        let rest = share.rest();
        assert!(rest > Duration::ZERO && rest <= Duration::from_millis(160 + 8 * 20), "{rest:?}");
        assert!(share.rest() < Duration::from_millis(20), "nothing was used since");
        assert_eq!(Share::of(1000).workers, PART);
    }
}
