//! A body that can be taken away while it passes, and how that looks to whoever reads it.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::message::{self, Body, BoxError};

use super::{Entry, Live, held};

/// One direction of an exchange.
#[derive(Debug, Default)]
pub(super) struct Flow(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// None before it came, once it is over, and once it was taken away.
    body: Option<Body>,
    over: bool,
    waker: Option<Waker>,
}

impl Flow {
    fn put(&self, body: Body) {
        held(&self.0).body = Some(body);
    }

    /// Whether the body came to its own end.
    pub(super) fn is_over(&self) -> bool {
        held(&self.0).over
    }

    /// Takes the body away, if there is one, and wakes its reader.
    pub(super) fn cut(&self) {
        let mut state = held(&self.0);
        let (body, waker) = (state.body.take(), state.waker.take());
        drop(state);
        // What watches the body closes the record when it is dropped.
        drop(body);
        waker.into_iter().for_each(Waker::wake);
    }

    /// The next frame; `Err` once the body was taken away.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Polled>, Taken>> {
        let mut state = held(&self.0);
        let Some(body) = &mut state.body else {
            return Poll::Ready(if state.over { Ok(None) } else { Err(Taken) });
        };
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => state.waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        if !matches!(frame, Some(Ok(_))) || body.is_end_stream() {
            state.over = true;
            let whole = state.body.take();
            drop(state);
            drop(whole);
        }
        Poll::Ready(Ok(frame))
    }

    fn is_end_stream(&self) -> bool {
        let state = held(&self.0);
        state.over || state.body.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let state = held(&self.0);
        match &state.body {
            Some(body) => body.size_hint(),
            None if state.over => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}

/// A frame, or how the body broke off by itself.
type Polled = Result<Frame<Bytes>, BoxError>;

/// The body was taken away.
struct Taken;

/// A body that broke off because the exchange is permitted no longer.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the exchange was ended: it is permitted no longer")]
struct CutOff;

/// The body of a request on its way out.
struct Outgoing(Arc<Live>);

/// The request's body, which ends with an error when the exchange is ended: whoever gets it sees that it is not whole.
pub(in super::super) fn request(live: &Arc<Live>, body: Body) -> Body {
    live.request.put(body);
    live.cut_if_ended();
    message::boxed(Outgoing(Arc::clone(live)))
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.request.poll(cx).map(|polled| polled.unwrap_or_else(|Taken| Some(Err(CutOff.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.request.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.request.size_hint()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.0.request.cut();
    }
}

/// The body of an answer on its way back; the exchange is under way as long as it lives.
struct Answer {
    entry: Entry,
    /// Whether it is an event stream to which an event can still be added.
    events: bool,
    told: bool,
}

/// The answer's body. `headers` are those of the answer: an event stream that is ended says so in an event.
pub(in super::super) fn answer(entry: Entry, headers: &HeaderMap, body: Body) -> Body {
    if body.is_end_stream() {
        return body;
    }
    // One with a length has no room for another event, and in an encoded one it would not be understood.
    let events = is_events(headers) && body.size_hint().exact().is_none();
    entry.live.answer.put(body);
    entry.live.cut_if_ended();
    message::boxed(Answer { entry, events, told: false })
}

fn is_events(headers: &HeaderMap) -> bool {
    let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case("text/event-stream") && !headers.contains_key(CONTENT_ENCODING)
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let live = Arc::clone(&self.entry.live);
        let Poll::Ready(polled) = live.answer.poll(cx) else { return Poll::Pending };
        let frame = match polled {
            Ok(frame) => return Poll::Ready(frame),
            Err(Taken) if self.told => None,
            Err(Taken) => match live.verdict().filter(|_| self.events) {
                Some(ended) => Some(Ok(Frame::data(ended.event(live.record)))),
                None => Some(Err(CutOff.into())),
            },
        };
        self.told = true;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.told || self.entry.live.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.entry.live.answer.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.entry.live.answer.cut();
    }
}
