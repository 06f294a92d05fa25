//! The audit journal from outside: under load, over many segments, after a crash, read while it is written.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate::audit::frame::Kind;
use tidegate::audit::reader::{ReadError, Reader};
use tidegate::audit::record::{
    Decision, Ending, Event, Links, Outcome, Party, Record, Refusal, Request, Verdict,
};
use tidegate::audit::{Audit, AuditError, Instance, Settings};
use tidegate::cli::audit::FilterArgs;
use tidegate::cli::audit::query::{QueryArgs, QueryOutput, print, query};
use tidegate::cli::audit::table::Printer;
use tidegate::model::{AuditMode, ByteSize, RecordId};

pub(crate) fn settings(dir: &Path) -> Settings {
    Settings { directory: dir.to_owned(), segment_size: ByteSize::mib(1), queue: 1024, ..Settings::default() }
}

pub(crate) fn open(dir: &Path) -> Audit {
    Audit::open(&settings(dir), Instance { name: "border-1".into(), version: "0" }).unwrap()
}

pub(crate) fn decision(decision: Verdict) -> Decision<'static> {
    Decision {
        decision,
        code: (decision != Verdict::Allow).then_some(Cow::Borrowed("not_permitted")),
        policies: vec![Arc::from("chat-for-research")].into(),
        route: "chat".into(),
        mode: AuditMode::Required,
        tenant: "acme".into(),
        principal: Party {
            kind: "User".into(),
            id: "https://issuer.example|alice".into(),
            teams: Cow::default(),
            authn: "jwt".into(),
            credential: None,
        },
        chain: Links::default(),
        action: Some("infer".into()),
        resource: None,
        destination: Some("eu".into()),
        label: None,
        protection: None,
        request: Request {
            method: "POST".into(),
            host: "gateway.example".into(),
            path: "/v1/chat/completions\u{1b}[2J".into(),
            query: vec![],
            bytes: 3,
            version: "1.1".into(),
            user_agent: Some("x".repeat(600).into()),
        },
        peer: "192.0.2.7:4711".parse().unwrap(),
        context: Cow::default(),
        evaluations: vec![],
        bundle: "00ff".into(),
        upstream: None,
        seal: None,
        opened: None,
        body_digest: None,
        trace_id: None,
    }
}

/// Copies a folder that is being written as a crash would leave it: a checkpoint is written after its tiles, so files come
/// before folders. What is gone before it is copied is not there.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut entries: Vec<_> = fs::read_dir(from).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.sort_by_key(|path| path.is_dir());
    for path in entries {
        let name = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &name);
        } else {
            let _ = fs::copy(path, name);
        }
    }
}

pub(crate) async fn cross(audit: &Audit, mode: AuditMode) -> RecordId {
    let id = RecordId::new();
    let mut draft = audit.draft(id, mode).unwrap();
    draft.decision(&decision(Verdict::Allow)).await.unwrap();
    draft.close(&Outcome { status: Some(200), ..Outcome::bare(Ending::Complete) });
    id
}

fn read(dir: &Path) -> Vec<(Kind, Option<RecordId>, Record)> {
    let mut reader = Reader::open(dir, None).unwrap();
    let mut all = Vec::new();
    while let Some(stored) = reader.read_next().unwrap() {
        assert_eq!(stored.seq, all.len() as u64);
        let (stamp, record) = Record::parse(stored.payload).unwrap();
        all.push((stored.kind, stamp.id, record));
    }
    all
}

fn decided(all: &[(Kind, Option<RecordId>, Record)]) -> BTreeSet<RecordId> {
    all.iter().filter(|(kind, ..)| *kind == Kind::Allow).filter_map(|(_, id, _)| *id).collect()
}

fn endings(all: &[(Kind, Option<RecordId>, Record)]) -> BTreeMap<RecordId, Vec<Ending>> {
    let mut endings: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (_, id, record) in all {
        if let Record::Outcome(outcome) = record {
            endings.entry(id.unwrap()).or_default().push(outcome.ending);
        }
    }
    endings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_crossing_is_read_back_over_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..32 {
        let audit = audit.clone();
        tasks.spawn(async move {
            let mode = if worker % 2 == 0 { AuditMode::Required } else { AuditMode::BestEffort };
            let mut ids = Vec::new();
            for _ in 0..60 {
                ids.push(cross(&audit, mode).await);
            }
            ids
        });
    }
    let ids: BTreeSet<RecordId> = tasks.join_all().await.into_iter().flatten().collect();
    audit.close().await;
    let stats = audit.stats();
    assert!(stats.commits < stats.records && stats.writes < stats.records, "{stats:?}");
    let all = read(dir.path());
    assert_eq!(decided(&all), ids);
    assert!(endings(&all).values().all(|endings| endings == &[Ending::Complete]));
    assert!(fs::read_dir(dir.path()).unwrap().count() > 3, "it rolled");
}

/// A copy of the files of a running journal is what a crash leaves: kill -9 keeps what was written.
/// Copies a file that grows, page by page from its end.
fn copy_from_the_end(from: &Path, to: &Path) {
    const PAGE: usize = 4096;
    let (source, copy) = (fs::File::open(from).unwrap(), fs::File::create(to).unwrap());
    let length = source.metadata().unwrap().len();
    copy.set_len(length).unwrap();
    for page in (0..length.div_ceil(PAGE as u64)).rev() {
        let at = page * PAGE as u64;
        let mut page = [0; PAGE];
        let count = source.read_at(&mut page, at).unwrap();
        copy.write_all_at(&page[..count], at).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_taken_under_load_holds_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(AtomicBool::new(false));
    // A crash takes no time, a copy does: what is written meanwhile is bounded.
    let limit = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (audit, acknowledged) = (audit.clone(), acknowledged.clone());
        let (stop, limit) = (stop.clone(), limit.clone());
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                if acknowledged.lock().unwrap().len() >= limit.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                let id = cross(&audit, AuditMode::BestEffort).await;
                acknowledged.lock().unwrap().push(id);
            }
        });
    }
    for _ in 0..5 {
        limit.store(acknowledged.lock().unwrap().len() + 4000, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(60)).await;
        let copy_of = tempfile::tempdir().unwrap();
        let before = acknowledged.lock().unwrap().clone();
        // The checkpoint first: it covers nothing that the segments do not have by then.
        for part in ["tree", "keys"] {
            copy(&dir.path().join(part), &copy_of.path().join(part));
        }
        let mut files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        // Against the order in which they are written: what is copied is then older than what was copied before it, and holds all
        // that the later parts rely on, as after a crash.
        files.sort();
        for file in files.iter().rev().filter(|file| file.extension().is_some_and(|e| e == "log")) {
            copy_from_the_end(file, &copy_of.path().join(file.file_name().unwrap()));
        }
        let start = Instant::now();
        let reopened = open(copy_of.path());
        assert!(start.elapsed() < Duration::from_secs(1));
        reopened.close().await;
        let all = read(copy_of.path());
        let decided = decided(&all);
        assert!(before.iter().all(|id| decided.contains(id)));
        let endings = endings(&all);
        assert!(decided.iter().all(|id| endings[id].len() == 1));
    }
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    audit.close().await;
}

#[tokio::test]
async fn a_decision_without_an_outcome_is_unknown_after_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    let orphan = RecordId::new();
    let mut draft = audit.draft(orphan, AuditMode::Required).unwrap();
    draft.decision(&decision(Verdict::Allow)).await.unwrap();
    let denied = RecordId::new();
    let mut refused = audit.draft(denied, AuditMode::Required).unwrap();
    refused.decision(&decision(Verdict::Deny)).await.unwrap();
    // Over the end of a segment: the next one says what is open.
    for _ in 0..1200 {
        cross(&audit, AuditMode::BestEffort).await;
    }
    audit.close().await;
    drop((draft, refused));

    open(dir.path()).close().await;
    open(dir.path()).close().await;
    let all = read(dir.path());
    let endings = endings(&all);
    assert_eq!(endings[&orphan], [Ending::Unknown]);
    assert!(!endings.contains_key(&denied));
    let orphans = all.iter().filter_map(|(_, _, record)| match record {
        Record::Event(Event::RecoveryOrphans { count }) => Some(*count),
        _ => None,
    });
    assert_eq!(orphans.collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn only_one_process_may_write() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    let second = Audit::open(&settings(dir.path()), Instance { name: "b".into(), version: "0" });
    assert!(matches!(second, Err(AuditError::Locked { .. })));
    audit.close().await;
    open(dir.path()).close().await;
}

#[tokio::test]
async fn damage_is_refused_with_its_place_and_a_torn_tail_is_noted() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    for _ in 0..5 {
        cross(&audit, AuditMode::Required).await;
    }
    audit.close().await;
    let path = dir.path().join("seg-00000000000000000000.log");
    let whole = fs::read(&path).unwrap();

    let mut torn = whole.clone();
    torn.extend(b"torn".repeat(9));
    fs::write(&path, &torn).unwrap();
    open(dir.path()).close().await;
    let cut = read(dir.path()).into_iter().find_map(|(_, _, record)| match record {
        Record::Event(Event::RecoveryTruncated { offset, bytes, .. }) => Some((offset, bytes)),
        _ => None,
    });
    assert_eq!(cut, Some((whole.len() as u64, 36)));

    let mut damaged = fs::read(&path).unwrap();
    let place = damaged.windows(5).position(|bytes| bytes == b"alice").unwrap();
    damaged[place] = b'A';
    fs::write(&path, &damaged).unwrap();
    let error = Audit::open(&settings(dir.path()), Instance { name: "b".into(), version: "0" }).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, AuditError::Damaged { offset, .. } if offset < place as u64), "{text}");
    assert!(text.contains("seg-00000000000000000000.log") && text.contains("offset"), "{text}");
}

#[tokio::test]
async fn refusals_are_limited_and_the_rest_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    for port in 0..200_u16 {
        let refusal = Refusal {
            code: "host_missing".into(),
            status: 400,
            peer: ([192, 0, 2, 9], port).into(),
            method: None,
            host: None,
            path: None,
            route: None,
            trace_id: None,
        };
        audit.refusal(RecordId::new(), refusal.peer.ip(), &refusal);
    }
    tokio::time::sleep(Duration::from_millis(2300)).await;
    audit.close().await;
    let all = read(dir.path());
    let single = all.iter().filter(|(kind, ..)| *kind == Kind::Refusal).count() as u64;
    let counted: u64 = all
        .iter()
        .filter_map(|(_, _, record)| match record {
            Record::Refusals(counted) => Some(counted.count),
            _ => None,
        })
        .sum();
    // The calls may fall into two seconds.
    assert!((10..=20).contains(&single), "{single}");
    assert_eq!(single + counted, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_follows_a_live_journal() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    cross(&audit, AuditMode::Required).await;
    let path = dir.path().to_owned();
    let done = Arc::new(AtomicBool::new(false));
    let stop = done.clone();
    let follower = std::thread::spawn(move || {
        let mut reader = Reader::open(&path, None).unwrap();
        let mut ids = BTreeSet::new();
        loop {
            let last = stop.load(Ordering::SeqCst);
            while let Some(stored) = reader.read_next().unwrap() {
                if stored.kind == Kind::Allow {
                    ids.insert(Record::parse(stored.payload).unwrap().0.id.unwrap());
                }
            }
            if last {
                return ids;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let audit = audit.clone();
        tasks.spawn(async move {
            for _ in 0..300 {
                cross(&audit, AuditMode::BestEffort).await;
            }
        });
    }
    tasks.join_all().await;
    audit.close().await;
    done.store(true, Ordering::SeqCst);
    assert_eq!(follower.join().unwrap().len(), 2401);
}

fn shown(dir: &Path, output: QueryOutput, filter: FilterArgs) -> (bool, String) {
    let mut out = Vec::new();
    let args = QueryArgs { journal: dir.to_owned(), limit: 10, output, no_index: false, filter };
    let found = query(&args, &mut |note| panic!("{note}")).unwrap();
    print(&found.rows, output, &mut Printer::new(None, false), &mut out).unwrap();
    (!found.rows.is_empty(), String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn a_query_prints_what_it_finds() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    let allowed = cross(&audit, AuditMode::Required).await;
    let denied = RecordId::new();
    let mut draft = audit.draft(denied, AuditMode::Required).unwrap();
    draft.decision(&decision(Verdict::Deny)).await.unwrap();
    draft.close(&Outcome { status: Some(403), ..Outcome::bare(Ending::Refused) });
    audit.close().await;

    let (found, table) = shown(dir.path(), QueryOutput::Table, FilterArgs::default());
    assert!(found && !table.contains('\u{1b}'), "{table}");
    let line =
        |id: RecordId| table.lines().find(|line| line.contains(id.to_string().get(..18).unwrap())).unwrap();
    assert!(line(allowed).contains("alice") && line(allowed).contains("200"), "{table}");
    assert!(line(denied).contains("deny") && line(denied).contains("chat-for-research"), "{table}");
    assert!(table.starts_with("TIME"), "{table}");

    let by_id = FilterArgs { id: Some(denied.into()), ..FilterArgs::default() };
    let (_, json) = shown(dir.path(), QueryOutput::Json, by_id);
    let lines: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((lines[0]["kind"].as_str(), lines[0]["seq"].as_u64()), (Some("decision"), Some(4)));
    assert_eq!(lines[1]["status"], 403);

    let nobody = FilterArgs { principal: Some("mallory".into()), ..FilterArgs::default() };
    assert_eq!(shown(dir.path(), QueryOutput::Table, nobody), (false, String::new()));
    let missing = Reader::open(&dir.path().join("bundles"), None);
    assert!(matches!(missing, Err(ReadError::Io { .. })));
}
