//! Writes the records that a filter selects in one format, with a manifest. What it leaves out, it cannot show: for that every
//! record of a period is in one is what [`super::bundle`] is for.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::staging::Staging;
use super::{ReportError, described, io_error};
use crate::audit::filter::{Filter, Selection};
use crate::audit::formats::{Entry, OpenDecisions, csv, json_lines, ocsf};
use crate::audit::reader::Reader;
use crate::audit::tree::checkpoint::Checkpoint;
use crate::audit::tree::log::LogDirectory;
use crate::audit::view::RecordView;

/// The version of the manifest.
const FORMAT: &str = "tidegate-audit-export/1";

/// A format of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON Lines: the records as they are, with their number.
    JsonLines,
    /// CSV, safe for spreadsheets.
    Csv,
    /// OCSF events, one a line.
    Ocsf,
}

impl Format {
    /// The name in manifests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::JsonLines => "jsonl",
            Self::Csv => "csv",
            Self::Ocsf => "ocsf",
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::JsonLines => "records.jsonl",
            Self::Csv => "records.csv",
            Self::Ocsf => "records.ocsf.jsonl",
        }
    }

    fn write(self, entry: &Entry<'_>, out: &mut impl io::Write) -> io::Result<()> {
        match self {
            Self::JsonLines => json_lines::write(entry, out),
            Self::Csv => csv::write(entry, out),
            Self::Ocsf => ocsf::write(entry, out),
        }
    }
}

/// How the records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// As what.
    pub format: Format,
    /// Whether their file is compressed with gzip (RFC 1952), and its name ends in `.gz`.
    pub gzip: bool,
}

/// What an export holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// How many records.
    pub records: u64,
    /// How many of each kind.
    pub kinds: BTreeMap<String, u64>,
    /// The numbers of the first and last.
    pub range: Option<(u64, u64)>,
    /// Records that a later version wrote, or that are no records; they are in none.
    pub passed_over: u64,
}

/// Exports to a directory, or to a tar file if the name ends so (`.tar`, `.tar.gz`, `.tgz`). `bytes` counts what was read.
///
/// # Errors
/// The journal cannot be read, something is at `out`, or it cannot be written.
pub fn export(
    journal: &Path,
    filter: &Filter,
    form: Form,
    out: &Path,
    bytes: &AtomicU64,
) -> Result<Exported, ReportError> {
    // The heads are read first, so that they cover less than what is exported and not more.
    let checkpoints = checkpoints(journal)?;
    let mut staging = Staging::begin(out)?;
    let Form { format, gzip } = form;
    let mut file = staging.create(&format!("{}{}", format.file(), if gzip { ".gz" } else { "" }))?;
    let path = file.path().to_owned();
    let exported;
    if gzip {
        // The header names no time, so the same records give the same bytes.
        let mut packed = GzEncoder::new(file, flate2::Compression::default());
        exported = records(journal, filter, format, (&mut packed, &path), bytes)?;
        file = packed.finish().map_err(io_error("write", &path))?;
    } else {
        exported = records(journal, filter, format, (&mut file, &path), bytes)?;
    }
    staging.close(file, Some(exported.records))?;
    let manifest = json!({
        "format": FORMAT,
        "tool": { "name": "tidegate", "version": env!("CARGO_PKG_VERSION") },
        "created": Timestamp::now().to_string(),
        "records": exported.records,
        "record_format": format.name(),
        "compression": gzip.then_some("gzip"),
        "ocsf_version": (format == Format::Ocsf).then_some(ocsf::VERSION),
        "kinds": exported.kinds,
        "first_seq": exported.range.map(|(first, _)| first),
        "last_seq": exported.range.map(|(_, last)| last),
        "passed_over": exported.passed_over,
        "filters": described(filter),
        "checkpoints": checkpoints,
    });
    staging.finish(manifest)?;
    Ok(exported)
}

fn records(
    journal: &Path,
    filter: &Filter,
    format: Format,
    (file, path): (&mut impl io::Write, &Path),
    bytes: &AtomicU64,
) -> Result<Exported, ReportError> {
    if format == Format::Csv {
        csv::header(file).map_err(io_error("write", path))?;
    }
    let (mut selection, mut open) = (Selection::new(filter.clone()), OpenDecisions::default());
    let (mut exported, with_decisions) = (Exported::default(), format != Format::JsonLines);
    let mut reader = Reader::open(journal, filter.from)?;
    while let Some(stored) = reader.read_next()? {
        bytes.fetch_add(u64::try_from(stored.payload.len()).unwrap_or(0), Ordering::Relaxed);
        let Ok(view) = RecordView::parse(stored.payload) else {
            exported.passed_over += 1;
            continue;
        };
        if !selection.admits(&view) {
            continue;
        }
        let decision = if with_decisions { open.take(stored.payload) } else { None };
        let entry = Entry { seq: stored.seq, payload: stored.payload, decision: decision.as_ref() };
        format.write(&entry, file).map_err(io_error("write", path))?;
        exported.records += 1;
        *exported.kinds.entry((*view.kind).to_owned()).or_default() += 1;
        let first = exported.range.map_or(stored.seq, |(first, _)| first);
        exported.range = Some((first, stored.seq));
    }
    Ok(exported)
}

/// The head of each log: what a later bundle or proof of the same records must agree with.
fn checkpoints(journal: &Path) -> Result<Vec<Value>, ReportError> {
    let mut found = Vec::new();
    for log in LogDirectory::list(journal).map_err(io_error("read", journal))? {
        let Some(note) = log.read_checkpoint().map_err(io_error("read", &log.checkpoint()))? else {
            continue;
        };
        let Ok(checkpoint) = Checkpoint::open(&note, &[]) else { continue };
        found.push(json!({
            "origin": checkpoint.origin, "first_seq": log.first, "size": checkpoint.size, "root": checkpoint.root_hex(), "note": note,
        }));
    }
    Ok(found)
}
