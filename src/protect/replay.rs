//! The messages that were opened, remembered until nobody could open them any more.
//!
//! In memory and of this process: a message that was captured before a restart can be sent once more within its remaining life (at most
//! [`super::MAX_AHEAD_SECONDS`]), and so to another replica. Its answer is sealed, so whoever sends it learns nothing from it.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::seal::MessageId;

/// The most messages that are remembered at once: about 100 MB, and 6,600 requests a second at our own messages' life.
pub const MAX_REMEMBERED: usize = 1_000_000;

/// Why a message is not opened though it is genuine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// It was opened before.
    #[error("the sealed message was opened before")]
    Seen,
    /// There is no place to remember it, so it might be opened twice.
    #[error("too many sealed messages are remembered at the moment")]
    Full,
}

/// The memory.
pub struct Replay {
    most: usize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    ids: HashSet<MessageId>,
    /// Unix seconds.
    by_expiry: BTreeSet<(i64, MessageId)>,
}

impl Replay {
    /// A memory of at most `most` messages.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, seen: Mutex::default() }
    }

    /// Remembers a message until `expires`, in Unix seconds as `now`. What has expired makes room.
    ///
    /// # Errors
    /// It is remembered already, or the memory is full.
    pub fn remember(&self, id: MessageId, expires: i64, now: i64) -> Result<(), ReplayError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(&(at, old)) = seen.by_expiry.first().filter(|(at, _)| *at <= now) {
            seen.by_expiry.remove(&(at, old));
            seen.ids.remove(&old);
        }
        if seen.ids.contains(&id) {
            return Err(ReplayError::Seen);
        }
        if seen.ids.len() >= self.most {
            return Err(ReplayError::Full);
        }
        seen.ids.insert(id);
        seen.by_expiry.insert((expires, id));
        Ok(())
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").field("most", &self.most).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_until_it_expires() {
        let replay = Replay::new(2);
        let (a, b, c) =
            (MessageId::random().unwrap(), MessageId::random().unwrap(), MessageId::random().unwrap());
        assert_eq!(replay.remember(a, 10, 0), Ok(()));
        assert_eq!(replay.remember(a, 10, 9), Err(ReplayError::Seen));
        assert_eq!(replay.remember(b, 20, 9), Ok(()));
        assert_eq!(replay.remember(c, 20, 9), Err(ReplayError::Full));
        assert_eq!(replay.remember(b, 20, 9), Err(ReplayError::Seen));
        // The first has expired: nobody opens it any more, so it need not be remembered.
        assert_eq!(replay.remember(c, 20, 10), Ok(()));
        assert_eq!(replay.remember(b, 20, 10), Err(ReplayError::Seen));
    }
}
