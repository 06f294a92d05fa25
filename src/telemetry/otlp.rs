//! Spans as OTLP messages (opentelemetry-proto 1.x, `trace.proto`, `common.proto`), written straight from the facts.
//!
//! The SDK's way, its span data into generated messages and these into bytes, took more instructions a request than Cedar and the record
//! together. The message types are fixed and few, so the bytes are written at once; tests read them with the generated types.

use std::fmt::Display;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanContext, SpanId};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::span::{Finished, Kind, Status};

/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`: whether the parent is remote is known; it never is.
const KNOWN_LOCAL: u32 = 0x100;
/// The same of a link, which always is.
const KNOWN_REMOTE: u32 = 0x300;

/// A message that grows.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// A field of bytes that other calls write: a message or a text. Its length, known afterwards, goes before it.
    pub(super) fn field(&mut self, number: u32, write: impl FnOnce(&mut Self)) {
        encode_key(number, WireType::LengthDelimited, &mut self.0);
        // Most lengths take one byte.
        self.0.push(0);
        let start = self.0.len();
        write(self);
        let end = self.0.len();
        let length = u64::try_from(end - start).unwrap_or(u64::MAX);
        let more = encoded_len_varint(length) - 1;
        if more > 0 {
            self.0.resize(end + more, 0);
            self.0.copy_within(start..end, start + more);
        }
        if let Some(mut place) = self.0.get_mut(start - 1..start + more) {
            encode_varint(length, &mut place);
        }
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        encode_key(number, WireType::LengthDelimited, &mut self.0);
        encode_varint(u64::try_from(bytes.len()).unwrap_or(u64::MAX), &mut self.0);
        self.0.extend_from_slice(bytes);
    }

    fn varint(&mut self, number: u32, value: u64) {
        encode_key(number, WireType::Varint, &mut self.0);
        encode_varint(value, &mut self.0);
    }

    fn time(&mut self, number: u32, time: SystemTime) {
        encode_key(number, WireType::SixtyFourBit, &mut self.0);
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.0.extend_from_slice(&u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
    }

    fn flags(&mut self, number: u32, flags: u32) {
        encode_key(number, WireType::ThirtyTwoBit, &mut self.0);
        self.0.extend_from_slice(&flags.to_le_bytes());
    }

    pub(super) fn show(&mut self, text: impl Display) {
        // INVARIANT: a list of bytes takes all.
        let _ = write!(self.0, "{text}");
    }

    /// `Span`.
    pub(super) fn span(&mut self, number: u32, span: &Finished) {
        self.field(number, |message| {
            message.bytes(1, &span.ids.trace.to_bytes());
            message.bytes(2, &span.ids.span.to_bytes());
            if span.ids.parent != SpanId::INVALID {
                message.bytes(4, &span.ids.parent.to_bytes());
            }
            message.field(5, |message| message.show(span.facts.name()));
            message.varint(6, kind(span.facts.kind()));
            message.time(7, span.started);
            message.time(8, span.ended);
            span.facts.put(&mut Attributes { message: &mut *message, number: 9 });
            if let Some(caller) = span.facts.caller() {
                message.link(13, caller);
            }
            message.status(15, span.facts.status());
            // Only what is sampled is exported.
            message.flags(16, KNOWN_LOCAL | 1);
        });
    }

    fn link(&mut self, number: u32, context: &SpanContext) {
        self.field(number, |message| {
            message.bytes(1, &context.trace_id().to_bytes());
            message.bytes(2, &context.span_id().to_bytes());
            message.flags(6, KNOWN_REMOTE | u32::from(context.trace_flags().to_u8()));
        });
    }

    fn status(&mut self, number: u32, status: Status) {
        let Status::Error(description) = status else { return };
        self.field(number, |message| {
            if !description.is_empty() {
                message.bytes(2, description.as_bytes());
            }
            message.varint(3, 2);
        });
    }
}

const fn kind(kind: Kind) -> u64 {
    match kind {
        Kind::Internal => 1,
        Kind::Server => 2,
        Kind::Client => 3,
    }
}

/// The attributes of a message, each a `KeyValue` of its field with this number.
#[derive(Debug)]
pub(super) struct Attributes<'a> {
    pub(super) message: &'a mut Message,
    pub(super) number: u32,
}

impl Attributes<'_> {
    /// An attribute whose `AnyValue` other calls write.
    fn put(&mut self, key: &str, write: impl FnOnce(&mut Message)) {
        self.message.field(self.number, |message| {
            message.bytes(1, key.as_bytes());
            message.field(2, write);
        });
    }

    pub(super) fn text(&mut self, key: &str, text: &str) {
        self.put(key, |value| value.bytes(1, text.as_bytes()));
    }

    /// A text that is made as it is written.
    pub(super) fn shown(&mut self, key: &str, text: impl Display) {
        self.put(key, |value| value.field(1, |value| value.show(text)));
    }

    /// OpenTelemetry has signed numbers only.
    pub(super) fn number(&mut self, key: &str, number: impl Into<u64>) {
        let number = number.into().min(i64::MAX.unsigned_abs());
        self.put(key, |value| value.varint(3, number));
    }

    pub(super) fn list<'t>(&mut self, key: &str, texts: impl Iterator<Item = &'t str>) {
        let texts = |list: &mut Message| {
            texts.for_each(|text| list.field(1, |value| value.bytes(1, text.as_bytes())));
        };
        self.put(key, |value| value.field(5, texts));
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
    use opentelemetry_proto::tonic::trace::v1::{ScopeSpans, Span, span, status};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::super::span::tests::{attempt, decision, finished, server};
    use super::*;

    fn read(spans: &[Finished]) -> Vec<Span> {
        let mut message = Message::default();
        spans.iter().for_each(|span| message.span(2, span));
        ScopeSpans::decode(message.into_bytes().as_slice()).unwrap().spans
    }

    fn get(span: &Span, key: &str) -> Option<Value> {
        let found: Vec<&KeyValue> = span.attributes.iter().filter(|attribute| attribute.key == key).collect();
        assert!(found.len() < 2, "{key} stands twice");
        found.first().and_then(|attribute| attribute.value.clone()).and_then(|value| value.value)
    }

    fn text(text: &str) -> Option<Value> {
        Some(Value::StringValue(text.into()))
    }

    #[test]
    fn a_request_as_another_reader_sees_it() {
        let spans = [server(503), decision(), attempt()].map(finished);
        let read = read(&spans);
        let [server, decision, client] = &read[..] else { panic!("{read:?}") };
        for (span, facts) in read.iter().zip(&spans) {
            assert_eq!(span.trace_id, facts.ids.trace.to_bytes());
            assert_eq!(span.span_id, facts.ids.span.to_bytes());
            assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 1_000);
            assert_eq!(get(span, "tidegate.leaf_index"), Some(Value::IntValue(7)));
            assert_eq!(get(span, "tidegate.log"), text("border-1"));
        }
        assert_eq!((server.name.as_str(), server.kind()), ("POST chat", span::SpanKind::Server));
        assert_eq!(get(server, "http.response.status_code"), Some(Value::IntValue(503)));
        assert_eq!(get(server, "url.path"), text("/v1/chat/completions"));
        assert_eq!(get(server, "error.type"), text("503"));
        assert_eq!(server.status.as_ref().unwrap().code(), status::StatusCode::Error);
        assert_eq!((server.links[0].trace_id.len(), server.links[0].flags), (16, 0x301));
        assert_eq!((decision.name.as_str(), decision.kind()), ("decide", span::SpanKind::Internal));
        let policies = ["a", "b"].map(|id| AnyValue { value: text(id) }).to_vec();
        assert_eq!(
            get(decision, "tidegate.policies"),
            Some(Value::ArrayValue(ArrayValue { values: policies }))
        );
        assert_eq!(get(decision, "tidegate.principal"), text("User::\"https://issuer.example|ada\""));
        assert_eq!((decision.status.as_ref(), decision.flags), (None, 0x101));
        assert_eq!((client.name.as_str(), client.kind()), ("chat tide-small", span::SpanKind::Client));
        assert_eq!(get(client, "gen_ai.usage.output_tokens"), Some(Value::IntValue(12)));
        assert_eq!(get(client, "server.address"), text("gpu.example"));
        assert_eq!(client.status.as_ref().unwrap().message, "upstream_reset");
    }

    proptest! {
        /// Lengths of one byte and of more, also of the messages around them.
        #[test]
        fn any_text_and_number_is_read_as_it_was(key in ".{0,200}", value in ".{0,20000}", number: u64) {
            let mut message = Message::default();
            let mut attributes = Attributes { message: &mut message, number: 9 };
            attributes.text(&key, &value);
            attributes.shown(&key, &value);
            attributes.number("n", number);
            let span = Span::decode(message.into_bytes().as_slice()).unwrap();
            for attribute in &span.attributes[..2] {
                prop_assert_eq!(&attribute.key, &key);
                prop_assert_eq!(attribute.value.clone().unwrap().value, text(&value));
            }
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            prop_assert_eq!(span.attributes[2].value.clone().unwrap().value, Some(Value::IntValue(number)));
        }
    }
}
