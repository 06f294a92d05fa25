//! TLS towards upstreams: the pinned authority and the configured name, or nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tidegate::message::empty;
use tidegate::model::{Clock as _, SystemClock};
use tidegate::net::{Authority, Subject};
use tidegate::upstream::{SendErrorKind, Settings};
use tokio_rustls::TlsAcceptor;

use super::support::{accept, open, outbound, service};

async fn serve_tls(authority: &Authority) -> SocketAddr {
    let issued = authority.issue(Subject::Server(&["localhost", "gpu.test"])).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(issued.key.expose()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    accept(move |socket| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(socket).await else { return };
            let answer = service_fn(|_| async { Ok::<_, Infallible>(http::Response::new(empty())) });
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
        }
    })
    .await
}

#[tokio::test]
async fn only_the_pinned_authority_and_the_configured_name_are_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new("ours", SystemClock.now()).unwrap();
    let other = Authority::new("other", SystemClock.now()).unwrap();
    let (ca, _) = ours.issued().write(dir.path(), "ca").unwrap();
    let (wrong_ca, _) = other.issued().write(dir.path(), "wrong").unwrap();
    let address = serve_tls(&ours).await;
    let rows = [
        (&ca, "gpu.test", "auto", Ok(http::Version::HTTP_2)),
        (&ca, "gpu.test", "only", Ok(http::Version::HTTP_2)),
        (&ca, "gpu.test", "never", Ok(http::Version::HTTP_11)),
        (&ca, "elsewhere.test", "auto", Err(SendErrorKind::Tls)),
        (&wrong_ca, "gpu.test", "auto", Err(SendErrorKind::Tls)),
    ];
    for (ca, server_name, http2, expected) in rows {
        let status = json!({ "status": {
            "endpoints": [format!("https://{address}")], "ca": ca, "server_name": server_name, "http2": http2,
        } });
        let services = serde_json::from_value(status).unwrap();
        let upstreams = open(&Settings { services, ..Settings::default() });
        let endpoint = upstreams.select(&service(), &[]).unwrap();
        let sent = upstreams.send(&endpoint, outbound(http::Request::get("/"), empty())).await;
        let seen = sent.map(|answer| answer.response.version()).map_err(|error| {
            assert!(error.retryable());
            assert_eq!(error.code(), "upstream_unreachable");
            error.kind()
        });
        assert_eq!(seen, expected, "{server_name} {http2}");
    }
}
