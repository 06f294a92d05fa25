//! What tests of the listener share: certificates made for the run, a handler that echoes, clients.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tidegate::listen::{
    AnswerBody, BoxError, Handler, Listener, Refusal, RefusedConnection, RequestBody, Settings, TlsSettings,
};
use tidegate::message::Connection;
use tidegate::model::{Clock as _, SystemClock};
use tidegate::net::{
    Alpn, Authority, ClientAuth, ClientTls, ConnectTimes, Connector, Origin, Reach, Subject,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(super) const SPIFFE: &str = "spiffe://test.example/app";

/// A directory with an authority, a server and a client certificate.
pub(crate) struct Pki {
    pub(crate) dir: TempDir,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::new("Test CA", SystemClock.now()).unwrap();
        ca.issued().write(dir.path(), "ca").unwrap();
        let server = ca.issue(Subject::Server(&["localhost", "gateway.test", "127.0.0.1"])).unwrap();
        server.write(dir.path(), "server").unwrap();
        ca.issue(Subject::Client(SPIFFE)).unwrap().write(dir.path(), "client").unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn tls(&self, client_auth: ClientAuth) -> TlsSettings {
        TlsSettings {
            client_auth,
            client_ca: (client_auth != ClientAuth::Off).then(|| self.path("ca.pem")),
            ..TlsSettings::new(self.path("server.pem"), self.path("server.key"))
        }
    }
}

/// Answers with the body it got; counts what it sees.
#[derive(Default)]
pub(crate) struct Echo {
    handled: AtomicUsize,
    pub(super) connections: Mutex<Vec<Arc<Connection>>>,
    pub(super) rejected: Mutex<Vec<Refusal>>,
    refused: Mutex<Vec<&'static str>>,
    /// The far ends of the bodies of `/stream`.
    pub(super) streams: Mutex<Vec<mpsc::Sender<Bytes>>>,
}

fn full(body: impl Into<Bytes>) -> AnswerBody {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

impl Handler for Echo {
    async fn handle(
        &self,
        connection: Arc<Connection>,
        request: Request<RequestBody>,
    ) -> Response<AnswerBody> {
        self.handled.fetch_add(1, Ordering::SeqCst);
        self.connections.lock().unwrap().push(connection);
        match request.uri().path() {
            "/stream" => {
                let (sender, receiver) = mpsc::channel(8);
                self.streams.lock().unwrap().push(sender);
                Response::new(Frames(receiver).boxed_unsync())
            }
            "/slow" => {
                sleep(Duration::from_millis(60)).await;
                Response::new(full("slow"))
            }
            "/moved" => {
                let moved = Response::builder().status(302).header("location", "/elsewhere");
                moved.body(full("")).unwrap()
            }
            "/large" => Response::new(full(vec![b'x'; 100_000])),
            _ => match request.into_body().collect().await {
                Ok(body) => Response::new(full(body.to_bytes())),
                Err(error) => {
                    let code = error.downcast_ref::<Refusal>().map_or("other", |refusal| refusal.code());
                    Response::builder().status(400).body(full(code)).unwrap()
                }
            },
        }
    }

    async fn reject(&self, _: Arc<Connection>, refusal: Refusal) -> Response<AnswerBody> {
        self.rejected.lock().unwrap().push(refusal);
        Response::new(full(refusal.code()))
    }

    fn refused(&self, _: SocketAddr, reason: &RefusedConnection) {
        self.refused.lock().unwrap().push(reason.code());
    }
}

/// A body that is what comes through a channel.
struct Frames(mpsc::Receiver<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A listener that runs until it is stopped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) echo: Arc<Echo>,
    pub(super) stop: Option<oneshot::Sender<()>>,
    pub(super) task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(settings: Settings) -> Self {
        let listener = Listener::bind(settings).unwrap();
        let address = listener.local_addr();
        let echo = Arc::new(Echo::default());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(listener.run(Arc::clone(&echo), async {
            drop(stopped.await);
        }));
        Self { address, echo, stop: Some(stop), task }
    }

    pub(super) fn handled(&self) -> usize {
        self.echo.handled.load(Ordering::SeqCst)
    }

    pub(super) fn refused(&self) -> Vec<&'static str> {
        self.echo.refused.lock().unwrap().clone()
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

pub(crate) fn settings(tls: Option<TlsSettings>) -> Settings {
    Settings::new("127.0.0.1:0".parse().unwrap(), tls)
}

pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..400 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert!(holds(), "in two seconds not: {what}");
}

/// A client of raw TLS.
pub(super) struct Client<'a> {
    pub(super) versions: &'a [&'static SupportedProtocolVersion],
    pub(super) alpn: &'a [&'a [u8]],
    pub(super) identity: Option<&'a Path>,
}

pub(super) const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

impl Client<'_> {
    pub(super) async fn connect(
        &self,
        pki: &Pki,
        address: SocketAddr,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pki.path("ca.pem")).unwrap()).unwrap();
        let builder =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_protocol_versions(self.versions)
                .unwrap()
                .with_root_certificates(roots);
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some(stem) => {
                let chain = vec![CertificateDer::from_pem_file(stem.with_extension("pem")).unwrap()];
                let key = PrivateKeyDer::from_pem_file(stem.with_extension("key")).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("gateway.test").unwrap(), stream)
            .await
    }
}

/// Sends bytes and reads until the peer closes; gives the text, and whether it closed within three seconds.
pub(super) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
) -> (String, bool) {
    // A peer that closes early breaks the writing, which the text then shows.
    drop(stream.write_all(bytes).await);
    let mut got = Vec::new();
    // A reset ends the reading too; what came before it has been read.
    let closed = timeout(Duration::from_secs(3), stream.read_to_end(&mut got)).await.is_ok();
    (String::from_utf8(got).unwrap(), closed)
}

/// Sends bytes and reads until `end` has come.
pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
    end: &str,
) -> String {
    stream.write_all(bytes).await.unwrap();
    let mut got = String::new();
    while !got.contains(end) {
        got.push(char::from(stream.read_u8().await.unwrap()));
    }
    got
}

/// The statuses of all answers in a text.
pub(super) fn statuses(text: &str) -> Vec<&str> {
    text.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3)).collect()
}

/// A client of one origin, `gateway.test`.
pub(super) fn client_of(
    pki: &Pki,
    address: SocketAddr,
    alpn: Alpn,
) -> legacy::Client<Connector, Full<Bytes>> {
    let tls = ClientTls::load(&pki.path("ca.pem"), None, alpn).unwrap();
    let origin = Origin::parse(&format!("https://gateway.test:{}", address.port())).unwrap();
    let table = [("gateway.test".to_owned(), vec![address.ip()])].into();
    let reach = Reach::new(vec!["127.0.0.0/8".parse().unwrap()]);
    let connector = Connector::secure(origin, &tls, None, reach, ConnectTimes::default()).unwrap();
    let connector = connector.with_resolver(tidegate::net::Resolver::Table(Arc::new(table)));
    legacy::Client::builder(TokioExecutor::new()).build(connector)
}
