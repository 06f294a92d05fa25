//! Exports, bundles and the comparison with a backend: what leaves the journal for others, and what they find in it.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::MultiGzDecoder;
use jiff::Timestamp;
use serde_json::{Value, json};
use tidegate::audit::filter::Filter;
use tidegate::audit::frame::{self, Decoded, Kind};
use tidegate::audit::reader::Reader;
use tidegate::audit::reconcile::{Reconciled, reconcile};
use tidegate::audit::record::{Ending, Outcome, Verdict};
use tidegate::audit::report::ReportError;
use tidegate::audit::report::bundle::{self, Bundle};
use tidegate::audit::report::export::{Form, Format, export};
use tidegate::audit::subjects::{self, Erased};
use tidegate::audit::tree::note::VerifierKey;
use tidegate::audit::tree::{Hash, leaf_hash, window};
use tidegate::audit::verify::range::Bound;
use tidegate::audit::{Audit, Instance, PersonalData};
use tidegate::model::{AuditMode, RecordId};

use super::journal::{cross, decision, open, settings};
use super::journal_keep::{DAY, Moved, blocking, decide, fill, of_user, payloads, start};

struct Journal {
    dir: tempfile::TempDir,
}

impl Journal {
    /// Crossings, one denial, and one permitted crossing whose outcome is not known.
    async fn new(crossings: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let audit = open(&dir.path().join("journal"));
        for _ in 0..crossings {
            cross(&audit, AuditMode::BestEffort).await;
        }
        let mut draft = audit.draft(RecordId::new(), AuditMode::BestEffort).unwrap();
        draft.decision(&decision(Verdict::Deny)).await.unwrap();
        draft.close(&Outcome { status: Some(403), ..Outcome::bare(Ending::Refused) });
        audit.close().await;
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn key(&self) -> VerifierKey {
        fs::read_to_string(self.path().join("tree/vkey")).unwrap().parse().unwrap()
    }

    fn bundle(&self, from: u64, to: u64, name: &str) -> Result<Bundle, ReportError> {
        let period = (Bound::Record(from), Bound::Record(to));
        bundle::write(&self.path(), period, Some(&self.key()), None, &self.out(name), &AtomicU64::new(0))
    }

    fn records(&self) -> Vec<String> {
        let (mut reader, mut all) = (Reader::open(&self.path(), None).unwrap(), Vec::new());
        while let Some(stored) = reader.read_next().unwrap() {
            all.push(String::from_utf8(stored.payload.to_vec()).unwrap());
        }
        all
    }
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_bundle_holds_exactly_the_period_and_gives_the_signed_root() {
    let journal = Journal::new(700).await;
    let made = journal.bundle(300, 900, "period").unwrap();
    let (log, records) = (&made.logs[0], journal.records());
    assert_eq!((log.window, log.period, log.size), ((299, 901), (300, 900), records.len() as u64));
    assert!(made.trusted && made.statistics.records == 600 && made.missing_policies == ["00ff"]);
    let directory = journal.out("period").join(&log.directory);
    let found = lines(&directory.join("records.jsonl"));
    assert_eq!(found[..], records[299..901]);

    let description = json_of(&directory.join("window.json"));
    let hashes: Vec<Hash> = description["hashes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hash| STANDARD.decode(hash.as_str().unwrap()).unwrap().try_into().unwrap())
        .collect();
    let root = |records: &[String], first: u64| {
        let leaves: Vec<Hash> = records.iter().map(|record| leaf_hash(record.as_bytes())).collect();
        window::root(&leaves, first, log.size, &hashes)
            .map(|root| root.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    };
    assert_eq!(root(&found, 299).as_ref(), Some(&log.root));
    assert_ne!(root(&found[1..], 299).as_ref(), Some(&log.root));
    assert_ne!(root(&found, 300).as_ref(), Some(&log.root));

    let manifest = json_of(&journal.out("period").join("manifest.json"));
    assert_eq!((&manifest["records"], &manifest["logs"][0]["root"]), (&json!(600), &json!(log.root)));
    let names: Vec<&str> =
        manifest["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    for name in ["README.md", "index.html", "statistics.json", "verify.py", "vkey"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let page = fs::read_to_string(journal.out("period/index.html")).unwrap();
    assert!(
        !page.contains("<script") && !page.contains("http-equiv=\"refresh\"") && !page.contains("\u{1b}")
    );

    let again = journal.bundle(300, 900, "period").unwrap_err();
    assert!(matches!(again, ReportError::Exists(_)), "{again}");
    assert!(matches!(journal.bundle(5_000, 6_000, "none"), Err(ReportError::Empty)));
    journal.bundle(0, u64::MAX, "all.tar").unwrap();
    assert!(fs::metadata(journal.out("all.tar")).unwrap().len() > 100_000);
    let left: Vec<_> =
        fs::read_dir(journal.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[tokio::test]
async fn a_period_over_two_logs_has_a_part_for_each() {
    let journal = Journal::new(30).await;
    let renamed = Instance { name: "border-2".into(), version: "0" };
    let audit = Audit::open(&settings(&journal.path()), renamed).unwrap();
    cross(&audit, AuditMode::BestEffort).await;
    audit.close().await;
    let made = journal.bundle(10, u64::MAX, "both").unwrap();
    let [first, second] = &made.logs[..] else { panic!("{made:?}") };
    assert!(first.origin.contains("/border-1/") && second.origin.contains("/border-2/"));
    assert_eq!((first.window.0, second.window, second.period.0), (9, (0, second.size), 0));
    assert_eq!(made.statistics.records, journal.records().len() as u64 - 10);
    for log in &made.logs {
        let records = lines(&journal.out("both").join(&log.directory).join("records.jsonl"));
        assert_eq!(records.len() as u64, log.window.1 - log.window.0);
    }
}

#[tokio::test]
async fn a_time_finds_its_records_and_those_beside_them() {
    let journal = Journal::new(200).await;
    let times: Vec<Timestamp> = journal
        .records()
        .iter()
        .map(|record| {
            serde_json::from_str::<Value>(record).unwrap()["time"].as_str().unwrap().parse().unwrap()
        })
        .collect();
    let (from, to) = (times[100], times[300]);
    let period = (Bound::Time(from), Bound::Time(to));
    let made = bundle::write(&journal.path(), period, None, None, &journal.out("period"), &AtomicU64::new(0))
        .unwrap();
    assert!(!made.trusted);
    let within = |index: u64| {
        times[usize::try_from(index).unwrap()] >= from && times[usize::try_from(index).unwrap()] < to
    };
    let (first, end) = made.logs[0].period;
    assert!(within(first) && within(end - 1));
    assert!((0..first).chain(end..times.len() as u64).all(|index| !within(index)));
    assert_eq!(made.logs[0].window, (first - 1, end + 1));
}

#[tokio::test]
async fn no_bundle_is_made_of_records_that_are_not_as_they_were_signed() {
    let journal = Journal::new(40).await;
    let path = journal.path().join("seg-00000000000000000000.log");
    let (bytes, mut forged, mut at) = (fs::read(&path).unwrap(), Vec::new(), 0);
    while let Ok(Decoded::Frame(frame, size)) = frame::decode(&bytes[at..]) {
        let text = String::from_utf8(frame.payload.to_vec()).unwrap();
        let changed =
            if frame.seq == 20 && frame.kind == Kind::Allow { text.replace("alice", "mally") } else { text };
        frame::encode(&mut forged, frame.seq, frame.kind, frame.time, changed.as_bytes());
        at += size;
    }
    fs::write(&path, forged).unwrap();
    let error = journal.bundle(10, 30, "period").unwrap_err();
    assert!(error.is_negative() && error.to_string().contains("record 20 "), "{error}");
    assert!(!journal.out("period").exists());
    journal.bundle(40, 60, "later").unwrap();
}

#[tokio::test]
async fn an_export_holds_what_was_asked_for() {
    let journal = Journal::new(50).await;
    let filter = Filter { decision: Some(tidegate::audit::filter::Decided::Deny), ..Filter::default() };
    for (format, file) in [
        (Format::JsonLines, "records.jsonl"),
        (Format::Csv, "records.csv"),
        (Format::Ocsf, "records.ocsf.jsonl"),
    ] {
        let out = journal.out(format.name());
        let form = Form { format, gzip: false };
        let exported = export(&journal.path(), &filter, form, &out, &AtomicU64::new(0)).unwrap();
        assert_eq!(exported.records, 2, "a denial and its outcome");
        let manifest = json_of(&out.join("manifest.json"));
        assert_eq!((&manifest["records"], &manifest["filters"]), (&json!(2), &json!({"decision": "deny"})));
        assert_eq!(manifest["files"][0]["name"], file);
        assert!(fs::read_to_string(out.join(file)).unwrap().contains("not_permitted"));
    }
    let denied = lines(&journal.out("ocsf").join("records.ocsf.jsonl"));
    let ended: Value = serde_json::from_str(&denied[1]).unwrap();
    assert_eq!(ended["actor"]["user"]["uid"], "https://issuer.example|alice");
    let whole = export(
        &journal.path(),
        &Filter::default(),
        Form { format: Format::JsonLines, gzip: false },
        &journal.out("whole"),
        &AtomicU64::new(0),
    )
    .unwrap();
    assert_eq!(whole.records, journal.records().len() as u64);
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_compressed_export_is_the_same_and_its_manifest_hashes_what_is_written() {
    let journal = Journal::new(50).await;
    let write = |format: Format, gzip: bool, name: &str| {
        let out = journal.out(name);
        let counted = AtomicU64::new(0);
        export(&journal.path(), &Filter::default(), Form { format, gzip }, &out, &counted).unwrap();
        out
    };
    for (format, file) in [
        (Format::JsonLines, "records.jsonl"),
        (Format::Csv, "records.csv"),
        (Format::Ocsf, "records.ocsf.jsonl"),
    ] {
        let plain = write(format, false, &format!("{}-plain", format.name()));
        let packed = write(format, true, &format!("{}-packed", format.name()));
        let (packed_file, plain_bytes) =
            (packed.join(format!("{file}.gz")), fs::read(plain.join(file)).unwrap());
        let bytes = fs::read(&packed_file).unwrap();
        assert!(bytes.len() * 3 < plain_bytes.len());
        assert_eq!(unpacked(&bytes), plain_bytes);
        let manifest = json_of(&packed.join("manifest.json"));
        assert_eq!(manifest["compression"], "gzip");
        assert_eq!(manifest["files"][0]["name"], format!("{file}.gz"));
        assert_eq!(manifest["files"][0]["sha256"], sha256(&bytes));
        assert_eq!(manifest["files"][0]["bytes"], bytes.len());
        assert!(json_of(&plain.join("manifest.json"))["compression"].is_null());
        let reconciled = reconcile(&journal.path(), &[packed_file], None, (None, None), &AtomicU64::new(0));
        match format {
            Format::Ocsf => assert!(reconciled.unwrap().agrees()),
            Format::JsonLines => {}
            Format::Csv => assert!(reconciled.unwrap_err().to_string().contains("--column")),
        }
    }
    // The whole directory as one file, by its name.
    for name in ["all.tar.gz", "all.tgz", "all.tar"] {
        let out = write(Format::Csv, false, name);
        let bytes = fs::read(&out).unwrap();
        let tar = if name.ends_with("gz") { unpacked(&bytes) } else { bytes };
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["all/manifest.json", "all/records.csv"], "{name}");
    }
}

fn compared(journal: &Journal, rows: &[Value]) -> Reconciled {
    let logs = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": rows}]}]});
    let path = journal.out("export.json");
    fs::write(&path, logs.to_string()).unwrap();
    reconcile(&journal.path(), &[path], None, (None, None), &AtomicU64::new(0)).unwrap()
}

fn otlp(uid: &str, body: &str) -> Value {
    json!({"body": {"stringValue": body}, "attributes": [{"key": "log.record.uid", "value": {"stringValue": uid}}]})
}

#[tokio::test]
async fn a_backend_that_lost_added_or_changed_records_is_found_out() {
    let journal = Journal::new(20).await;
    let mut rows: Vec<Value> = (0..)
        .zip(journal.records())
        .map(|(seq, record)| {
            otlp(&tidegate::audit::formats::uid(seq, &serde_json::from_str(&record).unwrap()), &record)
        })
        .collect();
    let note = fs::read_to_string(journal.path().join("tree/log-00000000000000000000/checkpoint")).unwrap();
    rows.push(otlp("checkpoint/x/1/1", &note));
    let good = compared(&journal, &rows);
    assert!(good.agrees() && good.found == good.journal && good.compared == good.found, "{good:?}");
    assert_eq!((good.checkpoints, good.journal, good.duplicates), (1, journal.records().len() as u64, 0));

    let mut wrong = rows.clone();
    wrong.remove(7);
    wrong[3]["body"]["stringValue"] = "{}".into();
    wrong.push(wrong[5].clone());
    wrong.push(otlp("made-up/1/decision", "{}"));
    wrong.push(otlp("checkpoint/x/2/2", &note.replace("\n45\n", "\n4500\n")));
    let found = compared(&journal, &wrong);
    let counts =
        [&found.missing, &found.differing, &found.unknown, &found.rewritten].map(|findings| findings.count);
    assert_eq!((counts, found.duplicates), ([1, 1, 1, 1], 1), "{found:?}");
    assert_eq!((found.missing.first[0].seq, found.differing.first[0].seq), (Some(7), Some(3)));
    assert!(!found.agrees());
}

/// Records that retention removed are never passed over in silence, and those that it compressed are read as the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_of_an_old_journal_proves_what_is_left_and_says_what_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal { dir };
    fs::create_dir(journal.path()).unwrap();
    let clock = Arc::new(Moved(AtomicI64::new(0)));
    for (age, crossings) in [(900, 1000), (200, 1000)] {
        clock.0.store(-age * DAY, Ordering::SeqCst);
        let audit = start(&journal.path(), &clock, |_| ());
        fill(&audit, crossings).await;
        audit.close().await;
    }
    clock.0.store(0, Ordering::SeqCst);
    let audit = start(&journal.path(), &clock, |_| ());
    fill(&audit, 200).await;
    let pruned = blocking(&audit, |audit| audit.prune().unwrap()).await;
    audit.close().await;
    assert!(pruned.segments > 0, "{pruned:?}");
    let compressed = fs::read_dir(journal.path()).unwrap().flatten();
    let compressed =
        compressed.filter(|entry| entry.path().extension().is_some_and(|end| end == "gz")).count();
    assert!(compressed > 0, "nothing was compressed");

    let (first, last) = payloads(&journal.path())
        .iter()
        .map(|(seq, _)| *seq)
        .fold((u64::MAX, 0), |(low, high), seq| (low.min(seq), high.max(seq)));
    assert_eq!(first, pruned.below);
    let whole = journal.bundle(first, last + 1, "whole").unwrap();
    assert!(whole.trusted);
    assert_eq!(whole.deleted_below, Some(first));
    let readme = fs::read_to_string(journal.out("whole/README.md")).unwrap();
    assert!(readme.contains(&format!("Records below {first} had been deleted")), "{readme}");
    let later = journal.bundle(first + 1, last + 1, "later").unwrap();
    assert_eq!(later.deleted_below, None);
    let written: Vec<String> = whole
        .logs
        .iter()
        .flat_map(|log| lines(&journal.out("whole").join(&log.directory).join("records.jsonl")))
        .collect();
    assert_eq!(written, journal.records());
    // By time, over all of it: what is left, and the note. Of a time of which nothing is left: why.
    let days = |days: i64| Bound::Time(Timestamp::now() - jiff::SignedDuration::from_hours(24 * days));
    let by_time = |from: i64, to: i64, name: &str| {
        let period = (days(from), days(to));
        bundle::write(&journal.path(), period, None, None, &journal.out(name), &AtomicU64::new(0))
    };
    let all = by_time(2000, 0, "all").unwrap();
    assert_eq!((all.deleted_below, all.statistics.records), (Some(first), written.len() as u64));
    let gone = by_time(2000, 950, "gone").unwrap_err();
    assert!(
        gone.is_negative() && gone.to_string().contains(&format!("those below {first} were deleted")),
        "{gone}"
    );
    assert!(matches!(by_time(100, 50, "quiet"), Err(ReportError::Empty)));
    // A period that begins before the first record that is left.
    match journal.bundle(0, last + 1, "more") {
        Err(error) => assert!(error.to_string().contains(&first.to_string()), "{error}"),
        Ok(bundle) => panic!("records 0 to {} are gone, and nobody said so: {bundle:?}", first - 1),
    }
}

/// What is erased stays erased in a bundle, which proves the records all the same.
#[tokio::test]
async fn a_bundle_of_erasable_records_names_nobody() {
    const ALICE: &str = "https://issuer.example|alice";
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal { dir };
    fs::create_dir(journal.path()).unwrap();
    let clock = Arc::new(Moved(AtomicI64::new(0)));
    let audit = start(&journal.path(), &clock, |settings| settings.personal = PersonalData::Erasable);
    for user in [ALICE, "https://issuer.example|bob", ALICE] {
        decide(&audit, &of_user(user)).await;
    }
    audit.close().await;
    let last = payloads(&journal.path()).last().unwrap().0;
    let bundle = journal.bundle(0, last + 1, "kept").unwrap();
    assert!(bundle.trusted);
    let mut folders = vec![journal.out("kept")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let bytes = fs::read(entry.path()).unwrap();
            for name in ["|alice", "|bob"] {
                assert!(
                    memchr::memmem::find(&bytes, name.as_bytes()).is_none(),
                    "{name} in {:?}",
                    entry.path()
                );
            }
        }
    }
    let tenant = "acme".parse().unwrap();
    let subject = subjects::find(&journal.path(), &tenant, ALICE).unwrap().unwrap();
    let erased = Erased { at: Timestamp::now(), actor: "uid:0".into(), reason: None };
    subjects::destroy(&journal.path(), subject, &erased).unwrap();
    assert!(journal.bundle(0, last + 1, "erased").unwrap().trusted, "the proof does not need the key");
}
