//! What a start makes of the tree: the signed checkpoint fixes the records that it covers, the segments must have them, and what they
//! have beyond is still to be signed.
//!
//! The records of the last segment are compared with the tiles one by one; those before were compared when they were the
//! last, and `audit verify` compares all. If the tiles are not those of the checkpoint, they are made again from the segments.
//! Tiles are not synced, so after the machine was started anew each of them is compared with the one above it, up to the signed root;
//! in the log before too, for it may have ended a moment earlier.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use super::checkpoint::Checkpoint;
use super::edge::Edge;
use super::log::{LogDirectory, LogHead};
use super::note::{Note, VerifierKey};
use super::tiles::{Authentic, Unchecked};
use super::{Hash, TreeError};
use crate::audit::segment::{self, Listed};
use crate::audit::verify::{leaves, range};

/// What the segments say.
#[derive(Debug)]
pub(crate) struct Journal<'a> {
    pub(crate) directory: &'a Path,
    /// The log of the last segment.
    pub(crate) log: Option<&'a LogHead>,
    /// The number that the next record will get.
    pub(crate) next_seq: u64,
    /// The leaf hashes of the last segment, which ends before `next_seq`.
    pub(crate) last: &'a [Hash],
    /// Whether what was not synced may be gone.
    pub(crate) suspect: bool,
}

/// Where the tree goes on.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) log: LogHead,
    /// Whether the previous key signed its newest checkpoint.
    pub(crate) by_previous: bool,
    pub(crate) edge: Edge,
    /// Leaves that no checkpoint covers yet.
    pub(crate) pending: VecDeque<Hash>,
}

/// Compares the newest checkpoint with the segments. `keys` makes the verifier keys for the name of a log: the current, then the
/// previous if one is configured.
///
/// # Errors
/// They do not belong together, or cannot be read.
pub(crate) fn recover(
    journal: &Journal<'_>,
    keys: impl Fn(&str) -> Vec<VerifierKey>,
) -> Result<Option<Start>, TreeError> {
    no_later_log(journal)?;
    let Some(log) = journal.log else { return Ok(None) };
    let directory = LogDirectory::of(journal.directory, log.first);
    let keys = keys(log.name());
    let (checkpoint, by_previous) = signed(&directory, &log.origin, &keys)?;
    let size = journal.next_seq.saturating_sub(log.first);
    if checkpoint.size > size {
        return Err(TreeError::Rollback {
            origin: log.origin.clone(),
            journal: size,
            checkpoint: checkpoint.size,
            path: directory.checkpoint(),
        });
    }
    let stored = Authentic::open(directory.tiles(), checkpoint.size, &checkpoint.root);
    let started = match stored {
        Ok(mut tree) => compare_last(journal, log, &mut tree)?.then(|| {
            let whole = !journal.suspect || tree.is_whole();
            (tree.edge().clone(), whole)
        }),
        Err(_) => None,
    };
    let (edge, pending) = match started {
        Some((edge, true)) => (edge, beyond(journal, log, checkpoint.size)?),
        Some((edge, false)) => match rebuild(journal.directory, log, &directory, &checkpoint) {
            // What the older segments hold is another one's to say: `audit verify` names it, and a start does not depend on it.
            Err(error @ (TreeError::Root { .. } | TreeError::Differs { .. })) => {
                tracing::error!(%error, "tiles of the audit journal are lost and cannot be made again; run `tidegate audit verify`");
                (edge, beyond(journal, log, checkpoint.size)?)
            }
            made => made?,
        },
        None => rebuild(journal.directory, log, &directory, &checkpoint)?,
    };
    if journal.suspect {
        mend_before(journal.directory, log.first);
    }
    Ok(Some(Start { log: log.clone(), by_previous, edge, pending }))
}

/// Makes the tiles of the log before this one again, if some are lost. What cannot be mended is told and keeps no start.
fn mend_before(journal: &Path, first: u64) {
    let logs = LogDirectory::list(journal).unwrap_or_default();
    let Some(directory) = logs.into_iter().rev().find(|log| log.first < first) else { return };
    let note = directory.read_checkpoint().ok().flatten();
    let Some(checkpoint) = note.and_then(|note| Checkpoint::open(&note, &[]).ok()) else { return };
    let tree = Authentic::open(directory.tiles(), checkpoint.size, &checkpoint.root);
    if tree.is_ok_and(|mut tree| tree.is_whole()) {
        return;
    }
    let made = match head(journal, directory.first) {
        Ok(Some(log)) => rebuild(journal, &log, &directory, &checkpoint).map(|_| ()),
        // All its segments were deleted: the tiles were synced before, and there is nothing to make them of.
        Ok(None) => return,
        Err(error) => Err(read_error(journal)(error)),
    };
    if let Err(error) = made {
        tracing::error!(%error, "tiles of an earlier log are lost and cannot be made again; run `tidegate audit verify`");
    }
}

/// A log as the head of its first segment that is left names it; none if all of them were deleted, for then the tiles are all
/// that there is.
pub(crate) fn head(journal: &Path, first: u64) -> io::Result<Option<LogHead>> {
    for segment in segment::list(journal)?.into_iter().filter(|segment| segment.first >= first) {
        if let Some(log) = range::head(&segment)?.and_then(|head| head.log) {
            return Ok((log.first == first).then_some(log));
        }
    }
    Ok(None)
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> TreeError {
    let path = path.to_owned();
    move |source| TreeError::Io { action: "read", path, source }
}

/// The newest checkpoint of a log, verified; whether the previous key signed it.
fn signed(
    directory: &LogDirectory,
    origin: &str,
    keys: &[VerifierKey],
) -> Result<(Checkpoint, bool), TreeError> {
    let path = directory.checkpoint();
    let note = directory.read_checkpoint().map_err(read_error(&path))?;
    let note = note.ok_or_else(|| TreeError::Missing(path.clone()))?;
    let refused = |reason| TreeError::Checkpoint { path: path.clone(), reason };
    let parsed = Note::parse(&note).map_err(refused)?;
    parsed.verify(keys).map_err(refused)?;
    let checkpoint = Checkpoint::parse(parsed.text).map_err(refused)?;
    if checkpoint.origin != origin {
        return Err(refused(super::note::NoteError::Malformed("it is of another log")));
    }
    let by_previous = keys.get(1).is_some_and(|previous| parsed.verify([previous]).is_ok());
    Ok((checkpoint, by_previous))
}

/// A log that begins behind the last record and has records of its own lost its segments; one without was just being made.
fn no_later_log(journal: &Journal<'_>) -> Result<(), TreeError> {
    let logs = LogDirectory::list(journal.directory).map_err(read_error(journal.directory))?;
    let current = journal.log.map(|log| log.first);
    for log in logs.into_iter().filter(|log| Some(log.first) > current) {
        let path = log.checkpoint();
        let note = log.read_checkpoint().map_err(read_error(&path))?;
        let checkpoint = note.as_deref().map(|note| Checkpoint::open(note, &[]));
        match checkpoint {
            Some(Ok(checkpoint)) if checkpoint.size > 0 => {
                let (origin, checkpoint) = (checkpoint.origin, checkpoint.size);
                return Err(TreeError::Rollback { origin, journal: 0, checkpoint, path });
            }
            _ => log.remove().map_err(|source| TreeError::Io { action: "remove", path, source })?,
        }
    }
    Ok(())
}

/// Compares the leaves of the last segment with the tiles, as far as the checkpoint goes. False if the tiles are no good.
fn compare_last(journal: &Journal<'_>, log: &LogHead, tree: &mut Authentic) -> Result<bool, TreeError> {
    let first = journal.next_seq.saturating_sub(u64::try_from(journal.last.len()).unwrap_or(u64::MAX));
    for (seq, hash) in (first..).zip(journal.last) {
        let index = seq.saturating_sub(log.first);
        if index >= tree.edge().size() {
            break;
        }
        match tree.leaf(index) {
            Ok(stored) if stored == *hash => {}
            Ok(_) => {
                let segment = journal.directory.join(segment::name(first));
                return Err(TreeError::Differs { origin: log.origin.clone(), seq, index, segment });
            }
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

/// The leaves from `size` on: out of the last segment, or also out of those before it.
fn beyond(journal: &Journal<'_>, log: &LogHead, size: u64) -> Result<VecDeque<Hash>, TreeError> {
    let next = log.first.saturating_add(size);
    let missing = journal.next_seq.saturating_sub(next);
    let last = journal.last.len();
    if let Ok(count) = usize::try_from(missing)
        && count <= last
    {
        return Ok(journal.last.iter().skip(last.saturating_sub(count)).copied().collect());
    }
    let mut pending = VecDeque::new();
    let begun = segments_of(journal.directory, log)?;
    let from = begun.partition_point(|segment| segment.first <= next).saturating_sub(1);
    hash_all(journal.directory, begun.get(from..).unwrap_or_default(), &mut |seq, hash| {
        if seq >= next {
            pending.push_back(hash);
        }
    })?;
    Ok(pending)
}

/// Makes the tree again from the segments, and the tiles with it.
pub(crate) fn rebuild(
    journal: &Path,
    log: &LogHead,
    directory: &LogDirectory,
    checkpoint: &Checkpoint,
) -> Result<(Edge, VecDeque<Hash>), TreeError> {
    tracing::warn!(origin = %log.origin, "the tiles of the audit journal are not those of its checkpoint; they are made again");
    let segments = segments_of(journal, log)?;
    let mut edge = Edge::default();
    let mut pending = VecDeque::new();
    let mut full = Vec::new();
    let tiles = directory.tiles();
    let mut stored = Unchecked::new(tiles.clone(), checkpoint.size);
    let mut differs = None;
    // Of records that were deleted the tiles have the only trace; the root says whether it is the right one.
    let pruned = segments.first().map_or(0, |segment| segment.first.saturating_sub(log.first));
    for index in 0..pruned.min(checkpoint.size) {
        let leaf = stored.leaf(index).ok_or_else(|| TreeError::Root {
            origin: log.origin.clone(),
            size: checkpoint.size,
            path: directory.checkpoint(),
        })?;
        edge.push(leaf, &mut |tile| full.push(tile));
    }
    hash_all(journal, &segments, &mut |seq, hash| {
        let index = seq.saturating_sub(log.first);
        if index >= checkpoint.size {
            pending.push_back(hash);
            return;
        }
        if differs.is_none() && stored.leaf(index).is_some_and(|stored| stored != hash) {
            differs = Some((seq, index));
        }
        edge.push(hash, &mut |tile| full.push(tile));
    })?;
    if edge.size() != checkpoint.size || edge.root() != checkpoint.root {
        return Err(match differs {
            Some((seq, index)) => {
                let at = segments.partition_point(|segment| segment.first <= seq).saturating_sub(1);
                let segment = segments.get(at).map(|segment| segment.path.clone()).unwrap_or_default();
                TreeError::Differs { origin: log.origin.clone(), seq, index, segment }
            }
            None => TreeError::Root {
                origin: log.origin.clone(),
                size: checkpoint.size,
                path: directory.checkpoint(),
            },
        });
    }
    let failed = |source| TreeError::Io { action: "write", path: directory.path().to_owned(), source };
    if pruned == 0 {
        let _ = std::fs::remove_dir_all(directory.path().join("tile"));
        full.iter().try_for_each(|tile| tiles.write_full(tile)).map_err(failed)?;
        tiles.write_edge(&edge).map_err(failed)?;
    } else {
        tiles.replace(&full, &edge).map_err(failed)?;
    }
    Ok((edge, pending))
}

fn segments_of(journal: &Path, log: &LogHead) -> Result<Vec<Listed>, TreeError> {
    let all = segment::list(journal).map_err(read_error(journal))?;
    Ok(all.into_iter().filter(|segment| segment.first >= log.first).collect())
}

fn hash_all(journal: &Path, segments: &[Listed], take: &mut impl FnMut(u64, Hash)) -> Result<(), TreeError> {
    let bytes = AtomicU64::new(0);
    let each = leaves::each(segments, &bytes, |read| {
        for (seq, hash) in (read.segment.first..).zip(&read.leaves) {
            take(seq, *hash);
        }
        ControlFlow::Continue(())
    });
    each.map_err(read_error(journal))
}
