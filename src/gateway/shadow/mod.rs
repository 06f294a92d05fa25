//! Shadow: a candidate bundle is asked what the live one was asked. The live one alone enforces.
//!
//! The request path hands over a copy of the question and its outcome, and never waits: a full queue drops, and drops are counted.
//! One thread asks the candidate (`worker`), with the lowest priority that the system gives and a small share of the processors'
//! time (`share`): what requests can still be served is never decided by the comparison. Divergences are counted in groups
//! (`groups`), which become metrics and events of the journal.

mod groups;
mod share;
mod worker;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::audit::Audit;
use crate::model::{Candidate, Principal, Protection, RecordId};
use crate::policy::shadow::{Differs, Question};
use crate::policy::{AuthzRequest, Bundle, Denial, Permit};

use share::Share;
use worker::{Asked, Task, Tasks, Worker};

/// A candidate beside the live bundle of one gateway.
pub struct Shadow {
    candidate: Arc<ArcSwapOption<Bundle>>,
    problem: ArcSwap<String>,
    queue: SyncSender<Task>,
    places: usize,
    /// How many decisions wait: a queue that is full costs the request path no copy.
    waiting: Arc<AtomicUsize>,
    closing: Arc<AtomicBool>,
    figures: Arc<Figures>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shadow").field("candidate", &self.candidate).finish_non_exhaustive()
    }
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Figures {
    compared: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    divergences: [AtomicU64; Differs::ALL.len()],
}

impl Figures {
    /// Decisions that the candidate was asked about.
    pub fn compared(&self) -> u64 {
        self.compared.load(Ordering::Relaxed)
    }

    /// Decisions that found no place in the queue.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Decisions on which the candidate's evaluation panicked.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Decisions that differ, by what they differ in.
    pub fn divergences(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.divergences.iter().map(|count| count.load(Ordering::Relaxed));
        Differs::ALL.into_iter().map(Differs::name).zip(counts)
    }

    fn diverged(&self, differs: Differs) {
        let counts = Differs::ALL.iter().zip(&self.divergences);
        counts.filter(|(kind, _)| **kind == differs).for_each(|(_, count)| add(count));
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

impl Shadow {
    /// Starts the thread that asks; there is no candidate yet. `places` is how many decisions may wait for it, `workers` how many
    /// threads serve requests.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(places: usize, workers: usize, audit: Audit) -> io::Result<Self> {
        let (queue, inbox) = sync_channel(places);
        let (candidate, figures) = (Arc::new(ArcSwapOption::empty()), Arc::new(Figures::default()));
        let waiting = Arc::new(AtomicUsize::new(0));
        let closing = Arc::new(AtomicBool::new(false));
        let tasks = Tasks { inbox, waiting: Arc::clone(&waiting), closing: Arc::clone(&closing) };
        let worker =
            Worker::new(tasks, Arc::clone(&candidate), Arc::clone(&figures), audit, Share::of(workers));
        let thread = thread::Builder::new().name("tidegate-shadow".to_owned()).spawn(|| worker.run())?;
        let (problem, worker) = (ArcSwap::default(), Mutex::new(Some(thread)));
        Ok(Self { candidate, problem, queue, places, waiting, closing, figures, worker })
    }

    /// Takes another candidate from here on; none ends the comparison. What is wrong with the newest files, if anything is, is for `/readyz`.
    pub fn replace(&self, candidate: Option<Arc<Bundle>>, problem: String) {
        self.candidate.store(candidate);
        self.problem.store(Arc::new(problem));
    }

    /// The candidate that is asked.
    #[must_use]
    pub fn candidate(&self) -> Option<Arc<Bundle>> {
        self.candidate.load_full()
    }

    /// What is wrong with the newest candidate; empty if nothing is.
    #[must_use]
    pub fn problem(&self) -> Arc<String> {
        self.problem.load_full()
    }

    /// The counts, for metrics.
    #[must_use]
    pub const fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    /// Hands a decision over, if there is a candidate other than the bundle that took it and a place in the queue. Never waits.
    pub(super) fn offer(
        &self,
        id: RecordId,
        principal: &Arc<Principal>,
        request: &AuthzRequest<'_>,
        (candidates, rungs): (&[Candidate], &'static [Protection]),
        decided: &Result<Permit, Denial>,
    ) {
        let candidate = self.candidate.load();
        let Some(candidate) = candidate.as_ref() else { return };
        let live = match decided {
            Ok(permit) => permit.bundle(),
            Err(denial) => &denial.bundle,
        };
        if candidate.hash() == &**live {
            return;
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) < self.places {
            let question = Question::new(principal, request, candidates, rungs, decided);
            if self.queue.try_send(Task::Compare(Box::new(Asked { id, question }))).is_ok() {
                return;
            }
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        add(&self.figures.dropped);
    }

    /// Asks what still waits, writes what is counted, and ends the thread. Blocks.
    pub fn close(&self) {
        let thread = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            self.closing.store(true, Ordering::Relaxed);
            let _ = self.queue.send(Task::Close);
            if thread.join().is_err() {
                tracing::error!("the thread of the shadow policies panicked");
            }
        }
    }
}
