//! `tidegate policy check`: everything that is wrong with policies, and advice on what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Answer, Paint};
use crate::model::{Problem, Problems};
use crate::policy::prove::Invariants;
use crate::policy::suite::{Suite, Unknown};
use crate::policy::{Bundle, advise, suite};

/// Check policies, schema, entities, tests and invariants of a directory
///
/// Errors are what `serve` would refuse. Warnings are advice: policies that do less
/// or more than they seem to. Exit code 1 if there are errors, with --strict also
/// if there are warnings.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  tidegate policy check policies\n  tidegate policy check policies --strict --output sarif > policies.sarif"
)]
pub(crate) struct Args {
    /// Directory of the policies
    #[arg(value_name = "DIR", default_value = "policies")]
    directory: PathBuf,
    /// Let warnings count as errors
    #[arg(long)]
    strict: bool,
    /// How to print
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    output: Format,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people, with the lines in question
    Text,
    /// For programs
    Json,
    /// SARIF 2.1.0, for code hosts and editors
    Sarif,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
}

impl Severity {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Runs the command.
pub(super) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let (findings, policies) = examine(&args.directory);
    match args.output {
        Format::Text => text(&findings, policies, Paint::of_terminal(), out)?,
        Format::Json => writeln!(out, "{:#}", as_json(&findings))?,
        Format::Sarif => writeln!(out, "{:#}", sarif(&findings))?,
    }
    let bad = |(severity, _): &(Severity, Problem)| args.strict || *severity == Severity::Error;
    Ok(if findings.iter().any(bad) { Answer::No } else { Answer::Yes })
}

/// Checks a directory, for people.
pub(super) fn show(directory: &Path, out: &mut dyn Write) -> anyhow::Result<Answer> {
    run(&Args { directory: directory.to_owned(), strict: false, output: Format::Text }, out)
}

/// What there is to say of a directory, and how many policies it has.
fn examine(directory: &Path) -> (Vec<(Severity, Problem)>, usize) {
    let mut problems = Problems::new();
    let (bundle, _) = Bundle::examine(directory, &mut problems);
    let mut suite = Suite::default();
    if directory.join(suite::DIRECTORY).is_dir() {
        match Suite::load(directory) {
            Ok(loaded) => suite = loaded,
            Err(wrong) => problems.append(wrong),
        }
    }
    Invariants::load(directory, bundle.as_ref(), &mut problems);
    let mut findings: Vec<_> =
        problems.into_vec().into_iter().map(|problem| (Severity::Error, problem)).collect();
    let shown = directory.display().to_string();
    let advice = bundle.iter().flat_map(|bundle| advise(bundle, &shown));
    let advice = advice.chain(bundle.iter().flat_map(|bundle| unknown_names(&suite, bundle)));
    findings.extend(advice.map(|problem| (Severity::Warning, problem)));
    (findings, bundle.map_or(0, |bundle| bundle.policies().len()))
}

/// Names in tests that no entity has; of each file each once, for most stand in its defaults.
fn unknown_names(suite: &Suite, bundle: &Bundle) -> Vec<Problem> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for case in &suite.cases {
        for Unknown { message, hint } in case.facts.unknown(bundle) {
            if seen.insert((&case.file, message.clone())) {
                let place = format!("line {}, column 1", case.line);
                let message = format!("case `{}` {message}", case.name);
                found.push(Problem { file: case.file.clone(), place, message, hint });
            }
        }
    }
    found
}

fn text(
    findings: &[(Severity, Problem)],
    policies: usize,
    paint: Paint,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let Paint { red, yellow, dim, plain, .. } = paint;
    let mut files = BTreeMap::new();
    for (severity, problem) in findings {
        let colour = if *severity == Severity::Error { red } else { yellow };
        writeln!(out, "{colour}{}{plain}: {}", severity.name(), problem.message)?;
        let place = if problem.place.is_empty() { String::new() } else { format!(", {}", problem.place) };
        writeln!(out, "  {dim}-->{plain} {}{place}", problem.file)?;
        if let Some((line, column)) = position(problem) {
            let lines = files.entry(&problem.file).or_insert_with(|| fs::read_to_string(&problem.file));
            let shown = lines.as_ref().ok().and_then(|lines| lines.lines().nth(line.saturating_sub(1)));
            if let Some(shown) = shown {
                let number = line.to_string();
                let width = number.len();
                let shown = shown.replace('\t', " ");
                writeln!(out, "  {dim}{number} |{plain} {shown}")?;
                writeln!(
                    out,
                    "  {dim}{:width$} |{plain} {:>column$}",
                    "",
                    format!("{colour}^{plain}"),
                    column = column + colour.len() + plain.len()
                )?;
            }
        }
        if !problem.hint.is_empty() {
            writeln!(out, "  {dim}={plain} {}", problem.hint)?;
        }
        writeln!(out)?;
    }
    let count = |wanted| findings.iter().filter(|(severity, _)| *severity == wanted).count();
    match (count(Severity::Error), count(Severity::Warning)) {
        (0, 0) => writeln!(out, "{policies} policies: no problems"),
        (0, warnings) => writeln!(out, "{policies} policies: no errors, {}", plural(warnings, "warning")),
        (errors, warnings) => {
            writeln!(out, "{}, {}", plural(errors, "error"), plural(warnings, "warning"))
        }
    }
}

fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Line and column, from 1, where a place has them.
fn position(problem: &Problem) -> Option<(usize, usize)> {
    let (line, column) = problem.place.strip_prefix("line ")?.split_once(", column ")?;
    Some((line.parse().ok()?, column.parse().ok()?))
}

fn as_json(findings: &[(Severity, Problem)]) -> serde_json::Value {
    let finding = |(severity, problem): &(Severity, Problem)| {
        json!({
            "severity": severity.name(), "file": problem.file, "place": problem.place,
            "line": position(problem).map(|(line, _)| line), "column": position(problem).map(|(_, column)| column),
            "message": problem.message, "hint": problem.hint,
        })
    };
    findings.iter().map(finding).collect()
}

/// [SARIF 2.1.0](https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html), as far as a linter needs it.
fn sarif(findings: &[(Severity, Problem)]) -> serde_json::Value {
    let result = |(severity, problem): &(Severity, Problem)| {
        let mut place = json!({ "artifactLocation": { "uri": problem.file } });
        if let (Some((line, column)), Some(members)) = (position(problem), place.as_object_mut()) {
            members.insert("region".to_owned(), json!({ "startLine": line, "startColumn": column }));
        }
        let hint = if problem.hint.is_empty() { String::new() } else { format!(" ({})", problem.hint) };
        json!({
            "ruleId": if *severity == Severity::Error { "policy-error" } else { "policy-advice" },
            "level": severity.name(),
            "message": { "text": format!("{}{hint}", problem.message) },
            "locations": [{ "physicalLocation": place }],
        })
    };
    let rules = [
        ("policy-error", "The gateway refuses to load this."),
        ("policy-advice", "A policy that does less or more than it seems to."),
    ];
    let rules: Vec<_> =
        rules.iter().map(|(id, text)| json!({ "id": id, "shortDescription": { "text": text } })).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "tidegate", "version": env!("CARGO_PKG_VERSION"), "rules": rules } },
            "columnKind": "unicodeCodePoints",
            "results": findings.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}
