//! The nouns that every stage shares: names, principals, labels, usage, units.
//!
//! Nothing here does I/O, reads a clock or knows of HTTP, Cedar or TOML libraries beyond `serde`.
//! A value of one of these types has been checked when it was made; stages never check it again.

mod action;
mod clock;
mod hex;
mod label;
mod names;
mod near;
pub mod note;
mod principal;
mod problem;
mod secret;
mod target;
mod units;
mod usage;

pub use action::{Action, AuditMode, IdentityRule, Protection};
pub use clock::{Clock, SystemClock};
pub use hex::hex;
pub use label::{Jurisdictions, Label, Level, Origin, Residency, UnknownJurisdiction};
pub use names::{
    ClusterName, DatasetName, InvalidName, Jurisdiction, ModelName, RecipientName, RecordId, RouteName,
    ServiceName, StoreName, TeamName, TenantName,
};
pub use near::{did_you_mean, did_you_mean_of, near};
pub use principal::{Authn, Chain, Principal, PrincipalKind};
pub use problem::{Problem, Problems};
pub use secret::{Secret, SecretFileError};
pub use target::{Candidate, Floor, Objects, Placement, Resource, RouteKind, SealedAtRest, UpstreamRef};
pub use units::{ByteSize, Duration, InvalidUnit};
pub use usage::Usage;
