//! Records to canonical JSON, never more than [`MAX_PAYLOAD`] bytes and never failing: what is too large is cut and says so.

use std::borrow::Cow;
use std::cell::RefCell;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::canonical::Scratch;
use super::frame::MAX_PAYLOAD;
use super::record::{Stamp, VERSION};
use crate::model::RecordId;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One attempt to make a record fit: most bytes of a string, most members of a list or inner object.
struct Bounds {
    text: usize,
    members: usize,
}

/// From mild to harsh. Hashes (64 characters) and record ids survive all of them.
const BOUNDS: [Bounds; 4] = [
    Bounds { text: 2048, members: 128 },
    Bounds { text: 512, members: 48 },
    Bounds { text: 160, members: 12 },
    HARSHEST,
];
const HARSHEST: Bounds = Bounds { text: 96, members: 4 };
/// Members that every object keeps: no part of a record inside a list has more.
const KEPT_MEMBERS: usize = 8;
/// Members that a named part of a record may have; a larger one is a context.
const MAX_PART_MEMBERS: usize = 40;

/// A member that all records have.
#[derive(Serialize)]
#[serde(untagged)]
enum Common<'a> {
    Number(u16),
    Id(RecordId),
    Text(&'a str),
    Time(Timestamp),
}

/// The members that all records have, by name, in canonical order; some are absent in some.
type Head<'a> = [(&'static str, Option<Common<'a>>); 7];

fn head<'a>(kind: &'static str, stamp: &'a Stamp<'_>) -> Head<'a> {
    [
        ("attempt", stamp.attempt.map(Common::Number)),
        ("boot", Some(Common::Id(stamp.boot))),
        ("gateway", Some(Common::Text(&stamp.gateway))),
        ("id", stamp.id.map(Common::Id)),
        ("kind", Some(Common::Text(kind))),
        ("time", Some(Common::Time(stamp.time))),
        ("v", Some(Common::Number(VERSION.into()))),
    ]
}

/// The payload of a record: canonical JSON.
pub(crate) fn encode<T: Serialize>(kind: &'static str, stamp: &Stamp<'_>, record: &T) -> Vec<u8> {
    let head = head(kind, stamp);
    match with_scratch(|scratch| scratch.merge(&head, record)) {
        Some(bytes) if bytes.len() <= MAX_PAYLOAD => bytes,
        // Only a record with a map whose keys are no text, or nested beyond reason, can fail; no record type has one.
        Some(_) | None => cut(whole(&head, record)),
    }
}

fn with_scratch<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => work(&mut scratch),
        Err(_) => work(&mut Scratch::default()),
    })
}

/// A record that cannot be written as it is.
fn whole(head: &Head<'_>, record: &impl Serialize) -> Value {
    let mut whole = serde_json::to_value(record).unwrap_or_default();
    if let Value::Object(members) = &mut whole {
        for (name, value) in head {
            let value = value.as_ref().and_then(|value| serde_json::to_value(value).ok());
            members.extend(value.map(|value| ((*name).to_owned(), value)));
        }
    }
    whole
}

/// The largest form of an oversized record that fits.
fn cut(whole: Value) -> Vec<u8> {
    for bounds in &BOUNDS {
        let mut value = whole.clone();
        shorten(&mut value, bounds, 0);
        if let Some(bytes) = marked(value) {
            return bytes;
        }
    }
    // Without its two open-ended members no record reaches the limit, however its texts are escaped.
    let mut value = whole;
    if let Value::Object(members) = &mut value {
        members.remove("context");
        members.remove("evaluations");
    }
    shorten(&mut value, &HARSHEST, 0);
    marked(value).unwrap_or_default()
}

fn marked(mut value: Value) -> Option<Vec<u8>> {
    if let Value::Object(members) = &mut value {
        members.insert("truncated".to_owned(), Value::Bool(true));
    }
    with_scratch(|scratch| scratch.write(&value)).filter(|bytes| bytes.len() <= MAX_PAYLOAD)
}

fn shorten(value: &mut Value, bounds: &Bounds, depth: usize) {
    match value {
        Value::String(text) => text.truncate(text.floor_char_boundary(bounds.text)),
        Value::Array(members) => {
            members.truncate(bounds.members);
            members.iter_mut().for_each(|member| shorten(member, bounds, depth + 1));
        }
        Value::Object(members) => {
            // The record itself and its named parts keep all members; what a context holds is open-ended.
            if depth > 1 || members.len() > MAX_PART_MEMBERS {
                let most = bounds.members.max(KEPT_MEMBERS);
                *members = std::mem::take(members).into_iter().take(most).collect();
            }
            members.values_mut().for_each(|member| shorten(member, bounds, depth + 1));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A borrowed text as a record's member.
pub(crate) const fn text(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;

    use super::super::record::{
        Decision, Ending, Entity, Evaluation, Links, Message, Outcome, Parameter, Party, Record, Refusal,
        Request, Upstream, Verdict, Withdrawal,
    };
    use super::*;
    use crate::model::AuditMode;

    pub(crate) fn stamp() -> Stamp<'static> {
        Stamp {
            id: Some(RecordId::new()),
            attempt: Some(1),
            time: Timestamp::from_second(1_700_000_000).unwrap(),
            gateway: text("border-1"),
            boot: RecordId::new(),
        }
    }

    pub(crate) fn decision() -> Decision<'static> {
        Decision {
            decision: Verdict::Allow,
            code: None,
            policies: vec![Arc::from("chat-for-research")].into(),
            route: text("chat"),
            mode: AuditMode::Required,
            tenant: text("acme"),
            principal: Party {
                kind: text("User"),
                id: text("https://issuer.example|alice"),
                teams: vec!["research".parse().unwrap()].into(),
                authn: text("jwt"),
                credential: Some(text("6f")),
            },
            chain: Links::default(),
            action: Some(text("infer")),
            resource: Some(Entity { kind: text("Model"), id: "eu/llama".into() }),
            destination: Some(text("eu")),
            label: None,
            protection: Some(text("none")),
            request: Request {
                method: text("POST"),
                host: text("gateway.example"),
                path: text("/v1/chat/completions"),
                query: vec![Parameter { name: text("q"), digest: text("ab") }],
                bytes: 321,
                version: text("2"),
                user_agent: None,
            },
            peer: "192.0.2.7:4711".parse().unwrap(),
            context: Cow::default(),
            evaluations: vec![Evaluation {
                resource: Entity { kind: text("Model"), id: "eu/llama".into() },
                destination: Some(text("eu")),
                protection: text("none"),
                allowed: true,
                policies: vec![Arc::from("chat-for-research")].into(),
                errors: Cow::default(),
            }],
            bundle: text("00ff"),
            upstream: Some(Upstream { name: text("eu"), endpoint: text("127.0.0.1:1"), plaintext: true }),
            seal: None,
            opened: None,
            body_digest: None,
            trace_id: None,
        }
    }

    #[test]
    fn a_record_reads_back() {
        let (stamp, decision) = (stamp(), decision());
        let bytes = encode("decision", &stamp, &decision);
        assert!(bytes.starts_with(br#"{"action":"infer","attempt":1,"boot":""#));
        assert!(bytes.ends_with(br#","v":1}"#));
        assert_eq!(super::super::canonical::canonical(&bytes).unwrap(), bytes);
        let (read_stamp, read) = Record::parse(&bytes).unwrap();
        assert_eq!(read_stamp, stamp);
        assert_eq!(read, Record::Decision(Box::new(decision)));
    }

    /// What is written a thousand times a second is declared in the order in which it stands in the journal.
    #[test]
    fn nothing_has_to_move_in_a_usual_record() {
        fn in_order(record: &impl Serialize) {
            let declared = String::from_utf8(serde_json::to_vec(record).unwrap()).unwrap();
            let canonical = Scratch::default().write(record).unwrap();
            assert_eq!(declared, String::from_utf8(canonical).unwrap());
        }
        let message = Message {
            direction: text("answer"),
            key: Some(text("t/acme/eu/answer/v1")),
            message_id: Some(text("00")),
            recipient: text("eu"),
            record: Some(text("01")),
            tenant: Some(text("acme")),
        };
        let mut decision = decision();
        decision.action = Some(text("infer"));
        decision.code = Some(text("policy_denied"));
        decision.chain = Links { agent: Some(text("bot")), workload: Some(text("spiffe://a/b")) };
        decision.request.user_agent = Some(text("curl"));
        decision.body_digest = Some(text("00"));
        decision.trace_id = Some(text("00"));
        (decision.seal, decision.opened) = (Some(message.clone()), Some(message.clone()));
        in_order(&decision);
        in_order(&Outcome {
            answer: Some(message.clone()),
            code: Some(text("client_too_slow")),
            fetched_bytes: Some(1),
            object: Some(Box::new(message)),
            request_ciphertext: Some(text("00")),
            request_digest: Some(text("00")),
            response_ciphertext: Some(text("00")),
            response_digest: Some(text("00")),
            status: Some(200),
            time_to_first_byte_us: Some(1),
            withdrawn: Some(Box::new(Withdrawal {
                bundle: text("00"),
                errors: vec!["none".to_owned()],
                policies: vec!["forbid".into()],
                reason: Some(text("policy_denied")),
            })),
            ..Outcome::bare(Ending::Complete)
        });
        in_order(&Refusal {
            code: text("unauthenticated"),
            host: Some(text("gateway.example")),
            method: Some(text("POST")),
            path: Some(text("/")),
            peer: decision.peer,
            route: Some(text("chat")),
            status: 401,
            trace_id: Some(text("00")),
        });
        let stamp = stamp();
        assert!(head("decision", &stamp).is_sorted_by_key(|(name, _)| *name));
    }

    /// Also what is out of order is merged with its head.
    #[test]
    fn a_record_is_one_object_whatever_its_members_are() {
        for (record, expected) in [
            (json!({}), vec!["attempt", "boot", "gateway", "id", "kind", "time", "v"]),
            (json!({"a": 1}), vec!["a", "attempt", "boot", "gateway", "id", "kind", "time", "v"]),
            (
                json!({"z": {"v": 1, "attempt": []}}),
                vec!["attempt", "boot", "gateway", "id", "kind", "time", "v", "z"],
            ),
            (
                json!({"gatewax": 1, "gateways": 2, "ti": 3, "\u{e9}": 4, "\n": 5}),
                vec![
                    "\n", "attempt", "boot", "gatewax", "gateway", "gateways", "id", "kind", "ti", "time",
                    "v", "\u{e9}",
                ],
            ),
        ] {
            let bytes = encode("event", &stamp(), &record);
            assert_eq!(super::super::canonical::canonical(&bytes).unwrap(), bytes);
            let members: serde_json::Map<String, Value> = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(members.keys().collect::<Vec<_>>(), expected);
            for (name, value) in record.as_object().unwrap() {
                assert_eq!(members.get(name), Some(value));
            }
        }
        #[derive(Serialize)]
        struct Backwards {
            zebra: u8,
            time_zone: u8,
            aardvark: u8,
        }
        let bytes = encode("event", &stamp(), &Backwards { zebra: 1, time_zone: 2, aardvark: 3 });
        assert_eq!(super::super::canonical::canonical(&bytes).unwrap(), bytes);
        assert!(bytes.starts_with(br#"{"aardvark":3,"attempt":1,"boot":""#));
        assert!(bytes.ends_with(br#","time_zone":2,"v":1,"zebra":1}"#));
    }

    #[test]
    fn a_later_version_and_an_unknown_kind_are_refused() {
        assert!(Record::parse(br#"{"v":2,"kind":"decision"}"#).is_err());
        let text = String::from_utf8(encode("hope", &stamp(), &serde_json::Map::new())).unwrap();
        assert!(Record::parse(text.as_bytes()).unwrap_err().to_string().contains("hope"));
    }

    proptest! {
        #[test]
        fn what_a_caller_sends_never_makes_a_record_too_large(
            unit in "\\PC|[\\x00-\\x1f]", count in 1usize..60_000, many in 0usize..2000,
        ) {
            let huge = unit.repeat(count);
            let mut record = decision();
            record.request.path = huge.clone().into();
            record.request.user_agent = Some(huge.clone().into());
            record.request.query = vec![Parameter { name: huge.clone().into(), digest: text("ab") }; many.min(20)];
            record.principal.teams = vec!["research".parse().unwrap(); many].into();
            record.context.to_mut().insert("purpose".to_owned(), huge.into());
            for index in 0..many {
                record.context.to_mut().insert(format!("k{index}"), vec![index; 3].into());
            }
            let bytes = encode("decision", &stamp(), &record);
            prop_assert!(bytes.len() <= MAX_PAYLOAD, "{}", bytes.len());
            prop_assert_eq!(&super::super::canonical::canonical(&bytes).unwrap(), &bytes);
            let value: Value = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(value["decision"].as_str(), Some("allow"));
            prop_assert!(value["id"].is_string());
            let (_, read) = Record::parse(&bytes).unwrap();
            prop_assert!(matches!(read, Record::Decision(_)));
        }
    }
}
