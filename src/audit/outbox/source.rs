//! Batches of records out of the segments, from a cursor on. Holds one batch and one buffer of 256 KiB, whatever the journal's size.

use std::io;
use std::path::PathBuf;

use super::message::{Message, Shaper};
use crate::audit::reader::{ReadError, Reader};

/// How much one request takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

/// Records that go out together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) messages: Vec<Message>,
    /// Whether there are more than fit.
    pub(super) full: bool,
}

/// Where records come from.
#[derive(Debug)]
pub(super) struct Source {
    journal: PathBuf,
    reader: Option<Reader>,
    shaper: Shaper,
    next: u64,
    missed: u64,
}

impl Source {
    /// Begins with the record of this number, or with the oldest if it is gone.
    pub(super) fn new(journal: PathBuf, next: u64) -> Self {
        Self { journal, reader: None, shaper: Shaper::default(), next, missed: 0 }
    }

    /// Records that were gone before they could be read.
    pub(super) const fn missed(&self) -> u64 {
        self.missed
    }

    /// The next records below `durable`: what a power loss may still take must not be anywhere else.
    ///
    /// # Errors
    /// The journal cannot be read there; a later call tries again.
    pub(super) fn fill(&mut self, bounds: Bounds, durable: u64) -> Result<Batch, ReadError> {
        let filled = self.read(bounds, durable);
        if filled.is_err() {
            self.reader = None;
        }
        filled
    }

    fn read(&mut self, bounds: Bounds, durable: u64) -> Result<Batch, ReadError> {
        let mut batch = Batch::default();
        let mut bytes = 0_usize;
        let from = self.next;
        let mut next = self.next;
        while next < durable {
            if batch.messages.len() >= bounds.records || bytes >= bounds.bytes {
                batch.full = true;
                break;
            }
            let reader = match &mut self.reader {
                Some(reader) => reader,
                closed => closed.insert(Reader::open_at(&self.journal, next)?),
            };
            if reader.read_next()?.is_none() {
                break;
            }
            let Some((stored, log)) = reader.last() else { break };
            if stored.seq < next {
                continue;
            }
            if stored.seq >= durable {
                // Only when somebody else wrote the journal; it is read again later.
                self.reader = None;
                break;
            }
            if batch.messages.is_empty() && stored.seq > from {
                self.missed = self.missed.saturating_add(stored.seq.saturating_sub(from));
            }
            next = stored.seq.saturating_add(1);
            bytes = bytes.saturating_add(stored.payload.len());
            batch.messages.push(self.shaper.shape(&stored, log));
        }
        self.next = next;
        Ok(batch)
    }
}

/// Whether a segment went away under the reader: retention removed it, so reading goes on at the oldest.
pub(super) fn is_gone(error: &ReadError) -> bool {
    matches!(error, ReadError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}
