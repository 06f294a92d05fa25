//! An answer's body that is cut when its client leaves it lying.
//!
//! Whoever serves a body asks for more of it only when the client has taken what came before, so a client that reads slowly, or never opens
//! its HTTP/2 window, would hold the far side's connection for as long as it likes. The body itself cannot notice: nobody polls it. Here a
//! task of its own does.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::observe::{Observed, Observer};
use super::{Body, BoxError};

/// Bytes that buy a second: a client that is slower than that for good is cut. A 2G telephone is quicker.
const BYTES_A_SECOND: u64 = 1024;

/// The client took nothing of an answer, or too little, for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client left the answer lying for {} s", limit.as_secs_f64())]
pub struct ClientStalled {
    /// The configured patience.
    pub limit: Duration,
}

/// A watched body that lets go of its source, and tells its observer, when the client does not take it.
///
/// The client may leave a frame lying for `limit`, and for one second more for each KiB of it, at most twice `limit` in all.
/// The time adds up over frames until the client has taken all that there is.
#[derive(Debug)]
pub struct Paced<O: Observer> {
    state: Arc<Mutex<State<O>>>,
    limit: Duration,
    /// Started with the first frame that is not the last.
    watch: Option<AbortHandle>,
}

#[derive(Debug)]
struct State<O> {
    /// None once it was cut.
    body: Option<Observed<O>>,
    /// How long the client may still leave lying what it was offered.
    credit: Duration,
    /// When it was offered a frame and has not asked for the next yet.
    offered: Option<Instant>,
}

fn lock<O>(state: &Mutex<State<O>>) -> MutexGuard<'_, State<O>> {
    // Poisoned means that the body panicked; it is dropped with the connection's task.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<O: Observer> Paced<O> {
    /// Bounds how long the client may leave `inner` lying. A body that has more than one frame needs a tokio runtime.
    pub fn new(inner: Body, observer: O, limit: Duration) -> Self {
        let state = State { body: Some(Observed::new(inner, observer)), credit: limit, offered: None };
        Self { state: Arc::new(Mutex::new(state)), limit, watch: None }
    }
}

impl<O> State<O> {
    /// The client asks for more: the time since it was offered something is its own.
    fn asked(&mut self) {
        if let Some(offered) = self.offered.take() {
            self.credit = self.credit.saturating_sub(offered.elapsed());
        }
    }

    /// A frame of `bytes` is handed out, and others follow.
    fn offer(&mut self, bytes: usize, limit: Duration) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let earned = Duration::from_millis(bytes.saturating_mul(1000) / BYTES_A_SECOND);
        self.credit = self.credit.min(limit).saturating_add(earned.min(limit));
        self.offered = Some(Instant::now());
    }
}

/// Cuts the body when the client's time is up.
async fn watch<O: Observer>(state: Weak<Mutex<State<O>>>, limit: Duration) {
    while let Some(shared) = state.upgrade() {
        let wake = {
            let mut state = lock(&shared);
            let now = Instant::now();
            match state.offered.map(|offered| offered + state.credit) {
                Some(end) if end <= now => Err(state.body.take()),
                Some(end) => Ok(end),
                // The client waits for us. Should it stop to, then it has at least `limit` from then on.
                None => Ok(now + limit),
            }
        };
        drop(shared);
        match wake {
            Ok(end) => sleep_until(end).await,
            Err(body) => {
                if let Some(body) = body {
                    body.cut(&ClientStalled { limit }.into());
                }
                return;
            }
        }
    }
}

impl<O: Observer> HttpBody for Paced<O> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut state = lock(&this.state);
        state.asked();
        let Some(body) = &mut state.body else {
            return Poll::Ready(Some(Err(ClientStalled { limit: this.limit }.into())));
        };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) if !body.is_end_stream() => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                state.offer(bytes, this.limit);
                if this.watch.is_none() {
                    let watch = watch(Arc::downgrade(&this.state), this.limit);
                    this.watch = Some(tokio::spawn(watch).abort_handle());
                }
            }
            Poll::Ready(_) => {}
            // It has taken all that there is.
            Poll::Pending => state.credit = this.limit,
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.state).body.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.state).body.as_ref().map_or_else(SizeHint::new, HttpBody::size_hint)
    }
}

impl<O: Observer> Drop for Paced<O> {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
    use tokio::time::{sleep, timeout};

    use super::*;

    struct Teller(UnboundedSender<String>);

    impl Observer for Teller {
        fn passed(&mut self, _: &Bytes) {}
        fn ended(&mut self) {
            self.0.send("ended".into()).unwrap();
        }
        fn failed(&mut self, error: &BoxError) {
            self.0.send(error.to_string()).unwrap();
        }
    }

    /// Pieces of so many bytes that are there at once; after `count` of them it waits for ever.
    struct Pieces {
        bytes: usize,
        count: u32,
    }

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            if self.count == 0 {
                return Poll::Pending;
            }
            self.count -= 1;
            Poll::Ready(Some(Ok(Frame::data(vec![0; self.bytes].into()))))
        }
    }

    fn paced(bytes: usize, count: u32, millis: u64) -> (Paced<Teller>, UnboundedReceiver<String>) {
        let (teller, told) = unbounded_channel();
        let inner = super::super::boxed(Pieces { bytes, count });
        (Paced::new(inner, Teller(teller), Duration::from_millis(millis)), told)
    }

    #[tokio::test]
    async fn what_nobody_takes_is_cut_though_nobody_polls() {
        let (mut body, mut told) = paced(51, 5, 100);
        assert!(body.frame().await.unwrap().is_ok());
        let began = Instant::now();
        assert_eq!(told.recv().await.unwrap(), "the client left the answer lying for 0.1 s");
        assert!(began.elapsed() >= Duration::from_millis(145), "100 ms, and 50 for 51 bytes");
        assert!(body.frame().await.unwrap().unwrap_err().is::<ClientStalled>());
    }

    #[tokio::test]
    async fn a_trickle_is_cut_though_each_wait_is_short() {
        // Each piece buys 50 ms and is taken after 150.
        let (mut body, mut told) = paced(51, 1000, 400);
        let mut taken = 0;
        while told.try_recv().is_err() {
            assert!(body.frame().await.unwrap().is_ok() && taken < 10);
            taken += 1;
            sleep(Duration::from_millis(150)).await;
        }
        assert!(body.frame().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_client_that_waits_for_us_is_never_cut() {
        let (mut body, mut told) = paced(4096, 1, 100);
        assert!(body.frame().await.unwrap().is_ok());
        assert!(timeout(Duration::from_millis(500), body.frame()).await.is_err());
        assert!(told.try_recv().is_err());
    }
}
