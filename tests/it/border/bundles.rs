//! Bundles that are signed and fetched: what is taken, what is refused, and what is served when the source is down.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tidegate::app;
use tidegate::model::note::Signer;
use tidegate::model::{Clock as _, SystemClock};
use tidegate::net::{Authority, Subject};
use tidegate::policy::{Bundle, embedded};

use super::bundles_fixture::{Release, Server, signer};
use super::fixture::{Border, OPEN, Recorder, configuration, write_policy};
use super::shadow::{admin, eventually};

const NAME: &str = "bundle.tar.gz";

/// A gateway's configuration: the test's own route, keys of which one must have signed, and more of `[policy]`.
fn text(recorder: &Recorder, signer: Option<&Signer>, of_policy: &str, more: &str) -> String {
    let text = configuration("127.0.0.1:0", std::slice::from_ref(&recorder.endpoint), more);
    let keys = signer.map(|signer| format!("keys = [\"{}\"]\n", signer.verifier())).unwrap_or_default();
    text.replacen("poll = \"50ms\"\n", &format!("poll = \"50ms\"\n{keys}{of_policy}"), 1)
}

/// A gateway whose bundle comes from the server.
async fn fetching(server: &Server, recorder: &Recorder, signer: &Signer, of_policy: &str) -> Border {
    let text = text(recorder, Some(signer), of_policy, &server.table("remote", NAME));
    Border::prepared(&text, |dir| {
        server.trust(dir);
        // Nothing of the folder is read.
        std::fs::remove_dir_all(dir.join("policies")).unwrap();
    })
    .await
}

async fn ready(border: &Border) -> Value {
    let text = admin(border, "/readyz").await;
    serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap()
}

async fn serial(border: &Border, wanted: u64) {
    eventually(&format!("serial {wanted}"), || async { ready(border).await["release"]["serial"] == wanted })
        .await;
}

async fn refused(border: &Border, source: &str, part: &str) {
    let found = std::sync::Mutex::new(Value::Null);
    for _ in 0..1_000 {
        let state = ready(border).await;
        if state["sources"][source].as_str().is_some_and(|problem| problem.contains(part)) {
            return;
        }
        *found.lock().unwrap() = state;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("`{part}` is not in {:#}", found.lock().unwrap());
}

async fn ask(border: &Border) -> u16 {
    border.send(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status()
}

fn records(dir: &Path) -> Vec<Value> {
    let all = crate::journal_keep::payloads(&dir.join("journal"));
    let validator = crate::journal_keep::validator();
    all.iter().for_each(|(_, payload)| crate::journal_keep::fits(&validator, payload));
    all.iter().map(|(_, payload)| serde_json::from_slice(payload).unwrap()).collect()
}

fn soon(milliseconds: i64) -> Option<Timestamp> {
    Some(Timestamp::now() + SignedDuration::from_millis(milliseconds))
}

/// What must not replace anything, although it could be `next`, and what is said of it.
fn refusable(next: &Release<'_>) -> Vec<(&'static str, Vec<u8>)> {
    let other = signer(2);
    let whole = next.packed();
    let manifest = next.manifest(next.hash());
    let with = |name: &str, kind: tar::EntryType| {
        let gzip = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gzip);
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, &b""[..]).unwrap();
        tar.into_inner().unwrap().finish().unwrap()
    };
    let bomb = {
        let mut gzip = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::best());
        let zeros = vec![0; 1 << 20];
        (0..97).for_each(|_| gzip.write_all(&zeros).unwrap());
        gzip.finish().unwrap()
    };
    let mut changed = next.files();
    changed[0].1.extend_from_slice(b"// More.\n");
    let broken = {
        let folder = tempfile::tempdir().unwrap();
        let mut files = next.files();
        files.push(("91.cedar".into(), b"permit (principal, action, resource) when { nonsense };".to_vec()));
        files.iter().for_each(|(name, bytes)| std::fs::write(folder.path().join(name), bytes).unwrap());
        let manifest = next.manifest(tidegate::policy::content_hash(folder.path()));
        tidegate::policy::release::pack(&manifest, &files).unwrap()
    };
    vec![
        ("is not signed by", Release { signer: Some(&other), ..next.clone() }.packed()),
        (
            "is not signed, and `policy.keys` demands a signature",
            Release { signer: None, ..next.clone() }.packed(),
        ),
        ("has serial 4, and 5 was served already", Release { serial: 4, ..next.clone() }.packed()),
        ("under which another bundle was served", Release { serial: 5, ..next.clone() }.packed()),
        ("expired on", Release { expires: soon(-1_000), ..next.clone() }.packed()),
        ("is no whole tar.gz", whole[..whole.len() / 2].to_vec()),
        ("invalid gzip header", b"this is no archive at all".to_vec()),
        (
            "holds `../../x.cedar`, which is no file of a bundle",
            with("../../x.cedar", tar::EntryType::Regular),
        ),
        ("holds `a.cedar`, which is no regular file", with("a.cedar", tar::EntryType::Symlink)),
        ("unpacks to more than", bomb),
        ("is of another bundle", tidegate::policy::release::pack(&manifest, &changed).unwrap()),
        ("91.cedar", broken),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_whole_signed_and_newer_replaces_the_last_good() {
    let (server, recorder, ours) = (Server::start().await, Recorder::start().await, signer(1));
    let first = Release { serial: 5, signer: Some(&ours), expires: soon(3_600_000), ..Release::default() };
    server.put(NAME, first.packed());
    let border = fetching(&server, &recorder, &ours, "").await;
    serial(&border, 5).await;
    assert_eq!((ask(&border).await, ready(&border).await["bundle"].as_str().unwrap()), (200, &*first.hash()));

    let next = Release { serial: 6, more: "// Next.\n", ..first.clone() };
    let whole = next.packed();
    for (part, bytes) in refusable(&next) {
        server.put(NAME, bytes);
        refused(&border, "bundle", part).await;
        let state = ready(&border).await;
        assert_eq!((&state["release"]["serial"], &state["ready"]), (&5.into(), &true.into()), "{part}");
        assert_eq!(ask(&border).await, 200, "{part}");
    }
    // Nothing there is no reason to stop either.
    server.remove(NAME);
    refused(&border, "bundle", "404").await;
    server.put(NAME, whole);
    serial(&border, 6).await;
    eventually("no problem", || async { ready(&border).await["sources"] == serde_json::json!({}) }).await;
    assert_eq!(ready(&border).await["bundle"].as_str().unwrap(), next.hash());
    // A new signature of the same policies is a release too.
    server.put(NAME, Release { serial: 7, ..next.clone() }.packed());
    serial(&border, 7).await;
    let (given, _) = server.counts();
    eventually("unchanged", || async { server.counts().1 > 3 }).await;
    assert_eq!(server.counts().0, given, "what is unchanged is not sent again");

    let Border { dir, running, .. } = border;
    running.shutdown().await;
    let records = records(dir.path());
    let releases: Vec<_> = records.iter().filter(|record| record["event"] == "policy.release").collect();
    let serials: Vec<_> = releases.iter().map(|record| record["serial"].as_u64().unwrap()).collect();
    assert_eq!(serials, [5, 6, 7]);
    assert!(releases.iter().all(|record| record["signer"] == ours.verifier().label()), "{releases:?}");
    let problems = |record: &&Value| record["event"] == "reload" && record["actor"] == "remote";
    assert_eq!(records.iter().filter(problems).count(), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_the_source_serves_the_last_good_if_it_still_verifies() {
    let (server, recorder, ours) = (Server::start().await, Recorder::start().await, signer(1));
    let first = Release { serial: 5, signer: Some(&ours), ..Release::default() };
    server.put(NAME, first.packed());
    let border = fetching(&server, &recorder, &ours, "").await;
    let Border { dir, running, .. } = border;
    running.shutdown().await;
    let file = dir.path().join("tidegate.toml");
    let kept = dir.path().join("journal/policy/bundle.tar.gz");
    let problems = async || match app::start(&file).await {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    };

    server.remove(NAME);
    let running = app::start(&file).await.unwrap();
    let border = Border { dir, running };
    assert_eq!(ask(&border).await, 200);
    refused(&border, "bundle", "404").await;
    let Border { dir, running, .. } = border;
    running.shutdown().await;

    // Changed on the disk, it is not served, whatever was changed.
    let good = std::fs::read(&kept).unwrap();
    let mut one = good.clone();
    let middle = one.len() / 2;
    one[middle] ^= 1;
    let stranger = signer(2);
    for (bytes, part) in [
        (one, "is no whole tar.gz"),
        (Release { signer: Some(&stranger), ..first.clone() }.packed(), "is not signed by"),
        (Release { serial: 4, ..first.clone() }.packed(), "has serial 4, and 5 was served already"),
    ] {
        std::fs::write(&kept, bytes).unwrap();
        let told = problems().await;
        assert!(told.contains(part) && told.contains("404"), "{told}");
    }
    // What was served cannot be forgotten by damage either.
    std::fs::write(&kept, &good).unwrap();
    let last = dir.path().join("journal/policy/release.json");
    let known = std::fs::read(&last).unwrap();
    std::fs::write(&last, "{").unwrap();
    let told = problems().await;
    assert!(told.contains("release.json: cannot be read"), "{told}");
    std::fs::write(&last, known).unwrap();
    app::start(&file).await.unwrap().shutdown().await;
    // Without a last good one there is nothing to serve.
    std::fs::remove_file(&kept).unwrap();
    let told = problems().await;
    assert!(told.contains("bundle.tar.gz: cannot be read") && told.contains("404"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_served_one_expires_all_is_denied_until_a_newer_one_is_there() {
    let (server, recorder, ours) = (Server::start().await, Recorder::start().await, signer(1));
    let first = Release { serial: 1, signer: Some(&ours), expires: soon(8_000), ..Release::default() };
    server.put(NAME, first.packed());
    let border = fetching(&server, &recorder, &ours, "").await;
    assert_eq!(ask(&border).await, 200);
    eventually("expiry", || async { !ready(&border).await["ready"].as_bool().unwrap() }).await;
    let answer = border.send(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((answer.status(), answer.code().as_str()), (403, "bundle_expired"), "{answer:?}");
    assert!(admin(&border, "/readyz").await.starts_with("HTTP/1.1 503"));
    server.put(NAME, Release { serial: 2, expires: None, ..first.clone() }.packed());
    serial(&border, 2).await;
    assert_eq!((ask(&border).await, ready(&border).await["ready"].as_bool()), (200, Some(true)));
    let Border { dir, running, .. } = border;
    running.shutdown().await;
    let expired: Vec<_> =
        records(dir.path()).into_iter().filter(|record| record["event"] == "policy.expired").collect();
    assert_eq!((expired.len(), &expired[0]["denies"], &expired[0]["serial"]), (1, &true.into(), &1.into()));

    let brief = Release { serial: 1, expires: soon(8_000), ..first };
    server.put(NAME, brief.packed());
    let border = fetching(&server, &recorder, &ours, "expired = \"serve\"\n").await;
    eventually("expiry", || async { ready(&border).await["release"]["expired"] == true }).await;
    assert_eq!((ask(&border).await, ready(&border).await["ready"].as_bool()), (200, Some(true)));
    // It was served before, so a start goes on with it.
    let Border { dir, running, .. } = border;
    running.shutdown().await;
    let running = app::start(&dir.path().join("tidegate.toml")).await.unwrap();
    let border = Border { dir, running };
    assert_eq!(ask(&border).await, 200);
    border.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attestation_is_checked_and_break_glass_is_on_record() {
    let (server, recorder, ours) = (Server::start().await, Recorder::start().await, signer(1));
    let proved = ["never-errors", "protection-never-costs", "mine"];
    let first = Release { serial: 1, signer: Some(&ours), claims: Some(&proved), ..Release::default() };
    server.put(NAME, first.packed());
    let border =
        fetching(&server, &recorder, &ours, "attestation = \"required\"\nclaims = [\"mine\"]\n").await;
    let next = Release { serial: 2, more: "// Next.\n", ..first.clone() };
    server.put(NAME, Release { claims: None, ..next.clone() }.packed());
    refused(&border, "bundle", "has no attestation").await;
    server.put(NAME, Release { claims: Some(&proved[..2]), ..next.clone() }.packed());
    refused(&border, "bundle", "does not attest `mine`").await;
    assert_eq!(ready(&border).await["release"]["override"], Value::Null);
    server.put(NAME, Release { claims: None, reason: Some("outage 4711"), ..next }.packed());
    serial(&border, 2).await;
    assert_eq!(ready(&border).await["release"]["override"], "outage 4711");
    assert_eq!(ask(&border).await, 200);
    let Border { dir, running, .. } = border;
    running.shutdown().await;
    let records = records(dir.path());
    let releases: Vec<_> = records.iter().filter(|record| record["event"] == "policy.release").collect();
    assert_eq!((&releases[0]["attested"], &releases[0]["override"]), (&3.into(), &Value::Null));
    assert_eq!((&releases[1]["attested"], &releases[1]["override"]), (&0.into(), &"outage 4711".into()));
}

fn bundle(dir: &Path, args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["policy", "bundle"])
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_signed_by_the_command_and_followed_only_when_signed_again() {
    let recorder = Recorder::start().await;
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("policy.pem");
    tidegate::audit::tree::key::make(&key).unwrap();
    let pair = tidegate::audit::tree::key::read(&key).unwrap();
    let ours = Signer::new("tidegate-policies", pair.into());
    let key = key.to_str().unwrap().to_owned();
    let text = text(&recorder, Some(&ours), "", "");
    let border = Border::prepared(&text, |dir| {
        let (code, told) = bundle(dir, &["--key", &key, "--serial", "1", "--expires", "30d"]);
        assert!(code == 0 && told.contains(&ours.verifier().to_string()), "{told}");
    })
    .await;
    serial(&border, 1).await;
    let dir = border.dir.path();
    let live = ready(&border).await["bundle"].clone();
    write_policy(dir, "@id(\"test-closed\")\nforbid (principal, action, resource);\n");
    eventually("a refusal", || async {
        let state = ready(&border).await;
        state["refused_reload"]
            .as_str()
            .is_some_and(|problem| problem.contains("bundle.manifest: is of another"))
    })
    .await;
    assert_eq!((ask(&border).await, &ready(&border).await["bundle"]), (200, &live));
    assert_eq!(bundle(dir, &["--key", &key, "--serial", "2"]).0, 0);
    serial(&border, 2).await;
    assert_eq!(ask(&border).await, 403);
    // Going back to the old files and their manifest is a rollback.
    write_policy(dir, OPEN);
    assert_eq!(bundle(dir, &["--key", &key, "--serial", "1"]).0, 0);
    eventually("a refusal", || async {
        let state = ready(&border).await;
        state["refused_reload"]
            .as_str()
            .is_some_and(|problem| problem.contains("has serial 1, and 2 was served"))
    })
    .await;
    border.running.shutdown().await;
}

#[test]
fn the_command_packs_what_a_gateway_takes_and_refuses_what_it_cannot_vouch_for() {
    let dir = tempfile::tempdir().unwrap();
    let policies = dir.path().join("policies");
    embedded::write_to(&policies).unwrap();
    let hash = Bundle::load(&policies).unwrap().hash().to_owned();
    let key = dir.path().join("key.pem");
    tidegate::audit::tree::key::make(&key).unwrap();
    let claim = |id: &str, verdict: &str| {
        serde_json::json!({"id": id, "kind": "built_in", "says": "x", "environments": 14, "milliseconds": 1,
            "verdict": {"result": verdict, "open_for": [], "why": "late"}})
    };
    let proof = |bundle: &str, verdict: &str| {
        let claims = [claim("never-errors", "proved"), claim("protection-never-costs", verdict)];
        let report =
            serde_json::json!({"bundle": bundle, "solver": "cvc5 1", "claims": claims, "proved": true});
        std::fs::write(dir.path().join("proof.json"), report.to_string()).unwrap();
    };
    let with_proof = ["--key", "key.pem", "--serial", "3", "--proof", "proof.json", "-o", "b.tar.gz"];
    proof(&hash, "proved");
    let (code, told) = bundle(dir.path(), &with_proof);
    assert!(code == 0 && told.contains("proved    never-errors, protection-never-costs"), "{told}");
    let packed = std::fs::read(dir.path().join("b.tar.gz")).unwrap();
    let unpacked = tidegate::policy::release::unpack(&packed).unwrap();
    assert_eq!(unpacked.files, Bundle::load(&policies).unwrap().files());
    assert!(String::from_utf8(unpacked.manifest.unwrap()).unwrap().contains("\"serial\": 3"));

    proof(&hash, "not_proved");
    let (code, told) = bundle(dir.path(), &with_proof);
    assert!(code == 3 && told.contains("`protection-never-costs` is not proved"), "{told}");
    proof(&"0".repeat(64), "proved");
    assert!(bundle(dir.path(), &with_proof).1.contains("prove them again"));
    for (args, code, part) in [
        (&["--serial", "0"][..], 2, "0"),
        (&["--serial", "1", "--expires", "2020-01-01T00:00:00Z"], 2, "is over already"),
        (&["--serial", "1", "--override", "x"], 2, "--key"),
        (&["--serial", "1", "--key", "missing.pem"], 3, "openssl genpkey"),
        (&["--serial", "1", "--key", "key.pem", "--name", "a b"], 2, "no spaces"),
    ] {
        let (found, told) = bundle(dir.path(), args);
        assert!(found == code && told.contains(part), "{args:?}: {found} {told}");
    }
    std::fs::write(policies.join("91.cedar"), "nonsense").unwrap();
    let (code, told) = bundle(dir.path(), &["--serial", "1"]);
    assert!(code == 1 && told.contains("91.cedar"), "{told}");
}

fn teams(names: &[&str]) -> Vec<u8> {
    let team = |name: &&str| serde_json::json!({"uid": {"type": "Tidegate::Team", "id": name}, "parents": [], "attrs": {}});
    serde_json::to_vec(&names.iter().map(team).collect::<Vec<_>>()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entities_of_a_url_are_hot_and_the_last_good_stay() {
    const FILE: &str = "entities.json";
    let (server, recorder) = (Server::start().await, Recorder::start().await);
    server.put(FILE, teams(&["night-shift"]));
    let text = text(&recorder, None, "", &server.table("entities", FILE));
    let border = Border::prepared(&text, |dir| server.trust(dir)).await;
    let has = |state: &Value, id: &str| {
        let kept = border.dir.path().join("journal/bundles").join(state["bundle"].as_str().unwrap());
        std::fs::read_to_string(kept.join("remote.entities.json")).unwrap().contains(id)
    };
    assert!(has(&ready(&border).await, "night-shift"));
    server.put(FILE, teams(&["night-shift", "day-shift"]));
    eventually("the new team", || async { has(&ready(&border).await, "day-shift") }).await;
    let live = ready(&border).await["bundle"].clone();
    let (_, unchanged) = server.counts();
    eventually("unchanged", || async { server.counts().1 > unchanged + 2 }).await;
    for (bytes, part) in [
        (b"<html>".to_vec(), "is no JSON list"),
        (b"[{\"uid\": 1}]".to_vec(), "is no entity"),
        (teams(&["night-shift", "night-shift"]), "is there twice"),
        // Facts of the policies' own file are not overridden.
        (teams(&["research"]), "`Tidegate::Team::\"research\"` is there twice"),
    ] {
        server.put(FILE, bytes);
        refused(&border, "entities", part).await;
    }
    server.remove(FILE);
    refused(&border, "entities", "404").await;
    assert_eq!((ask(&border).await, &ready(&border).await["bundle"]), (200, &live));

    let Border { dir, running, .. } = border;
    running.shutdown().await;
    let file = dir.path().join("tidegate.toml");
    let running = app::start(&file).await.unwrap();
    let border = Border { dir, running };
    assert_eq!((ask(&border).await, &ready(&border).await["bundle"]), (200, &live));
    border.running.shutdown().await;
    std::fs::remove_dir_all(border.dir.path().join("journal/policy")).unwrap();
    let Err(error) = app::start(&file).await else { panic!("it started without its entities") };
    assert!(error.to_string().contains("404"), "{error}");
}

/// A folder of JSON is hot, and holds as many entities as an organisation has datasets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_entities_beside_the_policies_are_taken_while_requests_go_on() {
    let recorder = Recorder::start().await;
    let border = Border::start(std::slice::from_ref(&recorder.endpoint)).await;
    let before = ready(&border).await["bundle"].clone();
    for file in 0..4 {
        let team = |id| {
            serde_json::json!({"uid": {"type": "Tidegate::Team", "id": format!("team-{file}-{id}")},
            "parents": [], "attrs": {}})
        };
        let list: Vec<Value> = (0..25_000).map(team).collect();
        let beside = border.dir.path().join("new.tmp");
        std::fs::write(&beside, serde_json::to_vec(&list).unwrap()).unwrap();
        let name = format!("policies/teams-{file}.entities.json");
        std::fs::rename(beside, border.dir.path().join(name)).unwrap();
    }
    for _ in 0..2_000 {
        assert_eq!(ask(&border).await, 200);
        let state = ready(&border).await;
        assert_eq!(state["refused_reload"], Value::Null);
        let kept = border.dir.path().join("journal/bundles").join(state["bundle"].as_str().unwrap());
        if state["bundle"] != before && kept.join("teams-3.entities.json").exists() {
            let loaded = Bundle::load(&kept).unwrap();
            assert!(loaded.has_entity("Team", "team-3-24999") && loaded.has_entity("Team", "team-0-0"));
            border.running.shutdown().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("they were not taken");
}

#[test]
fn what_cannot_work_is_told_by_check() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidegate.toml");
    embedded::write_to(&dir.path().join("policies")).unwrap();
    let told = |of_policy: &str, more: &str| {
        let text = configuration("127.0.0.1:0", &["http://127.0.0.1:9".to_owned()], more);
        let text = text.replacen("poll = \"50ms\"\n", &format!("poll = \"50ms\"\n{of_policy}"), 1);
        std::fs::write(&file, text).unwrap();
        app::check_file(&file).unwrap_err().to_string()
    };
    let url = |table: &str| format!("[policy.{table}]\nurl = \"https://releases.example/x\"\n");
    for (of_policy, more, part) in [
        ("keys = [\"x\"]\n", String::new(), "policy.keys[0]: `x` is no verifier key"),
        ("claims = [\"x\"]\n", String::new(), "policy.claims: is of no effect"),
        (
            "attestation = \"required\"\n",
            String::new(),
            "bundle.manifest: is missing, and `policy` demands it",
        ),
        (
            "",
            url("remote"),
            "policy.remote: cannot be asked: origin `https://releases.example:443` is https but no `ca`",
        ),
        ("", url("entities"), "policy.entities: cannot be asked: origin"),
    ] {
        let told = told(of_policy, &more);
        assert!(told.contains(part), "`{part}` is not in\n{told}");
    }
}

/// What is fetched before a gateway starts cannot be checked before: that is no mistake of the configuration.
#[test]
fn what_was_never_fetched_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidegate.toml");
    embedded::write_to(&dir.path().join("policies")).unwrap();
    let authority = Authority::new("test", SystemClock.now()).unwrap();
    authority.issue(Subject::Server(&["localhost"])).unwrap().write(dir.path(), "server").unwrap();
    let write = |more: &str| {
        let text = configuration("127.0.0.1:0", &["http://127.0.0.1:9".to_owned()], more);
        std::fs::write(&file, text).unwrap();
    };
    let remote = "[policy.remote]\nurl = \"http://127.0.0.1:9/bundle.tar.gz\"\n";
    write(remote);
    let warnings = app::check_file(&file).unwrap().to_string();
    assert!(
        warnings.contains("policy.remote: nothing was fetched from `http://127.0.0.1:9/bundle.tar.gz` yet")
            && warnings.contains("`tidegate serve` fetches it before it starts, and does not start without"),
        "{warnings}"
    );
    let check = |output: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["check", "--output", output, "--config"])
            .arg(&file)
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = check("table");
    assert!(
        code == 0
            && text.contains("warning: nothing was fetched")
            && text.ends_with("no problems, 1 warning\n"),
        "{text}"
    );
    let (code, text) = check("json");
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, json.as_array().map(Vec::len), &json[0]["severity"]), (0, Some(1), &"warning".into()));
    // What is wrong elsewhere stays an error, and so does a file that was fetched and cannot be used.
    write(&format!("{remote}[nonsense]\nx = 1\n"));
    let problems = app::check_file(&file).unwrap_err().to_string();
    assert!(problems.contains("nonsense") && !problems.contains("bundle.tar.gz"), "{problems}");
    write(remote);
    let kept = dir.path().join("journal/policy");
    std::fs::create_dir_all(&kept).unwrap();
    std::fs::write(kept.join("bundle.tar.gz"), "x").unwrap();
    assert!(app::check_file(&file).unwrap_err().to_string().contains("is no whole tar.gz"));
    std::fs::remove_file(kept.join("bundle.tar.gz")).unwrap();
    write("[policy.entities]\nurl = \"http://127.0.0.1:9/entities.json\"\n");
    let warnings = app::check_file(&file).unwrap().to_string();
    assert!(warnings.contains("policy.entities: nothing was fetched"), "{warnings}");
}
