//! `tidegate audit reconcile`: the journal against an export of the backend.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use jiff::Timestamp;

use super::super::Answer;
use super::Output;
use super::filter::since;
use super::progress;
use crate::audit::reconcile::{Finding, Findings, Reconciled, reconcile};
use crate::audit::view::printable;

const EXAMPLES: &str = "\
Examples:
  tidegate audit reconcile --journal journal --export logs.json --from 2026-11-01 --to 2026-12-01
  tidegate audit reconcile --journal journal --export backend.csv --column LogAttributes.uid --output json

An export is a file of OTLP logs as JSON, JSON Lines with `log.record.uid` or `uid`, or CSV (`.csv`) with such a
column; any of them may be in gzip (`.gz`). Records that came later than the export was made count as missing: end
the period before it with --to.";

/// Findings of a kind that the table shows.
const SHOWN: usize = 10;

/// Compare the journal with what a backend holds; exit code 1 if they differ
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReconcileArgs {
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    pub journal: PathBuf,
    /// A file that the backend exported; may be given several times
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub export: Vec<PathBuf>,
    /// The column, member or attribute that holds the uid, if it is called otherwise
    #[arg(long, value_name = "NAME")]
    pub column: Option<String>,
    /// Only records from this time on: `2026-11-24T08:00:00Z`, `2026-11-24`, or how long ago: `15m`, `24h`, `7d`
    #[arg(long, value_name = "TIME", value_parser = since, allow_hyphen_values = true)]
    pub from: Option<Timestamp>,
    /// Only records before this time, written as for --from
    #[arg(long, value_name = "TIME", value_parser = since, allow_hyphen_values = true)]
    pub to: Option<Timestamp>,
    /// How to print the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Output,
}

/// `reconcile` to standard output.
///
/// # Errors
/// The journal or an export cannot be read.
pub(crate) fn run(args: &ReconcileArgs) -> anyhow::Result<Answer> {
    let window = (args.from, args.to);
    let found = progress::with(&args.journal, "comparing", |bar| {
        reconcile(&args.journal, &args.export, args.column.as_deref(), window, bar.bytes())
    })?;
    print(&found, args.output, &mut io::stdout().lock())?;
    Ok(if found.agrees() { Answer::Yes } else { Answer::No })
}

fn print(found: &Reconciled, output: Output, out: &mut dyn Write) -> anyhow::Result<()> {
    if output == Output::Json {
        let mut value = serde_json::to_value(found)?;
        if let Some(members) = value.as_object_mut() {
            members.insert("agrees".to_owned(), found.agrees().into());
        }
        writeln!(out, "{value}")?;
        return Ok(());
    }
    writeln!(out, "journal   {} records of the period", found.journal)?;
    writeln!(
        out,
        "export    {} rows: {} of them records of the period, {} repeated, {} of records outside it, {} checkpoints, {} not ours",
        found.rows, found.found, found.duplicates, found.outside, found.checkpoints, found.foreign
    )?;
    writeln!(
        out,
        "compared  {} by their whole content, {} by their uid only",
        found.compared,
        found.found.saturating_sub(found.compared)
    )?;
    let kinds = [
        ("MISSING", "in the journal, not in the export", &found.missing),
        ("UNKNOWN", "in the export, not in the journal", &found.unknown),
        ("DIFFERS", "in both, with another content", &found.differing),
        ("REWRITTEN", "checkpoints that the journal does not give any more", &found.rewritten),
    ];
    for (name, what, findings) in kinds.into_iter().filter(|(_, _, findings)| findings.count > 0) {
        writeln!(out, "\n{name:<9} {} {what}", findings.count)?;
        writeln!(out, "{}", table(findings).trim_fmt())?;
    }
    let verdict =
        if found.agrees() { "agreed    journal and export hold the same records" } else { "NOT AGREED" };
    writeln!(out, "{verdict}")?;
    Ok(())
}

fn table(findings: &Findings) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    for Finding { uid, seq, time, file } in findings.first.iter().take(SHOWN) {
        let file = file.as_ref().map(|file| printable(&file.display().to_string()));
        table.add_row([
            "         ".to_owned(),
            seq.map(|seq| seq.to_string()).unwrap_or_default(),
            time.map(|time| time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()).unwrap_or_default(),
            printable(uid),
            file.unwrap_or_default(),
        ]);
    }
    let more = findings.count.saturating_sub(u64::try_from(SHOWN).unwrap_or(0));
    if more > 0 {
        table.add_row([
            String::new(),
            String::new(),
            String::new(),
            format!("and {more} more: --output json"),
            String::new(),
        ]);
    }
    table
}
