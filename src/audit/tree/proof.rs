//! Inclusion and consistency proofs (RFC 6962 sections 2.1.1 and 2.1.2), checked by the algorithms of RFC 9162
//! sections 2.1.3.2 and 2.1.4.2.

use super::tiles::{Authentic, TILE_WIDTH, TileError};
use super::{Hash, node_hash, subtree_root};

/// Most hashes of a proof: a tree of 2^63 leaves has as many levels, and a consistency proof one hash more.
pub const MAX_HASHES: usize = 64;

/// A proof that does not prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf is not in a tree of that size.
    #[error("leaf {index} is not in a tree of {size} leaves")]
    Outside {
        /// The leaf.
        index: u64,
        /// The size.
        size: u64,
    },
    /// It has too many or too few hashes.
    #[error("the proof has not as many hashes as a tree of this size needs")]
    Length,
    /// It leads to another root.
    #[error("the proof does not lead to the root of the checkpoint")]
    Root,
}

/// The hashes that lead from a leaf to the root, from its sibling upwards.
///
/// # Errors
/// A tile that is needed is missing or of another tree, or the leaf is outside.
pub fn inclusion(tree: &mut Authentic, index: u64) -> Result<Vec<Hash>, TileError> {
    let mut hashes = Vec::new();
    path(tree, index, 0, tree.edge().size(), &mut hashes)?;
    Ok(hashes)
}

/// PATH of RFC 6962 section 2.1.1 for the leaves from `start` to `end`.
fn path(
    tree: &mut Authentic,
    index: u64,
    start: u64,
    end: u64,
    out: &mut Vec<Hash>,
) -> Result<(), TileError> {
    let size = end.saturating_sub(start);
    if size <= 1 {
        return Ok(());
    }
    let middle = start.saturating_add(split(size));
    if index < middle {
        path(tree, index, start, middle, out)?;
        out.push(root_of(tree, middle, end)?);
    } else {
        path(tree, index, middle, end, out)?;
        out.push(root_of(tree, start, middle)?);
    }
    Ok(())
}

/// The hashes that show that the tree's first `old` leaves are the whole of an older tree.
///
/// # Errors
/// A tile that is needed is missing or of another tree.
pub fn consistency(tree: &mut Authentic, old: u64) -> Result<Vec<Hash>, TileError> {
    let mut hashes = Vec::new();
    let size = tree.edge().size();
    if old > 0 && old < size {
        subproof(tree, old, (0, size), true, &mut hashes)?;
    }
    Ok(hashes)
}

/// SUBPROOF of RFC 6962 section 2.1.2.
fn subproof(
    tree: &mut Authentic,
    old: u64,
    (start, end): (u64, u64),
    known: bool,
    out: &mut Vec<Hash>,
) -> Result<(), TileError> {
    if old == end.saturating_sub(start) {
        if !known {
            out.push(root_of(tree, start, end)?);
        }
        return Ok(());
    }
    let left = split(end.saturating_sub(start));
    let middle = start.saturating_add(left);
    if old <= left {
        subproof(tree, old, (start, middle), known, out)?;
        out.push(root_of(tree, middle, end)?);
    } else {
        subproof(tree, old.saturating_sub(left), (middle, end), false, out)?;
        out.push(root_of(tree, start, middle)?);
    }
    Ok(())
}

/// The largest power of two below `size`, which is at least 2.
pub(super) const fn split(size: u64) -> u64 {
    match size.saturating_sub(1).checked_ilog2() {
        Some(log) => 1 << log,
        None => 1,
    }
}

/// The root of the leaves from `start` to `end`; a range of the tree's own splitting, so `start` is a multiple of its width.
pub(super) fn root_of(tree: &mut Authentic, start: u64, end: u64) -> Result<Hash, TileError> {
    let size = end.saturating_sub(start);
    if !size.is_power_of_two() {
        let middle = start.saturating_add(split(size));
        let (left, right) = (root_of(tree, start, middle)?, root_of(tree, middle, end)?);
        return Ok(node_hash(&left, &right));
    }
    // A complete subtree is a part of one tile, at the highest level whose hashes it is made of.
    let level = size.ilog2() / 8;
    let unit = 1_u64 << (8 * level);
    let (first, count) = (start / unit, size / unit);
    let level = u8::try_from(level).unwrap_or(u8::MAX);
    let place = usize::try_from(first % TILE_WIDTH).unwrap_or(usize::MAX);
    let hashes = tree.tile(level, first / TILE_WIDTH)?;
    let part = hashes.get(place..place.saturating_add(usize::try_from(count).unwrap_or(usize::MAX)));
    part.map(subtree_root).ok_or_else(|| TileError::Missing(format!("{level} of leaf {start}")))
}

/// Checks that `leaf` stands at `index` in the tree of `size` leaves with this root (RFC 9162 section 2.1.3.2).
///
/// # Errors
/// It does not.
pub fn check_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Outside { index, size });
    }
    let (mut node, mut last) = (index, size.saturating_sub(1));
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    match (last, hash == *root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(ProofError::Length),
    }
}

/// Checks that the tree of `new` leaves begins with that of `old` leaves (RFC 9162 section 2.1.4.2). The two are size and root.
///
/// # Errors
/// It does not.
pub fn check_consistency(old: (u64, &Hash), new: (u64, &Hash), proof: &[Hash]) -> Result<(), ProofError> {
    let ((first, first_root), (second, second_root)) = (old, new);
    if first > second {
        return Err(ProofError::Outside { index: first, size: second });
    }
    if first == 0 || first == second {
        let same = first == 0 || first_root == second_root;
        return if !proof.is_empty() {
            Err(ProofError::Length)
        } else if same {
            Ok(())
        } else {
            Err(ProofError::Root)
        };
    }
    let own = first.is_power_of_two().then_some(first_root);
    let mut hashes = own.into_iter().chain(proof);
    let Some(seed) = hashes.next() else { return Err(ProofError::Length) };
    let (mut node, mut last) = (first.saturating_sub(1), second.saturating_sub(1));
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut from_old, mut from_new) = (*seed, *seed);
    for hash in hashes {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if node & 1 == 1 || node == last {
            from_old = node_hash(hash, &from_old);
            from_new = node_hash(hash, &from_new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            from_new = node_hash(&from_new, hash);
        }
        node >>= 1;
        last >>= 1;
    }
    match (last, from_old == *first_root && from_new == *second_root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(ProofError::Length),
    }
}

#[cfg(test)]
mod tests {
    use ct_merkle::digest::Output;
    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
    use proptest::prelude::*;
    use sha2::Sha256;

    use super::*;
    use crate::audit::tree::edge::Edge;
    use crate::audit::tree::leaf_hash;
    use crate::audit::tree::tiles::Tiles;

    fn number(value: u64) -> usize {
        usize::try_from(value).unwrap()
    }

    /// The same tree by `ct-merkle` and by us, ours on disk.
    fn both(size: u64) -> (MemoryBackedTree<Sha256, Vec<u8>>, Authentic, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let tiles = Tiles::new(dir.path().to_owned());
        let (mut oracle, mut edge) = (MemoryBackedTree::new(), Edge::default());
        for index in 0..size {
            let record = format!("record {index}").into_bytes();
            edge.push(leaf_hash(&record), &mut |tile| tiles.write_full(&tile).unwrap());
            oracle.push(record);
        }
        tiles.write_edge(&edge).unwrap();
        let ours = Authentic::open(tiles, size, &edge.root()).unwrap();
        (oracle, ours, dir)
    }

    fn digests(hashes: &[Hash]) -> Vec<Output<Sha256>> {
        hashes.iter().map(|hash| Output::<Sha256>::try_from(&hash[..]).unwrap()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn roots_and_proofs_are_those_of_another_implementation(
            size in prop_oneof![1u64..20, 250u64..260, 1u64..1500], at: proptest::sample::Index, older: proptest::sample::Index,
        ) {
            let (oracle, mut ours, _dir) = both(size);
            let root = ours.edge().root();
            prop_assert_eq!(oracle.root().as_bytes().to_vec(), root.to_vec());

            let index = at.index(number(size));
            let proof = inclusion(&mut ours, index as u64).unwrap();
            prop_assert_eq!(oracle.prove_inclusion(index).as_bytes().to_vec(), proof.concat());
            let leaf = leaf_hash(format!("record {index}").as_bytes());
            prop_assert_eq!(check_inclusion(&leaf, index as u64, size, &root, &proof), Ok(()));
            let theirs = InclusionProof::<Sha256>::from_digests(&digests(&proof));
            let signed = RootHash::<Sha256>::new(digests(&[root])[0], size);
            let included = signed.verify_inclusion(&format!("record {index}").into_bytes(), index as u64, &theirs);
            prop_assert!(included.is_ok());

            let old = older.index(number(size)) as u64 + 1;
            let proof = consistency(&mut ours, old).unwrap();
            prop_assert_eq!(oracle.prove_consistency(number(size - old)).as_bytes().to_vec(), proof.concat());
            let leaves: Vec<Hash> = (0..old).map(|i| leaf_hash(format!("record {i}").as_bytes())).collect();
            let old_root = subtree_root(&leaves);
            prop_assert_eq!(check_consistency((old, &old_root), (size, &root), &proof), Ok(()));
            let theirs = ConsistencyProof::<Sha256>::from_digests(&digests(&proof));
            let before = RootHash::<Sha256>::new(digests(&[old_root])[0], old);
            prop_assert!(signed.verify_consistency(&before, &theirs).is_ok());
        }

        #[test]
        fn a_changed_proof_proves_nothing(
            size in 2u64..600, at: proptest::sample::Index, part: proptest::sample::Index, bit in 0u8..8, byte in 0usize..32,
        ) {
            let (_, mut ours, _dir) = both(size);
            let root = ours.edge().root();
            let index = at.index(number(size)) as u64;
            let leaf = ours.leaf(index).unwrap();
            let proof = inclusion(&mut ours, index).unwrap();
            let mut changed = proof.clone();
            changed[part.index(proof.len())][byte] ^= 1 << bit;
            prop_assert_eq!(check_inclusion(&leaf, index, size, &root, &changed), Err(ProofError::Root));
            prop_assert!(check_inclusion(&leaf, index, size, &root, &proof[1..]).is_err());
            prop_assert!(check_inclusion(&leaf, (index + 1) % size, size, &root, &proof).is_err());
            let longer = [&proof[..], &[root]].concat();
            prop_assert_eq!(check_inclusion(&leaf, index, size, &root, &longer), Err(ProofError::Length));

            let old = part.index(number(size)) as u64 + 1;
            let before: Vec<Hash> = (0..old).map(|i| ours.leaf(i).unwrap()).collect();
            let mut old_root = subtree_root(&before);
            let proof = consistency(&mut ours, old).unwrap();
            old_root[byte] ^= 1 << bit;
            prop_assert!(check_consistency((old, &old_root), (size, &root), &proof).is_err());
        }
    }

    #[test]
    fn proofs_of_a_tree_with_three_levels_of_tiles() {
        let (oracle, mut ours, _dir) = both(66_000);
        let root = ours.edge().root();
        assert_eq!(&oracle.root().as_bytes()[..], &root[..]);
        for index in [0, 255, 256, 65_535, 65_536, 65_999] {
            let proof = inclusion(&mut ours, index).unwrap();
            assert_eq!(oracle.prove_inclusion(number(index)).as_bytes(), proof.concat());
            let leaf = ours.leaf(index).unwrap();
            assert_eq!(check_inclusion(&leaf, index, 66_000, &root, &proof), Ok(()));
        }
        for old in [1, 256, 65_536, 65_537, 65_999, 66_000] {
            let proof = consistency(&mut ours, old).unwrap();
            assert_eq!(oracle.prove_consistency(number(66_000 - old)).as_bytes(), proof.concat());
        }
    }
}
