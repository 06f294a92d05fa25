//! Certificates, client authorities and revocation lists change under load: nobody who is still trusted notices, nobody else gets in or goes on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use http::Request;
use http_body_util::Full;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use serde_json::Value;
use tidegate::model::{Clock as _, SystemClock};
use tidegate::net::{Authority, Issued, Subject};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::fixture::{Border, connect};
use super::live_fixture::{
    Raw, Streams, configuration, eventually, get, http2_of, read_until, ready, replace,
};

const SECOND: Duration = Duration::from_secs(1);

/// An authority of clients that can also revoke.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// Writes certificate and key of a client.
    fn client(&self, dir: &Path, name: &str, serial: u64) {
        let mut params = CertificateParams::default();
        let id = format!("spiffe://border.test/{name}");
        params.subject_alt_names.push(SanType::URI(id.as_str().try_into().unwrap()));
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(serial.into());
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        replace(dir, &format!("{name}.pem"), certificate.pem().as_bytes(), 0o644);
        replace(dir, &format!("{name}.key"), key.serialize_pem().as_bytes(), 0o600);
    }

    /// A list of these serials whose time is up after `life`; one that is up already if there is none.
    fn crl(&self, number: u64, revoked: &[u64], life: Option<Duration>) -> String {
        let now = SystemTime::now();
        let begin = now - Duration::from_secs(7200);
        let end = life.map_or(now - Duration::from_secs(3600), |life| now + life);
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: begin.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: begin.into(),
            next_update: end.into(),
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// A gateway whose server certificates come from `servers` and whose clients are of `clients.pem`.
struct Stand {
    border: Border,
    servers: Authority,
}

impl Stand {
    async fn start(more_tls: &str, prepare: impl FnOnce(&Path)) -> Self {
        Self::at(SystemClock.now(), more_tls, prepare).await
    }

    /// Its server certificate was issued at `issued`, for a year.
    async fn at(issued: jiff::Timestamp, more_tls: &str, prepare: impl FnOnce(&Path)) -> Self {
        let servers = Authority::new("servers", issued).unwrap();
        let streams = Streams::start().await;
        let tls = format!("client_ca = \"clients.pem\"\n{more_tls}");
        let text = configuration(&streams.endpoint).replacen("client_ca = \"ca.pem\"", &tls, 1);
        let text = text.replacen("api_keys = \"keys.toml\"\n", "", 1);
        let (before, issuer) = text.split_once("[[identity.issuers]]").unwrap();
        let (_, after) = issuer.split_once("[[identity.mtls").unwrap();
        let text = format!("{before}[[identity.mtls{after}");
        let border = Border::prepared(&text, |dir| {
            replace(dir, "ca.pem", servers.issued().certificate.as_bytes(), 0o644);
            serve_with(dir, &servers.issue(Subject::Server(&["localhost"])).unwrap());
            std::fs::write(dir.join("revoked.toml"), "revoked = []\n").unwrap();
            prepare(dir);
        })
        .await;
        Self { border, servers }
    }

    fn dir(&self) -> &Path {
        self.border.dir.path()
    }

    fn port(&self) -> u16 {
        self.border.running.data_address().port()
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port())
    }

    /// A client that remembers its sessions.
    fn client(&self, certificate: Option<&str>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.dir().join("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match certificate {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let file = |end: &str| self.dir().join(format!("{name}.{end}"));
                let chain = vec![CertificateDer::from_pem_file(file("pem")).unwrap()];
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(file("key")).unwrap())
                    .unwrap()
            }
        })
    }

    /// A connection, over which a request was answered with 200; none if the gateway refused any of it.
    async fn served(&self, client: &Arc<ClientConfig>, path: &str) -> Option<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.border.running.data_address()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, stream).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut seen = Vec::new();
        while !seen.ends_with(b"ok") {
            let mut piece = [0; 4096];
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => seen.extend_from_slice(&piece[..count]),
            }
        }
        assert!(seen.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&seen));
        Some(stream)
    }

    async fn raw(&self, path: &str, certificate: Option<&str>) -> Raw {
        let mut stream = connect(self.dir(), self.port(), certificate).await;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        Raw { stream, bytes: Vec::new(), ended: false }
    }

    fn events(&self, name: &str) -> Vec<Value> {
        self.border.journal().into_iter().filter(|record| record["event"] == name).collect()
    }

    async fn refused(&self, text: &str) {
        eventually(text, || async {
            let ready = ready(&self.border).await;
            ready["refused_certificates"].as_str().is_some_and(|problem| problem.contains(text))
        })
        .await;
    }
}

fn serve_with(dir: &Path, issued: &Issued) {
    // The key first: in between, the pair does not fit and is not taken.
    replace(dir, "server.key", issued.key.expose(), 0o600);
    replace(dir, "server.pem", issued.certificate.as_bytes(), 0o644);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_changes_under_load_and_no_request_fails() {
    let clients = Ca::new("clients");
    let stand = Stand::start("", |dir| {
        replace(dir, "clients.pem", clients.0.pem().as_bytes(), 0o644);
    })
    .await;
    let stand = Arc::new(stand);
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    // New connections all the time, some of them resumed, and one that stays.
    let load: Vec<_> = (0..3)
        .map(|number| {
            let (stand, stop, answered) = (Arc::clone(&stand), Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                let client = stand.client(None);
                let (mut sender, _connection) = http2_of(stand.dir(), stand.port(), None).await;
                while !stop.load(Ordering::Relaxed) {
                    if number == 0 {
                        let answer = get(&mut sender, &stand.url("/open/quick")).await;
                        assert_eq!(answer.status(), 200);
                    } else {
                        assert!(stand.served(&client, "/open/quick").await.is_some(), "a request failed");
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut stream = stand.raw("/open/events", None).await;
    for round in 0..6 {
        let next = stand.servers.issue(Subject::Server(&["localhost"])).unwrap();
        let der = CertificateDer::from_pem_slice(next.certificate.as_bytes()).unwrap();
        serve_with(stand.dir(), &next);
        let changed = Instant::now();
        // By a signal, and by being found.
        if round % 2 == 0 {
            stand.border.running.reload();
        }
        let seen = || async {
            let shown = stand.served(&stand.client(None), "/open/quick").await.unwrap();
            shown.get_ref().1.peer_certificates().unwrap()[0] == der
        };
        eventually("the new certificate is shown", seen).await;
        assert!(changed.elapsed() < SECOND, "{:?}", changed.elapsed());
        // Half a file, another's key.
        replace(stand.dir(), "server.pem", &next.certificate.as_bytes()[..200], 0o644);
        stand.border.running.reload();
        stand.refused("server.pem").await;
        serve_with(stand.dir(), &next);
        replace(stand.dir(), "server.key", stand.servers.issued().key.expose(), 0o600);
        stand.border.running.reload();
        stand.refused("cannot be used with its key").await;
        assert!(seen().await, "a broken pair changed something");
        stream.more().await;
        assert!(!stream.ended);
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    assert!(answered.load(Ordering::Relaxed) > 20);
    let told = stand.events("certificates.reload");
    let (taken, refused): (Vec<_>, Vec<_>) =
        told.iter().partition(|event| event["problems"].as_array().unwrap().is_empty());
    assert!(taken.len() >= 6 && refused.len() >= 12, "{told:#?}");
    assert!(told.iter().all(|event| event["drained"] == false));
    assert!(taken.iter().any(|event| event["files"][0]["name"].as_str().unwrap().ends_with("server.pem")));
    assert!(
        !told.iter().any(|event| event.to_string().contains("server.key\",\"old")),
        "the key's hash is told"
    );
}

#[tokio::test]
async fn a_removed_authority_lets_nobody_in_and_drains_who_is_there() {
    let (stays, goes) = (Ca::new("stays"), Ca::new("goes"));
    let both = format!("{}{}", stays.0.pem(), goes.0.pem());
    let stand = Stand::start("", |dir| {
        replace(dir, "clients.pem", both.as_bytes(), 0o644);
        stays.client(dir, "stays", 1);
        goes.client(dir, "goes", 1);
    })
    .await;
    let (kept, lost) = (stand.client(Some("stays")), stand.client(Some("goes")));
    for client in [&kept, &lost] {
        stand.served(client, "/quick").await.unwrap();
        let again = stand.served(client, "/quick").await.unwrap();
        assert_eq!(
            again.get_ref().1.handshake_kind(),
            Some(HandshakeKind::Resumed),
            "the test needs tickets"
        );
    }
    let (mut sender, _task) = http2_of(stand.dir(), stand.port(), Some("stays")).await;
    let mut body = get(&mut sender, &stand.url("/events")).await.into_body();
    let (mut seen, mut lost_seen) = (String::new(), String::new());
    read_until(&mut body, &mut seen, "\"n\":2").await;
    let (mut lost_sender, lost_task) = http2_of(stand.dir(), stand.port(), Some("goes")).await;
    let mut lost_body = get(&mut lost_sender, &stand.url("/events")).await.into_body();
    read_until(&mut lost_body, &mut lost_seen, "\"n\":2").await;
    let mut idle = stand.served(&kept, "/quick").await.unwrap();
    let mut lost_idle = stand.served(&lost, "/quick").await.unwrap();

    replace(stand.dir(), "clients.pem", stays.0.pem().as_bytes(), 0o644);
    stand.border.running.reload();
    let changed = Instant::now();
    // Whoever is trusted no longer: the stream ends with the reason, the connections close, no new one, no ticket.
    assert!(read_until(&mut lost_body, &mut lost_seen, "never").await.unwrap().is_ok());
    assert!(changed.elapsed() < SECOND, "{:?}", changed.elapsed());
    assert!(lost_seen.contains("event: error") && lost_seen.contains("certificate_invalid"), "{lost_seen}");
    lost_task.await.unwrap();
    assert_eq!(lost_idle.read(&mut [0; 16]).await.unwrap_or(0), 0, "the idle connection is closed");
    assert!(stand.served(&lost, "/quick").await.is_none());
    assert!(stand.served(&stand.client(Some("goes")), "/quick").await.is_none());
    // Whoever still is: GOAWAY, the stream goes on, a new connection works but by no old ticket.
    let quick = Request::get(stand.url("/quick")).body(Full::default()).unwrap();
    while let Ok(answer) = sender.send_request(quick.clone()).await {
        // Its GOAWAY was still on its way.
        assert_eq!(answer.status(), 200);
        assert!(changed.elapsed() < SECOND, "a new stream begins on an old connection");
    }
    let before = seen.matches("data:").count();
    // Forty more events take more than two passes over what is under way.
    assert!(read_until(&mut body, &mut seen, &format!("\"n\":{}", before + 40)).await.is_none(), "{seen}");
    let fresh = stand.served(&kept, "/quick").await.unwrap();
    assert_eq!(fresh.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    idle.write_all(b"GET /quick HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let _ = idle.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    let told = stand.events("certificates.reload");
    assert_eq!((told.len(), &told[0]["drained"], &told[0]["actor"]), (1, &true.into(), &"signal".into()));
    drop((body, sender));
    stand.border.running.shutdown().await;
}

#[tokio::test]
async fn revocation_lists_are_followed_and_a_stale_one_is_not_taken() {
    let ca = Ca::new("clients");
    let stand = Stand::start("crl = [\"clients.crl\"]", |dir| {
        replace(dir, "clients.pem", ca.0.pem().as_bytes(), 0o644);
        replace(dir, "clients.crl", ca.crl(1, &[], Some(Duration::from_secs(3600))).as_bytes(), 0o644);
        ca.client(dir, "seven", 7);
        ca.client(dir, "eight", 8);
    })
    .await;
    let (seven, eight) = (stand.client(Some("seven")), stand.client(Some("eight")));
    stand.served(&seven, "/quick").await.unwrap();
    let mut stream = stand.raw("/events", Some("seven")).await;
    stream.until("\"n\":2").await;
    let mut other = stand.raw("/events", Some("eight")).await;
    other.until("\"n\":2").await;

    replace(stand.dir(), "clients.crl", ca.crl(2, &[7], Some(Duration::from_secs(5))).as_bytes(), 0o644);
    stand.border.running.reload();
    let changed = Instant::now();
    stream.until("certificate_invalid").await;
    assert!(changed.elapsed() < SECOND, "{:?}", changed.elapsed());
    assert!(stand.served(&seven, "/quick").await.is_none());
    stand.served(&eight, "/quick").await.unwrap();
    other.more().await;
    assert!(!other.ended && !other.text().contains("error"));

    // One that would let `seven` in again, but is too old.
    let good = std::fs::read(stand.dir().join("clients.crl")).unwrap();
    replace(stand.dir(), "clients.crl", ca.crl(3, &[], None).as_bytes(), 0o644);
    stand.border.running.reload();
    stand.refused("the revocation list").await;
    assert!(stand.served(&seven, "/quick").await.is_none());
    replace(stand.dir(), "clients.crl", &good, 0o644);
    // The good one grows too old in its turn: who was revoked since nobody knows.
    stand.refused("too old").await;
    eventually("a stale list lets nobody in", || async { stand.served(&eight, "/quick").await.is_none() })
        .await;
    other.until("certificate_invalid").await;
    assert!(
        stand.served(&stand.client(None), "/open/quick").await.is_some(),
        "without a certificate it matters not"
    );
    let clock = stand.events("certificates.reload").into_iter().filter(|event| event["actor"] == "clock");
    assert_eq!(clock.count(), 1);
    replace(stand.dir(), "clients.crl", ca.crl(4, &[7], Some(Duration::from_secs(3600))).as_bytes(), 0o644);
    stand.border.running.reload();
    eventually("a new list lets them in", || async { stand.served(&eight, "/quick").await.is_some() }).await;
    stand.border.running.shutdown().await;
}

#[tokio::test]
async fn a_certificate_that_ends_soon_is_told_of() {
    let ca = Ca::new("clients");
    // Issued 360 days ago, for a year.
    let issued = SystemClock.now() - jiff::SignedDuration::from_hours(360 * 24);
    let stand = Stand::at(issued, "", |dir| {
        replace(dir, "clients.pem", ca.0.pem().as_bytes(), 0o644);
    })
    .await;
    // Whose record is there before its answer: from now on there is a journal to read.
    stand.served(&stand.client(None), "/open/quick").await.unwrap();
    eventually("the alarm is recorded", || async { !stand.events("certificate.expiring").is_empty() }).await;
    let told = stand.events("certificate.expiring");
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!((&told[0]["certificate"], &told[0]["days"]), (&"listen.tls.certificate".into(), &7.into()));
    let mut stream = TcpStream::connect(stand.border.running.admin_address()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let line = text.lines().find(|line| {
        line.starts_with("tidegate_certificate_expiry") && line.contains("listen.tls.certificate")
    });
    let left: f64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(left > 3.0 * 86_400.0 && left < 7.0 * 86_400.0, "{line:?}");
    stand.border.running.shutdown().await;
}
