//! The layout of a tree on disk: C2SP tlog-tiles, below the directory of a log.
//!
//! ```text
//! tile/<level>/<n>             256 hashes of 32 bytes; n in groups of three digits, all but the last with an x before: x001/234
//! tile/<level>/<n>.p/<width>   the tile at the right edge while it has fewer; removed when it is full
//! ```
//!
//! Tiles can be made again from the segments, so they are not synced one by one. What a crash leaves of them is noticed,
//! for whoever reads them checks them up to a signed root ([`Authentic`]).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::edge::{Edge, FullTile};
use super::{Hash, subtree_root};

/// Hashes in a full tile.
pub const TILE_WIDTH: u64 = 256;
/// Tiles of lower levels that a reader keeps; a walk over the leaves needs one a level.
const KEPT_TILES: usize = 64;

/// The path of a tile below its log: `level` is a number or `entries`, `width` is 256 for a full tile.
#[must_use]
pub fn tile_path(level: &str, index: u64, width: u64) -> String {
    let mut groups = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        groups = format!("x{:03}/{groups}", rest % 1000);
        rest /= 1000;
    }
    let partial = if width == TILE_WIDTH { String::new() } else { format!(".p/{width}") };
    format!("tile/{level}/{groups}{partial}")
}

/// How many hashes the tile has in a tree of `size` leaves: 256, fewer at the right edge, 0 beyond.
#[must_use]
pub fn tile_width(size: u64, level: u8, index: u64) -> u64 {
    let hashes = (0..level).fold(size, |rest, _| rest / TILE_WIDTH);
    hashes.saturating_sub(index.saturating_mul(TILE_WIDTH)).min(TILE_WIDTH)
}

/// The tiles below a directory.
#[derive(Debug, Clone)]
pub struct Tiles {
    directory: PathBuf,
}

impl Tiles {
    /// Those of the log in this directory.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Reads the first `width` hashes of a tile, out of the partial or the full one; none if neither has so many.
    ///
    /// # Errors
    /// A file is there but cannot be read.
    pub fn read(&self, level: u8, index: u64, width: u64) -> io::Result<Option<Vec<Hash>>> {
        for stored in [width, TILE_WIDTH] {
            let path = self.directory.join(tile_path(&level.to_string(), index, stored));
            match fs::read(path) {
                Ok(bytes) if u64::try_from(bytes.len()) == Ok(stored * 32) => {
                    let hashes = bytes.chunks_exact(32).filter_map(|hash| hash.first_chunk().copied());
                    return Ok(Some(hashes.take(usize::try_from(width).unwrap_or(0)).collect()));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Writes a full tile; the partial ones before it are not needed any more.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_full(&self, tile: &FullTile) -> io::Result<()> {
        let level = tile.level.to_string();
        let path = self.directory.join(tile_path(&level, tile.index, TILE_WIDTH));
        write_whole(&path, &tile.hashes.concat())?;
        let mut partial = path.into_os_string();
        partial.push(".p");
        match fs::remove_dir_all(partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes the partial tiles of an edge, all that are not there as they should be.
    ///
    /// # Errors
    /// One cannot be written.
    pub fn write_edge(&self, edge: &Edge) -> io::Result<()> {
        let mut rest = edge.size();
        for (level, hashes) in (0_u8..).zip(edge.levels()) {
            let (index, width) = (rest / TILE_WIDTH, rest % TILE_WIDTH);
            rest = index;
            let path = self.directory.join(tile_path(&level.to_string(), index, width));
            // One that is there may be what a power loss left of a tree that had come so far before.
            let bytes = hashes.concat();
            if width > 0 && fs::read(&path).ok().as_ref() != Some(&bytes) {
                write_whole(&path, &bytes)?;
            }
        }
        Ok(())
    }

    /// Writes all tiles of a tree over those that are there, each synced before it takes the other's place: for a log with deleted
    /// records, whose hashes stand nowhere else.
    ///
    /// # Errors
    /// One cannot be written; the others are as they were or as they should be.
    pub fn replace(&self, full: &[FullTile], edge: &Edge) -> io::Result<()> {
        for tile in full {
            let path = self.directory.join(tile_path(&tile.level.to_string(), tile.index, TILE_WIDTH));
            let bytes = tile.hashes.concat();
            if fs::read(&path).ok().as_ref() != Some(&bytes) {
                write_whole_synced(&path, &bytes)?;
            }
        }
        let mut rest = edge.size();
        for (level, hashes) in (0_u8..).zip(edge.levels()) {
            let (index, width) = (rest / TILE_WIDTH, rest % TILE_WIDTH);
            rest = index;
            if width == 0 {
                continue;
            }
            let path = self.directory.join(tile_path(&level.to_string(), index, width));
            write_whole_synced(&path, &hashes.concat())?;
            // Those of other widths would be taken for true when the tree grows on.
            for entry in path.parent().map(fs::read_dir).transpose()?.into_iter().flatten() {
                let other = entry?.path();
                if other != path {
                    fs::remove_file(other)?;
                }
            }
        }
        Ok(())
    }

    /// The edge of a tree of `size` leaves as the tiles have it; none if a tile is missing.
    ///
    /// # Errors
    /// A file is there but cannot be read.
    pub fn edge(&self, size: u64) -> io::Result<Option<Edge>> {
        let (mut levels, mut rest) = (Vec::new(), size);
        for level in 0..=u8::MAX {
            if rest == 0 {
                break;
            }
            let width = rest % TILE_WIDTH;
            rest /= TILE_WIDTH;
            let hashes = if width == 0 { Some(Vec::new()) } else { self.read(level, rest, width)? };
            let Some(hashes) = hashes else { return Ok(None) };
            levels.push(hashes);
        }
        Ok(Edge::from_levels(size, levels))
    }
}

/// Writes a file so that its name never stands for a part of it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    let partial = directory.join(".new");
    let written = fs::write(&partial, bytes).or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            return Err(error);
        }
        crate::audit::keys::make_directory(directory)?;
        fs::write(&partial, bytes)
    });
    written.and_then(|()| fs::rename(&partial, path))
}

/// Like [`write_whole`], and the bytes are on the disk before the name is theirs.
fn write_whole_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    crate::audit::keys::make_directory(directory)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    crate::audit::notes::write_synced(directory, name, bytes)
}

/// Tiles that do not belong to the signed root.
#[derive(Debug, thiserror::Error)]
pub enum TileError {
    /// A file cannot be read.
    #[error("cannot read the tiles in `{}`", directory.display())]
    Io {
        /// The log's directory.
        directory: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A tile is not there.
    #[error("tile `{0}` is missing")]
    Missing(String),
    /// A tile is not the one that the tile above it, or the root, was made of.
    #[error("tile `{0}` does not belong to the tree of the checkpoint")]
    Changed(String),
}

/// Reads tiles and checks each against the one above it, up to a root that somebody vouches for.
#[derive(Debug)]
pub struct Authentic {
    tiles: Tiles,
    edge: Edge,
    /// Checked full tiles by level and index.
    checked: BTreeMap<(u8, u64), Vec<Hash>>,
}

impl Authentic {
    /// The tree of `size` leaves whose root is `root`.
    ///
    /// # Errors
    /// The tiles at the right edge are missing or of another tree.
    pub fn open(tiles: Tiles, size: u64, root: &Hash) -> Result<Self, TileError> {
        let directory = tiles.directory.clone();
        let edge = tiles.edge(size).map_err(|source| TileError::Io { directory, source })?;
        let Some(edge) = edge else { return Err(TileError::Missing("at the right edge".to_owned())) };
        if edge.root() != *root {
            return Err(TileError::Changed("at the right edge".to_owned()));
        }
        Ok(Self { tiles, edge, checked: BTreeMap::new() })
    }

    /// The edge.
    #[must_use]
    pub const fn edge(&self) -> &Edge {
        &self.edge
    }

    /// The hashes of a tile of this tree.
    ///
    /// # Errors
    /// It, or one above it, is missing or of another tree.
    pub fn tile(&mut self, level: u8, index: u64) -> Result<&[Hash], TileError> {
        let width = tile_width(self.edge.size(), level, index);
        let name = || tile_path(&level.to_string(), index, width);
        if width < TILE_WIDTH {
            let hashes = self.edge.levels().get(usize::from(level)).filter(|_| width > 0);
            return hashes.map(Vec::as_slice).ok_or_else(|| TileError::Missing(name()));
        }
        if !self.checked.contains_key(&(level, index)) {
            let directory = self.tiles.directory.clone();
            let read =
                self.tiles.read(level, index, width).map_err(|source| TileError::Io { directory, source });
            let hashes = read?.ok_or_else(|| TileError::Missing(name()))?;
            let place = usize::try_from(index % TILE_WIDTH).unwrap_or(usize::MAX);
            let above = self.tile(level.saturating_add(1), index / TILE_WIDTH)?;
            if above.get(place) != Some(&subtree_root(&hashes)) {
                return Err(TileError::Changed(name()));
            }
            if self.checked.len() >= KEPT_TILES {
                self.checked.pop_first();
            }
            self.checked.insert((level, index), hashes);
        }
        Ok(self.checked.get(&(level, index)).map(Vec::as_slice).unwrap_or_default())
    }

    /// Whether every tile is there and of this tree.
    pub fn is_whole(&mut self) -> bool {
        let full = self.edge.size() / TILE_WIDTH;
        // The full tiles above are those that these are checked against.
        (0..full).all(|index| self.tile(0, index).is_ok())
    }

    /// The hash of a leaf of this tree.
    ///
    /// # Errors
    /// See [`Authentic::tile`]; an index at or beyond the size is missing.
    pub fn leaf(&mut self, index: u64) -> Result<Hash, TileError> {
        let place = usize::try_from(index % TILE_WIDTH).unwrap_or(usize::MAX);
        let hash = self.tile(0, index / TILE_WIDTH)?.get(place).copied();
        hash.ok_or_else(|| TileError::Missing(tile_path("0", index / TILE_WIDTH, TILE_WIDTH)))
    }
}

/// Leaves as the tiles have them, whatever that is worth: to say which record differs.
#[derive(Debug)]
pub(crate) struct Unchecked {
    tiles: Tiles,
    size: u64,
    held: Option<(u64, Vec<Hash>)>,
}

impl Unchecked {
    /// Those of a tree of `size` leaves.
    pub(crate) const fn new(tiles: Tiles, size: u64) -> Self {
        Self { tiles, size, held: None }
    }

    /// A leaf, if it is there.
    pub(crate) fn leaf(&mut self, index: u64) -> Option<Hash> {
        let tile = index / TILE_WIDTH;
        if self.held.as_ref().is_none_or(|(held, _)| *held != tile) {
            let hashes = self.tiles.read(0, tile, tile_width(self.size, 0, tile)).ok().flatten();
            self.held = Some((tile, hashes.unwrap_or_default()));
        }
        let (_, hashes) = self.held.as_ref()?;
        hashes.get(usize::try_from(index % TILE_WIDTH).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tree::leaf_hash;

    #[test]
    fn paths_are_those_of_the_specification() {
        assert_eq!(tile_path("0", 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(tile_path("entries", 0, 256), "tile/entries/000");
        assert_eq!(tile_path("5", 1000, 12), "tile/5/x001/000.p/12");
        assert_eq!([0, 1, 2, 3].map(|level| tile_width(70_000, level, 0)), [256, 256, 1, 0]);
        assert_eq!((tile_width(70_000, 0, 273), tile_width(70_000, 1, 1)), (112, 17));
    }

    #[test]
    fn what_is_written_is_read_back_and_a_changed_tile_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let tiles = Tiles::new(dir.path().to_owned());
        let mut edge = Edge::default();
        let leaves: Vec<Hash> = (0..1000_u32).map(|i| leaf_hash(&i.to_be_bytes())).collect();
        for (done, leaf) in leaves.iter().enumerate() {
            if done % 100 == 0 {
                tiles.write_edge(&edge).unwrap();
            }
            edge.push(*leaf, &mut |tile| tiles.write_full(&tile).unwrap());
        }
        tiles.write_edge(&edge).unwrap();
        assert!(!dir.path().join("tile/0/000.p").exists() && dir.path().join("tile/0/003.p/232").exists());
        let mut read = Authentic::open(tiles.clone(), 1000, &edge.root()).unwrap();
        assert_eq!(read.edge(), &edge);
        for (index, leaf) in (0..).zip(&leaves) {
            assert_eq!(read.leaf(index).unwrap(), *leaf);
        }
        assert!(matches!(read.leaf(1000), Err(TileError::Missing(_))));
        // An earlier size, whose partial tile is gone, is read out of the full one.
        assert_eq!(tiles.edge(100).unwrap().unwrap().root(), subtree_root(&leaves[..100]));

        let path = dir.path().join("tile/0/001");
        let mut bytes = fs::read(&path).unwrap();
        bytes[77] ^= 1;
        fs::write(&path, bytes).unwrap();
        let mut read = Authentic::open(tiles.clone(), 1000, &edge.root()).unwrap();
        assert_eq!(
            read.leaf(256).unwrap_err().to_string(),
            "tile `tile/0/001` does not belong to the tree of the checkpoint"
        );
        assert!(read.leaf(255).is_ok());
        assert!(Authentic::open(tiles, 1000, &leaves[0]).is_err());
    }
}
