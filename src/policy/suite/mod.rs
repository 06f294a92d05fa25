//! Tests of policies: files beside them say which requests must be allowed and denied, and by which policy.
//!
//! The tests ask the very engine that decides in the gateway ([`Bundle::decide`](super::Bundle::decide)); nothing here knows Cedar.

mod case;
mod known;
mod report;

use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

pub use case::{Ask, FactError, Facts, OneOrMore, RUNGS, Wanted};
pub use known::Unknown;
pub use report::{CaseReport, ConditionCoverage, PolicyCoverage, SuiteReport};

use super::source::position;
use crate::model::{Problems, did_you_mean_of};

/// The directory of test files within that of the policies.
pub const DIRECTORY: &str = "tests";
/// The largest test file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The most test files and the most cases of all of them.
const MAX_FILES: usize = 1_000;
const MAX_CASES: usize = 100_000;

/// A case, ready to be asked.
#[derive(Debug, Clone)]
pub struct Case {
    /// The file, as the user named its directory.
    pub file: String,
    /// The line where it stands, from 1.
    pub line: usize,
    /// What it is called.
    pub name: String,
    /// What it says, with the file's defaults.
    pub facts: Facts,
    /// The request.
    pub ask: Ask,
}

/// All cases of a directory of policies, in order of file and line.
#[derive(Debug, Default)]
pub struct Suite {
    /// The cases.
    pub cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    defaults: Facts,
    #[serde(default)]
    cases: std::collections::BTreeMap<Spanned<String>, Facts>,
}

impl Suite {
    /// Reads `tests/*.toml` of a directory of policies.
    ///
    /// Bounds: 1 MiB a file, 1,000 files, 100,000 cases.
    ///
    /// # Errors
    /// All problems of all files, each with its line.
    pub fn load(policies: &Path) -> Result<Self, Problems> {
        let directory = policies.join(DIRECTORY);
        let mut problems = Problems::new();
        let mut suite = Self::default();
        let files = match list(&directory) {
            Ok(files) => files,
            Err(error) => {
                let message = format!("cannot list the directory: {error}");
                let hint = "write tests there: docs/policies.md says how";
                problems.push(directory.display().to_string(), "", message, hint);
                return Err(problems);
            }
        };
        for path in files {
            let shown = path.display().to_string();
            match read(&path) {
                Ok(text) => suite.add(&shown, &text, &mut problems),
                Err(error) => problems.push(shown, "", format!("cannot be read: {error}"), ""),
            }
        }
        if suite.cases.len() > MAX_CASES {
            problems.push(
                directory.display().to_string(),
                "",
                format!("more than {MAX_CASES} cases"),
                "remove some",
            );
        }
        if problems.is_empty() { Ok(suite) } else { Err(problems) }
    }

    /// Adds the cases of one file.
    pub(super) fn add(&mut self, file: &str, text: &str, problems: &mut Problems) {
        let parsed: File = match toml::from_str(text) {
            Ok(parsed) => parsed,
            Err(error) => {
                let place =
                    error.span().map_or_else(String::new, |span| super::source::place(text, span.start));
                let message = error.message();
                let usual = || "docs/policies.md lists what a case can say".to_owned();
                problems.push(file, place, message, did_you_mean_of(message).unwrap_or_else(usual));
                return;
            }
        };
        let mut cases: Vec<_> = parsed.cases.into_iter().collect();
        cases.sort_by_key(|(name, _)| name.span().start);
        for (name, facts) in cases {
            let start = name.span().start;
            let line = position(text, start).0;
            let name = name.into_inner();
            let facts = facts.or(&parsed.defaults);
            let expects = facts.allow.is_some() != facts.deny.is_some();
            match facts.ask().and_then(|ask| expects.then_some(ask).ok_or(FactError::Expectation)) {
                Ok(ask) => self.cases.push(Case { file: file.to_owned(), line, name, facts, ask }),
                Err(error) => problems.push(
                    file,
                    super::source::place(text, start),
                    format!("case `{name}`: {error}"),
                    "",
                ),
            }
        }
    }
}

fn list(directory: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "toml") && files.len() < MAX_FILES {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length <= MAX_FILE) {
        Ok(text)
    } else {
        Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 1 MiB"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::embedded;

    fn run(text: &str) -> SuiteReport {
        let (mut suite, mut problems) = (Suite::default(), Problems::new());
        suite.add("t.toml", text, &mut problems);
        assert!(problems.is_empty(), "{problems}");
        suite.run(&embedded::bundle().unwrap(), |_| true).unwrap()
    }

    #[test]
    fn cases_take_what_they_do_not_say_from_the_defaults() {
        let report = run(r#"
[defaults]
action = "infer"
model = "eu/tide-small"
level = "internal"
residency = ["EU"]
team = "research"
allow = true

[cases]
"as it is" = {}
"another team" = { team = "marketing", allow = "marketing-models" }
"the wrong place" = { model = "us/tide-small", deny = "residency" }
"the second place" = { model = ["us/tide-small", "eu/tide-small"], chosen = "eu/tide-small" }
"nobody" = { anonymous = true, team = [], deny = true }
"sealed" = { team = "clinical", purpose = "care", level = "restricted", model = "haven/tide-small", can_open = "haven", allow = ["clinical-restricted-sealed"], protection = "sealed" }
"nobody can open it" = { team = "clinical", purpose = "care", level = "restricted", model = "haven/tide-small", deny = ["restricted-only-sealed"] }
"#);
        let failed: Vec<_> = report.cases.iter().filter(|case| !case.problems.is_empty()).collect();
        assert!(failed.is_empty() && report.cases.len() == 7, "{failed:#?}");
        let covered = |id: &str| report.coverage.iter().find(|policy| &*policy.id == id).unwrap().decided;
        assert_eq!(
            (covered("research-models"), covered("residency"), covered("agents-never-delete")),
            (2, 1, 0)
        );
    }

    #[test]
    fn what_is_not_as_expected_is_said() {
        let report = run(r#"
[defaults]
action = "infer"
model = "eu/tide-small"
level = "internal"
residency = ["EU"]
team = "research"

[cases]
a = { deny = true }
b = { allow = "marketing-models" }
c = { allow = ["research-models", "marketing-models"] }
d = { allow = true, protection = "sealed" }
e = { level = "restricted", allow = true }
f = { model = "eu/unknown", deny = true }
g = { model = ["eu/tide-small", "us/tide-small"], allow = true, chosen = "us/tide-small" }
"#);
        insta::assert_snapshot!(
            report
                .cases
                .iter()
                .map(|case| format!("{}: {}", case.name, case.problems.join("; ")))
                .collect::<Vec<_>>()
                .join("\n")
        );
    }

    #[test]
    fn mistakes_of_a_file_are_told_with_their_line() {
        let told = |text: &str| {
            let mut problems = Problems::new();
            Suite::default().add("t.toml", text, &mut problems);
            problems.to_string()
        };
        let all = [
            "[cases]\na = { allow = true, colour = 1 }",
            "[cases]\na = { action = \"fly\", allow = true }",
            "[cases]\na = { action = \"infer\", team = \"x\", allow = true }",
            "[cases]\na = { action = \"read\", team = \"x\", model = \"eu/m\", allow = true }",
            "[cases]\na = { action = \"infer\", model = \"m\", team = \"x\", allow = true }",
            "[cases]\na = { action = \"infer\", model = \"eu/m\", allow = true }",
            "[cases]\na = { action = \"infer\", model = \"eu/m\", team = \"x\" }",
            "[cases]\na = { action = \"infer\", model = \"eu/m\", team = \"x\", allow = true, deny = true }",
            "[cases]\na = { action = \"infer\", model = \"eu/m\", user = \"u\", workload = \"w\", allow = true }",
            "[cases]\na = { action = \"infer\", model = \"eu/m\", team = \"x\", residency = \"no place!\", allow = true }",
            "cases = 3",
            "[cases]\na = {",
        ];
        insta::assert_snapshot!(all.map(told).join("\n"));
    }
}
