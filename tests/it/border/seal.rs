//! Sealed from border to peer and back: nobody between them reads, changes, repeats or swaps a word.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::fixture::Border;
use super::seal_fixture::{ANSWER, PROMPT, Pair, chat, prompt};

fn holds(bytes: &[u8], marker: &str) -> bool {
    bytes.windows(marker.len()).any(|window| window == marker.as_bytes())
}

/// What stands between the gateways and in both journals holds neither prompt nor answer.
fn assert_silent(pair: &Pair) {
    for marker in [PROMPT, ANSWER] {
        assert!(!holds(&pair.relay.captured(), marker), "{marker} on the wire");
        assert!(!holds(&pair.far.journal_bytes(), marker), "{marker} in the far side's journal");
    }
    // The border's own caller names itself in its `User-Agent`, which its record keeps.
    assert!(!holds(&pair.border.journal_bytes(), ANSWER), "the answer in the border's journal");
}

#[tokio::test]
async fn a_restricted_prompt_crosses_sealed_and_its_answer_too() {
    let pair = Pair::start().await;
    let answer = pair.ask(&prompt(false)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
    assert!(answer.body().contains(ANSWER), "{answer:?}");
    assert_eq!(answer.header("x-note"), None);
    let seen = pair.model.take();
    assert_eq!((seen.len(), seen[0].body.as_slice()), (1, prompt(false).as_bytes()));
    assert_silent(&pair);

    let records = pair.border.closed_records(&answer.record().unwrap()).await;
    let (decision, outcome) = (&records[0], records.iter().find(|r| r["kind"] == "outcome").unwrap());
    assert_eq!((&decision["decision"], &decision["protection"]), (&"allow".into(), &"sealed".into()));
    // Why it did not leave plain.
    assert_eq!(decision["evaluations"][0]["protection"], "none");
    assert_eq!(decision["evaluations"][0]["policies"], serde_json::json!(["restricted-only-sealed"]));
    let seal = &decision["seal"];
    assert_eq!((&seal["recipient"], &seal["direction"]), (&"haven".into(), &"request".into()));
    assert_eq!(seal["key"], "t/anonymous/haven/request/v1");
    assert_eq!(outcome["usage"]["output_tokens"], 5, "{outcome}");
    assert_eq!(outcome["answer"]["key"], "t/anonymous/haven/answer/v1");

    let far = pair.far.closed_records(outcome["answer"]["record"].as_str().unwrap()).await;
    let opened = &far[0]["opened"];
    assert_eq!((&opened["message_id"], &opened["record"]), (&seal["message_id"], &decision["id"]));
    assert_eq!((&opened["tenant"], &far[0]["tenant"]), (&"anonymous".into(), &"borders".into()));
    assert_eq!(far[0]["principal"]["id"], super::fixture::PEER);
    assert_eq!(
        (&far[0]["label"]["level"], &far[0]["label"]["origin"]),
        (&"restricted".into(), &"caller".into())
    );
    let far_outcome = far.iter().find(|record| record["kind"] == "outcome").unwrap();
    for digest in ["request_ciphertext", "response_ciphertext"] {
        assert_eq!(outcome[digest].as_str().unwrap().len(), 64, "{outcome}");
    }
    for fact in ["request_ciphertext", "response_ciphertext"] {
        assert_eq!(outcome[fact], far_outcome[fact], "both ends saw the same bytes");
    }
    for fact in ["message_id", "key"] {
        assert_eq!(outcome["answer"][fact], far_outcome["answer"][fact]);
    }
    pair.shutdown().await;
}

#[tokio::test]
async fn each_event_of_a_stream_arrives_before_the_next_is_made() {
    let pair = Pair::start().await;
    let mut client = pair.border.connect().await;
    client.write_all(chat("/v1/chat/completions", "", &prompt(true)).as_bytes()).await.unwrap();
    let (mut bytes, mut events) = (Vec::new(), 0);
    while events < 3 {
        let mut piece = [0; 4096];
        let count = client.read(&mut piece).await.unwrap();
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&piece[..count]);
        let there = String::from_utf8_lossy(&bytes).matches(ANSWER).count();
        if there > events {
            // Only now the model goes on.
            events = there;
            pair.model.go_on.add_permits(1);
        }
    }
    while !super::fixture::whole_answer(&bytes) {
        let mut piece = [0; 4096];
        let count = client.read(&mut piece).await.unwrap();
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&piece[..count]);
    }
    let answer = super::fixture::Answer { bytes };
    let expected: Vec<String> =
        (0..3).map(|n| format!("data: {{\"n\":{n},\"text\":\"{ANSWER}\"}}\n\n")).collect();
    assert_eq!(answer.body(), expected.concat() + "data: [DONE]\n\n", "padding is taken away again");
    assert_eq!(answer.header("content-type").as_deref(), Some("text/event-stream"));
    assert_silent(&pair);
    pair.shutdown().await;
}

#[tokio::test]
async fn errors_and_refusals_of_the_far_side_come_sealed() {
    let pair = Pair::start().await;
    let answer = pair.ask(&prompt(false).replace(PROMPT, "please fail")).await;
    assert_eq!(answer.status(), 500, "{answer:?}");
    assert!(answer.body().contains(ANSWER));
    // The far side's own refusal: its parser finds no object.
    let answer = pair.ask(r#"{"model":"tide-small","messages":[],"model":"tide-small"}"#).await;
    assert_eq!(
        (answer.status(), answer.code().as_str()),
        (400, "body_ambiguous"),
        "the border refuses it first"
    );
    let answer = pair.ask(&prompt(false).replace("tide-small", "none")).await;
    assert_eq!(answer.code(), "model_unknown");
    assert_silent(&pair);
    pair.shutdown().await;
}

/// The head of a captured request and its sealed body.
fn split(request: &[u8]) -> (String, Vec<u8>) {
    let end = request.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8(request[..end].to_vec()).unwrap(), request[end..].to_vec())
}

async fn refused(far: &Border, name: &str, head: &str, body: &[u8]) -> (u16, String) {
    let answer = far.send_as(name, &[head.as_bytes(), body].concat()).await;
    (answer.status(), answer.code())
}

#[tokio::test]
async fn a_captured_request_is_good_for_nothing_else() {
    let pair = Pair::start().await;
    assert_eq!(pair.ask(&prompt(false)).await.status(), 200);
    let (head, body) = split(&pair.relay.requests()[0]);
    let far = &pair.far;
    let code = |status: u16, code: &str| (status, code.to_owned());
    // Once more, word for word.
    assert_eq!(refused(far, "peer", &head, &body).await, code(409, "seal_replayed"));
    // By somebody who is no peer.
    assert_eq!(refused(far, "stranger", &head, &body).await, code(403, "seal_not_a_peer"));
    // To another path, though the same route serves it.
    let other = head.replace("/v1/chat/completions", "/v1/completions");
    assert_eq!(refused(far, "peer", &other, &body).await, code(422, "seal_context"));
    let other = head.replace("/v1/chat/completions", "/v1/chat/completions?x=1");
    assert_eq!(refused(far, "peer", &other, &body).await, code(422, "seal_context"));
    // Re-labelled: what it says of itself is part of what opens it.
    let at = body.windows(10).position(|w| w == b"restricted").unwrap();
    let mut relabelled = body.clone();
    relabelled[at..at + 10].copy_from_slice(b"internal  ");
    assert_eq!(refused(far, "peer", &head, &relabelled).await, code(422, "seal_key_unknown"));
    // Cut, and with something behind it. The id is remembered already, so each has to be found before that, or while it is read.
    let shorter = head.replace(&format!("content-length: {}", body.len()), "content-length: 40");
    assert_eq!(refused(far, "peer", &shorter, &body[..40]).await, code(422, "seal_truncated"));
    // Not at all sealed, but said to be.
    let plain = head.replace(&format!("content-length: {}", body.len()), "content-length: 2");
    assert_eq!(refused(far, "peer", &plain, b"{}").await.0, 422);
    assert_eq!(pair.model.take().len(), 1, "only the first reached the model");
    pair.shutdown().await;
}

#[tokio::test]
async fn an_answer_that_was_touched_reaches_nobody() {
    let pair = Pair::start().await;
    let mut first = None;
    pair.relay.tamper(move |answer| {
        // The first answer goes to the second request.
        first.replace(answer.clone()).unwrap_or(answer)
    });
    assert_eq!(pair.ask(&prompt(false)).await.status(), 200);
    let swapped = pair.ask(&prompt(false)).await;
    assert_eq!((swapped.status(), swapped.code().as_str()), (502, "peer_answer_unopened"), "{swapped:?}");
    assert!(swapped.body().contains("seal_context") && swapped.body().contains("`request`"), "{swapped:?}");

    pair.relay.tamper(|answer| {
        let text: Vec<u8> = b"HTTP/1.1 418 OK".to_vec();
        [text, answer[15..].to_vec()].concat()
    });
    let status = pair.ask(&prompt(false)).await;
    assert!(status.body().contains("seal_context") && status.body().contains("`status`"), "{status:?}");

    pair.relay.tamper(|_| {
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}".to_vec()
    });
    let plain = pair.ask(&prompt(false)).await;
    assert_eq!((plain.status(), plain.code().as_str()), (502, "peer_answer_not_sealed"));

    // The request comes back as its own answer.
    let requests = pair.relay.requests();
    let (_, body) = split(requests.last().unwrap());
    pair.relay.tamper(move |_| {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.tidegate.sealed\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), &body].concat()
    });
    let reflected = pair.ask(&prompt(false)).await;
    assert_eq!(
        (reflected.status(), reflected.code().as_str()),
        (502, "peer_answer_unopened"),
        "{reflected:?}"
    );

    // A bit of its only frame.
    pair.relay.tamper(|mut answer| {
        let last = answer.len() - 20;
        answer[last] ^= 1;
        answer
    });
    let broken = pair.ask(&prompt(false)).await;
    assert_eq!((broken.status(), broken.code().as_str()), (502, "peer_answer_unopened"), "{broken:?}");
    assert!(broken.body().contains("seal_frame") && !broken.body().contains(ANSWER), "{broken:?}");

    // Its end is cut off, and the length says so.
    pair.relay.tamper(|answer| {
        let (head, body) = split(&answer);
        let short = &body[..body.len() - 9];
        let length = |body: &[u8]| format!("content-length: {}", body.len());
        [head.replace(&length(&body), &length(short)).as_bytes(), short].concat()
    });
    let cut = pair.ask(&prompt(false)).await;
    assert_eq!((cut.status(), cut.code().as_str()), (502, "peer_answer_unopened"), "{cut:?}");
    assert!(cut.body().contains("seal_truncated"), "{cut:?}");
    pair.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_sealed_does_not_leave() {
    let pair = Pair::start().await;
    let query = chat("/v1/chat/completions?key=1", "", &prompt(false));
    let answer = pair.border.send(query.as_bytes()).await;
    assert_eq!((answer.status(), answer.code().as_str()), (422, "not_sealable"), "{answer:?}");
    assert!(pair.relay.captured().is_empty());
    pair.shutdown().await;
}

/// Sends a request for a stream and reads until the connection ends; the model is let go on at once.
async fn stream(pair: &Pair) -> super::fixture::Answer {
    pair.model.go_on.add_permits(3);
    let mut client = pair.border.connect().await;
    client.write_all(chat("/v1/chat/completions", "", &prompt(true)).as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        match client.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
        }
        if super::fixture::whole_answer(&bytes) {
            break;
        }
    }
    super::fixture::Answer { bytes }
}

#[tokio::test]
async fn a_stream_that_is_cut_or_changed_ends_as_broken() {
    let pair = Pair::start().await;
    for (code, change) in [
        // Without its last frame, but with a proper end of the chunks.
        (
            "seal_truncated",
            Box::new(|body: &mut Vec<u8>| body.truncate(body.len() - 40)) as Box<dyn Fn(&mut Vec<u8>) + Send>,
        ),
        (
            "seal_frame",
            Box::new(|body: &mut Vec<u8>| {
                let last = body.len() - 60;
                body[last] ^= 1;
            }),
        ),
        ("seal_trailing", Box::new(|body: &mut Vec<u8>| body.extend(b"more"))),
    ] {
        pair.relay.tamper(move |answer| {
            let (head, framed) = split(&answer);
            let (mut body, _) = super::fixture::chunked(&framed).unwrap();
            change(&mut body);
            let chunk = format!("{:x}\r\n", body.len());
            [head.as_bytes(), chunk.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat()
        });
        let answer = stream(&pair).await;
        assert!(!super::fixture::whole_answer(&answer.bytes), "{code}: it must not look whole: {answer:?}");
        let id = pair.border.journal().into_iter().rfind(|record| record["kind"] == "decision").unwrap();
        let records = pair.border.closed_records(id["id"].as_str().unwrap()).await;
        let outcome = records.iter().find(|record| record["kind"] == "outcome").unwrap();
        assert_eq!((&outcome["ending"], &outcome["code"]), (&"aborted".into(), &code.into()), "{outcome}");
    }
    pair.shutdown().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_is_recorded_on_both_sides() {
    let pair = Pair::start().await;
    let mut client = pair.border.connect().await;
    client.write_all(chat("/v1/chat/completions", "", &prompt(true)).as_bytes()).await.unwrap();
    let mut piece = [0; 4096];
    assert_ne!(client.read(&mut piece).await.unwrap(), 0);
    drop(client);
    assert_eq!(pair.border.first_outcome().await["ending"], "client_gone");
    // The relay finds out when it has something to pass on, and hangs up as well.
    pair.model.go_on.add_permits(3);
    assert_ne!(pair.far.first_outcome().await["ending"], "unknown");
    pair.shutdown().await;
}

#[tokio::test]
async fn the_keys_of_another_cluster_open_nothing() {
    let pair = Pair::strangers().await;
    let answer = pair.ask(&prompt(false)).await;
    assert_eq!((answer.status(), answer.code().as_str()), (502, "peer_answer_not_sealed"), "{answer:?}");
    let (head, body) = split(&pair.relay.requests()[0]);
    assert_eq!(refused(&pair.far, "peer", &head, &body).await, (422, "seal_key_unknown".to_owned()));
    assert!(pair.model.take().is_empty());
    assert_silent(&pair);
    pair.shutdown().await;
}

#[tokio::test]
async fn without_a_key_nothing_leaves() {
    let pair = Pair::start().await;
    // The root key is gone and no branch key is in memory yet.
    std::fs::remove_file(pair.border.dir.path().join("root.key")).unwrap();
    let answer = pair.ask(&prompt(false)).await;
    assert_eq!((answer.status(), answer.code().as_str()), (503, "key_unavailable"), "{answer:?}");
    assert!(pair.relay.captured().is_empty());
    pair.shutdown().await;
}
