//! Writes logs as whole C2SP tlog-tiles, records included, for a verifier that is not this program.
//!
//! The journal itself keeps no entry bundles: they would be a second copy of every record. Each log becomes a directory
//! of its own with `checkpoint`, `tile/…`, `tile/entries/…`, beside one `vkey`.

use std::fs;
use std::path::Path;

use super::{VerifyError, io_error, segments};
use crate::audit::segment::{FrameReader, Next};
use crate::audit::tree::checkpoint::Checkpoint;
use crate::audit::tree::edge::Edge;
use crate::audit::tree::leaf_hash;
use crate::audit::tree::log::LogDirectory;
use crate::audit::tree::tiles::{TILE_WIDTH, Tiles, Unchecked, tile_path, write_whole};

/// Writes each log below `out`, as far as its checkpoint goes; how many records that are. Holds one bundle at a time.
///
/// # Errors
/// Something cannot be read or written, or the records do not give the signed root.
pub fn export(journal: &Path, out: &Path) -> Result<u64, VerifyError> {
    let mut written = 0_u64;
    let logs = LogDirectory::list(journal).map_err(io_error("read", journal))?;
    for log in &logs {
        written = written.saturating_add(one(journal, log, out)?);
    }
    let vkey = journal.join("tree/vkey");
    fs::copy(&vkey, out.join("vkey")).map_err(io_error("copy", &vkey))?;
    Ok(written)
}

fn one(journal: &Path, log: &LogDirectory, out: &Path) -> Result<u64, VerifyError> {
    let note = log.read_checkpoint().map_err(io_error("read", &log.checkpoint()))?;
    let wrong = |what: &str| VerifyError::Tree(format!("log `{}`: {what}", log.path().display()));
    let note = note.ok_or_else(|| wrong("its checkpoint is missing"))?;
    let checkpoint = Checkpoint::open(&note, &[]).map_err(|error| wrong(&error.to_string()))?;
    let name = log.path().file_name().unwrap_or_default();
    let target = out.join(name);
    let failed = || io_error("write", &target);
    fs::create_dir_all(&target).map_err(failed())?;
    let (tiles, mut edge, mut bundle) = (Tiles::new(target.clone()), Edge::default(), Vec::new());
    let all = segments(journal)?;
    // Of deleted records there are hashes and no entries; a bundle with some of them cannot be written either.
    let pruned = all.first().map_or(0, |first| first.first.saturating_sub(log.first)).min(checkpoint.size);
    let mut stored = Unchecked::new(log.tiles(), checkpoint.size);
    for index in 0..pruned {
        let leaf = stored.leaf(index).ok_or_else(|| wrong("the hashes of deleted records are missing"))?;
        let mut full = Vec::new();
        edge.push(leaf, &mut |tile| full.push(tile));
        full.iter().try_for_each(|tile| tiles.write_full(tile)).map_err(failed())?;
    }
    let mut whole = edge.size().is_multiple_of(TILE_WIDTH);
    for segment in all.iter().filter(|segment| segment.first >= log.first) {
        let mut reader = FrameReader::open(&segment.path).map_err(io_error("read", &segment.path))?;
        while edge.size() < checkpoint.size
            && let Next::Frame(frame) = reader.next().map_err(io_error("read", &segment.path))?
        {
            if !frame.kind.is_record() {
                continue;
            }
            let length = u16::try_from(frame.payload.len()).map_err(|_| wrong("a record is too long"))?;
            bundle.extend(length.to_be_bytes());
            bundle.extend(frame.payload);
            let mut full = Vec::new();
            edge.push(leaf_hash(frame.payload), &mut |tile| full.push(tile));
            full.iter().try_for_each(|tile| tiles.write_full(tile)).map_err(failed())?;
            if edge.size().is_multiple_of(TILE_WIDTH) {
                if whole {
                    entries(&target, edge.size(), &bundle).map_err(failed())?;
                }
                whole = true;
                bundle.clear();
            }
        }
    }
    if edge.size() != checkpoint.size || edge.root() != checkpoint.root {
        return Err(wrong("the records do not give the root that was signed"));
    }
    if whole && !bundle.is_empty() {
        entries(&target, edge.size(), &bundle).map_err(failed())?;
    }
    tiles.write_edge(&edge).map_err(failed())?;
    write_whole(&target.join("checkpoint"), note.as_bytes()).map_err(failed())?;
    Ok(edge.size())
}

/// Writes the bundle that ends with record `size`.
fn entries(target: &Path, size: u64, bundle: &[u8]) -> std::io::Result<()> {
    let last = size.saturating_sub(1);
    let width = size.saturating_sub(last / TILE_WIDTH * TILE_WIDTH);
    write_whole(&target.join(tile_path("entries", last / TILE_WIDTH, width)), bundle)
}
