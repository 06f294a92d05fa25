//! The objects inside an OCSF event.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value, json};

use super::{Facts, VERSION};

/// Methods that the schema knows.
const METHODS: [&str; 9] = ["OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT", "PATCH"];

/// An object of the members that are there.
fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let present = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect::<Map<_, _>>())
}

fn text(value: Option<&str>) -> Option<Value> {
    value.filter(|text| !text.is_empty()).map(Value::from)
}

pub(super) fn metadata(facts: Facts<'_>, uid: String, seq: u64) -> Value {
    let mut profiles = vec!["security_control", "trace", "data_classification"];
    if is_inference(facts) {
        profiles.push("ai_operation");
    }
    object([
        ("version", Some(VERSION.into())),
        ("profiles", Some(profiles.into())),
        ("product", Some(json!({ "name": "Tidegate", "uid": "tidegate", "vendor_name": "Tidegate" }))),
        ("uid", Some(uid.into())),
        ("sequence", Some(seq.into())),
        ("correlation_uid", text(facts.own("/id"))),
        ("original_time", text(facts.own("/time"))),
        ("tenant_uid", text(facts.text("/tenant"))),
        ("log_name", Some("audit".into())),
        ("log_provider", text(facts.own("/gateway"))),
        ("log_version", facts.record.get("v").map(|version| version.to_string().into())),
        ("event_code", text(facts.own("/event").or_else(|| facts.own("/code")))),
    ])
}

/// Who: the principal; behind it the workload that connected and the agent. Of what nobody asked for, the gateway.
pub(super) fn actor(facts: Facts<'_>) -> Value {
    let gateway = text(facts.own("/gateway")).unwrap_or_else(|| "tidegate".into());
    let workload = text(facts.text("/chain/workload"));
    let agent = text(facts.text("/chain/agent"));
    let kind = facts.text("/principal/type");
    let groups: Vec<Value> =
        texts(facts.at("/principal/teams")).map(|team| json!({ "uid": team, "name": team })).collect();
    let user = text(facts.text("/principal/id")).map(|id| {
        object([
            ("uid", Some(id)),
            ("type", text(kind)),
            ("type_id", Some(if kind == Some("User") { 1 } else { 4 }.into())),
            ("groups", (!groups.is_empty()).then(|| groups.into())),
        ])
    });
    let nobody = user.is_none() && workload.is_none() && agent.is_none();
    let name = if facts.kind() == "event" { gateway } else { "unidentified".into() };
    object([
        ("user", user),
        ("session", text(facts.text("/principal/credential")).map(|id| json!({ "credential_uid": id }))),
        ("app_uid", workload),
        ("app_name", agent.or_else(|| nobody.then_some(name))),
    ])
}

pub(super) fn api(facts: Facts<'_>) -> Value {
    let method = facts.text("/request/method").or_else(|| facts.own("/method"));
    let operation = facts.text("/action").or_else(|| facts.own("/event")).or(method).unwrap_or("unknown");
    object([
        ("operation", Some(operation.into())),
        ("service", text(facts.text("/route")).map(|route| json!({ "name": route }))),
        ("request", text(facts.own("/id")).map(|id| json!({ "uid": id }))),
        (
            "response",
            facts
                .record
                .get("status")
                .map(|code| object([("code", Some(code.clone())), ("error", text(facts.own("/code")))])),
        ),
    ])
}

pub(super) fn source(facts: Facts<'_>) -> Value {
    match facts.text("/peer").map(|peer| (peer, peer.parse::<SocketAddr>())) {
        Some((_, Ok(peer))) => json!({ "ip": peer.ip().to_canonical().to_string(), "port": peer.port() }),
        Some((peer, Err(_))) => json!({ "name": peer }),
        None if facts.kind() == "event" => json!({ "name": facts.own("/gateway").unwrap_or("tidegate") }),
        None => json!({ "name": "unknown" }),
    }
}

pub(super) fn destination(facts: Facts<'_>) -> Option<Value> {
    let (upstream, cluster) = (facts.text("/upstream/name"), facts.text("/destination"));
    let name = text(cluster.or(upstream))?;
    let authority =
        facts.text("/upstream/endpoint").map(|endpoint| endpoint.rsplit("://").next().unwrap_or(endpoint));
    let (host, port) = authority.and_then(|authority| authority.rsplit_once(':')).unzip();
    let host = host.map(|host| host.trim_start_matches('[').trim_end_matches(']'));
    let ip = host.and_then(|host| host.parse::<IpAddr>().ok());
    Some(object([
        ("name", Some(name)),
        ("svc_name", text(upstream)),
        ("ip", ip.map(|ip| ip.to_string().into())),
        ("hostname", text(host.filter(|_| ip.is_none()))),
        ("port", port.and_then(|port| port.parse::<u16>().ok()).map(Value::from)),
    ]))
}

/// What: the Cedar resource with the label of the data.
pub(super) fn resources(facts: Facts<'_>) -> Option<Value> {
    let id = facts.text("/resource/id")?;
    let level = facts.text("/label/level").map(|level| {
        let (number, name) = match level {
            "public" => (1, "Not Confidential"),
            "confidential" => (2, "Confidential"),
            "internal" => (5, "Private"),
            "restricted" => (6, "Restricted"),
            _ => (99, "Other"),
        };
        json!([{ "confidentiality_id": number, "confidentiality": name, "uid": level }])
    });
    let residency: Vec<Value> =
        texts(facts.at("/label/residency")).map(|place| format!("residency:{place}").into()).collect();
    Some(json!([object([
        ("uid", Some(id.into())),
        ("name", Some(id.into())),
        ("type", text(facts.text("/resource/type"))),
        ("role", Some("Target".into())),
        ("role_id", Some(1.into())),
        ("data_classifications", level),
        ("labels", (!residency.is_empty()).then(|| residency.into())),
    ])]))
}

/// The policies that decided. Their version is the hash of the bundle that they are of.
pub(super) fn policies(facts: Facts<'_>) -> Vec<Value> {
    let bundle = facts.text("/bundle");
    let policy = |id: &str| {
        object([
            ("uid", Some(id.into())),
            ("name", Some(id.into())),
            ("type", Some("Cedar".into())),
            ("version", text(bundle)),
            ("is_applied", Some(true.into())),
        ])
    };
    texts(facts.at("/policies")).map(policy).collect()
}

pub(super) fn http_request(facts: Facts<'_>) -> Option<Value> {
    let either = |inner: &str, flat: &str| facts.text(inner).or_else(|| facts.own(flat));
    let path = either("/request/path", "/path");
    let host = either("/request/host", "/host");
    let method = either("/request/method", "/method").filter(|method| METHODS.contains(method));
    let url = path.map(|path| object([("path", Some(path.into())), ("hostname", text(host))]));
    let found = object([
        ("http_method", text(method)),
        ("url", url),
        ("user_agent", text(facts.text("/request/user_agent"))),
        ("version", text(facts.text("/request/version"))),
        ("body_length", facts.at("/request/bytes").filter(|bytes| bytes.is_u64()).cloned()),
    ]);
    found.as_object().is_some_and(|members| !members.is_empty()).then_some(found)
}

pub(super) fn http_response(facts: Facts<'_>) -> Option<Value> {
    let code = facts.record.get("status").filter(|status| status.is_u64())?;
    Some(object([
        ("code", Some(code.clone())),
        ("body_length", facts.record.get("response_bytes").filter(|bytes| bytes.is_u64()).cloned()),
        (
            "latency",
            facts.record.get("time_to_first_byte_us").and_then(Value::as_u64).map(|us| (us / 1000).into()),
        ),
    ]))
}

fn is_inference(facts: Facts<'_>) -> bool {
    facts.text("/resource/type") == Some("Model")
}

pub(super) fn ai_model(facts: Facts<'_>) -> Option<Value> {
    let id = facts.text("/resource/id").filter(|_| is_inference(facts))?;
    let (cluster, model) = id.split_once('/').unwrap_or(("unknown", id));
    Some(json!({ "ai_provider": cluster, "name": model }))
}

/// The tokens of a model call.
pub(super) fn tokens(facts: Facts<'_>) -> Option<Value> {
    let count = |name: &str| facts.record.get("usage")?.get(name)?.as_u64();
    let (input, output) = count("input_tokens").zip(count("output_tokens"))?;
    let service = facts.text("/destination").or_else(|| facts.text("/route")).unwrap_or("unknown");
    let total = input.saturating_add(output);
    Some(
        json!({ "prompt_tokens": input, "completion_tokens": output, "total_tokens": total, "service": { "name": service } }),
    )
}

fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}
