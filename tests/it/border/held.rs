//! Memory that callers make the gateway hold: one bound on all bodies that are read whole, given back at every end of a request; and
//! streams whose client takes nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::faults_fixture::{Reply, Upstream, http2, two_clusters};
use super::fixture::{Border, configuration};

const HELD: &str = "tidegate_held_bodies_bytes";
const LIMIT: &str = "tidegate_held_bodies_limit_bytes";
/// As small as a route lets it be whose bodies have 4 MiB.
const SMALL_ROOM: &str = "[gate]\nheld_bodies = \"4MiB\"\n";
const MIB: usize = 1 << 20;

/// The body of a request that is sent piece by piece; over when its sender is dropped.
struct Pieces(UnboundedReceiver<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// A question to a model that is not sent whole yet.
struct Asking {
    pieces: UnboundedSender<Bytes>,
    answer: JoinHandle<hyper::Result<http::Response<Incoming>>>,
}

/// An HTTP/2 caller.
struct Caller(SendRequest<Pieces>);

impl Caller {
    async fn of(border: &Border) -> Self {
        let (sender, connection) = http2(border, 64 * 1024).await;
        tokio::spawn(connection);
        Self(sender)
    }

    /// Asks, with the first `bytes` of the body: valid JSON once [`Asking::end`] is called.
    fn ask(&self, bytes: usize) -> Asking {
        let (pieces, receiver) = unbounded_channel();
        let mut first = br#"{"model":"tide-small","messages":[],"x":""#.to_vec();
        first.resize(bytes, b'x');
        pieces.send(first.into()).unwrap();
        let request = http::Request::post("https://localhost/v1/chat/completions")
            .header("content-type", "application/json")
            .body(Pieces(receiver))
            .unwrap();
        let mut sender = self.0.clone();
        let answer = tokio::spawn(async move { sender.send_request(request).await });
        Asking { pieces, answer }
    }
}

impl Asking {
    /// Sends the rest of the body.
    fn end(self) -> JoinHandle<hyper::Result<http::Response<Incoming>>> {
        self.pieces.send(Bytes::from_static(b"\"}")).unwrap();
        self.answer
    }
}

/// That an answer is a 503 for want of room, and that there is a record of it.
async fn refused(border: &Border, answer: http::Response<Incoming>) {
    let (head, body) = answer.into_parts();
    let problem: serde_json::Value =
        serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!((head.status.as_u16(), &problem["code"]), (503, &"held_bodies_full".into()), "{problem}");
    assert_eq!(head.headers["retry-after"], "5");
    let records = border.closed_records(head.headers["tidegate-record"].to_str().unwrap()).await;
    assert_eq!(records.last().unwrap()["code"], "held_bodies_full", "{records:?}");
}

#[tokio::test]
async fn when_the_room_is_spent_the_largest_that_is_not_whole_gets_503() {
    let (eu, us) = (Upstream::start(Reply::ok()).await, Upstream::start(Reply::ok()).await);
    let border = two_clusters(&eu.endpoint(), &us.endpoint(), "", SMALL_ROOM).await;
    assert_eq!(border.metric(LIMIT, &[]).await, 4 << 20);
    let caller = Caller::of(&border).await;

    // A hog gives way to what is smaller, and gets its answer although its body is not whole.
    let hog = caller.ask(3 * MIB);
    border.reads(HELD, &[], 3 << 20).await;
    assert_eq!(border.chat("").await.status(), 200, "a small request beside the hog");
    let smaller = caller.ask(2 * MIB).end();
    refused(&border, hog.answer.await.unwrap().unwrap()).await;
    assert_eq!(smaller.await.unwrap().unwrap().status(), 200);
    border.reads(HELD, &[], 0).await;

    // Whoever would be the largest is refused itself, and the others do not notice.
    let other = caller.ask(2 * MIB);
    border.reads(HELD, &[], 2 << 20).await;
    refused(&border, caller.ask(3 * MIB).answer.await.unwrap().unwrap()).await;
    border.reads(HELD, &[], 2 << 20).await;
    assert_eq!(other.end().await.unwrap().unwrap().status(), 200);
    border.reads(HELD, &[], 0).await;
    border.running.shutdown().await;
}

#[tokio::test]
async fn a_hundred_streams_that_withhold_their_end_share_one_bound() {
    let (eu, us) = (Upstream::start(Reply::ok()).await, Upstream::start(Reply::ok()).await);
    let border = two_clusters(&eu.endpoint(), &us.endpoint(), "", SMALL_ROOM).await;
    let caller = Caller::of(&border).await;
    let mut streams: Vec<Asking> = (0..90).map(|_| caller.ask(MIB)).collect();
    // All but four at most are answered, whoever it is.
    for _ in 0..1000 {
        assert!(border.metric(HELD, &[]).await <= 4 << 20);
        assert_eq!(border.chat("").await.status(), 200, "a small request beside all of them");
        if streams.iter().filter(|stream| !stream.answer.is_finished()).count() <= 4 {
            break;
        }
    }
    let (over, open): (Vec<_>, Vec<_>) = streams.drain(..).partition(|stream| stream.answer.is_finished());
    assert!(over.len() >= 86, "{} were refused", over.len());
    for stream in over {
        assert_eq!(stream.answer.await.unwrap().unwrap().status(), 503);
    }
    drop(open);
    drop(caller);
    border.reads(HELD, &[], 0).await;
    assert_eq!(us.count(), 0, "nothing of them was forwarded");
    border.running.shutdown().await;
}

#[tokio::test]
async fn the_room_is_given_back_however_a_request_ends() {
    let held = Arc::new(Semaphore::new(0));
    let (eu, us) = (
        Upstream::start(Reply::Held(Arc::clone(&held))).await,
        Upstream::start(Reply::Held(Arc::clone(&held))).await,
    );
    let border = two_clusters(&eu.endpoint(), &us.endpoint(), "", "").await;
    let caller = Caller::of(&border).await;
    let waits = ("tidegate_upstream_endpoint_in_flight", ["tidegate_upstream=\"eu\""]);

    // It lasts until the answer begins: another attempt may need the bytes.
    let answered = caller.ask(MIB).end();
    border.reads(waits.0, &waits.1, 1).await;
    border.reads(HELD, &[], (1 << 20) + 2).await;
    held.add_permits(1);
    assert_eq!(answered.await.unwrap().unwrap().status(), 200);
    border.reads(HELD, &[], 0).await;

    // The caller goes away: while the far side works, and before its body is whole.
    let gone = caller.ask(MIB).end();
    border.reads(HELD, &[], (1 << 20) + 2).await;
    border.reads(waits.0, &waits.1, 1).await;
    gone.abort();
    border.reads(HELD, &[], 0).await;
    let gone = caller.ask(MIB);
    border.reads(HELD, &[], 1 << 20).await;
    gone.answer.abort();
    drop(gone.pieces);
    border.reads(HELD, &[], 0).await;

    // What came is no question.
    let broken = caller.ask(MIB);
    drop(broken.pieces);
    assert_eq!(broken.answer.await.unwrap().unwrap().status(), 400);
    border.reads(HELD, &[], 0).await;
    border.running.shutdown().await;
}

#[tokio::test]
async fn the_room_is_kept_for_another_attempt() {
    let held = Arc::new(Semaphore::new(0));
    let (eu, us) =
        (Upstream::start(Reply::status(503)).await, Upstream::start(Reply::Held(Arc::clone(&held))).await);
    let border = two_clusters(&eu.endpoint(), &us.endpoint(), "", "").await;
    let answer = Caller::of(&border).await.ask(MIB).end();
    border.reads("tidegate_upstream_endpoint_in_flight", &["tidegate_upstream=\"us\""], 1).await;
    assert_eq!(eu.count(), 1);
    border.reads(HELD, &[], (1 << 20) + 2).await;
    held.add_permits(1);
    assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    border.reads(HELD, &[], 0).await;
    border.running.shutdown().await;
}

#[tokio::test]
async fn a_body_that_trickles_is_ended() {
    let (eu, us) = (Upstream::start(Reply::ok()).await, Upstream::start(Reply::ok()).await);
    let border = two_clusters(&eu.endpoint(), &us.endpoint(), "", "[gate]\nbody_time = \"400ms\"\n").await;
    let began = Instant::now();
    let (mut reader, mut writer) = tokio::io::split(border.connect().await);
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 1000000\r\n\r\n";
    writer.write_all(head.as_bytes()).await.unwrap();
    // A byte every now and then, for as long as they are taken: `gate.body_idle` alone would wait for days.
    let trickle = tokio::spawn(async move {
        while writer.write_all(b"{").await.is_ok() && writer.flush().await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    let mut bytes = Vec::new();
    while !super::fixture::whole_answer(&bytes) {
        assert_ne!(reader.read_buf(&mut bytes).await.unwrap(), 0, "closed without an answer");
    }
    let answer = super::fixture::Answer { bytes };
    assert_eq!((answer.status(), answer.code().as_str()), (408, "body_too_slow"), "{answer:?}");
    assert!(began.elapsed() >= Duration::from_millis(400) && began.elapsed() < Duration::from_secs(10));
    border.recorded(&answer, "body_too_slow").await;
    border.reads(HELD, &[], 0).await;
    trickle.abort();
    border.running.shutdown().await;
}

#[tokio::test]
async fn a_stream_whose_client_takes_nothing_is_reset_and_frees_its_place() {
    // The gateway's own patience with the answer, `gate.answer_stall`, is a minute here.
    let upstream = Upstream::start(Reply::Endless).await;
    let quick = "max_connections_per_ip = 0\nidle_timeout = \"300ms\"";
    let text = configuration("127.0.0.1:0", &[upstream.endpoint()], "");
    let border = Border::prepared(&text.replacen("max_connections_per_ip = 0", quick, 1), |_| {}).await;
    let (mut sender, connection) = http2::<Empty<Bytes>>(&border, 0).await;
    tokio::spawn(connection);
    let request = http::Request::get("https://localhost/x").body(Empty::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let id = answer.headers()["tidegate-record"].to_str().unwrap().to_owned();
    let error = answer.into_body().frame().await.unwrap().unwrap_err();
    // The gateway reset the stream; its connection goes on.
    assert!(format!("{error:?}").contains("Reset(StreamId(1)"), "{error:?}");
    border.reads("tidegate_upstream_endpoint_in_flight", &["tidegate_upstream=\"status\""], 0).await;
    assert_eq!(border.last_outcome(&id).await["ending"], "client_gone");
    border.running.shutdown().await;
}
