//! What is wrong with a file that a person wrote: all of it at once, each with its place and the mend.

use std::fmt;

use serde::Serialize;

/// One mistake: which file, where in it, what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file, as the user named it.
    pub file: String,
    /// The place in it: `routes[2].clusters[0]`, `line 3, column 7`; empty for the whole file.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it; empty if the message says it all.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if !self.place.is_empty() {
            write!(f, ": {}", self.place)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

/// A collector: checks go on after the first mistake.
#[derive(Debug, Clone, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// No problems yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Notes one.
    pub fn push(
        &mut self,
        file: impl Into<String>,
        place: impl Into<String>,
        message: impl fmt::Display,
        hint: impl Into<String>,
    ) {
        self.0.push(Problem {
            file: file.into(),
            place: place.into(),
            message: message.to_string(),
            hint: hint.into(),
        });
    }

    /// Takes over those of a part.
    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether nothing was found.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// All, without doubles.
    #[must_use]
    pub fn into_vec(mut self) -> Vec<Problem> {
        let mut seen = std::collections::BTreeSet::new();
        self.0.retain(|problem| seen.insert(problem.clone()));
        self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
