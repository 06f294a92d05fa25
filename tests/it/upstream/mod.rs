//! The upstream stage against real servers on loopback, with permits that the policy stage made.

mod failures;
mod settings;
mod streaming;
pub(crate) mod support;
mod tls;
