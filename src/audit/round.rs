//! Wake-ups of the committer that can wait for the end of a worker's round.
//!
//! A worker of the runtime runs all tasks that can run, then it parks. Each of them may put a record in; one wake-up at the end, instead
//! of one for each, saves most of the switches between threads, and a lone request loses nothing: its worker parks at once.
//!
//! No record depends on this. Only a committer that *dozes* is left alone, and it looks by itself within a millisecond: that bounds
//! the wait when a worker never comes to rest, and when its thread stopped being a worker (`block_in_place`, the end of the runtime)
//! and so never parks again. A committer in deep sleep is always woken at once.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::queue::Queue;

#[derive(Debug, Default)]
struct Round {
    /// Whether this thread says when it parks.
    parks: Cell<bool>,
    /// Whom it has to wake then.
    owed: RefCell<Option<Arc<Queue>>>,
}

thread_local! {
    static ROUND: Round = Round::default();
}

/// To be called by every worker of a runtime when it is about to park: for [`tokio::runtime::Builder::on_thread_park`].
pub fn end() {
    let owed = ROUND.try_with(|round| {
        round.parks.set(true);
        round.owed.take()
    });
    if let Ok(Some(queue)) = owed {
        queue.hurry();
    }
}

/// Whether this thread will wake the reader of `queue` when it parks; if not, somebody else must.
pub(crate) fn defers(queue: &Arc<Queue>) -> bool {
    let defers = |round: &Round| {
        round.parks.get() && Arc::ptr_eq(round.owed.borrow_mut().get_or_insert_with(|| queue.clone()), queue)
    };
    ROUND.try_with(defers).unwrap_or(false)
}
