//! Inspection from outside: what passes the gate is inspected as the gateway does it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate::inspect::{
    Catalog, DatasetSettings, InferenceKind, InspectError, Inspected, Operation, Payload, RouteFacts,
    StoreOperation, inspect, read_json,
};
use tidegate::message::{
    Body, BodyFault, Connection, GateSettings, HeldBodies, Protocol, boxed, empty, full, gate,
};
use tidegate::model::{
    Action, Floor, Jurisdiction, Jurisdictions, Level, Objects, Origin, Placement, Problems, Resource,
    RouteKind,
};

/// What inspection gave, with the body.
#[derive(Debug)]
struct Asked {
    inspected: Inspected,
    body: Payload,
}

impl std::ops::Deref for Asked {
    type Target = Inspected;

    fn deref(&self) -> &Inspected {
        &self.inspected
    }
}

/// A route and all that it may lead to: clusters `eu` and `us`, store `lake`, service `wiki`.
struct Fixture {
    catalog: Catalog,
    jurisdictions: Jurisdictions,
    kind: RouteKind,
    floor: Floor,
    max_body: u64,
    reader: Placement,
}

impl Fixture {
    fn new(kind: RouteKind) -> Self {
        let mut catalog = Catalog::new("private".parse().unwrap());
        catalog.add_cluster("eu".parse().unwrap(), ["small".parse().unwrap(), "org/big".parse().unwrap()]);
        catalog.add_cluster("us".parse().unwrap(), ["small".parse().unwrap()]);
        catalog.add_service("wiki".parse().unwrap(), "private".parse().unwrap());
        let dataset = |name: &str, prefix: &str, level| DatasetSettings {
            dataset: name.parse().unwrap(),
            bucket: "data".into(),
            prefix: prefix.into(),
            level: Some(level),
            residency: Some([place("EU")].into_iter().collect()),
            sealed: None,
        };
        let datasets = [
            dataset("raw", "raw/", Level::Internal),
            dataset("secret", "raw/secret/", Level::Restricted),
            dataset("open", "open/", Level::Public),
        ];
        let mut problems = Problems::new();
        catalog.add_store("lake".parse().unwrap(), &datasets, "f", "p", &mut problems);
        assert!(problems.is_empty());
        let places = [("EU", None), ("DE", Some("EU")), ("US", None)];
        let above = |outer: Option<&str>| outer.into_iter().map(place).collect::<BTreeSet<_>>();
        let places: BTreeMap<_, _> =
            places.into_iter().map(|(name, outer)| (place(name), above(outer))).collect();
        Self {
            catalog,
            jurisdictions: Jurisdictions::new(places),
            kind,
            floor: Floor {
                level: Some(Level::Internal),
                residency: Some([place("EU")].into_iter().collect()),
            },
            max_body: 1024,
            reader: Placement::default(),
        }
    }

    fn chat() -> Self {
        let clusters = vec!["us".parse().unwrap(), "eu".parse().unwrap()];
        Self::new(RouteKind::Inference { action: Action::Infer, clusters })
    }

    fn store() -> Self {
        Self::new(RouteKind::Store { store: "lake".parse().unwrap() })
    }

    async fn run(&self, request: Request<Body>) -> (Result<Asked, InspectError>, HeaderMap) {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let connection = Connection {
            peer: address,
            local: address,
            server_name: None,
            protocol: Protocol::Http1,
            tls: None,
            client: None,
        };
        let mut inbound = gate(&connection, request, &GateSettings::default()).unwrap();
        let strip_segments = usize::from(matches!(self.kind, RouteKind::Store { .. }));
        let facts = RouteFacts {
            kind: &self.kind,
            floor: &self.floor,
            strip_segments,
            objects: Objects::Plain,
            max_body: self.max_body,
        };
        let held = HeldBodies::new(&GateSettings::default());
        let inspected =
            inspect(&mut inbound, facts, &self.catalog, &self.jurisdictions, &self.reader, &held).await;
        (inspected.map(|(inspected, body)| Asked { inspected, body }), inbound.headers)
    }

    async fn code(&self, request: Request<Body>) -> Result<Asked, (u16, &'static str)> {
        self.run(request).await.0.map_err(|error| (error.status().as_u16(), error.code()))
    }
}

fn place(name: &str) -> Jurisdiction {
    name.parse().unwrap()
}

/// `METHOD target`, then header lines.
fn request(head: &str, body: Body) -> Request<Body> {
    let mut lines = head.lines();
    let (method, target) = lines.next().unwrap().split_once(' ').unwrap();
    let mut builder = Request::builder().method(method).uri(target).header("host", "gw.test");
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        builder = builder.header(name, value);
    }
    builder.body(body).unwrap()
}

fn chat(headers: &str, body: impl Into<Bytes>) -> Request<Body> {
    let head = format!("POST /v1/chat/completions\n{headers}");
    request(head.trim_end(), full(body))
}

const JSON: &str = "content-type: application/json";

/// A body that must not be touched before the decision.
struct Untouchable;

#[expect(clippy::panic, reason = "a test may panic")]
impl http_body::Body for Untouchable {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        panic!("polled before the decision")
    }
}

#[tokio::test]
async fn a_chat_goes_to_the_clusters_that_serve_its_model() {
    let fixture = Fixture::chat();
    let body = r#"{"model":"small","stream":true,"max_tokens":9,"n":2,"messages":[]}"#;
    let headers = format!(
        "{JSON}; charset=utf-8\naccept-encoding: gzip\ntidegate-purpose: demo\ntidegate-label: confidential"
    );
    let (inspected, forwarded) = fixture.run(chat(&headers, body)).await;
    let inspected = inspected.unwrap();
    let clusters: Vec<_> =
        inspected.candidates.iter().map(|c| c.destination.clone().unwrap().to_string()).collect();
    assert_eq!(clusters, ["us", "eu"]);
    assert_eq!(inspected.candidates[0].resource.id(), "us/small");
    assert_eq!((inspected.action, inspected.stream, inspected.max_tokens), (Action::Infer, true, Some(18)));
    assert_eq!((inspected.label.level, inspected.label.origin), (Level::Confidential, Origin::Caller));
    assert_eq!(inspected.purpose.as_deref(), Some("demo"));
    assert_eq!(inspected.bytes, u64::try_from(body.len()).unwrap());
    assert_eq!(inspected.path_and_query, "/v1/chat/completions");
    assert!(matches!(inspected.body, Payload::Buffered(bytes) if bytes == body));
    let Operation::Inference { kind, usage_in_stream, .. } = inspected.inspected.operation else { panic!() };
    assert_eq!((kind, usage_in_stream), (InferenceKind::Chat, false));
    assert_eq!(forwarded["accept-encoding"], "identity");
    assert!(!forwarded.keys().any(|name| name.as_str().starts_with("tidegate-")));

    let big = fixture.code(chat(JSON, r#"{"model":"org/big"}"#)).await.unwrap();
    assert_eq!(big.candidates.len(), 1);
}

#[tokio::test]
async fn inference_bodies_that_are_refused() {
    let fixture = Fixture::chat();
    let good = r#"{"model":"small"}"#;
    for (headers, body, expected) in [
        ("accept: */*", good.to_owned(), (415, "content_type_unsupported")),
        ("content-type: text/plain", good.to_owned(), (415, "content_type_unsupported")),
        (
            "content-type: application/json; charset=latin1",
            good.to_owned(),
            (415, "content_type_unsupported"),
        ),
        (
            "content-type: application/json\ncontent-encoding: gzip",
            good.to_owned(),
            (415, "content_encoding_unsupported"),
        ),
        (JSON, String::new(), (400, "body_invalid")),
        (JSON, r#"{"model":"none"}"#.to_owned(), (404, "model_unknown")),
        (JSON, r#"{"model":"\u0000 /../"}"#.to_owned(), (404, "model_unknown")),
        (JSON, format!(r#"{{"model":"small","x":"{}"}}"#, "x".repeat(1024)), (413, "body_too_large")),
        ("content-type: application/json\ntidegate-label: secret", good.to_owned(), (400, "label_invalid")),
        (
            "content-type: application/json\ntidegate-residency: XX",
            good.to_owned(),
            (400, "jurisdiction_unknown"),
        ),
        (
            "content-type: application/json\ntidegate-purpose: \u{e4}",
            good.to_owned(),
            (400, "purpose_invalid"),
        ),
    ] {
        assert_eq!(fixture.code(chat(headers, body)).await.unwrap_err(), expected, "{headers}");
    }
    // Undeclared length: counted as it comes.
    let body = boxed(Pieces(vec!["x"; 1025]));
    let seen = fixture.code(request(&format!("POST /v1/chat/completions\n{JSON}"), body)).await.unwrap_err();
    assert_eq!(seen, (413, "body_too_large"));
}

struct Pieces(Vec<&'static str>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(|piece| Ok(http_body::Frame::data(piece.into()))))
    }
}

#[tokio::test]
async fn the_five_store_operations() {
    let fixture = Fixture::store();
    for (head, operation, dataset, forward) in [
        ("GET /lake/data/raw/a%20b.csv", StoreOperation::GetObject, "raw", "/data/raw/a%20b.csv"),
        (
            "GET /lake/data/raw/a+b!?x-id=GetObject\nrange: bytes=0-9",
            StoreOperation::GetObject,
            "raw",
            "/data/raw/a%2Bb%21?x-id=GetObject",
        ),
        ("HEAD /lake/data/raw/secret/k", StoreOperation::HeadObject, "secret", "/data/raw/secret/k"),
        ("DELETE /lake/data/open/%6b", StoreOperation::DeleteObject, "open", "/data/open/k"),
        (
            "GET /lake/data?list-type=2&prefix=open%2F&max-keys=10",
            StoreOperation::ListObjectsV2,
            "open",
            "/data?list-type=2&prefix=open%2F&max-keys=10",
        ),
        (
            "GET /lake/data/?list-type=2&prefix=raw/x+y&delimiter=/&encoding-type=url",
            StoreOperation::ListObjectsV2,
            "raw",
            "/data/?list-type=2&prefix=raw%2Fx%20y&delimiter=%2F&encoding-type=url",
        ),
    ] {
        let inspected = fixture.code(request(head, empty())).await.unwrap();
        let Operation::Store(call) = &inspected.inspected.operation else { panic!() };
        assert_eq!((call.operation, inspected.action), (operation, operation.action()), "{head}");
        assert_eq!(inspected.candidates[0].resource, Resource::Dataset(dataset.parse().unwrap()), "{head}");
        assert_eq!(inspected.path_and_query, forward, "{head}");
        assert_eq!(inspected.bytes, 0);
    }
}

#[tokio::test]
async fn store_requests_that_are_refused() {
    let fixture = Fixture::store();
    let unsupported = (400, "store_operation_unsupported");
    for (head, expected) in [
        ("GET /lake/", unsupported),
        ("GET /lake/data", unsupported),
        ("GET /lake/data?list-type=1&prefix=open/", unsupported),
        ("GET /lake/data?prefix=open/", unsupported),
        ("HEAD /lake/data", unsupported),
        ("PUT /lake/data", unsupported),
        ("DELETE /lake/data", unsupported),
        ("POST /lake/data?delete", unsupported),
        ("POST /lake/data/raw/k?uploads", unsupported),
        ("GET /lake/Data/raw/k", unsupported),
        ("GET /lake/da/raw/k", unsupported),
        ("GET /lake/data/raw/k?acl", unsupported),
        ("GET /lake/data/raw/k?policy", unsupported),
        ("GET /lake/data/raw/k?tagging", unsupported),
        ("GET /lake/data/raw/k?versionId=1", unsupported),
        ("GET /lake/data/raw/k?partNumber=1", unsupported),
        ("GET /lake/data/raw/k?response-content-type=text/html", unsupported),
        ("GET /lake/data/raw/k?X-Amz-Signature=a", unsupported),
        ("GET /lake/data/raw/k?x-id=PutObject", unsupported),
        ("PUT /lake/data/raw/k?partNumber=1&uploadId=2", unsupported),
        ("PUT /lake/data/raw/k\nx-amz-copy-source: /data/raw/secret/k", unsupported),
        ("PUT /lake/data/raw/k\nx-amz-acl: public-read", unsupported),
        ("PUT /lake/data/raw/k\nx-amz-tagging: a=b", unsupported),
        ("PUT /lake/data/raw/k\nx-amz-server-side-encryption: aws:kms", unsupported),
        ("PUT /lake/data/raw/k\nx-amz-security-token: t", unsupported),
        ("PUT /lake/data/raw/k\ncontent-range: bytes 0-1/2", unsupported),
        ("PUT /lake/data/raw/k\nx-amz-content-sha256: zz", unsupported),
        ("PUT /lake/data/raw/k\nx-amz-trailer: x-amz-checksum-crc32", unsupported),
        ("PUT /lake/data/raw/k\ncontent-encoding: aws-chunked, aws-chunked", unsupported),
        ("GET /lake/data/raw/k\ncontent-encoding: aws-chunked", unsupported),
        ("PUT /lake/data/raw/k\ncontent-encoding: aws-chunked", (411, "length_required")),
        (
            "PUT /lake/data/raw/k\ncontent-encoding: aws-chunked\nx-amz-decoded-content-length: 9999",
            (413, "body_too_large"),
        ),
        ("GET /lake/data?list-type=2&list-type=2&prefix=open/", unsupported),
        ("GET /lake/data?list-type=2&prefix=raw/x/../secret/", unsupported),
        ("GET /lake/data?list-type=2&prefix=/open/", unsupported),
        ("GET /lake/data?list-type=2&prefix=open//", unsupported),
        ("GET /lake/data?list-type=2&prefix=open/&start-after=../raw", unsupported),
        ("GET /lake/data?list-type=2&prefix=open/&continuation-token=a/../b", unsupported),
        ("GET /lake/data?list-type=2&prefix=open/&max-keys=-1", unsupported),
        ("GET /lake/data?list-type=2", (403, "list_spans_datasets")),
        ("GET /lake/data?list-type=2&prefix=raw/", (403, "list_spans_datasets")),
        ("GET /lake/data?list-type=2&prefix=raw/secret", (403, "list_spans_datasets")),
        ("GET /lake/data?list-type=2&prefix=other/", (403, "dataset_unknown")),
        ("GET /lake/data/other/k", (403, "dataset_unknown")),
        ("GET /lake/elsewhere/raw/k", (403, "dataset_unknown")),
        ("GET /lake/data/raw", (403, "dataset_unknown")),
        ("PUT /lake/data/raw/k\nx-amz-meta-a: b\ntidegate-label: none", (400, "label_invalid")),
    ] {
        assert_eq!(fixture.code(request(head, empty())).await.unwrap_err(), expected, "{head}");
    }
    let deleting = request("DELETE /lake/data/raw/k", full("x"));
    assert_eq!(fixture.code(deleting).await.unwrap_err(), (400, "body_unexpected"));
    let endless = request("PUT /lake/data/raw/k", boxed(Untouchable));
    assert_eq!(fixture.code(endless).await.unwrap_err(), (411, "length_required"));
}

#[tokio::test]
async fn where_store_data_goes() {
    let mut fixture = Fixture::store();
    let destination = async |fixture: &Fixture, head: &str| {
        fixture.code(request(head, empty())).await.unwrap().candidates[0].destination.clone()
    };
    assert_eq!(destination(&fixture, "GET /lake/data/raw/k").await, None);
    assert_eq!(destination(&fixture, "DELETE /lake/data/raw/k").await, Some("private".parse().unwrap()));
    fixture.reader.cluster = Some("eu".parse().unwrap());
    assert_eq!(destination(&fixture, "GET /lake/data/raw/k").await, Some("eu".parse().unwrap()));
    assert_eq!(
        destination(&fixture, "GET /lake/data?list-type=2&prefix=open/").await,
        Some("eu".parse().unwrap())
    );
    assert_eq!(destination(&fixture, "PUT /lake/data/raw/k").await, Some("private".parse().unwrap()));
}

#[tokio::test]
async fn a_dataset_raises_the_label() {
    let fixture = Fixture::store();
    let label = fixture.code(request("GET /lake/data/raw/secret/k", empty())).await.unwrap().inspected.label;
    assert_eq!((label.level, label.origin), (Level::Restricted, Origin::Dataset));
    let lowered =
        request("GET /lake/data/raw/secret/k\ntidegate-label: public\ntidegate-residency: DE", empty());
    let label = fixture.code(lowered).await.unwrap().inspected.label;
    assert_eq!((label.level, label.origin), (Level::Restricted, Origin::Dataset));
    assert_eq!(label.residency, [place("DE")].into_iter().collect());
}

/// An upload with the framing and headers that boto3 1.43 sends (UNSIGNED, over TLS), and `gzip` besides; and what is left of it.
#[tokio::test]
async fn aws_chunked_uploads_arrive_plain() {
    let fixture = Fixture::store();
    let head = "PUT /lake/data/raw/k\ncontent-encoding: gzip, aws-chunked\nx-amz-trailer: x-amz-checksum-crc32\n\
                x-amz-sdk-checksum-algorithm: CRC32\nx-amz-decoded-content-length: 9\nx-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\nexpect: 100-continue\n\
                x-amz-meta-owner: me\nuser-agent: Boto3\namz-sdk-request: attempt=1";
    let coded = |sum: &str| full(format!("9\r\n123456789\r\n0\r\nx-amz-checksum-crc32:{sum}\r\n\r\n"));
    let (inspected, headers) = fixture.run(request(head, coded("y/Q5Jg=="))).await;
    let inspected = inspected.unwrap();
    assert_eq!((inspected.bytes, inspected.action), (9, Action::Write));
    let mut left: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["content-encoding", "user-agent", "x-amz-meta-owner"]);
    assert_eq!(headers["content-encoding"], "gzip");
    let Payload::Streaming(body) = inspected.body else { panic!() };
    assert_eq!(http_body::Body::size_hint(&body).exact(), Some(9));
    assert_eq!(body.collect().await.unwrap().to_bytes(), "123456789");

    let inspected = fixture.run(request(head, coded("AAAAAA=="))).await.0.unwrap();
    let Payload::Streaming(mut body) = inspected.body else { panic!() };
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(matches!(BodyFault::find(error.as_ref()), Some(BodyFault::Malformed(_))));
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn bodies_are_not_polled_before_the_decision() {
    let fixture = Fixture::store();
    for head in [
        "PUT /lake/data/raw/k\ncontent-length: 5\nexpect: 100-continue",
        "PUT /lake/data/raw/k\nexpect: 100-continue\ncontent-encoding: aws-chunked\nx-amz-decoded-content-length: 5",
    ] {
        let inspected = fixture.code(request(head, boxed(Untouchable))).await.unwrap();
        assert_eq!(inspected.bytes, 5);
    }
    let service = Fixture::new(RouteKind::Service { service: "wiki".parse().unwrap() });
    let inspected = service.code(request("POST /x?a=%2f+&b", boxed(Untouchable))).await.unwrap();
    assert_eq!((inspected.action, inspected.bytes), (Action::Call, service.max_body));
    assert_eq!(inspected.candidates[0].destination, Some("private".parse().unwrap()));
    assert_eq!(inspected.path_and_query, "/x?a=%2f+&b");
}

#[tokio::test]
async fn a_stated_digest_is_kept_for_the_signer() {
    let digest = "a".repeat(64);
    let fixture = Fixture::store();
    let head = format!("PUT /lake/data/raw/k\nx-amz-content-sha256: {digest}\nx-amz-date: 20260101T000000Z");
    let (inspected, headers) = fixture.run(request(&head, boxed(Full::new(Bytes::from("x"))))).await;
    let Operation::Store(call) = inspected.unwrap().inspected.operation else { panic!() };
    assert_eq!(call.payload_sha256.as_deref(), Some(digest.as_str()));
    assert!(headers.is_empty());
}

fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(|f| json!(f)),
        "[a-z\"\\\\{}\\[\\]\u{e9}\u{1f600}\n]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,3}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_json_reader_agrees_with_a_whole_parse(
        model in prop::option::of("[ -~\u{e9}]{1,8}"),
        stream in prop::option::of(prop_oneof![Just(json!(true)), Just(json!(false)), json_values()]),
        tokens in prop::option::of(prop_oneof![(0..10_000_u64).prop_map(|n| json!(n)), json_values()]),
        rest in prop::collection::btree_map("x[a-z]{0,4}", json_values(), 0..5),
        pretty in any::<bool>(),
    ) {
        let mut object = json!(rest);
        for (key, value) in [("model", model.map(Value::from)), ("stream", stream), ("max_tokens", tokens)] {
            if let Some(value) = value {
                object[key] = value;
            }
        }
        let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
        let whole: Value = serde_json::from_str(&text).unwrap();
        let optional = |key: &str| whole.get(key).filter(|value| !value.is_null());
        let valid = whole.get("model").is_some_and(Value::is_string)
            && optional("stream").is_none_or(Value::is_boolean)
            && optional("max_tokens").is_none_or(Value::is_u64);
        match read_json(text.as_bytes()) {
            Ok(facts) => {
                prop_assert!(valid);
                prop_assert_eq!(Some(facts.model.as_str()), whole["model"].as_str());
                prop_assert_eq!(facts.stream, optional("stream").is_some_and(|v| v == &json!(true)));
                prop_assert_eq!(facts.max_tokens, optional("max_tokens").and_then(Value::as_u64));
            }
            Err(error) => {
                prop_assert!(!valid, "{}", error);
                prop_assert_eq!(error.code(), "body_invalid");
            }
        }
    }

    #[test]
    fn no_input_makes_the_json_reader_panic(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", "\"", "\\", "\\u0041", ":", ",", "model", "stream", "1", "-", "e9", "null", "true", " ", "\u{0}", "\u{feff}",
        ]), 0..40),
        tail in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let mut body = pieces.concat().into_bytes();
        body.extend(tail);
        // Whatever is accepted is also one object for a whole parse.
        if read_json(&body).is_ok() {
            prop_assert!(serde_json::from_slice::<Value>(&body).unwrap().is_object());
        }
    }
}
