//! The stream between a connection and the HTTP/1 library: it lets pass only what [`Scanner`] found beyond doubt.
//!
//! A refused head never reaches the library. In its place the library reads [`STAND_IN`], a valid request that asks to close: so the answer keeps its
//! place behind those of earlier pipelined requests, and nothing after it is read. The service knows the stand-in by its number ([`Verdict`]), not by
//! its looks, so nobody can send one. A refused body becomes a body error, because its head has already passed.
//! It also owns the time that a head may take, a write may be stuck, and a closing peer may linger.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::gather::Gather;
use super::head::{HeadLimits, Scanner};
use super::refusal::Refusal;
use super::turns::Turns;

/// What the HTTP library reads in place of a refused head.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused.invalid\r\nconnection: close\r\n\r\n";
/// No chunk line and no end of a chunk begins with this byte.
const BROKEN_CHUNK: &[u8] = b"x";
/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;
/// How long a peer may go on sending after our last byte, so that no reset destroys the answer on its way.
const LINGER: Duration = Duration::from_secs(1);
/// How many bytes are read and forgotten in that time.
const LINGER_BYTES: usize = 1024 * 1024;

/// The outcome of the scan, shared with whoever answers.
#[derive(Debug, Default)]
pub(crate) struct Verdict(OnceLock<(Option<u64>, Refusal)>);

impl Verdict {
    /// The refusal, if request number `ordinal` (from 1) on this connection is the stand-in.
    pub(crate) fn of_request(&self, ordinal: u64) -> Option<Refusal> {
        self.0.get().filter(|(stand_in, _)| *stand_in == Some(ordinal)).map(|(_, refusal)| *refusal)
    }

    /// The refusal that broke the body of the last request.
    pub(crate) fn of_body(&self) -> Option<Refusal> {
        self.0.get().filter(|(stand_in, _)| stand_in.is_none()).map(|(_, refusal)| *refusal)
    }
}

/// The times that a [`Guard`] keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuardTimes {
    /// From the first byte of a head to its last; for the first head, from the start of the connection.
    pub(crate) head: Duration,
    /// How long a write may make no progress.
    pub(crate) write: Duration,
}

/// A stream that refuses ambiguous HTTP/1 bytes.
#[derive(Debug)]
pub(crate) struct Guard<S> {
    io: S,
    scanner: Scanner,
    verdict: Arc<Verdict>,
    times: GuardTimes,
    head_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
    linger: Option<Linger>,
    gather: Gather,
    turns: Arc<Turns>,
    /// Nothing more is read: the peer has closed its side, or sent nothing in the time that it had.
    ended: bool,
}

#[derive(Debug)]
struct Linger {
    until: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl<S> Guard<S> {
    pub(crate) fn new(io: S, limits: HeadLimits, times: GuardTimes) -> Self {
        Self {
            io,
            scanner: Scanner::new(limits),
            verdict: Arc::default(),
            times,
            head_timer: Some(Box::pin(sleep(times.head))),
            write_timer: None,
            linger: None,
            gather: Gather::default(),
            turns: Arc::default(),
            ended: false,
        }
    }

    pub(crate) fn verdict(&self) -> Arc<Verdict> {
        Arc::clone(&self.verdict)
    }

    pub(crate) fn turns(&self) -> Arc<Turns> {
        Arc::clone(&self.turns)
    }

    /// Whether a head has begun and is not complete.
    pub(crate) fn mid_head(&self) -> bool {
        self.scanner.mid_head()
    }

    /// Takes back bytes that the library had read and not used; at rest only.
    pub(crate) fn give_back(&mut self, bytes: &[u8]) {
        self.scanner.append(bytes);
    }

    /// Puts what the library shall read in place of the refused bytes, once.
    fn settle(&mut self) {
        let Some(refusal) = self.scanner.refused() else { return };
        if self.verdict.0.get().is_some() {
            return;
        }
        let stand_in = (!self.scanner.in_body()).then(|| self.scanner.heads() + 1);
        // Set before the bytes can be read, so the service finds it.
        if self.verdict.0.set((stand_in, refusal)).is_ok() {
            self.scanner.append(if stand_in.is_some() { STAND_IN } else { BROKEN_CHUNK });
        }
    }

    fn set_head_timer(&mut self) {
        if !self.scanner.mid_head() {
            if self.scanner.heads() > 0 {
                self.head_timer = None;
            }
        } else if self.head_timer.is_none() {
            self.head_timer = Some(Box::pin(sleep_until(Instant::now() + self.times.head)));
        }
    }

    fn head_is_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.head_timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready())
    }

    /// Not ready once or a few times before a small write that goes on with an answer; see [`Gather`].
    fn let_others_run(&mut self, cx: &Context<'_>, bytes: usize) -> Poll<()> {
        if self.write_timer.is_none() && self.gather.waits(self.scanner.heads(), bytes) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Ends a write that has made no progress for too long.
    fn watch_write<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_timer = None;
            return written;
        }
        let limit = self.times.write;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes no bytes")))
    }
}

impl<S: AsyncRead + Unpin> Guard<S> {
    fn read_and_scan(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut raw = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut read = ReadBuf::uninit(&mut raw);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        self.ended = read.filled().is_empty();
        self.scanner.feed(read.filled());
        Poll::Ready(Ok(()))
    }

    /// Reads until there is something for the library: bytes, what stands for a refusal, or the end.
    pub(crate) fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.scanner.ready().is_empty() && self.scanner.refused().is_none() && !self.ended {
            match self.read_and_scan(cx) {
                Poll::Ready(read) => read?,
                Poll::Pending if self.head_is_late(cx) => {
                    if self.scanner.mid_head() {
                        self.scanner.refuse(Refusal::HeadTimeout);
                    } else {
                        self.ended = true;
                    }
                }
                Poll::Pending => return Poll::Pending,
            }
            self.settle();
            self.set_head_timer();
            // A timer that was just set must be polled to wake us; the next read does it, for it ends in Pending.
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let ready = this.scanner.ready();
            if !ready.is_empty() {
                let count = ready.len().min(out.remaining());
                out.put_slice(ready.get(..count).unwrap_or_default());
                this.scanner.consume(count);
                return Poll::Ready(Ok(()));
            }
            if this.scanner.refused().is_some() {
                // INVARIANT: nothing that follows a refusal is ever read by the library. It has closed its side and only writes.
                return Poll::Pending;
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            let room = u64::try_from(out.remaining()).unwrap_or(u64::MAX);
            if this.scanner.unseen().is_some_and(|unseen| room > 0 && room <= unseen) {
                let before = out.filled().len();
                ready!(Pin::new(&mut this.io).poll_read(cx, out))?;
                let count = out.filled().len() - before;
                this.ended = count == 0;
                this.scanner.skipped(u64::try_from(count).unwrap_or(u64::MAX));
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_arrival(cx))?;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.turns.unsettle();
        ready!(this.let_others_run(cx, bytes.len()));
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.watch_write(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.turns.unsettle();
        ready!(this.let_others_run(cx, bytes.iter().map(|piece| piece.len()).sum()));
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bytes);
        this.watch_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        ready!(this.watch_write(cx, flushed))?;
        // The library flushes when it has written all that it has.
        if this.scanner.between_messages() && this.scanner.refused().is_none() {
            this.turns.settle(this.scanner.heads());
        } else {
            this.turns.unsettle();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            let shut = Pin::new(&mut this.io).poll_shutdown(cx);
            ready!(this.watch_write(cx, shut))?;
            if this.ended || (this.scanner.refused().is_none() && this.scanner.between_messages()) {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = this
            .linger
            .get_or_insert_with(|| Linger { until: Box::pin(sleep(LINGER)), bytes_left: LINGER_BYTES });
        while linger.bytes_left > 0 && linger.until.as_mut().poll(cx).is_pending() {
            let mut raw = [const { MaybeUninit::uninit() }; READ_BYTES];
            let mut read = ReadBuf::uninit(&mut raw);
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {
                    linger.bytes_left = linger.bytes_left.saturating_sub(read.filled().len());
                }
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 1024, fields: 10 };

    fn times(head: u64, write: u64) -> GuardTimes {
        GuardTimes { head: Duration::from_millis(head), write: Duration::from_millis(write) }
    }

    #[tokio::test]
    async fn a_large_body_passes_unchanged_in_small_reads() {
        let (mut peer, io) = duplex(777);
        let body: Vec<u8> = (0..100_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut sent = format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        sent.extend(&body);
        sent.extend(b"GET / HTTP/1.1\r\n\r\n");
        let mut guard = Guard::new(io, LIMITS, times(1000, 1000));
        let expect = sent.clone();
        tokio::spawn(async move {
            peer.write_all(&sent).await.unwrap();
        });
        let mut got = Vec::new();
        guard.read_to_end(&mut got).await.unwrap();
        assert!(got == expect);
    }

    #[tokio::test]
    async fn the_stand_in_takes_the_place_of_a_refused_head() {
        let (mut peer, io) = duplex(4096);
        let good = b"GET /first HTTP/1.1\r\n\r\n";
        peer.write_all(good).await.unwrap();
        peer.write_all(b"GET /#x HTTP/1.1\r\n\r\nGET /third HTTP/1.1\r\n\r\n").await.unwrap();
        let mut guard = Guard::new(io, LIMITS, times(1000, 1000));
        let verdict = guard.verdict();
        let mut got = vec![0; good.len() + STAND_IN.len()];
        guard.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [&good[..], STAND_IN].concat());
        assert_eq!(verdict.of_request(1), None);
        assert_eq!(verdict.of_request(2), Some(Refusal::Fragment));
        let more = tokio::time::timeout(Duration::from_millis(20), guard.read_u8()).await;
        assert!(more.is_err(), "nothing follows a refusal");
    }

    #[tokio::test]
    async fn a_late_head_is_refused_and_an_idle_peer_is_let_go() {
        let (mut peer, io) = duplex(4096);
        peer.write_all(b"GET / HT").await.unwrap();
        let mut guard = Guard::new(io, LIMITS, times(10, 1000));
        let mut got = vec![0; STAND_IN.len()];
        guard.read_exact(&mut got).await.unwrap();
        assert_eq!(guard.verdict().of_request(1), Some(Refusal::HeadTimeout));

        let (_peer, io) = duplex(4096);
        let mut guard = Guard::new(io, LIMITS, times(10, 1000));
        assert_eq!(guard.read(&mut [0; 10]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_stuck_write_ends() {
        let (_peer, io) = duplex(16);
        let mut guard = Guard::new(io, LIMITS, times(1000, 10));
        let error = guard.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
