//! HTTP messages as the stages see them: connection facts, one canonical target, bounded bodies, one closed list of header changes.
//!
//! What is ambiguous is refused in [`gate()`], so that policy and upstream can never see two different requests.

mod conn;

pub use conn::{ClientCertificate, Connection, Protocol, TlsFacts};
