//! A candidate beside the live policies: asked about real traffic, never enforced, and its divergences told.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tidegate::policy::embedded;

use super::fixture::{Border, OPEN, Recorder};

const SHADOW: &str = "[policy.shadow]\ndirectory = \"candidate\"\n";
const CLOSED: &str =
    "@id(\"test-closed\")\nforbid (principal, action, resource) unless { context.protection.sealed };\n";

/// Puts a candidate there, whole: the shipped policies, the test's own, and more.
fn propose(dir: &Path, more: &str) {
    let beside = dir.join("candidate.new");
    let _ = std::fs::remove_dir_all(&beside);
    embedded::write_to(&beside).unwrap();
    std::fs::write(beside.join("90-test.cedar"), format!("{OPEN}{more}")).unwrap();
    let _ = std::fs::remove_dir_all(dir.join("candidate"));
    std::fs::rename(beside, dir.join("candidate")).unwrap();
}

async fn start(recorder: &Recorder, more: &str, prepare: impl FnOnce(&Path)) -> Border {
    let endpoints = [recorder.endpoint.clone()];
    Border::prepared(&super::fixture::configuration("127.0.0.1:0", &endpoints, more), prepare).await
}

pub(super) async fn admin(border: &Border, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(border.running.admin_address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn shadow(border: &Border) -> Value {
    let text = admin(border, "/readyz").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let state: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    state["shadow"].clone()
}

pub(super) async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    for _ in 0..1_000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: never");
}

async fn compared(border: &Border) {
    eventually("a candidate", || async { shadow(border).await["candidate"].is_string() }).await;
}

async fn ask(border: &Border, status: u16) -> String {
    let answer = border.send(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(answer.status(), status, "{answer:?}");
    answer.record().unwrap()
}

/// What the command says of a journal.
fn reported(dir: &Path, args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["policy", "shadow", "--journal"])
        .arg(dir.join("journal"))
        .args(args)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), text)
}

fn events(border: &[Value], name: &str) -> Vec<Value> {
    border.iter().filter(|record| record["event"] == name).cloned().collect()
}

/// Divergences are told within seconds and sums once a minute: what is listed is counted all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_runs_the_totals_are_of_what_is_listed() {
    let recorder = Recorder::start().await;
    let border = start(&recorder, SHADOW, |dir| propose(dir, CLOSED)).await;
    compared(&border).await;
    ask(&border, 200).await;
    let told = || async { reported(border.dir.path(), &[]).1 };
    eventually("a group", || async { told().await.contains("1 × call: decision differs") }).await;
    let (code, text) = reported(border.dir.path(), &[]);
    assert!(
        code == 1
            && text.contains("1 decisions compared, 1 differ\n1 of these are not in the gateway's sums"),
        "{text}"
    );
    let (_, text) = reported(border.dir.path(), &["--output", "json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    let counts = ["compared", "diverged", "unsummed"].map(|name| json[name].as_u64().unwrap());
    assert_eq!(counts, [1, 1, 1], "{json:#}");
    // At its end the gateway writes the sums.
    let dir = border.dir;
    border.running.shutdown().await;
    let (_, text) = reported(dir.path(), &[]);
    assert!(text.ends_with("1 decisions compared, 1 differ\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_is_compared_and_the_live_policies_alone_decide() {
    let recorder = Recorder::start().await;
    let border = start(&recorder, SHADOW, |dir| propose(dir, CLOSED)).await;
    compared(&border).await;
    let mut asked = Vec::new();
    for _ in 0..5 {
        asked.push(ask(&border, 200).await);
    }
    assert_eq!(recorder.take().len(), 5);
    let diverged = "tidegate_shadow_divergences{tidegate_differs=\"decision\"} 5";
    eventually("five divergences", || async {
        let metrics = admin(&border, "/metrics").await;
        metrics.lines().any(|line| {
            line.starts_with("tidegate_shadow_divergences")
                && line.contains("decision")
                && line.ends_with(" 5")
        })
    })
    .await;

    // Another candidate takes its place while traffic goes on: the live policies with other words.
    propose(border.dir.path(), "// The same.\n");
    let old = shadow(&border).await["candidate"].clone();
    eventually("the next", || async {
        let now = shadow(&border).await;
        now["candidate"].is_string() && now["candidate"] != old
    })
    .await;
    ask(&border, 200).await;
    eventually("the sixth", || async {
        let metrics = admin(&border, "/metrics").await;
        metrics.lines().any(|line| line.starts_with("tidegate_shadow_compared") && line.ends_with(" 6"))
    })
    .await;
    let live = border.records(&asked[0])[0]["bundle"].clone();
    let Border { dir, running, .. } = border;
    running.shutdown().await;

    let validator = crate::journal_keep::validator();
    let all = crate::journal_keep::payloads(&dir.path().join("journal"));
    all.iter().for_each(|(_, payload)| crate::journal_keep::fits(&validator, payload));
    let records: Vec<Value> = all.iter().map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).collect();
    let groups = events(&records, "shadow.divergence");
    assert_eq!(
        groups.iter().map(|group| group["divergences"].as_u64().unwrap()).sum::<u64>(),
        5,
        "{groups:?}"
    );
    let group = &groups[0];
    assert_eq!(
        (&group["live"], &group["differs"], &group["action"]),
        (&live, &"decision".into(), &"call".into())
    );
    let was = serde_json::json!({"decision": "allow", "destination": "private", "protection": "none",
        "policies": ["status-for-anyone", "test-open"]});
    let would =
        serde_json::json!({"decision": "deny", "code": "policy_forbidden", "policies": ["test-closed"]});
    assert_eq!((&group["was"], &group["would"]), (&was, &would), "{diverged}");
    assert!(asked.contains(&group["examples"][0].as_str().unwrap().to_owned()));
    // The candidate is kept like any bundle, so that it can be explained.
    assert!(dir.path().join("journal/bundles").join(group["candidate"].as_str().unwrap()).is_dir());
    let sums = events(&records, "shadow.compared");
    let sum = |name: &str| sums.iter().map(|event| event[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("compared"), sum("diverged"), sum("dropped")), (6, 5, 0), "{sums:?}");

    let (code, text) = reported(dir.path(), &[]);
    for part in [
        "5 × call: decision differs",
        "was     allow to private, protection none by status-for-anyone, test-open",
        "would   deny (policy_forbidden) by test-closed",
        asked[0].as_str(),
        "Service status",
        "6 decisions compared, 5 differ",
    ] {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
    assert_eq!(code, 1);
    let (_, text) = reported(dir.path(), &["--output", "json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["groups"][0]["divergences"], &json["compared"]), (&5.into(), &6.into()), "{json:#}");
    let of_other = json["candidates"][1]["bundle"].as_str().unwrap();
    let (code, text) = reported(dir.path(), &["--candidate", of_other]);
    assert_eq!((code, text.as_str()), (0, "1 decisions compared, 0 differ\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_candidate_harms_nothing_and_says_so() {
    let recorder = Recorder::start().await;
    let broken = |dir: &Path| propose(dir, "permit (principal, action, resource) when { nonsense };");
    let border = start(&recorder, SHADOW, broken).await;
    eventually("the problem", || async {
        shadow(&border).await["problem"].as_str().is_some_and(|text| text.contains("90-test.cedar"))
    })
    .await;
    ask(&border, 200).await;
    // The live policies are reloaded beside it all the same.
    super::fixture::write_policy(border.dir.path(), CLOSED);
    eventually("the live reload", || async {
        border.send(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status() == 403
    })
    .await;
    // Mended it is compared, and taken away it is not.
    propose(border.dir.path(), "");
    compared(&border).await;
    ask(&border, 403).await;
    std::fs::remove_dir_all(border.dir.path().join("candidate")).unwrap();
    eventually("none", || async {
        shadow(&border).await == serde_json::json!({"candidate": null, "problem": null})
    })
    .await;
    let Border { dir, running, .. } = border;
    running.shutdown().await;
    let (_, text) = reported(dir.path(), &[]);
    assert!(text.contains("1 × call: decision differs") && text.contains("would   allow"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_finds_no_place_is_dropped_and_counted() {
    let recorder = Recorder::start().await;
    let more = format!("{SHADOW}queue = 1\n");
    let border = Arc::new(start(&recorder, &more, |dir| propose(dir, CLOSED)).await);
    compared(&border).await;
    let load: Vec<_> = (0..8)
        .map(|_| {
            let border = Arc::clone(&border);
            tokio::spawn(async move {
                for _ in 0..10 {
                    ask(&border, 200).await;
                }
            })
        })
        .collect();
    for task in load {
        task.await.unwrap();
    }
    let Border { dir, running, .. } = Arc::try_unwrap(border).ok().unwrap();
    running.shutdown().await;
    let (_, text) = reported(dir.path(), &["--output", "json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    let (compared, dropped) = (json["compared"].as_u64().unwrap(), json["dropped"].as_u64().unwrap());
    assert!(compared > 0 && dropped > 0 && compared + dropped == 80, "{json:#}");
    assert_eq!(json["diverged"], compared);
}

#[test]
fn the_live_folder_is_no_candidate() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidegate.toml");
    embedded::write_to(&dir.path().join("policies")).unwrap();
    let text = super::fixture::configuration("127.0.0.1:0", &["http://127.0.0.1:9".to_owned()], SHADOW);
    std::fs::write(&file, text.replace("\"candidate\"", "\"./policies/../policies\"")).unwrap();
    let problems = tidegate::app::check_file(&file).unwrap_err().to_string();
    assert!(problems.contains("policy.shadow.directory: is the folder of the live policies"), "{problems}");
}
