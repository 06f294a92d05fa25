//! The JSON Schema of a record (draft 2020-12): one for each `kind`, made from the types that write them.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use super::{Event, Outcome, PersonalDecision, Refusal, Refusals, Stamp};
use crate::model::RecordId;

/// A record as it stands in the journal.
#[derive(JsonSchema)]
struct Line<T> {
    /// The version of the record format.
    #[schemars(extend("const" = 1))]
    #[expect(dead_code, reason = "it is only described")]
    v: u8,
    /// Whether the record was larger than 32 KiB and was cut to fit.
    #[schemars(extend("const" = true))]
    #[expect(dead_code, reason = "it is only described")]
    truncated: Option<bool>,
    /// The note that another process left, for an event that it has to tell.
    #[expect(dead_code, reason = "it is only described")]
    note: Option<RecordId>,
    #[serde(flatten)]
    #[expect(dead_code, reason = "it is only described")]
    stamp: Stamp<'static>,
    #[serde(flatten)]
    #[expect(dead_code, reason = "it is only described")]
    record: T,
}

fn line<T: JsonSchema>(kind: &str, title: &str, generator: &mut SchemaGenerator) -> Value {
    let mut schema: Schema = Line::<T>::json_schema(generator);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("kind".to_owned(), json!({ "const": kind }));
    }
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.push(json!("kind"));
    }
    schema.insert("title".to_owned(), json!(title));
    schema.to_value()
}

/// The schema, indented. Readers must ignore members that it does not name, so it forbids none.
#[must_use]
pub fn json_schema() -> String {
    let mut generator = SchemaGenerator::default();
    let kinds = [
        line::<PersonalDecision<'static>>(
            "decision",
            "A decision, written before anything is sent",
            &mut generator,
        ),
        line::<Outcome<'static>>("outcome", "How a crossing ended", &mut generator),
        line::<Refusal<'static>>("refusal", "A refusal before anybody was identified", &mut generator),
        line::<Refusals>("refusals", "Refusals that were counted", &mut generator),
        line::<Event<'static>>("event", "Something that happened to the gateway itself", &mut generator),
    ];
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A record of Tidegate's audit journal, version 1",
        "description": "Canonical JSON (RFC 8785), at most 32 KiB; all numbers are integers. Unknown members are to be ignored.",
        "oneOf": kinds,
        "$defs": generator.take_definitions(true),
    });
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}
