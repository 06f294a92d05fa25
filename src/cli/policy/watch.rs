//! `tidegate policy watch`: check, test and explain again whenever a file is saved.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::ensure;

use super::Answer;
use super::{check, explain, test};
use crate::policy::{prove, suite};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Check and test again whenever a file is saved, and explain the cases that matter now
///
/// Until Ctrl-C. `tidegate serve` looks at its policies by itself: what is saved there
/// is live within two seconds, or refused with the same messages.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  tidegate policy watch policies --case 'marketing, confidential'"
)]
pub(crate) struct Args {
    /// Directory of the policies
    #[arg(value_name = "DIR", default_value = "policies")]
    directory: PathBuf,
    /// A case of the tests that is explained each time; may be repeated
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
}

/// Runs the command.
pub(super) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<Answer> {
    forever(&args.directory, out, |out| {
        if check::show(&args.directory, out)? == Answer::No {
            return Ok(());
        }
        test::show(&args.directory, out)?;
        for name in &args.case {
            writeln!(out, "\n{name}")?;
            if let Err(error) = explain::show(&args.directory, name, out) {
                writeln!(out, "{error:#}")?;
            }
        }
        Ok(())
    })
}

/// Does it now, and again whenever a file of the directory or its tests changes.
pub(super) fn forever(
    directory: &Path,
    out: &mut dyn Write,
    mut work: impl FnMut(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<Answer> {
    ensure!(
        directory.is_dir(),
        "there is no folder `{}` to watch: name the folder of the policies",
        directory.display()
    );
    loop {
        // Before the work: what is saved meanwhile is seen.
        let seen = state(directory);
        work(out)?;
        writeln!(out, "\nwatching {}", directory.display())?;
        out.flush()?;
        while state(directory) == seen {
            std::thread::sleep(LOOK);
        }
        writeln!(out)?;
    }
}

/// What the files look like from outside: enough to see that one was saved.
fn state(directory: &Path) -> Vec<(PathBuf, Option<SystemTime>, u64)> {
    let list = |directory: &Path| std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut state: Vec<_> = list(directory)
        .chain(list(&directory.join(suite::DIRECTORY)))
        .chain(list(&directory.join(prove::DIRECTORY)))
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            Some((entry.path(), meta.modified().ok(), meta.len()))
        })
        .collect();
    state.sort();
    state
}
