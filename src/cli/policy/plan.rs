//! `tidegate policy plan`: what a change of the policies would do, before it is made.

mod markdown;
mod table;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::json;

use super::super::audit::filter::since;
use super::super::audit::progress;
use super::Answer;
use crate::audit::frame::Kind;
use crate::audit::reader::{ReadError, Reader};
use crate::audit::subjects::Opener;
use crate::model::{Duration, Problems};
use crate::policy::Bundle;
use crate::policy::plan::{Batch, Changes, Comparison, Jobs, Judge, Plan, Replay, Restore, Tests, replay};

/// The fewest characters that name an archived bundle.
const SHORTEST_HASH: usize = 8;

/// Say what a change of the policies would do: to recorded decisions, and to any request
///
/// OLD and NEW are directories of policies, or hashes of bundles in the archive
/// of --journal (the first 8 characters will do). Told are the files, policies
/// and entities that change, the tests of both, which recorded decisions of the
/// journal would be others, and, by a solver (cvc5), for each kind of request
/// whether the new policies are equivalent, stricter or looser, with a request
/// that shows it. Looser is also what was sealed and would go in the clear.
///
/// Exit code 0 if nothing loosens, 1 if something does or a test of NEW fails,
/// also if it is not known: without a solver only --without-proof gives 0.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  tidegate policy plan /etc/tidegate/policies policies --journal /var/lib/tidegate/journal\n  tidegate policy plan 3fa8c1d2 policies --journal journal --from 30d --output markdown > plan.md\n  git worktree add ../main main && tidegate policy plan ../main/policies policies"
)]
pub(crate) struct Args {
    /// The policies as they are
    #[arg(value_name = "OLD")]
    old: String,
    /// The policies as they would be
    #[arg(value_name = "NEW")]
    new: String,
    /// The journal whose recorded decisions are replayed
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Replay only from this time on: `2026-11-24`, or how long ago: `24h`, `30d`
    #[arg(long, value_name = "TIME", value_parser = since, allow_hyphen_values = true, requires = "journal")]
    from: Option<Timestamp>,
    /// Do not compare by a solver: only recorded decisions and tests count
    #[arg(long, requires = "journal")]
    without_proof: bool,
    /// How long one question to the solver may take
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: Duration,
    /// Threads, and solvers, that run at once; without it one a core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// How to print
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    output: Format,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text for people
    Table,
    /// JSON for programs
    Json,
    /// For a pull request
    Markdown,
}

/// Runs the command.
pub(super) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let mut problems = Problems::new();
    let old_directory = directory(&args.old, args.journal.as_deref())?;
    let new_directory = directory(&args.new, args.journal.as_deref())?;
    let loaded =
        [&old_directory, &new_directory].map(|dir| Bundle::load(dir).map_err(|wrong| problems.append(wrong)));
    let [Ok(old), Ok(new)] = loaded else { return refuse(problems, args.output, out) };
    for (bundle, named) in [(&old, &old_directory), (&new, &new_directory)] {
        unchanged(bundle, named, args.journal.as_deref())?;
    }
    let changes = Changes::between(&old, &new);
    let tests = Tests::run((&old, &old_directory), (&new, &new_directory));
    let replay = args.journal.as_deref().map(|journal| recorded(args, journal, &old, &new)).transpose()?;
    let comparison = match (args.without_proof, changes.changes_nothing()) {
        (_, true) => Comparison::Equal,
        (true, false) => Comparison::LeftOut,
        (false, false) => compared(args, &old, &new)?,
    };
    let plan = Plan { changes, tests, replay, comparison };
    let verdict = plan.verdict();
    match args.output {
        Format::Json => {
            let mut value = serde_json::to_value(&plan)?;
            if let Some(members) = value.as_object_mut() {
                members.insert("verdict".to_owned(), json!(verdict));
                members.insert("clear".to_owned(), verdict.is_clear().into());
            }
            writeln!(out, "{value:#}")?;
        }
        Format::Table => table::print(&plan, &verdict, (&args.old, &args.new), out)?,
        Format::Markdown => markdown::print(&plan, &verdict, out)?,
    }
    Ok(if verdict.is_clear() { Answer::Yes } else { Answer::No })
}

/// The directory that an argument names, itself or by the hash of an archived bundle.
fn directory(named: &str, journal: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(named);
    let is_hash = (SHORTEST_HASH..=64).contains(&named.len())
        && named.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let (false, true, Some(journal)) = (path.is_dir(), is_hash, journal) else { return Ok(path) };
    let archive = journal.join("bundles");
    let listed = std::fs::read_dir(&archive);
    let listed = listed.with_context(|| format!("cannot read the archive `{}`", archive.display()))?;
    let mut found: Vec<PathBuf> = listed
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(named))
        })
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(_), false) => {
            bail!("several bundles in `{}` begin with {named}: write more of it", archive.display())
        }
        (None, _) => bail!("`{named}` is no directory, and no bundle in `{}`", archive.display()),
    }
}

/// A bundle of the archive must be the one that its name says.
fn unchanged(bundle: &Bundle, directory: &Path, journal: Option<&Path>) -> anyhow::Result<()> {
    let archived = journal.is_some_and(|journal| directory.parent() == Some(&journal.join("bundles")));
    if archived && directory.file_name().and_then(|name| name.to_str()) != Some(bundle.hash()) {
        let (path, found) = (directory.display(), bundle.hash());
        bail!("bundle `{path}` was changed: its files hash to {found}; bring it back from a backup");
    }
    Ok(())
}

fn refuse(problems: Problems, output: Format, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let problems = problems.into_vec();
    if output == Format::Json {
        writeln!(out, "{:#}", json!({ "problems": problems }))?;
    } else {
        for problem in &problems {
            writeln!(out, "{problem}")?;
        }
        let count =
            if problems.len() == 1 { "1 problem".to_owned() } else { format!("{} problems", problems.len()) };
        writeln!(out, "{count}: nothing was planned")?;
    }
    Ok(Answer::No)
}

fn jobs(args: &Args) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    args.jobs.map_or(cores, usize::from)
}

/// Replays the decisions of the journal.
fn recorded(args: &Args, journal: &Path, old: &Bundle, new: &Bundle) -> anyhow::Result<Replay> {
    let judge = Judge::new(old, new);
    ensure!(
        journal.is_dir(),
        "there is no journal `{}`: leave out --journal to plan without recorded decisions, or name a gateway's, such as \
         `tidegate-demo/journal`",
        journal.display()
    );
    let mut reader = Reader::open(journal, args.from)?;
    let from = args.from.map_or(0, |from| u64::try_from(from.as_nanosecond()).unwrap_or(0));
    // Personal members are put back where the keys are there, as for any reader on the gateway's host.
    let restore = || -> Restore<'_> {
        let mut opener = Opener::new(journal);
        Box::new(move |payload| opener.restored(payload))
    };
    progress::with(journal, "replaying", |bar| {
        let fill = |batch: &mut Batch| -> Result<(), ReadError> {
            while !batch.is_full()
                && let Some(stored) = reader.read_next()?
            {
                bar.add(stored.payload.len());
                if matches!(stored.kind, Kind::Allow | Kind::Refuse) && stored.time >= from {
                    batch.push(stored.payload);
                }
            }
            Ok(())
        };
        replay(&judge, Jobs { threads: jobs(args), restore: &restore }, fill)
    })
    .context("cannot replay the recorded decisions")
}

#[cfg(not(feature = "prove"))]
fn compared(_: &Args, _: &Bundle, _: &Bundle) -> anyhow::Result<Comparison> {
    let why = "this tidegate was built without proofs (`cargo build --release --features prove`)";
    Ok(Comparison::Failed { why: why.to_owned() })
}

#[cfg(feature = "prove")]
fn compared(args: &Args, old: &Bundle, new: &Bundle) -> anyhow::Result<Comparison> {
    use crate::policy::prove::{Options, Solver, compare};

    let solver = match Solver::find() {
        Ok(solver) => solver,
        Err(error) => return Ok(Comparison::Failed { why: error.to_string() }),
    };
    let options = Options { jobs: jobs(args), limit: args.timeout.get(), cache: None };
    let bar = super::prove::Bar::new("comparing");
    let kinds = compare((old, new), &solver, &options, &|done, total| bar.draw((done, total)))?;
    bar.finish();
    Ok(Comparison::Solver { solver: solver.version().to_owned(), kinds })
}
