//! The journal as lines for people: one a crossing, decision and outcome joined. Texts are made safe to print, for
//! callers choose some of them.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::filter::{Decided, Filter};
use super::reader::{ReadError, Reader, Stored};
use super::record::Ending;
use super::segment::Open;
use super::subjects::Opener;
use super::view::{RecordView, Text, printable};
use crate::model::RecordId;

/// Lines that were given out before their outcome came, at most; the outcomes of more are not shown.
const MAX_LATE: usize = 4096;
/// Lines that may wait for their outcome while the journal is followed.
const MAX_FOLLOWED: usize = 100_000;

/// One line.
#[derive(Debug, Clone)]
pub struct Row {
    /// The number of the record.
    pub seq: u64,
    /// When.
    pub time: Timestamp,
    /// The principal, or the peer's address if nobody was identified.
    pub who: String,
    /// The Cedar action.
    pub action: String,
    /// The Cedar resource, or host and path if it did not get that far.
    pub resource: String,
    /// Where the data would go.
    pub destination: String,
    /// `allow`, `deny`, `reject`, `event` or `end` (an outcome without its decision).
    pub decision: &'static str,
    /// The deciding policies, the code of a refusal, or what happened.
    pub why: String,
    /// The status that the client got.
    pub status: Option<u16>,
    /// How it ended, if it did.
    pub ending: Option<Ending>,
    /// The crossing.
    pub id: Option<RecordId>,
    /// The label's level, and the protection that was decided.
    pub data: String,
    /// The number and bytes of its records, if they are wanted.
    pub records: Vec<(u64, Vec<u8>)>,
    key: Option<Open>,
    seen: Instant,
}

fn shown(seen: &RecordView<'_>) -> Row {
    let text = |value: &Option<Text<'_>>| value.as_deref().map(printable).unwrap_or_default();
    let decision = Decided::of(seen).map_or("end", Decided::name);
    let address = match (&seen.request, &seen.host, &seen.path) {
        (Some(asked), _, _) => printable(&format!("{}{}", &*asked.host, &*asked.path)),
        (None, host, path) => text(host) + &text(path),
    };
    let mut why: Vec<String> = Vec::new();
    why.extend(seen.count.map(|count| format!("{count} refusals, counted")));
    // A code says nothing that the policies beside it do not say better.
    let code = seen.code.iter().filter(|_| seen.policies.is_empty());
    why.extend(code.chain(&seen.event).chain(&seen.policies).map(|part| printable(part)));
    if decision == "end" {
        why.extend(seen.ending.map(|ending| ending.name().to_owned()));
    }
    let upstream = seen.upstream.as_ref().map(|upstream| printable(&upstream.name));
    Row {
        seq: 0,
        time: seen.time,
        who: match &seen.principal {
            Some(principal) => printable(&principal.id),
            None => text(&seen.peer),
        },
        action: text(&seen.action),
        resource: match &seen.resource {
            Some(resource) => printable(&resource.shown()),
            None => address,
        },
        destination: seen.destination.as_deref().map(printable).or(upstream).unwrap_or_default(),
        decision,
        why: why.join(", "),
        status: seen.status,
        ending: seen.ending,
        id: seen.id,
        data: data(seen),
        records: Vec::new(),
        key: seen.id.zip(seen.attempt),
        seen: Instant::now(),
    }
}

fn data(seen: &RecordView<'_>) -> String {
    let level = seen.label.as_ref().map(|label| &label.level);
    let parts: Vec<String> = level.into_iter().chain(&seen.protection).map(|part| printable(part)).collect();
    parts.join(", ")
}

impl Row {
    /// The line of a record, with the outcome of its decision; none if it cannot be understood.
    #[must_use]
    pub fn of(record: (u64, Vec<u8>), outcome: Option<(u64, Vec<u8>)>) -> Option<Self> {
        let mut row = shown(&RecordView::parse(&record.1).ok()?);
        row.seq = record.0;
        if let Some(ended) = outcome.as_ref().and_then(|(_, bytes)| RecordView::parse(bytes).ok()) {
            row.status = ended.status;
            row.ending = ended.ending;
        }
        row.records.push(record);
        row.records.extend(outcome);
        Some(row)
    }
}

/// Joins decisions with their outcomes. Keeps at most `limit` lines, the newest.
#[derive(Debug)]
pub struct Lines {
    filter: Filter,
    limit: usize,
    keep: bool,
    opener: Option<Opener>,
    rows: VecDeque<Row>,
    /// How many rows were taken from the front.
    taken: usize,
    /// Which row waits for which outcome.
    waiting: HashMap<Open, usize>,
    /// Rows that were given out without theirs.
    late: HashMap<Open, Row>,
}

impl Lines {
    /// No lines yet.
    #[must_use]
    pub fn new(filter: Filter, limit: usize, keep: bool) -> Self {
        let (waiting, late) = (HashMap::new(), HashMap::new());
        let (limit, rows) = (limit.max(1), VecDeque::new());
        Self { filter, limit, keep, opener: None, rows, taken: 0, waiting, late }
    }

    /// From now on lines are to be taken as they come.
    pub const fn follow(&mut self) {
        self.limit = MAX_FOLLOWED;
    }

    /// Shows what is encrypted under keys of users, as long as those are there.
    pub fn open_with(&mut self, opener: Opener) {
        self.opener = Some(opener);
    }

    /// Takes the next record. One that cannot be understood, written by a later version, is passed over.
    pub fn add(&mut self, stored: &Stored<'_>) {
        let restored = self.opener.as_mut().and_then(|opener| opener.restored(stored.payload));
        let stored = &Stored { payload: restored.as_deref().unwrap_or(stored.payload), ..*stored };
        let Ok(seen) = RecordView::parse(stored.payload) else { return };
        if seen.kind == "outcome" {
            return self.join(stored, &seen);
        }
        if self.filter.matches(&seen) {
            self.push(stored, &seen);
        }
    }

    fn push(&mut self, stored: &Stored<'_>, seen: &RecordView<'_>) {
        let mut row = shown(seen);
        row.seq = stored.seq;
        row.records.extend(self.kept(stored));
        if let Some(key) = row.key
            && seen.kind == "decision"
        {
            self.waiting.insert(key, self.taken.saturating_add(self.rows.len()));
        }
        self.rows.push_back(row);
        if self.rows.len() > self.limit {
            self.pop();
        }
    }

    fn join(&mut self, stored: &Stored<'_>, seen: &RecordView<'_>) {
        let key = seen.id.zip(seen.attempt);
        let place = key.and_then(|key| self.waiting.remove(&key)).and_then(|at| at.checked_sub(self.taken));
        let kept = self.kept(stored);
        if let Some(row) = place.and_then(|place| self.rows.get_mut(place)) {
            row.status = seen.status;
            row.ending = seen.ending;
            row.records.extend(kept);
            return;
        }
        if let Some(decided) = key.and_then(|key| self.late.remove(&key)) {
            let (seq, time, records) = (stored.seq, seen.time, kept.into_iter().collect());
            let why = seen.ending.map_or_else(String::new, |ending| ending.name().to_owned());
            let (decision, status, ending) = ("end", seen.status, seen.ending);
            self.rows.push_back(Row { seq, time, decision, why, status, ending, records, ..decided });
            return;
        }
        // A request that ended before its decision, or one whose line is not there.
        let alone = seen.attempt == Some(0) || self.filter.id.is_some();
        if alone && self.filter.matches(seen) {
            self.push(stored, seen);
        }
    }

    fn kept(&self, stored: &Stored<'_>) -> Option<(u64, Vec<u8>)> {
        self.keep.then(|| (stored.seq, stored.payload.to_vec()))
    }

    fn pop(&mut self) -> Option<Row> {
        let row = self.rows.pop_front()?;
        self.taken = self.taken.saturating_add(1);
        if let Some(key) = &row.key {
            self.waiting.remove(key);
        }
        Some(row)
    }

    /// Whether it holds as many lines as it may.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.rows.len() >= self.limit
    }

    /// All lines.
    pub fn take(&mut self) -> Vec<Row> {
        std::iter::from_fn(|| self.pop()).collect()
    }

    /// The lines that are complete, in order, and those that have waited long enough for their outcome; that comes
    /// as a line of its own.
    pub fn take_ready(&mut self, patience: Duration) -> Vec<Row> {
        let ready = |row: &Row| row.key.is_none() || row.ending.is_some() || row.seen.elapsed() >= patience;
        let mut taken = Vec::new();
        while self.rows.front().is_some_and(ready)
            && let Some(row) = self.pop()
        {
            if let Some(key) = row.key
                && row.ending.is_none()
                && self.late.len() < MAX_LATE
            {
                self.late.insert(key, Row { records: Vec::new(), ..row.clone() });
            }
            taken.push(row);
        }
        taken
    }
}

/// The newest lines that the filter admits, and the reader behind them, to follow on.
///
/// # Errors
/// The journal is damaged or cannot be read.
pub fn newest(
    directory: &Path,
    filter: &Filter,
    limit: usize,
    keep: bool,
) -> Result<(Lines, Reader), ReadError> {
    let mut back = 1_usize;
    loop {
        let (mut reader, whole) = match filter.from {
            Some(since) => (Reader::open(directory, Some(since))?, true),
            None => Reader::open_back(directory, back)?,
        };
        let mut lines = Lines::new(filter.clone(), limit, keep);
        lines.open_with(Opener::new(directory));
        while let Some(stored) = reader.read_next()? {
            lines.add(&stored);
        }
        if whole || lines.is_full() {
            return Ok((lines, reader));
        }
        back = back.saturating_mul(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::encode::{encode, tests::decision, tests::stamp};
    use crate::audit::frame::Kind;
    use crate::audit::record::Outcome;

    fn stored(seq: u64, payload: &[u8]) -> Stored<'_> {
        Stored { seq, time: 0, kind: Kind::Event, payload }
    }

    #[test]
    fn a_decision_and_its_outcome_are_one_line() {
        let stamp = stamp();
        let allowed = encode("decision", &stamp, &decision());
        let ended =
            encode("outcome", &stamp, &Outcome { status: Some(200), ..Outcome::bare(Ending::Complete) });
        let mut lines = Lines::new(Filter { principal: Some("alice".into()), ..Filter::default() }, 9, true);
        lines.add(&stored(0, &allowed));
        assert!(lines.take_ready(Duration::from_secs(9)).is_empty());
        lines.add(&stored(1, &ended));
        let rows = lines.take_ready(Duration::from_secs(9));
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((row.who.as_str(), row.status), ("https://issuer.example|alice", Some(200)));
        assert_eq!((row.resource.as_str(), row.destination.as_str()), ("Model eu/llama", "eu"));
        assert_eq!((row.decision, row.why.as_str()), ("allow", "chat-for-research"));
        assert_eq!(row.records, [(0, allowed.clone()), (1, ended.clone())]);
        let again = Row::of((0, allowed), Some((1, ended))).unwrap();
        assert_eq!((again.why, again.status, again.seq), (row.why.clone(), row.status, row.seq));
    }

    #[test]
    fn a_late_outcome_is_a_line_of_its_own() {
        let stamp = stamp();
        let mut lines = Lines::new(Filter::default(), 9, false);
        lines.add(&stored(0, &encode("decision", &stamp, &decision())));
        assert_eq!(lines.take_ready(Duration::ZERO).len(), 1);
        lines.add(&stored(1, &encode("outcome", &stamp, &Outcome::bare(Ending::ClientGone))));
        let rows = lines.take_ready(Duration::from_secs(9));
        assert_eq!(
            (rows[0].decision, rows[0].why.as_str(), rows[0].action.as_str()),
            ("end", "client_gone", "infer")
        );
    }

    #[test]
    fn only_the_newest_lines_are_kept() {
        let mut lines = Lines::new(Filter::default(), 2, false);
        for seq in 0..5 {
            lines.add(&stored(seq, &encode("decision", &stamp(), &decision())));
        }
        assert_eq!(lines.take().iter().map(|row| row.seq).collect::<Vec<_>>(), [3, 4]);
        assert!(lines.waiting.is_empty());
    }
}
