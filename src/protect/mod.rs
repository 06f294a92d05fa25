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
//! The only rung so far is [`Protection::None`]: a permit for another one is refused, for to send what policy wants sealed
//! in the clear is the one mistake that this module exists to prevent.

pub mod keys;
mod outbound;
pub mod seal;

pub use outbound::{Outbound, ProtectError, prepare};

#[cfg(doc)]
use crate::model::Protection;
#[cfg(doc)]
use crate::policy::Permit;
