//! The tree over the journal: whatever somebody changes in the files is noticed and named, at a start and by `verify`.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tidegate::audit::frame::{self, Decoded, Kind};
use tidegate::audit::reader::Reader;
use tidegate::audit::storage::Files;
use tidegate::audit::tree::checkpoint::Checkpoint;
use tidegate::audit::tree::note::{Signer, VerifierKey};
use tidegate::audit::tree::proof_file::ProofFile;
use tidegate::audit::tree::{TreeError, key};
use tidegate::audit::verify::prove::{Wanted, prove};
use tidegate::audit::verify::range::{self, Bound};
use tidegate::audit::verify::{Code, Problem, Report, VerifyError, export, rebuild, whole};
use tidegate::audit::{Audit, AuditError, Instance, Settings};
use tidegate::model::{AuditMode, Clock, RecordId};

use super::journal::{copy, cross, open, settings};

const FIRST: &str = "seg-00000000000000000000.log";
const LOG: &str = "tree/log-00000000000000000000";

/// A closed journal over several segments and tiles, and what its files were.
struct Journal {
    dir: tempfile::TempDir,
    ids: Vec<RecordId>,
}

impl Journal {
    async fn new(crossings: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let audit = open(dir.path());
        let mut ids = Vec::new();
        for _ in 0..crossings {
            ids.push(cross(&audit, AuditMode::BestEffort).await);
        }
        audit.close().await;
        Self { dir, ids }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn key(&self) -> VerifierKey {
        fs::read_to_string(self.file("tree/vkey")).unwrap().parse().unwrap()
    }

    fn check(&self) -> Report {
        whole::check(self.path(), Some(&self.key()), None, &AtomicU64::new(0)).unwrap()
    }

    /// The first problem that `verify` names.
    fn problem(&self) -> Problem {
        let report = self.check();
        report.problems.first().cloned().unwrap_or_else(|| panic!("nothing was noticed: {report:?}"))
    }

    fn start(&self) -> Result<Audit, AuditError> {
        start(self.path(), |_| ())
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> =
            fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        found.sort();
        found
    }
}

fn start(dir: &Path, change: impl FnOnce(&mut Settings)) -> Result<Audit, AuditError> {
    let mut settings = settings(dir);
    change(&mut settings);
    Audit::open(&settings, Instance { name: "border-1".into(), version: "0" })
}

fn refused(result: Result<Audit, AuditError>) -> (TreeError, String) {
    let error = result.unwrap_err();
    let text = error.to_string();
    let AuditError::Tree(error) = error else { panic!("{text}") };
    (error, text)
}

/// The frames of a segment: offset, size, number, kind.
fn frames(bytes: &[u8]) -> Vec<(usize, usize, u64, Kind)> {
    let (mut at, mut found) = (0, Vec::new());
    while let Ok(Decoded::Frame(frame, size)) = frame::decode(&bytes[at..]) {
        found.push((at, size, frame.seq, frame.kind));
        at += size;
    }
    found
}

/// Rewrites the payload of a record and its checksum, as somebody would who knows the format.
fn forge(path: &Path, number: u64) -> (u64, usize) {
    let bytes = fs::read(path).unwrap();
    let (at, size, seq, kind) =
        frames(&bytes).into_iter().find(|(_, _, seq, kind)| *seq >= number && *kind == Kind::Allow).unwrap();
    let Ok(Decoded::Frame(frame, _)) = frame::decode(&bytes[at..]) else { panic!() };
    let payload = String::from_utf8(frame.payload.to_vec()).unwrap().replace("alice", "mally");
    let mut forged = bytes[..at].to_vec();
    frame::encode(&mut forged, seq, kind, frame.time, payload.as_bytes());
    forged.extend(&bytes[at + size..]);
    assert_eq!(forged.len(), bytes.len());
    fs::write(path, forged).unwrap();
    (seq, at)
}

#[tokio::test]
async fn an_untouched_journal_verifies_and_goes_on() {
    let journal = Journal::new(700).await;
    assert!(journal.segments().len() > 1);
    let report = journal.check();
    assert!(report.is_good() && report.trusted, "{report:?}");
    // The record that opens the log, start, 700 decisions and outcomes, stop.
    let log = &report.logs[0];
    assert_eq!((report.records, log.records, log.signed, report.unsigned), (1403, 1403, 1403, 0));
    assert_eq!(log.key.as_deref(), Some(journal.key().label().as_str()));
    let alone = whole::check(journal.path(), None, None, &AtomicU64::new(0)).unwrap();
    assert!(alone.is_good() && !alone.trusted);
    journal.start().unwrap().close().await;
    let longer = journal.check();
    assert!(longer.is_good() && longer.records == 1405, "{longer:?}");
}

#[tokio::test]
async fn a_flipped_bit_in_a_segment_is_named_wherever_it_is() {
    let journal = Journal::new(700).await;
    assert!(journal.segments().len() > 1);
    for path in journal.segments() {
        let whole = fs::read(&path).unwrap();
        let frames = frames(&whole);
        let mut changed = whole.clone();
        // Close by in the first frames, the head among them, then all over the segment.
        let early = 0..frames[3].0 + frames[3].1;
        for place in early.step_by(41).chain((0..whole.len()).step_by(whole.len() / 29)) {
            changed[place] ^= 1 << (place % 8);
            fs::write(&path, &changed).unwrap();
            let problem = journal.problem();
            let (at, _, seq, _) = *frames.iter().rev().find(|(at, ..)| *at <= place).unwrap();
            assert_eq!(problem.code, Code::RecordDamaged, "{problem:?}");
            assert_eq!((problem.file.as_ref(), problem.offset), (Some(&path), Some(at as u64)), "{place}");
            assert_eq!(problem.seq, Some(seq), "{problem:?}");
            changed[place] = whole[place];
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(journal.check().is_good());
}

#[tokio::test]
async fn a_flipped_bit_in_a_checkpoint_or_tile_is_named() {
    let journal = Journal::new(400).await;
    let path = journal.file(LOG).join("checkpoint");
    let whole = fs::read(&path).unwrap();
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        fs::write(&path, &changed).unwrap();
        if String::from_utf8(changed).is_err() {
            continue;
        }
        let problem = journal.problem();
        let expected = [
            Code::CheckpointChanged,
            Code::CheckpointMissing,
            Code::WrongKey,
            Code::JournalCut,
            Code::RootDiffers,
        ];
        assert!(expected.contains(&problem.code), "{place}: {problem:?}");
        assert_eq!(problem.file.as_ref(), Some(&path));
        assert!(journal.start().is_err(), "{place}");
    }
    fs::write(&path, &whole).unwrap();
    for tile in ["tile/0/000", "tile/0/002", "tile/0/003.p/35", "tile/1/000.p/3"] {
        let path = journal.file(LOG).join(tile);
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        changed[40] ^= 4;
        fs::write(&path, &changed).unwrap();
        let problem = journal.problem();
        assert_eq!(problem.code, Code::TilesDamaged, "{tile}: {problem:?}");
        fs::write(&path, &whole).unwrap();
    }
    assert!(journal.check().is_good());
}

#[tokio::test]
async fn a_forged_record_with_a_right_checksum_is_named_and_refused() {
    let journal = Journal::new(400).await;
    let segments = journal.segments();
    let (seq, at) = forge(&segments[0], 100);
    let problem = journal.problem();
    assert_eq!(problem.code, Code::RecordChanged, "{problem:?}");
    let named = (problem.seq, problem.index, problem.offset, problem.file.as_ref(), problem.id);
    assert_eq!(
        named,
        (
            Some(seq),
            Some(seq),
            Some(at as u64),
            Some(&segments[0]),
            Some(journal.ids[usize::try_from(seq - 2).unwrap() / 2])
        )
    );

    // In the last segment a start sees it too.
    let journal = Journal::new(400).await;
    let last = journal.segments().pop().unwrap();
    let (seq, _) = forge(&last, 0);
    let (error, text) = refused(journal.start());
    assert_eq!(error.code(), "journal_changed");
    assert!(text.contains(&format!("record {seq} ")) && text.contains(last.to_str().unwrap()), "{text}");

    // Whoever makes the tiles fit as well has no key for the root.
    fs::remove_dir_all(journal.file(LOG).join("tile")).unwrap();
    let problem = journal.problem();
    assert_eq!(problem.code, Code::RootDiffers, "{problem:?}");
    assert!(matches!(rebuild::rebuild(journal.path(), None), Err(VerifyError::Tree(_))));
    let (error, _) = refused(journal.start());
    assert!(matches!(error, TreeError::Root { size: 803, .. }), "{error:?}");
}

#[tokio::test]
async fn a_cut_tail_is_a_rollback_that_names_both_sizes() {
    let journal = Journal::new(400).await;
    let last = journal.segments().pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    let frames = frames(&bytes);
    let (at, ..) = frames[frames.len() - 10];
    let (.., seq, _) = frames[frames.len() - 10];
    fs::write(&last, &bytes[..at]).unwrap();
    let problem = journal.problem();
    assert_eq!(problem.code, Code::JournalCut);
    assert!(
        problem.what.contains(&format!("{seq} records")) && problem.what.contains("803"),
        "{}",
        problem.what
    );
    let (error, text) = refused(journal.start());
    assert_eq!(error.code(), "journal_rolled_back");
    assert!(
        text.contains(&format!("holds {seq} records")) && text.contains("803") && text.contains("backup"),
        "{text}"
    );

    // Whole segments, and with them all of the log, are missed too.
    for path in journal.segments() {
        fs::remove_file(path).unwrap();
    }
    assert_eq!(refused(journal.start()).0.code(), "journal_rolled_back");
}

#[tokio::test]
async fn swapped_and_missing_segments_are_named() {
    let journal = Journal::new(1500).await;
    let segments = journal.segments();
    assert!(segments.len() >= 3);
    let aside = journal.file("aside");
    fs::rename(&segments[0], &aside).unwrap();
    fs::rename(&segments[1], &segments[0]).unwrap();
    fs::rename(&aside, &segments[1]).unwrap();
    let problem = journal.problem();
    assert_eq!(
        (problem.code, problem.file.as_ref(), problem.offset),
        (Code::RecordDamaged, Some(&segments[0]), Some(0))
    );
    assert!(journal.start().is_err());
    fs::rename(&segments[1], &aside).unwrap();
    fs::rename(&segments[0], &segments[1]).unwrap();
    fs::rename(&aside, &segments[0]).unwrap();
    assert!(journal.check().is_good());

    fs::remove_file(&segments[1]).unwrap();
    let problem = journal.problem();
    assert_eq!(
        (problem.code, problem.file.as_ref()),
        (Code::RecordsMissing, Some(&segments[2])),
        "{problem:?}"
    );
    fs::remove_file(&segments[0]).unwrap();
    assert_eq!(journal.problem().code, Code::RecordsMissing);
}

#[tokio::test]
async fn a_directory_that_was_rolled_back_whole_needs_a_checkpoint_from_outside() {
    let journal = Journal::new(50).await;
    let old = tempfile::tempdir().unwrap();
    copy(journal.path(), old.path());
    let audit = journal.start().unwrap();
    cross(&audit, AuditMode::Required).await;
    audit.close().await;
    let note = fs::read_to_string(journal.file(LOG).join("checkpoint")).unwrap();
    let seen = || Some((note.as_str(), Checkpoint::open(&note, &[journal.key()]).unwrap()));
    let check = |dir: &Path| whole::check(dir, Some(&journal.key()), seen(), &AtomicU64::new(0)).unwrap();
    assert!(check(journal.path()).is_good());
    // All that is inside fits together; the checkpoint that somebody kept does not.
    assert!(whole::check(old.path(), Some(&journal.key()), None, &AtomicU64::new(0)).unwrap().is_good());
    let rolled = check(old.path());
    assert_eq!(rolled.problems[0].code, Code::JournalCut);
    assert!(rolled.problems[0].what.contains("rolled back"), "{rolled:?}");
    // Nor if it is written on from there: as many records, but others.
    let audit = start(old.path(), |_| ()).unwrap();
    for _ in 0..5 {
        cross(&audit, AuditMode::Required).await;
    }
    audit.close().await;
    assert_eq!(check(old.path()).problems[0].code, Code::RootDiffers);

    // Segments from yesterday under today's checkpoint do not start.
    for path in journal.segments() {
        let name = path.file_name().unwrap();
        fs::remove_file(&path).unwrap();
        fs::copy(old.path().join(name), &path).unwrap();
    }
    assert!(start(journal.path(), |_| ()).is_err());
}

#[tokio::test]
async fn a_checkpoint_of_another_key_or_log_is_refused() {
    let journal = Journal::new(20).await;
    let other = Journal::new(20).await;
    let path = journal.file(LOG).join("checkpoint");
    let note = fs::read_to_string(&path).unwrap();
    let checkpoint = Checkpoint::open(&note, &[]).unwrap();

    let wrong = whole::check(journal.path(), Some(&other.key()), None, &AtomicU64::new(0)).unwrap();
    assert_eq!(wrong.problems[0].code, Code::WrongKey);
    assert!(wrong.problems[0].what.contains(&other.key().label()), "{wrong:?}");

    // The same text, signed by somebody else.
    let pair = key::read(&other.file("keys/checkpoint.pem")).unwrap();
    let signer = Signer::new("tidegate.internal/border-1", Arc::new(pair));
    fs::write(&path, checkpoint.sign([&signer])).unwrap();
    assert_eq!(journal.problem().code, Code::WrongKey);
    assert_eq!(refused(journal.start()).0.code(), "checkpoint_unusable");
    // Under the right name and id, but another signature.
    let forged = note.replace(
        note.rsplit_once(' ').unwrap().1,
        fs::read_to_string(&path).unwrap().rsplit_once(' ').unwrap().1,
    );
    fs::write(&path, forged).unwrap();
    assert!(!journal.check().is_good());
    // The right key, but another log.
    let pair = key::read(&journal.file("keys/checkpoint.pem")).unwrap();
    let signer = Signer::new("tidegate.internal/border-1", Arc::new(pair));
    let elsewhere = Checkpoint { origin: "tidegate.internal/border-1/19700101T000000Z".into(), ..checkpoint };
    fs::write(&path, elsewhere.sign([&signer])).unwrap();
    assert_eq!(journal.problem().code, Code::CheckpointChanged);
    assert_eq!(refused(journal.start()).0.code(), "checkpoint_unusable");

    fs::remove_file(&path).unwrap();
    assert_eq!(journal.problem().code, Code::CheckpointMissing);
    assert_eq!(refused(journal.start()).0.code(), "checkpoint_missing");
    fs::write(&path, &note).unwrap();
    fs::rename(journal.file("keys/checkpoint.pem"), journal.file("away")).unwrap();
    assert_eq!(refused(journal.start()).0.code(), "signing_key_unusable");
    fs::rename(journal.file("away"), journal.file("keys/checkpoint.pem")).unwrap();
    assert!(journal.start().is_ok());
}

#[tokio::test]
async fn a_change_of_the_key_is_signed_by_both_and_followed_from_either() {
    let journal = Journal::new(20).await;
    let old = journal.key();
    let (first, second) = (journal.file("keys/checkpoint.pem"), journal.file("keys/second.pem"));
    key::make(&second).unwrap();
    let changed = |previous: Option<PathBuf>| {
        start(journal.path(), |settings| {
            settings.signing_key = Some(second.clone());
            settings.previous_signing_key = previous;
        })
    };
    let (error, text) = refused(changed(None));
    assert_eq!(error.code(), "checkpoint_unusable");
    assert!(text.contains("previous_signing_key"), "{text}");
    for _ in 0..2 {
        // The second time it is the old configuration: nothing changes again.
        let audit = changed(Some(first.clone())).unwrap();
        cross(&audit, AuditMode::Required).await;
        audit.close().await;
    }
    let audit = changed(None).unwrap();
    cross(&audit, AuditMode::Required).await;
    audit.close().await;
    let new = VerifierKey::new(
        old.name(),
        *aws_lc_rs::signature::KeyPair::public_key(&key::read(&second).unwrap())
            .as_ref()
            .first_chunk()
            .unwrap(),
    );
    for known in [&old, &new] {
        let report = whole::check(journal.path(), Some(known), None, &AtomicU64::new(0)).unwrap();
        assert!(report.is_good(), "{known}: {report:?}");
        assert_eq!(report.logs[0].key.as_deref(), Some(new.label().as_str()));
    }
    assert_eq!(fs::read_dir(journal.file(LOG).join("changeover")).unwrap().count(), 1);
    let mut reader = Reader::open(journal.path(), None).unwrap();
    let mut changes = 0;
    while let Some(stored) = reader.read_next().unwrap() {
        changes += usize::from(String::from_utf8_lossy(stored.payload).contains("key.changed"));
    }
    assert_eq!(changes, 1);
    // Without the checkpoint that both signed, nobody gets from the old key to the new one.
    fs::remove_dir_all(journal.file(LOG).join("changeover")).unwrap();
    let report = whole::check(journal.path(), Some(&old), None, &AtomicU64::new(0)).unwrap();
    assert_eq!(report.problems[0].code, Code::WrongKey);
}

#[derive(Debug)]
struct Shifted(AtomicI64);

impl Clock for Shifted {
    fn now(&self) -> jiff::Timestamp {
        let start: jiff::Timestamp = "2026-11-30T23:00:00Z".parse().unwrap();
        start + jiff::SignedDuration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

fn at(dir: &Path, name: &'static str, seconds: i64) -> Audit {
    let clock = Arc::new(Shifted(AtomicI64::new(seconds)));
    let storage = Arc::new(Files::new(dir.to_owned()));
    Audit::open_with(&settings(dir), Instance { name: name.into(), version: "0" }, storage, clock).unwrap()
}

#[tokio::test]
async fn a_log_ends_with_its_month_or_name_and_the_next_begins_with_its_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    for (name, hours) in [("border-1", 0), ("border-1", 1), ("border-1", 2), ("border-2", 3)] {
        let audit = at(dir.path(), name, hours * 3600);
        for _ in 0..30 {
            cross(&audit, AuditMode::Required).await;
        }
        audit.close().await;
    }
    let key: VerifierKey = fs::read_to_string(dir.path().join("tree/vkey")).unwrap().parse().unwrap();
    let check = || whole::check(dir.path(), Some(&key), None, &AtomicU64::new(0)).unwrap();
    let report = check();
    assert!(report.is_good(), "{report:?}");
    let origins: Vec<&str> = report.logs.iter().map(|log| log.origin.as_str()).collect();
    assert_eq!(
        origins,
        [
            "tidegate.internal/border-1/20261130T230000Z",
            "tidegate.internal/border-1/20261201T000000Z",
            "tidegate.internal/border-2/20261201T020000Z",
        ]
    );
    assert!(report.logs.iter().all(|log| log.records == log.signed), "{report:?}");

    // An earlier log cannot be signed anew: the next one says what its end was.
    let first = dir.path().join(LOG).join("checkpoint");
    let note = fs::read_to_string(&first).unwrap();
    let shorter = Checkpoint {
        size: 0,
        root: tidegate::audit::tree::empty_root(),
        ..Checkpoint::open(&note, &[]).unwrap()
    };
    let pair = Arc::new(key::read(&dir.path().join("keys/checkpoint.pem")).unwrap());
    fs::write(&first, shorter.sign([&Signer::new("tidegate.internal/border-1", pair)])).unwrap();
    let cut: Vec<PathBuf> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let segment = cut.iter().find(|path| path.ends_with(FIRST)).unwrap();
    forge(segment, 10);
    let problems = check().problems;
    assert!(problems.iter().any(|problem| problem.code == Code::ChainBroken), "{problems:?}");
}

#[tokio::test]
async fn a_proof_stands_alone() {
    let journal = Journal::new(300).await;
    for wanted in [Wanted::Crossing(journal.ids[140]), Wanted::Outcome(journal.ids[140]), Wanted::Seq(0)] {
        let text = prove(journal.path(), wanted).unwrap().text();
        let proof = ProofFile::parse(&text).unwrap();
        let checkpoint = proof.verify(&journal.key()).unwrap();
        assert_eq!(checkpoint.size, 603);
        let record = String::from_utf8(proof.record.clone()).unwrap();
        match wanted {
            Wanted::Crossing(id) => {
                assert!(record.contains("\"decision\"") && record.contains(&id.to_string()))
            }
            Wanted::Outcome(id) => {
                assert!(record.contains("\"outcome\"") && record.contains(&id.to_string()))
            }
            Wanted::Seq(_) => assert!(record.contains("log.opened")),
        }
        let forged = ProofFile { record: record.replace("border-1", "border-2").into_bytes(), ..proof };
        assert!(forged.verify(&journal.key()).is_err());
    }
    let missing = prove(journal.path(), Wanted::Crossing(RecordId::new()));
    assert!(matches!(missing, Err(VerifyError::NoRecord(_))));
}

#[tokio::test]
async fn a_range_is_checked_without_the_rest() {
    let journal = Journal::new(1500).await;
    let key = journal.key();
    let check = |from, to| range::check(journal.path(), (from, to), Some(&key), &AtomicU64::new(0)).unwrap();
    let some = check(Some(Bound::Record(100)), Some(Bound::Record(1300)));
    assert!(some.is_good() && some.records == 1200, "{some:?}");
    assert!(some.segments < journal.segments().len());
    let all = check(None, None);
    assert!(all.is_good() && all.records == 3003, "{all:?}");
    let now = check(Some(Bound::Time(jiff::Timestamp::now())), None);
    assert_eq!(now.records, 0);
    let hour_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1);
    assert_eq!(check(Some(Bound::Time(hour_ago)), None).records, 3003);

    let (seq, _) = forge(&journal.segments()[0], 200);
    let inside = check(Some(Bound::Record(100)), Some(Bound::Record(1300)));
    assert_eq!((inside.problems[0].code, inside.problems[0].seq), (Code::RecordChanged, Some(seq)));
    assert!(check(Some(Bound::Record(seq + 1)), Some(Bound::Record(1300))).is_good());
    let stranger = Journal::new(1).await;
    let wrong = range::check(
        journal.path(),
        (None, Some(Bound::Record(9))),
        Some(&stranger.key()),
        &AtomicU64::new(0),
    );
    assert_eq!(wrong.unwrap().problems[0].code, Code::WrongKey);
}

#[tokio::test]
async fn tiles_are_made_again_by_a_start_or_by_hand() {
    let journal = Journal::new(400).await;
    let tiles = journal.file(LOG).join("tile");
    let read = |name: &str| fs::read(tiles.join(name)).unwrap();
    let before = [read("0/001"), read("1/000.p/3")];
    fs::remove_dir_all(&tiles).unwrap();
    assert_eq!(journal.problem().code, Code::TilesDamaged);
    rebuild::rebuild(journal.path(), Some(&journal.key())).unwrap();
    assert!(journal.check().is_good());
    assert_eq!([read("0/001"), read("1/000.p/3")], before);
    fs::remove_dir_all(&tiles).unwrap();
    let audit = journal.start().unwrap();
    assert!(matches!(rebuild::rebuild(journal.path(), None), Err(VerifyError::InUse(_))));
    audit.close().await;
    assert!(journal.check().is_good());
    assert_eq!([read("0/001"), read("1/000.p/3")], before);
}

/// Tiles are not synced: what the machine takes with it is noticed when it has been started anew, wherever in the tree it was.
#[tokio::test]
async fn tiles_that_a_machine_took_with_it_are_made_again_also_in_the_log_before() {
    let dir = tempfile::tempdir().unwrap();
    for (hours, crossings) in [(0, 400), (2, 900)] {
        let audit = at(dir.path(), "border-1", hours * 3600);
        for _ in 0..crossings {
            cross(&audit, AuditMode::BestEffort).await;
        }
        audit.close().await;
    }
    let check = || whole::check(dir.path(), None, None, &AtomicU64::new(0)).unwrap();
    let mut logs: Vec<PathBuf> =
        fs::read_dir(dir.path().join("tree")).unwrap().map(|entry| entry.unwrap().path()).collect();
    logs.retain(|path| path.is_dir());
    logs.sort();
    let first_tiles: Vec<PathBuf> = logs.iter().map(|log| log.join("tile/0/000")).collect();
    assert!(check().is_good() && logs.len() == 2);
    let before: Vec<Vec<u8>> = first_tiles.iter().map(|tile| fs::read(tile).unwrap()).collect();
    let restart = || {
        fs::write(dir.path().join("tree/boot"), "name another\n").unwrap();
        at(dir.path(), "border-1", 3 * 3600)
    };

    fs::remove_file(&first_tiles[0]).unwrap();
    fs::write(&first_tiles[1], vec![0; before[1].len()]).unwrap();
    assert_eq!(check().problems.len(), 2);
    restart().close().await;
    assert!(check().is_good(), "{:?}", check().problems);
    assert_eq!(first_tiles.iter().map(|tile| fs::read(tile).unwrap()).collect::<Vec<_>>(), before);

    // Where a record was changed as well, nothing is made of it; the gateway starts, and `verify` says what is wrong.
    fs::remove_file(&first_tiles[0]).unwrap();
    forge(&dir.path().join(FIRST), 10);
    restart().close().await;
    assert!(!first_tiles[0].exists());
    assert!(!check().is_good());
}

/// What a verifier of C2SP tlog-tiles reads: whole bundles of records under whole tiles.
#[tokio::test]
async fn an_exported_log_is_complete() {
    let journal = Journal::new(300).await;
    let out = tempfile::tempdir().unwrap();
    assert_eq!(export::export(journal.path(), out.path()).unwrap(), 603);
    let log = out.path().join("log-00000000000000000000");
    let mut bundles = Vec::new();
    for bundle in ["tile/entries/000", "tile/entries/001", "tile/entries/002.p/91"] {
        fs::File::open(log.join(bundle)).unwrap().read_to_end(&mut bundles).unwrap();
    }
    let mut reader = Reader::open(journal.path(), None).unwrap();
    let mut rest = bundles.as_slice();
    while let Some(stored) = reader.read_next().unwrap() {
        let (length, behind) = rest.split_first_chunk::<2>().unwrap();
        let (record, behind) = behind.split_at(u16::from_be_bytes(*length).into());
        assert_eq!(record, stored.payload);
        rest = behind;
    }
    assert!(rest.is_empty());
    for file in ["checkpoint", "tile/0/000", "tile/0/001", "tile/0/002.p/91", "tile/1/000.p/2"] {
        assert_eq!(
            fs::read(log.join(file)).unwrap(),
            fs::read(journal.file(LOG).join(file)).unwrap(),
            "{file}"
        );
    }
}

/// Checkpoints come while the journal is written, each over the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_journal_signs_within_a_second_and_verifies_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    let mut sizes = Vec::new();
    let began = std::time::Instant::now();
    while sizes.len() < 3 {
        assert!(began.elapsed().as_secs() < 20, "no checkpoints: {sizes:?}");
        cross(&audit, AuditMode::Required).await;
        let size = audit.checkpoint().map_or(0, |checkpoint| checkpoint.size);
        if size > 0 && sizes.last() != Some(&size) {
            sizes.push(size);
            let key: VerifierKey = fs::read_to_string(dir.path().join("tree/vkey")).unwrap().parse().unwrap();
            let report = whole::check(dir.path(), Some(&key), None, &AtomicU64::new(0)).unwrap();
            assert!(report.is_good() && report.logs[0].signed >= size, "{report:?}");
        }
    }
    audit.close().await;
    assert!(sizes.is_sorted());
}

pub(crate) fn tidegate(args: &[&str]) -> (i32, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate")).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_commands_answer_with_their_exit_codes() {
    let journal = Journal::new(30).await;
    let (dir, vkey, proof) = (journal.path().to_str().unwrap(), journal.file("tree/vkey"), journal.file("p"));
    let (vkey, proof) = (vkey.to_str().unwrap(), proof.to_str().unwrap());
    let (code, out, _) = tidegate(&["audit", "verify", "--journal", dir, "--vkey", vkey]);
    assert!(code == 0 && out.contains("verified  every record") && out.contains("63 records"), "{out}");
    let (code, out, _) = tidegate(&["audit", "verify", "--journal", dir]);
    assert!(code == 0 && out.contains("self-consistent only"), "{out}");
    let id = journal.ids[3].to_string();
    assert_eq!(tidegate(&["audit", "proof", &id, "--journal", dir, "-o", proof]).0, 0);
    let (code, out, _) = tidegate(&["audit", "verify", "--proof", proof, "--vkey", vkey]);
    assert!(code == 0 && out.contains(&id), "{out}");
    let nobody = RecordId::new().to_string();
    assert_eq!(tidegate(&["audit", "proof", &nobody, "--journal", dir, "-o", proof]).0, 1);

    let (seq, offset) = forge(&journal.file(FIRST), 10);
    let (code, out, _) = tidegate(&["audit", "verify", "--journal", dir, "--vkey", vkey]);
    assert_eq!(code, 1);
    for named in
        [format!("record {seq} "), FIRST.to_owned(), format!("offset {offset}"), "NOT VERIFIED".to_owned()]
    {
        assert!(out.contains(&named), "{named}: {out}");
    }
    let (code, out, _) = tidegate(&["audit", "verify", "--journal", dir, "--output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &report["good"], &report["problems"][0]["code"]),
        (1, &false.into(), &"record_changed".into())
    );
    assert_eq!(report["problems"][0]["seq"], seq);

    assert_eq!(tidegate(&["audit", "verify"]).0, 2);
    assert_eq!(tidegate(&["audit", "verify", "--proof", proof]).0, 2);
    let (code, _, error) = tidegate(&["audit", "verify", "--journal", "/nowhere"]);
    assert!(code == 3 && error.contains("/nowhere"), "{error}");
    assert_eq!(tidegate(&["audit", "verify", "--journal", dir, "--vkey", "Cargo.toml"]).0, 3);
}
