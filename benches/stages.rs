//! What each stage of a request costs by itself, beside the budget that it has.
//!
//! `cargo bench --bench stages` (statistics by criterion; a name behind `--` chooses). At the end a table says which are within their budget;
//! the exit code is 1 if one is not, so run it on a quiet machine. The budgets are microseconds of one core, for the machine of
//! docs/performance.md, and leave room of about a half over what was measured there.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement may panic and prints its figures"
)]

use std::borrow::Cow;
use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use criterion::Criterion;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::Empty;
use serde_json::{Value, json};
use tidegate::audit::record::{Decision, Ending, Links, Outcome, Party, Verdict};
use tidegate::audit::{self, Audit, Instance};
use tidegate::identity::{Identity, KeySource};
use tidegate::message::{CallerHeaders, Connection, GateSettings, Protocol, gate};
use tidegate::meter::Tap;
use tidegate::model::{
    Action, AuditMode, Authn, Candidate, Chain, Clock as _, IdentityRule, Label, Level, Origin, Principal,
    PrincipalKind, Protection, RecordId, Resource, SystemClock, UpstreamRef,
};
use tidegate::policy::{AuthzRequest, embedded};

/// Microseconds that a stage may take.
const BUDGETS: [(&str, f64); 6] = [
    ("gate", 3.0),
    ("token-cached", 3.0),
    ("token-new-es256", 150.0),
    ("decision-shipped-policies", 30.0),
    ("journal-append-best-effort", 60.0),
    ("sse-event", 1.0),
];

const ISSUER: &str = "https://issuer.example";

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/criterion");
    let mut criterion = Criterion::default()
        .output_directory(&folder)
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    gates(&mut criterion);
    tokens(&mut criterion);
    decisions(&mut criterion);
    journal(&mut criterion);
    meter(&mut criterion);
    criterion.final_summary();
    verdict(&folder)
}

/// Compares the medians that criterion has just written with the budgets.
fn verdict(folder: &Path) -> ExitCode {
    println!("\n{:32} {:>10} {:>10}", "stage", "median µs", "budget µs");
    let mut within = true;
    for (name, budget) in BUDGETS {
        let Ok(text) = std::fs::read(folder.join(name).join("new/estimates.json")) else { continue };
        let estimates: Value = serde_json::from_slice(&text).unwrap();
        let median = estimates.pointer("/median/point_estimate").and_then(Value::as_f64).unwrap() / 1e3;
        within = within && median <= budget;
        println!("{name:32} {median:>10.2} {budget:>10.1}{}", if median <= budget { "" } else { "   over" });
    }
    if within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn connection() -> Connection {
    let address = std::net::SocketAddr::from(([10, 0, 0, 7], 40_000));
    Connection {
        peer: address,
        local: address,
        server_name: None,
        protocol: Protocol::Http1,
        tls: None,
        client: None,
    }
}

fn request() -> Request<Empty<Bytes>> {
    let request = Request::get("/lake/handbook/part-00001.parquet?versionId=3&x=%20y")
        .header("host", "gateway.example:8443");
    let request = request
        .header("user-agent", "aws-sdk-rust/1.3")
        .header("accept", "*/*")
        .header("range", "bytes=0-65535");
    let request = request
        .header("authorization", "Bearer eyJhbGciOiJFUzI1NiJ9.e30.c2ln")
        .header("x-request-id", "4711");
    request
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .body(Empty::new())
        .unwrap()
}

fn gates(criterion: &mut Criterion) {
    let (connection, settings) = (connection(), GateSettings::default());
    criterion.bench_function("gate", |bench| {
        bench.iter_batched(
            request,
            |request| gate(&connection, black_box(request), &settings).unwrap(),
            criterion::BatchSize::SmallInput,
        );
    });
}

/// A key set that never changes.
#[derive(Debug)]
struct Fixed(Vec<u8>);

#[async_trait]
impl KeySource for Fixed {
    async fn fetch(
        &self,
        _: &str,
        _: Option<&Path>,
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.clone())
    }
}

fn caller(pair: &EcdsaKeyPair, number: u64) -> CallerHeaders {
    let now = SystemClock.now().as_second();
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"k"}"#);
    let claims = json!({"iss": ISSUER, "aud": "tidegate", "sub": "ada", "exp": now + 600, "iat": now, "jti": number.to_string(), "groups": ["research"]});
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    let token = format!("Bearer {message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
    CallerHeaders { authorization: vec![HeaderValue::from_str(&token).unwrap()], ..CallerHeaders::default() }
}

fn tokens(criterion: &mut Criterion) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(point.get(range).unwrap());
    let set =
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "x": part(1..33), "y": part(33..65)}]});
    let settings = json!({"issuers": [{
        "issuer": ISSUER, "audiences": ["tidegate"], "algorithms": ["ES256"], "jwks_url": "https://issuer.example/keys", "tenant": "acme",
    }]});
    let settings = serde_json::from_value(settings).unwrap();
    let source = Arc::new(Fixed(set.to_string().into_bytes()));
    let identity = Identity::new(&settings, "bench", source, Arc::new(SystemClock)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(identity.start());
    let connection = connection();
    let check = |caller: &CallerHeaders| {
        runtime
            .block_on(identity.authenticate(&connection, black_box(caller), IdentityRule::Required))
            .unwrap()
    };
    let known = caller(&pair, 0);
    criterion.bench_function("token-cached", |bench| bench.iter(|| check(&known)));
    let mut number = 0;
    criterion.bench_function("token-new-es256", |bench| {
        bench.iter_batched(
            || {
                number += 1;
                caller(&pair, number)
            },
            |caller| check(&caller),
            criterion::BatchSize::SmallInput,
        );
    });
}

fn decisions(criterion: &mut Criterion) {
    let bundle = embedded::bundle().map_err(|problems| problems.to_string()).unwrap();
    let principal = Principal {
        kind: PrincipalKind::User,
        id: "https://issuer.example|ada".into(),
        tenant: "acme".parse().unwrap(),
        teams: vec!["research".parse().unwrap()],
        authn: Authn::Jwt,
        chain: Chain { workload: None, agent: None },
        issued_at: None,
        expires_at: None,
        credential: None,
    };
    let label = Label {
        level: Level::Internal,
        residency: ["EU".parse().unwrap()].into_iter().collect(),
        origin: Origin::Route,
    };
    let candidate = Candidate {
        resource: Resource::Model { cluster: "eu".parse().unwrap(), model: "tide-small".parse().unwrap() },
        destination: Some("eu".parse().unwrap()),
        upstream: UpstreamRef::Cluster("eu".parse().unwrap()),
        can_open: None,
    };
    let request = AuthzRequest {
        principal: &principal,
        action: Action::Infer,
        label: &label,
        method: "POST",
        path: "/v1/chat/completions",
        bytes: 1_000,
        stream: true,
        max_tokens: Some(512),
        peer: [10, 0, 0, 7].into(),
        now: SystemClock.now(),
        purpose: None,
    };
    criterion.bench_function("decision-shipped-policies", |bench| {
        bench.iter(|| {
            bundle.decide(black_box(&request), std::slice::from_ref(&candidate), &[Protection::None]).unwrap()
        });
    });
}

fn record() -> Decision<'static> {
    Decision {
        decision: Verdict::Allow,
        code: None,
        policies: vec![Arc::from("research-models")].into(),
        route: "chat".into(),
        mode: AuditMode::BestEffort,
        tenant: "acme".into(),
        principal: Party {
            kind: "User".into(),
            id: "https://issuer.example|ada".into(),
            teams: Cow::default(),
            authn: "jwt".into(),
            credential: None,
        },
        chain: Links::default(),
        action: Some("infer".into()),
        resource: None,
        destination: Some("eu".into()),
        label: None,
        protection: None,
        request: audit::record::Request {
            method: "POST".into(),
            host: "gateway.example".into(),
            path: "/v1/chat/completions".into(),
            query: vec![],
            bytes: 1_000,
            version: "1.1".into(),
            user_agent: None,
        },
        peer: "192.0.2.7:4711".parse().unwrap(),
        context: Cow::default(),
        evaluations: vec![],
        bundle: "00ff".into(),
        upstream: None,
        seal: None,
        opened: None,
        body_digest: None,
        trace_id: None,
    }
}

/// A decision that is written before it is acted on, and its outcome: what a crossing waits for, with one crossing at a time.
fn journal(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let settings = audit::Settings { directory: folder.path().join("journal"), ..audit::Settings::default() };
    let audit = Audit::open(&settings, Instance { name: "bench".into(), version: "0" }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let record = record();
    criterion.bench_function("journal-append-best-effort", |bench| {
        bench.iter(|| {
            runtime.block_on(async {
                let mut draft = audit.draft(RecordId::new(), AuditMode::BestEffort).unwrap();
                draft.decision(&record).await.unwrap();
                draft.close(&Outcome::bare(Ending::Complete));
            });
        });
    });
    runtime.block_on(audit.close());
}

fn meter(criterion: &mut Criterion) {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/event-stream"));
    let event = br#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1800000000,"model":"tide-small","choices":[{"index":0,"delta":{"content":" tide"},"finish_reason":null}]}

"#;
    let mut tap = Tap::for_response(true, &headers);
    criterion.bench_function("sse-event", |bench| bench.iter(|| tap.feed(black_box(event))));
}
