//! Metering: usage read out of answers as their bytes pass.
//!
//! A [`Tap`] observes; it never holds a byte back, never re-encodes and never fails an answer. What it keeps is bounded
//! whatever the upstream sends. Prices, budgets and estimates are not made here.

mod json;
mod sse;
mod tap;
mod usage;

pub use tap::{Reading, Tap};
