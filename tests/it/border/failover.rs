//! Another endpoint is tried only when it is safe, and every attempt is decided and recorded.

use super::fixture::{Border, Recorder};

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
