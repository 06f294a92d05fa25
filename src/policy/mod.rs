//! The decision: may this principal do this, with this data, going there?
//!
//! Owns Cedar: the bundle of policies, schema and entities ([`Bundle::load`]), the request as Cedar sees it
//! ([`AuthzRequest`]), and the outcome. A [`Permit`] can be made only in here, by [`Bundle::decide`], and only for an Allow
//! without any evaluation error. No decision is ever cached; what is cached are the few entities that a decision looks at.
//!
//! Must not do: I/O but for reading the bundle and, in [`prove`], running a solver; reading clocks, or knowing of HTTP. Nothing else names the Cedar library.

mod advice;
mod anatomy;
mod bundle;
mod check;
mod context;
mod contradiction;
mod decide;
#[cfg(test)]
mod differential;
mod direct;
pub mod embedded;
mod engine;
mod entities;
#[cfg(test)]
pub(crate) mod fixtures;
mod format;
mod index;
mod lint;
mod master;
mod names;
mod nearest;
mod nesting;
mod never;
mod origin;
mod permit;
pub mod plan;
pub mod prove;
mod record;
pub mod release;
pub mod replay;
mod request;
mod schema;
pub mod shadow;
mod source;
pub mod suite;
mod verify;
mod wildcards;

pub use advice::advise;
pub use anatomy::{Anatomy, AnatomyError, Dissected, Holds, Part, PartKind, at};
pub use bundle::{Bundle, Effect, Entities, PolicyInfo, content_hash};
pub use format::format;
pub use nearest::nearest;
pub use origin::{MAX_PACKED, MORE_ENTITIES, Origin, Place};
pub use permit::{Denial, DenialReason, Evaluation, Permit};
pub use record::{RequestRecord, ShownRequest};
pub use request::AuthzRequest;
pub use verify::{Check, Outcome, Verified};
