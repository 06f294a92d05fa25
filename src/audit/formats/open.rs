//! The decisions whose outcomes have not come yet.

use std::collections::HashMap;

use serde_json::Value;

/// Decisions that are remembered; the outcomes of more say neither who nor what.
const MAX_OPEN: usize = 100_000;
/// Members of a decision that no outcome needs, and that take most of its space.
const LARGE: [&str; 2] = ["context", "evaluations"];

/// Finds the decision of an outcome, in records that come in their order. Holds at most 100,000 decisions, without their context.
#[derive(Debug, Default)]
pub struct OpenDecisions {
    open: HashMap<String, Value>,
}

impl OpenDecisions {
    /// Takes the next record; the decision of it, if it is an outcome and the decision has come by.
    pub fn take(&mut self, payload: &[u8]) -> Option<Value> {
        let mut record: Value = serde_json::from_slice(payload).ok()?;
        let kind = record.get("kind")?.as_str()?.to_owned();
        let key = format!("{}/{}", record.get("id")?.as_str()?, record.get("attempt")?.as_u64()?);
        if kind == "outcome" {
            return self.open.remove(&key);
        }
        if kind == "decision" && self.open.len() < MAX_OPEN {
            let members = record.as_object_mut()?;
            for name in LARGE {
                members.remove(name);
            }
            self.open.insert(key, record);
        }
        None
    }
}
