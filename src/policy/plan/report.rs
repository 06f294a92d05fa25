//! The whole plan, and what it comes to.

use std::path::Path;

use serde::Serialize;

use super::changes::Changes;
use super::tally::Replay;
use crate::policy::bundle::Bundle;
use crate::policy::prove::{Compared, Relation};
use crate::policy::suite::{CaseReport, DIRECTORY, Suite};

/// A plan: what a change of the policies would do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// What differs.
    pub changes: Changes,
    /// What the tests say.
    pub tests: Tests,
    /// What would have become of recorded decisions; none without a journal.
    pub replay: Option<Replay>,
    /// Both policies for every request that there can be.
    pub comparison: Comparison,
}

/// The tests beside both bundles.
#[derive(Debug, Clone, Serialize)]
pub struct Tests {
    /// The old tests of the old policies.
    pub old: Ran,
    /// The new tests of the new policies.
    pub new: Ran,
    /// The old tests of the new policies: what their authors wanted, and would get.
    pub old_tests_of_new: Ran,
}

/// Tests that were run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Ran {
    /// How many; 0 if there are none.
    pub cases: usize,
    /// Those that are not as expected.
    pub failed: Vec<CaseReport>,
    /// Why they could not be run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Ran {
    /// Whether all that there are were run and are as expected.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.failed.is_empty() && self.problem.is_none()
    }

    fn of(suite: &Result<Option<Suite>, String>, bundle: &Bundle) -> Self {
        let problem = |problem: String| Self { problem: Some(problem), ..Self::default() };
        match suite {
            Err(text) => problem(text.clone()),
            Ok(None) => Self::default(),
            Ok(Some(suite)) => match suite.run(bundle, |_| true) {
                Err(error) => problem(error.to_string()),
                Ok(report) => Self {
                    cases: report.cases.len(),
                    failed: report.cases.into_iter().filter(|case| !case.problems.is_empty()).collect(),
                    problem: None,
                },
            },
        }
    }
}

impl Tests {
    /// Runs the tests in `tests/` of both directories; one without has none.
    #[must_use]
    pub fn run((old, old_directory): (&Bundle, &Path), (new, new_directory): (&Bundle, &Path)) -> Self {
        let load = |directory: &Path| match directory.join(DIRECTORY).is_dir() {
            true => Suite::load(directory).map(Some).map_err(|problems| problems.to_string()),
            false => Ok(None),
        };
        let (before, after) = (load(old_directory), load(new_directory));
        Self {
            old: Ran::of(&before, old),
            new: Ran::of(&after, new),
            old_tests_of_new: Ran::of(&before, new),
        }
    }
}

/// Whether the policies were compared for every request that there can be.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "made", rename_all = "snake_case")]
pub enum Comparison {
    /// It needs no solver: no policy, entity or type is another.
    Equal,
    /// By a solver, for each kind of request.
    Solver {
        /// The solver's version.
        solver: String,
        /// What came of it.
        kinds: Vec<Compared>,
    },
    /// It was wanted and could not be made.
    Failed {
        /// Why not.
        why: String,
    },
    /// It was not wanted.
    LeftOut,
}

impl Comparison {
    /// The kinds of request that were compared.
    #[must_use]
    pub fn kinds(&self) -> &[Compared] {
        match self {
            Self::Solver { kinds, .. } => kinds,
            Self::Equal | Self::Failed { .. } | Self::LeftOut => &[],
        }
    }
}

/// What a plan comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Something is allowed that was denied.
    pub loosens: bool,
    /// The new tests fail on the new policies.
    pub tests_fail: bool,
    /// Why it is not known that nothing loosens; empty if it is.
    pub open: Vec<String>,
}

impl Verdict {
    /// Whether nothing loosens, as far as was asked for, and the tests pass.
    #[must_use]
    pub const fn is_clear(&self) -> bool {
        !self.loosens && !self.tests_fail && self.open.is_empty()
    }
}

impl Plan {
    /// What it comes to. That nothing loosens must be shown: what was not compared counts against it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let kinds = self.comparison.kinds();
        let count = |wanted: Relation| kinds.iter().filter(|kind| kind.result == wanted).count();
        let loosened = count(Relation::Looser) + count(Relation::Both);
        let mut open = Vec::new();
        match &self.comparison {
            Comparison::Failed { why } => {
                open.push(format!("the policies were not compared for every request: {why}"));
            }
            Comparison::LeftOut if self.replay.as_ref().is_none_or(|replay| replay.replayed == 0) => {
                open.push("no recorded decision was replayed, and nothing else was compared".to_owned());
            }
            Comparison::LeftOut => open.extend(self.replay.as_ref().and_then(Replay::unreadable)),
            Comparison::Equal | Comparison::Solver { .. } => {}
        }
        match count(Relation::Unknown) {
            0 => {}
            1 => open.push("1 kind of request could not be compared".to_owned()),
            unknown => open.push(format!("{unknown} kinds of request could not be compared")),
        }
        if !self.changes.entities.is_empty() && !matches!(self.comparison, Comparison::LeftOut) {
            open.push(
                "entities change, and only recorded decisions show what that does: the comparison of policies holds \
                 for any entities"
                    .to_owned(),
            );
        }
        Verdict {
            loosens: loosened > 0 || self.replay.as_ref().is_some_and(|replay| replay.looser > 0),
            tests_fail: !self.tests.new.is_good(),
            open,
        }
    }
}
