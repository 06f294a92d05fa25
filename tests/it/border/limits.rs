//! Who asks too often is told when to come back, with a record; the far side hears nothing.

use super::fixture::{Border, Recorder};

#[tokio::test]
async fn the_third_request_in_a_minute_is_429_with_retry_after() {
    let recorder = Recorder::start().await;
    let endpoints = std::slice::from_ref(&recorder.endpoint);
    let border = Border::start_with(endpoints, "[limits.all]\nrate = 2\nper = \"1m\"\n").await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let answer = border.send(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        statuses.push(answer.status());
        if answer.status() == 429 {
            let text = String::from_utf8(answer.bytes.clone()).unwrap().to_ascii_lowercase();
            assert!(text.contains("retry-after: ") && text.contains("rate_limited"), "{text}");
            let records = border.closed_records(&answer.record().unwrap()).await;
            assert_eq!(records[0]["code"], "rate_limited", "{records:?}");
        }
    }
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!(recorder.take().len(), 2);
    border.running.shutdown().await;
}
