//! A server of bundles and entities over HTTPS, and releases of every kind.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::Ed25519KeyPair;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidegate::model::note::Signer;
use tidegate::model::{Clock as _, SystemClock};
use tidegate::net::{Authority, Subject};
use tidegate::policy::release::{Attestation, Attested, Manifest, pack};
use tidegate::policy::{Bundle, embedded};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::fixture::OPEN;

/// The files that are served, how often each was given, and how often it was said to be unchanged.
#[derive(Default)]
struct Served {
    files: HashMap<String, Vec<u8>>,
    given: usize,
    unchanged: usize,
}

/// An HTTPS server of files with entity tags; what is not there is 404.
#[derive(Clone)]
pub(super) struct Server {
    served: Arc<Mutex<Served>>,
    address: SocketAddr,
    ca: String,
}

impl Server {
    pub(super) async fn start() -> Self {
        let authority = Authority::new("bundles", SystemClock.now()).unwrap();
        let issued = authority.issue(Subject::Server(&["localhost", "127.0.0.1"])).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(issued.key.expose()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let served: Arc<Mutex<Served>> = Arc::default();
        let server = Self {
            served: Arc::clone(&served),
            address: listener.local_addr().unwrap(),
            ca: authority.issued().certificate,
        };
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, served) = (acceptor.clone(), Arc::clone(&served));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    let answer = service_fn(move |request| {
                        let answer = answer(&request, &mut served.lock().unwrap());
                        async { Ok::<_, Infallible>(answer) }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        server
    }

    pub(super) fn put(&self, name: &str, bytes: Vec<u8>) {
        self.served.lock().unwrap().files.insert(name.to_owned(), bytes);
    }

    pub(super) fn remove(&self, name: &str) {
        self.served.lock().unwrap().files.remove(name);
    }

    /// How often a file was given, and how often it was said to be unchanged.
    pub(super) fn counts(&self) -> (usize, usize) {
        let served = self.served.lock().unwrap();
        (served.given, served.unchanged)
    }

    /// The table of a gateway that fetches `name` from here.
    pub(super) fn table(&self, table: &str, name: &str) -> String {
        let port = self.address.port();
        format!(
            "[policy.{table}]\nurl = \"https://localhost:{port}/{name}\"\nca = \"bundles-ca.pem\"\npoll = \"50ms\"\n"
        )
    }

    /// Lets a gateway's folder trust the server.
    pub(super) fn trust(&self, dir: &Path) {
        std::fs::write(dir.join("bundles-ca.pem"), &self.ca).unwrap();
    }
}

fn answer(request: &Request<Incoming>, served: &mut Served) -> Response<Full<Bytes>> {
    let name = request.uri().path().trim_start_matches('/');
    let Some(bytes) = served.files.get(name).cloned() else {
        return Response::builder().status(StatusCode::NOT_FOUND).body(Full::default()).unwrap();
    };
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    let tag: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{tag}\"");
    if request.headers().get("if-none-match").is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        served.unchanged += 1;
        return Response::builder().status(StatusCode::NOT_MODIFIED).body(Full::default()).unwrap();
    }
    served.given += 1;
    Response::builder().header("etag", tag).body(Full::from(bytes)).unwrap()
}

/// A key that signs releases.
pub(super) fn signer(seed: u8) -> Signer {
    Signer::new("policies.example", Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap().into())
}

/// A release of the shipped policies and the test's own.
#[derive(Clone, Default)]
pub(super) struct Release<'a> {
    pub(super) serial: u64,
    pub(super) expires: Option<Timestamp>,
    /// More of the test's own policies.
    pub(super) more: &'a str,
    pub(super) signer: Option<&'a Signer>,
    pub(super) claims: Option<&'a [&'a str]>,
    pub(super) reason: Option<&'a str>,
}

impl Release<'_> {
    pub(super) fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = embedded::bundle().unwrap().files().to_vec();
        files.push(("90-test.cedar".to_owned(), format!("{OPEN}{}", self.more).into_bytes()));
        files
    }

    /// The hash of the bundle.
    pub(super) fn hash(&self) -> String {
        Bundle::from_files("release", self.files()).unwrap().hash().to_owned()
    }

    pub(super) fn manifest(&self, hash: String) -> String {
        let claims = self.claims.map(|ids| {
            let claim =
                |id: &&str| Attested { id: (*id).to_owned(), says: "it holds".to_owned(), sha256: None };
            Attestation { solver: "test".to_owned(), claims: ids.iter().map(claim).collect() }
        });
        let manifest = Manifest {
            serial: self.serial,
            created: SystemClock.now(),
            expires: self.expires,
            bundle: hash,
            attestation: claims,
            override_reason: self.reason.map(str::to_owned),
        };
        manifest.file(self.signer).unwrap()
    }

    pub(super) fn packed(&self) -> Vec<u8> {
        pack(&self.manifest(self.hash()), &self.files()).unwrap()
    }
}
