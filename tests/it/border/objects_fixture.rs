//! A gateway before a store whose objects are sealed at rest, and the store: a double on a real socket that knows ranges, versions and
//! conditions, counts what it gives, and can be told to change an object between two requests.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use tidegate::model::{Clock as _, RecipientName, RecordId, SystemClock};
use tidegate::protect::keys::{Direction, Keys, KeysSettings, RecipientSettings, Scope};
use tidegate::protect::seal::{
    Bounds, EncryptionContext, FrameLength, MessageId, NewMessage, Sealer, UnverifiedHeader,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::fixture::{Answer, Border, PEER, Seen, head, parse, write_policy};
use super::seal_fixture::{make_private, write_root};

/// What stands in the clear and must not lie in the store.
pub(super) const MARKER: &str = "MARKER-OBJECT-51ee";

pub(super) const KEYS: &str = r#"
[keys]
directory = "branch"
[keys.roots.main]
file = "root.key"
[recipients.lake]
root = "main"
[recipients.job]
root = "main"
[recipients.other]
root = "main"
"#;

const POLICY: &str = r#"
@id("test-objects")
permit (principal, action in [Tidegate::Action::"read", Tidegate::Action::"write"], resource);
"#;

/// The gateway and its store.
pub(super) struct Lake {
    pub(super) border: Border,
    pub(super) store: Store,
    pub(super) keys: Keys,
}

impl Lake {
    pub(super) async fn start() -> Self {
        let store = Store::start().await;
        let border = Border::prepared(&configuration(&store.endpoint), |dir| {
            write_policy(dir, POLICY);
            write_root(dir, 7);
            make_private(&dir.join("branch"));
            let secret = dir.join("lake.key");
            std::fs::write(&secret, "secret").unwrap();
            std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        })
        .await;
        let keys = keys(border.dir.path());
        for (recipient, direction) in [
            ("lake", Direction::Rest),
            ("job", Direction::Answer),
            ("job", Direction::Request),
            ("other", Direction::Rest),
            ("other", Direction::Request),
        ] {
            keys.make(&scope(recipient, direction)).await.unwrap();
        }
        Self { border, store, keys }
    }

    /// Sends as the job; `head` is the request line without its version, then header lines.
    pub(super) async fn send(&self, head: &str, body: &[u8]) -> Answer {
        let mut lines = head.lines();
        let mut request = format!("{} HTTP/1.1\r\nHost: localhost\r\n", lines.next().unwrap());
        for line in lines {
            request.push_str(&format!("{line}\r\n"));
        }
        if head.starts_with("PUT") {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let bytes = [request.as_bytes(), body].concat();
        match head.starts_with("HEAD") {
            true => self.border.head_as("peer", &bytes).await,
            false => self.border.send_as("peer", &bytes).await,
        }
    }

    pub(super) async fn get(&self, path: &str, range: Option<&str>) -> Answer {
        let range = range.map(|range| format!("\nRange: {range}")).unwrap_or_default();
        self.send(&format!("GET {path}{range}"), b"").await
    }

    /// Writes an object through the route that seals; its sealed form.
    pub(super) async fn seal(&self, key: &str, plain: &[u8]) -> Vec<u8> {
        let answer = self.send(&format!("PUT /open/data/{key}\nContent-Type: text/csv"), plain).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        self.store.object(key)
    }

    /// What a job sends that seals what it writes to `path`, with its own key or another's.
    pub(super) async fn sealed_put(&self, path: &str, recipient: &str, plain: &[u8]) -> Vec<u8> {
        let scope = scope(recipient, Direction::Request);
        let expires = SystemClock.now().as_second() + 100;
        let mut context = EncryptionContext::new();
        for (name, value) in [
            ("tenant", "acme"),
            ("recipient", recipient),
            ("direction", "request"),
            ("method", "PUT"),
            ("path", path),
            ("level", "public"),
            ("decision", &RecordId::new().to_string()),
            ("expires", &expires.to_string()),
            ("content-type", "text/csv"),
        ] {
            context.insert(name, value).unwrap();
        }
        let wrapped = self.keys.wrap(&scope, &context).await.unwrap();
        let mut sealer = Sealer::new(NewMessage {
            message_id: MessageId::random().unwrap(),
            data_key: wrapped.data_key,
            edks: wrapped.edks,
            context,
            required: EncryptionContext::new(),
            frame_length: FrameLength::BODY,
        })
        .unwrap();
        let (mut sealed, mut rest) = (sealer.header().to_vec(), Bytes::copy_from_slice(plain));
        while !rest.is_empty() {
            sealed.extend(sealer.push(&mut rest).unwrap().unwrap_or_default());
        }
        sealed.extend(sealer.finish().unwrap());
        sealed
    }

    /// Opens a message with the keys of one recipient and direction.
    pub(super) async fn open(
        &self,
        sealed: &[u8],
        recipient: &str,
        direction: Direction,
    ) -> (Vec<u8>, EncryptionContext) {
        let (header, used) = UnverifiedHeader::parse(sealed, &Bounds::default()).unwrap().unwrap();
        let context = header.unverified().context().clone();
        let (data_key, _) = self
            .keys
            .unwrap(header.unverified().edks(), &context, &scope(recipient, direction))
            .await
            .unwrap();
        let mut opener = header.verify(&data_key, &EncryptionContext::new()).unwrap();
        let (mut rest, mut plain) = (BytesMut::from(&sealed[used..]), Vec::new());
        while let Some(frame) = opener.next_frame(&mut rest).unwrap() {
            plain.extend_from_slice(&frame);
        }
        opener.finish(&rest).unwrap();
        (plain, context)
    }
}

pub(super) fn scope(recipient: &str, direction: Direction) -> Scope {
    Scope { tenant: "acme".parse().unwrap(), recipient: recipient.parse().unwrap(), direction }
}

#[derive(serde::Deserialize)]
struct Sections {
    keys: KeysSettings,
    recipients: BTreeMap<RecipientName, RecipientSettings>,
}

/// The gateway's own keys.
pub(super) fn keys(dir: &std::path::Path) -> Keys {
    let Sections { mut keys, recipients } = toml::from_str(KEYS).unwrap();
    keys.directory = dir.join("branch");
    for root in keys.roots.values_mut() {
        root.file = Some(dir.join("root.key"));
    }
    Keys::new(&keys, &recipients, "test", Arc::new(SystemClock)).unwrap()
}

fn configuration(endpoint: &str) -> String {
    let head = head("required");
    format!(
        r#"
{head}[[identity.mtls.trust_domains]]
name = "border.test"
tenant = "acme"
workloads = [{{ id = "{PEER}", teams = ["research"], cluster = "haven", can_open = "job" }}]
[clusters.haven]
endpoints = ["http://127.0.0.1:9"]
models = ["tide-small"]
[stores.lake]
endpoints = ["{endpoint}"]
region = "r"
access_key_id = "a"
secret_key_file = "lake.key"
[[stores.lake.datasets]]
id = "handbook"
bucket = "data"
prefix = "open/"
level = "public"
residency = ["world"]
sealed = {{ tenant = "acme", recipient = "lake" }}
[[stores.lake.datasets]]
id = "patients"
bucket = "data"
prefix = "restricted/"
level = "restricted"
residency = ["world"]
sealed = {{ tenant = "acme", recipient = "lake" }}
[[routes]]
name = "open"
path = "/open/*"
store = "lake"
objects = "open"
opens = true
audit = "best_effort"
[[routes]]
name = "pass"
path = "/pass/*"
store = "lake"
objects = "pass"
audit = "best_effort"
{KEYS}"#
    )
}

/// What is done to the store between two requests, by how many it has answered.
type Between = Box<dyn FnMut(u64, &mut BTreeMap<String, Object>) + Send>;

#[derive(Clone)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    pub(super) version: u64,
}

#[derive(Default)]
struct Inside {
    objects: BTreeMap<String, Object>,
    requests: Vec<Seen>,
    given: u64,
    between: Option<Between>,
    deaf: bool,
}

/// The store.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) endpoint: String,
    inside: Arc<Mutex<Inside>>,
}

impl Store {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let inside = Arc::new(Mutex::new(Inside::default()));
        let state = Arc::clone(&inside);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                tokio::spawn(async move { serve(stream, &state).await });
            }
        });
        Self { endpoint, inside }
    }

    pub(super) fn object(&self, key: &str) -> Vec<u8> {
        self.inside.lock().unwrap().objects[key].bytes.to_vec()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.inside.lock().unwrap().objects.contains_key(key)
    }

    pub(super) fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        write(&mut self.inside.lock().unwrap().objects, key, bytes.into());
    }

    /// The requests since it was asked last, and the bytes of objects that it gave.
    pub(super) fn take(&self) -> (Vec<Seen>, u64) {
        let mut inside = self.inside.lock().unwrap();
        (std::mem::take(&mut inside.requests), std::mem::take(&mut inside.given))
    }

    /// From now on called before each request, with how many were answered since.
    pub(super) fn between(&self, between: impl FnMut(u64, &mut BTreeMap<String, Object>) + Send + 'static) {
        let mut inside = self.inside.lock().unwrap();
        inside.requests.clear();
        inside.between = Some(Box::new(between));
    }

    /// From now on it does not know `If-Match`.
    pub(super) fn deaf(&self) {
        self.inside.lock().unwrap().deaf = true;
    }
}

pub(super) fn write(objects: &mut BTreeMap<String, Object>, key: &str, bytes: Bytes) {
    let version = objects.get(key).map_or(1, |object| object.version + 1);
    objects.insert(key.to_owned(), Object { bytes, version });
}

async fn serve(mut stream: TcpStream, state: &Mutex<Inside>) {
    let mut bytes = Vec::new();
    loop {
        while let Some((seen, used)) = parse(&bytes) {
            bytes.drain(..used);
            let answer = answer(seen, &mut state.lock().unwrap());
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
        let mut piece = vec![0; 65536];
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

fn answer(seen: Seen, inside: &mut Inside) -> Vec<u8> {
    if let Some(between) = &mut inside.between {
        between(u64::try_from(inside.requests.len()).unwrap(), &mut inside.objects);
    }
    let header =
        |name: &str| seen.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
    let (method, key) = (seen.method.clone(), seen.target.strip_prefix("/data/").unwrap().to_owned());
    let (range, wanted, unwanted) = (header("range"), header("if-match"), header("if-none-match"));
    let body = seen.body.clone();
    inside.requests.push(seen);
    if method == "PUT" {
        write(&mut inside.objects, &key, body.into());
        let tag = inside.objects[&key].version;
        return format!("HTTP/1.1 200 OK\r\netag: \"v{tag}\"\r\nx-amz-checksum-crc32: AAAAAA==\r\ncontent-length: 0\r\n\r\n")
            .into_bytes();
    }
    let Some(object) = inside.objects.get(&key).cloned() else {
        return b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nnone\n".to_vec();
    };
    let tag = format!("\"v{}\"", object.version);
    if !inside.deaf && wanted.is_some_and(|wanted| wanted != tag) {
        return b"HTTP/1.1 412 Precondition Failed\r\ncontent-length: 0\r\n\r\n".to_vec();
    }
    if unwanted.is_some_and(|unwanted| unwanted == tag) {
        return format!("HTTP/1.1 304 Not Modified\r\netag: {tag}\r\n\r\n").into_bytes();
    }
    let total = object.bytes.len();
    let about = format!(
        "etag: {tag}\r\ncontent-type: text/csv\r\nx-amz-meta-a: 1\r\nx-amz-checksum-crc32: AAAAAA==\r\n"
    );
    let (status, more, part) = match range {
        None => ("200 OK", String::new(), object.bytes),
        Some(range) => {
            let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            let (first, last): (usize, usize) = match (first.parse(), last.parse::<usize>()) {
                (Ok(first), Ok(last)) => (first, last.min(total.wrapping_sub(1))),
                (Ok(first), Err(_)) => (first, total.wrapping_sub(1)),
                (Err(_), last) => (total - last.unwrap(), total.wrapping_sub(1)),
            };
            if first >= total {
                return format!("HTTP/1.1 416 Range Not Satisfiable\r\ncontent-range: bytes */{total}\r\ncontent-length: 0\r\n\r\n")
                    .into_bytes();
            }
            (
                "206 Partial Content",
                format!("content-range: bytes {first}-{last}/{total}\r\n"),
                object.bytes.slice(first..=last),
            )
        }
    };
    let mut answer =
        format!("HTTP/1.1 {status}\r\n{about}{more}content-length: {}\r\n\r\n", part.len()).into_bytes();
    if method != "HEAD" {
        inside.given += u64::try_from(part.len()).unwrap();
        answer.extend_from_slice(&part);
    }
    answer
}
