//! What a change of the policies would do, told before it is made.
//!
//! Two bundles are compared from three sides. [`Changes`] is what an author sees: files, policies, entities. [`Replay`] is the past: recorded
//! decisions asked of both. What no record shows is for `compare` in [`super::prove`], which compares both for every request that there can be.
//!
//! **Looser** means that a request is allowed in a place or with a protection with which it was denied, such as unsealed instead of sealed;
//! **stricter** the reverse. No I/O: records come from whoever reads the journal.

mod changes;
mod judge;
mod many;
mod report;
mod tally;

pub use changes::{Change, Changes, EntityChange, FileChange, PolicyChange};
pub use judge::{Decided, Direction, Judge, Judged};
pub use many::{Batch, Jobs, PlanError, Restore, replay};
pub use report::{Comparison, Plan, Ran, Tests, Verdict};
pub use tally::{Affected, Count, Example, Group, Replay, Skipped, Unreplayed};
