//! Checks the whole journal: rehashes every record, rebuilds each log's tree and compares roots.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

use super::leaves::{self, SegmentLeaves};
use super::{Code, LogReport, Problem, Report, VerifyError, io_error, segments};
use crate::audit::record::{Event, Record};
use crate::audit::segment::Listed;
use crate::audit::tree::checkpoint::Checkpoint;
use crate::audit::tree::edge::Edge;
use crate::audit::tree::log::{LogDirectory, LogHead};
use crate::audit::tree::note::{Note, NoteError, VerifierKey};
use crate::audit::tree::tiles::{TILE_WIDTH, Unchecked};
use crate::audit::tree::{Hash, empty_root, leaf_hash};

/// A log while its records are read, and what there is to compare with.
#[derive(Debug)]
struct Walk {
    head: LogHead,
    directory: LogDirectory,
    edge: Edge,
    /// Roots that were signed, at the sizes that the records must reach.
    marks: Vec<Mark>,
    stored: Unchecked,
    /// The first record that the tiles have otherwise.
    differs: Option<(Listed, u64)>,
    /// Whether a tile is missing or another one.
    tiles_damaged: bool,
    /// The checkpoint of the log before that the first record quotes.
    quoted: Option<String>,
    opened: bool,
    /// Records that were deleted; their hashes come from the tiles.
    pruned: u64,
    /// Whether a hash of a deleted record is missing.
    unreadable: bool,
    changes: Vec<(u64, VerifierKey, VerifierKey)>,
    vkey: Option<VerifierKey>,
}

/// A signed root and what became of it.
#[derive(Debug)]
struct Mark {
    note: String,
    checkpoint: Checkpoint,
    source: Source,
    /// Whether the records gave this root; none as long as they are too few.
    met: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Newest,
    Changeover,
    /// The reader saw it earlier.
    Reader,
}

/// A log whose records have all been read.
#[derive(Debug)]
struct Done {
    walk: Walk,
    records: u64,
    root: Hash,
}

struct Check<'a> {
    journal: &'a Path,
    seen: Option<(&'a str, Checkpoint)>,
    report: Report,
    expected: Option<u64>,
    current: Option<Walk>,
    done: Vec<Done>,
    last: u64,
    /// The first record that is there, if records before it are not.
    begins: Option<(u64, Listed)>,
    /// What retention said that it would delete: records below the second number, said by the record with the first.
    announced: Vec<(u64, u64)>,
    error: Option<VerifyError>,
}

/// Checks all of a journal. `seen` is a checkpoint that the reader kept: the journal must go on from it. `bytes` counts what was
/// read.
///
/// # Errors
/// There is no journal, or it cannot be read.
pub fn check(
    journal: &Path,
    key: Option<&VerifierKey>,
    seen: Option<(&str, Checkpoint)>,
    bytes: &AtomicU64,
) -> Result<Report, VerifyError> {
    let segments = segments(journal)?;
    let last = segments.last().map_or(0, |segment| segment.first);
    let report = Report::new(key.is_some());
    let mut check = Check {
        journal,
        seen,
        report,
        expected: None,
        current: None,
        done: Vec::new(),
        last,
        begins: None,
        announced: Vec::new(),
        error: None,
    };
    // Checkpoints that were there before the segments are read must be met by them.
    let logs = LogDirectory::list(journal).map_err(io_error("read", journal))?;
    let mut walks: Vec<(LogDirectory, Vec<Mark>)> = Vec::new();
    for log in logs {
        let marks = check.marks(&log)?;
        walks.push((log, marks));
    }
    check.deleted_logs(&segments, &mut walks)?;
    let read = leaves::each(&segments, bytes, |read| match check.take(&read, &mut walks) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            check.error = Some(error);
            ControlFlow::Break(())
        }
    });
    read.map_err(io_error("read", journal))?;
    if let Some(error) = check.error.take() {
        return Err(error);
    }
    check.finish_log();
    check.begins();
    check.lost_logs(walks);
    check.judge(key);
    check.report.segments = segments.len();
    check.report.bytes = bytes.load(Ordering::Relaxed);
    Ok(check.report)
}

impl Check<'_> {
    fn marks(&mut self, log: &LogDirectory) -> Result<Vec<Mark>, VerifyError> {
        let path = log.checkpoint();
        let newest = log.read_checkpoint().map_err(io_error("read", &path))?;
        let changeovers = log.changeovers().map_err(io_error("read", log.path()))?;
        let mut marks = Vec::new();
        let all = newest.into_iter().map(|note| (note, Source::Newest));
        for (note, source) in all.chain(changeovers.into_iter().map(|note| (note, Source::Changeover))) {
            match Checkpoint::open(&note, &[]) {
                Ok(checkpoint) => marks.push(Mark { note, checkpoint, source, met: None }),
                Err(error) => {
                    let what = format!("a checkpoint cannot be read: {error}");
                    self.report.add(Problem::new(Code::CheckpointChanged, what).at(&path));
                }
            }
        }
        Ok(marks)
    }

    fn take(
        &mut self,
        read: &SegmentLeaves,
        logs: &mut Vec<(LogDirectory, Vec<Mark>)>,
    ) -> Result<(), VerifyError> {
        let first = read.segment.first;
        if let Some(expected) = self.expected.filter(|expected| *expected != first) {
            let what = format!("records {expected} to {} are missing", first.saturating_sub(1));
            let mut problem = Problem::new(Code::RecordsMissing, what).at(&read.segment.path);
            problem.seq = Some(expected);
            self.report.add(problem);
        } else if self.expected.is_none() && first > 0 {
            self.begins = Some((first, read.segment.clone()));
        }
        self.expected = Some(read.next_seq());
        self.report.records += u64::try_from(read.leaves.len()).unwrap_or(u64::MAX);
        self.turn(read, logs)?;
        self.hash(read);
        self.events(read);
        self.broken(read, logs)
    }

    /// Begins a log if the segment is the first of one.
    fn turn(
        &mut self,
        read: &SegmentLeaves,
        logs: &mut Vec<(LogDirectory, Vec<Mark>)>,
    ) -> Result<(), VerifyError> {
        let Some(head) = &read.head else { return Ok(()) };
        let Some(log) = &head.log else { return Ok(()) };
        if self.current.as_ref().is_some_and(|walk| walk.head == *log) {
            return Ok(());
        }
        self.finish_log();
        let place = logs.iter().position(|(directory, _)| directory.first == log.first);
        let (directory, marks) = match place {
            Some(place) => logs.remove(place),
            None => (LogDirectory::of(self.journal, log.first), Vec::new()),
        };
        let mut walk = self.walk(log, directory, marks);
        // A segment in the middle of a log is the first that is left of it only at the beginning of the journal.
        let is_beginning = self.begins.as_ref().is_some_and(|(first, _)| *first == read.segment.first);
        if is_beginning {
            let pruned = read.segment.first.saturating_sub(log.first);
            self.take_hashes(&mut walk, pruned)?;
        }
        self.current = Some(walk);
        Ok(())
    }

    fn walk(&mut self, log: &LogHead, directory: LogDirectory, mut marks: Vec<Mark>) -> Walk {
        if !marks.iter().any(|mark| mark.source == Source::Newest) {
            let what = format!("log `{}` has no checkpoint that can be read", log.origin);
            self.report.add(Problem::new(Code::CheckpointMissing, what).at(&directory.checkpoint()));
        }
        for mark in marks.iter().filter(|mark| mark.checkpoint.origin != log.origin) {
            let what = format!(
                "a checkpoint of log `{}` is in the place of one of `{}`",
                mark.checkpoint.origin, log.origin
            );
            self.report.add(Problem::new(Code::CheckpointChanged, what).at(&directory.checkpoint()));
        }
        marks.retain(|mark| mark.checkpoint.origin == log.origin);
        if let Some((note, checkpoint)) = self.seen.take_if(|(_, seen)| seen.origin == log.origin) {
            marks.push(Mark { note: note.to_owned(), checkpoint, source: Source::Reader, met: None });
        }
        let signed =
            marks.iter().find(|mark| mark.source == Source::Newest).map_or(0, |mark| mark.checkpoint.size);
        let stored = Unchecked::new(directory.tiles(), signed);
        let mut walk = Walk {
            head: log.clone(),
            directory,
            edge: Edge::default(),
            marks,
            stored,
            differs: None,
            tiles_damaged: false,
            quoted: None,
            opened: false,
            pruned: 0,
            unreadable: false,
            changes: Vec::new(),
            vkey: None,
        };
        walk.meet();
        walk
    }

    /// Logs from before the first segment: all of their records were deleted, or are missing.
    fn deleted_logs(
        &mut self,
        segments: &[Listed],
        logs: &mut Vec<(LogDirectory, Vec<Mark>)>,
    ) -> Result<(), VerifyError> {
        let Some(first) = segments.first() else { return Ok(()) };
        let head = super::range::head(first).ok().flatten();
        let begins = head.and_then(|head| head.log).map_or(first.first, |log| log.first);
        while let Some(place) = logs.iter().position(|(directory, _)| directory.first < begins) {
            let (directory, marks) = logs.remove(place);
            let Some(mark) = marks.iter().find(|mark| mark.source == Source::Newest) else { continue };
            let (origin, size) = (mark.checkpoint.origin.clone(), mark.checkpoint.size);
            let log = LogHead { origin, first: directory.first, opened: Timestamp::UNIX_EPOCH };
            let mut walk = self.walk(&log, directory, marks);
            self.take_hashes(&mut walk, size)?;
            self.current = Some(walk);
            self.finish_log();
        }
        Ok(())
    }

    /// Takes the hashes of deleted records out of the tiles, and the records about the tree that were kept. What the tiles say is checked
    /// as records are, by the root.
    fn take_hashes(&mut self, walk: &mut Walk, count: u64) -> Result<(), VerifyError> {
        let first = walk.head.first;
        let kept = walk.directory.kept_records().map_err(io_error("read", &walk.directory.kept()))?;
        let mut kept = kept.into_iter().peekable();
        for index in 0..count {
            let Some(leaf) = walk.stored.leaf(index) else {
                let what = format!(
                    "the hashes of deleted records of log `{}` are missing, from record {} (leaf {index}) on",
                    walk.head.origin,
                    first.saturating_add(index)
                );
                self.report.add(Problem::new(Code::TilesDamaged, what).at(walk.directory.path()));
                walk.unreadable = true;
                break;
            };
            walk.pruned = walk.pruned.saturating_add(1);
            walk.grow(index, leaf);
            let seq = first.saturating_add(index);
            if let Some((_, bytes)) = kept.next_if(|(kept, _)| *kept == seq) {
                if leaf_hash(&bytes) == leaf {
                    walk.event(seq, &bytes, &mut self.announced);
                } else {
                    let what =
                        format!("the kept bytes of deleted record {seq} are not those that were signed");
                    let path = walk.directory.kept().join(format!("{seq:020}"));
                    self.report
                        .add(Problem { seq: Some(seq), ..Problem::new(Code::RecordChanged, what).at(&path) });
                }
            }
        }
        self.report.pruned = self.report.pruned.saturating_add(walk.pruned);
        Ok(())
    }

    /// Whether the records before the first that is there were deleted as a signed record said, or are missing.
    fn begins(&mut self) {
        let Some((first, segment)) = self.begins.take() else { return };
        let mut expected = 0;
        for log in &self.done {
            let begins = log.walk.head.first;
            if begins != expected && begins <= first {
                let what = format!(
                    "records {expected} to {} are missing with their hashes: there is no log before `{}`",
                    begins.saturating_sub(1),
                    log.walk.head.origin
                );
                let problem = Problem::new(Code::RecordsMissing, what).at(log.walk.directory.path());
                self.report.add(Problem { seq: Some(expected), ..problem });
            }
            expected = begins.saturating_add(log.records);
        }
        let signed = |seq: u64| {
            self.done.iter().any(|log| {
                let covers = |mark: &Mark| {
                    mark.met == Some(true)
                        && (log.walk.head.first..log.walk.head.first.saturating_add(mark.checkpoint.size))
                            .contains(&seq)
                };
                log.walk.marks.iter().any(covers)
            })
        };
        if self.announced.iter().any(|(seq, below)| *below >= first && signed(*seq)) {
            return;
        }
        let what = format!(
            "the journal begins with record {first}: those before it are missing, and no signed record says that they were to be deleted"
        );
        self.report.problems.insert(0, Problem::new(Code::RecordsMissing, what).at(&segment.path));
    }

    fn hash(&mut self, read: &SegmentLeaves) {
        let Some(walk) = &mut self.current else {
            self.report.before_tree += u64::try_from(read.leaves.len()).unwrap_or(u64::MAX);
            return;
        };
        for (seq, leaf) in (read.segment.first..).zip(&read.leaves) {
            walk.push(&read.segment, seq, *leaf);
        }
    }

    fn events(&mut self, read: &SegmentLeaves) {
        let Some(walk) = &mut self.current else { return };
        for (seq, payload) in &read.events {
            walk.event(*seq, payload, &mut self.announced);
        }
    }

    /// Bytes that are no record are damage, unless they may be what the writer is just writing.
    fn broken(
        &mut self,
        read: &SegmentLeaves,
        logs: &[(LogDirectory, Vec<Mark>)],
    ) -> Result<(), VerifyError> {
        let newest = read.segment.first == self.last;
        let Some(reason) = &read.broken else { return Ok(()) };
        let seq = read.next_seq();
        let mut index = self.current.as_ref().map(|walk| seq.saturating_sub(walk.head.first));
        let mut signed = self.current.as_ref().and_then(Walk::signed);
        // A log whose first segment has a damaged head was not begun, but its checkpoint knows of it.
        if let Some((_, marks)) = logs.iter().find(|(log, _)| log.first == seq) {
            (index, signed) = (Some(0), marks.iter().map(|mark| mark.checkpoint.size).max());
        }
        if newest && signed.zip(index).is_none_or(|(signed, index)| index >= signed) {
            return Ok(());
        }
        let (_, id) = leaves::locate(&read.segment, seq).map_err(io_error("read", &read.segment.path))?;
        self.report.add(Problem {
            code: Code::RecordDamaged,
            what: format!("record {seq} is damaged: {reason}"),
            seq: Some(seq),
            index,
            file: Some(read.segment.path.clone()),
            offset: Some(read.end),
            id,
        });
        Ok(())
    }

    fn finish_log(&mut self) {
        let Some(mut walk) = self.current.take() else { return };
        let records = walk.edge.size();
        let damaged = self
            .report
            .problems
            .iter()
            .any(|p| p.code == Code::RecordDamaged || p.code == Code::RecordsMissing);
        for mark in &walk.marks {
            let (size, origin) = (mark.checkpoint.size, &walk.head.origin);
            let what = match (mark.met, mark.source) {
                (Some(true), _) => continue,
                // The root cannot be right where records are known to be wrong, or their hashes missing.
                _ if damaged || walk.unreadable => continue,
                (Some(false), _) if walk.pruned == records => {
                    format!(
                        "the hashes of the deleted records of log `{origin}` do not give the root that was signed"
                    )
                }
                (None, Source::Reader) => {
                    format!(
                        "log `{origin}` was rolled back: it holds {records} records, but a checkpoint that was seen earlier covers {size}"
                    )
                }
                (None, _) => {
                    format!(
                        "the end of log `{origin}` was cut off: it holds {records} records, but its checkpoint covers {size}"
                    )
                }
                (Some(false), Source::Reader) => {
                    format!(
                        "the first {size} records of log `{origin}` are not those of the checkpoint that was seen earlier"
                    )
                }
                (Some(false), _) => match &walk.differs {
                    Some((segment, seq)) => {
                        let changed = changed(segment, *seq, &walk.head);
                        self.report.add(changed);
                        continue;
                    }
                    None => format!(
                        "the first {size} records of log `{origin}` do not give the root that was signed"
                    ),
                },
            };
            let code = if mark.met.is_none() { Code::JournalCut } else { Code::RootDiffers };
            self.report.add(Problem::new(code, what).at(&walk.directory.checkpoint()));
        }
        let intact = walk.marks.iter().any(|mark| mark.source == Source::Newest && mark.met == Some(true));
        if let Some((_, seq)) = walk.differs.take().filter(|_| intact) {
            let index = seq.saturating_sub(walk.head.first);
            let what = format!(
                "the tile of record {seq} (leaf {index}) is not that of the signed tree, but the record is; `--rebuild` writes the tiles again"
            );
            self.report.add(Problem::new(Code::TilesDamaged, what).at(walk.directory.path()));
        } else if intact && walk.tiles_damaged {
            let what = "tiles are missing or changed, but the records are as signed; `--rebuild` writes the tiles again";
            self.report.add(Problem::new(Code::TilesDamaged, what).at(walk.directory.path()));
        }
        let root = walk.edge.root();
        self.done.push(Done { walk, records, root });
    }

    /// Logs that have a checkpoint over records but no segment.
    fn lost_logs(&mut self, logs: Vec<(LogDirectory, Vec<Mark>)>) {
        for (directory, marks) in logs {
            for mark in marks.iter().filter(|mark| mark.source == Source::Newest && mark.checkpoint.size > 0)
            {
                let Checkpoint { origin, size, .. } = &mark.checkpoint;
                let what = format!(
                    "log `{origin}` is missing: its checkpoint covers {size} records, and there is no segment of it"
                );
                self.report.add(Problem::new(Code::JournalCut, what).at(&directory.checkpoint()));
            }
        }
        if let Some((_, seen)) = self.seen.take() {
            let what =
                format!("no log of the journal is `{}`, of which a checkpoint was seen earlier", seen.origin);
            self.report.add(Problem::new(Code::JournalCut, what));
        }
    }

    /// Who vouches for which log: the reader's key or one that it handed over to; for a log that was closed also whoever vouches
    /// for the next, which quotes its last checkpoint.
    fn judge(&mut self, key: Option<&VerifierKey>) {
        let done = std::mem::take(&mut self.done);
        let mut trusted: Vec<VerifierKey> = key.into_iter().cloned().collect();
        let mut signers = Vec::new();
        for log in &done {
            if key.is_none() {
                trusted.extend(log.walk.vkey.clone());
            }
            log.walk.hand_over(&mut trusted);
            signers.push(log.walk.signer(&trusted));
        }
        let mut later: Option<(String, Option<String>)> = None;
        for (log, signer) in done.iter().zip(signers).rev() {
            let quoted = later.as_ref().map(|(_, quote)| log.is_quoted(quote.as_deref()));
            let vouched = match (signer, &later) {
                (Ok(key), _) => Some(key),
                (Err(NoteError::OtherKey { .. }), Some((key, _))) if quoted == Some(true) => {
                    Some(key.clone())
                }
                (Err(error), _) => {
                    let code = if matches!(error, NoteError::OtherKey { .. }) {
                        Code::WrongKey
                    } else {
                        Code::CheckpointChanged
                    };
                    if log.walk.newest().is_some() {
                        let what = format!("the checkpoint of log `{}`: {error}", log.walk.head.origin);
                        self.report.add(Problem::new(code, what).at(&log.walk.directory.checkpoint()));
                    }
                    None
                }
            };
            if !log.walk.opened {
                let what =
                    format!("log `{}` does not begin with the record that opens it", log.walk.head.origin);
                self.report.add(Problem::new(Code::ChainBroken, what));
            }
            if quoted == Some(false) {
                let what = format!(
                    "the log after `{}` does not begin with its last checkpoint",
                    log.walk.head.origin
                );
                self.report.add(Problem::new(Code::ChainBroken, what));
            }
            self.report.logs.insert(0, log.report(vouched.clone()));
            later = Some((vouched.unwrap_or_default(), log.walk.quoted.clone()))
                .filter(|(key, _)| !key.is_empty());
        }
        self.report.unsigned =
            self.report.logs.iter().map(|log| log.records.saturating_sub(log.signed)).sum();
    }
}

pub(super) fn changed(segment: &Listed, seq: u64, head: &LogHead) -> Problem {
    let (offset, id) = leaves::locate(segment, seq).map_or((None, None), |(offset, id)| (Some(offset), id));
    Problem {
        code: Code::RecordChanged,
        what: format!("record {seq} is not the one that was signed"),
        seq: Some(seq),
        index: Some(seq.saturating_sub(head.first)),
        file: Some(segment.path.clone()),
        offset,
        id,
    }
}

impl Walk {
    /// Compares the root with those that were signed at this size.
    fn meet(&mut self) {
        let size = self.edge.size();
        if self.marks.iter().any(|mark| mark.checkpoint.size == size) {
            let root = if size == 0 { empty_root() } else { self.edge.root() };
            for mark in self.marks.iter_mut().filter(|mark| mark.checkpoint.size == size) {
                mark.met = Some(mark.checkpoint.root == root);
            }
        }
    }

    fn newest(&self) -> Option<&Mark> {
        self.marks.iter().find(|mark| mark.source == Source::Newest)
    }

    fn signed(&self) -> Option<u64> {
        self.newest().map(|mark| mark.checkpoint.size)
    }

    /// Takes what a record says about the tree.
    fn event(&mut self, seq: u64, payload: &[u8], announced: &mut Vec<(u64, u64)>) {
        let Ok((_, Record::Event(event))) = Record::parse(payload) else { return };
        match event {
            Event::LogOpened { origin, vkey, previous } if seq == self.head.first => {
                self.opened = origin == self.head.origin;
                self.vkey = vkey.parse().ok();
                self.quoted = previous.map(String::from);
            }
            Event::KeyChanged { old, new } => {
                if let (Ok(old), Ok(new)) = (old.parse(), new.parse()) {
                    self.changes.push((seq, old, new));
                }
            }
            Event::RetentionPruned { below, .. } => announced.push((seq, below)),
            _ => {}
        }
    }

    /// Takes a leaf into the tree, comparing what the tiles have on the way.
    fn push(&mut self, segment: &Listed, seq: u64, leaf: Hash) {
        let signed = self.signed().unwrap_or(0);
        let index = self.edge.size();
        if index < signed {
            match self.stored.leaf(index) {
                Some(stored) if stored == leaf => {}
                Some(_) if self.differs.is_none() => self.differs = Some((segment.clone(), seq)),
                Some(_) => {}
                None => self.tiles_damaged = true,
            }
        }
        self.grow(index, leaf);
    }

    fn grow(&mut self, index: u64, leaf: Hash) {
        let signed = self.signed().unwrap_or(0);
        let (tiles, damaged) = (self.directory.tiles(), &mut self.tiles_damaged);
        self.edge.push(leaf, &mut |tile| {
            // Those of the leaves have been compared hash by hash.
            if tile.level > 0 && index < signed {
                let stored = tiles.read(tile.level, tile.index, TILE_WIDTH).ok().flatten();
                *damaged |= stored.as_ref() != Some(&tile.hashes);
            }
        });
        if self.edge.size() == signed {
            self.tiles_damaged |= tiles.edge(signed).ok().flatten().as_ref() != Some(&self.edge);
        }
        self.meet();
    }

    /// Adds the keys that a trusted key handed over to: it signed a checkpoint over the record that names the new one.
    fn hand_over(&self, trusted: &mut Vec<VerifierKey>) {
        for (seq, old, new) in &self.changes {
            let index = seq.saturating_sub(self.head.first);
            let covered = |mark: &&Mark| mark.met == Some(true) && mark.checkpoint.size > index;
            let signed = |mark: &Mark| Note::parse(&mark.note).is_ok_and(|note| note.verify([old]).is_ok());
            if trusted.contains(old)
                && !trusted.contains(new)
                && self.marks.iter().filter(covered).any(signed)
            {
                trusted.push(new.clone());
            }
        }
    }

    /// Which of the keys signed the newest checkpoint; also under the name of this log, for an instance may be renamed.
    fn signer(&self, keys: &[VerifierKey]) -> Result<String, NoteError> {
        let Some(mark) = self.newest() else { return Err(NoteError::Malformed("there is none")) };
        let named: Vec<VerifierKey> = keys.iter().map(|key| key.named(self.head.name())).collect();
        let note = Note::parse(&mark.note)?;
        note.verify(&named).map(VerifierKey::label)
    }
}

impl Done {
    /// Whether a later log's quote is the checkpoint over all records of this log.
    fn is_quoted(&self, quote: Option<&str>) -> bool {
        let quoted = quote.and_then(|note| Checkpoint::open(note, &[]).ok());
        quoted.is_some_and(|quoted| {
            quoted.origin == self.walk.head.origin && quoted.size == self.records && quoted.root == self.root
        })
    }

    fn report(&self, key: Option<String>) -> LogReport {
        let newest = self.walk.newest().map(|mark| &mark.checkpoint);
        LogReport {
            origin: self.walk.head.origin.clone(),
            first: self.walk.head.first,
            records: self.records,
            pruned: self.walk.pruned,
            signed: newest.map_or(0, |checkpoint| checkpoint.size),
            root: newest.map(Checkpoint::root_hex).unwrap_or_default(),
            key,
        }
    }
}
