//! How long records are kept: the oldest segments go, whole, and their hashes stay. Before that they are compressed.
//!
//! A pass deletes a prefix of the journal, never a part in its middle. In this order, so that a crash at any point leaves a journal
//! that starts and verifies: the segments are compared with the signed tree; the records that carry the tree's own history are
//! kept beside its tiles; the tiles over what goes, now the only trace of it, are synced; the record `retention.pruned` is
//! written, synced and covered by a checkpoint; only then the segments are removed, the oldest first, each for good before the next.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use super::keys::make_directory;
use super::notes::write_synced;
use super::record::Event;
use super::segment::{self, FrameReader, Head, Listed, Next};
use super::shared::{Shared, State};
use super::storage::Storage;
use super::syncer::Syncer;
use super::tree::checkpoint::Checkpoint;
use super::tree::log::{LogDirectory, LogHead};
use super::tree::tiles::{Authentic, TILE_WIDTH, TileError, tile_path, tile_width};
use super::verify::leaves;
use super::{holds, notes};

/// How long a pass waits for the checkpoint over its record.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);

/// Why nothing, or no more, was deleted.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// A file operation failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A segment is not what was signed: it is evidence now, and stays.
    #[error("segment `{}` is not what was signed, so it is not deleted: {reason}; see `tidegate audit verify`", segment.display())]
    Differs {
        /// The segment.
        segment: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The holds cannot be read.
    #[error("the holds cannot be read, so nothing is deleted")]
    Holds(#[from] holds::HoldError),
    /// The deletion could not be recorded.
    #[error("the deletion could not be recorded, so nothing is deleted: {0}")]
    Unrecorded(&'static str),
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RetentionError {
    let path = path.to_owned();
    move |source| RetentionError::Io { action, path, source }
}

/// What a pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Segments that were deleted.
    pub segments: u64,
    /// The number of the first record that is left.
    pub below: u64,
}

/// Deletes what is older than it is kept.
#[derive(Debug)]
pub(crate) struct Retention {
    pub(crate) shared: Arc<Shared>,
    pub(crate) syncer: Arc<Syncer>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) journal: PathBuf,
    /// How long segments stay as they were written.
    pub(crate) hot: Duration,
    /// How long they are kept.
    pub(crate) keep: Duration,
}

/// A segment that may go.
#[derive(Debug)]
struct Candidate {
    segment: Listed,
    log: LogHead,
    /// The number of the first record behind it.
    end: u64,
}

impl Retention {
    /// Deletes all segments that may go now, and compresses those that are not hot any more.
    pub(crate) fn pass(&self) -> Result<Pruned, RetentionError> {
        let pruned = self.prune()?;
        self.compress()?;
        Ok(pruned)
    }

    fn ago(&self, duration: Duration) -> Timestamp {
        let duration = jiff::SignedDuration::try_from(duration).unwrap_or(jiff::SignedDuration::MAX);
        self.shared.now().checked_sub(duration).unwrap_or(Timestamp::MIN)
    }

    /// Compresses what is not hot any more. The plain file goes when the other one is on the disk and was read back.
    fn compress(&self) -> Result<(), RetentionError> {
        let all = segment::list(&self.journal).map_err(failed("read", &self.journal))?;
        let before = self.ago(self.hot);
        for pair in all.windows(2) {
            let [segment, next] = pair else { continue };
            if !head(next).is_ok_and(|(_, ended)| ended < before) {
                break;
            }
            if segment.is_compressed() || self.shared.state() != State::Ok {
                continue;
            }
            pack(segment).map_err(failed("compress", &segment.path))?;
            self.storage.sync_directory().map_err(failed("sync", &self.journal))?;
            self.storage.remove(&segment.name()).map_err(failed("remove", &segment.path))?;
            self.storage.sync_directory().map_err(failed("sync", &self.journal))?;
        }
        Ok(())
    }

    fn prune(&self) -> Result<Pruned, RetentionError> {
        let before = self.ago(self.keep);
        let candidates = self.candidates(before)?;
        let (Some(first), Some(last)) = (candidates.first(), candidates.last()) else {
            return Ok(Pruned::default());
        };
        let (first, below) = (first.segment.first, last.end);
        for candidate in &candidates {
            self.keep_hashes(candidate)?;
        }
        let segments = u64::try_from(candidates.len()).unwrap_or(u64::MAX);
        self.record(&Event::RetentionPruned { first, below, segments, before })?;
        for candidate in &candidates {
            let path = &candidate.segment.path;
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            self.storage.remove(name).map_err(failed("remove", path))?;
            self.storage.sync_directory().map_err(failed("sync", &self.journal))?;
        }
        tracing::info!(
            segments,
            first,
            below,
            "segments of the audit journal older than they are kept were deleted"
        );
        Ok(Pruned { segments, below })
    }

    /// The oldest segments, all records of which were written before `before`, that nothing keeps.
    fn candidates(&self, before: Timestamp) -> Result<Vec<Candidate>, RetentionError> {
        let all = segment::list(&self.journal).map_err(failed("read", &self.journal))?;
        let floor = destinations(&self.journal).map_err(failed("read", &self.journal))?;
        let holds = holds::list(&self.journal)?;
        let held = holds.iter().map(|hold| hold.from.unwrap_or(Timestamp::MIN)).min();
        let newest = all.last().and_then(|segment| head(segment).ok()).and_then(|(head, _)| head.log);
        let mut found = Vec::new();
        for pair in all.windows(2) {
            let [segment, next] = pair else { continue };
            let (Ok((this, _)), Ok((_, ended))) = (head(segment), head(next)) else { break };
            // All of its records were written before the next segment was begun.
            let late = ended >= before || held.is_some_and(|from| ended >= from);
            let Some(log) = this.log.filter(|_| !late && floor.is_none_or(|floor| next.first <= floor))
            else {
                break;
            };
            // A tile at the edge of a log that grows is not the last word on its leaves.
            let grows = newest.as_ref() == Some(&log);
            if grows && next.first.saturating_sub(log.first) > self.whole_tiles(&log)? {
                break;
            }
            found.push(Candidate { segment: segment.clone(), log, end: next.first });
        }
        Ok(found)
    }

    /// How many leaves of a log are signed and in full tiles.
    fn whole_tiles(&self, log: &LogHead) -> Result<u64, RetentionError> {
        let directory = LogDirectory::of(&self.journal, log.first);
        let note = directory.read_checkpoint().map_err(failed("read", &directory.checkpoint()))?;
        let checkpoint = note.and_then(|note| Checkpoint::open(&note, &[]).ok());
        Ok(checkpoint.map_or(0, |checkpoint| checkpoint.size / TILE_WIDTH * TILE_WIDTH))
    }

    /// Compares a segment with the signed tree, and makes sure that all that stays of it is on the disk.
    fn keep_hashes(&self, candidate: &Candidate) -> Result<(), RetentionError> {
        let Candidate { segment, log, end } = candidate;
        let differs = |reason: String| RetentionError::Differs { segment: segment.path.clone(), reason };
        let directory = LogDirectory::of(&self.journal, log.first);
        let note = directory.read_checkpoint().map_err(failed("read", &directory.checkpoint()))?;
        let note = note.ok_or_else(|| differs("its log has no checkpoint".to_owned()))?;
        let checkpoint = Checkpoint::open(&note, &[]).map_err(|error| differs(error.to_string()))?;
        let tree = Authentic::open(directory.tiles(), checkpoint.size, &checkpoint.root);
        let mut tree = tree.map_err(|error: TileError| differs(error.to_string()))?;
        let mut result = Ok(());
        let each = leaves::each(std::slice::from_ref(segment), &AtomicU64::new(0), |read| {
            result = (|| {
                if read.next_seq() != *end {
                    return Err(differs(format!("it ends before record {}", read.next_seq())));
                }
                for (seq, leaf) in (segment.first..).zip(&read.leaves) {
                    let stored = tree.leaf(seq.saturating_sub(log.first));
                    if stored.map_err(|error| differs(error.to_string()))? != *leaf {
                        return Err(differs(format!("record {seq} is another one")));
                    }
                }
                read.events.iter().try_for_each(|(seq, bytes)| keep_record(&directory, *seq, bytes))
            })();
            ControlFlow::Break(())
        });
        each.map_err(failed("read", &segment.path))?;
        result?;
        sync_tiles(
            &directory,
            checkpoint.size,
            segment.first.saturating_sub(log.first),
            end.saturating_sub(log.first),
        )
    }

    /// Records an event and waits until a checkpoint covers it.
    fn record(&self, event: &Event<'_>) -> Result<(), RetentionError> {
        self.shared.record(event).map_err(RetentionError::Unrecorded)?;
        // It is durable, so its number is below this.
        let durable = self.syncer.durable();
        let asked = Instant::now();
        loop {
            if self.shared.published().is_some_and(|published| published.covers(durable)) {
                return Ok(());
            }
            if self.shared.state() != State::Ok || asked.elapsed() > PATIENCE {
                return Err(RetentionError::Unrecorded("no checkpoint covers the record of it"));
            }
            std::thread::park_timeout(LOOK);
        }
    }
}

/// Writes a segment beside itself, compressed; when this returns its bytes are on the disk, and are those of the plain one.
fn pack(segment: &Listed) -> io::Result<()> {
    let name = |ending: &str| {
        let mut name = segment.path.clone().into_os_string();
        name.push(ending);
        PathBuf::from(name)
    };
    let (partial, packed) = (name(".gz.new"), name(".gz"));
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    let mut encoder = GzEncoder::new(BufWriter::new(file), Compression::default());
    io::copy(&mut File::open(&segment.path)?, &mut encoder)?;
    encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    let mut plain = BufReader::new(File::open(&segment.path)?);
    let mut read = BufReader::new(MultiGzDecoder::new(BufReader::new(File::open(&partial)?)));
    loop {
        let (ours, theirs) = (plain.fill_buf()?, read.fill_buf()?);
        let length = ours.len().min(theirs.len());
        if length == 0 || ours.get(..length) != theirs.get(..length) {
            if ours.is_empty() && theirs.is_empty() {
                return fs::rename(partial, packed);
            }
            return Err(io::Error::other("what was compressed reads back as something else"));
        }
        plain.consume(length);
        read.consume(length);
    }
}

/// The head of a segment, and when it was written.
fn head(segment: &Listed) -> io::Result<(Head, Timestamp)> {
    match FrameReader::open(&segment.path)?.next()? {
        Next::Frame(frame) => {
            let time = Timestamp::from_nanosecond(i128::from(frame.time)).map_err(io::Error::other)?;
            Ok((serde_json::from_slice(frame.payload)?, time))
        }
        Next::End | Next::Broken(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Keeps the exact bytes of a record that later checks of the tree need.
fn keep_record(log: &LogDirectory, seq: u64, bytes: &[u8]) -> Result<(), RetentionError> {
    let directory = log.kept();
    let name = format!("{seq:020}");
    if fs::read(directory.join(&name)).is_ok_and(|known| known == bytes) {
        return Ok(());
    }
    make_directory(&directory)
        .and_then(|()| write_synced(&directory, &name, bytes))
        .and_then(|()| File::open(log.path())?.sync_all())
        .map_err(failed("write", &directory))
}

/// Syncs the tiles of the leaves from `from` until before `to`, all levels, and the directories that lead to them.
fn sync_tiles(log: &LogDirectory, size: u64, from: u64, to: u64) -> Result<(), RetentionError> {
    let (mut first, mut last) = (from, to.saturating_sub(1));
    let mut directories = std::collections::BTreeSet::new();
    for level in 0..=u8::MAX {
        (first, last) = (first / TILE_WIDTH, last / TILE_WIDTH);
        for index in first..=last {
            let width = tile_width(size, level, index);
            let path = log.path().join(tile_path(&level.to_string(), index, width));
            // A partial tile that has become full since the checkpoint.
            let full = log.path().join(tile_path(&level.to_string(), index, TILE_WIDTH));
            let path = if path.exists() { path } else { full };
            if width > 0 {
                File::open(&path).and_then(|file| file.sync_all()).map_err(failed("sync", &path))?;
                directories.extend(
                    path.ancestors().skip(1).take_while(|at| at.starts_with(log.path())).map(Path::to_owned),
                );
            }
        }
        if tile_width(size, level.saturating_add(1), 0) == 0 {
            break;
        }
    }
    for directory in directories {
        File::open(&directory).and_then(|file| file.sync_all()).map_err(failed("sync", &directory))?;
    }
    Ok(())
}

/// The first record that some destination of an export has not acknowledged; none if there is no destination.
///
/// # Errors
/// A cursor is there and cannot be read: then nothing may be deleted.
fn destinations(journal: &Path) -> io::Result<Option<u64>> {
    #[derive(serde::Deserialize)]
    struct Cursor {
        seq: u64,
    }
    let entries = match fs::read_dir(journal.join("export")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut floor = None;
    for entry in entries {
        let directory = entry?.path();
        if !directory.is_dir() {
            continue;
        }
        let seq = match fs::read(directory.join("cursor")) {
            Ok(bytes) => serde_json::from_slice::<Cursor>(&bytes)?.seq,
            // Nothing was acknowledged yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        floor = Some(floor.map_or(seq, |floor: u64| floor.min(seq)));
    }
    Ok(floor)
}

/// Records what other processes noted, each note once it is on the disk.
pub(crate) fn take_notes(shared: &Shared, journal: &Path) -> io::Result<()> {
    for waiting in notes::waiting(journal)? {
        if let Event::SubjectErased { subject, actor, reason, at, .. } = &waiting.event {
            // Whoever noted it may have been killed before it was done.
            let erased = super::subjects::Erased {
                at: *at,
                actor: actor.clone().into_owned(),
                reason: reason.clone().map(std::borrow::Cow::into_owned),
            };
            super::subjects::destroy(journal, *subject, &erased).map_err(io::Error::other)?;
        }
        let noted = notes::Noted { event: &waiting.event, note: waiting.note };
        if shared.record(&noted).is_err() {
            return Ok(());
        }
        fs::remove_file(&waiting.path)?;
    }
    Ok(())
}
