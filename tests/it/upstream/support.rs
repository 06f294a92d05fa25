//! Real upstreams, and requests that Cedar permitted.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tidegate::message::{Body, BoxError, boxed};
use tidegate::model::{
    Action, Authn, Candidate, Chain, Label, Level, Origin, Principal, PrincipalKind, Protection, Resource,
    ServiceName, SystemClock, UpstreamRef,
};
use tidegate::policy::{AuthzRequest, Bundle, Permit, embedded};
use tidegate::protect::{Outbound, prepare};
use tidegate::upstream::{Settings, Upstreams};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// A body of unknown length whose frames a test sends one by one.
pub(crate) struct Script(mpsc::Receiver<Result<Frame<Bytes>, BoxError>>);

pub(crate) type Pen = mpsc::Sender<Result<Frame<Bytes>, BoxError>>;

impl http_body::Body for Script {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(cx)
    }
}

pub(crate) fn script() -> (Pen, Body) {
    let (pen, frames) = mpsc::channel(1);
    (pen, boxed(Script(frames)))
}

pub(crate) fn data(text: &'static [u8]) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::from_static(text)))
}

/// Serves HTTP/1.1 and HTTP/2 (prior knowledge) until the test ends.
pub(crate) async fn serve<F, R>(handle: F) -> SocketAddr
where
    F: Fn(http::Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = http::Response<Body>> + Send + 'static,
{
    accept(move |socket| {
        let handle = handle.clone();
        async move {
            let service = service_fn(move |request| {
                let answer = handle(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(socket), service).await;
        }
    })
    .await
}

/// Hands each connection to `handle`.
pub(crate) async fn accept<F, R>(handle: F) -> SocketAddr
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(handle(socket));
        }
    });
    address
}

/// Answers every connection with these bytes once a request head has come, then resets it.
pub(crate) async fn answer_raw(answer: &'static [u8]) -> SocketAddr {
    accept(move |mut socket| async move {
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let _ = socket.write_all(answer).await;
        let _ = socket.shutdown().await;
    })
    .await
}

/// An address at which nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

pub(crate) fn service() -> UpstreamRef {
    UpstreamRef::Service(name())
}

fn name() -> ServiceName {
    "status".parse().unwrap()
}

/// One service at these addresses; `more` are further members of its settings.
pub(crate) fn upstreams(addresses: &[SocketAddr], more: &serde_json::Value) -> Upstreams {
    let endpoints: Vec<String> = addresses.iter().map(|address| format!("http://{address}")).collect();
    let mut settings = serde_json::json!({
        "endpoints": endpoints,
        "timeouts": { "connect": "500ms", "first_byte": "300ms", "idle": "300ms" },
    });
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let services = [(name(), serde_json::from_value(settings).unwrap())].into();
    open(&Settings { services, ..Settings::default() })
}

pub(crate) fn open(settings: &Settings) -> Upstreams {
    Upstreams::new(settings, "tidegate.toml", Arc::new(SystemClock)).unwrap()
}

static PERMISSIVE: LazyLock<Bundle> = LazyLock::new(|| {
    let mut files = embedded::bundle().unwrap().files().to_vec();
    files.retain(|(name, _)| !name.ends_with(".cedar"));
    files.push(("all.cedar".to_owned(), b"@id(\"all\")\npermit (principal, action, resource);\n".to_vec()));
    Bundle::from_files("test", files).unwrap()
});

/// A permit of a policy that permits everything, under this protection.
pub(crate) fn permit(candidate: Candidate, action: Action, protection: Protection) -> Permit {
    let principal = Principal {
        kind: PrincipalKind::Workload,
        id: "anonymous".into(),
        tenant: "demo".parse().unwrap(),
        teams: Vec::new(),
        authn: Authn::Anonymous,
        chain: Chain::default(),
        issued_at: None,
        expires_at: None,
        credential: None,
    };
    let residency = ["DE".parse().unwrap()].into_iter().collect();
    let request = AuthzRequest {
        principal: &principal,
        action,
        label: &Label { level: Level::Public, residency, origin: Origin::Route },
        method: "POST",
        path: "/",
        bytes: 1,
        stream: false,
        max_tokens: None,
        peer: [127, 0, 0, 1].into(),
        now: "2026-11-24T12:00:00Z".parse().unwrap(),
        purpose: None,
    };
    PERMISSIVE.decide(&request, &[candidate], &[protection]).unwrap()
}

pub(crate) fn candidate(upstream: UpstreamRef) -> Candidate {
    let destination = Some("private".parse().unwrap());
    let resource = match &upstream {
        UpstreamRef::Store(_) => Resource::Dataset("handbook".parse().unwrap()),
        _ => Resource::Service(name()),
    };
    Candidate { resource, destination, upstream, can_open: None }
}

pub(crate) fn outbound_to(upstream: UpstreamRef, request: http::request::Builder, body: Body) -> Outbound {
    let action = if matches!(upstream, UpstreamRef::Store(_)) { Action::Read } else { Action::Call };
    prepare(permit(candidate(upstream), action, Protection::None), request.body(body).unwrap(), None).unwrap()
}

pub(crate) fn outbound(request: http::request::Builder, body: Body) -> Outbound {
    outbound_to(service(), request, body)
}

/// Waits until nothing is in flight any more.
pub(crate) async fn settles(upstreams: &Upstreams) -> bool {
    for _ in 0..200 {
        if upstreams.loads().all(|(_, load)| load == 0) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}
