//! Policies change under load: no request fails, no decision mixes two sets, a broken set changes nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate::policy::Bundle;

use super::fixture::{Border, OPEN, Recorder, write_policy};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sets_change_whole_and_broken_ones_never() {
    let recorder = Recorder::start().await;
    let border = Arc::new(Border::start(std::slice::from_ref(&recorder.endpoint)).await);
    let policies = border.dir.path().join("policies");
    let mut names = HashMap::new();
    names.insert(Bundle::load(&policies).unwrap().hash().to_owned(), "test-open".to_owned());

    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (border, stop) = (Arc::clone(&border), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut ids = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let answer = border.send(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
                    assert_eq!(answer.status(), 200, "{answer:?}");
                    ids.push(answer.record().unwrap());
                }
                ids
            })
        })
        .collect();
    for round in 0..6 {
        let name = format!("test-open-{round}");
        write_policy(border.dir.path(), &OPEN.replace("test-open", &name));
        let hash = Bundle::load(&policies).unwrap().hash().to_owned();
        names.insert(hash.clone(), name);
        border.running.reload();
        adopted(&border, &hash).await;
        write_policy(border.dir.path(), "permit (principal, action, resource) when { nonsense };");
        border.running.reload();
        refused(&border).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut seen = std::collections::HashSet::new();
    for task in load {
        for id in task.await.unwrap() {
            let records = border.records(&id);
            let bundle = records[0]["bundle"].as_str().unwrap().to_owned();
            let policies = serde_json::json!(["status-for-anyone", names[&bundle]]);
            assert_eq!(records[0]["policies"], policies, "{records:?}");
            seen.insert(bundle);
        }
    }
    assert!(seen.len() > 2, "only {} sets decided anything", seen.len());
    Arc::try_unwrap(border).ok().unwrap().running.shutdown().await;
}

async fn ready(border: &Border) -> serde_json::Value {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(border.running.admin_address()).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap()
}

async fn adopted(border: &Border, hash: &str) {
    eventually(|| async { ready(border).await["bundle"] == hash }).await;
}

async fn refused(border: &Border) {
    eventually(|| async {
        let state = ready(border).await;
        state["refused_reload"].as_str().is_some_and(|problem| problem.contains("90-test.cedar"))
    })
    .await;
}

async fn eventually<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    for _ in 0..400 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to pass");
}

#[tokio::test]
async fn a_set_that_could_not_be_archived_is_tried_again_without_a_change_of_its_files() {
    let recorder = Recorder::start().await;
    let border = Border::start(std::slice::from_ref(&recorder.endpoint)).await;
    let (bundles, aside) = (border.dir.path().join("journal/bundles"), border.dir.path().join("aside"));
    std::fs::rename(&bundles, &aside).unwrap();
    std::fs::write(&bundles, "in the way").unwrap();
    let forbid = "@id(\"test-closed\")\nforbid (principal, action, resource);\n";
    write_policy(border.dir.path(), forbid);
    eventually(|| async { ready(&border).await["refused_reload"].is_string() }).await;
    let hash = Bundle::load(&border.dir.path().join("policies")).unwrap().hash().to_owned();
    assert_ne!(ready(&border).await["bundle"], hash.as_str());
    std::fs::remove_file(&bundles).unwrap();
    std::fs::rename(&aside, &bundles).unwrap();
    adopted(&border, &hash).await;
    let answer = border.send(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(answer.status(), 403, "{answer:?}");
    border.running.shutdown().await;
}
