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
        let said = if first.is_empty() { error.lines().next().unwrap_or_default() } else { &first };
        Err(SolverError::Other { program: shown(), answer: said.chars().take(200).collect() })
    }
}
