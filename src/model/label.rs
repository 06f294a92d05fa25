//! Data labels: how sensitive a payload is, and where it may be.
//!
//! Levels are ordered; residency is a set of jurisdictions, any one of which will do.
//! Labels only ever become stricter: [`Label::strictest`] is the only way to combine claims.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Jurisdiction;

/// Sensitivity, ordered. Shown by name everywhere; a `Long` in Cedar.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// 0: may be seen by anyone.
    Public,
    /// 1: for the organisation.
    Internal,
    /// 2: for those who need it.
    Confidential,
    /// 3: never leaves unsealed.
    Restricted,
}

impl Level {
    /// The `Long` that Cedar compares.
    #[must_use]
    pub const fn rank(self) -> i64 {
        match self {
            Self::Public => 0,
            Self::Internal => 1,
            Self::Confidential => 2,
            Self::Restricted => 3,
        }
    }

    /// The name in configuration, headers and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Confidential => "confidential",
            Self::Restricted => "restricted",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Public, Self::Internal, Self::Confidential, Self::Restricted]
            .into_iter()
            .find(|level| level.name() == text)
            .ok_or(())
    }
}

/// Who fixed the effective level of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Nobody said anything: restricted.
    Default,
    /// The route's floor.
    Route,
    /// The dataset's label.
    Dataset,
    /// A detector that looked at the payload.
    Detector,
    /// The caller's `tidegate-label` header.
    Caller,
}

impl Origin {
    /// The name in policies and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Route => "route",
            Self::Dataset => "dataset",
            Self::Detector => "detector",
            Self::Caller => "caller",
        }
    }
}

/// Jurisdictions that may hold the data: any one will do, none means nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Residency(BTreeSet<Jurisdiction>);

impl Residency {
    /// The jurisdictions, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = &Jurisdiction> {
        self.0.iter()
    }

    /// Whether the data may be nowhere at all.
    #[must_use]
    pub fn is_nowhere(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Jurisdiction> for Residency {
    fn from_iter<I: IntoIterator<Item = Jurisdiction>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

/// A jurisdiction that the entities do not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("jurisdiction `{0}` is not in the policy entities")]
pub struct UnknownJurisdiction(pub Jurisdiction);

/// The jurisdictions of the policy bundle, each with all that contain it (DE is in EU).
#[derive(Debug, Clone, Default)]
pub struct Jurisdictions(BTreeMap<Jurisdiction, BTreeSet<Jurisdiction>>);

impl Jurisdictions {
    /// From each jurisdiction and its transitive ancestors.
    #[must_use]
    pub fn new(ancestors: BTreeMap<Jurisdiction, BTreeSet<Jurisdiction>>) -> Self {
        Self(ancestors)
    }

    /// Whether the name is known.
    #[must_use]
    pub fn contains(&self, name: &Jurisdiction) -> bool {
        self.0.contains_key(name)
    }

    fn is_in(&self, inner: &Jurisdiction, outer: &Jurisdiction) -> bool {
        inner == outer || self.0.get(inner).is_some_and(|above| above.contains(outer))
    }

    /// The places allowed by both: of two nested jurisdictions the inner one stays.
    #[must_use]
    pub fn intersect(&self, a: &Residency, b: &Residency) -> Residency {
        let narrower = |x: &Residency, y: &Residency| -> BTreeSet<Jurisdiction> {
            x.iter().filter(|inner| y.iter().any(|outer| self.is_in(inner, outer))).cloned().collect()
        };
        let mut both = narrower(a, b);
        both.extend(narrower(b, a));
        Residency(both)
    }
}

/// The label that holds for one request: what Cedar sees as `context.data`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Label {
    /// The strictest level that anyone claimed.
    pub level: Level,
    /// Where the data may be; what nobody declared is nowhere.
    pub residency: Residency,
    /// Who fixed the level.
    pub origin: Origin,
}

/// A label under construction: nothing is known yet.
#[derive(Debug, Clone, Default)]
struct Claims {
    level: Option<(Level, Origin)>,
    residency: Option<Residency>,
}

impl Label {
    /// Combines the claims of all origins: the highest level, the intersection of residencies.
    /// Without any level the label is restricted, without any residency it is nowhere.
    #[must_use]
    pub fn strictest<'a>(
        claims: impl IntoIterator<Item = (Origin, Option<Level>, Option<&'a Residency>)>,
        jurisdictions: &Jurisdictions,
    ) -> Self {
        let mut all = Claims::default();
        for (origin, level, residency) in claims {
            if let Some(level) = level
                && all.level.is_none_or(|(highest, _)| level > highest)
            {
                all.level = Some((level, origin));
            }
            if let Some(residency) = residency {
                all.residency = Some(match &all.residency {
                    Some(so_far) => jurisdictions.intersect(so_far, residency),
                    None => residency.clone(),
                });
            }
        }
        let (level, origin) = all.level.unwrap_or((Level::Restricted, Origin::Default));
        Self { level, residency: all.residency.unwrap_or_default(), origin }
    }
}
