//! A period of the journal as a bundle that a stranger checks: the exact records, the hashes that complete them to the signed root, the
//! tiles, the policies that decided, what was denied, what never ended, and a page to read.

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::agreement::{Agreement, Asking, Hidden, Judge};
use super::scan::{Part, Scan, each, locate};
use super::staging::Staging;
use super::statistics::Statistics;
use super::{ReportError, io_error, page};
use crate::audit::formats::{Entry, csv};
use crate::audit::subjects::Opener;
use crate::audit::tree::note::VerifierKey;
use crate::audit::tree::tiles::{TILE_WIDTH, tile_path, tile_width};
use crate::audit::tree::{leaf_hash, window};
use crate::audit::verify::range::Bound;
use crate::audit::view::RecordView;

/// The version of the manifest and layout.
const FORMAT: &str = "tidegate-audit-bundle/1";
/// The program that checks a bundle, for whoever wants to read it.
const CHECKER: &str = include_str!("verify.py");
const README: &str = include_str!("bundle-readme.md");

/// A log in a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// Its name.
    pub origin: String,
    /// Its directory in the bundle.
    pub directory: String,
    /// The number of the log's first record in the journal.
    pub first_seq: u64,
    /// The leaves in the bundle: first, and the one behind the last.
    pub window: (u64, u64),
    /// Those of them that lie in the period.
    pub period: (u64, u64),
    /// How many records the checkpoint covers.
    pub size: u64,
    /// Its root, hexadecimal.
    pub root: String,
    /// The key that signed it, if it was at hand.
    pub key: Option<String>,
}

impl LogPart {
    fn of(part: &Part) -> Self {
        Self {
            origin: part.log.origin.clone(),
            directory: format!("log-{:020}", part.log.first),
            first_seq: part.log.first,
            window: (part.window.start, part.window.end),
            period: (part.period.start, part.period.end),
            size: part.checkpoint.size,
            root: part.checkpoint.root_hex(),
            key: part.key.as_ref().map(VerifierKey::label),
        }
    }

    fn described(&self) -> Value {
        json!({
            "origin": self.origin, "directory": self.directory, "first_seq": self.first_seq,
            "first_index": self.window.0, "end_index": self.window.1,
            "period_first_index": self.period.0, "period_end_index": self.period.1,
            "tree_size": self.size, "root": self.root, "key": self.key,
        })
    }
}

/// What a bundle holds.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// From when, or from which record, as it was asked.
    pub from: String,
    /// Until when or which record.
    pub to: String,
    /// Whether a key that the reader brought signed the checkpoints.
    pub trusted: bool,
    /// When it was made.
    pub created: Timestamp,
    /// The logs.
    pub logs: Vec<LogPart>,
    /// What happened.
    pub statistics: Statistics,
    /// Records of the period that no checkpoint covers yet; they are not in it.
    pub unsigned: u64,
    /// Policy bundles that decided and are not in the journal's archive.
    pub missing_policies: Vec<String>,
    /// The first record, if it is the oldest that there is and those before it were deleted: some of them may have been of the period.
    pub deleted_below: Option<u64>,
    /// How the decisions compare with what their policies say now; none if they were not asked.
    pub agreement: Option<Agreement>,
    /// Records whose user stands in them under an alias.
    pub hidden: Hidden,
}

impl Bundle {
    /// What is to be said of records that were deleted before the bundle was made.
    #[must_use]
    pub fn deleted(&self) -> Option<String> {
        self.deleted_below.map(|below| {
            format!(
                "Records below {below} had been deleted by retention when this was made. Those of them that were of the period are not in it; events \
                 `retention.pruned` say until when they were written."
            )
        })
    }

    /// What is to be said of users that stand in the records under an alias.
    #[must_use]
    pub fn hidden(&self) -> Option<String> {
        let Hidden { records, erased, without_key } = self.hidden;
        (records > 0).then(|| {
            format!(
                "In {records} decisions the user stands under an alias, as it was recorded. Of {erased} of them the user had been erased when this was \
                 made, and of {without_key} the key was not at hand."
            )
        })
    }
}

/// Writes the bundle of a period as a directory, or as a tar file if `out` ends so. With a `judge` its decisions are
/// decided again. `bytes` counts what was read.
///
/// # Errors
/// The period has no signed record, a record is not as it was signed, or something cannot be read or written.
pub fn write(
    journal: &Path,
    (from, to): (Bound, Bound),
    key: Option<&VerifierKey>,
    judge: Option<&mut dyn Judge>,
    out: &Path,
    bytes: &AtomicU64,
) -> Result<Bundle, ReportError> {
    let mut staging = Staging::begin(out)?;
    let mut scan = locate(journal, (from, to), key)?;
    let asking = Asking::new(judge, Opener::new(journal));
    let mut counts = Counts { statistics: Statistics::default(), asking };
    let mut logs = Vec::new();
    for part in &mut scan.parts {
        let log = LogPart::of(part);
        records(&scan.segments, part, &log, &mut staging, &mut counts, bytes)?;
        proof(part, &log, &mut staging)?;
        logs.push(log);
    }
    let Counts { mut statistics, asking } = counts;
    endings(&scan, &mut statistics)?;
    let (agreement, hidden) = asking.finish();
    let missing_policies = policies(journal, &statistics, &mut staging)?;
    let name = |bound: Bound| match bound {
        Bound::Record(u64::MAX) => "the last record".to_owned(),
        Bound::Record(seq) => format!("record {seq}"),
        Bound::Time(time) => time.to_string(),
    };
    let bundle = Bundle {
        from: name(from),
        to: name(to),
        trusted: key.is_some(),
        created: Timestamp::now(),
        logs,
        statistics,
        unsigned: scan.unsigned,
        missing_policies,
        deleted_below: scan.deleted_below,
        agreement,
        hidden,
    };
    finish(&bundle, &scan, staging)?;
    Ok(bundle)
}

fn finish(bundle: &Bundle, scan: &Scan, mut staging: Staging) -> Result<(), ReportError> {
    if let Some(key) = scan.parts.iter().rev().find_map(|part| part.key.as_ref()) {
        staging.add("vkey", format!("{key}\n").as_bytes())?;
    }
    let statistics = serde_json::to_value(&bundle.statistics).unwrap_or_default();
    staging.add("statistics.json", format!("{statistics:#}\n").as_bytes())?;
    if let Some(agreement) = &bundle.agreement {
        staging.add("replay.json", format!("{:#}\n", json!(agreement)).as_bytes())?;
    }
    staging.add("index.html", page::page(bundle).as_bytes())?;
    staging.add("README.md", readme(bundle).as_bytes())?;
    staging.add("verify.py", CHECKER.as_bytes())?;
    let manifest = json!({
        "format": FORMAT,
        "tool": { "name": "tidegate", "version": env!("CARGO_PKG_VERSION") },
        "created": bundle.created.to_string(),
        "from": bundle.from,
        "to": bundle.to,
        "verified_with_key": bundle.trusted,
        "records": bundle.statistics.records,
        "unsigned_records_left_out": bundle.unsigned,
        "missing_policies": bundle.missing_policies,
        "deleted_below": bundle.deleted_below,
        "users_under_alias": bundle.hidden,
        "replay": bundle.agreement.as_ref().map(|found| json!({
            "agreed": found.agreed, "differed": found.differed, "not_asked": found.not_asked, "not_possible": found.not_possible,
        })),
        "logs": bundle.logs.iter().map(LogPart::described).collect::<Vec<_>>(),
    });
    staging.finish(manifest)
}

/// What is counted while the records of the period pass by.
struct Counts<'a> {
    statistics: Statistics,
    asking: Asking<'a>,
}

/// Writes the records of a log, each compared with its leaf, and the tables of denials.
fn records(
    segments: &[crate::audit::segment::Listed],
    part: &mut Part,
    log: &LogPart,
    staging: &mut Staging,
    counts: &mut Counts<'_>,
    bytes: &AtomicU64,
) -> Result<(), ReportError> {
    let mut lines = staging.create(&format!("{}/records.jsonl", log.directory))?;
    let mut denials = staging.create(&format!("{}/denials.csv", log.directory))?;
    let (path, table) = (lines.path().to_owned(), denials.path().to_owned());
    csv::header(&mut denials).map_err(io_error("write", &table))?;
    let (mut next, mut denied) = (part.window.start, 0_u64);
    let first = part.log.first;
    let range = first.saturating_add(part.window.start)..first.saturating_add(part.window.end);
    let wrong = |what: String| ReportError::NotAsSigned { origin: log.origin.clone(), what };
    let (tree, period) = (&mut part.tree, &part.period);
    each(segments, &range, |seq, _, payload| {
        let index = seq.saturating_sub(first);
        if index != next {
            return Err(wrong(format!("record {} is missing", first.saturating_add(next))));
        }
        let signed = tree.leaf(index).map_err(ReportError::tile(&log.origin))?;
        if signed != leaf_hash(payload) || payload.contains(&b'\n') {
            return Err(wrong(format!("record {seq} is not the one that was signed")));
        }
        bytes.fetch_add(u64::try_from(payload.len()).unwrap_or(0), Ordering::Relaxed);
        lines.write_all(payload).and_then(|()| lines.write_all(b"\n")).map_err(io_error("write", &path))?;
        if period.contains(&index) {
            let view = RecordView::parse(payload).ok();
            counts.statistics.add(seq, payload, view.as_ref());
            if let Some(view) = &view {
                counts.asking.add(seq, payload, view);
            }
            if view.as_ref().is_some_and(is_denial) {
                denied += 1;
                csv::write(&Entry::new(seq, payload), &mut denials).map_err(io_error("write", &table))?;
            }
        }
        next = index.saturating_add(1);
        Ok(())
    })?;
    if next != part.window.end {
        return Err(wrong(format!("record {} is missing", first.saturating_add(next))));
    }
    staging.close(lines, Some(next.saturating_sub(part.window.start)))?;
    staging.close(denials, Some(denied))
}

fn is_denial(view: &RecordView<'_>) -> bool {
    use crate::audit::filter::Decided;
    matches!(Decided::of(view), Some(Decided::Deny | Decided::Reject))
}

/// Writes the checkpoint, the hashes around the window and the tiles above its records.
fn proof(part: &mut Part, log: &LogPart, staging: &mut Staging) -> Result<(), ReportError> {
    let tile = ReportError::tile(&log.origin);
    let hashes = window::complement(&mut part.tree, &part.window).map_err(&tile)?;
    let mut described = log.described();
    if let Some(members) = described.as_object_mut() {
        let hashes: Vec<String> = hashes.iter().map(|hash| STANDARD.encode(hash)).collect();
        members.insert("hashes".to_owned(), hashes.into());
    }
    let directory = &log.directory;
    staging.add(&format!("{directory}/window.json"), format!("{described:#}\n").as_bytes())?;
    staging.add(&format!("{directory}/checkpoint"), part.note.as_bytes())?;
    let size = part.checkpoint.size;
    let last = size.saturating_sub(1) / TILE_WIDTH;
    let inside = part.window.start / TILE_WIDTH..=part.window.end.saturating_sub(1) / TILE_WIDTH;
    for level in 0..=u8::MAX {
        let mut index = 0;
        while tile_width(size, level, index) > 0 {
            let width = tile_width(size, level, index);
            if level > 0 || index == last || inside.contains(&index) {
                let bytes = part.tree.tile(level, index).map_err(&tile)?.concat();
                staging
                    .add(&format!("{directory}/{}", tile_path(&level.to_string(), index, width)), &bytes)?;
            }
            index += 1;
        }
        if index == 0 {
            break;
        }
    }
    Ok(())
}

/// Looks behind the period for the outcomes of its decisions.
fn endings(scan: &Scan, statistics: &mut Statistics) -> Result<(), ReportError> {
    let end = scan.parts.iter().map(|part| part.log.first.saturating_add(part.period.end)).max();
    let mut open = true;
    each(&scan.segments, &(end.unwrap_or(u64::MAX)..u64::MAX), |_, _, payload| {
        open = open && statistics.close(payload);
        Ok(())
    })?;
    statistics.finish();
    Ok(())
}

/// Copies the policy bundles that decided; those that are not in the archive.
fn policies(
    journal: &Path,
    statistics: &Statistics,
    staging: &mut Staging,
) -> Result<Vec<String>, ReportError> {
    let mut missing = Vec::new();
    for hash in statistics.bundles.keys() {
        let directory = journal.join("bundles").join(hash);
        // A hash is no path, whatever a record says.
        let plain = hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !plain || !directory.is_dir() {
            missing.push(hash.clone());
            continue;
        }
        for entry in std::fs::read_dir(&directory).map_err(io_error("read", &directory))? {
            let path = entry.map_err(io_error("read", &directory))?.path();
            let Some(name) = path.file_name().and_then(std::ffi::OsStr::to_str) else { continue };
            let bytes = std::fs::read(&path).map_err(io_error("read", &path))?;
            staging.add(&format!("policies/{hash}/{name}"), &bytes)?;
        }
    }
    Ok(missing)
}

/// The text for whoever gets the bundle, with the names that stand in it.
fn readme(bundle: &Bundle) -> String {
    let rows = bundle.logs.iter().map(|log| {
        format!(
            "| `{}` | `{}` | {} to {} | {} to {} | {} |\n",
            log.directory,
            log.origin,
            log.window.0,
            log.window.1.saturating_sub(1),
            log.period.0,
            log.period.1.saturating_sub(1),
            log.size
        )
    });
    let first = bundle.logs.first();
    README
        .replace("{from}", &bundle.from)
        .replace("{to}", &bundle.to)
        .replace("{created}", &bundle.created.to_string())
        .replace("{records}", &bundle.statistics.records.to_string())
        .replace("{logs}\n", &rows.collect::<String>())
        .replace("{log}", first.map_or("", |log| &log.directory))
        .replace("{index}", &first.map_or(0, |log| log.period.0).to_string())
        .replace(
            "{line}",
            &first.map_or(1, |log| log.period.0.saturating_sub(log.window.0).saturating_add(1)).to_string(),
        )
        .replace("{unsigned}", &bundle.unsigned.to_string())
        .replace("{deleted}", &bundle.deleted().map(|text| format!("\n\n{text}")).unwrap_or_default())
        .replace("{hidden}", &bundle.hidden().map(|text| format!("\n\n{text}")).unwrap_or_default())
        .replace("{replay}", &replayed(bundle.agreement.as_ref()))
}

/// The same for whether the decisions were decided again.
fn replayed(agreement: Option<&Agreement>) -> String {
    let Some(found) = agreement else {
        return "They were not asked again when this was made.".to_owned();
    };
    format!("Of the decisions of the period, {}. `replay.json` lists them by record.", found.sentence())
}
