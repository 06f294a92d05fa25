//! The command line: one file a subcommand, no logic of its own.

use std::process::ExitCode;

/// Parses the arguments, runs the command and gives its exit code.
#[must_use]
pub fn run() -> ExitCode {
    ExitCode::SUCCESS
}
