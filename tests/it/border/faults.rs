//! Upstreams that fail: what the caller gets, what is tried again and what is not, and that nothing stays taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

use super::faults_fixture::{Reply, Upstream, chat, http2, two_clusters};
use super::fixture::{Border, whole_answer};
use crate::fault::{Fault, FaultProxy};

/// Short waits, and no ejection: each request meets the fault.
const SHORT: &str =
    "timeouts = { connect = \"1s\", first_byte = \"400ms\", idle = \"400ms\" }\nejection = { failures = 0 }";

#[tokio::test]
async fn a_fault_within_a_stream_ends_it_with_a_record_and_is_never_tried_again() {
    let (events, head) = Reply::events(10);
    for (fault, ending, code) in [
        (Fault::Reset { after: head + 45 }, "upstream_reset", "upstream_reset"),
        (Fault::Cut { after: head + 45 }, "upstream_reset", "upstream_reset"),
        (Fault::HalfClose { after: head + 45 }, "upstream_reset", "upstream_reset"),
        (Fault::Stall { after: head + 45 }, "timeout", "upstream_timeout"),
    ] {
        let (eu, us) = (Upstream::start(events.clone()).await, Upstream::start(events.clone()).await);
        let proxy = FaultProxy::before(eu.address, fault).await;
        let limit = "[limits.chat]\nconcurrency = 1\n";
        let border = two_clusters(&proxy.endpoint, &us.endpoint(), SHORT, limit).await;
        let began = Instant::now();
        let answer = border.chat("").await;
        assert!(began.elapsed() < Duration::from_secs(3), "{fault:?}");
        assert_eq!(answer.status(), 200, "{fault:?} {answer:?}");
        assert!(!whole_answer(&answer.bytes), "half an answer must not look like a whole one: {answer:?}");
        let outcome = border.last_outcome(&answer.record().unwrap()).await;
        assert_eq!((&outcome["ending"], &outcome["code"]), (&ending.into(), &code.into()), "{outcome}");
        let bytes = outcome["response_bytes"].as_u64().unwrap();
        assert!((1..=45).contains(&bytes), "{outcome}");
        assert_eq!((eu.count(), us.count()), (1, 0), "tried again after the first byte: {fault:?}");
        border.settles().await;
        // The caller's only slot is free again, and so are the journal's places.
        proxy.set(Fault::None);
        let again = border.chat("").await;
        assert!(whole_answer(&again.bytes) && again.status() == 200, "{again:?}");
        border.running.shutdown().await;
    }
}

#[tokio::test]
async fn a_fault_before_the_first_byte_costs_one_recorded_attempt() {
    for fault in [
        Fault::Reset { after: 0 },
        Fault::Cut { after: 0 },
        Fault::HalfClose { after: 0 },
        Fault::Stall { after: 0 },
        Fault::Reset { after: 9 },
        Fault::Stall { after: 9 },
        Fault::Delay(Duration::from_secs(2)),
        Fault::Bandwidth { bytes_a_second: 20 },
    ] {
        let (eu, us) = (Upstream::start(Reply::ok()).await, Upstream::start(Reply::ok()).await);
        let proxy = FaultProxy::before(eu.address, fault).await;
        let border = two_clusters(&proxy.endpoint, &us.endpoint(), SHORT, "").await;
        let answer = border.chat("").await;
        assert_eq!((answer.status(), us.count()), (200, 1), "{fault:?} {answer:?}");
        assert_eq!(border.destinations(&answer).await, ["eu", "us"], "{fault:?}");
        border.settles().await;
        border.running.shutdown().await;
    }
}

#[tokio::test]
async fn what_may_change_something_is_not_sent_twice() {
    // A reset after the request was taken: for all we know it was served.
    let upstreams = [Upstream::start(Reply::ok()).await, Upstream::start(Reply::ok()).await];
    let mut endpoints = Vec::new();
    for upstream in &upstreams {
        endpoints.push(FaultProxy::before(upstream.address, Fault::Reset { after: 0 }).await.endpoint);
    }
    let border = Border::start(&endpoints).await;
    let answer = border.send(b"POST /order HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n42").await;
    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_reset"), "{answer:?}");
    assert_eq!(upstreams.iter().map(Upstream::count).sum::<usize>(), 1);
    border.running.shutdown().await;
}

#[tokio::test]
async fn a_storm_of_refusals_is_answered_with_at_most_a_tenth_more_attempts() {
    for status in [429, 503] {
        let refusal = Reply::status(status);
        let (eu, us) = (Upstream::start(refusal.clone()).await, Upstream::start(refusal).await);
        let border = two_clusters(&eu.endpoint(), &us.endpoint(), SHORT, "").await;
        let requests = 300;
        for _ in 0..requests {
            // The far side's own word is passed on when nobody else can serve.
            assert_eq!(border.chat("").await.status(), status);
        }
        let attempts = eu.count() + us.count();
        assert!(attempts <= requests + requests / 10, "{attempts} attempts for {requests} requests");
        assert_eq!(us.count(), 30, "the budget was used");
        let label = ["tidegate_upstream=\"eu\""];
        assert_eq!(border.metric("tidegate_upstream_retries{", &label).await, 30);
        assert_eq!(border.metric("tidegate_upstream_retries_withheld{", &label).await, 270);
        border.settles().await;
        border.running.shutdown().await;
    }
}

#[tokio::test]
async fn a_refusal_is_passed_on_when_policy_lets_nobody_else_serve() {
    let (eu, us) = (Upstream::start(Reply::status(503)).await, Upstream::start(Reply::ok()).await);
    let border = two_clusters(&eu.endpoint(), &us.endpoint(), SHORT, "").await;
    let answer = border.chat("tidegate-residency: EU\r\n").await;
    assert_eq!((answer.status(), eu.count(), us.count()), (503, 1, 0), "{answer:?}");
    assert_eq!(border.destinations(&answer).await, ["eu"]);
    let answer = border.chat("").await;
    assert_eq!((answer.status(), us.count()), (200, 1), "{answer:?}");
    let records = border.closed_records(&answer.record().unwrap()).await;
    let first = records.iter().find(|record| record["kind"] == "outcome").unwrap();
    assert_eq!(first["code"], "upstream_declined", "{records:?}");
    border.running.shutdown().await;
}

#[tokio::test]
async fn without_a_budget_the_answer_is_503_with_retry_after_and_a_record() {
    let (eu, us) = (Upstream::start(Reply::ok()).await, Upstream::start(Reply::ok()).await);
    let proxy = FaultProxy::before(eu.address, Fault::Reset { after: 0 }).await;
    let border = two_clusters(&proxy.endpoint, &us.endpoint(), SHORT, "").await;
    for request in 1..=12 {
        let answer = border.chat("").await;
        if request <= 10 {
            assert_eq!(answer.status(), 200, "{request} {answer:?}");
            continue;
        }
        assert_eq!((answer.status(), answer.code().as_str()), (503, "retry_budget_exhausted"), "{answer:?}");
        assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
        border.recorded(&answer, "retry_budget_exhausted").await;
    }
    assert_eq!(us.count(), 10);
    border.settles().await;
    border.running.shutdown().await;
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out_and_comes_back_and_policy_stays_the_wall() {
    let (eu, us) = (Upstream::start(Reply::ok()).await, Upstream::start(Reply::ok()).await);
    let proxy = FaultProxy::before(eu.address, Fault::Reset { after: 0 }).await;
    // Long enough that it does not come back by itself while the load runs.
    let more = "ejection = { failures = 3, base = \"1s\" }";
    let border = two_clusters(&proxy.endpoint, &us.endpoint(), more, "").await;
    let began = Instant::now();
    let mut asked = 0;
    while began.elapsed() < Duration::from_millis(800) {
        let answer = border.chat("").await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        asked += 1;
    }
    assert!(asked > 5, "{asked}");
    assert_eq!((proxy.connections(), us.count()), (3, asked), "three failures and no more");
    let label = ["tidegate_upstream=\"eu\""];
    assert_eq!(border.metric("tidegate_upstream_endpoint_state", &label).await, 1);
    assert_eq!(border.metric("tidegate_upstream_endpoint_ejections", &label).await, 1);

    // Data of the EU still goes to the EU or nowhere, however ill its cluster is.
    for _ in 0..5 {
        assert!(border.chat("tidegate-residency: EU\r\n").await.status() >= 400);
    }
    assert_eq!(us.count(), asked, "data left its residency");

    // It is well again: one trial, and it is called as before.
    proxy.set(Fault::None);
    let before = eu.count();
    for _ in 0..500 {
        assert_eq!(border.chat("").await.status(), 200);
        if eu.count() > before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = eu.count();
    assert_eq!(border.chat("").await.status(), 200);
    assert_eq!(eu.count(), before + 1);
    assert_eq!(border.metric("tidegate_upstream_endpoint_state", &label).await, 0);
    border.running.shutdown().await;
}

#[tokio::test]
async fn an_endpoint_that_fails_its_checks_is_not_called_and_the_checks_carry_nothing() {
    let (eu, us) = (Upstream::start(Reply::ok()).await, Upstream::start(Reply::ok()).await);
    eu.answer_checks(Reply::status(503));
    let more = "health = { path = \"/health\", interval = \"100ms\", healthy = 1, unhealthy = 1 }";
    let border = two_clusters(&eu.endpoint(), &us.endpoint(), more, "").await;
    let label = ["tidegate_upstream=\"eu\""];
    border.reads("tidegate_upstream_endpoint_state", &label, 2).await;
    for _ in 0..5 {
        assert_eq!(border.chat("tidegate-purpose: secret-project\r\n").await.status(), 200);
    }
    assert_eq!((eu.count(), us.count()), (0, 5));
    eu.answer_checks(Reply::ok());
    border.reads("tidegate_upstream_endpoint_state", &label, 0).await;
    assert_eq!(border.chat("").await.status(), 200);
    assert_eq!((eu.count(), us.count()), (1, 5));
    let checks = eu.checks();
    assert!(checks.len() >= 2);
    for check in checks {
        let names: Vec<&str> = check.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.iter().all(|name| ["host", "user-agent"].contains(name)), "{names:?}");
        assert_eq!((check.method.as_str(), check.body.len()), ("GET", 0));
    }
    border.running.shutdown().await;
}

#[tokio::test]
async fn what_finds_no_place_waits_in_a_bounded_queue_and_is_then_shed() {
    let held = Arc::new(Semaphore::new(0));
    let eu = Upstream::start(Reply::Held(Arc::clone(&held))).await;
    let us = Upstream::start(Reply::ok()).await;
    let more = "max_in_flight = 1\nqueue = { length = 1, timeout = \"1s\" }";
    let border = Arc::new(two_clusters(&eu.endpoint(), &us.endpoint(), more, "").await);
    let label = ["tidegate_upstream=\"eu\""];
    // Only the EU may serve these.
    let ask = |border: &Arc<Border>| {
        let border = Arc::clone(border);
        tokio::spawn(async move { border.chat("tidegate-residency: EU\r\n").await })
    };
    let first = ask(&border);
    border.reads("tidegate_upstream_endpoint_in_flight", &label, 1).await;
    let second = ask(&border);
    border.reads("tidegate_upstream_waiting", &label, 1).await;

    let shed = border.chat("tidegate-residency: EU\r\n").await;
    assert_eq!((shed.status(), shed.code().as_str()), (503, "upstream_overloaded"), "{shed:?}");
    assert_eq!(shed.header("retry-after").as_deref(), Some("1"));
    border.recorded(&shed, "upstream_overloaded").await;
    // Health is answered whatever the far sides do.
    assert!(border.admin("/livez").await.starts_with("HTTP/1.1 200"));
    assert!(border.admin("/readyz").await.starts_with("HTTP/1.1 200"));

    // A place comes free within the wait.
    held.add_permits(1);
    assert_eq!(first.await.unwrap().status(), 200);
    border.reads("tidegate_upstream_waiting", &label, 0).await;
    // And this one waits in vain.
    let late = border.chat("tidegate-residency: EU\r\n").await;
    assert_eq!((late.status(), late.code().as_str()), (503, "upstream_overloaded"), "{late:?}");
    assert_eq!(border.metric("tidegate_upstream_shed{", &label).await, 2);
    // What others may serve, others serve at once.
    assert_eq!((border.chat("").await.status(), us.count()), (200, 1));
    held.add_permits(1);
    assert_eq!(second.await.unwrap().status(), 200);
    border.settles().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_cannot_hold_an_upstream() {
    let (eu, us) = (Upstream::start(Reply::Endless).await, Upstream::start(Reply::Endless).await);
    let border = two_clusters(&eu.endpoint(), &us.endpoint(), "", "[gate]\nanswer_stall = \"300ms\"\n").await;
    let in_flight = ("tidegate_upstream_endpoint_in_flight", ["tidegate_upstream=\"eu\""]);

    let mut stream = border.connect().await;
    stream.write_all(chat("").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut piece = [0; 256];
        let count = stream.read(&mut piece).await.unwrap();
        bytes.extend_from_slice(&piece[..count]);
    }
    // From here on it reads nothing.
    let outcome = border.first_outcome().await;
    assert_eq!((&outcome["ending"], &outcome["code"]), (&"timeout".into(), &"client_too_slow".into()));
    border.reads(in_flight.0, &in_flight.1, 0).await;
    drop(stream);

    // Over HTTP/2 the client never opens its window, and keeps the connection alive.
    let (mut sender, connection) = http2(&border, 16 * 1024).await;
    tokio::spawn(connection);
    let body = Full::new(Bytes::from_static(br#"{"model":"tide-small","messages":[]}"#));
    let request = http::Request::post("https://localhost/v1/chat/completions")
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let id = answer.headers()["tidegate-record"].to_str().unwrap().to_owned();
    let outcome = border.last_outcome(&id).await;
    assert_eq!((&outcome["ending"], &outcome["code"]), (&"timeout".into(), &"client_too_slow".into()));
    border.reads(in_flight.0, &in_flight.1, 0).await;
    drop(answer);
    border.running.shutdown().await;
}
