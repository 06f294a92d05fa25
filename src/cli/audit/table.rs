//! Lines of the journal as a table that fits the terminal, or 100 columns where there is none. All that is cut stands whole in the other forms.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, Width};
use jiff::civil::Date;
use jiff::tz::Offset;

use crate::audit::lines::Row;

/// The width where nobody looks.
const WIDTH: usize = 100;
/// Columns of what always has the same size: time, decision with status, record.
const FIXED: [usize; 3] = [8, 12, 18];
/// Between two columns.
const GAP: usize = 2;
/// The least that the three others need together.
const LEAST: usize = 40;

/// Writes lines below each other, the header once and the day whenever it changes.
#[derive(Debug)]
pub struct Printer {
    widths: [usize; 6],
    color: bool,
    header: bool,
    day: Option<Date>,
}

impl Printer {
    /// For a terminal of this width, or for a file.
    #[must_use]
    pub fn new(width: Option<u16>, color: bool) -> Self {
        let width = width.map_or(WIDTH, usize::from);
        let rest = width.saturating_sub(FIXED.iter().sum::<usize>() + 5 * GAP).max(LEAST);
        // Who, what, why: the last two hold the longer texts.
        let who = rest * 26 / 100;
        let what = (rest - who) / 2;
        let [time, decision, record] = FIXED;
        Self {
            widths: [time, who, what, decision, rest - who - what, record],
            color,
            header: true,
            day: None,
        }
    }

    /// For standard output as it is.
    #[must_use]
    pub fn to_stdout() -> Self {
        Self::new(Table::new().width(), super::wants_color())
    }

    /// Writes lines, oldest first.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn print(&mut self, rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
        for day in rows.chunk_by(|a, b| date(a) == date(b)) {
            let Some(first) = day.first() else { continue };
            let mut table = self.table();
            if std::mem::take(&mut self.header) {
                table.set_header(
                    ["TIME", "WHO", "WHAT", "DECISION", "WHY", "RECORD"].map(|name| self.faint(name)),
                );
            }
            if self.day.replace(date(first)) != Some(date(first)) {
                let title = Table::new()
                    .load_style(NOTHING)
                    .add_row([self.faint(&format!("{} UTC", date(first)))])
                    .to_string();
                // Below the header, if this is the first day.
                if table.header().is_some() {
                    writeln!(out, "{}", self.render(&mut table))?;
                    table = self.table();
                }
                writeln!(out, "{}", title.trim())?;
            }
            for row in day {
                table.add_row(self.cells(row));
            }
            writeln!(out, "{}", self.render(&mut table))?;
        }
        out.flush()
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if self.color {
            table.enforce_styling()
        } else {
            table.force_no_tty()
        };
        table
    }

    fn render(&self, table: &mut Table) -> String {
        let gap = u16::try_from(GAP).unwrap_or_default();
        let widths = self.widths.map(|width| u16::try_from(width).unwrap_or_default());
        table.set_constraints(
            widths.map(|width| ColumnConstraint::LowerBoundary(Width::Fixed(width.saturating_add(gap)))),
        );
        for column in table.column_iter_mut() {
            column.set_padding((0, gap));
        }
        table.trim_fmt()
    }

    fn faint(&self, text: &str) -> Cell {
        let cell = Cell::new(text);
        if self.color { cell.add_attribute(Attribute::Dim) } else { cell }
    }

    fn cells(&self, row: &Row) -> [Cell; 6] {
        let tint = match row.decision {
            "allow" => Color::Green,
            "deny" => Color::Red,
            "reject" => Color::Yellow,
            _ => Color::DarkGrey,
        };
        let status = match (row.status, row.ending) {
            (Some(status), _) => status.to_string(),
            (None, Some(_)) => "–".to_owned(),
            (None, None) if row.decision == "allow" => "open".to_owned(),
            (None, None) => String::new(),
        };
        let [_, who, what, _, why, _] = self.widths;
        let id = row.id.map(|id| id.to_string()).unwrap_or_default();
        let decision = format!("{:<6} {status}", row.decision);
        [
            Cell::new(row.time.strftime("%H:%M:%S")),
            Cell::new(end(name(&row.who), who)),
            Cell::new(if row.action.is_empty() {
                end(&asked(row), what)
            } else {
                beginning(&asked(row), what)
            }),
            Cell::new(decision.trim_end()).fg(tint),
            Cell::new(beginning(&row.why, why)),
            self.faint(id.get(..FIXED[2]).unwrap_or(&id)),
        ]
    }
}

fn date(row: &Row) -> Date {
    Offset::UTC.to_datetime(row.time).date()
}

/// A user's id is `issuer|subject`; the subject is who people know. Of the address of somebody unknown the port tells nothing.
fn name(who: &str) -> &str {
    if who.starts_with("erased on ") {
        // When stands in the other forms.
        return "erased";
    }
    if who.parse::<std::net::SocketAddr>().is_ok() {
        return who.rsplit_once(':').map_or(who, |(address, _)| address);
    }
    who.rsplit_once('|').map_or(who, |(_, subject)| if subject.is_empty() { who } else { subject })
}

/// `infer eu/tide-small`, `read trials → eu`; of what was refused earlier, host and path.
fn asked(row: &Row) -> String {
    let id = row
        .resource
        .split_once(' ')
        .filter(|_| !row.action.is_empty())
        .map_or(row.resource.as_str(), |(_, id)| id);
    // The id of a model begins with its cluster.
    let known = id.split_once('/').is_some_and(|(cluster, _)| cluster == row.destination);
    let to =
        if row.destination.is_empty() || known { String::new() } else { format!(" → {}", row.destination) };
    format!("{} {id}{to}", row.action).trim_start().to_owned()
}

/// The end of a text that is too long: ids and paths end with what is special.
fn end(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }
    std::iter::once('…').chain(text.chars().skip(count + 1 - width)).collect()
}

/// Its beginning: of a list the first counts most.
fn beginning(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_what_tells_most() {
        let text = format!("{}tail", "é".repeat(100));
        assert_eq!(end(&text, 8), "…ééétail");
        assert_eq!(beginning("owners-keep-their-data", 9), "owners-k…");
        assert_eq!((end("ada", 3), beginning("ada", 3)), ("ada".into(), "ada".into()));
        assert_eq!(name("https://issuer.example|ada"), "ada");
        assert_eq!(name("spiffe://x/y"), "spiffe://x/y");
        assert_eq!((name("192.0.2.7:4711"), name("[2001:db8::1]:1")), ("192.0.2.7", "[2001:db8::1]"));
    }

    #[test]
    fn the_columns_fill_the_width_and_no_more() {
        for width in [100_u16, 120, 200] {
            let printer = Printer::new(Some(width), false);
            assert_eq!(printer.widths.iter().sum::<usize>() + 5 * GAP, usize::from(width));
        }
        assert!(Printer::new(Some(20), false).widths.iter().all(|width| *width > 7));
    }
}
