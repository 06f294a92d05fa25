//! The Merkle tree over the records: what makes the journal evidence.
//!
//! A leaf is the exact bytes of one record, as they stand in its frame; leaf and node hashes, roots and proofs are those of
//! RFC 6962 section 2.1 (the same as RFC 9162 section 2.1, SHA-256). On disk the tree is C2SP tlog-tiles, its head a C2SP
//! tlog-checkpoint signed as a C2SP signed-note, so any verifier of those can check a journal without this program.
//!
//! `edge` grows a tree in O(log n) memory, `tiles` is the layout on disk, `proof` makes and checks proofs, `note` and
//! `checkpoint` sign, `log` is the directory of one log, `recover` compares it with the segments at a start,
//! `writer` is the thread that keeps it. Nothing here decides what a record says.

pub mod checkpoint;
pub mod edge;
pub(crate) mod error;
pub mod key;
pub mod log;
pub(crate) mod machine;
pub mod proof;
pub mod proof_file;
pub(crate) mod recover;
pub(crate) mod signing;
pub mod tiles;
pub mod window;
pub(crate) mod writer;

use aws_lc_rs::digest::{Context, Digest, SHA256, digest};

pub use crate::model::note;
pub use error::TreeError;
pub use writer::Published;

/// A SHA-256 hash.
pub type Hash = [u8; 32];

fn bytes(digest: &Digest) -> Hash {
    // INVARIANT: SHA-256 has 32 bytes.
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

/// The hash of a leaf: of `0x00` and the record's bytes (RFC 6962 section 2.1).
#[must_use]
pub fn leaf_hash(record: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[0]);
    context.update(record);
    bytes(&context.finish())
}

/// The hash of an inner node: of `0x01` and its two children (RFC 6962 section 2.1).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut both = [1; 65];
    let (first, second) = both.split_at_mut(33);
    if let Some(place) = first.get_mut(1..) {
        place.copy_from_slice(left);
    }
    second.copy_from_slice(right);
    bytes(&digest(&SHA256, &both))
}

/// The root of a tree without leaves: the hash of nothing.
#[must_use]
pub fn empty_root() -> Hash {
    bytes(&digest(&SHA256, &[]))
}

/// The root of any number of neighbours that are leaves of a subtree, by the rule of RFC 6962 section 2.1: the left
/// part holds the largest power of two below their number.
#[must_use]
pub fn subtree_root(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => empty_root(),
        [only] => *only,
        more => {
            let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
            node_hash(&subtree_root(left), &subtree_root(right))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::hex;

    /// RFC 6962 gives no vectors; these are those of the Certificate Transparency reference implementation.
    #[test]
    fn known_roots() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex(&empty_root()), empty);
        let leaves: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let hashes = leaves.map(leaf_hash);
        let root = |size: usize| hex(&subtree_root(&hashes[..size]));
        assert_eq!(root(1), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        assert_eq!(root(2), "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
        assert_eq!(root(3), "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77");
        assert_eq!(root(8), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
    }
}
