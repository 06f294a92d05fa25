//! A report says whether the archived policies decide again what was decided: over real decisions, with bundles that are missing,
//! changed, or others, and with users that were erased.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use jiff::Timestamp;
use serde_json::{Value, json};
use tidegate::audit::PersonalData;
use tidegate::audit::record::{Decision, Record};
use tidegate::audit::report::bundle::{self, Bundle as Report};
use tidegate::audit::subjects::{self, Erased};
use tidegate::audit::verify::range::Bound;
use tidegate::cli::audit::report::Archive;
use tidegate::policy::Bundle;
use tidegate::policy::replay::Replayer;

use super::super::journal_keep::{Moved, decide, start};
use super::super::journal_tree::tidegate;
use super::fixture::Border;
use super::replay::{Bench, is_decided, pair};

fn report(journal: &Path, out: &Path) -> Report {
    let mut archive = Archive(Replayer::new(&journal.join("bundles")));
    let all = (Bound::Record(0), Bound::Record(u64::MAX));
    bundle::write(journal, all, None, Some(&mut archive), out, &AtomicU64::new(0)).unwrap()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&read(path)).unwrap()
}

/// Puts policies that are those of `from` and others into an archive, under their true hash.
fn archived(from: &Path, archive: &Path, change: impl FnOnce(&Path)) -> String {
    let changed = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(entry.path(), changed.path().join(entry.file_name())).unwrap();
    }
    change(changed.path());
    let hash = Bundle::load(changed.path()).unwrap().hash().to_owned();
    std::fs::create_dir_all(archive.join(&hash)).unwrap();
    for entry in std::fs::read_dir(changed.path()).unwrap().flatten() {
        std::fs::copy(entry.path(), archive.join(&hash).join(entry.file_name())).unwrap();
    }
    hash
}

/// The decision of a record, as if it had been taken by another bundle.
fn claimed(record: &Value, hash: &str) -> Decision<'static> {
    let (_, record) = Record::parse(record.to_string().as_bytes()).unwrap();
    let Record::Decision(mut decision) = record else { panic!("{record:?}") };
    decision.bundle = hash.to_owned().into();
    *decision
}

#[tokio::test]
async fn a_report_counts_what_agrees_and_what_cannot_be_asked() {
    let bench = Bench::start().await;
    bench.day().await;
    let records = bench.border.journal();
    let Border { dir, running } = bench.border;
    running.shutdown().await;
    let journal = dir.path().join("journal");
    let decided = records.iter().filter(is_decided).count() as u64;
    let rejected =
        records.iter().filter(|r| r["kind"] == "decision" && r["decision"] == "reject").count() as u64;
    assert!(decided > 200, "{decided}");

    let whole = report(&journal, &dir.path().join("whole"));
    let found = whole.agreement.unwrap();
    assert_eq!((found.agreed, found.differed, found.impossible()), (decided, 0, 0), "{found:?}");
    assert_eq!(found.not_asked, rejected);
    let written = json_of(&dir.path().join("whole/replay.json"));
    assert_eq!((&written["agreed"], &written["differing"]), (&json!(decided), &json!([])));
    assert_eq!(json_of(&dir.path().join("whole/manifest.json"))["replay"]["agreed"], decided);
    assert!(read(&dir.path().join("whole/index.html")).contains("<b>All agree.</b>"));
    assert!(read(&dir.path().join("whole/README.md")).contains(&format!("{decided} agree, 0 differ")));

    // A bundle whose files are not those of its name is never asked.
    let hash = records.iter().find(is_decided).unwrap()["bundle"].as_str().unwrap().to_owned();
    let file = journal.join("bundles").join(&hash).join("20-inference.cedar");
    std::fs::write(&file, read(&file).replace("level <= 2", "level <= 3")).unwrap();
    let changed = report(&journal, &dir.path().join("changed")).agreement.unwrap();
    assert_eq!((changed.agreed, changed.not_possible["bundle_changed"]), (0, decided), "{changed:?}");
    assert_eq!(changed.not_replayed[0].bundle, hash);
    assert!(changed.not_replayed[0].why[0].contains("they hash to "), "{:?}", changed.not_replayed[0]);
    assert!(!read(&dir.path().join("changed/index.html")).contains("All agree."));

    std::fs::rename(journal.join("bundles").join(&hash), dir.path().join("elsewhere")).unwrap();
    let gone = report(&journal, &dir.path().join("gone"));
    assert_eq!(gone.missing_policies, [hash]);
    let gone = gone.agreement.unwrap();
    assert_eq!((gone.agreed, gone.not_possible["bundle_missing"]), (0, decided));
    let page = read(&dir.path().join("gone/index.html"));
    assert!(
        page.contains("<b>None could be asked again.</b>")
            && page.contains(&format!("bundle_missing {decided}"))
    );

    assert!(!page.contains(dir.path().to_str().unwrap()), "where the journal lies is nobody's business");

    // Whoever does not want it is told that it was not done.
    let (path, quiet) = (journal.to_str().unwrap(), dir.path().join("quiet"));
    let (code, _, err) = tidegate(&[
        "audit",
        "report",
        "--journal",
        path,
        "--from",
        "0",
        "--without-replay",
        "-o",
        quiet.to_str().unwrap(),
    ]);
    assert_eq!(code, 0, "{err}");
    assert!(!quiet.join("replay.json").exists() && json_of(&quiet.join("manifest.json"))["replay"].is_null());
    assert!(read(&quiet.join("index.html")).contains("They were not asked when this was made."));
}

#[tokio::test]
async fn a_decision_that_its_policies_do_not_take_is_named() {
    let (bench, allowed, denied) = pair().await;
    let Border { dir, running } = bench.border;
    running.shutdown().await;
    let from = dir.path().join("journal/bundles").join(allowed["bundle"].as_str().unwrap());

    // A journal that says that stricter policies took the same decisions: signed, whole, and not true.
    let doctored = dir.path().join("doctored");
    std::fs::create_dir(&doctored).unwrap();
    let hash = archived(&from, &doctored.join("bundles"), |policies| {
        let file = policies.join("20-inference.cedar");
        let (rest, changed) =
            (read(&file), read(&file).replacen("context.data.level <= 2", "context.data.level <= 0", 1));
        assert_ne!(rest, changed);
        std::fs::write(&file, changed).unwrap();
    });
    let audit = start(&doctored, &Arc::new(Moved(AtomicI64::new(0))), |_| ());
    let lie = decide(&audit, &claimed(&allowed, &hash)).await;
    decide(&audit, &claimed(&denied, &hash)).await;
    audit.close().await;

    let out = dir.path().join("out");
    let (code, text, err) = tidegate(&[
        "audit",
        "report",
        "--journal",
        doctored.to_str().unwrap(),
        "--from",
        "0",
        "-o",
        out.to_str().unwrap(),
    ]);
    assert_eq!(code, 1, "{text}{err}");
    assert!(text.contains("1 agree, 1 differ, 0 could not be asked again"), "{text}");
    let found = json_of(&out.join("replay.json"));
    let listed = &found["differing"][0];
    assert_eq!((&listed["id"], &listed["bundle"]), (&json!(lie), &json!(hash)), "{found:#}");
    assert!(listed["why"][0].as_str().unwrap().contains("these policies say `deny`"), "{found:#}");
    let page = read(&out.join("index.html"));
    assert!(page.contains("<b>Not all agree.</b>") && page.contains(&lie.to_string()));
}

#[tokio::test]
async fn users_are_put_back_to_be_asked_about_and_stay_hidden_in_the_report() {
    let (bench, allowed, _) = pair().await;
    let Border { dir, running } = bench.border;
    running.shutdown().await;
    let from = dir.path().join("journal/bundles").join(allowed["bundle"].as_str().unwrap());
    let journal = dir.path().join("erasable");
    std::fs::create_dir(&journal).unwrap();
    // Policies that know the user by name: asked about an alias they would forbid.
    let user = allowed["context"]["principal"]["uid"]["id"].as_str().unwrap();
    let hash = archived(&from, &journal.join("bundles"), |policies| {
        let rule = format!(
            "@id(\"only-ada\")\n@owner(\"platform\")\n@reason(\"nobody else\")\nforbid (principal, action, resource)\n\
             unless {{ principal == Tidegate::User::\"{user}\" }};\n"
        );
        std::fs::write(policies.join("95-only.cedar"), rule).unwrap();
    });
    let audit = start(&journal, &Arc::new(Moved(AtomicI64::new(0))), |settings| {
        settings.personal = PersonalData::Erasable;
    });
    let record = claimed(&allowed, &hash);
    let ids = [decide(&audit, &record).await, decide(&audit, &record).await];
    audit.close().await;

    let kept = report(&journal, &dir.path().join("kept"));
    let found = kept.agreement.as_ref().unwrap();
    assert_eq!((found.agreed, found.differed, found.impossible()), (2, 0, 0), "{found:?}");
    assert_eq!((kept.hidden.records, kept.hidden.erased, kept.hidden.without_key), (2, 0, 0));
    assert_eq!(names(&dir.path().join("kept"), user), Vec::<PathBuf>::new());
    let (code, text, err) = explain(&journal, &ids[0].to_string());
    assert!(code == 0 && text.contains("agrees: the archived policies decide the same"), "{text}{err}");

    let away = dir.path().join("keys-away");
    std::fs::rename(journal.join("keys/subjects"), &away).unwrap();
    let without = report(&journal, &dir.path().join("without"));
    assert_eq!((without.hidden.records, without.hidden.without_key), (2, 2));
    assert_eq!(without.agreement.unwrap().not_possible["without_key"], 2);
    std::fs::rename(&away, journal.join("keys/subjects")).unwrap();

    let tenant = allowed["tenant"].as_str().unwrap().parse().unwrap();
    let subject = subjects::find(&journal, &tenant, user).unwrap().unwrap();
    let erased = Erased { at: Timestamp::now(), actor: "uid:0".into(), reason: None };
    subjects::destroy(&journal, subject, &erased).unwrap();
    let after = report(&journal, &dir.path().join("erased"));
    assert_eq!((after.hidden.records, after.hidden.erased), (2, 2));
    let found = after.agreement.unwrap();
    assert_eq!((found.agreed, found.differed, found.not_possible["erased"]), (0, 0, 2), "{found:?}");
    for file in ["index.html", "README.md"] {
        assert!(
            read(&dir.path().join("erased").join(file)).contains("Of 2 of them the user had been erased"),
            "{file}"
        );
    }
    let (code, text, _) = explain(&journal, &ids[0].to_string());
    assert!(code == 1 && text.contains("NOT POSSIBLE") && text.contains("erased on "), "{text}");
}

fn explain(journal: &Path, id: &str) -> (i32, String, String) {
    tidegate(&["audit", "explain", id, "--journal", journal.to_str().unwrap()])
}

/// The files of a report in which a user's id stands, other than in the policies themselves.
fn names(report: &Path, user: &str) -> Vec<PathBuf> {
    let quoted = format!("\"{user}\"");
    let (mut folders, mut found) = (vec![report.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
            if path.is_dir() && !path.ends_with("policies") {
                folders.push(path);
            } else if path.is_file()
                && memchr::memmem::find(&std::fs::read(&path).unwrap(), quoted.as_bytes()).is_some()
            {
                found.push(path);
            }
        }
    }
    found
}
