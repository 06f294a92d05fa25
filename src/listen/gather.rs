//! Small pieces of a long answer gather for a moment, so that several leave in one write.
//!
//! A model's events come one by one, and each would be a TLS record and a system call of its own. Before a write that goes on with an answer the
//! connection lets whatever else is ready run first, among it the task that reads from the model; what that brings is written along. No clock is
//! involved: with nothing else to run the write follows at once, and the first bytes of an answer never wait.

/// What is written at once.
const ENOUGH: usize = 8 * 1024;
/// How often a write lets others run, as long as each time something was added.
const ROUNDS: u8 = 4;

/// Decides which writes of one connection wait for a turn.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// The request whose answer was written last, by its number on the connection.
    answered: u64,
    bytes: usize,
    rounds: u8,
}

impl Gather {
    /// Whether a write of so many bytes, answering request number `request`, is to be tried again when others have run.
    pub(super) fn waits(&mut self, request: u64, bytes: usize) -> bool {
        let goes_on = self.answered == request;
        self.answered = request;
        if goes_on && bytes < ENOUGH && bytes > self.bytes && self.rounds < ROUNDS {
            self.bytes = bytes;
            self.rounds += 1;
            return true;
        }
        (self.bytes, self.rounds) = (0, 0);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_waits_while_it_grows_and_not_for_ever() {
        let mut gather = Gather::default();
        assert!(!gather.waits(1, 100), "the first bytes of an answer");
        assert!(gather.waits(1, 100), "the next event");
        assert!(!gather.waits(1, 100), "nothing was added");
        let waited = (1..20).take_while(|count| gather.waits(1, 100 * count)).count();
        assert_eq!(waited, usize::from(ROUNDS));
        assert!(!gather.waits(1, ENOUGH), "as much as a record holds anyway");
        assert!(!gather.waits(2, 100), "another answer");
    }
}
