//! How much of the processors' time the comparison may take.
//!
//! A decision of the candidate costs as much as one of the live policies. At low rates that is nothing, and all are compared; at rates that
//! fill the processors it would be requests that are not served, so beyond its share the thread rests, the queue fills, and
//! what finds no place is counted as dropped.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The thread takes at most one part in so many of the time of the threads that serve.
const PART: u32 = 48;
/// The longest rest, so that ending the thread does not take long.
const LONGEST: Duration = Duration::from_secs(1);

/// The share of one thread, which measures itself.
#[derive(Debug)]
pub(super) struct Share {
    /// Threads that serve; the share grows with them, up to one whole processor.
    workers: u32,
    /// Processor time of this thread when it was asked last, and when that time will have been its share.
    before: Option<(Duration, Instant)>,
}

impl Share {
    pub(super) fn of(workers: usize) -> Self {
        Self { workers: u32::try_from(workers).unwrap_or(u32::MAX).clamp(1, PART), before: None }
    }

    /// How long to rest, so that what was used stays within the share. To be asked by the thread itself.
    pub(super) fn rest(&mut self) -> Duration {
        self.rest_after(thread_time(), Instant::now())
    }

    /// The same, if by `now` it has used so much in all. Time in which there was nothing to do is no credit.
    fn rest_after(&mut self, used: Duration, now: Instant) -> Duration {
        let Some((used_before, free)) = self.before else {
            self.before = Some((used, now));
            return Duration::ZERO;
        };
        let turn = used.saturating_sub(used_before);
        let began = now.checked_sub(turn).unwrap_or(now);
        let free = free.max(began) + turn.saturating_mul(PART) / self.workers;
        self.before = Some((used, free));
        free.saturating_duration_since(now).min(LONGEST)
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

    /// Turns of a millisecond, some at once and some after a while, each followed by the rest that is asked for.
    #[test]
    fn over_any_time_the_share_is_kept() {
        let turn = Duration::from_millis(1);
        for workers in [1, 4] {
            let (mut share, start) = (Share::of(workers), Instant::now());
            let (mut now, mut used) = (start, Duration::ZERO);
            share.rest_after(used, now);
            for number in 0..100 {
                // Waiting for work is no credit for later.
                now += if number == 50 { Duration::from_secs(9) } else { Duration::ZERO };
                (now, used) = (now + turn, used + turn);
                let rest = share.rest_after(used, now);
                assert_eq!(rest + turn, turn * PART / u32::try_from(workers).unwrap());
                now += rest;
            }
        }
    }

    #[test]
    fn a_long_rest_is_taken_in_parts() {
        let (mut share, start) = (Share::of(1), Instant::now());
        share.rest_after(Duration::ZERO, start);
        let used = Duration::from_millis(100);
        let now = start + used;
        assert_eq!(share.rest_after(used, now), LONGEST);
        assert_eq!(share.rest_after(used, now + LONGEST), LONGEST);
        assert_eq!(share.rest_after(used, start + used * PART), Duration::ZERO);
        assert_eq!(Share::of(1000).workers, PART);
    }

    #[test]
    fn a_thread_knows_its_own_time() {
        let (before, mut share) = (thread_time(), Share::of(1));
        assert_eq!(share.rest(), Duration::ZERO);
        while thread_time() < before + Duration::from_millis(2) {
            std::hint::black_box(0);
        }
        assert!(share.rest() > Duration::ZERO);
    }
}
