//! `tidegate audit tail`: the newest lines of the journal, and what comes.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::super::Answer;
use super::table::Printer;
use super::{FilterArgs, Output};
use crate::audit::formats::{Entry, json_lines};
use crate::audit::lines::{self, Row};

/// How often a followed journal is looked at.
const POLL: Duration = Duration::from_millis(200);
/// How long a line waits for its outcome while a journal is followed.
const PATIENCE: Duration = Duration::from_secs(1);
/// Records that are read before what is ready is shown.
const READ_AHEAD: u32 = 4096;

/// Show the newest crossings and events, and follow what comes
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  tidegate audit tail --journal journal --follow --decision deny")]
pub struct TailArgs {
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    pub journal: PathBuf,
    /// Go on with what comes, until Ctrl-C; an outcome that is late is a line of its own
    #[arg(long, short)]
    pub follow: bool,
    /// Lines to show first
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    pub lines: usize,
    /// How to print the lines
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Output,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub filter: FilterArgs,
}

/// `tail` to standard output.
///
/// # Errors
/// The journal cannot be read, or the output not written.
pub(crate) fn run(args: &TailArgs) -> anyhow::Result<Answer> {
    tail(args, &mut Printer::to_stdout(), &mut io::stdout().lock(), || true)?;
    Ok(Answer::Yes)
}

/// Shows the newest lines and, if asked to, what comes for as long as `goes_on` says so.
///
/// # Errors
/// The journal cannot be read, or the output not written.
pub fn tail(
    args: &TailArgs,
    printer: &mut Printer,
    out: &mut dyn Write,
    goes_on: impl Fn() -> bool,
) -> anyhow::Result<()> {
    let keep = args.output == Output::Json;
    let (mut lines, mut reader) = lines::newest(&args.journal, &args.filter.filter(), args.lines, keep)?;
    if !args.follow {
        return Ok(print(&lines.take(), args.output, printer, out)?);
    }
    print(&lines.take_ready(Duration::ZERO), args.output, printer, out)?;
    lines.follow();
    while goes_on() {
        let mut read = 0;
        while read < READ_AHEAD
            && let Some(stored) = reader.read_next()?
        {
            lines.add(&stored);
            read += 1;
        }
        let ready = lines.take_ready(PATIENCE);
        if !ready.is_empty() {
            print(&ready, args.output, printer, out)?;
        }
        if read == 0 {
            std::thread::sleep(POLL);
        }
    }
    Ok(())
}

fn print(rows: &[Row], output: Output, printer: &mut Printer, out: &mut dyn Write) -> io::Result<()> {
    if output == Output::Table {
        return printer.print(rows, out);
    }
    in_order(rows)
        .into_iter()
        .try_for_each(|(seq, payload)| json_lines::write(&Entry::new(*seq, payload), &mut &mut *out))?;
    out.flush()
}

/// All records of lines, by their number.
pub(super) fn in_order(rows: &[Row]) -> Vec<&(u64, Vec<u8>)> {
    let mut records: Vec<&(u64, Vec<u8>)> = rows.iter().flat_map(|row| &row.records).collect();
    records.sort_by_key(|(seq, _)| *seq);
    records
}
