//! `tidegate audit tail` and `query`: the journal as a table or as JSON lines.

pub mod export;
mod filter;
pub mod reconcile;
pub mod report;
pub mod verify;

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Table, Width};

pub use self::filter::FilterArgs;
use crate::audit::lines::{self, Row};
use crate::audit::reader::ReadError;

const QUERY_EXAMPLES: &str = "\
Examples:
  tidegate audit query --journal journal --principal alice --since 24h
  tidegate audit query --journal journal --id 01912f6e-7a3c-7d1e-8b0a-0123456789ab --output json";

/// How often a followed journal is looked at.
const POLL: Duration = Duration::from_millis(200);
/// How long a line waits for its outcome while a journal is followed.
const PATIENCE: Duration = Duration::from_secs(1);
/// Characters of a cell; the JSON output has the whole text.
const CELL: usize = 44;

/// Show the newest crossings and events
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  tidegate audit tail --journal journal --follow --decision deny")]
pub struct TailArgs {
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    pub journal: PathBuf,
    /// Go on with what comes, until Ctrl-C
    #[arg(long, short)]
    pub follow: bool,
    /// Lines to show first
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    pub lines: usize,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub filter: FilterArgs,
    /// How to print the lines
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Output,
}

/// Search the journal; exit code 1 if nothing was found
#[derive(Debug, Clone, Args)]
#[command(after_help = QUERY_EXAMPLES)]
pub struct QueryArgs {
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    pub journal: PathBuf,
    /// The most lines to show; the newest are kept
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub filter: FilterArgs,
    /// How to print the lines
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Output,
}

/// The form of the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people
    #[default]
    Table,
    /// The records for programs, one JSON object a line
    Json,
}

/// A journal that could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It could not be printed.
    #[error("cannot print")]
    Print(#[from] io::Error),
}

impl ShowError {
    /// Whether only the reader of our output has gone, which is no failure.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Print(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Where to print, and how.
pub struct Printer<'a> {
    out: &'a mut dyn Write,
    output: Output,
    color: bool,
    header: bool,
}

impl std::fmt::Debug for Printer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Printer")
            .field("output", &self.output)
            .field("color", &self.color)
            .finish_non_exhaustive()
    }
}

/// Whether standard output wants colours: a terminal, and `NO_COLOR` unset or empty.
#[must_use]
pub fn wants_color() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

impl<'a> Printer<'a> {
    /// Prints to `out`.
    pub const fn new(out: &'a mut dyn Write, output: Output, color: bool) -> Self {
        Self { out, output, color, header: true }
    }

    fn print(&mut self, rows: &[Row]) -> io::Result<()> {
        match self.output {
            Output::Json => {
                let mut lines: Vec<&String> = rows.iter().flat_map(|row| &row.json).collect();
                lines.sort_by_key(|line| number(line));
                lines.into_iter().try_for_each(|line| writeln!(self.out, "{line}"))?;
            }
            Output::Table if rows.is_empty() => {}
            Output::Table => {
                let table = table(rows, std::mem::take(&mut self.header), self.color);
                writeln!(self.out, "{}", table.trim_fmt())?;
            }
        }
        self.out.flush()
    }
}

/// The record number at the head of a JSON line.
fn number(line: &str) -> u64 {
    let digits = line.strip_prefix("{\"seq\":").and_then(|rest| rest.split_once(',')).map(|(seq, _)| seq);
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_default()
}

/// Shows the newest lines, and goes on if asked to.
///
/// # Errors
/// The journal cannot be read, or the output not written.
pub fn tail(args: &TailArgs, printer: &mut Printer<'_>) -> Result<(), ShowError> {
    let keep_json = args.output == Output::Json;
    let (mut lines, mut reader) = lines::newest(&args.journal, &args.filter.filter(), args.lines, keep_json)?;
    if !args.follow {
        printer.print(&lines.take())?;
        return Ok(());
    }
    printer.print(&lines.take_ready(Duration::ZERO))?;
    lines.follow();
    loop {
        let mut read = 0_u32;
        while read < 4096
            && let Some(stored) = reader.read_next()?
        {
            lines.add(&stored);
            read += 1;
        }
        let ready = lines.take_ready(PATIENCE);
        if !ready.is_empty() {
            printer.print(&ready)?;
        }
        if read == 0 {
            std::thread::sleep(POLL);
        }
    }
}

/// Shows what a search finds; whether it found something.
///
/// # Errors
/// The journal cannot be read, or the output not written.
pub fn query(args: &QueryArgs, printer: &mut Printer<'_>) -> Result<bool, ShowError> {
    let filter = args.filter.filter();
    let (mut lines, _) = lines::newest(&args.journal, &filter, args.limit, args.output == Output::Json)?;
    let rows = lines.take();
    printer.print(&rows)?;
    Ok(!rows.is_empty())
}

/// `tail` to standard output.
///
/// # Errors
/// See [`tail`].
pub fn print_tail(args: &TailArgs) -> Result<(), ShowError> {
    let mut out = io::stdout().lock();
    tail(args, &mut Printer::new(&mut out, args.output, wants_color()))
}

/// `query` to standard output.
///
/// # Errors
/// See [`query`].
pub fn print_query(args: &QueryArgs) -> Result<bool, ShowError> {
    let mut out = io::stdout().lock();
    query(args, &mut Printer::new(&mut out, args.output, wants_color()))
}

/// The columns and how wide they are at least, so that the lines of a followed journal stand below each other.
const COLUMNS: [(&str, u16); 9] = [
    ("time", 24),
    ("who", 24),
    ("action", 6),
    ("resource", 24),
    ("to", 10),
    ("decision", 8),
    ("policy or code", 24),
    ("status", 6),
    ("record", 36),
];

fn table(rows: &[Row], header: bool, color: bool) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    if header {
        table.set_header(COLUMNS.map(|(name, _)| Cell::new(name.to_uppercase())));
    }
    for row in rows {
        table.add_row(cells(row));
    }
    table.set_constraints(COLUMNS.map(|(_, width)| ColumnConstraint::LowerBoundary(Width::Fixed(width))));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn cells(row: &Row) -> [Cell; 9] {
    let tint = match row.decision {
        "allow" => Color::Green,
        "deny" => Color::Red,
        "reject" => Color::Yellow,
        _ => Color::DarkGrey,
    };
    let status = match (row.status, row.ending) {
        (Some(status), _) => status.to_string(),
        (None, Some(ending)) => ending.name().to_owned(),
        (None, None) if row.decision == "allow" => "open".to_owned(),
        (None, None) => String::new(),
    };
    [
        Cell::new(row.time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")),
        Cell::new(short(&row.who)),
        Cell::new(&row.action),
        Cell::new(short(&row.resource)),
        Cell::new(short(&row.destination)),
        Cell::new(row.decision).fg(tint),
        Cell::new(short(&row.why)),
        Cell::new(status),
        Cell::new(row.id.map(|id| id.to_string()).unwrap_or_default()),
    ]
}

/// The end of a text that is too long for a cell tells more than its beginning: ids end with what is special.
fn short(text: &str) -> String {
    let count = text.chars().count();
    if count <= CELL {
        return text.to_owned();
    }
    std::iter::once('…').chain(text.chars().skip(count - CELL + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_end() {
        let text = format!("{}tail", "é".repeat(100));
        assert_eq!(short(&text).chars().count(), CELL);
        assert!(short(&text).starts_with('…') && short(&text).ends_with("tail"));
    }
}
