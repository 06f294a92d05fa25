//! One record of the journal as an OTLP log record: its exact JSON as the body, what people search for as attributes.
//!
//! The names are those that spans use. `log.record.uid` is what duplicates share; a crossing has several records, so its id
//! alone would make a backend take an outcome for a repetition of its decision.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::audit::reader::Stored;
use crate::audit::tree::Published;
use crate::audit::tree::log::LogHead;

/// Traces of decisions whose outcome has not come by yet, at most; outcomes of more have no trace.
const MAX_TRACES: usize = 8192;
/// What all event names begin with.
const PREFIX: &str = "tidegate.audit";
/// The event of a record that a destination refused; it is not told about such an event in turn.
pub(super) const REJECTED: &str = "export.rejected";

/// A text, or something else in its place, such as what is encrypted for one subject.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Loose {
    Text(String),
    Other(IgnoredAny),
}

impl Loose {
    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Other(_) => None,
        }
    }
}

#[derive(Debug, Deserialize)]
struct Named {
    #[serde(rename = "type")]
    kind: String,
    id: Loose,
}

impl Named {
    /// As Cedar writes it, without the namespace.
    fn uid(self) -> Option<String> {
        self.id.text().map(|id| format!("{}::\"{id}\"", self.kind))
    }
}

#[derive(Debug, Deserialize)]
struct Marking {
    level: Option<Loose>,
}

/// What is looked at; the rest is in the body.
#[derive(Debug, Deserialize)]
struct Fields {
    kind: String,
    id: Option<String>,
    attempt: Option<u16>,
    time: Timestamp,
    boot: String,
    event: Option<String>,
    decision: Option<Loose>,
    code: Option<Loose>,
    policies: Option<Vec<String>>,
    route: Option<Loose>,
    tenant: Option<Loose>,
    principal: Option<Named>,
    action: Option<Loose>,
    resource: Option<Named>,
    destination: Option<Loose>,
    protection: Option<Loose>,
    label: Option<Marking>,
    bundle: Option<Loose>,
    ending: Option<Loose>,
    status: Option<u16>,
    trace_id: Option<String>,
    span_id: Option<String>,
}

/// A log record on its way out.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// The number of its record.
    pub(super) seq: u64,
    /// When it was written, nanoseconds of UTC.
    pub(super) time: u64,
    /// Whether it tells of a record that a destination refused.
    pub(super) tells_of_refusal: bool,
    /// What is sent.
    pub(super) log: LogRecord,
}

/// Makes messages, and remembers the traces of open crossings.
#[derive(Debug, Default)]
pub(super) struct Shaper {
    traces: HashMap<String, (String, Option<String>)>,
}

impl Shaper {
    /// The message of a record. One whose JSON is not what it should be goes out by its number.
    pub(super) fn shape(&mut self, stored: &Stored<'_>, log: Option<&LogHead>) -> Message {
        let mut attributes = Attributes::default();
        attributes.number("tidegate.seq", stored.seq);
        if let Some(head) = log {
            attributes.text("tidegate.log", head.origin.clone());
            attributes.number("tidegate.leaf_index", stored.seq.saturating_sub(head.first));
        }
        let mut record = LogRecord {
            observed_time_unix_nano: stored.time,
            time_unix_nano: stored.time,
            body: Some(body(stored.payload)),
            ..LogRecord::default()
        };
        let mut tells_of_refusal = false;
        match serde_json::from_slice::<Fields>(stored.payload) {
            Ok(fields) => {
                tells_of_refusal = fields.event.as_deref() == Some(REJECTED);
                self.fill(fields, stored.seq, &mut record, &mut attributes);
            }
            Err(_) => {
                record.event_name = format!("{PREFIX}.unreadable");
                attributes.text("log.record.uid", format!("seq/{}", stored.seq));
                severity(&mut record, SeverityNumber::Error);
            }
        }
        record.attributes = attributes.0;
        Message { seq: stored.seq, time: stored.time, tells_of_refusal, log: record }
    }

    fn fill(&mut self, fields: Fields, seq: u64, record: &mut LogRecord, attributes: &mut Attributes) {
        record.time_unix_nano =
            u64::try_from(fields.time.as_nanosecond()).unwrap_or(record.observed_time_unix_nano);
        record.event_name = format!("{PREFIX}.{}", fields.event.as_deref().unwrap_or(&fields.kind));
        severity(record, weight(&fields));
        let (trace, span) = self.trace(&fields);
        record.trace_id = trace.and_then(|id| bytes_of::<16>(&id)).unwrap_or_default();
        record.span_id = span.and_then(|id| bytes_of::<8>(&id)).unwrap_or_default();
        let uid = match &fields.id {
            Some(id) => match fields.attempt {
                Some(attempt) => format!("{id}/{attempt}/{}", fields.kind),
                None => format!("{id}/{}", fields.kind),
            },
            None => format!("{}/{seq}", fields.boot),
        };
        attributes.text("log.record.uid", uid);
        attributes.maybe("tidegate.record", fields.id);
        if let Some(attempt) = fields.attempt {
            attributes.number("tidegate.attempt", u64::from(attempt));
        }
        attributes.text("tidegate.kind", fields.kind);
        attributes.text("tidegate.boot", fields.boot);
        if let Some(status) = fields.status {
            attributes.number("http.response.status_code", u64::from(status));
        }
        for (key, value) in [
            ("tidegate.decision", fields.decision),
            ("tidegate.code", fields.code),
            ("tidegate.route", fields.route),
            ("tidegate.tenant", fields.tenant),
            ("tidegate.action", fields.action),
            ("tidegate.destination", fields.destination),
            ("tidegate.protection", fields.protection),
            ("tidegate.label", fields.label.and_then(|label| label.level)),
            ("tidegate.bundle", fields.bundle),
            ("tidegate.ending", fields.ending),
        ] {
            attributes.maybe(key, value.and_then(Loose::text));
        }
        attributes.maybe("tidegate.principal", fields.principal.and_then(Named::uid));
        attributes.maybe("tidegate.resource", fields.resource.and_then(Named::uid));
        if let Some(policies) = fields.policies.filter(|policies| !policies.is_empty()) {
            attributes.texts("tidegate.policies", policies);
        }
    }

    /// The trace of a record: its own, or that of the decision before it.
    fn trace(&mut self, fields: &Fields) -> (Option<String>, Option<String>) {
        let Some(id) = &fields.id else { return (fields.trace_id.clone(), fields.span_id.clone()) };
        match (&fields.trace_id, fields.kind.as_str()) {
            (Some(trace), "decision") => {
                if self.traces.len() < MAX_TRACES {
                    self.traces.insert(id.clone(), (trace.clone(), fields.span_id.clone()));
                } else {
                    // Something that never ends fills it: begin anew.
                    self.traces.clear();
                }
                (Some(trace.clone()), fields.span_id.clone())
            }
            (None, "outcome") => match self.traces.remove(id) {
                Some((trace, span)) => (Some(trace), span),
                None => (None, None),
            },
            _ => (fields.trace_id.clone(), fields.span_id.clone()),
        }
    }
}

/// A signed checkpoint as a log record: whoever has it can show later that the log was cut or rewritten.
pub(super) fn checkpoint(published: &Published) -> LogRecord {
    let time = u64::try_from(published.at.as_nanosecond()).unwrap_or(0);
    let mut attributes = Attributes::default();
    let (origin, size) = (&published.origin, published.size);
    attributes.text("log.record.uid", format!("checkpoint/{origin}/{size}/{}", published.at.as_second()));
    attributes.text("tidegate.log", origin.to_string());
    attributes.number("tidegate.tree_size", size);
    let mut record = LogRecord {
        event_name: format!("{PREFIX}.checkpoint"),
        time_unix_nano: time,
        observed_time_unix_nano: time,
        body: Some(text(published.note.to_string())),
        attributes: attributes.0,
        ..LogRecord::default()
    };
    severity(&mut record, SeverityNumber::Info);
    record
}

/// Who sends: the resource of all log records.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    /// The gateway instance.
    pub(super) instance: Arc<str>,
    /// The version of the program.
    pub(super) version: &'static str,
}

impl Sender {
    /// A request with these log records.
    pub(super) fn request(&self, log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
        let mut attributes = Attributes::default();
        attributes.text("service.name", "tidegate".to_owned());
        attributes.text("service.version", self.version.to_owned());
        attributes.text("service.instance.id", self.instance.to_string());
        let resource = Resource { attributes: attributes.0, ..Resource::default() };
        let scope = InstrumentationScope {
            name: PREFIX.to_owned(),
            version: self.version.to_owned(),
            ..InstrumentationScope::default()
        };
        let logs = ScopeLogs { scope: Some(scope), log_records, schema_url: String::new() };
        let logs =
            ResourceLogs { resource: Some(resource), scope_logs: vec![logs], schema_url: String::new() };
        ExportLogsServiceRequest { resource_logs: vec![logs] }
    }
}

#[derive(Debug, Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn put(&mut self, key: &str, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(KeyValue { key: key.to_owned(), value, ..KeyValue::default() });
    }

    fn text(&mut self, key: &str, value: String) {
        self.put(key, Value::StringValue(value));
    }

    fn maybe(&mut self, key: &str, value: Option<String>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.put(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn texts(&mut self, key: &str, values: Vec<String>) {
        let values = values.into_iter().map(text).collect();
        self.put(key, Value::ArrayValue(ArrayValue { values }));
    }
}

const fn text(text: String) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text)) }
}

/// The exact bytes of the record: a text, for JSON is one.
fn body(payload: &[u8]) -> AnyValue {
    match std::str::from_utf8(payload) {
        Ok(json) => text(json.to_owned()),
        Err(_) => AnyValue { value: Some(Value::BytesValue(payload.to_owned())) },
    }
}

fn severity(record: &mut LogRecord, number: SeverityNumber) {
    record.severity_number = number.into();
    record.severity_text = match number {
        SeverityNumber::Warn => "WARN",
        SeverityNumber::Error => "ERROR",
        _ => "INFO",
    }
    .to_owned();
}

/// A refusal is a warning; so is an event that tells of a loss or a refusal to work.
fn weight(fields: &Fields) -> SeverityNumber {
    let refused = matches!(&fields.decision, Some(Loose::Text(text)) if text != "allow");
    let lossy = fields.event.as_deref().is_some_and(|event| {
        event.starts_with("recovery.") || matches!(event, "audit.gap" | "clock.step" | REJECTED)
    });
    if refused || lossy || fields.kind.starts_with("refusal") {
        SeverityNumber::Warn
    } else {
        SeverityNumber::Info
    }
}

/// Bytes that are written in hexadecimal.
fn bytes_of<const N: usize>(hex: &str) -> Option<Vec<u8>> {
    if hex.len() != N.checked_mul(2)? {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    hex.as_bytes()
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => Some((digit(*high)? << 4) | digit(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::audit::encode::encode;
    use crate::audit::encode::tests::{decision, stamp};
    use crate::audit::frame::Kind;
    use crate::audit::record::{Ending, Event, Outcome, Verdict};

    fn stored(seq: u64, payload: &[u8]) -> Stored<'_> {
        Stored { seq, time: 9, kind: Kind::Event, payload }
    }

    fn shown(message: &Message, key: &str) -> Option<String> {
        let found = message.log.attributes.iter().find(|attribute| attribute.key == key)?;
        Some(match found.value.clone()?.value? {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn a_crossing_keeps_its_trace_and_each_record_its_own_uid() {
        let mut shaper = Shaper::default();
        let (stamp, mut record) = (stamp(), decision());
        record.trace_id = Some("0af7651916cd43dd8448eb211c80319c".into());
        record.decision = Verdict::Deny;
        let head = LogHead { origin: "a/b/1".into(), first: 40, opened: Timestamp::UNIX_EPOCH };
        let bytes = encode("decision", &stamp, &record);
        let decided = shaper.shape(&stored(42, &bytes), Some(&head));
        let id = stamp.id.unwrap().to_string();
        assert_eq!(decided.log.event_name, "tidegate.audit.decision");
        assert_eq!(decided.log.severity_text, "WARN");
        assert_eq!(decided.log.trace_id.len(), 16);
        assert_eq!(decided.log.trace_id[..2], [0x0a, 0xf7]);
        assert_eq!(decided.log.body, Some(text(String::from_utf8(bytes).unwrap())));
        for (key, value) in [
            ("log.record.uid", format!("{id}/1/decision").as_str()),
            ("tidegate.record", &id),
            ("tidegate.seq", "42"),
            ("tidegate.leaf_index", "2"),
            ("tidegate.log", "a/b/1"),
            ("tidegate.decision", "deny"),
            ("tidegate.principal", "User::\"https://issuer.example|alice\""),
            ("tidegate.resource", "Model::\"eu/llama\""),
            ("tidegate.route", "chat"),
        ] {
            assert_eq!(shown(&decided, key).as_deref(), Some(value), "{key}");
        }
        let bytes = encode("outcome", &stamp, &Outcome::bare(Ending::Complete));
        let ended = shaper.shape(&stored(43, &bytes), None);
        assert_eq!(ended.log.trace_id, decided.log.trace_id);
        assert_eq!(shown(&ended, "log.record.uid").unwrap(), format!("{id}/1/outcome"));
        assert_eq!(shaper.shape(&stored(43, &bytes), None).log.trace_id, Vec::<u8>::new());
    }

    #[test]
    fn events_are_named_by_what_happened() {
        let mut shaper = Shaper::default();
        let stamp = crate::audit::record::Stamp { id: None, attempt: None, ..stamp() };
        let bytes = encode("event", &stamp, &Event::Stop);
        let stopped = shaper.shape(&stored(7, &bytes), None);
        assert_eq!(stopped.log.event_name, "tidegate.audit.stop");
        assert_eq!(shown(&stopped, "log.record.uid").unwrap(), format!("{}/7", stamp.boot));
        assert!(!stopped.tells_of_refusal);
    }

    #[test]
    fn what_is_encrypted_in_place_of_a_text_is_left_out() {
        let json = br#"{"v":1,"kind":"decision","id":"i","time":"2026-11-24T00:00:00Z","boot":"b",
            "principal":{"type":"User","id":{"enc":"k","ct":"x"}},"route":"chat"}"#;
        let message = Shaper::default().shape(&stored(1, json), None);
        assert_eq!(shown(&message, "tidegate.route").as_deref(), Some("chat"));
        assert_eq!(shown(&message, "tidegate.principal"), None);
    }

    #[test]
    fn traces_of_crossings_that_never_end_are_bounded() {
        let mut shaper = Shaper::default();
        for id in 0..MAX_TRACES * 3 {
            let json = format!(
                r#"{{"kind":"decision","id":"{id}","attempt":1,"time":"2026-11-24T00:00:00Z","boot":"b","trace_id":"{id:032x}"}}"#
            );
            shaper.shape(&stored(1, json.as_bytes()), None);
            assert!(shaper.traces.len() <= MAX_TRACES);
        }
    }

    proptest! {
        #[test]
        fn any_payload_becomes_a_request_that_reads_back(
            payload in proptest::collection::vec(any::<u8>(), 0..300), seq: u64,
        ) {
            let message = Shaper::default().shape(&stored(seq, &payload), None);
            let sender = Sender { instance: "border-1".into(), version: "0" };
            let bytes = sender.request(vec![message.log.clone()]).encode_to_vec();
            let read = ExportLogsServiceRequest::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(&read.resource_logs[0].scope_logs[0].log_records[0], &message.log);
            prop_assert!(shown(&message, "log.record.uid").is_some());
        }
    }
}
