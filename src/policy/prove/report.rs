//! What came of the claims.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Whose claim it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An invariant beside the policies.
    Invariant,
    /// One that holds for every bundle.
    BuiltIn,
}

/// What came of one claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name: the `@id` of an invariant.
    pub id: String,
    /// Whose claim it is.
    pub kind: Kind,
    /// What it says.
    pub says: String,
    /// Where it stands: `policies/invariants/agents.bad.cedar:3`; empty for a built-in one.
    #[serde(default)]
    pub place: String,
    /// For how many kinds of request (principal type × action × resource type) it was asked.
    pub environments: usize,
    /// The answer.
    pub verdict: Verdict,
    /// How long it took, in milliseconds, over all kinds of request; as it was then if it is remembered.
    pub milliseconds: u64,
    /// Whether the answer is remembered from an equal run.
    #[serde(default)]
    pub cached: bool,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Verdict {
    /// It holds for every request.
    Proved,
    /// A request refutes it.
    Disproved {
        /// The kinds of request for which it does not hold: `User infer Model`.
        fails_for: Vec<String>,
        /// One such request.
        counterexample: Box<Counterexample>,
    },
    /// Nobody knows.
    NotProved {
        /// The kinds of request that are open.
        open_for: Vec<String>,
        /// Why, for the first of them.
        why: String,
    },
}

impl Verdict {
    /// Whether it holds.
    #[must_use]
    pub const fn is_proved(&self) -> bool {
        matches!(self, Self::Proved)
    }
}

/// A request that refutes a claim, confirmed by Cedar itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counterexample {
    /// Its kind: `User infer Model`.
    pub environment: String,
    /// The principal with its teams.
    pub who: String,
    /// The action and the resource.
    pub what: String,
    /// The level of the data.
    pub level: String,
    /// Where the data may go.
    pub residency: String,
    /// Where it would go.
    pub destination: String,
    /// What would be done to the payload.
    pub protection: String,
    /// More facts that the request has, by name.
    pub also: BTreeMap<String, String>,
    /// What Cedar answers, in words.
    pub answer: String,
    /// The policies that decide.
    pub policies: Vec<String>,
    /// The request in Cedar's JSON: principal, action, resource, context.
    pub request: Value,
    /// The entities in Cedar's JSON.
    pub entities: Value,
}

/// What came of all claims.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The hash of the bundle.
    pub bundle: String,
    /// The solver's version.
    pub solver: String,
    /// The answers, built-in claims last.
    pub claims: Vec<Finding>,
}

impl Report {
    /// Whether every claim is proved.
    #[must_use]
    pub fn all_proved(&self) -> bool {
        self.claims.iter().all(|finding| finding.verdict.is_proved())
    }
}
