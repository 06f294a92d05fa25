//! The solver: where cvc5 is, which one it is, and a process of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cedar_policy_symcc::CedarSymCompiler;
use cedar_policy_symcc::solver::LocalSolver;
use tokio::process::Command;

/// How long it may take to say its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to do without one.
const HELP: &str = "install it (Debian and Ubuntu: `apt-get install cvc5`; others: https://github.com/cvc5/cvc5/releases), \
                    or set CVC5 to the path of the program";

/// Why there is no solver.
#[derive(Debug, thiserror::Error)]
pub enum SolverError {
    /// None is on the path.
    #[error("proofs need the solver cvc5, which is not on the PATH: {HELP}")]
    Missing,
    /// It cannot be run.
    #[error("cannot run the solver `{program}`: {HELP}")]
    Run {
        /// What was tried.
        program: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is something else.
    #[error("`{program}` is no cvc5: `--version` says `{answer}` ({HELP})")]
    Other {
        /// What was tried.
        program: String,
        /// The first line of its answer.
        answer: String,
    },
    /// It is there, and the system cannot start it.
    #[error(
        "`{program}` does not start: {said} (`ldd {program}` lists the libraries that it needs: install those that are missing, \
         or take the static build of https://github.com/cvc5/cvc5/releases and set CVC5 to its path)"
    )]
    Libraries {
        /// What was tried.
        program: String,
        /// What the loader said.
        said: String,
    },
    /// It does not answer.
    #[error("`{program} --version` did not end within {} s", PATIENCE.as_secs())]
    Silent {
        /// What was tried.
        program: String,
    },
}

/// A solver that can be run.
#[derive(Debug, Clone)]
pub struct Solver {
    program: PathBuf,
    version: String,
}

impl Solver {
    /// The one that `CVC5` names, or else `cvc5` on the `PATH`.
    ///
    /// # Errors
    /// There is none, or it is no cvc5; the message says what to do.
    pub fn find() -> Result<Self, SolverError> {
        let named = std::env::var_os("CVC5").filter(|value| !value.is_empty());
        let program = named.map(PathBuf::from).or_else(|| on_path(std::env::var_os("PATH")));
        let program = program.ok_or(SolverError::Missing)?;
        let version = version(&program)?;
        Ok(Self { program, version })
    }

    /// The first line that it says of itself: `This is cvc5 version 1.0.3`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A process of it, which ends with the value. Each question is given up after `limit`.
    pub(super) fn start(&self, limit: Duration) -> Result<CedarSymCompiler<LocalSolver>, String> {
        let mut command = Command::new(&self.program);
        command.args(["--lang", "smt"]).arg(format!("--tlimit-per={}", limit.as_millis().max(1)));
        let process = LocalSolver::from_command(command.kill_on_drop(true))
            .map_err(|error| format!("cannot run the solver: {error}"))?;
        CedarSymCompiler::new(process).map_err(|error| error.to_string())
    }
}

fn on_path(path: Option<OsString>) -> Option<PathBuf> {
    std::env::split_paths(&path?).map(|folder| folder.join("cvc5")).find(|program| program.is_file())
}

fn version(program: &Path) -> Result<String, SolverError> {
    let shown = || program.display().to_string();
    let failed = |source| SolverError::Run { program: shown(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let answer = runtime.block_on(async {
        let run = Command::new(program).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
        tokio::time::timeout(PATIENCE, run).await
    });
    let answer = answer.map_err(|_| SolverError::Silent { program: shown() })?.map_err(failed)?;
    let text = String::from_utf8_lossy(&answer.stdout);
    let first: String = text.lines().next().unwrap_or_default().chars().take(200).collect();
    if answer.status.success() && first.contains("cvc5 version") {
        Ok(first)
    } else {
        let error = String::from_utf8_lossy(&answer.stderr);
        if let Some(said) = error.lines().find(|line| is_of_loader(line)) {
            return Err(SolverError::Libraries { program: shown(), said: said.chars().take(300).collect() });
        }
        let said = if first.is_empty() { error.lines().next().unwrap_or_default() } else { &first };
        Err(SolverError::Other { program: shown(), answer: said.chars().take(200).collect() })
    }
}

/// Whether the line is of the dynamic loader: of glibc, of musl, of macOS.
fn is_of_loader(line: &str) -> bool {
    ["error while loading shared libraries", "Error loading shared library", "Library not loaded"]
        .iter()
        .any(|said| line.contains(said))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// What `version` says of a program with this text.
    fn told(script: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("cvc5");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let told = match version(&program) {
            Ok(version) => version,
            Err(error) => error.to_string(),
        };
        told.replace(&program.display().to_string(), "CVC5")
    }

    #[test]
    fn why_a_solver_does_not_start_is_said() {
        let loader =
            "cvc5: error while loading shared libraries: libcvc5.so.1: cannot open shared object file";
        let said = told(&format!("#!/bin/sh\necho '{loader}' >&2\nexit 127\n"));
        assert!(said.starts_with(&format!("`CVC5` does not start: {loader} (`ldd CVC5`")), "{said}");
        let said = told("#!/bin/sh\necho 'segmentation fault' >&2\nexit 139\n");
        assert!(said.starts_with("`CVC5` is no cvc5: `--version` says `segmentation fault`"), "{said}");
        assert_eq!(told("#!/bin/sh\necho 'This is cvc5 version 1.0.3'\n"), "This is cvc5 version 1.0.3");
    }
}
