//! The tour's rows as one table for people or as JSON for programs.

use std::io::{self, Write};

use comfy_table::{Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, presets};

use super::tour::Row;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table for people.
    Table {
        /// Whether a terminal shows it, to whose width it is then folded.
        terminal: bool,
        /// Whether colours are wanted on a terminal.
        colour: bool,
    },
    /// An array of objects.
    Json,
}

/// Prints the rows; under a table, what is not as expected.
///
/// # Errors
/// The output cannot be written.
pub(crate) fn write(out: &mut dyn Write, rows: &[Row], format: Format) -> io::Result<()> {
    match format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, rows)?;
            writeln!(out)
        }
        Format::Table { terminal, colour } => {
            // The width of standard output, if that is a terminal.
            let width = if terminal { Table::new().width() } else { None };
            writeln!(out, "{}", render(rows, width, terminal && colour).trim_fmt())?;
            for row in rows.iter().filter(|row| !row.problems.is_empty()) {
                writeln!(out, "✗ {}, {}: {}", row.who, row.what, row.problems.join("; "))?;
            }
            summary(out, rows)?;
            for (row, wire) in rows.iter().filter_map(|row| Some((row, row.wire.as_ref()?))) {
                wire.write(out, row.who, row.what)?;
            }
            Ok(())
        }
    }
}

/// The narrowest terminal that rows are folded for, in columns. Below it a column is a letter wide; and a terminal that does not
/// know its size (in a container, under a supervisor) says that it has none.
const NARROWEST: u16 = 72;

/// One line a row if that fits, nobody looks (such output is for grep) or folding would not help; else two.
fn render(rows: &[Row], width: Option<u16>, colour: bool) -> Table {
    let wide = table(rows, false, colour);
    let natural = wide.lines().next().map_or(0, |line| line.chars().count());
    match width {
        Some(width) if width >= NARROWEST && natural > usize::from(width) => {
            let mut stacked = table(rows, true, colour);
            stacked.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            // An id that is broken over two lines cannot be copied.
            if let Some(record) = stacked.column_mut(2) {
                record.set_constraint(ColumnConstraint::ContentWidth);
            }
            stacked
        }
        _ => wide,
    }
}

fn table(rows: &[Row], stacked: bool, colour: bool) -> Table {
    let mut table = Table::new();
    // Colours are ours to decide, not the library's.
    table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty().enforce_styling();
    if stacked {
        table.set_header(["", "who\nwhat", "where to\nrecord", "decision\nby", "status\nms"]);
    } else {
        table.set_header(["", "who", "what", "where to", "decision", "by", "status", "ms", "record"]);
    }
    let paint = |cell: Cell, with: Color| if colour { cell.fg(with) } else { cell };
    for row in rows {
        let verdict = match row.decision.as_str() {
            "allowed" => Color::Green,
            "denied" => Color::Red,
            _ => Color::Yellow,
        };
        let (mark, sign) = if row.problems.is_empty() { ("✓", Color::Green) } else { ("✗", Color::Red) };
        let mark = paint(Cell::new(mark), sign);
        let by = match &row.code {
            Some(code) if row.policies.is_empty() => code.clone(),
            _ => row.policies.join(", "),
        };
        let decision = match row.protection.as_deref() {
            Some("none") | None => row.decision.clone(),
            Some(protection) => format!("{}, {protection}", row.decision),
        };
        let (status, latency) = (row.status, format!("{:.1}", row.latency_ms));
        let right = |cell: Cell| cell.set_alignment(CellAlignment::Right);
        if stacked {
            table.add_row([
                mark,
                Cell::new(format!("{}\n{}", row.who, row.what)),
                Cell::new(format!("{}\n{}", row.to, row.record)),
                paint(Cell::new(format!("{decision}\n{by}")), verdict),
                right(Cell::new(format!("{status}\n{latency}"))),
            ]);
        } else {
            table.add_row([
                mark,
                Cell::new(row.who),
                Cell::new(row.what),
                Cell::new(&row.to),
                paint(Cell::new(decision), verdict),
                Cell::new(by),
                right(Cell::new(status)),
                right(Cell::new(latency)),
                Cell::new(&row.record),
            ]);
        }
    }
    table
}

fn summary(out: &mut dyn Write, rows: &[Row]) -> io::Result<()> {
    let count = |word: &str| rows.iter().filter(|row| row.decision == word).count();
    let wrong = rows.iter().filter(|row| !row.problems.is_empty()).count();
    writeln!(
        out,
        "{} requests: {} allowed, {} denied, {} refused; {}",
        rows.len(),
        count("allowed"),
        count("denied"),
        count("refused"),
        match wrong {
            0 => "all as expected, and nothing denied or refused reached a cluster or the store.".to_owned(),
            1 => "1 is not as expected.".to_owned(),
            n => format!("{n} are not as expected."),
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPE: Format = Format::Table { terminal: false, colour: true };

    fn rows() -> Vec<Row> {
        let row = Row {
            who: "ada (research)",
            what: "chat with tide-small",
            to: "eu/tide-small".into(),
            decision: "allowed".into(),
            policies: vec!["research-models".into()],
            code: None,
            status: 200,
            protection: Some("none".into()),
            wire: None,
            latency_ms: 1.25,
            record: "0198c0de-0000-7000-8000-000000000001".into(),
            problems: Vec::new(),
        };
        let refused = Row {
            who: "nobody",
            to: "/v1/chat/completions".into(),
            decision: "refused".into(),
            policies: Vec::new(),
            code: Some("credential_missing".into()),
            status: 500,
            protection: None,
            wire: None,
            latency_ms: 10.0,
            record: "0198c0de-0000-7000-8000-000000000002".into(),
            problems: vec!["status is 500, expected 401".into()],
            what: "chat without a credential",
        };
        vec![row, refused]
    }

    fn printed(format: Format) -> String {
        let mut out = Vec::new();
        write(&mut out, &rows(), format).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table_has_one_line_a_row() {
        insta::assert_snapshot!(printed(PIPE), @r"
        ┌───┬────────────────┬───────────────────────────┬──────────────────────┬──────────┬────────────────────┬────────┬──────┬──────────────────────────────────────┐
        │   ┆ who            ┆ what                      ┆ where to             ┆ decision ┆ by                 ┆ status ┆ ms   ┆ record                               │
        ╞═══╪════════════════╪═══════════════════════════╪══════════════════════╪══════════╪════════════════════╪════════╪══════╪══════════════════════════════════════╡
        │ ✓ ┆ ada (research) ┆ chat with tide-small      ┆ eu/tide-small        ┆ allowed  ┆ research-models    ┆    200 ┆  1.2 ┆ 0198c0de-0000-7000-8000-000000000001 │
        │ ✗ ┆ nobody         ┆ chat without a credential ┆ /v1/chat/completions ┆ refused  ┆ credential_missing ┆    500 ┆ 10.0 ┆ 0198c0de-0000-7000-8000-000000000002 │
        └───┴────────────────┴───────────────────────────┴──────────────────────┴──────────┴────────────────────┴────────┴──────┴──────────────────────────────────────┘
        ✗ nobody, chat without a credential: status is 500, expected 401
        2 requests: 1 allowed, 0 denied, 1 refused; 1 is not as expected.
        ");
    }

    #[test]
    fn a_narrow_terminal_gets_two_lines_a_row_and_whole_ids() {
        insta::assert_snapshot!(render(&rows(), Some(100), false), @r"
        ┌───┬──────────────────────┬──────────────────────────────────────┬────────────────────┬────────┐
        │   ┆ who                  ┆ where to                             ┆ decision           ┆ status │
        │   ┆ what                 ┆ record                               ┆ by                 ┆ ms     │
        ╞═══╪══════════════════════╪══════════════════════════════════════╪════════════════════╪════════╡
        │ ✓ ┆ ada (research)       ┆ eu/tide-small                        ┆ allowed            ┆    200 │
        │   ┆ chat with tide-small ┆ 0198c0de-0000-7000-8000-000000000001 ┆ research-models    ┆    1.2 │
        │ ✗ ┆ nobody               ┆ /v1/chat/completions                 ┆ refused            ┆    500 │
        │   ┆ chat without a       ┆ 0198c0de-0000-7000-8000-000000000002 ┆ credential_missing ┆   10.0 │
        │   ┆ credential           ┆                                      ┆                    ┆        │
        └───┴──────────────────────┴──────────────────────────────────────┴────────────────────┴────────┘
        ");
        assert_eq!(render(&rows(), Some(80), false).to_string().matches(&rows()[0].record).count(), 1);
    }

    #[test]
    fn a_terminal_without_a_size_gets_whole_lines() {
        let whole = render(&rows(), None, false).to_string();
        for width in [0, 1, 40] {
            assert_eq!(render(&rows(), Some(width), false).to_string(), whole, "{width} columns");
        }
    }

    #[test]
    fn colours_are_for_terminals() {
        for width in [None, Some(100)] {
            assert!(render(&rows(), width, true).to_string().contains('\x1b'));
            assert!(!render(&rows(), width, false).to_string().contains('\x1b'));
        }
        assert!(!printed(PIPE).contains('\x1b'));
    }

    #[test]
    fn json_keeps_every_member() {
        let rows: serde_json::Value = serde_json::from_str(&printed(Format::Json)).unwrap();
        assert_eq!(rows[0]["policies"][0], "research-models");
        assert_eq!(rows[1]["problems"][0], "status is 500, expected 401");
    }
}
