//! `tidegate policy test`: runs the tests beside the policies.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde_json::json;

use super::super::Output;
use super::watch::forever;
use super::{Answer, Paint};
use crate::model::Problem;
use crate::policy::Bundle;
use crate::policy::suite::{CaseReport, ConditionCoverage, DIRECTORY, PolicyCoverage, Suite, SuiteReport};

/// Run the tests beside the policies, and say which policies none of them reaches
///
/// Tests are tables in DIR/tests/*.toml: who asks for what, and what must come of it.
/// docs/policies.md lists what a case can say.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  tidegate policy test policies\n  tidegate policy test policies --coverage 100 --junit tests.xml\n  tidegate policy test policies --watch --filter marketing"
)]
pub(crate) struct Args {
    /// Directory of the policies
    #[arg(value_name = "DIR", default_value = "policies")]
    directory: PathBuf,
    /// Only cases whose file or name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Fail if the cases reach fewer percent of policies and conditions
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    coverage: Option<u8>,
    /// Print every case, not only those that failed
    #[arg(short, long)]
    verbose: bool,
    /// Also write a JUnit report, for a build
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Run again whenever a file changes, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// How to print
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    output: Output,
}

/// Runs the command.
pub(super) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<Answer> {
    if args.watch {
        return forever(&args.directory, out, |out| once(args, out).map(drop));
    }
    once(args, out)
}

/// Runs all tests of a directory that has some, for people.
pub(super) fn show(directory: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    if !directory.join(DIRECTORY).is_dir() {
        return Ok(());
    }
    let (directory, output) = (directory.to_owned(), Output::Table);
    let (filter, coverage, junit) = (None, None, None);
    let args = Args { directory, filter, coverage, verbose: false, junit, watch: false, output };
    once(&args, out).map(drop)
}

fn once(args: &Args, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let began = Instant::now();
    let loaded = Bundle::load(&args.directory)
        .and_then(|bundle| Suite::load(&args.directory).map(|suite| (bundle, suite)));
    let (bundle, suite) = match loaded {
        Ok(loaded) => loaded,
        Err(problems) => return refuse(&problems.into_vec(), args.output, out),
    };
    let wanted = args.filter.as_deref().unwrap_or_default();
    let report = suite.run(&bundle, |case| case.name.contains(wanted) || case.file.contains(wanted))?;
    if let Some(path) = &args.junit {
        let text = junit(&report).to_string().context("cannot write the JUnit report")?;
        std::fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    // Of a part of the cases nobody expects to reach all policies.
    let percent = args.filter.is_none().then(|| report.coverage_percent());
    let too_few = percent.zip(args.coverage).filter(|(percent, least)| *percent < usize::from(*least));
    match args.output {
        Output::Json => writeln!(out, "{:#}", json!({ "cases": report.cases, "coverage": report.coverage }))?,
        Output::Table => print(args, &report, percent, began.elapsed(), out)?,
    }
    if let (Some((percent, least)), Output::Table) = (too_few, args.output) {
        writeln!(out, "coverage is {percent} %, {least} % is wanted")?;
    }
    if report.cases.is_empty() {
        anyhow::bail!("no case in `{}` is called `{wanted}`", args.directory.display());
    }
    Ok(if report.failed() == 0 && too_few.is_none() { Answer::Yes } else { Answer::No })
}

fn refuse(problems: &[Problem], output: Output, out: &mut dyn Write) -> anyhow::Result<Answer> {
    match output {
        Output::Json => writeln!(out, "{:#}", json!({ "problems": problems }))?,
        Output::Table => {
            for problem in problems {
                writeln!(out, "{problem}")?;
            }
            writeln!(out, "{} problems: nothing was tested", problems.len())?;
        }
    }
    Ok(Answer::No)
}

fn print(
    args: &Args,
    report: &SuiteReport,
    percent: Option<usize>,
    time: Duration,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let Paint { red, yellow, green, dim, plain } = Paint::of_terminal();
    for case in &report.cases {
        let CaseReport { file, line, name, got, problems, warnings } = case;
        if !problems.is_empty() || !warnings.is_empty() {
            let (colour, mark) = if problems.is_empty() { (yellow, "!") } else { (red, "✗") };
            writeln!(out, "{colour}{mark}{plain} {name}\n    {dim}{file}:{line}{plain}\n    {got}")?;
            for problem in problems {
                writeln!(out, "    {red}{problem}{plain}")?;
            }
            for warning in warnings {
                writeln!(out, "    {yellow}{warning}{plain}")?;
            }
        } else if args.verbose {
            writeln!(out, "{green}✓{plain} {name}   {dim}{got}{plain}")?;
        }
    }
    if percent.is_some() {
        let missed: Vec<&PolicyCoverage> =
            report.coverage.iter().filter(|policy| policy.decided == 0).collect();
        if args.verbose {
            writeln!(out, "\n{}", table(&report.coverage).trim_fmt())?;
        } else {
            for PolicyCoverage { id, file, line, .. } in missed {
                writeln!(out, "- {id} decided in no case   {dim}{file}:{line}{plain}")?;
            }
            for (policy, condition) in half_seen(&report.coverage) {
                let what = if condition.held == 0 { "never held" } else { "always held" };
                let PolicyCoverage { id, file, line, .. } = policy;
                writeln!(out, "- {id}: `{}` {what}   {dim}{file}:{line}{plain}", condition.text)?;
            }
        }
    }
    let (all, failed) = (report.cases.len(), report.failed());
    let colour = if failed == 0 { green } else { red };
    let coverage = percent.map_or_else(String::new, |percent| {
        let seen = report.conditions().filter(|condition| condition.is_covered()).count();
        format!(
            "; {} of {} policies decided, {seen} of {} conditions covered ({percent} %)",
            report.covered(),
            report.coverage.len(),
            report.conditions().count()
        )
    });
    writeln!(
        out,
        "{colour}{} of {all} cases as expected{plain}{coverage}, {} ms",
        all - failed,
        time.as_millis()
    )
}

/// Conditions that were asked one way only; those of policies that decided in no case are told with these.
fn half_seen(coverage: &[PolicyCoverage]) -> impl Iterator<Item = (&PolicyCoverage, &ConditionCoverage)> {
    let decided = coverage.iter().filter(|policy| policy.decided > 0);
    decided.flat_map(|policy| {
        let half = policy.conditions.iter().filter(|condition| !condition.is_covered());
        half.map(move |condition| (policy, condition))
    })
}

fn table(coverage: &[PolicyCoverage]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty();
    table.set_header(["policy", "effect", "file", "decided in"]);
    for policy in coverage {
        let effect = format!("{:?}", policy.effect).to_lowercase();
        let place = format!("{}:{}", policy.file, policy.line);
        table.add_row([policy.id.to_string(), effect, place, policy.decided.to_string()]);
    }
    if let Some(last) = table.column_mut(3) {
        last.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn junit(report: &SuiteReport) -> Report {
    let mut junit = Report::new("tidegate policy test");
    let mut suites: Vec<TestSuite> = Vec::new();
    for case in &report.cases {
        let mut status = TestCaseStatus::success();
        if !case.problems.is_empty() {
            status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(case.problems.join("; "));
            status.set_description(format!("{}:{}: {}", case.file, case.line, case.got));
        }
        let mut test = TestCase::new(case.name.as_str(), status);
        if !case.warnings.is_empty() {
            test.set_system_err(case.warnings.join("\n"));
        }
        match suites.last_mut().filter(|suite| suite.name.as_str() == case.file) {
            Some(suite) => suite.add_test_case(test),
            None => {
                let mut suite = TestSuite::new(case.file.as_str());
                suite.add_test_case(test);
                suites.push(suite);
                continue;
            }
        };
    }
    junit.add_test_suites(suites);
    junit
}
