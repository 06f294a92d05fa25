//! The tour: sends each step through the gateway as a client would, then reads back from the journal what was decided.
//!
//! Decision, policy and record are never guessed from the answer: a row shows what the journal holds, and says so when
//! that, the answer or what reached the doubles is not what the step expects.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::double::Seen;
use super::steps::{Decision, Payload, Proof, Sealed, Step};
use super::wiretap::{Passed, Wire};

/// The longest wait for one answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// The longest wait for the records of all steps: refusals are written without anybody waiting for them.
const JOURNAL_TIME: Duration = Duration::from_secs(5);

/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// The header that names the record of a crossing.
const RECORD_HEADER: &str = "tidegate-record";

/// A connection to the gateway.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What the tour wants of the border that it visits.
pub(crate) trait Border {
    /// The `Host` to ask for.
    fn host(&self) -> String;
    /// A new connection, with the client certificate of that name or without any.
    async fn connect(&self, certificate: Option<&str>) -> anyhow::Result<Box<dyn Stream>>;
    /// A bearer token by name.
    fn token(&self, name: &str) -> Option<&str>;
    /// What reached the doubles since this was last asked, each with the name of its double.
    fn arrivals(&self) -> Vec<(&'static str, Seen)>;
    /// What passed before the cluster `haven`, where TLS ends, so far.
    fn passed(&self) -> Passed;
    /// Opens a message as the scan job does, with its own key alone.
    fn open_as_job(&self, sealed: &[u8]) -> anyhow::Result<Vec<u8>>;
    /// All records of the journal so far.
    fn records(&self) -> anyhow::Result<Vec<Value>>;
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    /// Who asked.
    pub(crate) who: &'static str,
    /// What they asked.
    pub(crate) what: &'static str,
    /// Where it went or would have gone, from the journal.
    pub(crate) to: String,
    /// `allowed`, `denied` or `refused`, from the journal.
    pub(crate) decision: String,
    /// The deciding policies, from the journal.
    pub(crate) policies: Vec<String>,
    /// The code, where one stands in the journal.
    pub(crate) code: Option<String>,
    /// How the payload left, from the journal: `none` or `sealed`.
    pub(crate) protection: Option<String>,
    /// What a wiretap saw of it, where one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wire: Option<Wire>,
    /// The status of the answer.
    pub(crate) status: u16,
    /// From the first byte sent to the last byte read, in milliseconds.
    pub(crate) latency_ms: f64,
    /// The id of the record.
    pub(crate) record: String,
    /// What is not as expected; empty if all is.
    pub(crate) problems: Vec<String>,
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    record: String,
    latency: Duration,
    body: Bytes,
    /// What passed the wiretap meanwhile, and what the job read, where the step is about it.
    wire: Option<Wire>,
    opened: Option<anyhow::Result<Vec<u8>>>,
    /// What reached the doubles meanwhile.
    arrived: Vec<(&'static str, Seen)>,
}

/// Goes through the steps, one after the other.
///
/// # Errors
/// The gateway does not answer at all, or the journal cannot be read.
pub(crate) async fn run(
    border: &impl Border,
    steps: impl Iterator<Item = &'static Step>,
) -> anyhow::Result<Vec<Row>> {
    let mut done = Vec::new();
    for step in steps {
        let reply = tokio::time::timeout(ANSWER_TIME, send(border, step))
            .await
            .with_context(|| format!("no answer within 10 s: {}, {}", step.who, step.what))?
            .with_context(|| format!("no answer: {}, {}", step.who, step.what))?;
        done.push((step, reply));
    }
    let mut entries = read_journal(border, &done).await?;
    Ok(done
        .into_iter()
        .map(|(step, reply)| {
            let entry = entries.remove(&reply.record).unwrap_or_default();
            row(step, reply, entry)
        })
        .collect())
}

async fn send(border: &impl Border, step: &Step) -> anyhow::Result<Reply> {
    let certificate = match step.proof {
        Proof::Certificate(name) => Some(name),
        _ => None,
    };
    let stream = border.connect(certificate).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    // Nothing is under way now, so what arrives from here on is this step's.
    border.arrivals();
    let start = Instant::now();
    let (parts, body) = sender.send_request(request(border, step)?).await?.into_parts();
    // A longer answer than expected is an error, not a leak of memory.
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    let latency = start.elapsed();
    driver.abort();
    let record = parts.headers.get(RECORD_HEADER).and_then(|value| value.to_str().ok());
    let record = record.unwrap_or_default().to_owned();
    let (wire, opened) = match step.expect.sealed {
        Sealed::No => (None, None),
        Sealed::ForPeer => (Some(tapped(border, step, &body)), None),
        Sealed::ForJob(_) => (None, Some(border.open_as_job(&body))),
    };
    let arrived = border.arrivals();
    Ok(Reply { status: parts.status, record, latency, body, wire, opened, arrived })
}

fn request(border: &impl Border, step: &Step) -> anyhow::Result<Request<Full<Bytes>>> {
    let mut request = Request::builder()
        .method(step.method)
        // hyper sends the path as it stands, dots and all.
        .uri(step.path)
        .header(header::HOST, border.host())
        .header(header::USER_AGENT, "tidegate-demo");
    for (name, value) in step.headers {
        request = request.header(*name, *value);
    }
    if let Proof::Token(name) = step.proof {
        let token = border.token(name).with_context(|| format!("there is no token `{name}`"))?;
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let body = step.payload.json();
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    Ok(request.body(body.map_or_else(Full::default, |body| Full::from(body.to_string())))?)
}

/// What the wiretap holds, searched for the prompt that was sent and the answer that came back.
fn tapped(border: &impl Border, step: &Step, answer: &[u8]) -> Wire {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let answer = answer.pointer("/choices/0/message/content").and_then(Value::as_str).unwrap_or_default();
    let prompt = match step.payload {
        Payload::Chat { prompt, .. } => prompt,
        Payload::Embed { text } => text,
        Payload::Nothing => "",
    };
    Wire::of(&border.passed(), &[prompt, answer])
}

/// What the journal says of one crossing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Entry {
    decision: Option<Decision>,
    policies: Vec<String>,
    code: Option<String>,
    level: Option<String>,
    protection: Option<String>,
    to: String,
}

impl Entry {
    /// Reads a record that says what was decided; others (outcomes, events) give nothing.
    fn of(record: &Value) -> Option<(String, Self)> {
        let text = |pointer: &str| record.pointer(pointer)?.as_str().map(ToOwned::to_owned);
        let decision = match (text("/kind")?.as_str(), text("/decision").as_deref()) {
            ("decision", Some("allow")) => Decision::Allowed,
            ("decision", Some("deny")) => Decision::Denied,
            ("decision", Some("reject")) | ("refusal", _) => Decision::Refused,
            _ => return None,
        };
        let policies = record.get("policies").and_then(Value::as_array).into_iter().flatten();
        let to = match (text("/resource/id"), text("/destination")) {
            // A model's id begins with its cluster.
            (Some(id), Some(cluster)) if id.split('/').next() != Some(&cluster) => {
                format!("{id} → {cluster}")
            }
            (Some(id), _) => id,
            (None, _) => text("/request/path").or_else(|| text("/path")).unwrap_or_default(),
        };
        let entry = Self {
            decision: Some(decision),
            policies: policies.filter_map(|id| id.as_str().map(ToOwned::to_owned)).collect(),
            code: text("/code"),
            level: text("/label/level"),
            protection: text("/protection"),
            to,
        };
        Some((text("/id")?, entry))
    }
}

/// The entries of all crossings that were made; of several decisions on one crossing the last one stands.
async fn read_journal(
    border: &impl Border,
    done: &[(&Step, Reply)],
) -> anyhow::Result<BTreeMap<String, Entry>> {
    let deadline = Instant::now() + JOURNAL_TIME;
    loop {
        let records = border.records().context("cannot read the journal back")?;
        let entries: BTreeMap<String, Entry> = records.iter().filter_map(Entry::of).collect();
        let complete = done.iter().all(|(_, reply)| entries.contains_key(&reply.record));
        if complete || Instant::now() > deadline {
            return Ok(entries);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn row(step: &'static Step, reply: Reply, entry: Entry) -> Row {
    let problems = problems(step, &reply, &entry);
    Row {
        who: step.who,
        what: step.what,
        to: entry.to,
        decision: entry.decision.map_or("unrecorded", Decision::word).to_owned(),
        policies: entry.policies,
        code: entry.code,
        protection: entry.protection,
        wire: reply.wire,
        status: reply.status.as_u16(),
        // Microseconds are all that a table can show.
        latency_ms: Duration::from_micros(u64::try_from(reply.latency.as_micros()).unwrap_or(u64::MAX))
            .as_secs_f64()
            * 1e3,
        record: reply.record,
        problems,
    }
}

fn problems(step: &Step, reply: &Reply, entry: &Entry) -> Vec<String> {
    let expect = &step.expect;
    let mut problems = Vec::new();
    let status = reply.status.as_u16();
    if status != expect.status {
        problems.push(format!("status is {status}, expected {}", expect.status));
    }
    let Some(decision) = entry.decision else {
        problems.push("the journal has no record of it".to_owned());
        return problems;
    };
    if decision != expect.decision {
        problems.push(format!("it was {}, expected {}", decision.word(), expect.decision.word()));
    }
    let reasons = || entry.policies.iter().chain(&entry.code);
    if !reasons().any(|reason| reason == expect.reason) {
        let got: Vec<&str> = reasons().map(String::as_str).collect();
        problems.push(format!("the reason is `{}`, expected `{}`", got.join(", "), expect.reason));
    }
    if expect.level.is_some() && entry.level.as_deref() != expect.level {
        let got = entry.level.as_deref().unwrap_or("unknown");
        problems.push(format!("the level is {got}, expected {}", expect.level.unwrap_or_default()));
    }
    problems.extend(arrival_problem(step, &reply.arrived));
    problems.extend(seal_problem(step, reply, entry.protection.as_deref()));
    problems
}

/// What is sealed is so in the journal, on the wire, and to everybody but those who may open it.
fn seal_problem(step: &Step, reply: &Reply, protection: Option<&str>) -> Option<String> {
    if step.expect.sealed != Sealed::No && protection != Some("sealed") {
        return Some(format!(
            "it left with protection `{}`, expected `sealed`",
            protection.unwrap_or("unknown")
        ));
    }
    match (step.expect.sealed, &reply.wire, &reply.opened) {
        (Sealed::ForPeer, Some(wire), _) if !wire.passed() => Some("nothing passed the wiretap".to_owned()),
        (Sealed::ForPeer, Some(wire), _) if !wire.found.is_empty() => {
            Some(format!("the wiretap saw `{}`", wire.found.join("`, `")))
        }
        (Sealed::ForJob(text), _, Some(Ok(opened))) if opened == text.as_bytes() && reply.body != text => {
            None
        }
        (Sealed::ForJob(_), _, Some(Err(error))) => Some(format!("the job cannot open it: {error:#}")),
        (Sealed::ForJob(_), _, _) => Some("the job opened something else than lies in the store".to_owned()),
        _ => None,
    }
}

/// What is let through reaches its double exactly once, under the same method and path but for the route's prefix;
/// what is not reaches none.
fn arrival_problem(step: &Step, arrived: &[(&str, Seen)]) -> Option<String> {
    let same = |seen: &Seen| seen.method == step.method && step.path.ends_with(&seen.path);
    match (step.expect.arrives, arrived) {
        (None, []) => return None,
        (Some(double), [(name, seen)]) if double == *name && same(seen) => return None,
        _ => {}
    }
    let list: Vec<String> = arrived
        .iter()
        .map(|(name, seen)| format!("{name} ({} {}, {} bytes)", seen.method, seen.path, seen.bytes))
        .collect();
    let got = if list.is_empty() { "nobody".to_owned() } else { list.join(", ") };
    Some(format!("it reached {got}, expected {}", step.expect.arrives.unwrap_or("nobody")))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::Response;
    use serde_json::json;
    use tokio::net::TcpStream;

    use super::*;
    use crate::demo::double::{Answer, Double, Pieces, text};
    use crate::demo::steps;

    /// A gateway that decides by looking up the step, and that can be made to err.
    struct Fake {
        journal: Arc<Mutex<Vec<Value>>>,
        mistaken: bool,
    }

    impl Answer for Fake {
        fn answer(&self, request: &Request<Bytes>) -> Response<Pieces> {
            let mut journal = self.journal.lock().unwrap();
            let step = steps::all().nth(journal.len()).unwrap();
            assert_eq!(request.uri().path(), step.path);
            assert_eq!(request.body().is_empty(), step.payload.json().is_none());
            let credential = request.headers().get("authorization").map(|value| value.to_str().unwrap());
            match step.proof {
                Proof::Token(name) => assert_eq!(credential, Some(format!("Bearer token-{name}").as_str())),
                _ => assert_eq!(credential, None),
            }
            let id = format!("id-{}", journal.len());
            let (kind, decision) = match step.expect.decision {
                Decision::Allowed => ("decision", "allow"),
                Decision::Denied => ("decision", "deny"),
                Decision::Refused => ("refusal", ""),
            };
            let decision = if self.mistaken { "allow" } else { decision };
            journal.push(json!({
                "v": 1, "kind": kind, "id": id, "decision": decision, "policies": [step.expect.reason],
                "resource": {"type": "Dataset", "id": "trials"}, "destination": "eu",
                "label": {"level": step.expect.level},
                "protection": if step.expect.sealed == Sealed::No { "none" } else { "sealed" },
            }));
            let mut response = text(StatusCode::from_u16(step.expect.status).unwrap(), "text/plain", "x");
            response.headers_mut().insert(RECORD_HEADER, id.parse().unwrap());
            response
        }
    }

    /// A border of that gateway. No double stands behind it, so nothing ever arrives.
    struct Plain {
        double: Double,
        journal: Arc<Mutex<Vec<Value>>>,
        tokens: BTreeMap<&'static str, String>,
    }

    impl Border for Plain {
        fn host(&self) -> String {
            self.double.address().to_string()
        }

        async fn connect(&self, _: Option<&str>) -> anyhow::Result<Box<dyn Stream>> {
            Ok(Box::new(TcpStream::connect(self.double.address()).await?))
        }

        fn token(&self, name: &str) -> Option<&str> {
            self.tokens.get(name).map(String::as_str)
        }

        fn arrivals(&self) -> Vec<(&'static str, Seen)> {
            Vec::new()
        }

        fn passed(&self) -> Passed {
            Passed {
                sent: b"POST / HTTP/1.1\r\n\r\n\x02".to_vec(),
                answered: b"HTTP/1.1 200 OK\r\n\r\n\x02".to_vec(),
            }
        }

        fn open_as_job(&self, _: &[u8]) -> anyhow::Result<Vec<u8>> {
            anyhow::bail!("it has no key")
        }

        fn records(&self) -> anyhow::Result<Vec<Value>> {
            Ok(self.journal.lock().unwrap().clone())
        }
    }

    async fn visit(mistaken: bool) -> Vec<Row> {
        let journal = Arc::new(Mutex::new(Vec::new()));
        let double = Double::start(0, Fake { journal: Arc::clone(&journal), mistaken }).await.unwrap();
        let tokens = ["research", "marketing", "clinical", "agent", "forged", "expired"];
        let tokens = tokens.into_iter().map(|name| (name, format!("token-{name}"))).collect();
        run(&Plain { double, journal, tokens }, steps::all()).await.unwrap()
    }

    #[tokio::test]
    async fn rows_tell_what_the_journal_says() {
        let rows = visit(false).await;
        assert!(rows.len() >= 12);
        for (index, (row, step)) in rows.iter().zip(steps::all()).enumerate() {
            assert_eq!(row.record, format!("id-{index}"));
            assert_eq!(
                (row.decision.as_str(), row.to.as_str()),
                (step.expect.decision.word(), "trials → eu")
            );
            // Only the arrivals are missing, for nothing stands behind this gateway, and nobody there can open anything.
            let unopened = usize::from(matches!(step.expect.sealed, Sealed::ForJob(_)));
            let missing = usize::from(step.expect.arrives.is_some());
            assert_eq!(row.problems.len(), missing + unopened, "{:?}", row.problems);
        }
    }

    #[tokio::test]
    async fn a_wrong_decision_marks_its_row() {
        let rows = visit(true).await;
        let denied = rows.iter().zip(steps::all()).find(|(_, s)| s.expect.decision == Decision::Denied);
        assert_eq!(denied.unwrap().0.problems, ["it was allowed, expected denied"]);
    }

    #[test]
    fn an_arrival_where_none_may_be_is_a_problem() {
        let step = steps::all().find(|step| step.expect.decision == Decision::Denied).unwrap();
        let reply = Reply {
            status: StatusCode::FORBIDDEN,
            record: "id".into(),
            latency: Duration::ZERO,
            body: Bytes::new(),
            wire: None,
            opened: None,
            arrived: vec![("us", Seen { method: "POST".into(), path: "/x".into(), bytes: 9 })],
        };
        let entry = Entry {
            decision: Some(Decision::Denied),
            code: Some(step.expect.reason.into()),
            level: step.expect.level.map(Into::into),
            ..Entry::default()
        };
        assert_eq!(problems(step, &reply, &entry), ["it reached us (POST /x, 9 bytes), expected nobody"]);
        assert!(
            problems(step, &reply, &Entry::default()).contains(&"the journal has no record of it".into())
        );
    }
}
