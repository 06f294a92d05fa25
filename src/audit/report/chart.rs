//! The chart of decisions over time: stacked columns as inline SVG, in integers.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;

use super::page::{number, time};
use super::statistics::Decisions;

/// Columns, at most.
const COLUMNS: i64 = 60;
/// Widths of a column, in seconds: a minute to thirty days.
const STEPS: [i64; 12] =
    [60, 300, 900, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000];
/// The drawing's width, the height of the tallest column, and the space left of and above the columns.
const WIDTH: i64 = 960;
const HEIGHT: i64 = 200;
const LEFT: i64 = 46;
const TOP: i64 = 10;

/// What is drawn.
struct Chart {
    /// The second at which the first column begins.
    origin: i64,
    /// How many seconds a column is.
    step: i64,
    columns: BTreeMap<i64, Decisions>,
    /// The tallest.
    most: u64,
    /// From one column to the next, in hundredths.
    pitch: i64,
}

/// The decisions by minute as a section of the page.
pub(super) fn over_time(minutes: &BTreeMap<i64, Decisions>) -> String {
    let (Some((first, _)), Some((last, _))) = (minutes.first_key_value(), minutes.last_key_value()) else {
        return String::new();
    };
    let (first, last) = (first * 60, last * 60);
    let step = STEPS.into_iter().find(|step| (last - first) / step < COLUMNS).unwrap_or(2_592_000);
    let origin = first.div_euclid(step) * step;
    let mut columns: BTreeMap<i64, Decisions> = BTreeMap::new();
    for (minute, decisions) in minutes {
        let column = columns.entry((minute * 60 - origin) / step).or_default();
        column.allow += decisions.allow;
        column.deny += decisions.deny;
        column.reject += decisions.reject;
    }
    let count = columns.last_key_value().map_or(1, |(last, _)| last + 1);
    let most = columns.values().map(Decisions::total).max().unwrap_or(1).max(1);
    let pitch = (WIDTH - LEFT) * 100 / count.max(8);
    let chart = Chart { origin, step, columns, most, pitch };
    let height = HEIGHT + TOP + 26;
    format!(
        "<section class=\"wide\"><h2>Decisions over time</h2><p class=\"legend\"><i class=\"allow\"></i>permitted \
         <i class=\"deny\"></i>denied <i class=\"reject\"></i>rejected or refused <span>a column is {}</span></p>\
         <svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Decisions over time\">{}{}{}</svg></section>",
        duration(step),
        chart.rules(),
        chart.bars(),
        chart.times(count)
    )
}

impl Chart {
    /// The lines behind the columns, with what they stand for.
    fn rules(&self) -> String {
        let mut svg = String::new();
        for part in [0, 1, 2].into_iter().filter(|part| *part != 1 || self.most > 1) {
            let y = TOP + HEIGHT - HEIGHT * part / 2;
            let value = number(self.most * part.unsigned_abs() / 2);
            let _ = write!(
                svg,
                "<line class=\"rule\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y}\" y2=\"{y}\"/>\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{value}</text>",
                LEFT - 8,
                y + 4
            );
        }
        svg
    }

    const fn x(&self, place: i64) -> i64 {
        LEFT * 100 + place * self.pitch + self.pitch / 10
    }

    fn bars(&self) -> String {
        let mut svg = String::new();
        for (place, found) in &self.columns {
            let title = format!(
                "{}: {} permitted, {} denied, {} rejected",
                at(self.origin + place * self.step),
                found.allow,
                found.deny,
                found.reject
            );
            let _ = write!(svg, "<g><title>{title}</title>{}</g>", self.bar(*place, found));
        }
        svg
    }

    /// One column, from the ground up, with a thin gap between its parts. What is there is seen, however little it is.
    fn bar(&self, place: i64, found: &Decisions) -> String {
        let wide = (self.pitch * 8 / 10).max(60);
        let (mut svg, mut y) = (String::new(), (TOP + HEIGHT) * 100);
        for (class, value) in [("allow", found.allow), ("deny", found.deny), ("reject", found.reject)] {
            let exact = u128::from(value) * u128::from(HEIGHT.unsigned_abs()) * 100 / u128::from(self.most);
            let tall = if value > 0 { i64::try_from(exact).unwrap_or(0).max(150) } else { continue };
            y -= tall;
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"1.5\"/>",
                hundredths(self.x(place)),
                hundredths(y),
                hundredths(wide),
                hundredths((tall - 60).max(80))
            );
        }
        svg
    }

    fn times(&self, count: i64) -> String {
        let (mut svg, every) = (String::new(), (count / 6).max(1));
        for place in (0..count).step_by(usize::try_from(every).unwrap_or(1)) {
            let label = label(self.origin + place * self.step, self.step);
            let x = hundredths(self.x(place));
            let _ = write!(svg, "<text x=\"{x}\" y=\"{}\">{label}</text>", HEIGHT + TOP + 20);
        }
        svg
    }
}

fn hundredths(value: i64) -> String {
    format!("{}.{:02}", value / 100, value.unsigned_abs() % 100)
}

fn at(second: i64) -> String {
    Timestamp::from_second(second).map(time).unwrap_or_default()
}

fn label(second: i64, step: i64) -> String {
    let form = if step >= 86_400 { "%d %b" } else { "%d %b %H:%M" };
    Timestamp::from_second(second).map(|time| time.strftime(form).to_string()).unwrap_or_default()
}

fn duration(seconds: i64) -> String {
    match seconds {
        ..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        86_400 => "a day".to_owned(),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_as_wide_as_the_period_asks_for() {
        let one = Decisions { allow: 3, deny: 1, reject: 0 };
        let drawn = |minutes: &[i64]| over_time(&minutes.iter().map(|minute| (*minute, one)).collect());
        assert_eq!(drawn(&[]), "");
        assert!(drawn(&[29_000_000]).contains("a column is 1 min"));
        let year = drawn(&[29_000_000, 29_000_000 + 525_600]);
        assert!(
            year.contains("a column is 7 days") && year.matches("<rect class=\"deny\"").count() == 2,
            "{year}"
        );
        assert!(year.contains("3 permitted, 1 denied, 0 rejected"));
    }
}
