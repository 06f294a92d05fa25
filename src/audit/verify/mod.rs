//! Checks a journal from outside.

pub(crate) mod leaves;
