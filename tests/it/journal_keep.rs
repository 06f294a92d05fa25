//! What is kept and what is not: canonical records that fit their schema, personal data that can be erased, events that are no
//! requests, retention that leaves a journal that starts and verifies wherever it is interrupted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use tidegate::audit::canonical::canonical;
use tidegate::audit::holds::{self, Hold};
use tidegate::audit::notes;
use tidegate::audit::reader::Reader;
use tidegate::audit::record::schema::json_schema;
use tidegate::audit::record::{Decision, Ending, Event, Outcome, Record, Refusal, Verdict};
use tidegate::audit::storage::Files;
use tidegate::audit::subjects::{self, Erased, Opener, Restored};
use tidegate::audit::tree::note::VerifierKey;
use tidegate::audit::verify::prove::{Wanted, prove};
use tidegate::audit::verify::range::{self, Bound};
use tidegate::audit::verify::{Code, Report, VerifyError, export, rebuild, whole};
use tidegate::audit::{Audit, Instance, PersonalData, Settings};
use tidegate::model::{AuditMode, Clock, RecordId};

use super::journal::{copy, cross, decision, settings};
use super::journal_tree::tidegate;

pub(crate) const DAY: i64 = 86_400;

/// A clock that is moved by hand.
#[derive(Debug)]
pub(crate) struct Moved(pub(crate) AtomicI64);

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        Timestamp::now() + jiff::SignedDuration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

pub(crate) fn start(dir: &Path, clock: &Arc<Moved>, change: impl FnOnce(&mut Settings)) -> Audit {
    let mut settings = settings(dir);
    change(&mut settings);
    let storage = Arc::new(Files::new(dir.to_owned()));
    let instance = Instance { name: "border-1".into(), version: "0" };
    Audit::open_with(&settings, instance, storage, clock.clone()).unwrap()
}

pub(crate) fn payloads(dir: &Path) -> Vec<(u64, Vec<u8>)> {
    let mut reader = Reader::open(dir, None).unwrap();
    let mut all = Vec::new();
    while let Some(stored) = reader.read_next().unwrap() {
        all.push((stored.seq, stored.payload.to_vec()));
    }
    all
}

fn events(dir: &Path) -> Vec<Event<'static>> {
    let parsed = payloads(dir).into_iter().map(|(_, payload)| Record::parse(&payload).unwrap().1);
    parsed.filter_map(|record| if let Record::Event(event) = record { Some(event) } else { None }).collect()
}

fn check(dir: &Path) -> Report {
    let key: VerifierKey = fs::read_to_string(dir.join("tree/vkey")).unwrap().parse().unwrap();
    whole::check(dir, Some(&key), None, &AtomicU64::new(0)).unwrap()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    found.sort();
    found
}

/// Segments, compressed ones too.
pub(crate) fn count(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("seg-") && (name.ends_with(".log") || name.ends_with(".gz"))).count()
}

async fn eventually(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    audit: &Audit,
    with: impl FnOnce(Audit) -> T + Send + 'static,
) -> T {
    let audit = audit.clone();
    tokio::task::spawn_blocking(move || with(audit)).await.unwrap()
}

pub(crate) fn validator() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(&json_schema()).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

pub(crate) fn fits(validator: &jsonschema::Validator, payload: &[u8]) {
    let record: Value = serde_json::from_slice(payload).unwrap();
    let wrong: Vec<String> = validator.iter_errors(&record).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{wrong:?}\n{record:#}");
    assert_eq!(canonical(payload).unwrap(), payload);
}

#[tokio::test]
async fn every_kind_of_record_is_canonical_and_fits_the_schema() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Moved(AtomicI64::new(0)));
    let audit = start(dir.path(), &clock, |settings| settings.personal = PersonalData::Erasable);
    cross(&audit, AuditMode::Required).await;
    let mut huge = decision(Verdict::Deny);
    huge.context.to_mut().insert("many".into(), vec!["\u{1F600}\u{e000}\n".repeat(200); 300].into());
    let mut draft = audit.draft(RecordId::new(), AuditMode::Required).unwrap();
    draft.decision(&huge).await.unwrap();
    draft.close(&Outcome::bare(Ending::Refused));
    let peer = "192.0.2.9:1".parse().unwrap();
    for _ in 0..20 {
        let refusal = Refusal {
            code: "handshake_failed".into(),
            status: 0,
            peer,
            method: None,
            host: None,
            path: None,
            route: None,
            trace_id: None,
        };
        audit.refusal(RecordId::new(), peer.ip(), &refusal);
    }
    audit.modes(&BTreeMap::from([("chat".to_owned(), AuditMode::Required)])).unwrap();
    audit.modes(&BTreeMap::from([("chat".to_owned(), AuditMode::BestEffort)])).unwrap();
    let at = Timestamp::now();
    notes::leave(
        dir.path(),
        &Event::AuditRead { actor: "uid:0".into(), how: "export".into(), asked: None, records: Some(3), at },
    )
    .unwrap();
    let path = dir.path().to_owned();
    let kinds = move || {
        let records = payloads(&path);
        let kind = |payload: &[u8]| {
            serde_json::from_slice::<Value>(payload).unwrap()["kind"].as_str().unwrap().to_owned()
        };
        records.iter().map(|(_, payload)| kind(payload)).collect::<std::collections::BTreeSet<_>>()
    };
    eventually("the count of refusals", || kinds().contains("refusals")).await;
    let path = dir.path().to_owned();
    eventually("the note", || fs::read_dir(path.join("notes")).unwrap().next().is_none()).await;
    audit.close().await;
    let validator = validator();
    let all = payloads(dir.path());
    all.iter().for_each(|(_, payload)| fits(&validator, payload));
    assert_eq!(kinds().len(), 5, "{:?}", kinds());
    // The schema says what is no record.
    for wrong in [r#"{"kind":"event"}"#, r#"{"v":2,"kind":"refusals"}"#] {
        assert!(!validator.is_valid(&serde_json::from_str(wrong).unwrap()), "{wrong}");
    }
    assert!(all.iter().any(|(_, payload)| payload.ends_with(br#","truncated":true,"v":1}"#)));
    let read = events(dir.path());
    assert!(read.contains(&Event::ModeChanged {
        route: "chat".into(),
        old: Some(AuditMode::Required),
        new: Some(AuditMode::BestEffort)
    }));
    assert!(read.iter().any(|event| matches!(event, Event::AuditRead { records: Some(3), .. })));
    assert!(check(dir.path()).is_good());
}

pub(crate) fn of_user(user: &str) -> Decision<'static> {
    let mut record = decision(Verdict::Allow);
    record.principal.id = user.to_owned().into();
    record.principal.credential = Some("ab".repeat(32).into());
    let uid = serde_json::json!({ "uid": { "type": "Tidegate::User", "id": user } });
    record.context.to_mut().insert("principal".into(), uid);
    record
        .context
        .to_mut()
        .insert("context".into(), serde_json::json!({ "peerAddress": "192.0.2.7", "a/b~c": [user] }));
    record
}

pub(crate) async fn decide(audit: &Audit, record: &Decision<'_>) -> RecordId {
    let id = RecordId::new();
    let mut draft = audit.draft(id, AuditMode::Required).unwrap();
    draft.decision(record).await.unwrap();
    draft.close(&Outcome::bare(Ending::Complete));
    id
}

fn decision_of(dir: &Path, id: RecordId) -> Vec<u8> {
    let text = id.to_string();
    let is = |payload: &[u8]| {
        let record: Value = serde_json::from_slice(payload).unwrap();
        record["id"] == text.as_str() && record["kind"] == "decision"
    };
    payloads(dir).into_iter().map(|(_, payload)| payload).find(|payload| is(payload)).unwrap()
}

#[tokio::test]
async fn a_user_is_erased_from_the_records_and_the_tree_still_verifies() {
    const ALICE: &str = "https://issuer.example|alice";
    const ROBERT: &str = "https://issuer.example|robert";
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Moved(AtomicI64::new(0)));
    let audit = start(dir.path(), &clock, |settings| settings.personal = PersonalData::Erasable);
    let (alice, robert) = (of_user(ALICE), of_user(ROBERT));
    let ids = [decide(&audit, &alice).await, decide(&audit, &robert).await, decide(&audit, &alice).await];
    // Nothing of a user is in any byte of the journal; what decided is.
    for segment in segments(dir.path()) {
        let bytes = fs::read(segment).unwrap();
        // Longer than what the base64 of a ciphertext may spell by chance.
        for part in ["alice", "robert", "192.0.2.7", "xxxxxxxx"] {
            let found = memchr::memmem::find(&bytes, part.as_bytes());
            assert!(found.is_none(), "{part} at {found:?}");
        }
        assert!(memchr::memmem::find(&bytes, b"chat-for-research").is_some());
    }
    let written = decision_of(dir.path(), ids[0]);
    let value: Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(value["peer"], "192.0.2.0:0");
    assert_eq!(value["context"]["context"]["peerAddress"], "192.0.2.0");
    let whole: Value = serde_json::from_slice(&Opener::new(dir.path()).restored(&written).unwrap()).unwrap();
    let mut expected = serde_json::to_value(&alice).unwrap();
    for (name, member) in expected.as_object_mut().unwrap() {
        assert_eq!(&whole[name], member, "{name}");
    }
    // The same user has one key, another has another.
    let third: Value = serde_json::from_slice(&decision_of(dir.path(), ids[2])).unwrap();
    assert_eq!(value["personal"]["subject"], third["personal"]["subject"]);
    let tenant = "acme".parse().unwrap();
    let subject = subjects::find(dir.path(), &tenant, ALICE).unwrap().unwrap();
    assert_eq!(value["principal"]["id"], format!("subject:{subject}"));
    assert_ne!(subjects::find(dir.path(), &tenant, ROBERT).unwrap(), Some(subject));
    // A record's ciphertext belongs to it alone.
    let mut moved = third.clone();
    moved["personal"] = value["personal"].clone();
    assert_eq!(Opener::new(dir.path()).restore(&mut moved), Restored::Nothing);

    // Somebody notes it and is killed before it is done: the gateway does it.
    let at: Timestamp = "2026-11-24T08:00:00Z".parse().unwrap();
    let event = Event::SubjectErased {
        subject,
        tenant: "acme".into(),
        actor: "uid:0".into(),
        reason: Some("request 4711".into()),
        at,
    };
    notes::leave(dir.path(), &event).unwrap();
    let path = dir.path().to_owned();
    eventually("the erasure", || fs::read_dir(path.join("notes")).unwrap().next().is_none()).await;
    assert!(events(dir.path()).contains(&event));
    assert_eq!(subjects::find(dir.path(), &tenant, ALICE).unwrap(), None);
    let erased = Erased { at, actor: "uid:0".into(), reason: None };
    subjects::destroy(dir.path(), subject, &erased).unwrap();
    let mut opener = Opener::new(dir.path());
    let shown: Value = serde_json::from_slice(&opener.restored(&written).unwrap()).unwrap();
    assert_eq!(shown["principal"]["id"], "erased on 2026-11-24");
    assert_eq!(shown["decision"], "allow");
    let other: Value =
        serde_json::from_slice(&opener.restored(&decision_of(dir.path(), ids[1])).unwrap()).unwrap();
    assert_eq!(other["principal"]["id"], ROBERT);
    audit.close().await;
    let report = check(dir.path());
    assert!(report.is_good() && report.unsigned == 0, "{report:?}");
    assert_eq!(decision_of(dir.path(), ids[0]), written);
    // The user comes back as somebody new.
    let audit = start(dir.path(), &clock, |settings| settings.personal = PersonalData::Erasable);
    decide(&audit, &alice).await;
    assert!(subjects::find(dir.path(), &tenant, ALICE).unwrap().is_some_and(|new| new != subject));
    audit.close().await;
}

/// A journal with some logs of several segments each, the first two of them older than they are kept; still open.
async fn old(dir: &Path, clock: &Arc<Moved>) -> Audit {
    clock.0.store(-900 * DAY, Ordering::SeqCst);
    for _ in 0..2 {
        let audit = start(dir, clock, |_| ());
        fill(&audit, 1000).await;
        audit.close().await;
        clock.0.fetch_add(40 * DAY, Ordering::SeqCst);
    }
    clock.0.store(0, Ordering::SeqCst);
    let audit = start(dir, clock, |_| ());
    fill(&audit, 600).await;
    audit
}

pub(crate) async fn fill(audit: &Audit, crossings: usize) {
    for _ in 0..crossings {
        cross(audit, AuditMode::BestEffort).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_older_than_it_is_kept_goes_and_what_is_left_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Moved(AtomicI64::new(0)));
    let audit = old(dir.path(), &clock).await;
    let before = segments(dir.path());
    assert!(before.len() >= 5, "{before:?}");
    let survivor = cross(&audit, AuditMode::Required).await;
    // A hold, and a destination that has acknowledged nothing, keep all.
    let hold = Hold {
        name: "case-17".into(),
        reason: "litigation".into(),
        from: None,
        added: Timestamp::now(),
        actor: "uid:0".into(),
    };
    holds::add(dir.path(), &hold).unwrap();
    assert!(
        holds::add(dir.path(), &hold).is_err()
            && holds::add(dir.path(), &Hold { name: "../x".into(), ..hold.clone() }).is_err()
    );
    assert_eq!(blocking(&audit, |audit| audit.prune().unwrap()).await.segments, 0);
    holds::remove(dir.path(), "case-17", "settled", "uid:0", Timestamp::now()).unwrap();
    fs::create_dir_all(dir.path().join("export/siem")).unwrap();
    assert_eq!(blocking(&audit, |audit| audit.prune().unwrap()).await.segments, 0);
    fs::write(dir.path().join("export/siem/cursor"), "{\"seq\":nonsense").unwrap();
    assert_eq!(blocking(&audit, |audit| audit.prune().unwrap()).await.segments, 0);
    fs::write(dir.path().join("export/siem/cursor"), "{\"seq\":1,\"required\":true}").unwrap();
    assert_eq!(blocking(&audit, |audit| audit.prune().unwrap()).await.segments, 0);
    // One that is not required holds nothing back.
    fs::write(dir.path().join("export/siem/cursor"), "{\"seq\":1,\"required\":false}").unwrap();
    assert_eq!(count(dir.path()), before.len());

    let pruned = blocking(&audit, |audit| audit.prune().unwrap()).await;
    assert!(pruned.segments >= 3, "{pruned:?}");
    assert_eq!(blocking(&audit, |audit| audit.prune().unwrap()).await.segments, 0);
    let left = count(dir.path());
    assert_eq!(left, before.len() - usize::try_from(pruned.segments).unwrap());
    let found = events(dir.path());
    assert!(found.iter().any(
        |event| matches!(event, Event::RetentionPruned { first: 0, below, .. } if *below == pruned.below)
    ));
    let path = dir.path().to_owned();
    eventually("the notes", || fs::read_dir(path.join("notes")).unwrap().next().is_none()).await;
    audit.close().await;
    let names: Vec<_> = events(dir.path());
    assert!(names.iter().any(|event| matches!(event, Event::HoldAdded { name, .. } if name == "case-17")));
    assert!(
        names.iter().any(|event| matches!(event, Event::HoldRemoved { reason, .. } if reason == "settled"))
    );

    let report = check(dir.path());
    assert!(report.is_good(), "{report:?}");
    assert_eq!((report.pruned, report.unsigned, report.logs.len()), (pruned.below, 0, 3));
    assert!(report.logs.iter().all(|log| log.key.is_some()), "{report:?}");
    let proof = prove(dir.path(), Wanted::Crossing(survivor)).unwrap();
    let key: VerifierKey = fs::read_to_string(dir.path().join("tree/vkey")).unwrap().parse().unwrap();
    proof.verify(&key).unwrap();
    assert!(matches!(prove(dir.path(), Wanted::Seq(0)), Err(VerifyError::NoRecord(_))));
    let some =
        range::check(dir.path(), (Some(Bound::Record(0)), None), Some(&key), &AtomicU64::new(0)).unwrap();
    assert!(some.is_good() && some.pruned == pruned.below, "{some:?}");
    rebuild::rebuild(dir.path(), Some(&key)).unwrap();
    let out = tempfile::tempdir().unwrap();
    export::export(dir.path(), out.path()).unwrap();
    assert!(check(dir.path()).is_good());
    // It starts, and goes on.
    let audit = start(dir.path(), &clock, |_| ());
    fill(&audit, 3).await;
    audit.close().await;
    assert!(check(dir.path()).is_good());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_grows_loses_only_whole_tiles_and_is_made_again_from_them() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Moved(AtomicI64::new(0)));
    let audit = start(dir.path(), &clock, |_| ());
    fill(&audit, 2200).await;
    // The clock goes on by less than a month: it is still the same log, if it is not the end of one.
    let before = segments(dir.path()).len();
    let keep = |settings: &mut Settings| {
        settings.retention.hot = "1d".parse().unwrap();
        settings.retention.keep = "1d".parse().unwrap();
    };
    audit.close().await;
    clock.0.store(2 * DAY, Ordering::SeqCst);
    let audit = start(dir.path(), &clock, keep);
    fill(&audit, 20).await;
    let pruned = blocking(&audit, |audit| audit.prune().unwrap()).await;
    assert!(pruned.segments > 0 && segments(dir.path()).len() < before, "{pruned:?}");
    audit.close().await;
    assert!(check(dir.path()).is_good());
    // The upper tiles are lost and the edge is another one: both are made again out of the hashes of deleted records and of records.
    let log = dir.path().join("tree/log-00000000000000000000");
    fs::remove_dir_all(log.join("tile/1")).unwrap();
    for entry in fs::read_dir(log.join("tile/0")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|tile| fs::write(tile.unwrap().path(), [7; 32]).unwrap());
        }
    }
    assert_eq!(check(dir.path()).problems[0].code, Code::TilesDamaged);
    let audit = start(dir.path(), &clock, keep);
    fill(&audit, 300).await;
    audit.close().await;
    let report = check(dir.path());
    assert!(report.is_good() && report.pruned == pruned.below, "{report:?}");
}

/// What somebody does to a pruned journal is noticed and named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_nobody_said_would_go_are_missing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Moved(AtomicI64::new(0)));
    let audit = old(dir.path(), &clock).await;
    let untouched = tempfile::tempdir().unwrap();
    copy(dir.path(), untouched.path());
    blocking(&audit, |audit| audit.prune().unwrap()).await;
    audit.close().await;
    let first = |dir: &Path| check(dir).problems.first().map(|problem| (problem.code, problem.what.clone()));

    // Deleted by hand: no record says so.
    fs::remove_file(&segments(untouched.path())[0]).unwrap();
    let (code, what) = first(untouched.path()).unwrap();
    assert!(code == Code::RecordsMissing && what.contains("no signed record says"), "{what}");

    let tampered = |change: &dyn Fn(&Path)| {
        let other = tempfile::tempdir().unwrap();
        copy(dir.path(), other.path());
        change(other.path());
        first(other.path())
    };
    // One segment more than was said.
    let more = tampered(&|dir| fs::remove_file(&segments(dir)[0]).unwrap()).unwrap();
    assert_eq!(more.0, Code::RecordsMissing, "{}", more.1);
    // The hash of a deleted record is another one, or is missing.
    let tile = |dir: &Path| dir.join("tree/log-00000000000000000000/tile/0/001");
    let flipped = tampered(&|dir| {
        let mut bytes = fs::read(tile(dir)).unwrap();
        bytes[40] ^= 1;
        fs::write(tile(dir), bytes).unwrap();
    });
    assert_eq!(flipped.as_ref().map(|(code, _)| *code), Some(Code::RootDiffers), "{flipped:?}");
    let gone = tampered(&|dir| fs::remove_file(tile(dir)).unwrap());
    assert_eq!(gone.as_ref().map(|(code, _)| *code), Some(Code::TilesDamaged), "{gone:?}");
    // A kept record is another one.
    let kept = tampered(&|dir| {
        let kept = dir.join("tree/log-00000000000000000000/kept/00000000000000000000");
        let text = fs::read_to_string(&kept).unwrap().replace("border-1", "border-2");
        fs::write(kept, text).unwrap();
    });
    assert_eq!(kept.as_ref().map(|(code, _)| *code), Some(Code::RecordChanged), "{kept:?}");
    // A whole log is removed with its hashes: the next one quotes it.
    let lost = tampered(&|dir| fs::remove_dir_all(dir.join("tree/log-00000000000000000000")).unwrap());
    assert_eq!(lost.as_ref().map(|(code, _)| *code), Some(Code::RecordsMissing), "{lost:?}");
    assert_eq!(tampered(&|_| ()), None);
}

/// A copy of each state between two operations of a pass starts and verifies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_that_is_killed_anywhere_leaves_a_good_journal() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Moved(AtomicI64::new(0)));
    let audit = old(dir.path(), &clock).await;
    let states = tempfile::tempdir().unwrap();
    // Every state that a kill can leave, made by hand: a copy of a directory that changes meanwhile would be a state that never was.
    let names = segments(dir.path());
    let whole = tempfile::tempdir().unwrap();
    let pruned = {
        let (from, to) = (dir.path().to_owned(), whole.path().to_owned());
        copy(&from, &to);
        blocking(&audit, |audit| audit.prune().unwrap()).await
    };
    audit.close().await;
    for gone in 0..usize::try_from(pruned.segments).unwrap() {
        let state = states.path().join(format!("by-hand-{gone}"));
        copy(dir.path(), &state);
        for name in &names[gone..usize::try_from(pruned.segments).unwrap()] {
            fs::copy(whole.path().join(name.file_name().unwrap()), state.join(name.file_name().unwrap()))
                .unwrap();
        }
    }
    for entry in fs::read_dir(states.path()).unwrap() {
        let state = entry.unwrap().path();
        let audit = start(&state, &clock, |_| ());
        let again = blocking(&audit, |audit| audit.prune()).await.unwrap();
        audit.close().await;
        let report = check(&state);
        assert!(report.is_good(), "{} after {again:?}: {report:?}", state.display());
        assert_eq!(segments(&state).len(), names.len() - usize::try_from(pruned.segments).unwrap());
    }
}

/// A segment that is not what was signed is evidence, and stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_record_is_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Moved(AtomicI64::new(0)));
    let audit = old(dir.path(), &clock).await;
    let first = &segments(dir.path())[0];
    let mut bytes = fs::read(first).unwrap();
    let at = memchr::memmem::find(&bytes, b"alice").unwrap();
    bytes[at] = b'm';
    fs::write(first, bytes).unwrap();
    let error = blocking(&audit, |audit| audit.prune()).await.unwrap_err();
    assert!(error.to_string().contains("is not what was signed"), "{error}");
    assert!(first.exists());
    audit.close().await;
}

#[tokio::test]
async fn the_commands_erase_and_hold() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Moved(AtomicI64::new(0)));
    let erasable = |settings: &mut Settings| settings.personal = PersonalData::Erasable;
    let audit = start(dir.path(), &clock, erasable);
    let id = decide(&audit, &of_user("https://issuer.example|alice")).await;
    audit.close().await;
    let journal = dir.path().to_str().unwrap();
    let run = |args: &[&str]| tidegate(&[&["audit"], args, &["--journal", journal]].concat());
    let alice = ["erase", "--tenant", "acme", "--subject", "https://issuer.example|alice", "--reason", "r"];
    let (code, out, _) = run(&["query", "--principal", "alice"]);
    assert!(code == 0 && out.contains("alice"), "{out}");
    let (code, out, error) = run(&alice);
    assert!(code == 0 && out.contains("erased: what identifies subject:"), "{out}{error}");
    let (code, out, _) = run(&alice);
    assert!(code == 1 && out.contains("nothing is known of"), "{out}");
    assert_eq!(run(&["query", "--principal", "alice"]).0, 1);
    let (code, out, _) = run(&["query", "--id", &id.to_string()]);
    assert!(code == 0 && out.contains(" erased "), "{out}");
    let (_, out, _) = run(&["query", "--id", &id.to_string(), "--output", "json"]);
    assert!(out.contains("erased on 20"), "{out}");
    assert_eq!(run(&["hold", "list"]), (1, "no holds\n".to_owned(), String::new()));
    assert_eq!(run(&["hold", "add", "case-17", "--reason", "litigation", "--from", "7d"]).0, 0);
    let (code, _, error) = run(&["hold", "add", "case-17", "--reason", "again"]);
    assert!(code == 3 && error.contains("there is a hold `case-17` already"), "{error}");
    let (code, out, _) = run(&["hold", "list"]);
    assert!(code == 0 && out.contains("case-17") && out.contains("litigation"), "{out}");
    let (_, out, _) = run(&["hold", "list", "--output", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["name"], "case-17");
    assert_eq!(run(&["hold", "remove", "case-17", "--reason", "settled"]).0, 0);
    assert_eq!(run(&["hold", "remove", "case-17", "--reason", "settled"]).0, 3);
    let (code, _, error) = tidegate(&["audit", "hold", "add", "x", "--reason", "y", "--journal", "/nowhere"]);
    assert!(code == 3 && error.contains("/nowhere"), "{error}");
    let exported = dir.path().join("out");
    assert_eq!(run(&["verify", "--export", exported.to_str().unwrap()]).0, 0);
    // All of it is recorded by the next start, in order.
    let audit = start(dir.path(), &clock, erasable);
    let path = dir.path().to_owned();
    eventually("the notes", || fs::read_dir(path.join("notes")).unwrap().next().is_none()).await;
    audit.close().await;
    let names =
        |event: &Event<'_>| serde_json::to_value(event).unwrap()["event"].as_str().unwrap().to_owned();
    let told: Vec<String> = events(dir.path()).iter().map(names).collect();
    let mut rest = told.iter();
    for expected in ["subject.erased", "hold.added", "hold.removed", "audit.read"] {
        assert!(rest.any(|name| name == expected), "{expected}: {told:?}");
    }
    assert!(check(dir.path()).is_good());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_hot_any_more_is_compressed_and_read_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Moved(AtomicI64::new(-200 * DAY)));
    let audit = start(dir.path(), &clock, |_| ());
    let first = cross(&audit, AuditMode::Required).await;
    fill(&audit, 1200).await;
    audit.close().await;
    clock.0.store(0, Ordering::SeqCst);
    let audit = start(dir.path(), &clock, |_| ());
    fill(&audit, 5).await;
    let (plain, before) = (segments(dir.path()), payloads(dir.path()));
    let saved = fs::read(&plain[0]).unwrap();
    assert_eq!(blocking(&audit, |audit| audit.prune().unwrap()).await.segments, 0);
    let packed = PathBuf::from(format!("{}.gz", plain[0].display()));
    assert!(packed.exists() && !plain[0].exists() && plain.last().unwrap().exists());
    assert!(fs::metadata(&packed).unwrap().len() * 3 < saved.len() as u64);
    let read = payloads(dir.path());
    assert_eq!(read[..before.len()], before[..]);
    let since = Reader::open(dir.path(), Some(Timestamp::now() - jiff::SignedDuration::from_hours(24)));
    assert!(since.unwrap().read_next().unwrap().is_some());
    audit.close().await;
    let key: VerifierKey = fs::read_to_string(dir.path().join("tree/vkey")).unwrap().parse().unwrap();
    let good = |dir: &Path| {
        let report = check(dir);
        assert!(report.is_good() && report.pruned == 0 && report.records > 2400, "{report:?}");
    };
    good(dir.path());
    prove(dir.path(), Wanted::Crossing(first)).unwrap().verify(&key).unwrap();
    let some = (Some(Bound::Record(3)), Some(Bound::Record(90)));
    let some = range::check(dir.path(), some, Some(&key), &AtomicU64::new(0)).unwrap();
    assert!(some.is_good() && some.records == 87, "{some:?}");
    rebuild::rebuild(dir.path(), Some(&key)).unwrap();
    let out = tempfile::tempdir().unwrap();
    assert!(export::export(dir.path(), out.path()).unwrap() > 2400);
    // A crash between writing the one and removing the other, or while it was written.
    fs::write(&plain[0], &saved).unwrap();
    fs::write(dir.path().join("seg-00000000000000000000.log.gz.new"), "half").unwrap();
    good(dir.path());
    fs::write(&packed, "half").unwrap();
    good(dir.path());
    let audit = start(dir.path(), &clock, |_| ());
    blocking(&audit, |audit| audit.prune().unwrap()).await;
    audit.close().await;
    assert!(!plain[0].exists());
    good(dir.path());
    // Wherever it is changed or cut, it is noticed.
    let whole = fs::read(&packed).unwrap();
    for at in [0, 1, whole.len() / 3, whole.len() / 2, whole.len() - 100] {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        fs::write(&packed, changed).unwrap();
        assert!(!check(dir.path()).is_good(), "a change at {at}");
        fs::write(&packed, &whole[..at]).unwrap();
        assert!(!check(dir.path()).is_good(), "a cut at {at}");
    }
    fs::write(&packed, whole).unwrap();
    good(dir.path());
    // When they are old enough they go like any other.
    clock.0.store(260 * DAY, Ordering::SeqCst);
    let audit = start(dir.path(), &clock, |_| ());
    fill(&audit, 5).await;
    assert!(blocking(&audit, |audit| audit.prune().unwrap()).await.segments > 0);
    audit.close().await;
    assert!(!packed.exists() && check(dir.path()).is_good());
}
