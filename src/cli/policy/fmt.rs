//! `tidegate policy fmt`: the official layout.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::Answer;
use crate::net::write_new;
use crate::policy::format;

/// Lay out policy files in the official way
///
/// Comments stay. A file that does not parse stays as it is, and its error is told.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  tidegate policy fmt policies\n  tidegate policy fmt --check policies    # for a build: exit code 1 if a file would change"
)]
pub(crate) struct Args {
    /// Directory of the policies, with its tests and invariants, or one file
    #[arg(value_name = "PATH", default_value = "policies")]
    path: PathBuf,
    /// Change nothing; say which files would change
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let (mut changed, mut broken, files) = (0_usize, 0_usize, files(&args.path)?);
    for file in &files {
        let shown = file.display();
        let text = fs::read_to_string(file).with_context(|| format!("cannot read `{shown}`"))?;
        let new = match format(&text) {
            Ok(new) => new,
            Err(error) => {
                broken += 1;
                writeln!(out, "{shown}: {error}")?;
                continue;
            }
        };
        if new == text {
            continue;
        }
        changed += 1;
        if args.check {
            writeln!(out, "{shown}: is not laid out: run `tidegate policy fmt`")?;
        } else {
            replace(file, &new).with_context(|| format!("cannot write `{shown}`"))?;
            writeln!(out, "{shown}: laid out")?;
        }
    }
    if changed == 0 && broken == 0 {
        let files = if files.len() == 1 { "1 file".to_owned() } else { format!("{} files", files.len()) };
        writeln!(out, "{files}, all laid out")?;
    }
    Ok(if broken > 0 || (args.check && changed > 0) { Answer::No } else { Answer::Yes })
}

/// The policy files below a path, in order of name; one level of directories, as there is no more.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let list = |directory: &Path| -> anyhow::Result<Vec<PathBuf>> {
        let entries =
            fs::read_dir(directory).with_context(|| format!("cannot list `{}`", directory.display()))?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    let is_policy = |path: &PathBuf| path.extension().is_some_and(|end| end == "cedar") && path.is_file();
    for entry in list(path)? {
        if entry.is_dir() {
            found.extend(list(&entry)?.into_iter().filter(is_policy));
        } else if is_policy(&entry) {
            found.push(entry);
        }
    }
    Ok(found)
}

/// Written beside and renamed, under the same mode: a gateway that watches the file never reads half of it.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let mode = {
        use std::os::unix::fs::PermissionsExt as _;
        fs::metadata(file)?.permissions().mode() & 0o777
    };
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let beside = file.with_file_name(name);
    write_new(&beside, text.as_bytes(), mode)?;
    Ok(fs::rename(&beside, file)?)
}
