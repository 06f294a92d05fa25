//! Bodies that are read whole, and the one bound on all of them together.
//!
//! What is to be inspected must be in memory, and stays there until the far side took it. Room is taken as bytes come, not by a declared
//! length, which costs its sender nothing; and nobody waits for room while holding some, for then all could wait for each other and
//! whoever trickles would win. When the room is spent, whoever would hold most gives way: the body that grows, or the largest of those
//! that have not come whole. So withheld megabytes cost their own sender the place, small requests are served beside them, and a body
//! that came whole is never taken back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::body::{Body, BodyFault, BodyTooLarge, FIRST_RESERVE, ReadBodyError};
use super::gate::GateSettings;

/// The room for bodies that are read whole. Each of its places is given back when the last copy of the bytes is dropped.
#[derive(Debug)]
pub struct HeldBodies {
    within: Duration,
    room: Arc<Mutex<Room>>,
}

/// A body was not read whole.
#[derive(Debug, thiserror::Error)]
pub enum HoldBodyError {
    /// It is larger than it may be, or did not come as it should.
    #[error(transparent)]
    Read(#[from] ReadBodyError),
    /// It did not come in time.
    #[error("the body did not come whole within {} s", within.as_secs_f64())]
    TooSlow {
        /// How long it was waited for.
        within: Duration,
    },
    /// There was no room for it beside others that hold less.
    #[error("the gateway holds as many bytes of bodies as it may")]
    NoRoom,
}

impl HoldBodyError {
    /// The status that answers it; that of a broken connection is nobody's.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Read(ReadBodyError::Fault(fault)) => fault.status(),
            Self::Read(ReadBodyError::Broken(_)) => StatusCode::BAD_REQUEST,
            Self::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read(ReadBodyError::Fault(fault)) => fault.code(),
            Self::Read(ReadBodyError::Broken(_)) => "body_broken",
            Self::TooSlow { .. } => "body_too_slow",
            Self::NoRoom => "held_bodies_full",
        }
    }
}

/// Who holds how much.
#[derive(Debug)]
struct Room {
    most: u64,
    used: u64,
    next: u64,
    /// Bodies that have not come whole, the largest last.
    arriving: BTreeMap<Key, Arc<Arriving>>,
}

/// How many bytes a body holds, and which one it is.
type Key = (u64, u64);

/// A body on its way in.
#[derive(Debug, Default)]
struct Arriving {
    /// What came; none once it was taken away.
    bytes: Mutex<Option<Vec<u8>>>,
    gave_way: Notify,
}

impl Arriving {
    /// Frees its bytes here and now, whenever its task gets to hear of it.
    fn give_way(&self) {
        drop(locked(&self.bytes).take());
        self.gave_way.notify_one();
    }
}

impl Room {
    /// Makes room for `more` bytes of a body; what gave way for it, if something did.
    fn grow(&mut self, key: Key, more: u64) -> Result<(Key, Option<Arc<Arriving>>), HoldBodyError> {
        let (size, number) = (key.0.saturating_add(more), key.1);
        let arriving = self.arriving.remove(&key).ok_or(HoldBodyError::NoRoom)?;
        let mut victim = None;
        if self.used.saturating_add(more) > self.most {
            // One is enough: it holds more than this one asks for.
            match self.arriving.last_entry().filter(|largest| largest.key().0 > size) {
                Some(largest) => {
                    self.used = self.used.saturating_sub(largest.key().0);
                    victim = Some(largest.remove());
                }
                None => {
                    self.arriving.insert(key, arriving);
                    return Err(HoldBodyError::NoRoom);
                }
            }
        }
        self.used = self.used.saturating_add(more);
        self.arriving.insert((size, number), arriving);
        Ok(((size, number), victim))
    }
}

/// A body's part of the room, given back when dropped.
#[derive(Debug)]
struct Place {
    room: Arc<Mutex<Room>>,
    key: Key,
    whole: bool,
}

impl Place {
    fn new(room: &Arc<Mutex<Room>>, arriving: Arc<Arriving>) -> Self {
        let mut state = locked(room);
        let key = (0, state.next);
        state.next = state.next.wrapping_add(1);
        state.arriving.insert(key, arriving);
        drop(state);
        Self { room: Arc::clone(room), key, whole: false }
    }

    fn grow(&mut self, more: usize) -> Result<(), HoldBodyError> {
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        let grown = locked(&self.room).grow(self.key, more);
        let (key, victim) = grown?;
        self.key = key;
        if let Some(victim) = victim {
            victim.give_way();
        }
        Ok(())
    }

    /// It came whole: it is not taken back any more.
    fn keep(&mut self) -> Result<(), HoldBodyError> {
        locked(&self.room).arriving.remove(&self.key).ok_or(HoldBodyError::NoRoom)?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut room = locked(&self.room);
        // One that gave way holds nothing any more.
        if self.whole || room.arriving.remove(&self.key).is_some() {
            room.used = room.used.saturating_sub(self.key.0);
        }
    }
}

/// Bytes with their place.
struct Held {
    bytes: Bytes,
    _place: Place,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HeldBodies {
    /// Room for `held_bodies` bytes, each body for `body_time`.
    #[must_use]
    pub fn new(settings: &GateSettings) -> Self {
        let room = Room { most: settings.held_bodies.get(), used: 0, next: 0, arriving: BTreeMap::new() };
        Self { within: settings.body_time.get(), room: Arc::new(Mutex::new(room)) }
    }

    /// Bytes that are held now.
    #[must_use]
    pub fn used(&self) -> u64 {
        locked(&self.room).used
    }

    /// Bytes that may be held.
    #[must_use]
    pub fn most(&self) -> u64 {
        locked(&self.room).most
    }

    /// Reads a whole body of at most `max` bytes. Trailers are dropped. A body that comes in one piece is not copied.
    ///
    /// # Errors
    /// The body is larger, idle, malformed, broken off or too slow, or there is no room for it.
    pub async fn collect(&self, body: Body, max: u64) -> Result<Bytes, HoldBodyError> {
        let arriving = Arc::<Arriving>::default();
        *locked(&arriving.bytes) = Some(Vec::new());
        let place = Place::new(&self.room, Arc::clone(&arriving));
        tokio::select! {
            biased;
            () = arriving.gave_way.notified() => Err(HoldBodyError::NoRoom),
            read = timeout(self.within, read(body, max, place, &arriving)) => {
                read.unwrap_or(Err(HoldBodyError::TooSlow { within: self.within }))
            }
        }
    }
}

async fn read(
    mut body: Body,
    max: u64,
    mut place: Place,
    arriving: &Arriving,
) -> Result<Bytes, HoldBodyError> {
    let too_large = || ReadBodyError::Fault(BodyFault::TooLarge(BodyTooLarge { limit: max }));
    if body.size_hint().lower() > max {
        return Err(too_large().into());
    }
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ReadBodyError::from)?.into_data() else { continue };
        if place.key.0.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX)) > max {
            return Err(too_large().into());
        }
        place.grow(data.len())?;
        let mut held = locked(&arriving.bytes);
        let bytes = held.as_mut().ok_or(HoldBodyError::NoRoom)?;
        if bytes.is_empty() && body.is_end_stream() {
            drop(held);
            place.keep()?;
            return Ok(Bytes::from_owner(Held { bytes: data, _place: place }));
        }
        if bytes.is_empty() {
            let left = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
            bytes.reserve(data.len().saturating_add(left.min(FIRST_RESERVE)));
        }
        bytes.extend_from_slice(&data);
    }
    place.keep()?;
    let bytes = locked(&arriving.bytes).take().ok_or(HoldBodyError::NoRoom)?;
    Ok(Bytes::from_owner(Held { bytes: bytes.into(), _place: place }))
}

/// Nothing is left half done under these locks, so one that a panic poisoned is as good as any.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
    use tokio::task::JoinHandle;

    use super::super::body::{boxed, full};
    use super::*;
    use crate::model;

    fn room(most: u64, millis: u64) -> Arc<HeldBodies> {
        let settings = GateSettings {
            held_bodies: model::ByteSize::bytes(most),
            body_time: model::Duration::millis(millis),
            ..GateSettings::default()
        };
        Arc::new(HeldBodies::new(&settings))
    }

    /// A body that is being read, and the way to send more of it; it ends when the sender is dropped.
    struct Sent {
        sender: UnboundedSender<usize>,
        read: JoinHandle<Result<Bytes, HoldBodyError>>,
    }

    /// Pieces of so many bytes.
    struct Pieces(UnboundedReceiver<usize>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let piece = |length| Ok(Frame::data(vec![b'x'; length].into()));
            self.0.poll_recv(cx).map(|length| length.map(piece))
        }
    }

    fn sent(room: &Arc<HeldBodies>) -> Sent {
        let (sender, receiver) = unbounded_channel();
        let (room, body) = (Arc::clone(room), boxed(Pieces(receiver)));
        let read = tokio::spawn(async move { room.collect(body, 1000).await });
        Sent { sender, read }
    }

    impl Sent {
        async fn whole(self) -> Result<Bytes, HoldBodyError> {
            drop(self.sender);
            self.read.await.unwrap()
        }
    }

    async fn holds(room: &HeldBodies, used: u64) {
        timeout(Duration::from_secs(5), async {
            while room.used() != used {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{} and not {used}", room.used()));
    }

    #[tokio::test]
    async fn a_place_lasts_as_long_as_the_last_copy_of_the_bytes() {
        let room = room(100, 5000);
        for body in [sent(&room), sent(&room)] {
            body.sender.send(30).unwrap();
            body.sender.send(12).unwrap();
            let bytes = body.whole().await.unwrap();
            assert_eq!((bytes.len(), room.used()), (42, 42));
            let part = bytes.slice(3..4);
            drop(bytes);
            assert_eq!(room.used(), 42);
            drop(part);
            assert_eq!(room.used(), 0);
        }
        let bytes = room.collect(full("in one piece"), 12).await.unwrap();
        assert_eq!((&*bytes, room.used()), (&b"in one piece"[..], 12));
        drop(bytes);
        let error = room.collect(full("in one piece"), 11).await.unwrap_err();
        assert_eq!((error.code(), room.used()), ("body_too_large", 0));
        assert!(room.collect(super::super::empty(), 0).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_largest_that_has_not_come_whole_gives_way() {
        let room = room(100, 5000);
        let (large, small) = (sent(&room), sent(&room));
        large.sender.send(60).unwrap();
        holds(&room, 60).await;
        small.sender.send(40).unwrap();
        holds(&room, 100).await;
        // Not for one that would hold as much.
        let equal = sent(&room);
        equal.sender.send(60).unwrap();
        assert_eq!(equal.whole().await.unwrap_err().code(), "held_bodies_full");
        assert_eq!(room.used(), 100);
        small.sender.send(1).unwrap();
        holds(&room, 41).await;
        assert_eq!(large.read.await.unwrap().unwrap_err().code(), "held_bodies_full");
        let whole = small.whole().await.unwrap();
        assert_eq!((whole.len(), room.used()), (41, 41));
    }

    #[tokio::test]
    async fn what_came_whole_is_never_taken_back() {
        let room = room(100, 5000);
        let large = sent(&room);
        large.sender.send(100).unwrap();
        let large = large.whole().await.unwrap();
        let small = sent(&room);
        small.sender.send(1).unwrap();
        assert_eq!(small.whole().await.unwrap_err().code(), "held_bodies_full");
        assert_eq!((large.len(), room.used()), (100, 100));
        drop(large);
        assert_eq!(room.used(), 0);
    }

    #[tokio::test]
    async fn who_trickles_is_ended_and_who_goes_away_holds_nothing() {
        let room = room(100, 50);
        let (trickle, gone) = (sent(&room), sent(&room));
        trickle.sender.send(10).unwrap();
        gone.sender.send(10).unwrap();
        holds(&room, 20).await;
        gone.read.abort();
        holds(&room, 10).await;
        assert_eq!(trickle.read.await.unwrap().unwrap_err().code(), "body_too_slow");
        assert_eq!(room.used(), 0);
    }

    /// Whatever happens in whatever order, the books balance.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_at_once_leave_nothing_behind() {
        let room = room(2000, 5000);
        let bodies: Vec<Sent> = (0..64).map(|_| sent(&room)).collect();
        for round in 0..10 {
            for (number, body) in bodies.iter().enumerate() {
                // Refused ones hear no more.
                let _ = body.sender.send((number * 7 + round) % 50);
            }
            tokio::task::yield_now().await;
            assert!(room.used() <= 2000, "{}", room.used());
        }
        let mut whole = Vec::new();
        for body in bodies {
            whole.extend(body.whole().await);
        }
        let held: usize = whole.iter().map(Bytes::len).sum();
        assert!(held > 0 && room.used() == u64::try_from(held).unwrap(), "{held} and {}", room.used());
        drop(whole);
        assert_eq!(room.used(), 0);
    }
}
