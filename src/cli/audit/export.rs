//! `tidegate audit export`: the records that a filter selects, for spreadsheets, SIEMs and scripts.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::super::Answer;
use super::Output;
use super::filter::FilterArgs;
use super::progress;
use crate::audit::report::described;
use crate::audit::report::export::{Form, Format, export};

const EXAMPLES: &str = "\
Examples:
  tidegate audit export --journal journal --format csv --from 2026-11-01 --to 2026-12-01 -o november
  tidegate audit export --journal journal --format ocsf --from 24h --decision deny -o denials.tar.gz
  tidegate audit export --journal journal --format jsonl --gzip -o all

The directory holds the records and manifest.json: hashes, counts, filters and the signed heads of the logs. What
a filter left out cannot be seen in it; `tidegate audit report` proves that a period is complete.";

/// Write records as JSON Lines, CSV or OCSF events; exit code 1 if there are none
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct ExportArgs {
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    pub journal: PathBuf,
    /// The format of the records
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = FormatArg::Jsonl)]
    pub format: FormatArg,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub filter: FilterArgs,
    /// Compress the file of the records with gzip; its hash in the manifest is that of the compressed file
    #[arg(long)]
    pub gzip: bool,
    /// The directory to make, or a file that ends in `.tar` or `.tar.gz`; nothing may be there
    #[arg(short, long = "out", value_name = "DIR")]
    pub out: PathBuf,
    /// How to print the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Output,
}

/// The format of exported records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// The records as they are, one a line, with their number
    Jsonl,
    /// A table for spreadsheets, without formulas
    Csv,
    /// OCSF 1.8.0 events of the class API Activity, one a line
    Ocsf,
}

/// `export`: writes the directory and says what is in it.
///
/// # Errors
/// The journal cannot be read, or the directory not written.
pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<Answer> {
    let format = match args.format {
        FormatArg::Jsonl => Format::JsonLines,
        FormatArg::Csv => Format::Csv,
        FormatArg::Ocsf => Format::Ocsf,
    };
    let filter = args.filter.filter();
    let exported = progress::with(&args.journal, "exporting", |bar| {
        export(&args.journal, &filter, Form { format, gzip: args.gzip }, &args.out, bar.bytes())
    })?;
    super::erase::tell_read(
        &args.journal,
        "export",
        Some(&described(&filter).to_string()),
        Some(exported.records),
    );
    let out = &mut io::stdout().lock();
    let place = args.out.display().to_string();
    if args.output == Output::Json {
        let line = serde_json::json!({
            "out": place, "format": format.name(), "records": exported.records, "kinds": exported.kinds,
            "first_seq": exported.range.map(|(first, _)| first), "last_seq": exported.range.map(|(_, last)| last),
            "passed_over": exported.passed_over, "filters": described(&filter),
        });
        writeln!(out, "{line}")?;
    } else {
        let kinds: Vec<String> =
            exported.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let kinds = if kinds.is_empty() { String::new() } else { format!(": {}", kinds.join(", ")) };
        writeln!(out, "{} records in `{place}`{kinds}", exported.records)?;
    }
    if exported.passed_over > 0 {
        let count = exported.passed_over;
        writeln!(
            io::stderr(),
            "tidegate: {count} records are of no version that this program knows and were left out"
        )?;
    }
    Ok(if exported.records == 0 { Answer::No } else { Answer::Yes })
}
