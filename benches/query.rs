//! `tidegate audit query` over a large journal: making the index, searching it, and the same while a gateway's journal is written.
//!
//! `cargo bench --bench query [-- RECORDS [DIR]]`: 1,000,000 records (half decisions, half outcomes) of 200 principals below DIR (default: a
//! folder below target/). Each search is what the command does: open the index, read on, search, take the records from the journal.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement may panic and prints its figures"
)]

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidegate::audit::filter::{Decided, Filter};
use tidegate::audit::index::{Index, Renewed, Watch};
use tidegate::audit::record::{Decision, Ending, Entity, Links, Marking, Outcome, Party, Request, Verdict};
use tidegate::audit::{Audit, Instance, Settings};
use tidegate::model::{AuditMode, Level, RecordId, Residency};

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let records: u64 = arguments.next().map_or(1_000_000, |text| text.parse().unwrap());
    let journal = arguments.next().map_or_else(|| PathBuf::from("target/bench-query"), PathBuf::from);
    let _ = fs::remove_dir_all(&journal);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let settings = Settings { directory: journal.clone(), ..Settings::default() };
    let audit = {
        let _inside = runtime.enter();
        Audit::open(&settings, Instance { name: "bench".into(), version: "0" }).unwrap()
    };
    runtime.block_on(write(&audit, 0..records / 2));

    let mut read = Read::default();
    let (_, took) = timed(|| Index::open(&journal, &mut read).unwrap());
    println!(
        "make the index: {} records in {took:.2?}, {:.0} records/s",
        read.0,
        read.0 as f64 / took.as_secs_f64()
    );
    println!("index: {} MiB, journal: {} MiB", size(&journal.join("index")) >> 20, size(&journal) >> 20);
    searches(&journal, "nothing else runs");

    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writing = runtime.spawn({
        let (audit, stop, written) = (audit.clone(), Arc::clone(&stop), Arc::clone(&written));
        async move {
            let mut next = records / 2;
            // 2,000 crossings a second, as a busy gateway on this machine.
            let mut tick = tokio::time::interval(Duration::from_millis(50));
            while !stop.load(Ordering::Relaxed) {
                tick.tick().await;
                write(&audit, next..next + 100).await;
                next += 100;
                written.fetch_add(200, Ordering::Relaxed);
            }
        }
    });
    let began = Instant::now();
    searches(&journal, "while the journal is written");
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(writing).unwrap();
    println!(
        "written meanwhile: {:.0} records/s",
        written.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
    );
    runtime.block_on(audit.close());
    let _ = fs::remove_dir_all(&journal);
}

fn searches(journal: &Path, when: &str) {
    let text = |text: &str| Some(text.to_owned());
    let all = Filter::default();
    let filters = [
        ("who", Filter { principal: text("user-137"), ..all.clone() }),
        ("nobody", Filter { principal: text("mallory"), ..all.clone() }),
        (
            "decision and label",
            Filter {
                decision: Some(Decided::Deny),
                label: Some("restricted".parse().unwrap()),
                ..all.clone()
            },
        ),
        ("policy", Filter { policy: text("policy-3"), ..all.clone() }),
        ("team and resource", Filter { team: text("team-5"), resource: text("dataset-11"), ..all.clone() }),
        (
            "cluster, last minute",
            Filter {
                cluster: text("us"),
                from: Some(jiff::Timestamp::now() - jiff::SignedDuration::from_mins(1)),
                ..all.clone()
            },
        ),
        ("all allowed", Filter { decision: Some(Decided::Allow), ..all }),
    ];
    println!("\n{when}: search, median and worst of 9, found");
    for (name, filter) in filters {
        let (mut times, mut found) = (Vec::new(), 0);
        for _ in 0..9 {
            let ((), took) = timed(|| {
                let index = Index::open(journal, &mut Read::default()).unwrap();
                let (hits, total) = index.search(&filter, 100).unwrap();
                assert!(hits.len() as u64 == total.min(100));
                found = total;
            });
            times.push(took);
            std::thread::sleep(Duration::from_millis(100));
        }
        times.sort();
        println!("  {name:<22} {:>10.1?} {:>10.1?} {found:>9}", times.get(4).unwrap(), times.last().unwrap());
    }
}

#[derive(Default)]
struct Read(u64);

impl Watch for Read {
    fn renewed(&mut self, why: Renewed) {
        println!("{}", why.text());
    }

    fn waits(&mut self) {}

    fn read(&mut self, _: usize) {
        self.0 += 1;
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let result = work();
    (result, began.elapsed())
}

fn size(path: &Path) -> u64 {
    let entries =
        fs::read_dir(path).unwrap().filter_map(Result::ok).filter_map(|entry| entry.metadata().ok());
    entries.filter(fs::Metadata::is_file).map(|file| file.len()).sum()
}

async fn write(audit: &Audit, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let mut draft = loop {
            match audit.draft(RecordId::new(), AuditMode::BestEffort) {
                Ok(draft) => break draft,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        draft.decision(&decision(number)).await.unwrap();
        draft.close(&Outcome { status: Some(200), ..Outcome::bare(Ending::Complete) });
    }
}

fn decision(number: u64) -> Decision<'static> {
    let denied = number % 10 == 3;
    let levels = [Level::Public, Level::Internal, Level::Confidential, Level::Restricted];
    let cluster = if number.is_multiple_of(3) { "us" } else { "eu" };
    Decision {
        decision: if denied { Verdict::Deny } else { Verdict::Allow },
        code: denied.then_some(Cow::Borrowed("policy_denied")),
        policies: vec![Arc::from(format!("policy-{}", number % 40))].into(),
        route: "data".into(),
        mode: AuditMode::BestEffort,
        tenant: "acme".into(),
        principal: Party {
            kind: "User".into(),
            id: format!("https://issuer.example|user-{}", number * 7919 % 200).into(),
            teams: vec![format!("team-{}", number % 12).parse().unwrap()].into(),
            authn: "jwt".into(),
            credential: Some("6f".repeat(32).into()),
        },
        chain: Links::default(),
        action: Some("read".into()),
        resource: Some(Entity { kind: "Dataset".into(), id: format!("dataset-{}", number % 50).into() }),
        destination: Some(cluster.into()),
        label: Some(Marking {
            level: levels.get((number % 4) as usize).copied().unwrap(),
            residency: Cow::Owned(Residency::default()),
            origin: "dataset".into(),
        }),
        protection: Some("none".into()),
        request: Request {
            method: "GET".into(),
            host: "gateway.example".into(),
            path: format!("/data/hmac:{}", "8f".repeat(32)).into(),
            query: vec![],
            bytes: 0,
            version: "2".into(),
            user_agent: Some("bench/1.0".into()),
        },
        peer: "192.0.2.7:4711".parse().unwrap(),
        context: Cow::Owned(serde_json::json!({"now": "x".repeat(600)}).as_object().unwrap().clone()),
        evaluations: vec![],
        bundle: "00".repeat(32).into(),
        upstream: None,
        seal: None,
        opened: None,
        body_digest: None,
        trace_id: Some("4b".repeat(16).into()),
    }
}
