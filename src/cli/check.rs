//! `tidegate check`.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;

use crate::app;
use crate::model::Problem;

use super::{Answer, Output};

/// Check configuration, policies, schema, entities, keys and certificates
///
/// Prints all problems at once, each with the file, the place in it and what to do.
/// Opens no sockets and changes nothing. Exit code 1 if there is any problem. What is
/// fetched from a URL and never was is a warning: it cannot be checked here.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  tidegate check --config tidegate.toml\n  tidegate check --config tidegate.toml --output json"
)]
pub(super) struct Args {
    /// Configuration file (TOML); paths in it are relative to its folder
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How to print the problems
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Answer> {
    let (problems, warnings) = match app::check_file(&args.config) {
        Ok(warnings) => (Vec::new(), warnings.into_vec()),
        Err(problems) => (problems.into_vec(), Vec::new()),
    };
    let mut out = io::stdout().lock();
    let colour = wants_colour(&out);
    print(&problems, &warnings, args.output, colour, &mut out).context("failed to write to standard output")
}

/// Reports why a command cannot start, on standard error: standard output is for programs.
pub(super) fn refuse(problems: &[Problem]) -> anyhow::Result<Answer> {
    let mut err = io::stderr().lock();
    let colour = wants_colour(&err);
    print(problems, &[], Output::Table, colour, &mut err).context("failed to write to standard error")
}

fn wants_colour(out: &impl io::IsTerminal) -> bool {
    out.is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Prints problems and warnings; the answer is no if there is any problem.
fn print(
    problems: &[Problem],
    warnings: &[Problem],
    output: Output,
    colour: bool,
    out: &mut impl Write,
) -> io::Result<Answer> {
    match output {
        Output::Json => {
            let severe = problems.iter().map(|problem| Severe { severity: "error", problem });
            let all = severe.chain(warnings.iter().map(|problem| Severe { severity: "warning", problem }));
            serde_json::to_writer_pretty(&mut *out, &all.collect::<Vec<_>>())?;
            writeln!(out)?;
        }
        Output::Table => {
            let [red, yellow, dim, plain] =
                if colour { ["\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[0m"] } else { [""; 4] };
            let all = problems.iter().map(|problem| (problem, red, ""));
            for (problem, colour, word) in
                all.chain(warnings.iter().map(|warning| (warning, yellow, "warning: ")))
            {
                let place =
                    if problem.place.is_empty() { String::new() } else { format!(": {}", problem.place) };
                writeln!(out, "{colour}{}{place}{plain}\n  {word}{}", problem.file, problem.message)?;
                if !problem.hint.is_empty() {
                    writeln!(out, "  {dim}{}{plain}", problem.hint)?;
                }
            }
            let count = |count: usize, word: &str| match count {
                0 => format!("no {word}s"),
                1 => format!("1 {word}"),
                count => format!("{count} {word}s"),
            };
            match warnings.len() {
                0 => writeln!(out, "{}", count(problems.len(), "problem"))?,
                some => writeln!(out, "{}, {}", count(problems.len(), "problem"), count(some, "warning"))?,
            }
        }
    }
    Ok(if problems.is_empty() { Answer::Yes } else { Answer::No })
}

/// A problem with how much it matters, for programs.
#[derive(Serialize)]
struct Severe<'a> {
    severity: &'static str,
    #[serde(flatten)]
    problem: &'a Problem,
}
