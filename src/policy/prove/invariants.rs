//! Invariants: policies that describe what must never be allowed, read and checked like the bundle's own.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use cedar_policy::{Effect, Policy, PolicyId};

use crate::model::Problems;
use crate::policy::Bundle;
use crate::policy::check;
use crate::policy::source::Source;

/// The directory of invariants within that of the policies.
pub const DIRECTORY: &str = "invariants";

/// Requests that must be denied: all that its policy matches.
#[derive(Debug, Clone)]
pub struct Invariant {
    /// Its `@id`, unique among the invariants.
    pub id: Arc<str>,
    /// What must never be, in one sentence: its `@invariant`, or else its `@reason`.
    pub says: String,
    /// Where it stands, as the user named the directory.
    pub file: String,
    /// The line where it starts, from 1.
    pub line: usize,
    policy: Policy,
}

impl Invariant {
    /// The policy that matches what must be denied.
    #[cfg(feature = "prove")]
    pub(super) const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Its text in Cedar's JSON form: what a proof depends on.
    #[must_use]
    pub fn canonical(&self) -> String {
        self.policy.to_json().map_or_else(|error| error.to_string(), |json| json.to_string())
    }

    /// SHA-256 of [`Self::canonical`], hexadecimal: layout and comments may change, what it describes may not.
    #[must_use]
    pub fn sha256(&self) -> String {
        let digest = digest(&SHA256, self.canonical().as_bytes());
        crate::model::hex(digest.as_ref())
    }
}

/// All invariants of a directory of policies, in order of file and line.
#[derive(Debug, Clone, Default)]
pub struct Invariants {
    /// The invariants.
    pub all: Vec<Invariant>,
}

impl Invariants {
    /// Reads `invariants/*.bad.cedar` of a directory of policies, and checks them as strictly as policies. A directory without invariants
    /// has none. Without a bundle (it had problems of its own) only their syntax is looked at.
    ///
    /// Bounds: 1 MiB a file, 1,000 files, 10,000 policies. What is wrong goes to `problems`.
    pub fn load(policies: &Path, bundle: Option<&Bundle>, problems: &mut Problems) -> Self {
        let source = Source::invariants(&policies.join(DIRECTORY), problems);
        let checked = check::load(&source, bundle.map(Bundle::schema), bundle.map(Bundle::master), problems);
        let mut all: Vec<Invariant> = Vec::new();
        for policy in checked.policies.policies() {
            let Some(info) = checked.infos.get(policy.id()) else { continue };
            let (file, place) = (source.path(&info.file), format!("line {}, column 1", info.line));
            if policy.effect() == Effect::Forbid {
                let hint = "write `permit`: it describes the requests that must be denied";
                problems.push(&file, &place, "is a `forbid`, and an invariant is none", hint);
            }
            let says =
                policy.annotation("invariant").or_else(|| policy.annotation("reason")).unwrap_or_default();
            if says.trim().is_empty() {
                let hint = "write `@invariant(\"what must never be\")` before it";
                problems.push(&file, &place, "does not say in words what must never be", hint);
            }
            all.push(Invariant {
                id: Arc::clone(&info.id),
                says: says.trim().to_owned(),
                file,
                line: info.line,
                policy: policy.new_id(PolicyId::new(&*info.id)),
            });
        }
        all.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        Self { all }
    }
}
