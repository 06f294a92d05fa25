//! A panic in a stage is a refusal with a record, and nobody else notices: panics are injected where the gateway asks its surroundings, the clock
//! and the bodies.

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt as _, Empty, Full};
use jiff::Timestamp;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::build;
use crate::audit::Audit;
use crate::audit::reader::Reader;
use crate::config;
use crate::gateway::Gateway;
use crate::message::{Body, Connection, Protocol};
use crate::model::Clock;
use crate::policy::embedded;

/// A clock that panics once, when it is asked for the n-th time from when it was set.
#[derive(Debug, Default)]
struct Bomb(AtomicI64);

impl Clock for Bomb {
    fn now(&self) -> Timestamp {
        assert_ne!(self.0.fetch_sub(1, Ordering::SeqCst), 1, "injected");
        Timestamp::now()
    }
}

/// A body that panics when it is read.
struct Trap;

impl HttpBody for Trap {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        panic!("injected")
    }
}

struct World {
    dir: tempfile::TempDir,
    gateway: Gateway,
    audit: Audit,
    clock: Arc<Bomb>,
    /// Lets the stream of `/app/live` go on.
    go: mpsc::Sender<()>,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (address, go) = upstream().await;
        policies(&dir.path().join("policies"));
        std::fs::write(dir.path().join("tidegate.toml"), configuration(&address)).unwrap();
        let config = config::load(&dir.path().join("tidegate.toml")).unwrap();
        let snapshot = build::snapshot(&config).unwrap();
        let audit = build::journal(&config, &snapshot.bundle, &snapshot.routes).unwrap();
        let clock = Arc::new(Bomb::default());
        let telemetry = build::telemetry(&config).unwrap();
        let gateway = Gateway::new(snapshot, audit.clone(), telemetry, clock.clone());
        Self { dir, gateway, audit, clock, go }
    }

    async fn ask<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 5000));
        let protocol = Protocol::Http1;
        let connection = Connection {
            peer: address,
            local: address,
            server_name: None,
            protocol,
            tls: None,
            client: None,
        };
        self.gateway.handle(&connection, request).await
    }

    fn records(&self) -> Vec<Value> {
        let mut reader = Reader::open(&self.dir.path().join("journal"), None).unwrap();
        let mut all = Vec::new();
        while let Some(stored) = reader.read_next().unwrap() {
            all.push(serde_json::from_slice(stored.payload).unwrap());
        }
        all
    }
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).header("host", "gateway.test").body(Empty::new()).unwrap()
}

fn prompt<B>(body: B) -> Request<B> {
    let request = Request::post("/v1/chat/completions").header("host", "gateway.test");
    request.header("content-type", "application/json").header("content-length", "27").body(body).unwrap()
}

/// A far side that answers each request at once, but the live one bit by bit.
async fn upstream() -> (String, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (go, turns) = mpsc::channel::<()>(1);
    let turns = Arc::new(tokio::sync::Mutex::new(turns));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move {
                let mut head = vec![0; 8192];
                while let Ok(read @ 1..) = stream.read(&mut head).await {
                    if head[..read].starts_with(b"GET /app/live") {
                        stream
                            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
                            .await
                            .unwrap();
                        turns.lock().await.recv().await;
                        stream.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
                    } else {
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                    }
                }
            });
        }
    });
    (address, go)
}

fn policies(folder: &Path) {
    embedded::write_to(folder).unwrap();
    std::fs::write(
        folder.join("50-test.cedar"),
        "@id(\"test-anything-public\")\npermit (principal, action, resource) when { context.data.level == 0 };\n",
    )
    .unwrap();
}

fn configuration(upstream: &str) -> String {
    format!(
        r#"
[listen]
address = "127.0.0.1:0"
[policy]
directory = "policies"
[audit]
directory = "journal"
[clusters.eu]
endpoints = ["{upstream}"]
models = ["tide-small"]
[services.status]
endpoints = ["{upstream}"]
[[routes]]
name = "app"
path = "/app/*"
service = "status"
level = "public"
residency = ["world"]
identity = "none"
[[routes]]
name = "chat"
path = "/v1/chat/completions"
infer = {{ clusters = ["eu"] }}
level = "public"
residency = ["world"]
identity = "none"
"#
    )
}

#[tokio::test]
async fn a_panic_in_a_stage_is_a_refusal_with_a_record_and_others_go_on() {
    let world = World::new().await;
    let mut live = world.ask(get("/app/live")).await.into_body();
    assert_eq!(live.frame().await.unwrap().unwrap().into_data().unwrap(), "one");

    // Wherever a request asks for the time: to decide, before it is sent, before its answer is passed on.
    let mut refused = 0;
    for nth in 1.. {
        world.clock.0.store(nth, Ordering::SeqCst);
        let answer = world.ask(get("/app/x")).await;
        let spent = world.clock.0.load(Ordering::SeqCst) < 1;
        if !spent {
            assert_eq!(answer.status(), StatusCode::OK);
            break;
        }
        refused += 1;
        told(answer).await;
    }
    assert!(refused >= 2, "the clock was asked {refused} times");
    world.clock.0.store(0, Ordering::SeqCst);
    // While a body is read for inspection.
    told(world.ask(prompt(Trap)).await).await;

    // Nobody else noticed, and the gateway goes on.
    world.go.send(()).await.unwrap();
    assert_eq!(live.collect().await.unwrap().to_bytes(), "two");
    let body = Full::new(Bytes::from_static(br#"{"model":"tide-small","a":0}"#));
    let mut request = prompt(body);
    request.headers_mut().insert("content-length", http::HeaderValue::from_static("28"));
    assert_eq!(world.ask(request).await.status(), StatusCode::OK);

    world.audit.close().await;
    let records = world.records();
    let panicked =
        records.iter().filter(|record| record["code"] == "panicked" || record["ending"] == "panicked");
    let crossings: std::collections::BTreeSet<&str> =
        panicked.filter_map(|record| record["id"].as_str()).collect();
    assert_eq!(crossings.len(), refused + 1, "{records:#?}");
    let ended: Vec<_> = records.iter().filter(|record| record["kind"] == "outcome").collect();
    let permitted = records.iter().filter(|record| record["decision"] == "allow").count();
    assert_eq!(ended.len(), permitted, "each permit has its end: {records:#?}");
}

async fn told(answer: Response<Body>) {
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    let problem: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(problem["code"], "panicked", "{problem}");
}
