//! One request to a collector, and what its answer means (OTLP 1.x, section "OTLP/HTTP": response, failures, throttling, partial success).

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use prost::Message as _;
use serde_json::Value;

use super::headers;
use super::settings::{Compression, ExportSettings};
use crate::net::{Client, ClientSettings, FetchError, private_networks};

/// The longest wait that a collector may ask for.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// Characters of a collector's own words that are kept.
const MAX_WORDS: usize = 300;
const GZIP: HeaderValue = HeaderValue::from_static("gzip");
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// What the answer to a request means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of it was taken.
    Accepted,
    /// Some was taken; which is not said.
    Partial { rejected: i64, words: String },
    /// The request itself is at fault: too large, or something in it cannot be taken.
    Refused { status: u16, words: String },
    /// We may not, or nobody takes records there: a person must mend it. Tried again all the same.
    Denied { status: u16, words: String },
    /// Not now.
    Later { why: String, after: Option<Duration> },
}

/// A client that cannot be made; the reason is for a person.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unusable(String);

/// The way to one collector.
#[derive(Debug)]
pub(super) struct Post {
    settings: ExportSettings,
    url: String,
    client: Client,
    headers: HeaderMap,
}

impl Post {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub(super) fn open(settings: ExportSettings) -> Result<Self, Unusable> {
        let url = format!("{}/v1/logs", settings.endpoint.trim_end_matches('/'));
        let client = ClientSettings {
            ca: settings.ca.clone(),
            allow_networks: private_networks(),
            timeout: settings.timeout,
            ..ClientSettings::default()
        };
        let client = Client::with_identity(&url, &client, settings.identity().as_ref())
            .map_err(|error| Unusable(in_one_line(&error)))?;
        let mut headers = match &settings.headers_file {
            Some(path) => headers::load(path).map_err(|error| Unusable(error.to_string()))?,
            None => HeaderMap::new(),
        };
        headers.insert(CONTENT_TYPE, PROTOBUF);
        Ok(Self { settings, url, client, headers })
    }

    /// Reads the files again, for tokens and certificates are replaced; what cannot be used leaves all as it is.
    pub(super) fn reopen(&mut self) {
        match Self::open(self.settings.clone()) {
            Ok(fresh) => *self = fresh,
            Err(error) => {
                tracing::warn!(%error, endpoint = self.settings.endpoint, "files of an export cannot be read again");
            }
        }
    }

    /// A request as it will be sent, however often.
    pub(super) fn encode(&self, request: &ExportLogsServiceRequest) -> Body {
        let plain = request.encode_to_vec();
        let packed = (self.settings.compression == Compression::Gzip).then(|| gzip(&plain));
        match packed {
            Some(Ok(packed)) => Body { bytes: packed.into(), gzip: true },
            // Memory takes what is written to it; if it did not, what is not compressed can be sent all the same.
            Some(Err(_)) | None => Body { bytes: plain.into(), gzip: false },
        }
    }

    /// Sends an encoded request.
    pub(super) async fn send(&self, body: &Body) -> Verdict {
        let mut headers = self.headers.clone();
        if body.gzip {
            headers.insert(CONTENT_ENCODING, GZIP);
        }
        match self.client.post_for_head(&self.url, headers, body.bytes.clone()).await {
            Ok((status, head, body)) => judge(status, &head, &body, Timestamp::now()),
            Err(error) => Verdict::Later { why: unreachable(&error), after: None },
        }
    }
}

/// An encoded request.
#[derive(Debug, Clone)]
pub(super) struct Body {
    bytes: Bytes,
    gzip: bool,
}

fn gzip(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(plain)?;
    encoder.finish()
}

fn unreachable(error: &FetchError) -> String {
    in_one_line(error)
}

fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What an answer means.
fn judge(status: StatusCode, head: &HeaderMap, body: &[u8], now: Timestamp) -> Verdict {
    let code = status.as_u16();
    match code {
        200..=299 => accepted(head, body),
        400 | 413 | 422 => Verdict::Refused { status: code, words: words(body) },
        // A proxy or a collector that is busy or starts; 500 is not in the list of the specification, and no reason to lose anything.
        408 | 429 | 500 | 502 | 503 | 504 => Verdict::Later {
            why: format!("the collector answered {code}"),
            after: head.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now)),
        },
        _ => Verdict::Denied { status: code, words: words(body) },
    }
}

/// An answer of success may still say that records were refused.
fn accepted(head: &HeaderMap, body: &[u8]) -> Verdict {
    let kind = head.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let partial = if body.is_empty() {
        Some((0, String::new()))
    } else if kind.starts_with("application/json") {
        partial_of_json(body)
    } else {
        ExportLogsServiceResponse::decode(body).ok().map(|response| {
            response
                .partial_success
                .map_or((0, String::new()), |partial| (partial.rejected_log_records, partial.error_message))
        })
    };
    match partial {
        // Not that of a collector: a login page, a proxy's own words.
        None => Verdict::Denied { status: 200, words: words(body) },
        Some((0, _)) => Verdict::Accepted,
        Some((rejected, message)) => Verdict::Partial { rejected, words: words(message.as_bytes()) },
    }
}

/// OTLP in JSON: member names in lower camel case, 64-bit numbers as text.
fn partial_of_json(body: &[u8]) -> Option<(i64, String)> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let Some(partial) = answer.as_object()?.get("partialSuccess") else { return Some((0, String::new())) };
    let rejected = match partial.get("rejectedLogRecords") {
        None | Some(Value::Null) => 0,
        Some(Value::Number(number)) => number.as_i64()?,
        Some(Value::String(text)) => text.parse().ok()?,
        Some(_) => return None,
    };
    let message = partial.get("errorMessage").and_then(Value::as_str).unwrap_or_default();
    Some((rejected, message.to_owned()))
}

/// The start of a collector's own words, safe to print. Of a protobuf `Status` the text shows between dots.
fn words(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..MAX_WORDS.saturating_mul(4)).unwrap_or(body));
    let plain = |c: char| if c.is_control() || c == char::REPLACEMENT_CHARACTER { ' ' } else { c };
    text.chars().map(plain).take(MAX_WORDS).collect::<String>().trim().to_owned()
}

/// `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3). Bounded.
fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let wait = match value.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(value.trim()).ok()?.timestamp();
            let seconds = at.as_second().saturating_sub(now.as_second());
            Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        }
    };
    Some(wait.min(MAX_WAIT))
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;
    use proptest::prelude::*;

    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Verdict {
        let mut head = HeaderMap::new();
        for (name, value) in headers {
            head.insert(*name, value.parse().unwrap());
        }
        let now = "2026-11-24T10:00:00Z".parse().unwrap();
        judge(StatusCode::from_u16(status).unwrap(), &head, body, now)
    }

    fn later(after: Option<u64>, status: u16) -> Verdict {
        let why = format!("the collector answered {status}");
        Verdict::Later { why, after: after.map(Duration::from_secs) }
    }

    #[test]
    fn answers_mean_what_the_specification_says() {
        let partial = |rejected_log_records| {
            let error_message = "no\u{1b}[2J".to_owned();
            let partial_success = Some(ExportLogsPartialSuccess { rejected_log_records, error_message });
            ExportLogsServiceResponse { partial_success }.encode_to_vec()
        };
        let protobuf = ("content-type", "application/x-protobuf");
        let json = ("content-type", "application/json; charset=utf-8");
        assert_eq!(answer(200, &[protobuf], b""), Verdict::Accepted);
        assert_eq!(answer(204, &[], b""), Verdict::Accepted);
        assert_eq!(answer(200, &[protobuf], &partial(0)), Verdict::Accepted);
        assert_eq!(answer(200, &[json], b"{}"), Verdict::Accepted);
        assert_eq!(answer(200, &[json], br#"{"partialSuccess":{}}"#), Verdict::Accepted);
        let refused = |rejected, words: &str| Verdict::Partial { rejected, words: words.to_owned() };
        assert_eq!(answer(200, &[protobuf], &partial(2)), refused(2, "no [2J"));
        let text = br#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"why"}}"#;
        assert_eq!(answer(200, &[json], text), refused(3, "why"));
        for status in [400, 413, 422] {
            assert!(matches!(answer(status, &[], b"x"), Verdict::Refused { status: s, .. } if s == status));
        }
        for status in [301, 401, 403, 404, 405, 415, 501] {
            assert!(matches!(answer(status, &[], b"x"), Verdict::Denied { status: s, .. } if s == status));
        }
        assert!(matches!(
            answer(200, &[("content-type", "text/html")], b"<html>log in"),
            Verdict::Denied { .. }
        ));
        assert!(matches!(answer(200, &[json], b"[]"), Verdict::Denied { .. }));
    }

    #[test]
    fn a_collector_may_say_when() {
        assert_eq!(answer(503, &[], b""), later(None, 503));
        assert_eq!(answer(429, &[("retry-after", "7")], b""), later(Some(7), 429));
        assert_eq!(answer(503, &[("retry-after", "99999999999")], b""), later(Some(3600), 503));
        let date = "Tue, 24 Nov 2026 10:00:30 GMT";
        assert_eq!(answer(502, &[("retry-after", date)], b""), later(Some(30), 502));
        let past = "Tue, 24 Nov 2026 09:00:30 GMT";
        assert_eq!(answer(504, &[("retry-after", past)], b""), later(Some(0), 504));
        assert_eq!(answer(503, &[("retry-after", "soon")], b""), later(None, 503));
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(
            status in 100u16..600, kind in "application/json|application/x-protobuf|\\PC{0,20}",
            wait in "\\PC{0,40}|[0-9]{1,25}", body in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let mut head = HeaderMap::new();
            for (name, value) in [(CONTENT_TYPE, &kind), (RETRY_AFTER, &wait)] {
                if let Ok(value) = HeaderValue::from_str(value) {
                    head.insert(name, value);
                }
            }
            let verdict = judge(StatusCode::from_u16(status).unwrap(), &head, &body, Timestamp::UNIX_EPOCH);
            prop_assert_eq!(verdict == Verdict::Accepted, verdict == Verdict::Accepted && status / 100 == 2);
            if let Verdict::Later { after: Some(after), .. } = verdict {
                prop_assert!(after <= MAX_WAIT);
            }
        }

        #[test]
        fn any_json_answer_is_survived(text in "[{}\\[\\]\":,a-zA-Z0-9-]{0,80}") {
            let _ = partial_of_json(text.as_bytes());
        }
    }
}
