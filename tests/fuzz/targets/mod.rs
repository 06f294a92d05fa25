//! What the fuzzer calls, and what the ordinary tests replay its corpora with. None may panic, whatever the bytes; what else each holds to is
//! written at its top.

use std::cell::RefCell;

pub(crate) mod bundle;
pub(crate) mod config;
pub(crate) mod gate;
pub(crate) mod journal;
pub(crate) mod key_set;
pub(crate) mod prompt;
pub(crate) mod route;
pub(crate) mod seal_reader;
pub(crate) mod spiffe;
pub(crate) mod token;
pub(crate) mod usage;

/// A target: it reads any bytes.
pub(crate) type Target = fn(&[u8]);

/// All targets, by the names of their corpora.
pub(crate) const ALL: [(&str, Target); 11] = [
    ("bundle", bundle::read),
    ("config", config::read),
    ("gate", gate::read),
    ("journal", journal::read),
    ("key_set", key_set::read),
    ("prompt", prompt::read),
    ("route", route::read),
    ("seal_reader", seal_reader::read),
    ("spiffe", spiffe::read),
    ("token", token::read),
    ("usage", usage::read),
];

thread_local! {
    static RUNTIME: RefCell<tokio::runtime::Runtime> =
        RefCell::new(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
}

/// Waits for something that does no more than compute.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with_borrow(|runtime| runtime.block_on(future))
}

/// The first byte chooses a size of pieces; the rest is what comes in them.
pub(crate) fn in_pieces(input: &[u8]) -> Option<(usize, &[u8])> {
    let (size, rest) = input.split_first()?;
    Some((usize::from(*size % 32) + 1, rest))
}
