//! The `tidegate` program: exit codes only; everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate::cli::run()
}
