//! Identity from outside: every attack on a credential is a refusal with its code, with real signatures and no fetch that a caller chose.
#![expect(clippy::panic, clippy::indexing_slicing, clippy::string_slice, reason = "a test may panic")]

mod attacks;
mod certificates;
mod keys;
mod principals;
mod support;
mod tokens;
