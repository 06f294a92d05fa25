//! The tables. Names are interned, so that a row is a few small numbers and a million of them are read through in a moment.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// Changes with every change of the tables or of what is put into them.
pub(super) const VERSION: i64 = 1;

/// One row for each decision, refusal and event, and for an outcome without a decision. `teams` and `policies` are words that hold the
/// whole list, each name between two separators. Members that a record lacks are 0, the empty word.
const TABLES: &str = "
CREATE TABLE state (
  only INTEGER PRIMARY KEY CHECK (only = 0),
  oldest INTEGER NOT NULL,
  segment INTEGER NOT NULL, offset INTEGER NOT NULL, seq INTEGER NOT NULL,
  last_segment INTEGER NOT NULL, last_offset INTEGER NOT NULL, last_seq INTEGER NOT NULL, last_crc INTEGER NOT NULL
);
CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
INSERT INTO word VALUES (0, '');
CREATE TABLE record (
  seq INTEGER PRIMARY KEY,
  segment INTEGER NOT NULL, offset INTEGER NOT NULL,
  time INTEGER NOT NULL,
  decision INTEGER NOT NULL, level INTEGER NOT NULL,
  principal INTEGER NOT NULL, teams INTEGER NOT NULL, action INTEGER NOT NULL, resource INTEGER NOT NULL,
  model INTEGER NOT NULL, route INTEGER NOT NULL, policies INTEGER NOT NULL,
  destination INTEGER NOT NULL, upstream INTEGER NOT NULL,
  crossing BLOB, attempt INTEGER
);
CREATE INDEX crossing ON record (crossing, attempt) WHERE crossing IS NOT NULL;
CREATE TABLE outcome (
  decision INTEGER PRIMARY KEY,
  seq INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL
);
";

/// Before and after each name of a list.
pub(super) const SEPARATOR: char = '\u{1f}';

pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    // Nobody who searches is kept waiting by who reads on; what a power cut takes is read again.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", -65_536)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // What is read from a file is never run.
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"))
}
