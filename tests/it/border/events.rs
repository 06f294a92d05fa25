//! What happens to the gateway itself is recorded, and every record of a run is one that the published schema describes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::fixture::{Border, OPEN, Recorder, write_policy};
use super::objects_fixture::KEYS;
use super::seal_fixture::{make_private, write_root};
use crate::journal_keep::{fits, payloads, validator};
use crate::journal_tree::tidegate;

async fn recorded(border: &Border, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        if let Some(found) = border.journal().into_iter().find(|record| is(record)) {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{what} was not recorded");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_happens_to_the_gateway_is_recorded_and_fits_the_schema() {
    let recorder = Recorder::start().await;
    let border = Border::start(std::slice::from_ref(&recorder.endpoint)).await;
    let answer = border.send(b"GET /x?q=secret HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    border.send(b"GET /x HTTP/1.1\r\nHost: elsewhere\r\n\r\n").await;

    // A reload names the files that differ, with their hashes; a refused one says why.
    write_policy(border.dir.path(), &OPEN.replace("test-open", "test-other"));
    border.running.reload();
    let is_reload = |record: &Value| record["event"] == "reload";
    let reload = recorded(&border, "the reload", is_reload).await;
    let files = reload["files"].as_array().unwrap();
    assert_eq!((files.len(), &files[0]["name"]), (1, &"90-test.cedar".into()), "{reload:#}");
    assert!(files[0]["old"] != files[0]["new"] && reload["old"] != reload["new"], "{reload:#}");
    write_policy(border.dir.path(), "permit (principal, action, resource) when { nonsense };");
    border.running.reload();
    let is_refused = |record: &Value| record["problems"].as_array().is_some_and(|all| !all.is_empty());
    assert!(recorded(&border, "the refused reload", is_refused).await["new"].is_string());
    write_policy(border.dir.path(), OPEN);

    // Bytes that are no TLS handshake.
    let mut stream = tokio::net::TcpStream::connect(border.running.data_address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    recorded(&border, "the handshake", |record| record["code"] == "handshake_failed").await;

    // Another mode of a route, seen by the next start.
    let Border { dir, running, .. } = border;
    running.shutdown().await;
    let file = dir.path().join("tidegate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = text.replace("audit = \"best_effort\"", "audit = \"required\"");
    assert_ne!(text, changed, "{text}");
    std::fs::write(&file, changed).unwrap();
    let running = tidegate::app::start(&file).await.unwrap();
    running.shutdown().await;

    let validator = validator();
    let all = payloads(&dir.path().join("journal"));
    all.iter().for_each(|(_, payload)| fits(&validator, payload));
    let records: Vec<Value> =
        all.iter().map(|(_, payload)| serde_json::from_slice(payload).unwrap()).collect();
    let told: BTreeSet<&str> = records.iter().filter_map(|record| record["event"].as_str()).collect();
    let expected = ["log.opened", "mode.changed", "reload", "start", "stop"];
    assert_eq!(told, BTreeSet::from(expected));
    let mode = records.iter().find(|record| record["event"] == "mode.changed").unwrap();
    assert_eq!((&mode["old"], &mode["new"]), (&"best_effort".into(), &"required".into()), "{mode:#}");
}

/// What another process does to the keys that seal is an event of no request: each version by name, by whom, and once.
#[tokio::test]
async fn what_is_done_to_sealing_keys_is_recorded() {
    let recorder = Recorder::start().await;
    let configuration =
        super::fixture::configuration("127.0.0.1:0", std::slice::from_ref(&recorder.endpoint), KEYS);
    let border = Border::prepared(&configuration, |dir| {
        write_root(dir, 7);
        make_private(&dir.join("branch"));
    })
    .await;
    let file = border.dir.path().join("tidegate.toml");
    let clear = border.dir.path().join("clear.key");
    let keys = |arguments: &[&str]| {
        let config = ["--config", file.to_str().unwrap(), "--tenant", "acme", "--recipient", "job"];
        tidegate(&[&["keys"], arguments, config.as_slice()].concat())
    };
    let request = ["--direction", "request"];
    let wanted = [
        (keys(&[["init"].as_slice(), &request].concat()), "make", 1),
        (keys(&[["rotate"].as_slice(), &request].concat()), "rotate", 2),
        (keys(&[["rewrap"].as_slice(), &request].concat()), "rewrap", 1),
        (keys(&["export", "--direction", "request", "-o", clear.to_str().unwrap()]), "export", 2),
        (keys(&["retire", "--direction", "request", "--version", "1"]), "retire", 1),
        (keys(&["retire", "--direction", "request", "--version", "1", "--destroy", "--yes"]), "destroy", 1),
    ];
    let mut told = Vec::new();
    for ((code, out, err), change, version) in wanted {
        assert_eq!(code, 0, "{change}: {out}{err}");
        let is = |record: &Value| record["event"] == "sealing.key" && record["change"] == change;
        let record = recorded(&border, change, is).await;
        assert_eq!(record["key"], format!("t/acme/job/request/v{version}"), "{record:#}");
        assert!(record["actor"].as_str().unwrap().starts_with("uid:") && record["note"].is_string());
        told.push(change);
    }
    // The two versions were wrapped anew, and nothing is told twice.
    let records = border.journal();
    let all = records.iter().filter(|record| record["event"] == "sealing.key").count();
    assert_eq!(all, told.len() + 1, "{records:#?}");
    let validator = validator();
    let Border { dir, running, .. } = border;
    running.shutdown().await;
    let journal = dir.path().join("journal");
    payloads(&journal).iter().for_each(|(_, payload)| fits(&validator, payload));
    let key = std::fs::read(&clear).unwrap();
    assert!(payloads(&journal).iter().all(|(_, payload)| memchr::memmem::find(payload, &key).is_none()));

    // A key does not leave in the clear if that cannot be recorded.
    std::fs::remove_dir_all(journal.join("notes")).unwrap();
    std::fs::write(journal.join("notes"), b"in the way").unwrap();
    std::fs::remove_file(&clear).unwrap();
    let config = file.to_str().unwrap();
    let (code, _, err) = tidegate(&[
        "keys",
        "export",
        "--config",
        config,
        "--tenant",
        "acme",
        "--recipient",
        "job",
        "--direction",
        "request",
        "-o",
        clear.to_str().unwrap(),
    ]);
    assert!(code == 3 && err.contains("the key was not written"), "{code} {err}");
    assert!(!clear.exists());
}
