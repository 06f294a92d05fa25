//! HTTP messages as the stages see them: connection facts, one canonical target, bounded bodies, one closed list of header changes.
//!
//! What is ambiguous is refused in [`gate()`], so that policy and upstream can never see two different requests.
//! Read `gate.rs` first; `docs/` lists the codes of [`GateError`].

mod body;
mod caller;
mod conn;
mod error;
mod gate;
pub mod headers;
mod held;
mod inbound;
mod observe;
mod paced;
pub mod target;

pub use body::{
    Body, BodyFault, BodyIdle, BodyMalformed, BodyTooLarge, BodyUnopened, BoxError, CheckedTrailers,
    IdleTimeout, Limited, ReadBodyError, boxed, collect_bounded, drain_bounded, empty, full,
};
pub use caller::{CallerHeaders, DuplicatedHeader};
pub use conn::{ClientCertificate, Connection, Protocol, Standing, TlsFacts};
pub use error::GateError;
pub use gate::{GateSettings, gate};
pub use held::{HeldBodies, HoldBodyError};
pub use inbound::Inbound;
pub use observe::{Observed, Observer};
pub use paced::{ClientStalled, Paced};
pub use target::Target;
