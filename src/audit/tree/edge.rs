//! The right edge of a growing tree: per tile level the hashes of the tile that is not full yet. All that is needed to append
//! leaves and to know the root; at most 256 hashes a level, and a level more for each factor of 256.

use super::tiles::TILE_WIDTH;
use super::{Hash, empty_root, node_hash, subtree_root};

/// A tile that has just become full, and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullTile {
    /// The level, 0 being the leaves.
    pub level: u8,
    /// The index within the level.
    pub index: u64,
    /// Its 256 hashes.
    pub hashes: Vec<Hash>,
}

/// The right edge of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

impl Edge {
    /// The edge of a tree of `size` leaves, out of the hashes of its partial tiles from level 0 up. None if their
    /// widths are not those of that size.
    #[must_use]
    pub fn from_levels(size: u64, levels: Vec<Vec<Hash>>) -> Option<Self> {
        let mut rest = size;
        for hashes in &levels {
            if u64::try_from(hashes.len()) != Ok(rest % TILE_WIDTH) {
                return None;
            }
            rest /= TILE_WIDTH;
        }
        (rest == 0).then_some(Self { size, levels })
    }

    /// The number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of the partial tiles, from level 0 up; a level may be empty.
    #[must_use]
    pub fn levels(&self) -> &[Vec<Hash>] {
        &self.levels
    }

    /// Appends a leaf; `full` gets each tile that it fills.
    pub fn push(&mut self, leaf: Hash, full: &mut impl FnMut(FullTile)) {
        self.size = self.size.saturating_add(1);
        let mut hash = leaf;
        let mut end = self.size;
        for level in 0..=u8::MAX {
            let place = usize::from(level);
            if self.levels.len() == place {
                self.levels.push(Vec::new());
            }
            let Some(hashes) = self.levels.get_mut(place) else { return };
            hashes.push(hash);
            if u64::try_from(hashes.len()) != Ok(TILE_WIDTH) {
                return;
            }
            end /= TILE_WIDTH;
            hash = subtree_root(hashes);
            full(FullTile { level, index: end.saturating_sub(1), hashes: std::mem::take(hashes) });
        }
    }

    /// The root of the tree (RFC 6962 section 2.1), from the smallest complete subtree on the right to the largest.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut right: Option<Hash> = None;
        for hashes in &self.levels {
            let mut rest = hashes.as_slice();
            while !rest.is_empty() {
                let width = 1_usize << rest.len().trailing_zeros();
                let (before, complete) = rest.split_at(rest.len().saturating_sub(width));
                let left = subtree_root(complete);
                right = Some(right.map_or(left, |right| node_hash(&left, &right)));
                rest = before;
            }
        }
        right.unwrap_or_else(empty_root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tree::leaf_hash;

    #[test]
    fn the_root_of_the_edge_is_that_of_all_leaves_and_full_tiles_are_given_out() {
        let mut edge = Edge::default();
        let mut tiles = Vec::new();
        let leaves: Vec<Hash> = (0..70_000_u32).map(|i| leaf_hash(&i.to_be_bytes())).collect();
        for (done, leaf) in leaves.iter().enumerate() {
            if [0, 1, 2, 255, 256, 257, 600, 65_535, 65_536, 65_537, 69_999].contains(&done) {
                assert_eq!(edge.root(), subtree_root(&leaves[..done]), "{done}");
                let levels = edge.levels().to_vec();
                assert_eq!(Edge::from_levels(done as u64, levels), Some(edge.clone()));
            }
            edge.push(*leaf, &mut |tile| tiles.push(tile));
        }
        // The example of the specification: 273 full tiles of leaves, one above them; 112, 17 and 1 hashes are left.
        assert_eq!(tiles.iter().filter(|tile| tile.level == 0).count(), 273);
        assert_eq!(
            tiles.iter().filter(|tile| tile.level == 1).map(|tile| tile.index).collect::<Vec<_>>(),
            [0]
        );
        assert_eq!(edge.levels().iter().map(Vec::len).collect::<Vec<_>>(), [112, 17, 1]);
        assert_eq!(Edge::from_levels(69_999, edge.levels().to_vec()), None);
        assert_eq!(Edge::from_levels(70_000, edge.levels()[..2].to_vec()), None);
    }
}
