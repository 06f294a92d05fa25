//! The command line: one file a subcommand, no logic of its own.
//!
//! Exit codes are a contract: 0 success, 1 a negative answer (denied, invalid, not as expected), 2 wrong usage,
//! 3 could not run.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::model::SystemClock;

pub mod audit;
pub mod certs;
mod check;
mod demo;
mod keys;
mod memory;
mod policy;
mod seal;
mod serve;

/// The governed border between private data and public GPU clusters.
///
/// One binary stands in the path as a TLS reverse proxy: it identifies who asks,
/// decides every request with Cedar policies, records the decision before the
/// first byte leaves, forwards, meters and answers.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    verbatim_doc_comment,
    after_help = EXAMPLES,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tidegate demo                             see it work: a guided tour, nothing to set up
  tidegate certs init certs                 certificates for a first start
  tidegate check --config tidegate.toml     all problems of all files
  tidegate policy test policies             the tests beside the policies
  tidegate serve --config tidegate.toml     run the gateway
  tidegate audit query --journal journal --decision deny --from 24h

Exit codes:
  0  success
  1  a negative answer: problems found, nothing found, not as expected
  2  wrong usage
  3  could not run";

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Serve(serve::Args),
    Check(check::Args),
    /// Read the audit journal, and check that it is what was written
    #[command(subcommand, disable_help_subcommand = true)]
    Audit(Audit),
    /// Write, check and test policies
    #[command(subcommand, disable_help_subcommand = true)]
    Policy(policy::Policy),
    Seal(seal::SealArgs),
    Open(seal::OpenArgs),
    Keys(keys::KeysArgs),
    Certs(certs::Certs),
}

/// Subcommands of `audit`.
#[derive(Debug, Subcommand)]
enum Audit {
    Tail(audit::tail::TailArgs),
    Query(audit::query::QueryArgs),
    Explain(audit::explain::ExplainArgs),
    Verify(audit::verify::VerifyArgs),
    Proof(audit::verify::ProofArgs),
    Erase(audit::erase::EraseArgs),
    #[command(subcommand)]
    Hold(audit::erase::HoldArgs),
}

fn show(command: &Audit) -> anyhow::Result<Answer> {
    match command {
        Audit::Tail(args) => audit::tail::run(args),
        Audit::Query(args) => audit::query::run(args),
        Audit::Explain(args) => audit::explain::run(args),
        Audit::Verify(args) => audit::verify::run(args),
        Audit::Proof(args) => audit::verify::proof(args),
        Audit::Erase(args) => audit::erase::erase(args, &mut std::io::stdout().lock()),
        Audit::Hold(args) => audit::erase::hold(args, &mut std::io::stdout().lock()),
    }
}

/// How a command prints data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Text for people
    Table,
    /// JSON for programs
    Json,
}

/// How a command ended, short of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Exit code 0.
    Yes,
    /// Exit code 1.
    No,
}

/// Parses the arguments, runs the command and gives its exit code.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` arrive here too and exit with 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if matches!(
        cli.command,
        Command::Demo(_) | Command::Serve(_) | Command::Seal(_) | Command::Open(_) | Command::Keys(_)
    ) {
        memory::forbid_dumps();
    }
    let result = match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Audit(command) => show(&command),
        Command::Policy(command) => policy::run(&command),
        Command::Seal(args) => seal::seal(&args),
        Command::Open(args) => seal::open(&args),
        Command::Keys(args) => keys::run(&args, &mut std::io::stdout()),
        Command::Certs(args) => certs::run(&args, &SystemClock, &mut std::io::stdout()).map(|()| Answer::Yes),
    };
    match result {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        // A reader that closed the pipe has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "tidegate: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
