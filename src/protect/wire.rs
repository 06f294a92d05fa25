//! The digest of sealed bytes as they cross, for the outcome record.
//!
//! Plain SHA-256: ciphertext is public to everything between the two ends, and whoever captured it can so find its record.

use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;

use crate::model::hex;

/// Where the digest of a sealed body is to be found once the body was whole.
#[derive(Debug, Clone, Default)]
pub struct WireDigest(Arc<OnceLock<String>>);

impl WireDigest {
    /// SHA-256 of the sealed bytes, lower-case hexadecimal; none while the message is not whole.
    #[must_use]
    pub fn get(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// Computes it.
pub(super) struct Hasher {
    context: digest::Context,
    place: WireDigest,
}

impl Hasher {
    pub(super) fn new(place: WireDigest) -> Self {
        Self { context: digest::Context::new(&digest::SHA256), place }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The message is whole.
    pub(super) fn finish(&mut self) {
        let digest = self.context.clone().finish();
        let _ = self.place.0.set(hex(digest.as_ref()));
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}
