//! Asks a recorded question again, of the policies as they were: the archived bundle that the record names, offline.
//!
//! The same code decides as in the gateway. What the answer shows: with these policies, and what the record says was known, this is what had to be
//! decided. That the record itself is the one that was written is shown by the journal's tree, not here.

mod contradictions;
mod question;
mod trial;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize as _, Serialize};
use serde_json::Value;

use self::question::{Evaluated, Question, Recorded, Wrong};
pub(super) use self::trial::Answer as TrialAnswer;
pub use self::trial::Trial;
use super::bundle::{Bundle, PolicyInfo, content_hash};
use super::permit::{DenialReason, Evaluation};
use crate::model::{Candidate, Problems, Protection};

/// Archived bundles that a [`Replayer`] keeps in memory.
const MAX_BUNDLES: usize = 8;

/// A record that cannot be asked again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It is no decision.
    #[error("a record of kind `{0}` holds no decision to replay")]
    NoDecision(String),
    /// The policies were not asked: it was refused before them, or after.
    #[error("no policy was asked: the request was refused with `{0}`")]
    NotAsked(String),
    /// It was denied before any place was tried, so none is recorded.
    #[error("the request was denied with `{0}` before any place was tried")]
    NothingTried(String),
    /// It was too large and was cut when it was written.
    #[error("the record was cut to fit and does not hold the whole question")]
    Cut,
    /// What identified its user was erased, or cannot be read here.
    #[error("what identifies its user was erased, or cannot be read without the journal's keys")]
    Erased,
    /// Its parts contradict each other.
    #[error("the record contradicts itself: {0}")]
    Contradiction(String),
    /// A member is missing or is nothing that a gateway writes.
    #[error("the record is not as a gateway writes it: `{member}` {reason}")]
    Malformed {
        /// The member.
        member: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The bundle is not in the archive.
    #[error(
        "bundle {hash} is not in `{}`: bring it back from a backup of the journal; a directory of \
         policies with this hash will do",
        archive.display()
    )]
    Missing {
        /// The hash that the record names.
        hash: String,
        /// Where it should be.
        archive: PathBuf,
    },
    /// The archived files are not those that decided.
    #[error("bundle `{}` was changed: its files hash to {found}; bring it back from a backup", path.display())]
    Changed {
        /// The archived bundle.
        path: PathBuf,
        /// Its hash now.
        found: String,
    },
    /// The bundle is the one that decided, but this version of the program refuses it.
    #[error("bundle `{}` cannot be loaded by this version:\n{problems}", path.display())]
    Refused {
        /// The archived bundle.
        path: PathBuf,
        /// Why not.
        problems: Problems,
    },
}

impl From<Wrong> for ReplayError {
    fn from((member, reason): Wrong) -> Self {
        Self::Malformed { member, reason }
    }
}

/// The answer of the archived policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// The bundle that was asked.
    pub bundle: String,
    /// `allow` or `deny`.
    pub decision: &'static str,
    /// The stable code of a denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// The policies that decide, by `@id`.
    pub reasons: Vec<String>,
    /// Whether everything is as recorded.
    pub agrees: bool,
    /// What is not; empty if all is.
    pub differences: Vec<String>,
    /// What may explain a difference.
    pub notes: Vec<String>,
    /// The policies that took part, with their text as it was: those that decide now and those that the record names.
    pub policies: Vec<PolicyThen>,
    /// How many policies the bundle has.
    pub of_policies: usize,
}

/// A policy as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyThen {
    /// What is known of it: id, effect, owner, reason, file and line.
    #[serde(flatten)]
    pub info: PolicyInfo,
    /// Its text.
    pub text: String,
}

/// Replays one record; `bundles` is the archive, `<audit.directory>/bundles`.
///
/// # Errors
/// The record or its bundle does not allow it; a different answer is no error.
pub fn replay(record: &Value, bundles: &Path) -> Result<Replayed, ReplayError> {
    Replayer::new(bundles).replay(record)
}

/// Replays many records, and keeps the bundles that they share.
#[derive(Debug)]
pub struct Replayer {
    archive: PathBuf,
    bundles: BTreeMap<String, Arc<Bundle>>,
}

impl Replayer {
    /// Over the archive `<audit.directory>/bundles`.
    #[must_use]
    pub fn new(archive: &Path) -> Self {
        Self { archive: archive.to_owned(), bundles: BTreeMap::new() }
    }

    /// Replays one record.
    ///
    /// # Errors
    /// As [`replay`].
    pub fn replay(&mut self, record: &Value) -> Result<Replayed, ReplayError> {
        let malformed = |error: serde_json::Error| ("record", error.to_string());
        let recorded = Recorded::deserialize(record).map_err(malformed)?;
        recorded.decided()?;
        if recorded.is_erased() {
            return Err(ReplayError::Erased);
        }
        let bundle = self.bundle(&recorded.bundle)?;
        let (question, contradictions) = Question::of(&recorded)?;
        if recorded.evaluations.is_empty() && question.last.is_none() {
            return Err(ReplayError::NotAsked(recorded.code.unwrap_or_default()));
        }
        let answer = Answer::ask(&bundle, &question, &recorded)?;
        let mut differences = contradictions;
        answer.compare(&recorded, &mut differences);
        let mut notes = Vec::new();
        if question.has_digested_path() && reads_path(&bundle) {
            notes.push(
                "the record holds the object's key as a digest: a policy that reads `context.request.path` was \
                 asked with another text"
                    .to_owned(),
            );
        }
        let mut named: Vec<&String> = answer.policies.iter().chain(&recorded.policies).collect();
        named.sort();
        named.dedup();
        let then = |id: &String| {
            let info = PolicyInfo::clone(bundle.policy(id)?);
            Some(PolicyThen { info, text: bundle.policy_text(id)? })
        };
        Ok(Replayed {
            bundle: bundle.hash().to_owned(),
            decision: answer.decision(),
            code: answer.reason.map(DenialReason::code),
            policies: named.into_iter().filter_map(then).collect(),
            agrees: differences.is_empty(),
            differences,
            notes,
            of_policies: bundle.policies().len(),
            reasons: answer.policies,
        })
    }

    /// The archived bundle, if it is the one that its name says.
    fn bundle(&mut self, hash: &str) -> Result<Arc<Bundle>, ReplayError> {
        if hash.len() != 64 || !hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            let shown: String = hash.chars().take(80).collect();
            return Err(("bundle", format!("`{shown}` is no SHA-256")).into());
        }
        if let Some(bundle) = self.bundles.get(hash) {
            return Ok(Arc::clone(bundle));
        }
        let path = self.archive.join(hash);
        if !path.is_dir() {
            return Err(ReplayError::Missing { hash: hash.to_owned(), archive: self.archive.clone() });
        }
        let found = content_hash(&path);
        if found != hash {
            return Err(ReplayError::Changed { path, found });
        }
        let loaded = Bundle::load(&path).map_err(|problems| ReplayError::Refused { path, problems })?;
        let bundle = Arc::new(loaded);
        if self.bundles.len() >= MAX_BUNDLES {
            self.bundles.pop_first();
        }
        self.bundles.insert(hash.to_owned(), Arc::clone(&bundle));
        Ok(bundle)
    }
}

impl Recorded {
    /// Whether it holds a decision of policies.
    fn decided(&self) -> Result<(), ReplayError> {
        if self.kind != "decision" {
            return Err(ReplayError::NoDecision(self.kind.chars().take(40).collect()));
        }
        if !matches!(self.decision.as_deref(), Some("allow" | "deny")) {
            return Err(ReplayError::NotAsked(self.code.clone().unwrap_or_default()));
        }
        if self.truncated { Err(ReplayError::Cut) } else { Ok(()) }
    }

    /// Whether its user is not known: what identified them was encrypted, and could not be put back.
    fn is_erased(&self) -> bool {
        let hidden = |id: &str| id.starts_with("subject:") || id.starts_with("erased on ");
        self.personal.is_some() && self.principal.as_ref().is_some_and(|party| hidden(&party.id))
    }
}

/// What the policies say now.
#[derive(Debug)]
struct Answer {
    evaluations: Vec<Evaluation>,
    /// Why it is denied; none if it is allowed.
    reason: Option<DenialReason>,
    policies: Vec<String>,
}

impl Answer {
    /// Asks what was asked, in the same order, until the answer is there.
    fn ask(bundle: &Bundle, question: &Question, recorded: &Recorded) -> Result<Self, ReplayError> {
        let mut answer = Self { evaluations: Vec::new(), reason: None, policies: Vec::new() };
        let mut attempts: Vec<(Candidate, Protection)> =
            recorded.evaluations.iter().map(Evaluated::attempt).collect::<Result<_, _>>()?;
        // An attempt that could not be asked has left no evaluation.
        if attempts.last() != question.last.as_ref() {
            attempts.extend(question.last.clone());
        }
        let mut forbidding: Vec<Arc<str>> = Vec::new();
        for (candidate, protection) in &attempts {
            let decided = bundle.decide(&question.request(), std::slice::from_ref(candidate), &[*protection]);
            match decided {
                Ok(permit) => {
                    answer.evaluations.extend_from_slice(permit.evaluations());
                    answer.policies = names(permit.policies());
                    answer.reason = None;
                    return Ok(answer);
                }
                Err(denial) => {
                    let ends = !matches!(denial.reason, DenialReason::NotPermitted | DenialReason::Forbidden);
                    answer.evaluations.extend(denial.evaluations);
                    if ends {
                        answer.reason = Some(denial.reason);
                        return Ok(answer);
                    }
                    forbidding.extend(
                        denial
                            .policies
                            .iter()
                            .filter(|id| !forbidding.contains(id))
                            .cloned()
                            .collect::<Vec<_>>(),
                    );
                }
            }
        }
        let forbidden = !forbidding.is_empty();
        answer.reason = Some(if forbidden { DenialReason::Forbidden } else { DenialReason::NotPermitted });
        answer.policies = names(&forbidding);
        Ok(answer)
    }

    const fn decision(&self) -> &'static str {
        if self.reason.is_none() { "allow" } else { "deny" }
    }

    /// Names what is not as recorded.
    fn compare(&self, recorded: &Recorded, differences: &mut Vec<String>) {
        let said = recorded.decision.as_deref().unwrap_or_default();
        if said != self.decision() {
            differences.push(format!("the record says `{said}`, these policies say `{}`", self.decision()));
        }
        let (code, found) = (recorded.code.as_deref(), self.reason.map(DenialReason::code));
        if said == self.decision() && code != found {
            let (code, found) = (code.unwrap_or("none"), found.unwrap_or("none"));
            differences.push(format!("the record's code is `{code}`, the policies give `{found}`"));
        }
        if sorted(&recorded.policies) != sorted(&self.policies) {
            let shown = |ids: &[String]| {
                if ids.is_empty() { "none".to_owned() } else { format!("`{}`", ids.join("`, `")) }
            };
            let (named, found) = (shown(&recorded.policies), shown(&self.policies));
            differences.push(format!("the record names the policies {named}, deciding are {found}"));
        }
        if recorded.evaluations.len() != self.evaluations.len() {
            let (then, now) = (recorded.evaluations.len(), self.evaluations.len());
            differences.push(format!("the record holds {then} evaluations, these policies take {now}"));
        }
        for (number, (then, now)) in recorded.evaluations.iter().zip(&self.evaluations).enumerate() {
            let now_policies = names(&now.policies);
            if then.allowed != now.allowed
                || sorted(&then.policies) != sorted(&now_policies)
                || then.errors != now.errors
            {
                differences.push(format!("evaluation {} is answered otherwise", number.saturating_add(1)));
            }
        }
    }
}

/// Whether any policy may look at the path, which for stores a record holds only as a digest.
pub(super) fn reads_path(bundle: &Bundle) -> bool {
    bundle
        .policies()
        .iter()
        .any(|info| bundle.policy_text(&info.id).is_some_and(|text| text.contains("path")))
}

fn names(ids: &[Arc<str>]) -> Vec<String> {
    ids.iter().map(|id| id.as_ref().to_owned()).collect()
}

fn sorted(ids: &[String]) -> Vec<&String> {
    let mut ids: Vec<&String> = ids.iter().collect();
    ids.sort();
    ids
}
