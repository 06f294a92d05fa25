//! `tidegate audit query`: searches the journal by its index, or by reading all of it.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::super::Answer;
use super::FilterArgs;
use super::progress::{self, Bar};
use super::table::Printer;
use super::tail::in_order;
use crate::audit::filter::Filter;
use crate::audit::formats::{Entry, OpenDecisions, csv, json_lines, ocsf};
use crate::audit::index::{Index, IndexError, Renewed, Watch};
use crate::audit::lines::{self, Row};

const EXAMPLES: &str = "\
Examples:
  tidegate audit query --journal journal --principal alice --from 24h
  tidegate audit query --journal journal --decision deny --label confidential+ --output csv
  tidegate audit query --journal journal --id 01912f6e-7a3c --output json

Searches use an index, DIR/index, which is made and kept up to date by this command; it may be removed at any time.";

/// What asks for more lines reads the journal in one go.
const MOST_BY_INDEX: usize = 10_000;

/// Search the journal; exit code 1 if nothing was found
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct QueryArgs {
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    pub journal: PathBuf,
    /// The most lines to show; the newest are kept
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// How to print the lines
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: QueryOutput,
    /// Read the whole journal instead of the index
    #[arg(long)]
    pub no_index: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub filter: FilterArgs,
}

/// The form of the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum QueryOutput {
    /// A table for people
    #[default]
    Table,
    /// The records, one JSON object a line
    Json,
    /// The records as rows for spreadsheets
    Csv,
    /// The records as OCSF API Activity events, one JSON object a line
    Ocsf,
}

/// `query` to standard output.
///
/// # Errors
/// The journal cannot be read, or the output not written.
pub(crate) fn run(args: &QueryArgs) -> anyhow::Result<Answer> {
    let found = progress::with(&args.journal, "reading", |bar| {
        search(
            args,
            &mut |note| {
                let _ = writeln!(io::stderr(), "tidegate: {note}");
            },
            bar,
        )
    })?;
    print(&found.rows, args.output, &mut Printer::to_stdout(), &mut io::stdout().lock())
        .context("cannot print")?;
    let shown = u64::try_from(found.rows.len()).unwrap_or(u64::MAX);
    if let Some(total) = found.total.filter(|total| *total > shown) {
        writeln!(io::stderr(), "tidegate: the newest {shown} of {total}; --limit shows more")?;
    }
    Ok(if found.rows.is_empty() { Answer::No } else { Answer::Yes })
}

/// What a search found.
#[derive(Debug)]
pub struct Results {
    /// The newest lines, oldest first.
    pub rows: Vec<Row>,
    /// How many there are in all, if that is known.
    pub total: Option<u64>,
}

/// Searches; `note` is told what is worth knowing on the way.
///
/// # Errors
/// The journal cannot be read.
pub fn query(args: &QueryArgs, note: &mut dyn FnMut(String)) -> anyhow::Result<Results> {
    search(args, note, &Bar::default())
}

fn search(args: &QueryArgs, note: &mut dyn FnMut(String), bar: &Bar) -> anyhow::Result<Results> {
    let filter = args.filter.filter();
    // The newest of all, or of a time, stand together; and whoever wants very many is served by reading.
    let by_index = !args.no_index && !filter.is_time_only() && args.limit <= MOST_BY_INDEX;
    if by_index {
        match indexed(args, &filter, note, bar) {
            Err(error) if error.allows_scan() => {
                let error = anyhow::Error::from(error);
                note(format!("{error:#}; the whole journal is read instead"));
            }
            found => return Ok(found?),
        }
    }
    let keep = args.output != QueryOutput::Table;
    let (mut lines, _) = lines::newest(&args.journal, &filter, args.limit, keep)?;
    Ok(Results { rows: lines.take(), total: None })
}

fn indexed(
    args: &QueryArgs,
    filter: &Filter,
    note: &mut dyn FnMut(String),
    bar: &Bar,
) -> Result<Results, IndexError> {
    let index = Index::open(&args.journal, &mut Watching { note, bar })?;
    let (hits, total) = index.search(filter, args.limit)?;
    let rows = hits.into_iter().filter_map(|hit| Row::of(hit.record, hit.outcome)).collect();
    Ok(Results { rows, total: Some(total) })
}

struct Watching<'a> {
    note: &'a mut dyn FnMut(String),
    bar: &'a Bar,
}

impl Watch for Watching<'_> {
    fn renewed(&mut self, why: Renewed) {
        (self.note)(why.text().to_owned());
    }

    fn waits(&mut self) {
        (self.note)("somebody else brings the index up to date; waiting".to_owned());
    }

    fn read(&mut self, bytes: usize) {
        self.bar.add(bytes);
    }
}

/// Prints lines in the form asked for.
///
/// # Errors
/// They cannot be written.
pub fn print(
    rows: &[Row],
    output: QueryOutput,
    printer: &mut Printer,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut out = out;
    if output == QueryOutput::Table {
        return printer.print(rows, out);
    }
    if output == QueryOutput::Csv {
        csv::header(&mut out)?;
    }
    let mut open = OpenDecisions::default();
    for (seq, payload) in in_order(rows) {
        let decision = open.take(payload);
        let entry = Entry { decision: decision.as_ref(), ..Entry::new(*seq, payload) };
        match output {
            QueryOutput::Csv => csv::write(&entry, &mut out)?,
            QueryOutput::Ocsf => ocsf::write(&entry, &mut out)?,
            QueryOutput::Table | QueryOutput::Json => json_lines::write(&entry, &mut out)?,
        }
    }
    out.flush()
}
