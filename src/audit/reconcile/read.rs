//! Reads what a backend exports: OTLP logs as JSON (the OTLP/JSON encoding, a request a line or pretty-printed), JSON Lines with a uid, or CSV
//! with a column of uids, each as it is or in gzip (`.gz`). Every file is read value by value; none is held whole.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use super::{ReconcileError, Row};

/// Columns and members that hold a uid, by preference.
const UIDS: [&str; 4] = ["log.record.uid", "log_record_uid", "uid", "metadata.uid"];
/// Columns and members that hold a record's JSON.
const BODIES: [&str; 3] = ["body", "Body", "message"];

/// Hands each row to `take`. A file whose name ends in `.csv` or `.csv.gz` is CSV, any other JSON.
///
/// # Errors
/// The file cannot be read, or is of another form.
pub fn rows(path: &Path, column: Option<&str>, mut take: impl FnMut(Row)) -> Result<(), ReconcileError> {
    let file = File::open(path).map_err(|source| ReconcileError::Export { path: path.to_owned(), source })?;
    let ends = |path: &Path, what: &str| path.extension().is_some_and(|end| end.eq_ignore_ascii_case(what));
    let (packed, inner) = (ends(path, "gz"), path.with_extension(""));
    let file: Box<dyn Read> = if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let reader = BufReader::with_capacity(256 * 1024, file);
    if ends(if packed { &inner } else { path }, "csv") {
        return csv_rows(path, reader, column, &mut take);
    }
    let mut values = serde_json::Deserializer::from_reader(reader).into_iter::<Value>();
    for count in 1_u64.. {
        let form = |what: String| ReconcileError::Form {
            path: path.to_owned(),
            place: format!("value {count}"),
            what,
        };
        let value = match values.next() {
            None => return Ok(()),
            Some(Ok(value)) => value,
            Some(Err(error)) if error.is_io() => {
                return Err(ReconcileError::Export { path: path.to_owned(), source: error.into() });
            }
            Some(Err(error)) => return Err(form(format!("it is no JSON: {error}"))),
        };
        let found = match value {
            Value::Array(values) => values.iter().try_for_each(|value| json_rows(value, column, &mut take)),
            value => json_rows(&value, column, &mut take),
        };
        found.map_err(|what| form(what.to_owned()))?;
    }
    Ok(())
}

fn json_rows(value: &Value, column: Option<&str>, take: &mut impl FnMut(Row)) -> Result<(), &'static str> {
    let Value::Object(members) = value else {
        return Err("expected an object: an OTLP request, or a row with a uid");
    };
    let Some(resources) = members.get("resourceLogs").or_else(|| members.get("resource_logs")) else {
        take(plain(value, column));
        return Ok(());
    };
    for resource in list(resources) {
        for scope in
            list(resource.get("scopeLogs").or_else(|| resource.get("scope_logs")).unwrap_or(&Value::Null))
        {
            for record in
                list(scope.get("logRecords").or_else(|| scope.get("log_records")).unwrap_or(&Value::Null))
            {
                take(otlp(record, column));
            }
        }
    }
    Ok(())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text as OTLP/JSON writes an `AnyValue`.
fn any(value: &Value) -> Option<&str> {
    value.get("stringValue").or_else(|| value.get("string_value"))?.as_str()
}

fn otlp(record: &Value, column: Option<&str>) -> Row {
    let attributes = record.get("attributes").unwrap_or(&Value::Null);
    let wanted = column.unwrap_or("log.record.uid");
    let found = list(attributes).find(|pair| pair.get("key").and_then(Value::as_str) == Some(wanted));
    let uid = found.and_then(|pair| pair.get("value")).and_then(any).map(str::to_owned);
    Row { uid, body: record.get("body").and_then(any).map(str::to_owned) }
}

/// A row of a backend's own form: the uid as a member, or among `attributes`.
fn plain(value: &Value, column: Option<&str>) -> Row {
    let names: Vec<&str> = column.map_or_else(|| UIDS.to_vec(), |name| vec![name]);
    let inner = ["attributes", "Attributes", "LogAttributes", "log_attributes"].map(|name| value.get(name));
    let places = std::iter::once(Some(value)).chain(inner).flatten();
    let uid = places.flat_map(|place| names.iter().map(move |name| member(place, name))).flatten().next();
    let body = BODIES.iter().find_map(|name| match value.get(name)? {
        Value::String(text) => Some(text.as_str()),
        other => any(other),
    });
    // What is no record's JSON, such as the sentence of an OCSF event, cannot be compared.
    let body = body.filter(|text| text.starts_with('{') || text.contains("\n\n\u{2014} "));
    Row { uid: uid.map(str::to_owned), body: body.map(str::to_owned) }
}

/// A member by its name, or by a path of names with dots between.
fn member<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    let found = value.get(name).or_else(|| value.pointer(&format!("/{}", name.replace('.', "/"))))?;
    found.as_str().or_else(|| any(found))
}

fn csv_rows(
    path: &Path,
    reader: impl Read,
    column: Option<&str>,
    take: &mut impl FnMut(Row),
) -> Result<(), ReconcileError> {
    let form = |place: String, what: String| ReconcileError::Form { path: path.to_owned(), place, what };
    let mut rows = csv::ReaderBuilder::new().flexible(true).from_reader(reader);
    let header = rows.headers().map_err(|error| form("line 1".to_owned(), error.to_string()))?.clone();
    let place = |names: &[&str]| names.iter().find_map(|name| header.iter().position(|found| found == *name));
    let wanted: Vec<&str> = column.map_or_else(|| UIDS.to_vec(), |name| vec![name]);
    let Some(uid) = place(&wanted) else {
        let what = format!(
            "no column is called `{}`; name the column of the uids with --column",
            wanted.join("`, `")
        );
        return Err(form("line 1".to_owned(), what));
    };
    let body = place(&BODIES);
    for row in rows.records() {
        let row = row.map_err(|error| {
            let place = error.position().map_or(0, csv::Position::line);
            form(format!("line {place}"), error.to_string())
        })?;
        let text = |place: usize| row.get(place).filter(|text| !text.is_empty()).map(str::to_owned);
        take(Row {
            uid: text(uid),
            body: body.and_then(text).filter(|body| body.starts_with('{') || body.contains("\n\n\u{2014} ")),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::read::GzEncoder;

    use super::*;

    fn read(name: &str, text: &str, column: Option<&str>) -> Result<Vec<Row>, ReconcileError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        let mut bytes = text.as_bytes().to_vec();
        if name.ends_with(".gz") {
            bytes.clear();
            GzEncoder::new(text.as_bytes(), Compression::fast()).read_to_end(&mut bytes).unwrap();
        }
        std::fs::write(&path, bytes).unwrap();
        let mut found = Vec::new();
        rows(&path, column, |row| found.push(row))?;
        Ok(found)
    }

    fn row(uid: &str, body: Option<&str>) -> Row {
        Row { uid: Some(uid.to_owned()), body: body.map(str::to_owned) }
    }

    #[test]
    fn each_form_is_read() {
        let otlp = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[
            {"body":{"stringValue":"{\"a\":1}"},"attributes":[{"key":"x","value":{"intValue":"1"}},{"key":"log.record.uid","value":{"stringValue":"u1"}}]},
            {"body":{"stringValue":"other"}}]}]}]} {"resourceLogs":[]}"#;
        let found = read("x.json", otlp, None).unwrap();
        assert_eq!(found, [row("u1", Some("{\"a\":1}")), Row { uid: None, body: Some("other".into()) }]);
        let lines = "{\"uid\":\"u1\",\"body\":\"{}\"}\n{\"attributes\":{\"log.record.uid\":\"u2\"}}\n{\"metadata\":{\"uid\":\"u3\"},\"message\":\"a by b\"}\n";
        assert_eq!(
            read("x.jsonl", lines, None).unwrap(),
            [row("u1", Some("{}")), row("u2", None), row("u3", None)]
        );
        assert_eq!(read("x.json", "[{\"uid\":\"u1\"}]", None).unwrap(), [row("u1", None)]);
        assert_eq!(read("x.jsonl.gz", lines, None).unwrap().len(), 3);
        assert_eq!(read("x.csv.gz", "uid\nu1\n", None).unwrap(), [row("u1", None)]);
        let table = "time,key,body\n1,u1,\"{\"\"a\"\":1}\"\n2,,\n";
        assert_eq!(
            read("x.csv", table, Some("key")).unwrap(),
            [row("u1", Some("{\"a\":1}")), Row { uid: None, body: None }]
        );
    }

    #[test]
    fn what_is_of_another_form_is_named() {
        let error = |name: &str, text: &str| read(name, text, None).unwrap_err().to_string();
        assert!(error("x.csv", "a,b\n1,2\n").contains("--column"));
        assert!(error("x.json", "{\"uid\":\"u1\"}\n{\"uid").contains("value 2"));
        assert!(error("x.json", "7").contains("expected an object"));
    }
}
