//! From one log to the next: the last record of the old one, its last checkpoint, and the first record of the new one, which
//! quotes that checkpoint. In between nothing else is written, so the chain has no gap.

use std::io;

use super::Committer;
use crate::audit::encode::text;
use crate::audit::record::Event;
use crate::audit::tree::log::LogHead;

impl Committer {
    /// Begins the next log if it is due.
    pub(super) fn turn_log(&mut self) {
        if self.writable()
            && self.next_log().is_some()
            && let Err(error) = self.roll()
        {
            self.fail(&error);
        }
    }

    /// The next log, if it is due; a journal without one gets its first.
    pub(super) fn next_log(&self) -> Option<LogHead> {
        let now = self.shared.now();
        let goes_on = self.log.as_ref().is_some_and(|log| !log.has_ended(&self.log_name, now));
        (!goes_on).then(|| LogHead::open(&self.log_name, self.next_seq, now))
    }

    /// Writes the last record of the log.
    pub(super) fn close_log(&mut self) -> io::Result<()> {
        let Some(log) = self.log.as_ref().filter(|_| self.segment.is_some()) else { return Ok(()) };
        let entry = self.shared.own_event(&Event::LogClosed { origin: text(&log.origin) });
        self.stage(entry, self.time());
        let written = self.write();
        if written.is_err() {
            self.buffer.clear();
            self.staged.clear();
        }
        written
    }

    /// Ends the log, all of which is on the disk, and opens the next.
    pub(super) fn open_log(&mut self) -> io::Result<()> {
        let Some(next) = self.next_log() else { return Ok(()) };
        let turned = self.feed.turn(next.clone())?;
        tracing::info!(origin = %next.origin, vkey = %turned.vkey, "a log of the audit journal begins");
        let previous = turned.previous.as_deref().map(text);
        let event = Event::LogOpened { origin: text(&next.origin), vkey: text(&turned.vkey), previous };
        self.opening = Some(self.shared.own_event(&event).payload);
        self.origin = next.origin.as_str().into();
        self.log = Some(next);
        Ok(())
    }
}
