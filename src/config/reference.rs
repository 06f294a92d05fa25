//! The configuration reference and its JSON Schema, written from the types themselves.
//!
//! `docs/configuration.md` and `docs/configuration.schema.json` are these texts; a test compares them.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::FileConfig;
use super::element::Step;

/// The JSON Schema of the configuration file (draft 2020-12).
#[must_use]
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(FileConfig);
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

/// The reference as Markdown: one table a section.
#[must_use]
pub fn markdown() -> String {
    let schema = schemars::schema_for!(FileConfig).to_value();
    let mut page = Page { root: &schema, text: INTRODUCTION.to_owned() };
    for (name, section) in properties(&schema) {
        page.section(name, section);
    }
    page.text
}

const INTRODUCTION: &str = "\
# Configuration

```sh
tidegate check --config tidegate.toml     # all problems at once, each with its place and the mend
```

One TOML file. Unknown keys are errors. Paths are relative to the file's folder. Secrets are only ever read from files that nobody else can
read (mode 0600 or 0400). Durations are written `250ms`, `30s`, `5m`, `1h`, `1d`; sizes `512B`, `64KiB`, `4MiB`, `1GiB`.
`tidegate demo` leaves a complete example in `tidegate-demo/tidegate.toml`. This page is generated from the configuration's types;
[configuration.schema.json](configuration.schema.json) is the same for editors.
";

/// The keys that the table at `path` of a `T` must have.
pub(super) fn required<T: schemars::JsonSchema>(path: &[Step]) -> Vec<String> {
    let schema = schemars::schema_for!(T).to_value();
    let page = Page { root: &schema, text: String::new() };
    let table = path.iter().try_fold(page.resolve(&schema), |value, step| {
        let inner = match step {
            Step::Key(key) => value.get("properties")?.get(key)?,
            Step::Index(_) => value.get("items")?,
        };
        Some(page.resolve(inner))
    });
    let keys = table.and_then(|table| table.get("required")).and_then(Value::as_array);
    keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

struct Page<'a> {
    root: &'a Value,
    text: String,
}

impl<'a> Page<'a> {
    fn section(&mut self, name: &str, section: &'a Value) {
        let (heading, table) = self.shape(name, section);
        let _ = write!(self.text, "\n## `{heading}`\n\n{}\n", description(section));
        self.table(&heading, table);
    }

    /// The heading of a section and the object that its keys are in: the element of a list or map.
    fn shape(&self, name: &str, section: &'a Value) -> (String, &'a Value) {
        let section = self.resolve(section);
        if let Some(items) = section.get("items") {
            return (format!("[[{name}]]"), self.resolve(items));
        }
        if let Some(element) = self.element(section) {
            return (format!("[{name}.NAME]"), element);
        }
        (format!("[{name}]"), section)
    }

    fn element(&self, section: &'a Value) -> Option<&'a Value> {
        let by_pattern = section.get("patternProperties").and_then(Value::as_object);
        let element = match section.get("additionalProperties") {
            Some(element @ Value::Object(_)) => element,
            _ => by_pattern?.values().next()?,
        };
        Some(self.resolve(element))
    }

    fn table(&mut self, heading: &str, object: &'a Value) {
        let required: Vec<&str> = object
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut nested = Vec::new();
        let mut rows = String::new();
        for (key, property) in properties(object) {
            let target = self.resolve(property);
            let default = match property.get("default").or_else(|| target.get("default")) {
                _ if required.contains(&key.as_str()) => "**required**".to_owned(),
                Some(Value::Null) | None => "–".to_owned(),
                Some(Value::Object(_)) => "see below".to_owned(),
                Some(value) => format!("`{value}`"),
            };
            let meaning = match description(property) {
                "" => description(target),
                own => own,
            };
            let kind = self.kind(property);
            let _ = writeln!(
                rows,
                "| `{key}` | {kind} | {default} | {} |",
                meaning.replace('\n', " ").replace('|', "\\|")
            );
            nested.extend(self.nested(heading, key, property));
        }
        if !rows.is_empty() {
            let _ = write!(self.text, "\n| key | type | default | meaning |\n|---|---|---|---|\n{rows}");
        }
        for (heading, object) in nested {
            let _ = write!(self.text, "\n### `{heading}`\n\n{}\n", description(object));
            self.table(&heading, object);
        }
    }

    /// The object behind a key that is a table, or a list or map of tables.
    fn nested(&self, heading: &str, key: &str, property: &'a Value) -> Option<(String, &'a Value)> {
        let outer = heading.trim_matches(['[', ']']);
        let target = self.resolve(property);
        if !properties_of(target).is_empty() {
            return Some((format!("[{outer}.{key}]"), target));
        }
        if let Some(items) = target.get("items").map(|items| self.resolve(items))
            && !properties_of(items).is_empty()
        {
            return Some((format!("[[{outer}.{key}]]"), items));
        }
        let element = self.element(target)?;
        (!properties_of(element).is_empty()).then(|| (format!("[{outer}.{key}.NAME]"), element))
    }

    fn kind(&self, property: &'a Value) -> String {
        let named = property.get("anyOf").and_then(|any| any.get(0)).unwrap_or(property);
        let name = named.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
        let target = self.resolve(property);
        let choices: Vec<&str> = target
            .get("enum")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .chain(
                target
                    .get("oneOf")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(|one| one.get("const")),
            )
            .filter_map(Value::as_str)
            .collect();
        if !choices.is_empty() {
            return choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(" or ");
        }
        if let Some(items) = target.get("items") {
            return format!("list of {}", self.kind(items));
        }
        match (name, target.get("type")) {
            (Some("ByteSize"), _) => "size".to_owned(),
            (Some("Duration"), _) => "duration".to_owned(),
            (_, Some(Value::String(kind))) => plain(kind).to_owned(),
            (_, Some(Value::Array(kinds))) => kinds
                .iter()
                .filter_map(Value::as_str)
                .find(|kind| *kind != "null")
                .map_or_else(String::new, |kind| plain(kind).to_owned()),
            _ => "table".to_owned(),
        }
    }

    /// Follows a reference, also the one of an optional value.
    fn resolve(&self, value: &'a Value) -> &'a Value {
        let optional = value.get("anyOf").and_then(Value::as_array).and_then(|any| any.first());
        let value = optional.unwrap_or(value);
        let Some(path) = value.get("$ref").and_then(Value::as_str) else {
            return value;
        };
        self.root.pointer(path.trim_start_matches('#')).unwrap_or(value)
    }
}

fn plain(kind: &str) -> &str {
    match kind {
        "object" => "table",
        "array" => "list",
        other => other,
    }
}

fn description(value: &Value) -> &str {
    value.get("description").and_then(Value::as_str).unwrap_or_default()
}

fn properties(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn properties_of(value: &Value) -> Map<String, Value> {
    value.get("properties").and_then(Value::as_object).cloned().unwrap_or_default()
}
