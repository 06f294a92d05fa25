//! From a filter to the records that fit: the index says where they may stand, their own bytes decide.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::Value;

use super::fill::{NOTHING, PERSONAL, decision};
use super::schema::SEPARATOR;
use crate::audit::filter::Filter;
use crate::audit::reader::{Place, ReadError, Reader};
use crate::audit::subjects::Opener;
use crate::audit::view::RecordView;

/// A record that fits, with the outcome of its decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The number of the record, and its bytes.
    pub record: (u64, Vec<u8>),
    /// The same of the outcome, if there is one by now.
    pub outcome: Option<(u64, Vec<u8>)>,
}

/// Records that are read over to come to the next one.
const NEAR: u64 = 200;

/// Where a record stands, and its outcome.
pub(super) type Places = (Place, Option<Place>);

/// The conditions of a filter, and what stands for their question marks.
#[derive(Debug, Default)]
struct Conditions {
    sql: Vec<String>,
    values: Vec<Value>,
}

impl Conditions {
    fn of(filter: &Filter) -> Self {
        let mut all = Self::default();
        let nanoseconds = |time: jiff::Timestamp| i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
        if let Some(from) = filter.from {
            all.add("time >= ?", [nanoseconds(from).into()]);
        }
        if let Some(to) = filter.to {
            all.add("time < ?", [nanoseconds(to).into()]);
        }
        if let Some(decided) = filter.decision {
            all.add("decision = ?", [decision(decided).into()]);
        }
        if let Some(levels) = filter.label {
            let operator = if levels.or_higher { ">=" } else { "=" };
            all.add(
                &format!("level {operator} ? AND level < ?"),
                [levels.level.rank().into(), NOTHING.into()],
            );
        }
        let parts = [("principal", &filter.principal), ("resource", &filter.resource)];
        for (column, part) in parts.into_iter().filter_map(|(column, part)| Some((column, part.as_ref()?))) {
            let sql = format!("{column} IN (SELECT id FROM word WHERE instr(text, ?) > 0)");
            // Nothing is in a principal that is not there.
            all.add(&format!("{sql} AND {column} <> 0"), [part.clone().into()]);
        }
        let names = [("action", &filter.action), ("route", &filter.route), ("model", &filter.model)];
        for (column, name) in names.into_iter().filter_map(|(column, name)| Some((column, name.as_ref()?))) {
            all.add(&format!("{column} = (SELECT id FROM word WHERE text = ?)"), [name.clone().into()]);
        }
        for (column, name) in [("teams", &filter.team), ("policies", &filter.policy)] {
            if let Some(name) = name {
                let sql = format!("{column} IN (SELECT id FROM word WHERE instr(text, ?) > 0)");
                all.add(&sql, [format!("{SEPARATOR}{name}{SEPARATOR}").into()]);
            }
        }
        if let Some(name) = &filter.cluster {
            let word = "(SELECT id FROM word WHERE text = ?)";
            all.add(
                &format!("(destination = {word} OR upstream = {word})"),
                [name.clone().into(), name.clone().into()],
            );
        }
        if let Some(id) = &filter.id {
            let digits = id.as_str().replace('-', "");
            // All digits are below `g`.
            let end = format!("{digits}g");
            all.add("crossing >= ? AND crossing < ?", [digits.into_bytes().into(), end.into_bytes().into()]);
        } else {
            // Of outcomes that stand alone, a search by anything else shows those that have no decision to stand by.
            all.add(&format!("(decision < {NOTHING} OR attempt = 0)"), []);
        }
        all
    }

    fn add<const N: usize>(&mut self, sql: &str, values: [Value; N]) {
        self.sql.push(sql.to_owned());
        self.values.extend(values);
    }
}

/// Whether some names of principals are in no index, because they can be erased.
pub(super) fn has_personal(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) > 0 FROM word WHERE text = ?1", [PERSONAL], |row| row.get(0))
}

/// The newest places that may fit, oldest first, and how many there are in all.
pub(super) fn places(
    connection: &Connection,
    filter: &Filter,
    limit: usize,
) -> rusqlite::Result<(Vec<Places>, u64)> {
    let conditions = Conditions::of(filter);
    let fits = conditions.sql.join(" AND ");
    let values = || rusqlite::params_from_iter(conditions.values.iter());
    let total =
        connection
            .query_row(&format!("SELECT count(*) FROM record WHERE {fits}"), values(), |row| row.get(0))?;
    let sql = format!(
        "SELECT r.seq, r.segment, r.offset, o.seq, o.segment, o.offset \
         FROM (SELECT seq, segment, offset FROM record WHERE {fits} ORDER BY seq DESC LIMIT {limit}) r \
         LEFT JOIN outcome o ON o.decision = r.seq ORDER BY r.seq"
    );
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map(values(), |row| {
        let record = Place { seq: row.get(0)?, segment: row.get(1)?, offset: row.get(2)? };
        let outcome = match row.get::<_, Option<u64>>(3)? {
            Some(seq) => Some(Place { seq, segment: row.get(4)?, offset: row.get(5)? }),
            None => None,
        };
        Ok((record, outcome))
    })?;
    Ok((rows.collect::<Result<_, _>>()?, total))
}

/// Takes the records from the journal. One that is no longer there, or does not fit, is left out.
pub(super) fn fetch(journal: &Path, places: &[Places], filter: &Filter) -> Result<Vec<Hit>, ReadError> {
    let mut reader = None;
    let mut opener = Opener::new(journal);
    let mut shown = |bytes: Vec<u8>| opener.restored(&bytes).unwrap_or(bytes);
    let mut hits = Vec::with_capacity(places.len());
    for (record, outcome) in places {
        let Some(bytes) = read(journal, &mut reader, *record)?.map(&mut shown) else { continue };
        if !RecordView::parse(&bytes).is_ok_and(|view| filter.matches(&view)) {
            continue;
        }
        let outcome = match outcome {
            Some(place) => read(journal, &mut reader, *place)?.map(|bytes| (place.seq, shown(bytes))),
            None => None,
        };
        hits.push(Hit { record: (record.seq, bytes), outcome });
    }
    Ok(hits)
}

/// One record; none if its segment has been dropped since.
fn read(journal: &Path, reader: &mut Option<Reader>, place: Place) -> Result<Option<Vec<u8>>, ReadError> {
    // What lies close ahead is sooner read to than opened anew.
    let close = |at: Place| at.segment == place.segment && at.seq <= place.seq && place.seq - at.seq <= NEAR;
    if let Some(reader) = reader.as_mut().filter(|reader| close(reader.next())) {
        while reader.next().seq < place.seq && reader.read_next()?.is_some() {}
    } else {
        *reader = match Reader::resume(journal, place) {
            Ok(reader) => Some(reader),
            Err(ReadError::Missing(_)) => None,
            Err(error) => return Err(error),
        };
    }
    let Some(reader) = reader else { return Ok(None) };
    let stored = reader.read_next()?.filter(|stored| stored.seq == place.seq);
    Ok(stored.map(|stored| stored.payload.to_vec()))
}
