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
            // What was read ahead last time ended in zeros; the record has come since, for it is durable. The second look is fresh.
            if reader.read_next()?.is_none() && reader.read_next()?.is_none() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::Event;
    use crate::audit::{Audit, Instance, Settings};
    use crate::model::ByteSize;

    fn open(directory: &std::path::Path) -> Audit {
        let settings = Settings {
            directory: directory.to_owned(),
            segment_size: ByteSize::mib(1),
            queue: 1024,
            ..Settings::default()
        };
        Audit::open(&settings, Instance { name: "border-1".into(), version: "0" }).unwrap()
    }

    fn until(audit: &Audit, count: u64) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while audit.durable() < count {
            assert!(std::time::Instant::now() < end, "{} of {count}", audit.durable());
            std::thread::yield_now();
        }
    }

    fn event(audit: &Audit, bytes: usize) {
        let problems = vec!["x".repeat(bytes).into()];
        audit.event(&Event::Reload {
            actor: "file".into(),
            old: None,
            new: None,
            files: Vec::new(),
            problems,
        });
    }

    #[tokio::test]
    async fn each_durable_record_is_read_once_and_at_once_across_segments() {
        let dir = tempfile::tempdir().unwrap();
        let audit = open(dir.path());
        let bounds = Bounds { records: 7, bytes: 64 << 10 };
        let mut source = Source::new(dir.path().to_owned(), 0);
        let (mut seen, mut logs) = (0, std::collections::BTreeSet::new());
        for round in 0..40_u64 {
            for _ in 0..3 {
                event(&audit, 20_000);
            }
            // The record that opens the log and the start are the first two.
            let count = 2 + (round + 1) * 3;
            until(&audit, count);
            loop {
                let batch = source.fill(bounds, count).unwrap();
                assert!(batch.messages.len() <= bounds.records);
                for message in &batch.messages {
                    assert_eq!(message.seq, seen);
                    seen += 1;
                    let log = message.log.attributes.iter().find(|a| a.key == "tidegate.log").unwrap();
                    logs.insert(format!("{:?}", log.value));
                }
                if batch.messages.is_empty() {
                    break;
                }
            }
            assert_eq!(seen, count, "what was read ahead hides what has come since");
        }
        assert_eq!((logs.len(), source.missed()), (1, 0));
        // From the middle, and with the beginning gone.
        let mut later = Source::new(dir.path().to_owned(), 50);
        assert_eq!(later.fill(bounds, seen).unwrap().messages[0].seq, 50);
        let segments = crate::audit::segment::list(dir.path()).unwrap();
        assert!(segments.len() > 2);
        std::fs::remove_file(&segments[0].path).unwrap();
        let mut late = Source::new(dir.path().to_owned(), 1);
        assert_eq!(late.fill(bounds, seen).unwrap().messages[0].seq, segments[1].first);
        assert_eq!(late.missed(), segments[1].first - 1);
        audit.close().await;
    }
}
