//! The export against a collector that refuses some records: each one at fault is found and set aside, and no other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use tidegate::audit::outbox::{DestinationName, ExportSettings, Health, Outbox, Watch, required_floor};
use tidegate::audit::reader::Reader;
use tidegate::audit::{Audit, Instance};
use tidegate::model::{AuditMode, Duration as Span};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::journal::{cross, open};

/// What a collector answers to the numbers of the records that it got.
pub(crate) type Answer = dyn Fn(&[u64]) -> (u16, Vec<u8>) + Send + Sync;

/// What a collector took, each request by itself.
pub(crate) type Taken = Arc<Mutex<Vec<Vec<Came>>>>;

/// A log record as it came.
#[derive(Debug, Clone)]
pub(crate) struct Came {
    /// The number of the record; none of a checkpoint.
    pub(crate) seq: Option<u64>,
    /// The record, or the checkpoint's note.
    pub(crate) body: String,
}

/// A collector on loopback, and what it took.
pub(crate) async fn collector(answer: Arc<Answer>) -> (String, Taken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let taken = Arc::new(Mutex::new(Vec::new()));
    let kept = taken.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer.clone(), kept.clone()));
        }
    });
    (url, taken)
}

async fn serve(mut stream: TcpStream, answer: Arc<Answer>, taken: Taken) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(
            head.starts_with("post /v1/logs http/1.1") && head.contains("application/x-protobuf"),
            "{head}"
        );
        let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).await.ok()?;
        let came = logs(ExportLogsServiceRequest::decode(body.as_slice()).unwrap());
        let seqs: Vec<u64> = came.iter().filter_map(|came| came.seq).collect();
        let (status, words) = answer(&seqs);
        if status == 200 && words.is_empty() && !came.is_empty() {
            taken.lock().unwrap().push(came);
        }
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", words.len());
        stream.write_all(head.as_bytes()).await.ok()?;
        stream.write_all(&words).await.ok()?;
    }
}

/// The log records of a request.
fn logs(request: ExportLogsServiceRequest) -> Vec<Came> {
    let records = request.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
    let came = |record: opentelemetry_proto::tonic::logs::v1::LogRecord| {
        let number = record.attributes.iter().find(|attribute| attribute.key == "tidegate.seq");
        let seq = match number.and_then(|number| number.value.as_ref()?.value.as_ref()) {
            Some(Value::IntValue(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let Some(Value::StringValue(body)) = record.body.and_then(|body| body.value) else {
            panic!("a log record without a text")
        };
        Came { seq, body }
    };
    records.flat_map(|scope| scope.log_records).map(came).collect()
}

pub(crate) fn export(audit: &Audit, dir: &Path, url: &str) -> Outbox {
    let name: DestinationName = "backend".parse().unwrap();
    let text = format!("endpoint = \"{url}\"\ndelay = \"10ms\"\nretry_max = \"100ms\"\n");
    let settings: ExportSettings = toml::from_str(&text).unwrap();
    assert!(settings.required && settings.timeout == Span::secs(10));
    let instance = Instance { name: "border-1".into(), version: "0" };
    Outbox::start(audit, dir, &instance, &BTreeMap::from([(name, settings)])).unwrap()
}

pub(crate) async fn until(watch: &Watch, what: impl Fn(&tidegate::audit::outbox::ExportStats) -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let stats = watch.stats().next().unwrap().1;
        if what(&stats) {
            return;
        }
        assert!(Instant::now() < end, "{stats:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn dead_letters(dir: &Path) -> Vec<u64> {
    let text = fs::read_to_string(dir.join("export/backend/dead-letters.jsonl")).unwrap_or_default();
    let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap();
    text.lines().map(line).collect()
}

/// Forty crossings of which some records are at fault; gives what was taken.
async fn refused(bad: &'static [u64], answer: Arc<Answer>) -> Vec<Vec<u64>> {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    for _ in 0..40 {
        cross(&audit, AuditMode::Required).await;
    }
    let (url, taken) = collector(answer).await;
    let outbox = export(&audit, dir.path(), &url);
    let watch = outbox.watch();
    // The log's opening, the start, two records a crossing, and the event that tells of the refusal, if there is one.
    let all = 82 + u64::from(!bad.is_empty());
    until(&watch, |stats| {
        stats.lag_records == 0 && stats.sent + stats.dead_letters >= all && stats.health == Health::Sending
    })
    .await;
    audit.close().await;
    outbox.close(Duration::from_secs(5)).await;
    assert_eq!(dead_letters(dir.path()), bad);
    let numbers = |came: &Vec<Came>| came.iter().filter_map(|came| came.seq).collect::<Vec<u64>>();
    let mut taken: Vec<Vec<u64>> = taken.lock().unwrap().iter().map(numbers).collect();
    taken.retain(|seqs| !seqs.is_empty());
    let distinct: BTreeSet<u64> = taken.iter().flatten().copied().collect();
    // All that the journal holds: also the record of the stop, which leaves while the gateway ends.
    let mut reader = Reader::open(dir.path(), None).unwrap();
    let mut held = 0;
    while reader.read_next().unwrap().is_some() {
        held += 1;
    }
    assert!(held > all);
    let expected: BTreeSet<u64> = (0..held).filter(|seq| !bad.contains(seq)).collect();
    assert_eq!(distinct, expected);
    assert_eq!(required_floor(dir.path()), Some(held));
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_at_fault_are_found_in_their_batch() {
    static BAD: [u64; 4] = [0, 17, 18, 60];
    let taken = refused(
        &BAD,
        Arc::new(|seqs: &[u64]| match seqs.iter().any(|seq| BAD.contains(seq)) {
            true => (400, b"no".to_vec()),
            false => (200, Vec::new()),
        }),
    )
    .await;
    let flat: Vec<u64> = taken.concat();
    assert!(flat.is_sorted_by(|a, b| a < b), "in order, and none twice: {flat:?}");
    assert!(taken.len() < 30, "{} requests were taken: halving keeps batches", taken.len());
}

/// Refused, then an empty request is taken: that looks like a record at fault, and may be a collector that was mended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_mended_between_two_answers_gets_every_record() {
    let mended = AtomicBool::new(false);
    let answer =
        move |seqs: &[u64]| match mended.fetch_or(seqs.is_empty(), Ordering::SeqCst) || seqs.is_empty() {
            true => (200, Vec::new()),
            false => (400, b"not yet".to_vec()),
        };
    refused(&[], Arc::new(answer)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partial_success_is_settled_one_by_one() {
    static BAD: [u64; 2] = [5, 81];
    let partial = |rejected| {
        let error_message = "no".to_owned();
        let partial_success = ExportLogsPartialSuccess { rejected_log_records: rejected, error_message };
        ExportLogsServiceResponse { partial_success: Some(partial_success) }.encode_to_vec()
    };
    let answer = move |seqs: &[u64]| match seqs.iter().filter(|seq| BAD.contains(seq)).count() {
        0 => (200, Vec::new()),
        some => (200, partial(i64::try_from(some).unwrap())),
    };
    refused(&BAD, Arc::new(answer)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_whatever_it_is_stays_in_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    let (url, taken) = collector(Arc::new(|_: &[u64]| (422, b"never".to_vec()))).await;
    let outbox = export(&audit, dir.path(), &url);
    let watch = outbox.watch();
    until(&watch, |stats| stats.health == Health::Denied && stats.failures > 3).await;
    audit.close().await;
    let began = Instant::now();
    outbox.close(Duration::from_secs(20)).await;
    assert!(began.elapsed() < Duration::from_secs(10), "the end does not wait for what is refused");
    assert_eq!((dead_letters(dir.path()), taken.lock().unwrap().len()), (vec![], 0));
    assert_eq!(required_floor(dir.path()), Some(0));
}
