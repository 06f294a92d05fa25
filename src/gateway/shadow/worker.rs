//! The thread that asks the candidate.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;

use crate::audit::Audit;
use crate::audit::record::Event;
use crate::model::RecordId;
use crate::policy::Bundle;
use crate::policy::shadow::Question;

use super::groups::Groups;
use super::share::Share;
use super::{Figures, add};

/// How long questions gather: the request path then wakes the thread once for many.
const GATHER: Duration = Duration::from_millis(10);
/// Questions of one turn.
const TURN: usize = 128;
/// How often new groups are told.
const TELL: Duration = Duration::from_secs(1);
/// How often the sums are told, and groups that were told before.
const SUM: Duration = Duration::from_secs(60);
/// The lowest priority of Linux: under full load a sixtieth of what a thread of requests gets.
const LOWEST: i32 = 19;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Task {
    Compare(Box<Asked>),
    Close,
}

/// What the thread is told, with the count of what waits.
#[derive(Debug)]
pub(super) struct Tasks {
    pub(super) inbox: Receiver<Task>,
    pub(super) waiting: Arc<AtomicUsize>,
    /// Whether what waits is the last: then nobody rests.
    pub(super) closing: Arc<AtomicBool>,
}

impl Tasks {
    fn next(&self) -> Option<Task> {
        self.inbox.try_recv().ok().inspect(|task| self.taken(task))
    }

    fn wait(&self) -> Result<Task, RecvTimeoutError> {
        self.inbox.recv_timeout(TELL).inspect(|task| self.taken(task))
    }

    fn taken(&self, task: &Task) {
        if matches!(task, Task::Compare(_)) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A decision and the record of its crossing.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) id: RecordId,
    pub(super) question: Question,
}

/// What was counted since the sums were told.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    compared: u64,
    diverged: u64,
    failed: u64,
    /// The count of all drops at that time.
    dropped_before: u64,
}

/// Asks, and keeps the groups.
pub(super) struct Worker {
    tasks: Tasks,
    share: Share,
    candidate: Arc<ArcSwapOption<Bundle>>,
    figures: Arc<Figures>,
    audit: Audit,
    groups: Groups,
    /// The candidate that the sums are about.
    asked: Option<Arc<Bundle>>,
    sums: Sums,
    since: Timestamp,
    told: Instant,
    summed: Instant,
}

impl Worker {
    pub(super) fn new(
        tasks: Tasks,
        candidate: Arc<ArcSwapOption<Bundle>>,
        figures: Arc<Figures>,
        audit: Audit,
        share: Share,
    ) -> Self {
        Self {
            tasks,
            share,
            candidate,
            figures,
            audit,
            groups: Groups::default(),
            asked: None,
            sums: Sums::default(),
            since: Timestamp::now(),
            told: Instant::now(),
            summed: Instant::now(),
        }
    }

    /// Until it is told to close, or nobody is left to ask.
    pub(super) fn run(mut self) {
        // On Linux a priority belongs to the thread that sets it.
        if let Err(error) = rustix::process::setpriority_process(None, LOWEST) {
            tracing::warn!(%error, "the shadow policies keep the priority of requests");
        }
        loop {
            match self.tasks.wait() {
                Ok(Task::Compare(asked)) => self.compare(&asked),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Task::Close) | Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.drain() {
                break;
            }
            self.tell_if_due();
            if !self.tasks.closing.load(Ordering::Relaxed) {
                thread::sleep(self.share.rest().max(GATHER));
            }
        }
        self.sum();
    }

    /// Asks some of what waits, few enough that the rest they earn is short; whether it was told to close.
    fn drain(&mut self) -> bool {
        for _ in 0..TURN {
            let Some(task) = self.tasks.next() else { break };
            match task {
                Task::Compare(asked) => self.compare(&asked),
                Task::Close => return true,
            }
            self.tell_if_due();
        }
        false
    }

    fn compare(&mut self, asked: &Asked) {
        let Some(candidate) = self.candidate.load_full() else { return };
        if self.asked.as_ref().is_none_or(|before| before.hash() != candidate.hash()) {
            // The sums of one candidate are not those of the next.
            self.sum();
            self.asked = Some(Arc::clone(&candidate));
        }
        let question = &asked.question;
        // A candidate that breaks the evaluator must not end the comparison of the next one.
        let Ok(would) = catch_unwind(AssertUnwindSafe(|| question.ask(&candidate))) else {
            add(&self.figures.failed);
            self.sums.failed += 1;
            return;
        };
        add(&self.figures.compared);
        self.sums.compared += 1;
        if let Some(differs) = question.outcome().differs(&would) {
            self.figures.diverged(differs);
            self.sums.diverged += 1;
            self.groups.add(asked.id, question, (differs, would), candidate.hash());
        }
    }

    fn tell_if_due(&mut self) {
        if self.summed.elapsed() >= SUM {
            self.sum();
        } else if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            let audit = &self.audit;
            self.groups.tell_new(|event| audit.event(event));
        }
    }

    /// Tells all groups and the sums, and counts anew.
    fn sum(&mut self) {
        (self.told, self.summed) = (Instant::now(), Instant::now());
        // What was dropped before the first was asked is of that candidate.
        let Some(asked) = &self.asked else { return };
        let (now, audit) = (Timestamp::now(), &self.audit);
        let ungrouped = self.groups.tell_all(|event| audit.event(event));
        let all_dropped = self.figures.dropped();
        let Sums { compared, diverged, failed, dropped_before } = self.sums;
        let dropped = all_dropped.saturating_sub(dropped_before);
        if compared + failed + dropped > 0 {
            let candidate = asked.hash().into();
            let from = self.since;
            audit.event(&Event::ShadowCompared {
                candidate,
                compared,
                diverged,
                dropped,
                failed,
                ungrouped,
                from,
                to: now,
            });
        }
        if dropped > 0 {
            tracing::warn!(dropped, compared, "the shadow policies did not keep up with all decisions");
        }
        self.sums = Sums { dropped_before: all_dropped, ..Sums::default() };
        self.since = now;
    }
}
