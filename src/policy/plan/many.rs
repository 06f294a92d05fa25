//! Many records at once: one thread reads, others judge, and what they find is added up in the order of the records, so that the
//! answer does not depend on how many threads there are.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};

use super::judge::{Judge, Judged};
use super::tally::{Replay, Tally};

/// Records in a batch, and bytes of them after which none is added.
const MAX_RECORDS: usize = 512;
const MAX_BYTES: usize = 1 << 20;
/// Batches that are read ahead for each thread.
const AHEAD: usize = 2;

/// Records on their way to a thread.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each record ends.
    ends: Vec<usize>,
}

impl Batch {
    /// Adds a record.
    pub fn push(&mut self, payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
        self.ends.push(self.bytes.len());
    }

    /// Whether it holds enough: at most 512 records, and no more once there are 1 MiB.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ends.len() >= MAX_RECORDS || self.bytes.len() >= MAX_BYTES
    }

    fn records(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).filter_map(|(start, end)| self.bytes.get(*start..*end))
    }
}

/// Puts back into a record what was encrypted when it was written; none if nothing was.
pub type Restore<'a> = Box<dyn FnMut(&[u8]) -> Option<Vec<u8>> + 'a>;

/// How many records at once.
#[derive(Clone, Copy)]
pub struct Jobs<'a> {
    /// Threads that judge, at least one.
    pub threads: usize,
    /// Makes what restores records, one for each thread.
    pub restore: &'a (dyn Fn() -> Restore<'a> + Sync),
}

impl std::fmt::Debug for Jobs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").field("threads", &self.threads).finish_non_exhaustive()
    }
}

/// Records that could not be judged.
#[derive(Debug, thiserror::Error)]
pub enum PlanError<E> {
    /// They could not be read.
    #[error(transparent)]
    Read(E),
    /// A thread ended before its time.
    #[error("a thread that replays records died")]
    Thread,
}

/// Judges all records that `fill` gives. It fills a batch until that is full, and leaves it empty when there are no more.
///
/// # Errors
/// Those of `fill`; nothing is told of a part.
pub fn replay<E>(
    judge: &Judge<'_>,
    jobs: Jobs<'_>,
    mut fill: impl FnMut(&mut Batch) -> Result<(), E>,
) -> Result<Replay, PlanError<E>> {
    let (to_judge, work) = channel::<(u64, Batch)>();
    let (found, judged) = channel::<(u64, Option<Vec<Judged>>)>();
    let work = Mutex::new(work);
    let threads = jobs.threads.max(1);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (work, found) = (&work, found.clone());
            scope.spawn(move || {
                let mut restore = (jobs.restore)();
                while let Some((number, batch)) = take(work) {
                    let verdicts = batch.records().map(|payload| match restore(payload) {
                        Some(restored) => judge.judge(&restored),
                        None => judge.judge(payload),
                    });
                    // Nobody may wait for what a thread that died will never send.
                    let verdicts = catch_unwind(AssertUnwindSafe(|| verdicts.collect())).ok();
                    if found.send((number, verdicts)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(found);
        let mut order = InOrder::default();
        let mut sent = 0_u64;
        let mut more = true;
        // Taken into this block: when it ends there is no more to take, and the threads end.
        let to_judge = to_judge;
        while more || order.next < sent {
            let ahead = sent.saturating_sub(order.next);
            if more && ahead < u64::try_from(threads.saturating_mul(AHEAD)).unwrap_or(u64::MAX) {
                let mut batch = Batch::default();
                fill(&mut batch).map_err(PlanError::Read)?;
                more = !batch.ends.is_empty();
                if more {
                    to_judge.send((sent, batch)).map_err(|_| PlanError::Thread)?;
                    sent = sent.saturating_add(1);
                }
            } else {
                let (number, verdicts) = judged.recv().map_err(|_| PlanError::Thread)?;
                order.add(number, verdicts.ok_or(PlanError::Thread)?);
            }
        }
        Ok(order.tally.finish())
    })
}

fn take(work: &Mutex<Receiver<(u64, Batch)>>) -> Option<(u64, Batch)> {
    work.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// Puts what the threads found back into the order of the records.
#[derive(Debug, Default)]
struct InOrder {
    tally: Tally,
    next: u64,
    waiting: BTreeMap<u64, Vec<Judged>>,
}

impl InOrder {
    fn add(&mut self, number: u64, verdicts: Vec<Judged>) {
        self.waiting.insert(number, verdicts);
        while let Some(verdicts) = self.waiting.remove(&self.next) {
            verdicts.into_iter().for_each(|judged| self.tally.add(judged));
            self.next = self.next.saturating_add(1);
        }
    }
}
