//! All records of one crossing, found by its id or the beginning of one.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use memchr::memmem::Finder;
use serde_json::Value;

use super::filter::IdPrefix;
use super::reader::{ReadError, Reader};
use super::record::{Record, RecordError, Stamp};
use super::subjects::{Opener, Restored};
use super::view::RecordView;
use crate::model::RecordId;

/// Crossings that an ambiguous prefix is told with, at most.
const MAX_FOUND: usize = 10;
/// How much later than its id, or with how much of a clock's step back, the first record of a crossing can be written.
const LEEWAY: SignedDuration = SignedDuration::from_mins(10);

/// One record of a crossing.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its number.
    pub seq: u64,
    /// When, which crossing and attempt, where.
    pub stamp: Stamp<'static>,
    /// What it says.
    pub record: Record,
    /// The same as it stands in the journal.
    pub json: Value,
}

impl Stored {
    /// Puts back what identifies the user, for readers on the gateway's host; the bytes that are proved are others.
    fn restore(&mut self, opener: &mut Opener) {
        if opener.restore(&mut self.json) == Restored::Nothing {
            return;
        }
        let parsed = serde_json::to_vec(&self.json).ok().and_then(|bytes| Record::parse(&bytes).ok());
        if let Some((_, record)) = parsed {
            self.record = record;
        }
    }
}

/// A crossing with its records in order.
#[derive(Debug, Clone)]
pub struct Crossing {
    /// Its id.
    pub id: RecordId,
    /// Its records; at least one.
    pub records: Vec<Stored>,
}

impl Crossing {
    /// The crossing with what identifies its user put back, where the keys are there.
    #[must_use]
    pub fn restored(mut self, opener: &mut Opener) -> Self {
        self.records.iter_mut().for_each(|stored| stored.restore(opener));
        self
    }
}

/// What a search by id found.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    None,
    /// One crossing.
    One(Crossing),
    /// Several ids begin so; some of them.
    Many(Vec<RecordId>),
}

/// A crossing that cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The journal cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record of it is of a kind or version that this program does not know.
    #[error("record {seq} cannot be understood")]
    Record {
        /// Its number.
        seq: u64,
        /// Why not.
        source: RecordError,
    },
}

/// The crossing whose id begins so. Reads the journal from when that id was made; `read` is told the bytes of each record.
///
/// # Errors
/// The journal cannot be read, or a record of the crossing is not understood.
pub fn find(journal: &Path, prefix: &IdPrefix, mut read: impl FnMut(usize)) -> Result<Found, FindError> {
    let needle = format!("\"id\":\"{prefix}");
    let finder = Finder::new(&needle);
    let mut found: BTreeMap<RecordId, Vec<Stored>> = BTreeMap::new();
    let mut reader = Reader::open(journal, earliest(prefix))?;
    while let Some(stored) = reader.read_next()? {
        read(stored.payload.len());
        if finder.find(stored.payload).is_none() {
            continue;
        }
        let id = RecordView::parse(stored.payload).ok().and_then(|view| view.id);
        let Some(id) = id.filter(|id| prefix.admits(*id)) else { continue };
        if found.len() >= MAX_FOUND && !found.contains_key(&id) {
            break;
        }
        let seq = stored.seq;
        let (stamp, record) =
            Record::parse(stored.payload).map_err(|source| FindError::Record { seq, source })?;
        let json = serde_json::from_slice(stored.payload)
            .map_err(|error| FindError::Record { seq, source: error.into() })?;
        found.entry(id).or_default().push(Stored { seq, stamp, record, json });
    }
    Ok(match (found.len(), found.pop_first()) {
        (_, None) => Found::None,
        (1, Some((id, records))) => Found::One(Crossing { id, records }),
        (_, Some((first, _))) => Found::Many(std::iter::once(first).chain(found.into_keys()).collect()),
    })
}

/// The time from which a crossing of this id can be recorded: ids begin with the milliseconds at which they were made
/// (RFC 9562, section 5.7). None if the clock's part is not there to tell anything.
fn earliest(prefix: &IdPrefix) -> Option<Timestamp> {
    let digits: String = prefix.as_str().chars().filter(char::is_ascii_hexdigit).take(12).collect();
    let milliseconds = i64::from_str_radix(&format!("{digits:0<12}"), 16).ok()?;
    Timestamp::from_millisecond(milliseconds).ok()?.checked_sub(LEEWAY).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_from_when_on_it_can_stand_in_the_journal() {
        let from = |text: &str| earliest(&text.parse().unwrap()).map(|time| time.to_string());
        assert_eq!(from("01912f6e-7a3c-7d1e-8b0a-0123456789ab").unwrap(), "2024-08-08T00:30:55.1Z");
        assert_eq!(from("01912f6e").unwrap(), "2024-08-08T00:30:23.808Z");
        assert!(from("0").unwrap().starts_with("1969-12-31"));
        assert_eq!(from("ffffffff-ffff"), None);
    }
}
