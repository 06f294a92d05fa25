//! Settings: defaults, mistakes with their places, files, TLS, and stores that see our signature.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http_body_util::BodyExt as _;
use serde_json::json;
use tidegate::message::{empty, full};
use tidegate::model::{SystemClock, UpstreamRef};
use tidegate::upstream::{Settings, Upstreams};

use super::support::{open, outbound_to, serve};

fn settings(clusters: serde_json::Value, stores: serde_json::Value, services: serde_json::Value) -> Settings {
    Settings {
        clusters: serde_json::from_value(clusters).unwrap(),
        stores: serde_json::from_value(stores).unwrap(),
        services: serde_json::from_value(services).unwrap(),
    }
}

fn secret(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn every_mistake_is_found_with_its_place() {
    let settings = settings(
        json!({
            "eu": {
                "endpoints": ["http://gpu.example.com", "https://gpu.example.com/v1", "https://a:1", "https://a:1"],
                "models": ["m", "m"],
                "server_name": "not a name",
                "credential_file": "key",
                "timeouts": { "connect": "0ms", "first_byte": "2h", "idle": "2d" },
                "max_in_flight": 0,
                "queue": { "length": 10001, "timeout": "2m" },
                "ejection": { "failures": 1001, "base": "2h", "longest": "1h" },
                "health": { "path": "no path", "interval": "1ms", "timeout": "0ms", "healthy": 0, "unhealthy": 101 },
            },
            "us": { "endpoints": [], "models": [] },
        }),
        json!({
            "lake": {
                "endpoints": ["http://127.0.0.1:1"], "access_key_id": "a b", "secret_key_file": "s", "region": "",
                "datasets": [
                    { "id": "a", "bucket": "UPPER", "prefix": "/x" },
                    { "id": "a", "bucket": "data", "prefix": "x/../y" },
                    { "id": "b", "bucket": "data", "prefix": "x/../y" },
                ],
            },
            "void": { "endpoints": ["http://127.0.0.1:1"], "access_key_id": "a", "secret_key_file": "s", "datasets": [] },
        }),
        json!({ "status": { "endpoints": ["http://10.0.0.1"], "server_name": "x", "plaintext": "accepted" } }),
    );
    let problems = settings.validate("tidegate.toml");
    let places: Vec<&str> = problems.iter().map(|problem| problem.place.as_str()).collect();
    assert_eq!(
        places,
        [
            "clusters.eu.endpoints[0]",
            "clusters.eu.endpoints[1]",
            "clusters.eu.endpoints[3]",
            "clusters.eu.ca",
            "clusters.eu.server_name",
            "clusters.eu.timeouts.connect",
            "clusters.eu.timeouts.first_byte",
            "clusters.eu.timeouts.idle",
            "clusters.eu.max_in_flight",
            "clusters.eu.queue.length",
            "clusters.eu.queue.timeout",
            "clusters.eu.ejection.failures",
            "clusters.eu.ejection.base",
            "clusters.eu.ejection.longest",
            "clusters.eu.health.path",
            "clusters.eu.health.interval",
            "clusters.eu.health.timeout",
            "clusters.eu.health.healthy",
            "clusters.eu.health.unhealthy",
            "clusters.eu.credential_file",
            "clusters.eu.models[1]",
            "clusters.us.endpoints",
            "clusters.us.models",
            "stores.lake.region",
            "stores.lake.access_key_id",
            "stores.lake.datasets[0].bucket",
            "stores.lake.datasets[0].prefix",
            "stores.lake.datasets[1].prefix",
            "stores.lake.datasets[1].id",
            "stores.lake.datasets[2].prefix",
            "stores.lake.datasets[2].prefix",
            "stores.void.datasets",
            "services.status.server_name",
        ]
    );
    assert!(problems.iter().all(|problem| problem.file == "tidegate.toml"));
}

#[test]
fn unknown_members_are_refused_and_defaults_are_as_documented() {
    let unknown = json!({ "eu": { "endpoints": [], "models": [], "tls_verify": false } });
    assert!(
        serde_json::from_value::<std::collections::BTreeMap<String, tidegate::upstream::ClusterSettings>>(
            unknown
        )
        .is_err()
    );
    let service: tidegate::upstream::ServiceSettings =
        serde_json::from_value(json!({ "endpoints": [] })).unwrap();
    let shown = serde_json::to_value(&service).unwrap();
    assert_eq!(
        shown,
        json!({
            "endpoints": [], "cluster": "private", "credential_file": null, "ca": null,
            "client_certificate": null,
            "client_key": null, "server_name": null,
            "plaintext": "refused", "allow_networks": [], "http2": "auto", "max_in_flight": 1024,
            "timeouts": { "connect": "2s", "first_byte": "1m", "idle": "5m" },
            "queue": { "length": 64, "timeout": "1s" },
            "ejection": { "failures": 5, "base": "5s", "longest": "5m" },
        })
    );
}

#[test]
fn files_that_cannot_be_used_are_found_when_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let broken_ca = secret(dir.path(), "ca.pem", "no certificate", 0o644);
    let settings = settings(
        json!({ "eu": {
            "endpoints": ["https://gpu.example.com"], "models": ["m"], "ca": broken_ca,
            "credential_file": secret(dir.path(), "two-lines", "a\nb", 0o600),
        } }),
        json!({ "lake": {
            "endpoints": ["http://127.0.0.1:1"], "access_key_id": "a",
            "secret_key_file": secret(dir.path(), "open", "secret", 0o644), "datasets": [{ "id": "a", "bucket": "abc" }],
        } }),
        json!({ "status": { "endpoints": ["http://127.0.0.1:1"], "credential_file": dir.path().join("missing") } }),
    );
    let problems = Upstreams::new(&settings, "tidegate.toml", Arc::new(SystemClock)).unwrap_err();
    let places: Vec<&str> = problems.iter().map(|problem| problem.place.as_str()).collect();
    assert_eq!(
        places,
        [
            "clusters.eu.credential_file",
            "clusters.eu.ca",
            "stores.lake.secret_key_file",
            "services.status.credential_file"
        ]
    );
}

#[tokio::test]
async fn credentials_are_the_gateways_own() {
    let (seen, mut heads) = tokio::sync::mpsc::channel(8);
    let address = serve(move |request| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            seen.send((head, body.collect().await.unwrap().to_bytes())).await.unwrap();
            http::Response::new(empty())
        }
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let key = secret(dir.path(), "key", "sk-gateway\n", 0o600);
    let url = format!("http://{address}");
    let upstreams = open(&settings(
        json!({}),
        json!({ "lake": {
            "endpoints": [url], "access_key_id": "GATEWAY", "secret_key_file": key,
            "datasets": [{ "id": "handbook", "bucket": "docs" }],
        } }),
        json!({ "status": { "endpoints": [url], "credential_file": key } }),
    ));
    assert!(!format!("{upstreams:?}").contains("sk-gateway"));
    for upstream in
        [UpstreamRef::Service("status".parse().unwrap()), UpstreamRef::Store("lake".parse().unwrap())]
    {
        let endpoint = upstreams.select(&upstream, &[]).unwrap();
        assert!(!endpoint.is_plaintext_remote());
        let request = http::Request::put("/docs/a%20b").header("authorization", "Bearer client");
        upstreams.send(&endpoint, outbound_to(upstream.clone(), request, full("body"))).await.unwrap();
        let (head, body) = heads.recv().await.unwrap();
        let header = |name| head.headers.get(name).map_or("", |value| value.to_str().unwrap());
        assert_eq!((head.uri.path(), &body[..]), ("/docs/a%20b", &b"body"[..]));
        assert_eq!(header("content-length"), "4");
        if let UpstreamRef::Store(_) = upstream {
            assert!(header("authorization").starts_with("AWS4-HMAC-SHA256 Credential=GATEWAY/"));
            assert_eq!(header("x-amz-content-sha256"), "UNSIGNED-PAYLOAD");
        } else {
            assert_eq!(header("authorization"), "Bearer sk-gateway");
        }
    }
}
