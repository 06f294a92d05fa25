//! A border, the gateway before a cluster, and between them whoever ends TLS there: a relay that sees and can change every byte.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use tidegate::model::{RecipientName, SystemClock};
use tidegate::protect::keys::{Direction, Keys, KeysSettings, RecipientSettings, Scope};

use tidegate::policy::embedded;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::fixture::{Border, PEER, connect, head, let_anyone_send, parse, whole_answer, write_policy};

/// What no one between the two gateways may see.
pub(super) const PROMPT: &str = "MARKER-PROMPT-7c1d";
pub(super) const ANSWER: &str = "MARKER-ANSWER-93fe";

/// Both gateways with all that stands around them.
pub(super) struct Pair {
    pub(super) border: Border,
    pub(super) far: Border,
    pub(super) relay: Relay,
    pub(super) model: Model,
}

impl Pair {
    pub(super) async fn start() -> Self {
        let keys = tempfile::tempdir().unwrap();
        write_keys(keys.path(), 7).await;
        Self::with_keys(keys.path(), keys.path()).await
    }

    /// A far side that has the keys of another cluster: of the same names, and other bytes.
    pub(super) async fn strangers() -> Self {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_keys(ours.path(), 7).await;
        write_keys(theirs.path(), 8).await;
        Self::with_keys(ours.path(), theirs.path()).await
    }

    /// Both gateways with the keys of these folders.
    async fn with_keys(border_keys: &Path, far_keys: &Path) -> Self {
        let model = Model::start().await;
        let far = Border::prepared(&far_configuration(&model.endpoint), |dir| {
            std::fs::remove_dir_all(dir.join("policies")).unwrap();
            embedded::write(embedded::FAR_SIDE, &dir.join("policies")).unwrap();
            copy_keys(far_keys, dir);
        })
        .await;
        let relay = Relay::start(far.dir.path(), far.running.data_address().port()).await;
        let border = Border::prepared(&border_configuration(&relay.endpoint), |dir| {
            copy_keys(border_keys, dir);
            let_anyone_send(dir);
            write_policy(
                dir,
                "@id(\"test-chat\")\npermit (principal, action == Tidegate::Action::\"infer\", resource);\n",
            );
        })
        .await;
        Self { border, far, relay, model }
    }

    /// Asks the model through both.
    pub(super) async fn ask(&self, body: &str) -> super::fixture::Answer {
        self.border.send(chat("/v1/chat/completions", "", body).as_bytes()).await
    }

    pub(super) async fn shutdown(self) {
        self.border.running.shutdown().await;
        self.far.running.shutdown().await;
    }
}

pub(super) fn chat(path: &str, more: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Note: {PROMPT}\r\n\
         User-Agent: {PROMPT}\r\n{more}Content-Length: {length}\r\n\r\n{body}"
    )
}

pub(super) fn prompt(stream: bool) -> String {
    format!(
        r#"{{"model":"tide-small","stream":{stream},"messages":[{{"role":"user","content":"{PROMPT}"}}]}}"#
    )
}

fn border_configuration(endpoint: &str) -> String {
    let head = head("off");
    format!(
        r#"
{head}[clusters.haven]
endpoints = ["{endpoint}"]
models = ["tide-small"]
can_open = "haven"
http2 = "never"
[[routes]]
name = "chat"
path = "/v1/*"
infer = {{ clusters = ["haven"] }}
identity = "none"
audit = "best_effort"
level = "restricted"
residency = ["EU"]
{KEYS}"#
    )
}

fn far_configuration(endpoint: &str) -> String {
    let head = head("required");
    format!(
        r#"
{head}[[identity.mtls.trust_domains]]
name = "border.test"
tenant = "borders"
workloads = [
  {{ id = "{PEER}", teams = ["borders"], peer = true }},
  {{ id = "spiffe://border.test/job/stranger", teams = ["borders"] }},
]
[clusters.private]
endpoints = ["{endpoint}"]
models = ["tide-small"]
[[routes]]
name = "chat"
path = "/v1/*"
infer = {{ clusters = ["private"] }}
opens = true
level = "internal"
residency = ["EU"]
{KEYS}"#
    )
}

/// One recipient on both sides, under one root key.
const KEYS: &str = r#"
[keys]
directory = "branch"
[keys.roots.main]
file = "root.key"
[recipients.haven]
root = "main"
"#;

#[derive(serde::Deserialize)]
struct Sections {
    keys: KeysSettings,
    recipients: BTreeMap<RecipientName, RecipientSettings>,
}

/// A root key file in a folder: 32 bytes in base64.
pub(super) fn write_root(dir: &Path, byte: u8) {
    let file = dir.join("root.key");
    std::fs::write(&file, base64::engine::general_purpose::STANDARD.encode([byte; 32])).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub(super) fn make_private(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).unwrap();
}

/// Branch keys for both directions under a root key of these bytes, as `tidegate keys init` makes them.
async fn write_keys(dir: &Path, root: u8) {
    write_root(dir, root);
    make_private(&dir.join("branch"));
    let Sections { mut keys, recipients } = toml::from_str(KEYS).unwrap();
    keys.directory = dir.join("branch");
    for root in keys.roots.values_mut() {
        root.file = Some(dir.join("root.key"));
    }
    let keys = Keys::new(&keys, &recipients, "test", Arc::new(SystemClock)).unwrap();
    for direction in [Direction::Request, Direction::Answer] {
        let (tenant, recipient) = ("anonymous".parse().unwrap(), "haven".parse().unwrap());
        keys.make(&Scope { tenant, recipient, direction }).await.unwrap();
    }
}

/// A copy of the wrapped branch keys, as an operator takes them to the far side, beside the root key that is there.
pub(super) fn copy_keys(from: &Path, to: &Path) {
    copy_tree(&from.join("branch"), &to.join("branch"));
    std::fs::copy(from.join("root.key"), to.join("root.key")).unwrap();
}

fn copy_tree(from: &Path, to: &Path) {
    make_private(to);
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        if path.is_dir() { copy_tree(&path, &to) } else { std::fs::copy(&path, &to).map(drop).unwrap() }
    }
}

/// What is done to an answer on its way back.
type Tamper = Box<dyn FnMut(Vec<u8>) -> Vec<u8> + Send>;

/// Stands where the provider's load balancer does.
pub(super) struct Relay {
    pub(super) endpoint: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Every byte, both ways.
    captured: Mutex<Vec<u8>>,
    /// Whole requests.
    requests: Mutex<Vec<Vec<u8>>>,
    tamper: Mutex<Option<Tamper>>,
}

impl Relay {
    async fn start(far: &Path, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared::default());
        let (state, far) = (Arc::clone(&shared), far.to_owned());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, far) = (Arc::clone(&state), far.clone());
                tokio::spawn(async move { relay(stream, &state, &far, port).await });
            }
        });
        Self { endpoint, shared }
    }

    pub(super) fn captured(&self) -> Vec<u8> {
        self.shared.captured.lock().unwrap().clone()
    }

    /// The requests that passed so far.
    pub(super) fn requests(&self) -> Vec<Vec<u8>> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// From now on answers are changed.
    pub(super) fn tamper(&self, with: impl FnMut(Vec<u8>) -> Vec<u8> + Send + 'static) {
        *self.shared.tamper.lock().unwrap() = Some(Box::new(with));
    }
}

/// One connection of the border's; one of its own to the far side for each request.
async fn relay(mut near: TcpStream, shared: &Shared, far: &Path, port: u16) {
    let mut bytes = Vec::new();
    loop {
        while let Some((_, used)) = parse(&bytes) {
            let request: Vec<u8> = bytes.drain(..used).collect();
            shared.captured.lock().unwrap().extend(&request);
            shared.requests.lock().unwrap().push(request.clone());
            let mut stream = connect(far, port, Some("peer")).await;
            stream.write_all(&request).await.unwrap();
            let (mut answer, changes) = (Vec::new(), shared.tamper.lock().unwrap().is_some());
            while !whole_answer(&answer) {
                let mut piece = [0; 4096];
                let Ok(count @ 1..) = stream.read(&mut piece).await else { break };
                shared.captured.lock().unwrap().extend(&piece[..count]);
                answer.extend_from_slice(&piece[..count]);
                if !changes && near.write_all(&piece[..count]).await.is_err() {
                    return;
                }
            }
            if changes {
                let changed = shared.tamper.lock().unwrap().as_mut().unwrap()(answer);
                let whole = whole_answer(&changed);
                if near.write_all(&changed).await.is_err() || !whole {
                    return;
                }
            }
        }
        let mut piece = [0; 4096];
        match near.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

/// A model that answers with the marker; a stream waits to be told to go on after its first event.
pub(super) struct Model {
    pub(super) endpoint: String,
    pub(super) go_on: Arc<Semaphore>,
    seen: Arc<Mutex<Vec<super::fixture::Seen>>>,
}

impl Model {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (go_on, seen) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (wait, log) = (Arc::clone(&go_on), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (wait, log) = (Arc::clone(&wait), Arc::clone(&log));
                tokio::spawn(async move { infer(stream, &wait, &log).await });
            }
        });
        Self { endpoint, go_on, seen }
    }

    pub(super) fn take(&self) -> Vec<super::fixture::Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

async fn infer(mut stream: TcpStream, go_on: &Semaphore, log: &Mutex<Vec<super::fixture::Seen>>) {
    let mut bytes = Vec::new();
    loop {
        while let Some((seen, used)) = parse(&bytes) {
            bytes.drain(..used);
            let body = String::from_utf8(seen.body.clone()).unwrap();
            log.lock().unwrap().push(seen);
            if body.contains("\"stream\":true") {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                for number in 0..3 {
                    let event = format!("data: {{\"n\":{number},\"text\":\"{ANSWER}\"}}\n\n");
                    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                    if stream.write_all(chunk.as_bytes()).await.is_err() {
                        return;
                    }
                    go_on.acquire().await.unwrap().forget();
                }
                let _ = stream.write_all(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n").await;
            } else {
                let (status, body) = if body.contains("please fail") {
                    ("500 Internal Server Error", format!(r#"{{"error":"{ANSWER}"}}"#))
                } else {
                    (
                        "200 OK",
                        format!(
                            r#"{{"text":"{ANSWER}","usage":{{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}}}"#
                        ),
                    )
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-note: {ANSWER}\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
        }
    }
}
