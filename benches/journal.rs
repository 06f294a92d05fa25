//! The journal: appending with 256 writers that wait for the disk beside the bare disk, `verify`, and a start.
//!
//! `cargo bench --bench journal [-- RECORDS [DIR]]`: 400,000 records of about 1 KiB below DIR (default: a folder below target/, which should
//! be on a real disk). Medians of five rounds; the raw writes and the journal take turns.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement may panic and prints its figures"
)]

use std::borrow::Cow;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tidegate::audit::record::{Decision, Ending, Links, Outcome, Party, Request, Verdict};
use tidegate::audit::tree::note::VerifierKey;
use tidegate::audit::verify::{Report, whole};
use tidegate::audit::{Audit, Instance, Settings, round};
use tidegate::model::{AuditMode, RecordId};

const WRITERS: usize = 256;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(4);

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let records: u64 = arguments.next().map_or(400_000, |text| text.parse().unwrap());
    let root = arguments.next().map_or_else(|| PathBuf::from("target/bench-journal"), PathBuf::from);
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).unwrap();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().on_thread_park(round::end).build().unwrap();
    let (mut raw, mut ours) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        raw.push(bare(&root.join("raw")));
        // They stay until the end: for minutes after many files were removed, ext4 is slow to make new ones.
        ours.push(runtime.block_on(append(&root.join(format!("append-{round}")))));
    }
    let (raw, ours) = (median(raw), median(ours));
    println!("bare disk, {WRITERS} records of 1 KiB a write and fdatasync   {raw:>10.0} records/s");
    println!(
        "journal, tree on, {WRITERS} writers that wait for the disk     {ours:>10.0} records/s   {:.2} of it",
        ours / raw
    );
    let journal = root.join("verify");
    runtime.block_on(fill(&journal, records));
    verify(&journal);
    start(&runtime, &journal);
    let _ = fs::remove_dir_all(&root);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Records a second that the disk takes if nothing else is done.
fn bare(path: &Path) -> f64 {
    let file = File::create(path).unwrap();
    let batch = vec![b'x'; WRITERS * 1024];
    let (began, mut offset) = (Instant::now(), 0);
    while began.elapsed() < ROUND {
        file.write_all_at(&batch, offset).unwrap();
        file.sync_data().unwrap();
        offset += batch.len() as u64;
    }
    let rate = (offset / 1024) as f64 / began.elapsed().as_secs_f64();
    fs::remove_file(path).unwrap();
    rate
}

fn open(directory: &Path) -> Audit {
    let settings = Settings { directory: directory.to_owned(), ..Settings::default() };
    Audit::open(&settings, Instance { name: "bench".into(), version: "0" }).unwrap()
}

/// Records a second with all writers waiting for the disk; each decision has an outcome that nobody waits for.
async fn append(directory: &Path) -> f64 {
    let audit = open(directory);
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let (audit, record) = (audit.clone(), decision());
        tasks.spawn(async move {
            while began.elapsed() < ROUND {
                cross(&audit, AuditMode::Required, &record).await;
            }
        });
    }
    tasks.join_all().await;
    let rate = audit.stats().records as f64 / began.elapsed().as_secs_f64();
    audit.close().await;
    rate
}

async fn fill(directory: &Path, records: u64) {
    let audit = open(directory);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let (audit, record) = (audit.clone(), decision());
        tasks.spawn(async move {
            while audit.stats().records < records {
                cross(&audit, AuditMode::BestEffort, &record).await;
            }
        });
    }
    tasks.join_all().await;
    audit.close().await;
}

fn verify(journal: &Path) {
    let key: VerifierKey = fs::read_to_string(journal.join("tree/vkey")).unwrap().parse().unwrap();
    let check = || -> Report { whole::check(journal, Some(&key), None, &AtomicU64::new(0)).unwrap() };
    let mut rates = Vec::new();
    let mut report = check();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        report = check();
        rates.push(report.records as f64 / began.elapsed().as_secs_f64() * 60.0);
    }
    assert!(report.is_good());
    let bytes = report.bytes / report.records;
    println!(
        "verify, {} records of {bytes} bytes               {:>10.1} M records/minute",
        report.records,
        median(rates) / 1e6
    );
}

fn start(runtime: &tokio::runtime::Runtime, journal: &Path) {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let audit = open(journal);
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        runtime.block_on(audit.close());
    }
    println!("start, last segment compared with the tree               {:>10.1} ms", median(times));
}

async fn cross(audit: &Audit, mode: AuditMode, record: &Decision<'_>) {
    let mut draft = audit.draft(RecordId::new(), mode).unwrap();
    draft.decision(record).await.unwrap();
    draft.close(&Outcome { status: Some(200), ..Outcome::bare(Ending::Complete) });
}

fn decision() -> Decision<'static> {
    Decision {
        decision: Verdict::Allow,
        code: None,
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
            path: "/v1/chat/completions".into(),
            query: vec![],
            bytes: 3,
            version: "1.1".into(),
            user_agent: Some("x".repeat(700).into()),
        },
        peer: "192.0.2.7:4711".parse().unwrap(),
        context: Cow::default(),
        evaluations: vec![],
        bundle: "00ff".into(),
        upstream: None,
        body_digest: None,
        opened: None,
        seal: None,
        trace_id: None,
    }
}
