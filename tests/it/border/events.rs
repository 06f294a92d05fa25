//! What happens to the gateway itself is recorded, and every record of a run is one that the published schema describes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::fixture::{Border, OPEN, Recorder, write_policy};
use crate::journal_keep::{fits, payloads, validator};

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
