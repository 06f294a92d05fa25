//! `tidegate policy verify`: whether a gateway would take a release.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use serde_json::json;

use super::super::{Answer, Output};
use super::Paint;
use crate::audit::view::printable;
use crate::config;
use crate::model::note::VerifierKey;
use crate::model::{Clock as _, SystemClock};
use crate::policy::release::{Last, Moment, Terms};
use crate::policy::{Origin, Outcome, Place, Verified};

/// Verify a release of policies as a gateway does, before it is published
///
/// Looks at the archive (or the folder with its `bundle.manifest`), the signature, the
/// hash of the files, serial, expiry and proof, and loads the policies. What is demanded
/// is told by options, or is what a configuration demands (--config), which also knows
/// the serial that this gateway served last. Nothing is fetched and nothing is changed.
/// Exit code 1 if a gateway would refuse it.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  tidegate policy verify bundle.tar.gz --key 'tidegate-policies+7d1c…'\n  tidegate policy verify bundle.tar.gz --key 'tidegate-policies+7d1c…' --after 6 --claim restricted-unsealed\n  tidegate policy verify bundle.tar.gz --config tidegate.toml --output json"
)]
#[command(group = clap::ArgGroup::new("terms").required(true).args(["key", "config"]))]
pub(crate) struct Args {
    /// The archive, or the folder
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The key that must have signed, as `tidegate policy bundle` prints it; of several, one must
    #[arg(long, value_name = "KEY")]
    key: Vec<VerifierKey>,
    /// The serial of the release before, which this one must exceed
    #[arg(long, value_name = "SERIAL", conflicts_with = "config")]
    after: Option<u64>,
    /// Demand a proof, as `policy.attestation = "required"` does
    #[arg(long, conflicts_with = "config")]
    proved: bool,
    /// Demand the proof of this invariant too: `ID` or `ID@SHA256`; may be repeated
    #[arg(long, value_name = "ID", conflicts_with = "config")]
    claim: Vec<String>,
    /// Demand what `[policy]` of this configuration demands, after what its gateway served last
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    config: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    output: Output,
}

/// Runs the command.
pub(super) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let file = args.file.display();
    std::fs::metadata(&args.file).with_context(|| format!("cannot read `{file}`"))?;
    let place =
        if args.file.is_dir() { Place::Folder(args.file.clone()) } else { Place::Packed(args.file.clone()) };
    let (origin, moment) = match &args.config {
        Some(path) => configured(path)?,
        None => {
            let attested = (args.proved || !args.claim.is_empty()).then(|| args.claim.clone());
            let terms = Terms { keys: args.key.clone(), attested, ..Terms::default() };
            let last = args.after.map(|serial| Last { serial, bundle: String::new() });
            (Origin::new(place.clone(), None, terms), Moment { now: SystemClock.now(), last })
        }
    };
    let found = origin.at(place).verify(&moment);
    match args.output {
        Output::Json => {
            let mut value = serde_json::to_value(&found)?;
            if let Some(members) = value.as_object_mut() {
                members.insert("file".to_owned(), json!(args.file));
            }
            writeln!(out, "{value:#}")?;
        }
        Output::Table => print(&args.file, &found, out)?,
    }
    Ok(if found.taken { Answer::Yes } else { Answer::No })
}

/// What a configuration demands, and what its gateway served last.
fn configured(path: &Path) -> anyhow::Result<(Origin, Moment)> {
    let wrong = || format!("the configuration `{}` cannot be used", path.display());
    let config = config::load(path).map_err(|problems| anyhow!("{problems}")).with_context(wrong)?;
    let origin = config::origin(&config).map_err(|problems| anyhow!("{problems}")).with_context(wrong)?;
    let moment = config::moment(&config).map_err(|problems| anyhow!("{problems}")).with_context(wrong)?;
    Ok((origin, moment))
}

fn print(file: &Path, found: &Verified, out: &mut dyn Write) -> io::Result<()> {
    let Paint { red, green, dim, plain, .. } = Paint::of_terminal();
    let hash = found.bundle.as_deref().map_or_else(String::new, |hash| format!(": bundle {hash}"));
    writeln!(out, "{}{hash}", file.display())?;
    for check in &found.checks {
        let (mark, colour) = match check.outcome {
            Outcome::Ok => ("✓", green),
            Outcome::Wrong => ("✗", red),
            Outcome::Open => ("·", dim),
        };
        writeln!(out, "  {colour}{mark}{plain} {:<10} {}", check.what, printable(&check.says))?;
        if !check.hint.is_empty() {
            writeln!(out, "               {dim}{}{plain}", check.hint)?;
        }
    }
    if found.taken {
        writeln!(out, "{green}a gateway takes it{plain}")
    } else {
        writeln!(out, "{red}a gateway refuses it{plain}")
    }
}
