//! Protection: what a permit demands is done to the payload before it leaves, and nothing else leaves.
//!
//! The types carry the promise. `policy` alone makes a [`Permit`]; [`prepare`] consumes it and alone makes an [`Outbound`];
//! `upstream` sends nothing but an [`Outbound`]. So a payload cannot leave without a decision, twice on one decision, or with
//! another protection than was decided, and code that tries does not compile:
//!
//! ```text
//! policy::Bundle::decide ──► Permit ──► protect::prepare ──► Outbound ──► upstream::Upstreams::send
//! ```
//!
//! A permit for [`Protection::Sealed`] needs a [`Plan`], made before its decision is recorded: without one that fits, it is refused,
//! for to send what policy wants sealed in the clear is the one mistake that this module exists to prevent. Read `protector.rs` for
//! the order of things between a border and its peer, `context.rs` for what a message is bound to.

mod context;
mod error;
pub mod keys;
mod object;
mod opening;
mod outbound;
mod protector;
mod replay;
pub mod seal;
mod sealing;
mod wire;

pub use context::{Facts, MAX_AHEAD_SECONDS, Mismatch};
pub use error::{AnswerRefused, OpeningError, SealingError};
pub use object::ObjectFacts;
pub use outbound::{Outbound, ProtectError, prepare};
pub use protector::{
    Expected, Opened, OpenedAnswer, Plaintext, Plan, Protector, SEALED, Seal, SealFacts, SealedAnswer,
    is_sealed,
};
pub use replay::{MAX_REMEMBERED, Replay, ReplayError};
pub use wire::WireDigest;

#[cfg(doc)]
use crate::model::Protection;
#[cfg(doc)]
use crate::policy::Permit;
