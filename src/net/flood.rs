//! HTTP/2 peers that send frames without end, and the count that ends them.
//!
//! The HTTP library bounds what costs memory. It never counts the frames that it answers or passes over in silence: PING and its answers, SETTINGS,
//! WINDOW_UPDATE, PRIORITY, frames of unknown types, RST_STREAM and GOAWAY from a server, interim answers. One connection could keep a core busy with
//! them for as long as it likes. [`Counted`] sits between the connection and the library, reads the nine bytes before each frame as they pass (RFC 9113
//! section 4.1) and keeps an account of them; it holds no payload and changes no byte. A peer that has spent its account is cut: its next read fails.
//!
//! What a frame costs, and what gives the peer the right to send more, is in [`Account`]. In short: data and new requests are free, everything else is
//! paid for by the streams that are opened and the data that we send, which is what honest peers answer. Besides, anybody may send [`RATE`] frames a second.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Frames that a peer may send at once without any reason. A flood sends as many within 50 ms even to an unoptimised build, so it is cut at once; a browser
/// sends about ten, and a client that cancels all of its 100 streams pays 1,700.
const BURST: i64 = 10_000;
/// Frames a second that a peer may send for ever without any reason: less than 1 % of a core. Keep-alive takes one, and the probes for bandwidth of gRPC
/// one a round trip.
const RATE: u32 = 2_000;
/// The most that an account may hold. What a peer has earned is kept while it is silent, because a reader that stalls answers all at once afterwards: 25,000
/// small frames, more than the buffers of a socket hold.
const SAVINGS: i64 = 50_000;
/// What a new stream earns. A gRPC call, the most talkative use, takes of the server a head and trailers (8), of either side WINDOW_UPDATE for the stream and the
/// connection, PRIORITY_UPDATE, a PING.
const STREAM: i64 = 16;
/// What a header block costs that opens no stream: an answer, an interim answer, trailers. More than others, because it is unpacked and kept until it is read.
const BLOCK: i64 = 4;
/// Bytes of our data that earn one frame, and how many of them one DATA frame earns: some clients send WINDOW_UPDATE for the stream and for the connection with
/// every frame, also with the single words of a model. Below it one could have bytes sent one by one (CVE-2019-9511).
const SMALL: (i64, i64) = (16, 2);
/// Bytes of our data that earn another frame, in frames of any size: some clients send WINDOW_UPDATE each few KiB.
const BULK: i64 = 2 * 1024;
/// Bytes of payload that cost as much as a frame, in frames that are neither data nor header blocks. Honest ones are far below it.
const PAYLOAD: i64 = 256;
/// The same for data on a stream that we have reset: the library throws it away. An honest peer has at most a window of it under way.
const UNWANTED: i64 = 16 * 1024;
/// Streams that we have reset and that are remembered; the library forgets them after a while and treats data on them as an error then.
const RESETS: usize = 64;

const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const HEADER: u8 = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;

/// Why a connection was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer sends http/2 frames without end")]
pub(crate) struct Flood;

/// Which side of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// A connection whose HTTP/2 frames are counted.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    io: S,
    /// None for HTTP/1.
    account: Option<Box<Account>>,
    floods: Arc<AtomicU64>,
    cut: bool,
}

impl<S> Counted<S> {
    /// Counts nothing if there is no `side`: then it is no HTTP/2. `floods` is raised by one when the peer is cut.
    pub(crate) fn new(io: S, side: Option<Side>, floods: Arc<AtomicU64>) -> Self {
        let account = side.map(|side| Box::new(Account::new(side, Instant::now())));
        Self { io, account, floods, cut: false }
    }

    pub(crate) const fn io(&self) -> &S {
        &self.io
    }

    /// Notes what was written: the first `count` bytes of `parts`.
    fn sent<'a>(&mut self, parts: impl IntoIterator<Item = &'a [u8]>, mut count: usize) {
        let Some(account) = &mut self.account else { return };
        for part in parts {
            let part = part.get(..count).unwrap_or(part);
            account.sent(part);
            count -= part.len();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        if !this.cut {
            ready!(Pin::new(&mut this.io).poll_read(cx, out))?;
            let came = out.filled().get(before..).unwrap_or_default();
            let Some(account) = &mut this.account else { return Poll::Ready(Ok(())) };
            if account.received(came, Instant::now).is_ok() {
                return Poll::Ready(Ok(()));
            }
            // A read that fails gives no bytes.
            out.set_filled(before);
            this.cut = true;
            this.floods.fetch_add(1, Ordering::Relaxed);
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Flood)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        this.sent([bytes], count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, parts))?;
        this.sent(parts.iter().map(|part| &**part), count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// What a peer may still send, in frames.
#[derive(Debug)]
struct Account {
    side: Side,
    received: Frames,
    sent: Frames,
    /// The newest stream that a client has opened.
    newest: u32,
    /// Below 0 while we have reset more than it can pay for.
    balance: i64,
    /// When the frames that are free were last added. Looked at only when there is no balance, so that honest peers cost no look at the clock.
    filled: Instant,
    resets: [u32; RESETS],
    next_reset: usize,
}

impl Account {
    const fn new(side: Side, now: Instant) -> Self {
        let server = matches!(side, Side::Server);
        Self {
            side,
            received: Frames::new(server),
            sent: Frames::new(!server),
            newest: 0,
            balance: BURST,
            filled: now,
            resets: [0; RESETS],
            next_reset: 0,
        }
    }

    /// Counts what came. Its verdict does not depend on how the bytes are cut.
    fn received(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Flood> {
        while let Some(frame) = self.received.next(&mut bytes) {
            let length = frame.length();
            let change = match frame.kind {
                DATA if length == 0 => -1,
                DATA if self.resets.contains(&frame.stream) => -1 - length / UNWANTED,
                DATA => 0,
                HEADERS if self.side == Side::Server && self.opens(frame.stream) => STREAM,
                HEADERS => -BLOCK,
                // The library bounds their length.
                CONTINUATION => -1,
                // A stream that came to nothing earns nothing (CVE-2023-44487). A server's resets earn nothing anyway.
                RST_STREAM if self.side == Side::Server => -STREAM - 1,
                _ => -1 - length / PAYLOAD,
            };
            self.add(change);
            if self.balance < 0 && !self.fill(now()) {
                return Err(Flood);
            }
        }
        Ok(())
    }

    /// Counts what we sent.
    fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.sent.next(&mut bytes) {
            match frame.kind {
                DATA => {
                    let (small, most) = SMALL;
                    self.add((frame.length() / small).min(most) + frame.length() / BULK);
                }
                HEADERS if self.side == Side::Client && self.opens(frame.stream) => self.add(STREAM),
                RST_STREAM => {
                    // What a client made us reset or refuse earns nothing (CVE-2025-8671); what we cancel at a server is not its doing.
                    if self.side == Side::Server {
                        self.add(-STREAM - 1);
                    }
                    if let Some(place) = self.resets.get_mut(self.next_reset) {
                        *place = frame.stream;
                    }
                    self.next_reset = (self.next_reset + 1) % RESETS;
                }
                _ => {}
            }
        }
    }

    /// Whether a header block on this stream opens it: streams are opened in rising order (RFC 9113 section 5.1.1).
    const fn opens(&mut self, stream: u32) -> bool {
        let opens = stream > self.newest;
        if opens {
            self.newest = stream;
        }
        opens
    }

    fn add(&mut self, change: i64) {
        self.balance = self.balance.saturating_add(change).min(SAVINGS);
    }

    /// Adds the frames that are free since the last time; says whether that was enough.
    fn fill(&mut self, now: Instant) -> bool {
        let free = now.saturating_duration_since(self.filled).as_millis() * u128::from(RATE) / 1000;
        if free > 0 {
            self.filled = now;
            self.add(i64::try_from(free).unwrap_or(BURST).min(BURST));
        }
        self.balance >= 0
    }
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    length: u32,
    kind: u8,
    stream: u32,
}

impl Frame {
    fn length(self) -> i64 {
        self.length.into()
    }
}

/// Finds the heads of frames in one direction of a connection.
#[derive(Debug)]
struct Frames {
    /// Bytes until the next head: of the preface, then of payloads.
    skip: usize,
    /// What has come of a head, and how many bytes that is.
    head: u128,
    have: u8,
}

impl Frames {
    const fn new(preface: bool) -> Self {
        Self { skip: if preface { PREFACE } else { 0 }, head: 0, have: 0 }
    }

    /// The next head that is whole; takes the bytes that belong before its end. None when all are taken.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            let (first, rest) = bytes.get(skipped..).unwrap_or_default().split_first().unzip();
            *bytes = rest.unwrap_or_default();
            self.head = self.head << 8 | u128::from(*first?);
            self.have += 1;
            if self.have == HEADER {
                self.have = 0;
                let [.., l1, l2, l3, kind, _flags, s1, s2, s3, s4] =
                    std::mem::take(&mut self.head).to_be_bytes();
                let length = u32::from_be_bytes([0, l1, l2, l3]);
                self.skip = usize::try_from(length).unwrap_or(usize::MAX);
                return Some(Frame { length, kind, stream: u32::from_be_bytes([s1 & 0x7f, s2, s3, s4]) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const WINDOW_UPDATE: u8 = 8;
    const PRIORITY_UPDATE: u8 = 16;

    fn frame(kind: u8, stream: u32, length: usize) -> Vec<u8> {
        let size = u32::try_from(length).unwrap().to_be_bytes();
        [&size[1..], &[kind, 0], &stream.to_be_bytes(), &vec![kind; length]].concat()
    }

    /// An account after the prefaces, and the time that it is told.
    struct Played {
        account: Account,
        now: Instant,
    }

    impl Played {
        fn new(side: Side) -> Self {
            let now = Instant::now();
            let mut account = Account::new(side, now);
            let preface = [0; PREFACE];
            match side {
                Side::Server => account.received(&preface, || now).unwrap(),
                Side::Client => account.sent(&preface),
            }
            Self { account, now }
        }

        fn gets(&mut self, kind: u8, stream: u32, length: usize) -> Result<(), Flood> {
            self.account.received(&frame(kind, stream, length), || self.now)
        }

        fn sends(&mut self, kind: u8, stream: u32, length: usize) {
            self.account.sent(&frame(kind, stream, length));
        }

        fn wait(&mut self, time: Duration) {
            self.now += time;
        }

        /// How many times something can be done before the connection is cut, at most 100,000: more than any account holds.
        fn until_cut(&mut self, mut act: impl FnMut(&mut Self, u32) -> Result<(), Flood>) -> u32 {
            (0..100_000).find(|at| act(self, *at).is_err()).unwrap_or(100_000)
        }
    }

    #[test]
    fn frames_without_a_reason_are_cut() {
        let floods = [
            (PING, 0, 8),
            (SETTINGS, 0, 6),
            (WINDOW_UPDATE, 1, 4),
            (WINDOW_UPDATE, 0, 4),
            (2, 1, 5),
            (0xbe, 1, 100),
            (GOAWAY, 0, 8),
            (RST_STREAM, 1, 4),
            (HEADERS, 1, 10),
            (CONTINUATION, 1, 0),
            (DATA, 1, 0),
            (5, 1, 4),
        ];
        for side in [Side::Server, Side::Client] {
            for (kind, stream, length) in floods {
                let mut played = Played::new(side);
                let cut = played.until_cut(|played, _| played.gets(kind, stream, length));
                assert!(cut <= 10_017, "frames of type {kind}: {cut}");
                assert!(cut >= 588, "frames of type {kind}: {cut}");
            }
        }
        let cut = Played::new(Side::Server).until_cut(|played, _| played.gets(0xbe, 0, 16 * 1024));
        assert!(cut < 200, "large frames of an unknown type: {cut}");
    }

    #[test]
    fn savings_are_bounded() {
        let mut played = Played::new(Side::Client);
        for stream in 0..100_000 {
            played.sends(HEADERS, stream * 2 + 1, 10);
        }
        assert_eq!(played.until_cut(|played, _| played.gets(HEADERS, 1, 10)), 12_500);
        // The rest of the frame that was one too many.
        played.account.received(&[0; 10], || played.now).unwrap();
        played.wait(Duration::from_hours(24));
        let cut = played.until_cut(|played, _| played.gets(PING, 0, 8));
        assert!(cut <= 10_000, "{cut}");
    }

    #[test]
    fn requests_that_come_to_nothing_are_cut() {
        let reset = |played: &mut Played, at| {
            played.gets(HEADERS, at * 2 + 1, 10)?;
            played.gets(RST_STREAM, at * 2 + 1, 4)
        };
        assert_eq!(Played::new(Side::Server).until_cut(reset), 10_000);
        let refused = |played: &mut Played, at| {
            played.gets(HEADERS, at * 2 + 1, 10)?;
            played.sends(RST_STREAM, at * 2 + 1, 4);
            Ok(())
        };
        let cut = Played::new(Side::Server).until_cut(refused);
        assert!(cut <= 10_020, "{cut}");
    }

    #[test]
    fn data_that_is_drawn_byte_by_byte_is_cut() {
        let cut = Played::new(Side::Server).until_cut(|played, _| {
            played.sends(DATA, 1, 1);
            played.gets(WINDOW_UPDATE, 1, 4)
        });
        assert_eq!(cut, 10_000);
    }

    #[test]
    fn data_that_nobody_wants_is_cut() {
        let mut played = Played::new(Side::Client);
        for stream in (1..200).step_by(2) {
            played.sends(HEADERS, stream, 10);
            played.sends(RST_STREAM, stream, 4);
        }
        // What was under way when we cancelled all of 100 downloads.
        for _ in 0..16 {
            (1..200).step_by(2).for_each(|stream| played.gets(DATA, stream, 16 * 1024).unwrap());
        }
        let cut = played.until_cut(|played, _| played.gets(DATA, 199, 16 * 1024));
        assert!(cut < 6_000, "{cut}");
    }

    /// Each for what would be 100 streams at full speed, with the clock standing still: nothing but what they earn carries them.
    #[test]
    fn honest_peers_are_never_cut() {
        type Act = fn(&mut Played, u32) -> Result<(), Flood>;
        let honest: [(&str, Side, Act); 7] = [
            ("small requests", Side::Server, |played, at| {
                played.gets(HEADERS, at * 2 + 1, 30)?;
                played.sends(HEADERS, at * 2 + 1, 50);
                played.sends(DATA, at * 2 + 1, 10);
                played.gets(WINDOW_UPDATE, 0, 4)
            }),
            ("a browser with priorities", Side::Server, |played, at| {
                played.gets(PRIORITY_UPDATE, 0, 10)?;
                played.gets(HEADERS, at * 2 + 1, 300)?;
                played.gets(2, at * 2 + 1, 5)
            }),
            ("uploads that are refused before their end", Side::Server, |played, at| {
                played.gets(HEADERS, at * 2 + 1, 30)?;
                played.gets(DATA, at * 2 + 1, 16 * 1024)?;
                played.sends(HEADERS, at * 2 + 1, 50);
                played.sends(DATA, at * 2 + 1, 300);
                played.sends(RST_STREAM, at * 2 + 1, 4);
                Ok(())
            }),
            ("words of a model, WINDOW_UPDATE twice for each", Side::Server, |played, _| {
                played.sends(DATA, 1, 40);
                played.gets(WINDOW_UPDATE, 0, 4)?;
                played.gets(WINDOW_UPDATE, 1, 4)
            }),
            ("bulk, WINDOW_UPDATE twice for each 4 KiB", Side::Server, |played, _| {
                played.sends(DATA, 1, 16 * 1024);
                (0..8).try_for_each(|_| played.gets(WINDOW_UPDATE, 0, 4))
            }),
            ("calls of gRPC", Side::Client, |played, at| {
                played.sends(HEADERS, at * 2 + 1, 50);
                played.sends(DATA, at * 2 + 1, 6);
                played.gets(WINDOW_UPDATE, 0, 4)?;
                played.gets(WINDOW_UPDATE, at * 2 + 1, 4)?;
                played.gets(PING, 0, 8)?;
                played.gets(HEADERS, at * 2 + 1, 20)?;
                played.gets(DATA, at * 2 + 1, 6)?;
                played.gets(HEADERS, at * 2 + 1, 20)
            }),
            ("words from a model, each a byte", Side::Client, |played, _| played.gets(DATA, 1, 1)),
        ];
        for (name, side, act) in honest {
            assert_eq!(Played::new(side).until_cut(act), 100_000, "{name}");
        }
    }

    #[test]
    fn a_reader_that_stalled_may_answer_all_at_once() {
        let mut played = Played::new(Side::Server);
        for _ in 0..20_000 {
            played.sends(DATA, 1, 100);
        }
        for _ in 0..40_000 {
            played.gets(WINDOW_UPDATE, 0, 4).unwrap();
        }
    }

    #[test]
    fn keep_alive_goes_on_for_ever() {
        let mut played = Played::new(Side::Server);
        let cut = played.until_cut(|played, _| {
            played.wait(Duration::from_millis(1));
            played.gets(PING, 0, 8)
        });
        assert_eq!(cut, 100_000);
    }

    #[tokio::test]
    async fn bytes_pass_unchanged_until_the_cut() {
        let floods = Arc::<AtomicU64>::default();
        let (mut peer, io) = duplex(1000);
        let mut counted = Counted::new(io, Some(Side::Client), Arc::clone(&floods));
        let bytes = [frame(DATA, 1, 5000), frame(HEADERS, 1, 300), frame(PING, 0, 8)].concat();
        let expect = bytes.clone();
        let sending = tokio::spawn(async move {
            peer.write_all(&bytes).await.unwrap();
            let ping = frame(PING, 0, 8).repeat(100);
            while peer.write_all(&ping).await.is_ok() {}
        });
        let mut got = vec![0; expect.len()];
        counted.read_exact(&mut got).await.unwrap();
        assert!(got == expect);
        let error = counted.read_to_end(&mut got).await.unwrap_err();
        assert!(error.get_ref().unwrap().is::<Flood>());
        assert!(counted.read_u8().await.is_err(), "it stays cut");
        assert_eq!(floods.load(Ordering::Relaxed), 1);
        drop(counted);
        sending.await.unwrap();
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![4 => 0..10_u8, 1 => any::<u8>()];
        (kind, 0..20_u32, prop_oneof![4 => 0..40_usize, 1 => 0..5000_usize])
            .prop_map(|(kind, stream, length)| frame(kind, stream, length))
    }

    proptest! {
        /// However the bytes are cut, the account stands the same.
        #[test]
        fn cuts_do_not_matter(
            frames in vec(any_frame(), 0..60), cuts in vec(1..700_usize, 1..20), server in any::<bool>(), balance in 0..200_i64,
        ) {
            let side = if server { Side::Server } else { Side::Client };
            let bytes = frames.concat();
            let [mut whole, mut parts] = [Played::new(side), Played::new(side)];
            (whole.account.balance, parts.account.balance) = (balance, balance);
            let expect = whole.account.received(&bytes, || whole.now);
            let (mut rest, mut cuts, mut got) = (&bytes[..], cuts.iter().cycle(), Ok(()));
            while !rest.is_empty() && got.is_ok() {
                let (part, left) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                got = parts.account.received(part, || parts.now);
                rest = left;
            }
            prop_assert_eq!(got, expect);
            prop_assert_eq!(parts.account.balance, whole.account.balance);
        }

        /// What was written in parts, as a vectored write that takes only some of them, counts once.
        #[test]
        fn partial_writes_count_once(frames in vec(any_frame(), 1..30), cut in any::<prop::sample::Index>()) {
            let parts: Vec<&[u8]> = frames.iter().map(|frame| &frame[..]).collect();
            let bytes = frames.concat();
            let counted = || Counted::new((), Some(Side::Server), Arc::default());
            let [mut once, mut twice] = [counted(), counted()];
            once.sent([&bytes[..]], bytes.len());
            let at = cut.index(bytes.len());
            twice.sent(parts, at);
            twice.sent([&bytes[at..]], bytes.len() - at);
            prop_assert_eq!(once.account.unwrap().balance, twice.account.unwrap().balance);
        }

        /// Nothing that a peer sends makes it fail.
        #[test]
        fn any_bytes_are_taken(bytes in vec(any::<u8>(), 0..500), server in any::<bool>()) {
            let mut account = Account::new(if server { Side::Server } else { Side::Client }, Instant::now());
            account.sent(&bytes);
            let _either = account.received(&bytes, Instant::now);
        }
    }
}
