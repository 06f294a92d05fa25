//! Any body of an inference request: what is taken is one JSON object that another reader reads the same.

use serde_json::Value;
use tidegate::inspect::read_json;

pub(crate) fn read(input: &[u8]) {
    let Ok(facts) = read_json(input) else { return };
    let value: Value =
        serde_json::from_slice(input).unwrap_or_else(|error| panic!("what is taken is no JSON: {error}"));
    assert_eq!(value["model"].as_str(), Some(facts.model.as_str()));
    assert_eq!(value["stream"].as_bool().unwrap_or(false), facts.stream);
    assert_eq!(value["stream_options"]["include_usage"].as_bool().unwrap_or(false), facts.include_usage);
    let asked = ["max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"];
    let largest = asked.iter().filter_map(|key| value[*key].as_u64()).max();
    assert!(facts.max_tokens >= largest, "{:?} of {largest:?}", facts.max_tokens);
    let _ = facts.max_answer_tokens();
}
