//! The page of a bundle: one HTML file, no scripts, nothing from a network; dark and light, and on paper. Charts are inline SVG.
//! All texts of records are escaped, for callers choose some of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;

use super::agreement::{Agreement, Listed as Asked};
use super::bundle::Bundle;
use super::chart;
use super::statistics::{Decisions, Listed, Tokens};
use crate::audit::view::printable;

const STYLE: &str = include_str!("page.css");
/// Rows of a table; the rest is one line.
const ROWS: usize = 12;
/// Denials and open crossings that are shown.
const SHOWN: usize = 40;
/// A text as HTML, with what would be invisible made visible.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// A number with narrow spaces between its thousands.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// Bytes as people say them.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = usize::try_from(bytes.checked_ilog2().unwrap_or(0) / 10).unwrap_or(0).min(UNITS.len() - 1);
    let unit = UNITS.get(step).copied().unwrap_or_default();
    let tenths = (u128::from(bytes) * 10) >> (10 * step);
    if step == 0 { format!("{bytes} B") } else { format!("{}.{} {unit}", tenths / 10, tenths % 10) }
}

/// Parts of a whole in a thousand, never zero for something.
fn share(part: u64, whole: u64) -> u128 {
    let rounded = u128::from(part) * 1000 / u128::from(whole.max(1));
    if part > 0 { rounded.max(4) } else { 0 }
}

pub(super) fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A bound of the period: a time to the second, or the number of a record.
fn when(bound: &str) -> String {
    bound.parse::<Timestamp>().map_or_else(|_| escaped(bound), time)
}

/// The whole page.
pub(super) fn page(bundle: &Bundle) -> String {
    let found = &bundle.statistics;
    let mut body = String::new();
    body += &heading(bundle);
    body += &tiles(bundle);
    body += &chart::over_time(&found.minutes);
    body += "<div class=\"grid\">";
    body += &decisions("Level of the data", &found.labels);
    body += &decisions("Where the data may be", &found.residency);
    body += &decisions("Where it went, or would have gone", &found.destinations);
    body += &decisions("Protection", &found.protections);
    body += &decisions("Policies that decided", &found.policies);
    body += &decisions("Principals", &found.principals);
    body += &counts("Why not", "code of a denial or refusal", &found.codes);
    body += &counts("How crossings ended", "ending", &found.endings);
    body += &tokens("Tokens by model", &found.models);
    body += &tokens("Tokens by team", &found.teams);
    body += &counts("What happened to the gateway", "event", &found.events);
    body += "</div>";
    body += &list("Denied or rejected", &found.denials_listed, found.decisions.deny + found.decisions.reject);
    body += &list("Permitted, and no outcome is recorded", &found.open_listed, found.open);
    body += &replays(bundle.agreement.as_ref());
    body += &proofs(bundle);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>What crossed from {} to {}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n",
        escaped(&bundle.from),
        escaped(&bundle.to),
    )
}

fn heading(bundle: &Bundle) -> String {
    let origins: Vec<&str> = bundle.logs.iter().map(|log| log.origin.as_str()).collect();
    let verdict = if bundle.trusted {
        "<p class=\"seal good\"><b>Complete and as signed.</b> Every record was compared with the tree whose head the given key signed.</p>"
    } else {
        "<p class=\"seal\"><b>Complete and consistent with itself.</b> No key was given when this was made, so nothing says who signed. \
         Check it with a key that you trust: README.md.</p>"
    };
    let unsigned = match bundle.unsigned {
        0 => String::new(),
        count => format!(
            "<p class=\"note\">{} records of the period had no checkpoint yet and are not in here.</p>",
            number(count)
        ),
    };
    format!(
        "<header><p class=\"over\">Tidegate audit report</p><h1>What crossed</h1><p class=\"period\">{} <span>until before</span> {}</p>\
         <p class=\"note\">{} records of {}</p>{verdict}{unsigned}</header>",
        when(&bundle.from),
        when(&bundle.to),
        number(bundle.statistics.records),
        origins
            .iter()
            .map(|origin| format!("<code>{}</code>", escaped(origin)))
            .collect::<Vec<_>>()
            .join("<br>"),
    )
}

fn tiles(bundle: &Bundle) -> String {
    let found = &bundle.statistics;
    let tokens = found
        .models
        .values()
        .fold(0_u64, |sum, tokens| sum.saturating_add(tokens.input).saturating_add(tokens.output));
    let tiles = [
        ("permitted", "allow", number(found.decisions.allow)),
        ("denied by policy", "deny", number(found.decisions.deny)),
        ("rejected", "reject", number(found.decisions.reject)),
        ("refused unidentified", "reject", number(found.refused)),
        ("without an outcome", "open", number(found.open)),
        ("tokens", "", number(tokens)),
        ("sent", "", size(found.sent_bytes)),
        ("received", "", size(found.received_bytes)),
    ];
    let mut out = "<section class=\"tiles\">".to_owned();
    for (name, class, value) in tiles {
        let _ = write!(out, "<div><b class=\"{class}\">{value}</b><span>{name}</span></div>");
    }
    out + "</section>"
}

/// The largest of a map first, and how many are beyond.
fn largest<T: Copy>(map: &BTreeMap<String, T>, by: impl Fn(&T) -> u64) -> (Vec<(&str, T)>, usize) {
    let mut all: Vec<(&str, T)> = map.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    all.sort_by(|a, b| by(&b.1).cmp(&by(&a.1)).then(a.0.cmp(b.0)));
    let beyond = all.len().saturating_sub(ROWS);
    all.truncate(ROWS);
    (all, beyond)
}

fn bar(parts: &[(&str, u64)], most: u64) -> String {
    let mut x = 0_u128;
    let mut svg =
        "<svg class=\"bar\" viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">"
            .to_owned();
    for (class, value) in parts {
        let wide = share(*value, most);
        if wide > 0 {
            let _ = write!(svg, "<rect class=\"{class}\" x=\"{x}\" y=\"0\" width=\"{wide}\" height=\"10\"/>");
            x += wide;
        }
    }
    svg + "</svg>"
}

fn table(title: &str, columns: &[&str], rows: &[String], beyond: usize) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut out = format!("<section><h2>{title}</h2><table><thead><tr>");
    for (place, column) in columns.iter().enumerate() {
        let class = if place == 0 { "" } else { " class=\"n\"" };
        let _ = write!(out, "<th{class}>{column}</th>");
    }
    let _ = write!(out, "</tr></thead><tbody>{}</tbody></table>", rows.concat());
    if beyond > 0 {
        let _ = write!(out, "<p class=\"note\">and {beyond} more: statistics.json</p>");
    }
    out + "</section>"
}

fn decisions(title: &str, map: &BTreeMap<String, Decisions>) -> String {
    let (rows, beyond) = largest(map, Decisions::total);
    let most = rows.first().map_or(1, |(_, found)| found.total());
    let rows: Vec<String> = rows
        .into_iter()
        .map(|(name, found)| {
            let parts = [("allow", found.allow), ("deny", found.deny), ("reject", found.reject)];
            format!(
                "<tr><td>{}{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                escaped(name),
                bar(&parts, most),
                number(found.allow),
                number(found.deny),
                number(found.reject)
            )
        })
        .collect();
    table(title, &["", "permitted", "denied", "rejected"], &rows, beyond)
}

fn counts(title: &str, column: &str, map: &BTreeMap<String, u64>) -> String {
    let (rows, beyond) = largest(map, |count| *count);
    let most = rows.first().map_or(1, |(_, count)| *count);
    let rows: Vec<String> = rows
        .into_iter()
        .map(|(name, count)| {
            let bar = bar(&[("plain", count)], most);
            format!("<tr><td>{}{bar}</td><td class=\"n\">{}</td></tr>", escaped(name), number(count))
        })
        .collect();
    table(title, &[column, "number"], &rows, beyond)
}

fn tokens(title: &str, map: &BTreeMap<String, Tokens>) -> String {
    let total = |tokens: &Tokens| tokens.input.saturating_add(tokens.output);
    let (rows, beyond) = largest(map, total);
    let most = rows.first().map_or(1, |(_, tokens)| total(tokens));
    let rows: Vec<String> = rows
        .into_iter()
        .map(|(name, found)| {
            let bar = bar(&[("plain", found.input), ("second", found.output)], most);
            format!(
                "<tr><td>{}{bar}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                escaped(name),
                number(found.calls),
                number(found.input),
                number(found.cached_input),
                number(found.output)
            )
        })
        .collect();
    table(
        title,
        &["", "calls", "<i class=\"plain\"></i>in", "of them cached", "<i class=\"second\"></i>out"],
        &rows,
        beyond,
    )
}

fn list(title: &str, found: &[Listed], all: u64) -> String {
    if found.is_empty() {
        return format!("<section class=\"wide\"><h2>{title}</h2><p class=\"note\">None.</p></section>");
    }
    let mut out = format!(
        "<section class=\"wide list\"><h2>{title} <span>{}</span></h2><table><thead><tr><th>when</th><th>who</th><th>what</th><th>why</th><th>record</th></tr></thead><tbody>",
        number(all)
    );
    for row in found.iter().take(SHOWN) {
        let id = row.id.map_or_else(|| row.seq.to_string(), |id| id.to_string());
        let _ = write!(
            out,
            "<tr><td class=\"when\">{}</td><td>{}</td><td>{}</td><td>{}</td><td><code>{id}</code></td></tr>",
            time(row.time),
            escaped(&row.who),
            escaped(&row.what),
            escaped(&row.why)
        );
    }
    out += "</tbody></table>";
    let shown = u64::try_from(found.len().min(SHOWN)).unwrap_or(0);
    if all > shown {
        let _ = write!(
            out,
            "<p class=\"note\">and {} more: denials.csv, statistics.json</p>",
            number(all - shown)
        );
    }
    out + "</section>"
}

/// Whether the policies decide again what they decided.
fn replays(agreement: Option<&Agreement>) -> String {
    let title = "Decided again by the policies as they were";
    let Some(found) = agreement else {
        return format!(
            "<section class=\"wide\"><h2>{title}</h2><p class=\"note\">They were not asked when this was made.</p></section>"
        );
    };
    let (class, verdict) = match (found.differed, found.impossible()) {
        (0, 0) => ("seal good", "All agree."),
        (0, _) if found.agreed == 0 => ("seal", "None could be asked again."),
        (0, _) => ("seal", "All that could be asked again agree."),
        _ => ("seal bad", "Not all agree."),
    };
    let mut out = format!(
        "<section class=\"wide list\"><h2>{title}</h2><p class=\"{class}\"><b>{verdict}</b> {}.</p>",
        escaped(&found.sentence())
    );
    out += &asked("Decided otherwise", &found.differing, found.differed);
    out += &asked("Not asked again", &found.not_replayed, found.impossible());
    out + "</section>"
}

fn asked(title: &str, found: &[Asked], all: u64) -> String {
    if found.is_empty() {
        return String::new();
    }
    let mut out = format!(
        "<table><thead><tr><th>{title}</th><th>attempt</th><th>bundle</th><th>why</th></tr></thead><tbody>"
    );
    for row in found.iter().take(SHOWN) {
        let id = row.id.map_or_else(|| row.seq.to_string(), |id| id.to_string());
        let attempt = row.attempt.unwrap_or_default();
        let bundle: String = row.bundle.chars().take(12).collect();
        let _ = write!(
            out,
            "<tr><td><code>{id}</code></td><td>{attempt}</td><td class=\"when\"><code>{}</code></td><td>{}</td></tr>",
            escaped(&bundle),
            escaped(&row.why.join("; "))
        );
    }
    out += "</tbody></table>";
    let shown = u64::try_from(found.len().min(SHOWN)).unwrap_or(0);
    if all > shown {
        let _ = write!(out, "<p class=\"note\">and {} more: replay.json</p>", number(all - shown));
    }
    out
}

fn proofs(bundle: &Bundle) -> String {
    let mut out = "<section class=\"wide proof\"><h2>What proves it</h2>".to_owned();
    for log in &bundle.logs {
        let key = log.key.as_deref().map_or_else(
            || "not at hand when this was made".to_owned(),
            |key| format!("<code>{}</code>", escaped(key)),
        );
        let _ = write!(
            out,
            "<dl><dt>log</dt><dd><code>{}</code></dd><dt>leaves</dt><dd>{} to {} of {}; those of the period are {} to {}</dd>\
             <dt>root</dt><dd><code>{}</code></dd><dt>signed by</dt><dd>{key}</dd></dl>",
            escaped(&log.origin),
            number(log.window.0),
            number(log.window.1.saturating_sub(1)),
            number(log.size),
            number(log.period.0),
            number(log.period.1.saturating_sub(1)),
            log.root
        );
    }
    if !bundle.missing_policies.is_empty() {
        let missing: Vec<String> =
            bundle.missing_policies.iter().map(|hash| format!("<code>{}</code>", escaped(hash))).collect();
        let _ = write!(
            out,
            "<p class=\"note\">Policies that the archive does not hold: {}</p>",
            missing.join(", ")
        );
    }
    for text in [bundle.deleted(), bundle.hidden()].into_iter().flatten() {
        let _ = write!(out, "<p class=\"note\">{}</p>", escaped(&text));
    }
    let created = time(bundle.created);
    let version = env!("CARGO_PKG_VERSION");
    out + &format!(
        "<p class=\"note\">README.md says how to check it without this program, and what it does not prove: the key's holder and the clock are \
         trusted. These numbers were counted from the records by tidegate {version}, {created}.</p></section>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_chose_is_no_markup() {
        assert_eq!(escaped("<script>\"'&\u{202e}"), "&lt;script&gt;&quot;&#39;&amp;\\u{202e}");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            [number(7), number(1_234), number(1_234_567)],
            ["7", "1\u{202f}234", "1\u{202f}234\u{202f}567"]
        );
        assert_eq!([size(7), size(1_536), size(5 << 40)], ["7 B", "1.5 KiB", "5.0 TiB"]);
    }
}
