//! OCSF (Open Cybersecurity Schema Framework) 1.8.0, class API Activity (6003), profiles `security_control`, `trace`,
//! `data_classification` and, for model calls, `ai_operation`. One event a record; all numbers are integers.
//!
//! OCSF has no class for a decision about one request, so the decision stands in `action`, `disposition` and `authorizations`, and
//! what came of it, another event, in `status` and `http_response`. `metadata.uid` is the record, `metadata.correlation_uid` the
//! crossing. What has no place in the schema is in `unmapped`, under the names of the record. `parts` makes the inner objects.

mod parts;

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::{Entry, remove, text_at, uid};

/// The version of the schema.
pub const VERSION: &str = "1.8.0";
/// The class API Activity.
const CLASS: u32 = 6003;
/// Members of a record that have a place in the schema; the rest is `unmapped`.
const MAPPED: [&str; 33] = [
    "/v",
    "/kind",
    "/id",
    "/time",
    "/gateway",
    "/decision",
    "/code",
    "/policies",
    "/bundle",
    "/route",
    "/tenant",
    "/principal/type",
    "/principal/id",
    "/principal/teams",
    "/principal/credential",
    "/chain",
    "/action",
    "/resource",
    "/label/level",
    "/destination",
    "/request/method",
    "/request/path",
    "/request/bytes",
    "/request/version",
    "/request/user_agent",
    "/peer",
    "/trace_id",
    "/status",
    "/response_bytes",
    "/event",
    "/method",
    "/path",
    "/count",
];

/// Writes a record as one event on a line.
///
/// # Errors
/// It cannot be written, or the record is no JSON.
pub fn write(entry: &Entry<'_>, out: &mut impl Write) -> io::Result<()> {
    let event = event(entry)?;
    serde_json::to_writer(&mut *out, &event)?;
    out.write_all(b"\n")
}

/// A record, and its decision where it does not say who and what.
#[derive(Clone, Copy)]
struct Facts<'a> {
    record: &'a Value,
    decision: Option<&'a Value>,
}

impl<'a> Facts<'a> {
    /// A member of the record or of its decision.
    fn at(&self, pointer: &str) -> Option<&'a Value> {
        self.record.pointer(pointer).or_else(|| self.decision?.pointer(pointer))
    }

    fn text(&self, pointer: &str) -> Option<&'a str> {
        self.at(pointer)?.as_str()
    }

    /// A member of the record itself.
    fn own(&self, pointer: &str) -> Option<&'a str> {
        text_at(self.record, pointer)
    }

    fn kind(&self) -> &'a str {
        self.own("/kind").unwrap_or_default()
    }

    /// What was decided: `allow`, `deny` or `reject`; refusals say none and are rejections.
    fn verdict(&self) -> Option<&'a str> {
        let refused = matches!(self.kind(), "refusal" | "refusals").then_some("reject");
        self.text("/decision").or(refused)
    }
}

fn event(entry: &Entry<'_>) -> io::Result<Value> {
    let record = entry.parse()?;
    let facts = Facts { record: &record, decision: entry.decision };
    let (activity, name) = activity(facts);
    let mut event = json!({
        "category_uid": 6, "category_name": "Application Activity",
        "class_uid": CLASS, "class_name": "API Activity",
        "activity_id": activity, "activity_name": name,
        "type_uid": CLASS * 100 + activity,
        "time": milliseconds(facts), "timezone_offset": 0,
        "message": message(facts),
        "metadata": parts::metadata(facts, uid(entry.seq, &record), entry.seq),
        "actor": parts::actor(facts),
        "api": parts::api(facts),
        "src_endpoint": parts::source(facts),
    });
    let Some(members) = event.as_object_mut() else { return Ok(event) };
    verdict(facts, members);
    status(facts, members);
    let optional = [
        ("resources", parts::resources(facts)),
        ("dst_endpoint", parts::destination(facts)),
        ("http_request", parts::http_request(facts)),
        ("http_response", parts::http_response(facts)),
        ("trace", facts.text("/trace_id").map(|id| json!({ "uid": id }))),
        ("ai_model", parts::ai_model(facts)),
        ("message_context", parts::tokens(facts)),
        ("count", record.get("count").filter(|count| count.is_u64()).cloned()),
        ("duration", record.get("duration_us").and_then(Value::as_u64).map(|us| (us / 1000).into())),
        ("unmapped", unmapped(&record)),
    ];
    members.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Ok(event)
}

fn unmapped(record: &Value) -> Option<Value> {
    let mut rest = record.clone();
    for pointer in MAPPED {
        // What is encrypted for one subject is no text and has no place in the schema.
        if !matches!(record.pointer(pointer), Some(Value::Object(inner)) if inner.contains_key("enc")) {
            remove(&mut rest, pointer);
        }
    }
    rest.as_object().is_some_and(|members| !members.is_empty()).then_some(rest)
}

/// The activity's number and name. What is no create, read, update or delete is 99 with the name of our own action.
fn activity(facts: Facts<'_>) -> (u32, String) {
    match (facts.text("/action"), facts.own("/event")) {
        (Some("read" | "list"), _) => (2, "Read".to_owned()),
        (Some("write"), _) => (3, "Update".to_owned()),
        (Some("delete"), _) => (4, "Delete".to_owned()),
        (Some(action), _) => (99, action.to_owned()),
        (None, Some(event)) => (99, event.to_owned()),
        (None, None) => (0, "Unknown".to_owned()),
    }
}

fn milliseconds(facts: Facts<'_>) -> i64 {
    let time = facts.own("/time").and_then(|time| time.parse::<jiff::Timestamp>().ok());
    time.map_or(0, jiff::Timestamp::as_millisecond)
}

fn message(facts: Facts<'_>) -> String {
    let who = facts.text("/principal/id").or_else(|| facts.text("/peer")).unwrap_or("somebody unidentified");
    let what = facts.text("/action").unwrap_or("request");
    let of = facts.text("/resource/id").map(|id| format!(" of {id}")).unwrap_or_default();
    match (facts.kind(), facts.own("/event"), facts.verdict()) {
        ("event", Some(event), _) => {
            format!("gateway {}: {event}", facts.own("/gateway").unwrap_or_default())
        }
        ("outcome", ..) => {
            format!("{what}{of} by {who} ended: {}", facts.own("/ending").unwrap_or("unknown"))
        }
        ("refusals", ..) => {
            format!(
                "{} unidentified requests refused",
                facts.record.get("count").and_then(Value::as_u64).unwrap_or(0)
            )
        }
        (_, _, Some(verdict)) => format!("{what}{of} by {who}: {verdict}"),
        _ => facts.kind().to_owned(),
    }
}

/// What was decided, in the terms of the profile `security_control`.
fn verdict(facts: Facts<'_>, members: &mut Map<String, Value>) {
    let (action, action_name, disposition, disposition_name) = match facts.verdict() {
        Some("allow") => (1, "Allowed", 1, "Allowed"),
        Some(_) => (2, "Denied", 2, "Blocked"),
        None if facts.kind() == "event" => (3, "Observed", 17, "Logged"),
        None => (0, "Unknown", 0, "Unknown"),
    };
    members.insert("action_id".to_owned(), action.into());
    members.insert("action".to_owned(), action_name.into());
    members.insert("disposition_id".to_owned(), disposition.into());
    members.insert("disposition".to_owned(), disposition_name.into());
    if let Some(decided) = facts.verdict().filter(|_| facts.kind() != "outcome") {
        let policies = parts::policies(facts);
        let authorizations: Vec<Value> = match policies.is_empty() {
            true => vec![json!({ "decision": decided })],
            false => policies.iter().map(|policy| json!({ "decision": decided, "policy": policy })).collect(),
        };
        members.insert("authorizations".to_owned(), authorizations.into());
        members.extend(policies.into_iter().next().map(|policy| ("policy".to_owned(), policy)));
    }
    let (severity, name) = match (facts.verdict(), facts.own("/ending"), facts.own("/event")) {
        (_, Some("panicked"), _) => (4, "High"),
        (_, _, Some(event)) if event.starts_with("recovery.") => (3, "Medium"),
        (_, _, Some("audit.gap" | "clock.step" | "key.changed" | "export.rejected")) => (3, "Medium"),
        (Some("deny" | "reject"), ..) => (2, "Low"),
        _ => (1, "Informational"),
    };
    members.insert("severity_id".to_owned(), severity.into());
    members.insert("severity".to_owned(), name.into());
}

/// Success or failure: of a decision whether it allows, of an outcome whether the answer was delivered whole.
fn status(facts: Facts<'_>, members: &mut Map<String, Value>) {
    let (status, name) = match (facts.kind(), facts.own("/ending"), facts.verdict()) {
        ("outcome", Some("complete"), _) | ("decision", _, Some("allow")) | ("event", ..) => (1, "Success"),
        ("outcome", Some("unknown") | None, _) => (0, "Unknown"),
        _ => (2, "Failure"),
    };
    members.insert("status_id".to_owned(), status.into());
    members.insert("status".to_owned(), name.into());
    let code = facts.record.get("status").and_then(Value::as_u64).map(|code| code.to_string());
    let text = |name: &str| facts.own(name).map(str::to_owned);
    members.extend(code.or_else(|| text("/code")).map(|code| ("status_code".to_owned(), code.into())));
    members.extend(
        text("/code").or_else(|| text("/ending")).map(|text| ("status_detail".to_owned(), text.into())),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::encode::{encode, tests::decision, tests::stamp};
    use crate::audit::record::{Decision, Ending, Event, Marking, Outcome, Refusal, Refusals, Verdict};
    use crate::model::{Level, Usage};

    /// Made from the Apache-2.0 schema of the OCSF project; see `tests/vectors/ocsf/README.md`.
    const SCHEMA: &str = include_str!("../../../../tests/vectors/ocsf/api_activity-1.8.0.json");

    fn checked(entry: &Entry<'_>) -> Value {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let mut out = Vec::new();
        write(entry, &mut out).unwrap();
        let event: Value = serde_json::from_slice(&out).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&event)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{errors:#?}\n{event:#}");
        assert!(!event.to_string().contains("null") && event["metadata"]["version"] == VERSION);
        event
    }

    fn marked() -> Decision<'static> {
        let label = Marking {
            level: Level::Confidential,
            residency: std::borrow::Cow::default(),
            origin: "route".into(),
        };
        Decision {
            label: Some(label),
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
            ..decision()
        }
    }

    #[test]
    fn a_decision_says_who_what_where_and_why() {
        let event = checked(&Entry::new(9, &encode("decision", &stamp(), &marked())));
        for (pointer, expected) in [
            ("/type_uid", json!(600_399)),
            ("/activity_name", json!("infer")),
            ("/actor/user/uid", json!("https://issuer.example|alice")),
            ("/actor/user/groups/0/uid", json!("research")),
            ("/src_endpoint", json!({"ip": "192.0.2.7", "port": 4711})),
            ("/dst_endpoint/name", json!("eu")),
            ("/resources/0/uid", json!("eu/llama")),
            ("/resources/0/data_classifications/0/confidentiality_id", json!(2)),
            ("/authorizations/0/policy/uid", json!("chat-for-research")),
            ("/authorizations/0/policy/version", json!("00ff")),
            ("/action_id", json!(1)),
            ("/metadata/sequence", json!(9)),
            ("/metadata/tenant_uid", json!("acme")),
            ("/trace/uid", json!("4bf92f3577b34da6a3ce929d0e0e4736")),
            ("/ai_model", json!({"ai_provider": "eu", "name": "llama"})),
            ("/time", json!(1_700_000_000_000_i64)),
            ("/unmapped/mode", json!("required")),
        ] {
            assert_eq!(event.pointer(pointer), Some(&expected), "{pointer}");
        }
        let denied = Decision {
            decision: Verdict::Deny,
            code: Some("policy_denied".into()),
            policies: std::borrow::Cow::default(),
            ..marked()
        };
        let event = checked(&Entry::new(9, &encode("decision", &stamp(), &denied)));
        assert_eq!(
            (&event["action_id"], &event["disposition_id"], &event["status_code"]),
            (&json!(2), &json!(2), &json!("policy_denied"))
        );
        assert_eq!(event["authorizations"], json!([{ "decision": "deny" }]));
    }

    #[test]
    fn an_outcome_says_what_came_of_it_and_by_its_decision_of_whom() {
        let stamp = stamp();
        let usage = Usage { input_tokens: 12, output_tokens: 30, ..Usage::default() };
        let ended = Outcome {
            status: Some(200),
            usage: Some(usage),
            duration_us: 1_234_567,
            ..Outcome::bare(Ending::Complete)
        };
        let ended = encode("outcome", &stamp, &ended);
        let decided: Value = serde_json::from_slice(&encode("decision", &stamp, &marked())).unwrap();
        let event = checked(&Entry { seq: 10, payload: &ended, decision: Some(&decided) });
        assert_eq!(event["actor"]["user"]["uid"], "https://issuer.example|alice");
        assert_eq!((&event["http_response"]["code"], &event["duration"]), (&json!(200), &json!(1234)));
        assert_eq!(event["message_context"]["total_tokens"], 42);
        assert_eq!(event["metadata"]["correlation_uid"], decided["id"]);
        assert_eq!(event["unmapped"]["duration_us"], 1_234_567);
        checked(&Entry::new(10, &ended));
    }

    #[test]
    fn refusals_and_events_are_valid_too() {
        let refusal = Refusal {
            code: "unauthenticated".into(),
            status: 401,
            peer: "[2001:db8::7]:4711".parse().unwrap(),
            method: Some("BREW".into()),
            host: Some("exa mple".into()),
            path: Some("/x".into()),
            route: None,
            trace_id: None,
        };
        let event = checked(&Entry::new(1, &encode("refusal", &stamp(), &refusal)));
        assert_eq!(
            (&event["status_code"], &event["src_endpoint"]["ip"]),
            (&json!("401"), &json!("2001:db8::7"))
        );
        let time = jiff::Timestamp::UNIX_EPOCH;
        let counted = Refusals {
            count: 7,
            codes: [("rate".to_owned(), 7)].into(),
            sources: Vec::new(),
            from: time,
            to: time,
        };
        assert_eq!(checked(&Entry::new(1, &encode("refusals", &stamp(), &counted)))["count"], 7);
        for event in
            [Event::Start { version: "1".into() }, Event::Stop, Event::ClockStep { milliseconds: -5 }]
        {
            let stamp = crate::audit::record::Stamp { id: None, attempt: None, ..stamp() };
            let event = checked(&Entry::new(1, &encode("event", &stamp, &event)));
            assert_eq!(event["metadata"]["uid"], format!("{}/1", stamp.boot));
        }
    }

    #[test]
    fn what_was_encrypted_for_one_subject_is_kept_apart() {
        let mut record: Value = serde_json::from_slice(&encode("decision", &stamp(), &marked())).unwrap();
        record["principal"]["id"] = json!({"enc": "k1", "n": "AA", "ct": "BB"});
        let event = checked(&Entry::new(1, record.to_string().as_bytes()));
        assert_eq!(event["unmapped"]["principal"]["id"]["enc"], "k1");
    }
}
