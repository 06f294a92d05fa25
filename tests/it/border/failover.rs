//! Another endpoint is tried only when it is safe, and every attempt is decided and recorded.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::fixture::{Border, Recorder, configuration, let_anyone_send, write_policy};

/// A port that nobody listens on.
fn dead() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn a_dead_endpoint_costs_one_recorded_attempt() {
    let recorder = Recorder::start().await;
    let border = Border::start(&[dead(), recorder.endpoint.clone()]).await;
    let mut failed_over = 0;
    for _ in 0..20 {
        let body = "x".repeat(2000);
        let request = format!(
            "POST /things HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = border.send(request.as_bytes()).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        let seen = recorder.take();
        assert_eq!((seen.len(), seen[0].body.len()), (1, 2000));
        let records = border.closed_records(&answer.record().unwrap()).await;
        let of = |kind: &str| records.iter().filter(|record| record["kind"] == kind).count();
        if of("decision") == 2 {
            failed_over += 1;
            assert!(
                records.iter().all(|record| record["kind"] != "decision" || record["decision"] == "allow")
            );
            let first = records.iter().find(|record| record["kind"] == "outcome").unwrap();
            assert_eq!((&first["attempt"], &first["code"]), (&1.into(), &"upstream_unreachable".into()));
        }
    }
    assert!(failed_over > 0, "the dead endpoint was never chosen");
    border.running.shutdown().await;
}

#[tokio::test]
async fn when_all_endpoints_are_dead_the_answer_is_a_problem_with_a_record() {
    let border = Border::start(&[dead(), dead()]).await;
    let answer = border.send(b"GET /things HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(answer.status(), 502, "{answer:?}");
    let records = border.closed_records(&answer.record().unwrap()).await;
    let last = records.iter().rfind(|record| record["kind"] == "outcome").unwrap();
    assert_eq!(last["status"], 502);
    border.running.shutdown().await;
}

#[tokio::test]
async fn an_unread_body_ends_the_connection() {
    let recorder = Recorder::start().await;
    let border = Border::start(std::slice::from_ref(&recorder.endpoint)).await;
    // The path is refused while megabytes of body are still to come: a second request must not ride on the connection.
    let mut request = b"POST /a/../b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\n\r\n".to_vec();
    request.extend(vec![b'x'; 8_000_000]);
    request.extend(b"GET /second HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = border.send(&request).await;
    assert_eq!(answer.status(), 400, "{answer:?}");
    assert!(recorder.take().is_empty());
    border.running.shutdown().await;
}

/// Routes to clusters and to a service far away, beside the fixture's own.
fn clusters(eu: &str, us: &str) -> String {
    format!(
        r#"
[clusters.eu]
endpoints = ["{eu}"]
models = ["tide-small"]
[clusters.us]
endpoints = ["{us}"]
models = ["tide-small"]
[[routes]]
name = "chat"
path = "/v1/chat/completions"
infer = {{ clusters = ["eu", "us"] }}
identity = "none"
audit = "best_effort"
level = "public"
residency = ["world"]
"#
    )
}

fn chat(more: &str) -> String {
    let body = r#"{"model":"tide-small","messages":[]}"#;
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn another_cluster_is_decided_on_again_and_one_outside_the_residency_sees_nothing() {
    let recorder = Recorder::start().await;
    let more = clusters(&dead(), &recorder.endpoint);
    let border = Border::start_with(&[dead()], &more).await;
    write_policy(
        border.dir.path(),
        "@id(\"test-chat\")\npermit (principal, action == Tidegate::Action::\"infer\", resource);\n",
    );
    border.running.reload();
    let answer = loop {
        let answer = border.send(chat("").as_bytes()).await;
        if answer.status() != 403 {
            break answer;
        }
    };
    assert_eq!((answer.status(), recorder.take().len()), (200, 1), "{answer:?}");
    let records = border.closed_records(&answer.record().unwrap()).await;
    let decided: Vec<&str> = records
        .iter()
        .filter(|record| record["kind"] == "decision")
        .map(|record| record["destination"].as_str().unwrap())
        .collect();
    assert_eq!(decided, ["eu", "us"], "{records:?}");

    // Data of the EU: its one cluster is dead, and the other one must not hear of it.
    let answer = border.send(chat("tidegate-residency: EU\r\n").as_bytes()).await;
    assert_eq!(answer.status(), 403, "{answer:?}");
    assert!(recorder.take().is_empty());
    let records = border.closed_records(&answer.record().unwrap()).await;
    let denied = records.iter().rfind(|record| record["kind"] == "decision").unwrap();
    assert_eq!(
        (&denied["decision"], &denied["policies"]),
        (&"deny".into(), &serde_json::json!(["residency"]))
    );
    border.running.shutdown().await;
}

/// The interim answer of RFC 9110, section 15.2.1.
const CONTINUE: &[u8; 25] = b"HTTP/1.1 100 Continue\r\n\r\n";

#[tokio::test]
async fn a_body_that_was_long_on_its_way_does_not_leave_under_the_policies_of_its_head() {
    let recorder = Recorder::start().await;
    let more = clusters(&recorder.endpoint, &dead());
    let permit = "@id(\"test-chat\")\npermit (principal, action == Tidegate::Action::\"infer\", resource);\n";
    let configuration = configuration("127.0.0.1:0", &[dead()], &more);
    let border = Border::prepared(&configuration, |dir| write_policy(dir, permit)).await;
    assert_eq!(border.send(chat("").as_bytes()).await.status(), 200);

    let request = chat("Expect: 100-continue\r\n");
    let (head, body) = request.split_at(request.find("\r\n\r\n").unwrap() + 4);
    let mut stream = border.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    // The gateway waits for the body: it has taken the policies of this moment.
    let mut told = [0; CONTINUE.len()];
    stream.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, CONTINUE);
    write_policy(border.dir.path(), "@id(\"test-closed\")\nforbid (principal, action, resource);\n");
    border.running.reload();
    while border.send(chat("").as_bytes()).await.status() != 403 {}
    drop(recorder.take());

    stream.write_all(body.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("permission_withdrawn"), "{answer}");
    assert!(recorder.take().is_empty(), "the cluster must not hear of it");
    border.running.shutdown().await;
}

/// A service on another machine without TLS, by an address that is never dialled: the refusal comes before.
const FAR: &str = r#"
[services.far]
endpoints = ["http://203.0.113.7:80"]
plaintext = "accepted"
allow_networks = ["203.0.113.0/24"]
[[routes]]
name = "far"
path = "/far"
service = "far"
identity = "none"
audit = "best_effort"
level = "confidential"
residency = ["world"]
"#;

#[tokio::test]
async fn confidential_data_never_takes_an_accepted_plaintext_connection() {
    let border = Border::with(FAR, |dir| {
        let entities = dir.join("policies/entities.json");
        let mut list: serde_json::Value = serde_json::from_slice(&std::fs::read(&entities).unwrap()).unwrap();
        let far = serde_json::json!({ "uid": { "type": "Tidegate::Service", "id": "far" }, "attrs": {}, "parents": [] });
        list.as_array_mut().unwrap().push(far);
        std::fs::write(&entities, list.to_string()).unwrap();
        let_anyone_send(dir);
        write_policy(dir, "@id(\"test-far\")\npermit (principal, action, resource);\n");
    })
    .await;
    let answer = border.send(b"GET /far HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(answer.status(), 403, "{answer:?}");
    assert!(String::from_utf8_lossy(&answer.bytes).contains("plaintext_refused"), "{answer:?}");
    border.running.shutdown().await;
}
