//! `tidegate check`.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;

use crate::app;
use crate::model::Problem;

use super::{Answer, Output};

/// Check configuration, policies, schema, entities, keys and certificates
///
/// Prints all problems at once, each with the file, the place in it and what to do.
/// Opens no sockets and changes nothing. Exit code 1 if there is any problem.
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
    let found = app::check_file(&args.config).err();
    let problems = found.map(crate::model::Problems::into_vec).unwrap_or_default();
    let mut out = io::stdout().lock();
    let colour = wants_colour(&out);
    print(&problems, args.output, colour, &mut out).context("failed to write to standard output")
}

/// Reports why a command cannot start, on standard error: standard output is for programs.
pub(super) fn refuse(problems: &[Problem]) -> anyhow::Result<Answer> {
    let mut err = io::stderr().lock();
    let colour = wants_colour(&err);
    print(problems, Output::Table, colour, &mut err).context("failed to write to standard error")
}

fn wants_colour(out: &impl io::IsTerminal) -> bool {
    out.is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Prints problems; the answer is no if there is any.
fn print(problems: &[Problem], output: Output, colour: bool, out: &mut impl Write) -> io::Result<Answer> {
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, problems)?;
            writeln!(out)?;
        }
        Output::Table => {
            let (red, dim, plain) = if colour { ("\x1b[31m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
            for problem in problems {
                let place =
                    if problem.place.is_empty() { String::new() } else { format!(": {}", problem.place) };
                writeln!(out, "{red}{}{place}{plain}\n  {}", problem.file, problem.message)?;
                if !problem.hint.is_empty() {
                    writeln!(out, "  {dim}{}{plain}", problem.hint)?;
                }
            }
            match problems.len() {
                0 => writeln!(out, "no problems")?,
                1 => writeln!(out, "1 problem")?,
                count => writeln!(out, "{count} problems")?,
            }
        }
    }
    Ok(if problems.is_empty() { Answer::Yes } else { Answer::No })
}
