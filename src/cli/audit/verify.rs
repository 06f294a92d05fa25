//! `tidegate audit verify` and `proof`: is every record the one that was signed, and the proof of one record.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::super::Answer;
use super::{Output, progress};
use crate::audit::tree::checkpoint::Checkpoint;
use crate::audit::tree::log::read_note;
use crate::audit::tree::note::VerifierKey;
use crate::audit::tree::proof_file::{MAX_BYTES, ProofFile};
use crate::audit::verify::prove::{Wanted, prove};
use crate::audit::verify::range::Bound;
use crate::audit::verify::{Report, export, range, rebuild, whole};
use crate::audit::view::printable;
use crate::model::RecordId;

const VERIFY_EXAMPLES: &str = "\
Examples:
  tidegate audit verify --journal journal --vkey gateway.vkey
  tidegate audit verify --journal journal --vkey gateway.vkey --from 2026-11-24T08:00:00Z --to 1h
  tidegate audit verify --proof alice.tlog-proof --vkey gateway.vkey

Without --vkey a journal is only found to be consistent with itself: whoever can write it could have made all of
it. Take the key from a place that the gateway's host cannot change.";

/// Check that every record is the one that was signed; exit code 1 if one is not
#[derive(Debug, Clone, Args)]
#[command(after_help = VERIFY_EXAMPLES)]
pub struct VerifyArgs {
    /// The journal's directory
    #[arg(long, value_name = "DIR", required_unless_present = "proof")]
    pub journal: Option<PathBuf>,
    /// The file with the key that must have signed the checkpoints; the gateway writes it to tree/vkey
    #[arg(long, value_name = "FILE")]
    pub vkey: Option<PathBuf>,
    /// Only records from this one on: a record number or a time
    #[arg(long, value_name = "BOUND", value_parser = bound)]
    pub from: Option<Bound>,
    /// Only records before this one: a record number or a time
    #[arg(long, value_name = "BOUND", value_parser = bound)]
    pub to: Option<Bound>,
    /// A checkpoint that was seen earlier: the journal must still begin with its records
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to"])]
    pub checkpoint: Option<PathBuf>,
    /// Write the tiles again from the records, if those are as signed; not while the gateway runs
    #[arg(long, conflicts_with_all = ["from", "to"])]
    pub rebuild: bool,
    /// Write all logs with their records as C2SP tlog-tiles, for other verifiers
    #[arg(long, value_name = "DIR", conflicts_with_all = ["from", "to"])]
    pub export: Option<PathBuf>,
    /// Check a proof instead, as `tidegate audit proof` writes it; needs no journal
    #[arg(long, value_name = "FILE", requires = "vkey", conflicts_with_all = ["journal", "from", "to", "checkpoint", "rebuild", "export"])]
    pub proof: Option<PathBuf>,
    /// How to print the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Output,
}

/// Write the proof of one record: the record, the hashes that lead to the root, the signed checkpoint
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  tidegate audit proof 01912f6e-7a3c-7d1e-8b0a-0123456789ab --journal journal -o alice.tlog-proof"
)]
pub struct ProofArgs {
    /// The record id of a crossing, or the number of a record
    #[arg(value_name = "ID", value_parser = wanted)]
    pub id: Wanted,
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    pub journal: PathBuf,
    /// Prove how the crossing ended, not what was decided
    #[arg(long)]
    pub outcome: bool,
    /// Where to write the proof
    #[arg(short, long = "out", value_name = "FILE")]
    pub out: PathBuf,
}

fn bound(text: &str) -> Result<Bound, String> {
    if let Ok(seq) = text.parse() {
        return Ok(Bound::Record(seq));
    }
    super::filter::since(text)
        .map(Bound::Time)
        .map_err(|error| format!("{error}, or a record number: `1200`"))
}

fn wanted(text: &str) -> Result<Wanted, String> {
    if let Ok(seq) = text.parse() {
        return Ok(Wanted::Seq(seq));
    }
    let id: Result<RecordId, _> = text.parse();
    id.map(Wanted::Crossing).map_err(|_| format!("`{text}` is neither a record id nor a record number"))
}

/// `verify` to standard output.
///
/// # Errors
/// The journal, key or proof cannot be read, or the output not written.
pub(crate) fn run(args: &VerifyArgs) -> anyhow::Result<Answer> {
    let key = args.vkey.as_deref().map(read_key).transpose()?;
    if let (Some(proof), Some(key)) = (&args.proof, &key) {
        return check_proof(proof, key, args.output, &mut io::stdout().lock());
    }
    let journal = args.journal.as_deref().ok_or_else(|| anyhow!("no journal is named"))?;
    let began = Instant::now();
    let report = progress::with(journal, "verifying", |bar| check(args, journal, key.as_ref(), bar.bytes()))?;
    let out = &mut io::stdout().lock();
    print(&report, began.elapsed(), args.output, out)?;
    if report.is_good()
        && let Some(target) = &args.export
    {
        let written = export::export(journal, target)?;
        super::erase::tell_read(journal, "verify --export", None, Some(written));
        writeln!(io::stderr(), "tidegate: {written} records as tlog-tiles in `{}`", target.display())?;
    }
    Ok(if report.is_good() { Answer::Yes } else { Answer::No })
}

fn read_key(path: &Path) -> anyhow::Result<VerifierKey> {
    let text = read_note(path).and_then(|text| text.ok_or_else(|| io::ErrorKind::NotFound.into()));
    let text = text.with_context(|| format!("failed to read the verifier key `{}`", path.display()))?;
    text.parse().with_context(|| format!("the verifier key `{}` cannot be used", path.display()))
}

fn check(
    args: &VerifyArgs,
    journal: &Path,
    key: Option<&VerifierKey>,
    bytes: &AtomicU64,
) -> anyhow::Result<Report> {
    if args.from.is_some() || args.to.is_some() {
        return Ok(range::check(journal, (args.from, args.to), key, bytes)?);
    }
    if args.rebuild {
        rebuild::rebuild(journal, key)?;
    }
    let Some(path) = &args.checkpoint else { return Ok(whole::check(journal, key, None, bytes)?) };
    let note = read_note(path)?.ok_or_else(|| anyhow!("checkpoint `{}` is missing", path.display()))?;
    let keys: Vec<VerifierKey> = key.cloned().into_iter().collect();
    let seen = Checkpoint::open(&note, &keys)
        .with_context(|| format!("checkpoint `{}` cannot be used", path.display()))?;
    Ok(whole::check(journal, key, Some((&note, seen)), bytes)?)
}

fn print(report: &Report, took: Duration, output: Output, out: &mut dyn Write) -> anyhow::Result<()> {
    if output == Output::Json {
        let mut value = serde_json::to_value(report)?;
        if let Some(members) = value.as_object_mut() {
            members.insert("good".to_owned(), report.is_good().into());
            members.insert("milliseconds".to_owned(), u64::try_from(took.as_millis())?.into());
        }
        writeln!(out, "{value}")?;
        return Ok(());
    }
    for log in &report.logs {
        writeln!(out, "log       {}", printable(&log.origin))?;
        writeln!(out, "          {} records from {}, {} signed", log.records, log.first, log.signed)?;
        writeln!(out, "          root {}", log.root)?;
        writeln!(out, "          key  {}", log.key.as_deref().unwrap_or("none of yours"))?;
    }
    let rate = per_minute(report.records, took);
    writeln!(
        out,
        "read      {} records in {} segments, {:.1} s, {rate} a minute",
        report.records,
        report.segments,
        took.as_secs_f64()
    )?;
    if report.unsigned > 0 {
        writeln!(out, "unsigned  {} records are newer than the last checkpoint", report.unsigned)?;
    }
    if report.pruned > 0 {
        writeln!(out, "deleted   {} records by retention; their hashes were checked", report.pruned)?;
    }
    if report.before_tree > 0 {
        writeln!(out, "unproved  {} records are from before the journal had a tree", report.before_tree)?;
    }
    for problem in &report.problems {
        writeln!(out, "PROBLEM   {}", printable(&problem.what))?;
        let place = [
            problem.index.map(|index| format!("leaf {index}")),
            problem.file.as_ref().map(|file| printable(&file.display().to_string())),
            problem.offset.map(|offset| format!("offset {offset}")),
            problem.id.map(|id| format!("crossing {id}")),
        ];
        let place: Vec<String> = place.into_iter().flatten().collect();
        if !place.is_empty() {
            writeln!(out, "          {}", place.join(", "))?;
        }
    }
    writeln!(
        out,
        "{}",
        match (report.is_good(), report.trusted) {
            (true, true) => "verified  every record that was checked is the one that was signed",
            (true, false) =>
                "self-consistent only: no key was given (--vkey), so whoever can write the journal could have made it",
            (false, _) => "NOT VERIFIED",
        }
    )?;
    Ok(())
}

/// Records a minute, in words.
fn per_minute(records: u64, took: Duration) -> String {
    let millis = u128::max(took.as_millis(), 1);
    let rate = u128::from(records) * 60_000 / millis;
    match rate {
        0..1_000_000 => rate.to_string(),
        _ => format!("{}.{} M", rate / 1_000_000, rate % 1_000_000 / 100_000),
    }
}

fn check_proof(
    path: &Path,
    key: &VerifierKey,
    output: Output,
    out: &mut dyn Write,
) -> anyhow::Result<Answer> {
    let what = || format!("failed to read the proof `{}`", path.display());
    let size = fs::metadata(path).with_context(what)?.len();
    if size > MAX_BYTES {
        return Err(anyhow!("`{}` is too large for a proof: {size} bytes", path.display()));
    }
    let bytes = fs::read(path).with_context(what)?;
    let text = String::from_utf8_lossy(&bytes);
    let verified = ProofFile::parse(&text).and_then(|proof| proof.verify(key).map(|found| (proof, found)));
    match (&verified, output) {
        (Ok((proof, found)), Output::Json) => {
            let record = String::from_utf8_lossy(&proof.record).into_owned();
            let line = serde_json::json!({
                "good": true, "origin": found.origin, "index": proof.index, "size": found.size,
                "root": found.root_hex(), "key": key.label(), "record": record,
            });
            writeln!(out, "{line}")?;
        }
        (Ok((proof, found)), Output::Table) => {
            writeln!(out, "record    {}", printable(&String::from_utf8_lossy(&proof.record)))?;
            writeln!(out, "log       {}", printable(&found.origin))?;
            writeln!(out, "          leaf {} of {}, root {}", proof.index, found.size, found.root_hex())?;
            writeln!(out, "          key  {}", key.label())?;
            writeln!(out, "verified  the record is in the log that the key signed")?;
        }
        (Err(error), Output::Json) => {
            writeln!(out, "{}", serde_json::json!({ "good": false, "problem": error.to_string() }))?;
        }
        (Err(error), Output::Table) => {
            writeln!(out, "PROBLEM   {}: {}", path.display(), printable(&error.to_string()))?;
            writeln!(out, "NOT VERIFIED")?;
        }
    }
    Ok(if verified.is_ok() { Answer::Yes } else { Answer::No })
}

/// `proof`: writes the file and says what it proves.
///
/// # Errors
/// The record is not there or not signed yet, or a file cannot be read or written.
pub(crate) fn proof(args: &ProofArgs) -> anyhow::Result<Answer> {
    let wanted = match args.id {
        Wanted::Crossing(id) if args.outcome => Wanted::Outcome(id),
        other => other,
    };
    let proof = match prove(&args.journal, wanted) {
        Err(error @ crate::audit::verify::VerifyError::NoRecord(_)) => {
            writeln!(io::stderr(), "tidegate: {error}")?;
            return Ok(Answer::No);
        }
        other => other?,
    };
    let failed = || format!("failed to write the proof `{}`", args.out.display());
    fs::write(&args.out, proof.text()).with_context(failed)?;
    writeln!(
        io::stdout(),
        "leaf {} is proved by {} hashes in `{}`",
        proof.index,
        proof.hashes.len(),
        args.out.display()
    )?;
    Ok(Answer::Yes)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_bound_is_a_number_or_a_time() {
        assert_eq!(bound("1200"), Ok(Bound::Record(1200)));
        assert!(matches!(bound("2026-11-24T08:00:00Z"), Ok(Bound::Time(_))));
        assert!(matches!(bound("24h"), Ok(Bound::Time(time)) if time < Timestamp::now()));
        assert!(bound("soon").unwrap_err().contains("record number"));
        assert!(wanted("x").is_err());
    }

    #[test]
    fn a_rate_is_readable() {
        assert_eq!(per_minute(500, Duration::from_secs(60)), "500");
        assert_eq!(per_minute(2_550_000, Duration::from_secs(6)), "25.5 M");
    }
}
