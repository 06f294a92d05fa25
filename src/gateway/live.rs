//! Exchanges under way, and what ends one before its end: what was permitted when it began is asked again when something changed.
//!
//! ```text
//! attempt::run ─► enter ─► permitted ─► (request body) ─► head ─► (answer body) ─► left
//!                   └─ every 200 ms, before an attempt leaves and before the head is passed on: judge ─► end
//! ```
//!
//! An exchange that is ended loses its bodies at once, so that nothing more crosses and its record is closed whatever the caller does.
//! What the caller sees depends on what it has seen: a refusal before the head; in an event stream an error event and the end; else a
//! body that visibly breaks off.

mod flow;
mod judge;

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};

use http::Method;
use jiff::Timestamp;

use crate::inspect::Inspected;
use crate::message::ClientCertificate;
use crate::model::{Candidate, Principal, Protection, RecordId};
use crate::policy::{AuthzRequest, Permit};

use flow::Flow;

pub(super) use flow::{answer, request};
pub(super) use judge::Ended;

/// What was asked: everything that a decision looks at but for the time and where to.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) principal: Arc<Principal>,
    /// The certificate of the connection.
    pub(super) certificate: Option<Arc<ClientCertificate>>,
    pub(super) peer: IpAddr,
    pub(super) method: Method,
    /// The decoded path as it leaves, the route's prefix cut off.
    pub(super) path: String,
    /// Its candidates are taken out: attempts use them up.
    pub(super) inspected: Inspected,
}

impl Case {
    /// The question to Cedar, at this time.
    pub(super) fn authorization(&self, now: Timestamp) -> AuthzRequest<'_> {
        AuthzRequest {
            principal: &self.principal,
            action: self.inspected.action,
            label: &self.inspected.label,
            method: self.method.as_str(),
            path: &self.path,
            bytes: self.inspected.bytes,
            stream: self.inspected.stream,
            max_tokens: self.inspected.max_tokens,
            peer: self.peer,
            now,
            purpose: self.inspected.purpose.as_deref(),
        }
    }
}

/// One exchange under way.
#[derive(Debug)]
pub(super) struct Live {
    record: RecordId,
    case: Arc<Case>,
    permitted: Mutex<Option<Permitted>>,
    verdict: OnceLock<Arc<Ended>>,
    /// The request's body, if it streams.
    request: Flow,
    answer: Flow,
    /// Whoever waits for the head of the answer.
    waiting: Mutex<Option<Waker>>,
}

/// What was permitted, and what it was judged by.
#[derive(Debug)]
struct Permitted {
    candidate: Candidate,
    protection: Protection,
    bundle: Arc<str>,
    revocations: u64,
}

impl Live {
    /// The attempt that is about to be made. `revocations`: the version of the list that the principal was found not to be on.
    pub(super) fn permitted(&self, permit: &Permit, revocations: u64) {
        *held(&self.permitted) = Some(Permitted {
            candidate: permit.candidate().clone(),
            protection: permit.protection(),
            bundle: Arc::clone(permit.bundle()),
            revocations,
        });
    }

    /// Why it was ended, if it was.
    pub(super) fn verdict(&self) -> Option<&Arc<Ended>> {
        self.verdict.get()
    }

    /// Waits until it is ended.
    pub(super) async fn ended(&self) -> Arc<Ended> {
        poll_fn(|cx| {
            // First the waker, then the look: whoever ends it does so in the other order.
            let mut waiting = held(&self.waiting);
            match &mut *waiting {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waiting = Some(cx.waker().clone()),
            }
            drop(waiting);
            self.verdict.get().map_or(Poll::Pending, |ended| Poll::Ready(Arc::clone(ended)))
        })
        .await
    }

    /// Whoever puts a body calls this: if it was ended a moment before, the body was not there to be taken.
    fn cut_if_ended(&self) {
        if self.verdict.get().is_some() {
            self.request.cut();
            self.answer.cut();
        }
    }

    /// Ends it, unless its answer is over. Takes both bodies away; what hangs on them is closed here and now.
    fn end(&self, ended: Ended) -> bool {
        if self.answer.is_over() || self.verdict.set(Arc::new(ended)).is_err() {
            return false;
        }
        self.request.cut();
        self.answer.cut();
        if let Some(waker) = held(&self.waiting).take() {
            waker.wake();
        }
        true
    }
}

/// All exchanges under way. As many as there may be requests: connections times their streams, and no more than the journal has places
/// for.
#[derive(Debug, Default)]
pub(super) struct Lives {
    all: Mutex<HashMap<u64, Arc<Live>>>,
    next: AtomicU64,
}

/// A place among those under way, given back when dropped.
#[derive(Debug)]
pub(super) struct Entry {
    lives: Arc<Lives>,
    number: u64,
    pub(super) live: Arc<Live>,
}

impl Lives {
    /// Enters an exchange.
    pub(super) fn enter(self: &Arc<Self>, record: RecordId, case: &Arc<Case>) -> Entry {
        let live = Arc::new(Live {
            record,
            case: Arc::clone(case),
            permitted: Mutex::default(),
            verdict: OnceLock::new(),
            request: Flow::default(),
            answer: Flow::default(),
            waiting: Mutex::default(),
        });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        held(&self.all).insert(number, Arc::clone(&live));
        Entry { lives: Arc::clone(self), number, live }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        held(&self.all).len()
    }

    fn list(&self) -> Vec<Arc<Live>> {
        held(&self.all).values().cloned().collect()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let live = held(&self.lives.all).remove(&self.number);
        drop(live);
    }
}

/// Nothing is left half done under these locks, so one that a panic poisoned is as good as any.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
