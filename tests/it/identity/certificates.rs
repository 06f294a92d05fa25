//! Workloads by client certificate, and what becomes of a certificate beside another credential.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tidegate::message::{CallerHeaders, ClientCertificate};
use tidegate::model::{Authn, IdentityRule, Principal, PrincipalKind};

use super::support::{Bench, NOW, b64, bearer, certificate, connection, issuer, token, token_with_header};

const JOB: &str = "spiffe://prod.example/ns/ml/job";

fn configuration() -> Value {
    json!({
        "issuers": [issuer()],
        "mtls": {"trust_domains": [{
            "name": "prod.example", "tenant": "acme",
            "workloads": [{"prefix": "spiffe://prod.example/ns/ml", "teams": ["ml", "gpu"], "cluster": "eu-1"}],
        }]},
    })
}

async fn by_certificate(
    bench: &Bench,
    shown: &Arc<ClientCertificate>,
) -> Result<Arc<Principal>, &'static str> {
    let nothing = CallerHeaders::default();
    let on = connection(Some(shown));
    bench.identity.authenticate(&on, &nothing, IdentityRule::Required).await.map_err(|error| error.code())
}

#[tokio::test]
async fn a_spiffe_id_is_a_workload_with_its_facts() {
    let bench = Bench::new(configuration()).await;
    let job = by_certificate(&bench, &certificate(1, &[JOB])).await.unwrap();
    assert_eq!((job.kind, job.id.as_ref(), job.authn), (PrincipalKind::Workload, JOB, Authn::Mtls));
    assert_eq!(job.tenant.as_str(), "acme");
    assert_eq!(job.teams.iter().map(|team| team.as_str()).collect::<Vec<_>>(), ["gpu", "ml"]);
    assert_eq!(job.chain.workload.as_deref(), Some(JOB));
    assert_eq!(bench.identity.placement_of(&job).cluster.unwrap().as_str(), "eu-1");
    assert_eq!(job.credential.as_deref(), Some("01".repeat(32).as_str()));
    let other = by_certificate(&bench, &certificate(1, &["spiffe://prod.example/ns/mlx"])).await.unwrap();
    assert!(other.teams.is_empty() && bench.identity.placement_of(&other).cluster.is_none());
}

#[tokio::test]
async fn every_other_certificate_is_refused() {
    let bench = Bench::new(configuration()).await;
    for sans in [
        &[][..],
        &[JOB, JOB],
        &[JOB, "https://example.com"],
        &["https://prod.example/ns/ml/job"],
        &["spiffe://evil.example/ns/ml/job"],
        &["spiffe://PROD.example/ns/ml/job"],
        &["spiffe://prod.example"],
        &["spiffe://prod.example/"],
        &["spiffe://prod.example//ns/ml/job"],
        &["spiffe://prod.example/ns/ml/../admin"],
        &["spiffe://prod.example/ns/ml/%61dmin"],
        &["spiffe://prod.example:8443/ns/ml/job"],
        &["spiffe://x@prod.example/ns/ml/job"],
        &["spiffe://prod.example/ns/ml/job?x=1"],
        &["spiffe://prod.example/ns/ml/job#x"],
        &["spiffe://prod.example.evil/ns/ml/job"],
    ] {
        assert_eq!(
            by_certificate(&bench, &certificate(1, sans)).await,
            Err("certificate_identity"),
            "{sans:?}"
        );
    }
    let mut authority = (*certificate(1, &[JOB])).clone();
    authority.is_ca = true;
    assert_eq!(by_certificate(&bench, &Arc::new(authority)).await, Err("certificate_invalid"));
}

#[tokio::test]
async fn the_leaf_is_judged_on_each_request_of_a_connection() {
    let bench = Bench::new(configuration()).await;
    let mut job = (*certificate(1, &[JOB])).clone();
    job.not_before = Timestamp::from_second(NOW).unwrap();
    job.not_after = Timestamp::from_second(NOW + 60).unwrap();
    let job = Arc::new(job);
    let bound = token(json!({}));
    for (step, good) in [(0, true), (60, true), (1, false), (-62, false), (1, true)] {
        bench.clock.step(step);
        let expected = if good { None } else { Some("certificate_invalid") };
        assert_eq!(by_certificate(&bench, &job).await.err(), expected);
        assert_eq!(bench.show(&bound, Some(&job)).await.err().map(|error| error.code()), expected);
    }
}

#[tokio::test]
async fn a_bad_token_never_falls_back_to_the_certificate() {
    let bench = Bench::new(configuration()).await;
    let job = certificate(1, &[JOB]);
    for (name, shown, code) in [
        ("expired", token(json!({"exp": 1})), "token_expired"),
        ("unknown key", token_with_header(json!({"kid": "x"})), "token_key_unknown"),
        ("nonsense", "x".to_owned(), "token_malformed"),
        ("empty", String::new(), "token_malformed"),
        ("no such key", format!("tgk_a_{}", b64([1; 32])), "api_key_unknown"),
        ("bound elsewhere", token(json!({"cnf": {"x5t#S256": b64([9; 32])}})), "token_binding"),
    ] {
        assert_eq!(bench.show(&shown, Some(&job)).await.unwrap_err().code(), code, "{name}");
    }
    for (text, code) in [
        ("Basic YTpi", "credentials_unsupported"),
        ("AWS4-HMAC-SHA256 Credential=x", "credentials_unsupported"),
        ("", "credentials_unsupported"),
        ("Bearer", "token_malformed"),
        ("Bearertoken", "credentials_unsupported"),
    ] {
        let mut caller = bearer("");
        caller.authorization = vec![text.parse().unwrap()];
        let on = connection(Some(&job));
        let asked = bench.identity.authenticate(&on, &caller, IdentityRule::Required).await;
        assert_eq!(asked.unwrap_err().code(), code, "{text}");
    }
}

#[tokio::test]
async fn the_workload_that_shows_a_token_is_kept_beside_the_user() {
    let bench = Bench::new(configuration()).await;
    let good = token(json!({"act": {"sub": "copilot"}}));
    let (job, other) = (certificate(1, &[JOB]), certificate(2, &["spiffe://prod.example/ns/web"]));
    for _ in 0..2 {
        let by_job = bench.show(&good, Some(&job)).await.unwrap();
        assert_eq!((by_job.kind, by_job.chain.workload.as_deref()), (PrincipalKind::User, Some(JOB)));
        assert_eq!(by_job.chain.agent.as_deref(), Some("copilot"));
        assert_eq!(bench.identity.placement_of(&by_job).cluster.unwrap().as_str(), "eu-1");
        let by_other = bench.show(&good, Some(&other)).await.unwrap();
        assert_eq!(by_other.chain.workload.as_deref(), Some("spiffe://prod.example/ns/web"));
        assert_eq!(bench.show(&good, None).await.unwrap().chain.workload, None);
    }
    // A certificate that names no workload breaks the chain.
    let nameless = bench.show(&good, Some(&certificate(3, &[]))).await.unwrap_err();
    assert_eq!(nameless.code(), "certificate_identity");
}
