//! Reads on from the last record that the index knows.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::Watch;
use super::schema::SEPARATOR;
use crate::audit::filter::Decided;
use crate::audit::reader::{Place, ReadError, Reader};
use crate::audit::subjects::Opener;
use crate::audit::view::{RecordView, Text};
use crate::model::RecordId;

/// Records between two commits.
const BATCH: usize = 100_000;
/// Words, and decisions that wait for their outcome, that are remembered; what is forgotten is looked up.
const REMEMBERED: usize = 200_000;

/// Why reading on ended early.
#[derive(Debug)]
pub(super) enum FillError {
    Read(ReadError),
    Database(rusqlite::Error),
}

impl From<ReadError> for FillError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<rusqlite::Error> for FillError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

/// How far the index is.
#[derive(Debug, Clone, Copy)]
struct State {
    oldest: u64,
    next: Place,
    last: Place,
    crc: u32,
}

fn state(connection: &Connection) -> rusqlite::Result<Option<State>> {
    let sql = "SELECT oldest, segment, offset, seq, last_segment, last_offset, last_seq, last_crc FROM state";
    let state = connection.query_row(sql, [], |row| {
        let place = |at: usize| {
            Ok::<_, rusqlite::Error>(Place {
                segment: row.get(at)?,
                offset: row.get(at + 1)?,
                seq: row.get(at + 2)?,
            })
        };
        Ok(State { oldest: row.get(0)?, next: place(1)?, last: place(4)?, crc: row.get(7)? })
    });
    state.optional()
}

/// Whether the record that was read last is still the same, and the next one can be found.
pub(super) fn fits(connection: &Connection, journal: &Path) -> rusqlite::Result<bool> {
    let Some(state) = state(connection)? else { return Ok(true) };
    let same = |place: Place| {
        let mut reader = Reader::resume(journal, place).ok()?;
        let stored = reader.read_next().ok()??;
        (stored.seq == place.seq).then(|| crc32c::crc32c(stored.payload))
    };
    Ok(same(state.last) == Some(state.crc) && Reader::resume(journal, state.next).is_ok())
}

/// Takes all records that the index does not know yet.
pub(super) fn read_on(
    connection: &mut Connection,
    journal: &Path,
    watch: &mut impl Watch,
) -> Result<(), FillError> {
    let known = state(connection)?;
    let oldest = Reader::oldest(journal)?;
    let mut reader = match known {
        Some(state) => Reader::resume(journal, state.next)?,
        None => Reader::open(journal, None)?,
    };
    let mut remembered = Remembered::default();
    let mut ended = Ok(false);
    while let Ok(false) = ended {
        let transaction = connection.transaction()?;
        if known.is_some_and(|state| state.oldest < oldest) {
            transaction.execute("DELETE FROM record WHERE seq < ?1", [oldest])?;
            transaction.execute("DELETE FROM outcome WHERE decision < ?1", [oldest])?;
        }
        let mut last = None;
        // What was read before a damaged record is kept.
        ended = take_batch(&transaction, &mut reader, &mut remembered, &mut last, watch);
        if let Some((last, crc)) = last {
            save(&transaction, &State { oldest, next: reader.next(), last, crc })?;
        }
        transaction.commit()?;
    }
    ended.map(drop)
}

fn save(transaction: &Transaction<'_>, state: &State) -> rusqlite::Result<()> {
    let State { oldest, next, last, crc } = state;
    let values =
        params![oldest, next.segment, next.offset, next.seq, last.segment, last.offset, last.seq, crc];
    transaction.execute("INSERT OR REPLACE INTO state VALUES (0, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)", values)?;
    Ok(())
}

/// Whether the end was reached.
fn take_batch(
    transaction: &Transaction<'_>,
    reader: &mut Reader,
    remembered: &mut Remembered,
    last: &mut Option<(Place, u32)>,
    watch: &mut impl Watch,
) -> Result<bool, FillError> {
    for _ in 0..BATCH {
        let Some(stored) = reader.read_next()? else { return Ok(true) };
        watch.read(stored.payload.len());
        let crc = crc32c::crc32c(stored.payload);
        // One that a later version wrote is in no result, as in a scan.
        let view = RecordView::parse(stored.payload).ok();
        let mut row = view.as_ref().map(|view| Row::of(view, transaction, remembered)).transpose()?;
        // A name that can be erased must not live on here.
        if Opener::is_hidden(stored.payload)
            && let Some([principal, ..]) = row.as_mut().map(|row| &mut row.words)
        {
            *principal = remembered.word(PERSONAL, transaction)?;
        }
        let at = reader.last_place();
        *last = Some((at, crc));
        if let Some(row) = row {
            row.insert(at, transaction, remembered)?;
        }
    }
    Ok(false)
}

/// What need not be looked up.
#[derive(Debug, Default)]
struct Remembered {
    words: HashMap<String, i64>,
    open: HashMap<(RecordId, u16), u64>,
}

impl Remembered {
    fn word(&mut self, text: &str, transaction: &Transaction<'_>) -> rusqlite::Result<i64> {
        if text.is_empty() {
            return Ok(0);
        }
        if let Some(id) = self.words.get(text) {
            return Ok(*id);
        }
        let find = |text| {
            transaction
                .prepare_cached("SELECT id FROM word WHERE text = ?1")?
                .query_row([text], |row| row.get(0))
                .optional()
        };
        let id = match find(text)? {
            Some(id) => id,
            None => {
                transaction.prepare_cached("INSERT INTO word (text) VALUES (?1)")?.execute([text])?;
                transaction.last_insert_rowid()
            }
        };
        if self.words.len() >= REMEMBERED {
            self.words.clear();
        }
        self.words.insert(text.to_owned(), id);
        Ok(id)
    }
}

/// A record as it stands in the tables.
#[derive(Debug)]
struct Row {
    time: i64,
    is_outcome: bool,
    is_decision: bool,
    decision: i64,
    level: i64,
    words: [i64; 9],
    crossing: Option<(RecordId, u16)>,
    id: Option<RecordId>,
}

impl Row {
    fn of(
        view: &RecordView<'_>,
        transaction: &Transaction<'_>,
        remembered: &mut Remembered,
    ) -> rusqlite::Result<Self> {
        let mut word = |text: Option<&str>| remembered.word(text.unwrap_or_default(), transaction);
        let principal = view.principal.as_ref();
        let is_outcome = view.kind == "outcome";
        let words = if is_outcome {
            [0; 9]
        } else {
            [
                word(principal.map(|principal| &*principal.id))?,
                word(principal.map(|principal| listed(&principal.teams)).as_deref())?,
                word(view.action())?,
                word(view.resource.as_ref().map(super::super::view::EntityView::shown).as_deref())?,
                word(view.model())?,
                word(view.route())?,
                word(Some(&listed(&view.policies)))?,
                word(view.destination())?,
                word(view.upstream())?,
            ]
        };
        Ok(Self {
            time: i64::try_from(view.time.as_nanosecond()).unwrap_or(i64::MAX),
            is_outcome,
            is_decision: view.kind == "decision",
            decision: Decided::of(view).map_or(NOTHING, decision),
            level: view.level().map_or(NOTHING, crate::model::Level::rank),
            words,
            crossing: view.id.zip(view.attempt),
            id: view.id,
        })
    }

    fn insert(
        &self,
        at: Place,
        transaction: &Transaction<'_>,
        remembered: &mut Remembered,
    ) -> rusqlite::Result<()> {
        if self.is_outcome
            && let Some(decision) = self.decided(transaction, remembered)?
        {
            let sql = "INSERT OR REPLACE INTO outcome VALUES (?1, ?2, ?3, ?4)";
            transaction.prepare_cached(sql)?.execute(params![decision, at.seq, at.segment, at.offset])?;
            return Ok(());
        }
        let sql = "INSERT OR REPLACE INTO record \
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
        let [principal, teams, action, resource, model, route, policies, destination, upstream] = self.words;
        let crossing = self.id.map(|id| id.to_string().replace('-', ""));
        let attempt = self.crossing.map(|(_, attempt)| attempt);
        transaction.prepare_cached(sql)?.execute(params![
            at.seq,
            at.segment,
            at.offset,
            self.time,
            self.decision,
            self.level,
            principal,
            teams,
            action,
            resource,
            model,
            route,
            policies,
            destination,
            upstream,
            crossing.as_deref().map(str::as_bytes),
            attempt
        ])?;
        if let Some(crossing) = self.crossing.filter(|_| self.is_decision) {
            if remembered.open.len() >= REMEMBERED {
                remembered.open.clear();
            }
            remembered.open.insert(crossing, at.seq);
        }
        Ok(())
    }

    /// The number of the decision that this is the outcome of.
    fn decided(
        &self,
        transaction: &Transaction<'_>,
        remembered: &mut Remembered,
    ) -> rusqlite::Result<Option<u64>> {
        let Some((id, attempt)) = self.crossing else { return Ok(None) };
        if let Some(seq) = remembered.open.remove(&(id, attempt)) {
            return Ok(Some(seq));
        }
        let sql = "SELECT seq FROM record WHERE crossing = ?1 AND attempt = ?2 AND decision <= 2 ORDER BY seq LIMIT 1";
        let id = id.to_string().replace('-', "");
        transaction
            .prepare_cached(sql)?
            .query_row(params![id.as_bytes(), attempt], |row| row.get(0))
            .optional()
    }
}

/// Stands for every principal whose name is encrypted under a key of its own.
pub(super) const PERSONAL: &str = "\u{1f}personal";

/// No decision, no level.
pub(super) const NOTHING: i64 = 9;

/// The number of a decision in the tables.
pub(super) const fn decision(decided: Decided) -> i64 {
    match decided {
        Decided::Allow => 0,
        Decided::Deny => 1,
        Decided::Reject => 2,
        Decided::Event => 3,
    }
}

/// A list as one word.
fn listed(names: &[Text<'_>]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let mut text = String::from(SEPARATOR);
    for name in names {
        text.push_str(name);
        text.push(SEPARATOR);
    }
    text
}
