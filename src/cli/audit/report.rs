//! `tidegate audit report`: a period as a bundle that a stranger checks.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::super::Answer;
use super::Output;
use super::progress;
use super::verify::{bound, read_key};
use crate::audit::report::agreement::{self, Judge};
use crate::audit::report::bundle::{Bundle, write};
use crate::audit::verify::range::Bound;
use crate::audit::view::printable;
use crate::policy::replay::{ReplayError, Replayer};

const EXAMPLES: &str = "\
Examples:
  tidegate audit report --journal journal --vkey gateway.vkey --from 2026-11-01 --to 2026-12-01 -o november
  tidegate audit report --journal journal --from 24h -o day.tar

The bundle holds every record of the period, the proof that none is missing, the policies as they were, a page to
read and the commands by which somebody without this program checks it. It shows who asked for what.

Exit codes: 0 if it was written; 1 if it was written and policies decide otherwise than recorded, or if it was
not, because a record is not as it was signed, is deleted, or none is in the period.";

/// Write a period as a bundle that proves that no record is missing, with a page to read
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReportArgs {
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    pub journal: PathBuf,
    /// From this time or record number on: `2026-11-24T08:00:00Z`, `2026-11-24`, `24h` ago, `1200`
    #[arg(long, value_name = "BOUND", value_parser = bound, allow_hyphen_values = true)]
    pub from: Bound,
    /// Only before this time or record number; without it, up to the last signed record
    #[arg(long, value_name = "BOUND", value_parser = bound, allow_hyphen_values = true)]
    pub to: Option<Bound>,
    /// The file with the key that must have signed the checkpoints
    #[arg(long, value_name = "FILE")]
    pub vkey: Option<PathBuf>,
    /// The directory to make, or a file that ends in `.tar` or `.tar.gz`; nothing may be there
    #[arg(short, long = "out", value_name = "DIR")]
    pub out: PathBuf,
    /// Do not ask the archived policies again what they decided
    #[arg(long)]
    pub without_replay: bool,
    /// How to print the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Output,
}

/// `report`: writes the bundle and says what is in it.
///
/// # Errors
/// The journal or key cannot be read, or the bundle not written.
pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<Answer> {
    let key = args.vkey.as_deref().map(read_key).transpose()?;
    let period = (args.from, args.to.unwrap_or(Bound::Record(u64::MAX)));
    let mut archive = Archive(Replayer::new(&args.journal.join("bundles")));
    let judge = (!args.without_replay).then_some(&mut archive as &mut dyn Judge);
    let made = progress::with(&args.journal, "reporting", |bar| {
        write(&args.journal, period, key.as_ref(), judge, &args.out, bar.bytes())
    });
    match made {
        Ok(bundle) => {
            let asked = format!("{} to {}", bundle.from, bundle.to);
            super::erase::tell_read(&args.journal, "report", Some(&asked), Some(bundle.statistics.records));
            print(&bundle, args, &mut io::stdout().lock())?;
            let differed = bundle.agreement.as_ref().is_some_and(|found| found.differed > 0);
            Ok(if differed { Answer::No } else { Answer::Yes })
        }
        Err(error) if error.is_negative() => {
            writeln!(io::stderr(), "tidegate: {error}")?;
            Ok(Answer::No)
        }
        Err(error) => Err(error.into()),
    }
}

/// The archived policies of a journal, asked again what they decided.
#[derive(Debug)]
pub struct Archive(pub Replayer);

impl Judge for Archive {
    fn judge(&mut self, decision: &serde_json::Value) -> agreement::Answer {
        use agreement::Answer::{Agrees, Differs, Impossible, NotAsked};
        let error = match self.0.replay(decision) {
            Ok(replayed) if replayed.agrees => return Agrees,
            // Another text was asked than then: that it is answered otherwise says nothing.
            Ok(replayed) if !replayed.notes.is_empty() => {
                let words = replayed.notes.iter().chain(&replayed.differences);
                let words = words.cloned().collect::<Vec<_>>().join("; ");
                return Impossible { reason: "digested_path", words };
            }
            Ok(replayed) => return Differs(replayed.differences),
            Err(error) => error,
        };
        // The words are for whoever gets the report: where the archive lies is no business of theirs.
        let (reason, words) = match &error {
            ReplayError::NoDecision(_) | ReplayError::NotAsked(_) | ReplayError::NothingTried(_) => {
                return NotAsked;
            }
            ReplayError::Cut => ("cut", error.to_string()),
            ReplayError::Erased => (agreement::ERASED, error.to_string()),
            ReplayError::Contradiction(_) | ReplayError::Malformed { .. } => ("malformed", error.to_string()),
            ReplayError::Missing { .. } => {
                ("bundle_missing", "the archive does not hold this bundle".to_owned())
            }
            ReplayError::Changed { found, .. } => (
                "bundle_changed",
                format!("the archive's files under this hash are others: they hash to {found}"),
            ),
            ReplayError::Refused { .. } => {
                ("bundle_refused", "this version of the program does not load this bundle".to_owned())
            }
        };
        Impossible { reason, words }
    }
}

fn print(bundle: &Bundle, args: &ReportArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let (found, place) = (&bundle.statistics, args.out.display());
    if args.output == Output::Json {
        let logs: Vec<_> = bundle.logs.iter().map(|log| serde_json::json!({ "origin": log.origin, "first_index": log.window.0, "end_index": log.window.1, "root": log.root, "key": log.key })).collect();
        let line = serde_json::json!({
            "out": place.to_string(), "verified_with_key": bundle.trusted, "unsigned": bundle.unsigned, "deleted_below": bundle.deleted_below, "logs": logs,
            "missing_policies": bundle.missing_policies, "statistics": found, "replay": bundle.agreement, "users_under_alias": bundle.hidden,
        });
        writeln!(out, "{line}")?;
        return Ok(());
    }
    for log in &bundle.logs {
        writeln!(out, "log       {}", printable(&log.origin))?;
        writeln!(
            out,
            "          leaves {} to {} of {}",
            log.window.0,
            log.window.1.saturating_sub(1),
            log.size
        )?;
        writeln!(out, "          root {}", log.root)?;
        writeln!(out, "          key  {}", log.key.as_deref().unwrap_or("not at hand"))?;
    }
    let decided = found.decisions;
    writeln!(
        out,
        "decisions {} permitted, {} denied, {} rejected",
        decided.allow, decided.deny, decided.reject
    )?;
    writeln!(out, "refused   {} before anybody was identified", found.refused)?;
    writeln!(out, "open      {} permitted without an outcome", found.open)?;
    if let Some(agreement) = &bundle.agreement {
        writeln!(out, "replay    {}", agreement.sentence())?;
    }
    if bundle.unsigned > 0 {
        writeln!(
            out,
            "unsigned  {} records are newer than the last checkpoint and were left out",
            bundle.unsigned
        )?;
    }
    for hash in &bundle.missing_policies {
        writeln!(out, "missing   policies {}", printable(hash))?;
    }
    if let Some(below) = bundle.deleted_below {
        writeln!(
            out,
            "deleted   records below {below}, by retention: the bundle begins with the oldest that there is"
        )?;
    }
    if bundle.hidden.records > 0 {
        let hidden = bundle.hidden;
        writeln!(
            out,
            "users     under an alias in {} decisions; erased in {}, key not at hand in {}",
            hidden.records, hidden.erased, hidden.without_key
        )?;
    }
    let verdict = if bundle.trusted {
        "complete and as signed"
    } else {
        "complete; consistent with itself only: no key was given (--vkey)"
    };
    writeln!(out, "bundle    `{place}`: {} records, {verdict}", found.records)?;
    Ok(())
}
