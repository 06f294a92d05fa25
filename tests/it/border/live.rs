//! What was permitted when it began and is permitted no longer ends within a second, visibly, with a record; what is still permitted goes on.

use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate::policy::Bundle;
use tokio::io::AsyncWriteExt as _;

use super::fixture::{Answer, OPEN, connect, write_policy};
use super::live_fixture::{CLOSED, Raw, Stand, eventually, get, read_until};
use super::seal_fixture::{Pair, chat, prompt};

/// The bound of the promise.
const SECOND: Duration = Duration::from_secs(1);

/// Puts the policy there and waits until the gateway has it.
async fn adopt(stand: &Stand, policy: &str) {
    write_policy(stand.dir(), policy);
    let hash = Bundle::load(&stand.dir().join("policies")).unwrap().hash().to_owned();
    stand.border.running.reload();
    eventually("the policies are adopted", || async { stand.ready().await["bundle"] == hash.as_str() }).await;
}

/// The event that an event stream ends with.
fn last_event(text: &str) -> Value {
    let (_, event) = text.split_once("event: error\ndata: ").unwrap();
    serde_json::from_str(event.lines().next().unwrap()).unwrap()
}

#[tokio::test]
async fn event_streams_end_with_an_error_event_when_policies_change() {
    let stand = Stand::start().await;
    let mut one = stand.http1("/open/events", "", None).await;
    one.until("\"n\":2").await;
    let (mut sender, _connection) = stand.http2(None).await;
    let answer = get(&mut sender, &stand.url("/open/events")).await;
    let record = answer.headers()["tidegate-record"].to_str().unwrap().to_owned();
    let (mut two, mut seen) = (answer.into_body(), String::new());
    assert!(read_until(&mut two, &mut seen, "\"n\":2").await.is_none());

    adopt(&stand, CLOSED).await;
    let changed = Instant::now();
    one.until("event: error").await;
    assert!(read_until(&mut two, &mut seen, "never").await.unwrap().is_ok(), "HTTP/2 ends in order");
    one.until("\r\n0\r\n\r\n").await;
    assert!(changed.elapsed() < SECOND, "{:?}", changed.elapsed());

    for (text, record) in [(one.text(), one.record()), (seen, record)] {
        let event = last_event(&text);
        assert_eq!(event["error"]["code"], "permission_withdrawn", "{event}");
        assert_eq!(event["error"]["record"], record.as_str());
        let outcome = stand.outcome(&record).await;
        assert_eq!(
            (&outcome["ending"], &outcome["code"], &outcome["status"]),
            (&"withdrawn".into(), &"permission_withdrawn".into(), &200.into()),
            "{outcome:#}"
        );
        let withdrawn = &outcome["withdrawn"];
        assert_eq!(withdrawn["policies"], serde_json::json!(["test-closed"]), "{outcome:#}");
        assert_eq!(withdrawn["reason"], "policy_forbidden");
        assert_eq!(withdrawn["bundle"], stand.ready().await["bundle"]);
        let decision = &stand.border.records(&record)[0];
        assert_ne!(decision["bundle"], withdrawn["bundle"]);
    }
    eventually("the upstream is let go", || async { stand.streams.open() == 0 }).await;
    let metrics = metrics(&stand).await;
    assert!(
        metrics.contains("tidegate_streams_ended_total{tidegate_code=\"permission_withdrawn\""),
        "{metrics}"
    );
    assert!(
        metrics.lines().any(|line| line.starts_with("tidegate_exchanges") && line.ends_with(" 0")),
        "{metrics}"
    );
    stand.border.running.shutdown().await;
}

async fn metrics(stand: &Stand) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut stream = tokio::net::TcpStream::connect(stand.border.running.admin_address()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn plain_bodies_break_off_so_that_nobody_takes_them_for_whole() {
    let stand = Stand::start().await;
    let mut one = stand.http1("/open/bytes", "", None).await;
    one.until("\"n\":2").await;
    let (mut sender, _connection) = stand.http2(None).await;
    let mut two = get(&mut sender, &stand.url("/open/bytes")).await.into_body();
    let mut seen = String::new();
    assert!(read_until(&mut two, &mut seen, "\"n\":2").await.is_none());
    adopt(&stand, CLOSED).await;
    let changed = Instant::now();
    one.read_to_end().await;
    assert!(read_until(&mut two, &mut seen, "never").await.unwrap().is_err(), "HTTP/2 is reset");
    assert!(changed.elapsed() < SECOND, "{:?}", changed.elapsed());
    let text = one.text();
    assert!(!text.contains("0\r\n\r\n") && !text.contains("error"), "{text}");
    assert_eq!(stand.outcome(&one.record()).await["ending"], "withdrawn");
    stand.border.running.shutdown().await;
}

#[tokio::test]
async fn a_caller_who_does_not_read_delays_neither_the_end_nor_its_record() {
    let stand = Stand::start().await;
    let mut raw = stand.http1("/open/flood", "", None).await;
    raw.until("\r\n\r\n").await;
    adopt(&stand, CLOSED).await;
    let changed = Instant::now();
    let outcome = stand.outcome(&raw.record()).await;
    eventually("the upstream is let go", || async { stand.streams.open() == 0 }).await;
    assert!(changed.elapsed() < SECOND, "{:?}", changed.elapsed());
    assert_eq!((&outcome["ending"], &outcome["code"]), (&"withdrawn".into(), &"permission_withdrawn".into()));
    drop(raw.stream);
    stand.border.running.shutdown().await;
}

#[tokio::test]
async fn behind_a_seal_the_error_event_is_inside_it() {
    let pair = Pair::start().await;
    let mut stream = connect(pair.border.dir.path(), pair.border.running.data_address().port(), None).await;
    stream.write_all(chat("/v1/chat/completions", "", &prompt(true)).as_bytes()).await.unwrap();
    let mut raw = Raw { stream, bytes: Vec::new(), ended: false };
    raw.until("\"n\":0").await;
    write_policy(pair.far.dir.path(), CLOSED);
    pair.far.running.reload();
    raw.until("event: error").await;
    // The border passes on only what opens, and ends in order only if the final frame was there.
    raw.until("\r\n0\r\n\r\n").await;
    // It came in several frames.
    let event = last_event(&Answer { bytes: raw.bytes.clone() }.body());
    assert_eq!(event["error"]["code"], "permission_withdrawn");
    let clear = b"permission_withdrawn";
    assert!(!pair.relay.captured().windows(clear.len()).any(|window| window == clear), "it left in clear");
    let far = event["error"]["record"].as_str().unwrap();
    let records = pair.far.closed_records(far).await;
    let outcome = records.iter().find(|record| record["kind"] == "outcome").unwrap();
    assert_eq!(outcome["ending"], "withdrawn", "{outcome:#}");
    let records = pair.border.closed_records(&raw.record()).await;
    let outcome = records.iter().find(|record| record["kind"] == "outcome").unwrap();
    assert_eq!(outcome["ending"], "complete", "{outcome:#}");
    pair.shutdown().await;
}

#[tokio::test]
async fn a_stream_that_is_still_permitted_goes_on_untouched() {
    let stand = Stand::start().await;
    let mut raw = stand.http1("/open/events", "", None).await;
    raw.until("\"n\":2").await;
    adopt(&stand, &OPEN.replace("test-open", "test-other")).await;
    // Fifty more events take at least half a second: more than two passes over what is under way.
    raw.until("\"n\":60").await;
    let text = raw.text();
    for number in 0..=60 {
        assert_eq!(text.matches(&format!("\"n\":{number}}}")).count(), 1, "{number}");
    }
    assert!(!text.contains("error"));
    drop(raw.stream);
    stand.border.running.shutdown().await;
}

#[tokio::test]
async fn an_upload_is_cut_and_refused() {
    let stand = Stand::start().await;
    let mut stream = connect(stand.dir(), stand.border.running.data_address().port(), None).await;
    let head =
        "POST /open/upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    eventually("the upload has reached the upstream", || async { stand.streams.open() == 1 }).await;
    adopt(&stand, CLOSED).await;
    let changed = Instant::now();
    let mut raw = Raw { stream, bytes: Vec::new(), ended: false };
    raw.until("permission_withdrawn").await;
    eventually("the upstream is let go", || async { stand.streams.open() == 0 }).await;
    assert!(changed.elapsed() < SECOND, "{:?}", changed.elapsed());
    assert!(raw.text().starts_with("HTTP/1.1 403 "), "{}", raw.text());
    assert_eq!(stand.streams.whole.load(std::sync::atomic::Ordering::SeqCst), 0, "taken for whole");
    let outcome = stand.outcome(&raw.record()).await;
    assert_eq!((&outcome["ending"], &outcome["status"]), (&"withdrawn".into(), &403.into()), "{outcome:#}");
    assert_eq!(outcome["withdrawn"]["policies"], serde_json::json!(["test-closed"]));
    raw.read_to_end().await;
    stand.border.running.shutdown().await;
}

#[tokio::test]
async fn a_request_whose_answer_has_not_begun_is_refused() {
    let stand = Stand::start().await;
    let mut raw = stand.http1("/open/silent", "", None).await;
    eventually("the request has reached the upstream", || async { stand.streams.open() == 1 }).await;
    adopt(&stand, CLOSED).await;
    let changed = Instant::now();
    raw.until("permission_withdrawn").await;
    assert!(changed.elapsed() < SECOND, "{:?}", changed.elapsed());
    assert!(raw.text().starts_with("HTTP/1.1 403 "), "{}", raw.text());
    stand.border.running.shutdown().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let stand = Stand::start().await;
    let token = stand.token("alice", "short", 2);
    let issued = Instant::now();
    let mut raw = stand.http1("/events", &format!("Authorization: Bearer {token}\r\n"), None).await;
    raw.until("\"n\":2").await;
    raw.until("event: error").await;
    // `exp` is in whole seconds: it came between one and two seconds after the token was made.
    let after = issued.elapsed();
    assert!(after > Duration::from_millis(900) && after < Duration::from_secs(3), "{after:?}");
    let event = last_event(&raw.text());
    assert_eq!(
        (&event["error"]["code"], &event["error"]["type"]),
        (&"token_expired".into(), &"authentication_error".into())
    );
    let outcome = stand.outcome(&raw.record()).await;
    assert_eq!((&outcome["ending"], &outcome["code"]), (&"withdrawn".into(), &"token_expired".into()));
    stand.border.running.shutdown().await;
}

#[tokio::test]
async fn each_kind_of_revocation_ends_streams_and_refuses_requests() {
    let stand = Stand::start().await;
    let token = format!("Authorization: Bearer {}\r\n", stand.token("alice", "t-1", 600));
    let other = format!("Authorization: Bearer {}\r\n", stand.token("bob", "t-2", 600));
    let key = format!("x-api-key: {}\r\n", stand.api_key);
    let refused = |code: &'static str, status: u16| (code, status);
    for (entry, header, certificate, (code, status)) in [
        ("token = 't-1'", token.as_str(), None, refused("credential_revoked", 401)),
        ("subject = 'https://login.test|alice'", token.as_str(), None, refused("principal_revoked", 403)),
        ("key = 'build'", key.as_str(), None, refused("credential_revoked", 401)),
        ("workload = 'build'", key.as_str(), None, refused("principal_revoked", 403)),
        (
            "workload = 'spiffe://border.test/gateway/one'",
            "",
            Some("peer"),
            refused("principal_revoked", 403),
        ),
        // Whoever shows another's token is part of the chain.
        (
            "workload = 'spiffe://border.test/gateway/one'",
            token.as_str(),
            Some("peer"),
            refused("principal_revoked", 403),
        ),
    ] {
        let mut hit = stand.http1("/events", header, certificate).await;
        let mut bystander = stand.http1("/events", &other, None).await;
        hit.until("\"n\":2").await;
        bystander.until("\"n\":2").await;
        stand.revoke(&format!("[[revoked]]\n{entry}\nreason = 'test'\n"));
        let changed = Instant::now();
        hit.until("event: error").await;
        assert!(changed.elapsed() < SECOND, "{entry}: {:?}", changed.elapsed());
        assert_eq!(last_event(&hit.text())["error"]["code"], code, "{entry}");
        let outcome = stand.outcome(&hit.record()).await;
        assert_eq!((&outcome["ending"], &outcome["code"]), (&"withdrawn".into(), &code.into()), "{entry}");
        // The token is in the cache; it does not help.
        let mut again = stand.http1("/events", header, certificate).await;
        again.until("record").await;
        let text = again.text();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")) && text.contains(code), "{entry}: {text}");
        let records = stand.border.closed_records(&again.record()).await;
        let decision = &records[0];
        assert_eq!(
            (&decision["decision"], &decision["code"]),
            (&"reject".into(), &code.into()),
            "{records:?}"
        );
        let before = bystander.bytes.len();
        bystander.more().await;
        assert!(bystander.bytes.len() > before && !bystander.text().contains("error"), "{entry}");
        stand.revoke("revoked = []\n");
        eventually("the entry is lifted", || async {
            let mut lifted = stand.http1("/events", header, certificate).await;
            lifted.more().await;
            lifted.text().starts_with("HTTP/1.1 200")
        })
        .await;
    }
    stand.border.running.shutdown().await;
}

#[tokio::test]
async fn a_broken_list_of_revocations_changes_nothing_and_is_told() {
    let stand = Stand::start().await;
    let token = format!("Authorization: Bearer {}\r\n", stand.token("alice", "t-1", 600));
    stand.revoke("[[revoked]]\ntoken = 't-1'\n");
    let is_refused = || async {
        let mut raw = stand.http1("/events", &token, None).await;
        raw.until("\r\n\r\n").await;
        raw.text().starts_with("HTTP/1.1 401")
    };
    eventually("the token is refused", is_refused).await;
    for broken in ["", "[[revoked]]\ntokne = 't-2'\n", "[[revoked]]\ntoken = 't-2'"] {
        // The last one is sound, and would lift the first entry: it comes cut.
        let broken = broken.strip_suffix("2'").unwrap_or(broken);
        stand.revoke(broken);
        eventually("the broken list is told of", || async {
            stand.ready().await["refused_revocations"]
                .as_str()
                .is_some_and(|text| text.contains("revoked.toml"))
        })
        .await;
        assert!(is_refused().await, "{broken}");
        stand.revoke("[[revoked]]\ntoken = 't-1'\n");
        eventually("the list is sound again", || async {
            stand.ready().await["refused_revocations"].is_null()
        })
        .await;
    }
    std::fs::remove_file(stand.dir().join("revoked.toml")).unwrap();
    eventually("the missing list is told of", || async {
        stand.ready().await["refused_revocations"].is_string()
    })
    .await;
    assert!(is_refused().await, "a list that is gone lifts nothing");
    let told: Vec<Value> =
        stand.border.journal().into_iter().filter(|record| record["event"] == "revocations.reload").collect();
    assert!(
        told.iter().any(|event| event["problems"].as_array().unwrap().is_empty() && event["entries"] == 1)
    );
    assert!(
        told.iter().any(|event| event["problems"][0].as_str().is_some_and(|text| text.contains("tokne")))
    );
    stand.border.running.shutdown().await;
}
