//! A proof that some consecutive leaves are all that a tree has between two places: the roots of the subtrees left and right of them, from
//! left to right. With the leaves they give the root of the tree, and with one leaf more or less they do not.
//!
//! The tree is split as RFC 6962 section 2.1 splits it; a subtree that lies outside the window is one hash.

use std::ops::Range;

use super::proof::{root_of, split};
use super::tiles::{Authentic, TileError};
use super::{Hash, empty_root, node_hash};

/// The hashes that complete the leaves of a window, which must not be empty and must lie in the tree. At most two a level.
///
/// # Errors
/// A tile that is needed is missing or of another tree.
pub fn complement(tree: &mut Authentic, window: &Range<u64>) -> Result<Vec<Hash>, TileError> {
    let (size, mut hashes) = (tree.edge().size(), Vec::new());
    if size > 0 {
        collect(tree, window, 0..size, &mut hashes)?;
    }
    Ok(hashes)
}

fn collect(
    tree: &mut Authentic,
    window: &Range<u64>,
    part: Range<u64>,
    out: &mut Vec<Hash>,
) -> Result<(), TileError> {
    if part.end <= window.start || part.start >= window.end {
        out.push(root_of(tree, part.start, part.end)?);
        return Ok(());
    }
    if window.start <= part.start && part.end <= window.end {
        return Ok(());
    }
    let middle = part.start.saturating_add(split(part.end.saturating_sub(part.start)));
    collect(tree, window, part.start..middle, out)?;
    collect(tree, window, middle..part.end, out)
}

/// The root of the tree of `size` leaves that has these leaves from `first` on and these hashes around them; none if there are too many or too
/// few of either.
#[must_use]
pub fn root(leaves: &[Hash], first: u64, size: u64, hashes: &[Hash]) -> Option<Hash> {
    let end = first.checked_add(u64::try_from(leaves.len()).ok()?)?;
    if end > size || leaves.is_empty() {
        return (size == 0 && hashes.is_empty() && leaves.is_empty()).then(empty_root);
    }
    let (mut leaves, mut hashes) = (leaves.iter(), hashes.iter());
    let found = rebuild(&(first..end), 0..size, &mut leaves, &mut hashes)?;
    (leaves.next().is_none() && hashes.next().is_none()).then_some(found)
}

type Hashes<'a> = std::slice::Iter<'a, Hash>;

fn rebuild(
    window: &Range<u64>,
    part: Range<u64>,
    leaves: &mut Hashes<'_>,
    hashes: &mut Hashes<'_>,
) -> Option<Hash> {
    if part.end <= window.start || part.start >= window.end {
        return hashes.next().copied();
    }
    let size = part.end.saturating_sub(part.start);
    if size == 1 {
        return leaves.next().copied();
    }
    let middle = part.start.saturating_add(split(size));
    let left = rebuild(window, part.start..middle, leaves, hashes)?;
    Some(node_hash(&left, &rebuild(window, middle..part.end, leaves, hashes)?))
}

#[cfg(test)]
mod tests {
    use super::super::edge::Edge;
    use super::super::tiles::Tiles;
    use super::super::{leaf_hash, subtree_root};
    use super::*;

    fn tree(size: u32) -> (tempfile::TempDir, Authentic, Vec<Hash>) {
        let dir = tempfile::tempdir().unwrap();
        let tiles = Tiles::new(dir.path().to_owned());
        let mut edge = Edge::default();
        let leaves: Vec<Hash> = (0..size).map(|i| leaf_hash(&i.to_be_bytes())).collect();
        for leaf in &leaves {
            edge.push(*leaf, &mut |tile| tiles.write_full(&tile).unwrap());
        }
        tiles.write_edge(&edge).unwrap();
        let authentic = Authentic::open(tiles, size.into(), &edge.root()).unwrap();
        (dir, authentic, leaves)
    }

    #[test]
    fn every_window_gives_the_root_and_no_other_leaves_do() {
        for size in [1_u32, 2, 3, 7, 20] {
            let (_dir, mut authentic, leaves) = tree(size);
            let whole = subtree_root(&leaves);
            for start in 0..size {
                for end in start + 1..=size {
                    let window = u64::from(start)..u64::from(end);
                    let hashes = complement(&mut authentic, &window).unwrap();
                    let inside = &leaves[start as usize..end as usize];
                    let root = |leaves: &[Hash], first: u64| root(leaves, first, size.into(), &hashes);
                    assert_eq!(root(inside, window.start), Some(whole), "{window:?} of {size}");
                    assert_ne!(root(&inside[1..], window.start), Some(whole));
                    assert_ne!(root(&inside[..inside.len() - 1], window.start), Some(whole));
                    assert_ne!(root(&[inside, &inside[..1]].concat(), window.start), Some(whole));
                    if size > 1 {
                        assert_ne!(root(inside, window.start + 1), Some(whole));
                    }
                }
            }
        }
    }

    #[test]
    fn a_window_of_a_large_tree_needs_few_hashes() {
        let (_dir, mut authentic, leaves) = tree(70_001);
        let hashes = complement(&mut authentic, &(300..66_000)).unwrap();
        assert!(hashes.len() < 34, "{}", hashes.len());
        assert_eq!(root(&leaves[300..66_000], 300, 70_001, &hashes), Some(authentic.edge().root()));
    }
}
