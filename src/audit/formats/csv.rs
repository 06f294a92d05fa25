//! CSV (RFC 4180) for spreadsheets: one row a record, and a last column with all that has no column of its own, as JSON.
//!
//! Callers choose some of the texts, and spreadsheets run cells that look like formulas. So a text that begins with `=`, `+`, `-`,
//! `@`, a tab, a line break or a full-width form of those gets a `'` in front, and so does one that begins with `'`: without its
//! first `'`, each cell is what the record says.

use std::io::{self, Write};

use serde_json::Value;

use super::{Entry, remove};

/// A column: its name, where in a record it is, and whether an outcome takes it from its decision.
type Column = (&'static str, &'static str, bool);

/// The columns between `seq` and `details`.
const COLUMNS: [Column; 49] = [
    ("time", "/time", false),
    ("kind", "/kind", false),
    ("id", "/id", false),
    ("attempt", "/attempt", false),
    ("gateway", "/gateway", false),
    ("boot", "/boot", false),
    ("tenant", "/tenant", true),
    ("principal_type", "/principal/type", true),
    ("principal", "/principal/id", true),
    ("teams", "/principal/teams", true),
    ("authn", "/principal/authn", true),
    ("workload", "/chain/workload", true),
    ("agent", "/chain/agent", true),
    ("peer", "/peer", true),
    ("action", "/action", true),
    ("resource_type", "/resource/type", true),
    ("resource", "/resource/id", true),
    ("level", "/label/level", true),
    ("residency", "/label/residency", true),
    ("level_origin", "/label/origin", true),
    ("destination", "/destination", true),
    ("upstream", "/upstream/name", true),
    ("endpoint", "/upstream/endpoint", true),
    ("decision", "/decision", true),
    ("code", "/code", false),
    ("policies", "/policies", true),
    ("bundle", "/bundle", true),
    ("protection", "/protection", true),
    ("route", "/route", true),
    ("mode", "/mode", true),
    ("method", "/request/method", true),
    ("host", "/request/host", true),
    ("path", "/request/path", true),
    ("body_bytes", "/request/bytes", true),
    ("http_version", "/request/version", true),
    ("user_agent", "/request/user_agent", true),
    ("trace_id", "/trace_id", true),
    ("ending", "/ending", false),
    ("status", "/status", false),
    ("request_bytes", "/request_bytes", false),
    ("response_bytes", "/response_bytes", false),
    ("input_tokens", "/usage/input_tokens", false),
    ("output_tokens", "/usage/output_tokens", false),
    ("cached_input_tokens", "/usage/cached_input_tokens", false),
    ("reasoning_tokens", "/usage/reasoning_tokens", false),
    ("duration_us", "/duration_us", false),
    ("time_to_first_byte_us", "/time_to_first_byte_us", false),
    ("event", "/event", false),
    ("count", "/count", false),
];
/// Refusals hold at the top what a decision holds in `request`.
const FLAT: [&str; 3] = ["method", "host", "path"];

/// Writes the names of the columns.
///
/// # Errors
/// It cannot be written.
pub fn header(out: &mut impl Write) -> io::Result<()> {
    let names = COLUMNS.iter().map(|(name, ..)| *name);
    row(std::iter::once("seq").chain(names).chain(["details"]), out)
}

/// Writes a record as a row. Texts of several values have `;` between them.
///
/// # Errors
/// It cannot be written, or the record is no JSON.
pub fn write(entry: &Entry<'_>, out: &mut impl Write) -> io::Result<()> {
    let record = entry.parse()?;
    let mut rest = record.clone();
    let mut cells = vec![entry.seq.to_string()];
    for (name, pointer, inherited) in COLUMNS {
        let flat = FLAT.contains(&name).then(|| format!("/{name}"));
        let own = record.pointer(pointer).or_else(|| record.pointer(flat.as_deref()?));
        remove(&mut rest, pointer);
        flat.iter().for_each(|pointer| remove(&mut rest, pointer));
        let decided = entry.decision.filter(|_| inherited).and_then(|decision| decision.pointer(pointer));
        cells.push(own.or(decided).map_or_else(String::new, cell));
    }
    remove(&mut rest, "/v");
    let empty = rest.as_object().is_none_or(serde_json::Map::is_empty);
    cells.push(if empty { String::new() } else { rest.to_string() });
    row(&cells, out)
}

fn row(cells: impl IntoIterator<Item = impl AsRef<[u8]>>, out: &mut impl Write) -> io::Result<()> {
    let mut line = ::csv::WriterBuilder::new().terminator(::csv::Terminator::CRLF).from_writer(Vec::new());
    line.write_record(cells).map_err(io::Error::other)?;
    let bytes = line.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
    out.write_all(&bytes)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => harmless(text.clone()),
        Value::Array(values) => {
            let texts: Vec<String> = values
                .iter()
                .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                .collect();
            harmless(texts.join(";"))
        }
        other => other.to_string(),
    }
}

/// A text that no spreadsheet takes for a formula.
fn harmless(text: String) -> String {
    const DANGEROUS: [char; 12] = ['=', '+', '-', '@', '\t', '\r', '\n', '\'', '＝', '＋', '－', '＠'];
    if text.starts_with(DANGEROUS) { format!("'{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::encode::{encode, tests::decision, tests::stamp};
    use crate::audit::record::{Ending, Outcome};

    fn read(entries: &[Entry<'_>]) -> Vec<std::collections::HashMap<String, String>> {
        let mut out = Vec::new();
        header(&mut out).unwrap();
        entries.iter().for_each(|entry| write(entry, &mut out).unwrap());
        ::csv::Reader::from_reader(&out[..]).deserialize().map(Result::unwrap).collect()
    }

    #[test]
    fn a_row_says_all_and_an_outcome_says_who() {
        let stamp = stamp();
        let decided = encode("decision", &stamp, &decision());
        let ended =
            encode("outcome", &stamp, &Outcome { status: Some(200), ..Outcome::bare(Ending::Complete) });
        let value: Value = serde_json::from_slice(&decided).unwrap();
        let rows =
            read(&[Entry::new(3, &decided), Entry { seq: 4, payload: &ended, decision: Some(&value) }]);
        let [first, second] = &rows[..] else { panic!("{rows:?}") };
        for (name, expected) in [
            ("seq", "3"),
            ("decision", "allow"),
            ("principal", "https://issuer.example|alice"),
            ("teams", "research"),
            ("resource", "eu/llama"),
            ("policies", "chat-for-research"),
            ("path", "/v1/chat/completions"),
        ] {
            assert_eq!(first[name], expected, "{name}");
        }
        let details: Value = serde_json::from_str(&first["details"]).unwrap();
        assert!(
            details.get("evaluations").is_some()
                && details.get("principal").is_some()
                && details.get("decision").is_none(),
            "{details}"
        );
        for (name, expected) in [
            ("kind", "outcome"),
            ("status", "200"),
            ("principal", "https://issuer.example|alice"),
            ("ending", "complete"),
        ] {
            assert_eq!(second[name], expected, "{name}");
        }
    }

    #[test]
    fn what_a_caller_chose_is_no_formula() {
        for start in ["=", "+", "-", "@", "\t", "\r", "\n", "'", "＝", "＋", "－", "＠"] {
            let path = format!("{start}HYPERLINK(\"https://evil.example\"),\"x\"\r\ny");
            let record =
                serde_json::json!({"v": 1, "kind": "refusal", "time": "2026-01-01T00:00:00Z", "path": path});
            let rows = read(&[Entry::new(0, record.to_string().as_bytes())]);
            assert_eq!(rows.len(), 1);
            assert_eq!(rows[0]["path"], format!("'{path}"));
            assert!(rows[0].values().all(|cell| !cell.starts_with(start) || start == "'"), "{rows:?}");
        }
        let record = br#"{"kind":"event","event":"clock.step","milliseconds":-5}"#;
        assert_eq!(read(&[Entry::new(0, record)])[0]["details"], r#"{"milliseconds":-5}"#);
    }
}
