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
    /// SHA-256 of an invariant in Cedar's JSON form, hexadecimal: which words were proved. None for a built-in claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
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

impl Counterexample {
    /// Its facts by name, in the order in which they are told.
    pub fn facts(&self) -> impl Iterator<Item = (&str, &str)> {
        let rows = [
            ("who", self.who.as_str()),
            ("what", &self.what),
            ("level", &self.level),
            ("residency", &self.residency),
            ("destination", &self.destination),
            ("protection", &self.protection),
        ];
        rows.into_iter().chain(self.also.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }
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

/// How the new policies stand to the old ones for one kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Relation {
    /// They decide every request alike.
    Equivalent,
    /// They allow less.
    Stricter,
    /// They allow more.
    Looser,
    /// They allow some that was denied, and deny some that was allowed.
    Both,
    /// Nobody knows.
    Unknown,
}

impl Relation {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Equivalent => "equivalent",
            Self::Stricter => "stricter",
            Self::Looser => "looser",
            Self::Both => "looser and stricter",
            Self::Unknown => "not known",
        }
    }
}

/// How two bundles compare for one kind of request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// The kind of request: `User infer Model`.
    pub environment: String,
    /// How the new policies stand to the old ones.
    pub result: Relation,
    /// A request that is newly allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub looser: Option<Box<Counterexample>>,
    /// A request that is newly denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stricter: Option<Box<Counterexample>>,
    /// Why it is not known, or how it comes without an example.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Compared {
    /// Without examples.
    #[must_use]
    pub fn new(environment: &str, result: Relation) -> Self {
        Self { environment: environment.to_owned(), result, looser: None, stricter: None, why: None }
    }
}
