//! Tests of the whole journal on a storage that fails when told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::encode::tests::decision;
use super::reader::Reader;
use super::record::{Decision, Ending, Event, Outcome, Record, Stamp};
use super::storage::tests::{Faults, Faulty};
use super::verify::whole;
use super::{Audit, Instance, Settings, State, Unavailable, segment};
use crate::model::{AuditMode, ByteSize, Clock, RecordId, SystemClock};

fn settings(dir: &tempfile::TempDir) -> Settings {
    Settings {
        directory: dir.path().to_owned(),
        segment_size: ByteSize::mib(1),
        queue: 64,
        ..Settings::default()
    }
}

fn open(dir: &tempfile::TempDir) -> (Audit, Arc<Faults>) {
    let (storage, faults) = Faulty::new(dir.path());
    let instance = Instance { name: "g".into(), version: "1" };
    (Audit::open_with(&settings(dir), instance, storage, Arc::new(SystemClock)).unwrap(), faults)
}

fn large() -> Decision<'static> {
    let mut record = decision();
    let members = (0..40).map(|i| (format!("k{i}"), "x".repeat(500).into()));
    record.context.to_mut().extend(members);
    record
}

fn records(dir: &tempfile::TempDir) -> Vec<(Stamp<'static>, Record)> {
    let mut reader = Reader::open(dir.path(), None).unwrap();
    let mut all = Vec::new();
    while let Some(stored) = reader.read_next().unwrap() {
        assert_eq!(stored.seq, all.len() as u64);
        all.push(Record::parse(stored.payload).unwrap());
    }
    all
}

fn has_decision(all: &[(Stamp<'_>, Record)], id: RecordId) -> bool {
    all.iter().any(|(stamp, record)| stamp.id == Some(id) && matches!(record, Record::Decision(_)))
}

fn endings(all: &[(Stamp<'_>, Record)], id: RecordId) -> Vec<Ending> {
    all.iter()
        .filter(|(stamp, _)| stamp.id == Some(id))
        .filter_map(|(_, record)| match record {
            Record::Outcome(outcome) => Some(outcome.ending),
            _ => None,
        })
        .collect()
}

fn gaps(all: &[(Stamp<'_>, Record)], why: &str) -> Vec<u64> {
    all.iter()
        .filter_map(|(_, record)| match record {
            Record::Event(Event::AuditGap { refused, reason, .. }) if reason == why => Some(*refused),
            _ => None,
        })
        .collect()
}

/// Writes decisions until one is refused; gives the ids that were acknowledged.
async fn fill(audit: &Audit, mode: AuditMode) -> (Vec<RecordId>, Unavailable) {
    let mut written = Vec::new();
    for _ in 0..500 {
        let id = RecordId::new();
        let mut draft = match audit.draft(id, mode) {
            Ok(draft) => draft,
            Err(error) => return (written, error),
        };
        let result = draft.decision(&large()).await;
        draft.close(&Outcome::bare(Ending::Complete));
        match result {
            Ok(()) => written.push(id),
            Err(error) => return (written, error),
        }
    }
    panic!("nothing failed");
}

async fn resumed(audit: &Audit) {
    let start = Instant::now();
    while audit.stats().state != State::Ok {
        assert!(start.elapsed() < Duration::from_secs(5), "did not resume");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn check_space(dir: &tempfile::TempDir, audit: &Audit, release: impl FnOnce()) {
    let during = RecordId::new();
    let mut open = audit.draft(during, AuditMode::Required).unwrap();
    open.decision(&decision()).await.unwrap();
    let (written, error) = fill(audit, AuditMode::Required).await;
    assert_eq!(error, Unavailable::Full);
    let start = Instant::now();
    assert_eq!(audit.draft(RecordId::new(), AuditMode::BestEffort).unwrap_err(), Unavailable::Full);
    assert!(start.elapsed() < Duration::from_millis(100));
    // An outcome has its place, also now.
    open.close(&Outcome::bare(Ending::ClientGone));
    release();
    resumed(audit).await;
    let after = RecordId::new();
    let mut draft = audit.draft(after, AuditMode::Required).unwrap();
    draft.decision(&decision()).await.unwrap();
    draft.close(&Outcome::bare(Ending::Complete));
    audit.close().await;
    let all = records(dir);
    assert!(written.iter().all(|id| has_decision(&all, *id) && endings(&all, *id).len() == 1));
    assert_eq!(endings(&all, during), [Ending::ClientGone]);
    assert!(has_decision(&all, after));
    assert_eq!(gaps(&all, "no_space"), [2]);
    assert_eq!(audit.stats().places_taken, 0);
}

#[tokio::test]
async fn no_space_at_roll_refuses_then_resumes_unaided() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, faults) = open(&dir);
    let mut draft = audit.draft(RecordId::new(), AuditMode::Required).unwrap();
    draft.decision(&decision()).await.unwrap();
    draft.close(&Outcome::bare(Ending::Complete));
    faults.no_space.store(true, Ordering::SeqCst);
    check_space(&dir, &audit, || faults.no_space.store(false, Ordering::SeqCst)).await;
}

#[tokio::test]
async fn no_space_within_a_write_leaves_no_half_record() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, faults) = open(&dir);
    faults.room.store(100_003, Ordering::SeqCst);
    check_space(&dir, &audit, || faults.room.store(u64::MAX, Ordering::SeqCst)).await;
}

#[tokio::test]
async fn a_journal_starts_on_a_full_disk_and_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, _) = open(&dir);
    audit.close().await;
    let (storage, faults) = Faulty::new(dir.path());
    faults.no_space.store(true, Ordering::SeqCst);
    let instance = Instance { name: "g".into(), version: "2" };
    let audit = Audit::open_with(&settings(&dir), instance, storage, Arc::new(SystemClock)).unwrap();
    let start = Instant::now();
    while audit.stats().state == State::Ok {
        assert!(start.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    faults.no_space.store(false, Ordering::SeqCst);
    resumed(&audit).await;
    audit.close().await;
    let starts =
        records(&dir).iter().filter(|(_, r)| matches!(r, Record::Event(Event::Start { .. }))).count();
    assert_eq!(starts, 2);
}

#[tokio::test]
async fn an_error_of_a_write_poisons_until_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, faults) = open(&dir);
    let id = RecordId::new();
    let mut draft = audit.draft(id, AuditMode::BestEffort).unwrap();
    draft.decision(&decision()).await.unwrap();
    faults.write_error.store(true, Ordering::SeqCst);
    let (written, error) = fill(&audit, AuditMode::BestEffort).await;
    assert_eq!((written.len(), error), (0, Unavailable::Poisoned));
    faults.write_error.store(false, Ordering::SeqCst);
    draft.close(&Outcome::bare(Ending::Complete));
    assert_eq!(audit.draft(RecordId::new(), AuditMode::Required).unwrap_err(), Unavailable::Poisoned);
    audit.close().await;
    assert_eq!(audit.stats().state, State::Poisoned);
    let (audit, _) = open(&dir);
    audit.close().await;
    let all = records(&dir);
    assert!(has_decision(&all, id));
    assert_eq!(endings(&all, id), [Ending::Unknown]);
}

#[tokio::test]
async fn a_failed_sync_is_never_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, faults) = open(&dir);
    let mut draft = audit.draft(RecordId::new(), AuditMode::Required).unwrap();
    draft.decision(&decision()).await.unwrap();
    draft.close(&Outcome::bare(Ending::Complete));
    faults.sync_error.store(true, Ordering::SeqCst);
    let (written, error) = fill(&audit, AuditMode::Required).await;
    assert_eq!((written.len(), error), (0, Unavailable::Poisoned));
    let syncs = faults.syncs.load(Ordering::SeqCst);
    faults.sync_error.store(false, Ordering::SeqCst);
    assert!(audit.draft(RecordId::new(), AuditMode::BestEffort).is_err());
    audit.close().await;
    assert_eq!(faults.syncs.load(Ordering::SeqCst), syncs);
}

#[tokio::test]
async fn short_writes_are_completed() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, faults) = open(&dir);
    faults.short.store(true, Ordering::SeqCst);
    let id = RecordId::new();
    let mut draft = audit.draft(id, AuditMode::Required).unwrap();
    draft.decision(&decision()).await.unwrap();
    draft.close(&Outcome::bare(Ending::Complete));
    audit.close().await;
    assert_eq!(endings(&records(&dir), id), [Ending::Complete]);
}

#[tokio::test]
async fn a_draft_is_closed_once_whatever_happens() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, _) = open(&dir);
    let ids: [RecordId; 5] = std::array::from_fn(|_| RecordId::new());
    let [dropped, panicked, cancelled, undecided, retried] = ids;

    let mut draft = audit.draft(dropped, AuditMode::Required).unwrap();
    draft.decision(&decision()).await.unwrap();
    drop(draft);

    let mut draft = audit.draft(panicked, AuditMode::Required).unwrap();
    draft.decision(&decision()).await.unwrap();
    let task = tokio::spawn(async move {
        let _draft = draft;
        panic!("on purpose");
    });
    assert!(task.await.unwrap_err().is_panic());

    let mut draft = audit.draft(cancelled, AuditMode::Required).unwrap();
    let task = tokio::spawn(async move {
        draft.decision(&decision()).await.unwrap();
        std::future::pending::<()>().await;
    });
    tokio::task::yield_now().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());

    drop(audit.draft(undecided, AuditMode::Required).unwrap());

    let mut draft = audit.draft(retried, AuditMode::Required).unwrap();
    draft.decision(&decision()).await.unwrap();
    draft.outcome(&Outcome::bare(Ending::UpstreamReset));
    draft.reserve_attempt().unwrap();
    draft.decision(&decision()).await.unwrap();
    draft.outcome(&Outcome::bare(Ending::Complete));
    draft.close(&Outcome::bare(Ending::Timeout));

    audit.close().await;
    let all = records(&dir);
    assert_eq!(endings(&all, dropped), [Ending::Aborted]);
    assert_eq!(endings(&all, panicked), [Ending::Panicked]);
    assert_eq!(endings(&all, cancelled), [Ending::Aborted]);
    assert_eq!(endings(&all, undecided), [Ending::Aborted]);
    assert_eq!(endings(&all, retried), [Ending::UpstreamReset, Ending::Complete]);
    let attempts: Vec<_> =
        all.iter().filter(|(s, _)| s.id == Some(retried)).map(|(s, _)| s.attempt).collect();
    assert_eq!(attempts, [Some(1), Some(1), Some(2), Some(2)]);
    assert_eq!(audit.stats().places_taken, 0);
}

#[tokio::test]
async fn too_many_open_drafts_are_refused_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, _) = open(&dir);
    let mut drafts: Vec<_> =
        (0..32).map(|_| audit.draft(RecordId::new(), AuditMode::Required).unwrap()).collect();
    assert_eq!(audit.draft(RecordId::new(), AuditMode::Required).unwrap_err(), Unavailable::Busy);
    assert!(audit.draft(RecordId::new(), AuditMode::Off).is_ok());
    assert_eq!(drafts[0].reserve_attempt(), Err(Unavailable::Busy));
    drafts[0].decision(&decision()).await.unwrap();
    drafts.clear();
    tokio::time::sleep(Duration::from_millis(2300)).await;
    assert!(audit.draft(RecordId::new(), AuditMode::Required).is_ok());
    audit.close().await;
    assert_eq!(gaps(&records(&dir), "queue_full"), [2]);
}

#[derive(Debug, Default)]
struct Stepped(std::sync::atomic::AtomicI64);

impl crate::model::Clock for Stepped {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now() + jiff::SignedDuration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test]
async fn a_step_of_the_clock_is_an_event_and_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Stepped::default());
    let (storage, _) = Faulty::new(dir.path());
    let instance = Instance { name: "g".into(), version: "1" };
    let audit = Audit::open_with(&settings(&dir), instance, storage, clock.clone()).unwrap();
    clock.0.store(-3600, Ordering::SeqCst);
    let id = RecordId::new();
    let mut draft = audit.draft(id, AuditMode::Required).unwrap();
    draft.decision(&decision()).await.unwrap();
    draft.close(&Outcome::bare(Ending::Complete));
    tokio::time::sleep(Duration::from_millis(2300)).await;
    audit.close().await;
    let all = records(&dir);
    assert_eq!(endings(&all, id), [Ending::Complete]);
    let steps = all.iter().filter_map(|(_, record)| match record {
        Record::Event(Event::ClockStep { milliseconds }) => Some(milliseconds / 1000),
        _ => None,
    });
    assert_eq!(steps.map(|s| (s.abs() - 3600).abs() <= 1).collect::<Vec<_>>(), [true]);
}

/// A clock in another year.
#[derive(Debug)]
struct Shifted(jiff::SignedDuration);

impl Clock for Shifted {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now() + self.0
    }
}

async fn blocking<T: Send + 'static>(audit: &Audit, with: impl FnOnce(Audit) -> T + Send + 'static) -> T {
    let audit = audit.clone();
    tokio::task::spawn_blocking(move || with(audit)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_on_a_disk_that_fails_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let opened = |days: i64| {
        let (storage, faults) = Faulty::new(dir.path());
        let clock = Arc::new(Shifted(jiff::SignedDuration::from_hours(24 * days)));
        let instance = Instance { name: "g".into(), version: "1" };
        (Audit::open_with(&settings(&dir), instance, storage, clock).unwrap(), faults)
    };
    let (audit, _) = opened(-500);
    for _ in 0..200 {
        let mut draft = audit.draft(RecordId::new(), AuditMode::BestEffort).unwrap();
        draft.decision(&large()).await.unwrap();
        draft.close(&Outcome::bare(Ending::Complete));
    }
    audit.close().await;
    let verified = || {
        let report = whole::check(dir.path(), None, None, &AtomicU64::new(0)).unwrap();
        assert!(report.is_good(), "{report:?}");
        report.pruned
    };
    let count = || segment::list(dir.path()).unwrap().len();
    let (audit, faults) = opened(0);
    let mut draft = audit.draft(RecordId::new(), AuditMode::Required).unwrap();
    draft.decision(&decision()).await.unwrap();
    draft.close(&Outcome::bare(Ending::Complete));
    let before = count();
    assert!(before > 4, "{before}");
    // Nothing can be removed: it is announced, and all is there.
    faults.kept_after.store(0, Ordering::SeqCst);
    assert!(blocking(&audit, |audit| audit.prune()).await.is_err());
    assert_eq!((count(), verified()), (before, 0));
    // Two can.
    faults.kept_after.store(2, Ordering::SeqCst);
    assert!(blocking(&audit, |audit| audit.prune()).await.is_err());
    assert_eq!(count(), before - 2);
    assert!(verified() > 0);
    // No space for the record of it: nothing goes.
    faults.kept_after.store(u64::MAX, Ordering::SeqCst);
    faults.no_space.store(true, Ordering::SeqCst);
    faults.room.store(0, Ordering::SeqCst);
    assert!(blocking(&audit, |audit| audit.prune()).await.is_err());
    assert_eq!(count(), before - 2);
    faults.no_space.store(false, Ordering::SeqCst);
    faults.room.store(u64::MAX, Ordering::SeqCst);
    resumed(&audit).await;
    assert!(blocking(&audit, |audit| audit.prune()).await.unwrap().segments > 0);
    assert!(verified() > 0);
    audit.close().await;
    let (audit, _) = opened(0);
    audit.close().await;
    verified();
}
