//! `tidegate policy shadow`: where a candidate would have decided otherwise.

use std::io::{self, Write};
use std::path::PathBuf;

use jiff::Timestamp;

use super::super::audit::{filter::since, progress};
use super::super::{Answer, Output};
use super::Paint;
use crate::audit::record::ShadowOutcome;
use crate::audit::shadow::{Example, Group, Report, report};
use crate::audit::view::printable;

/// Show where candidate policies would have decided otherwise than the live ones
///
/// A gateway with a `[policy.shadow]` folder asks the candidate what it asks the
/// live policies, and records where they differ: in the decision, in where the
/// data goes, in its protection, in the code, or in the policies that decide.
/// Only the live policies are enforced. Exit code 1 if there is any divergence,
/// or if nothing was compared.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  tidegate policy shadow --journal journal --from 24h\n  tidegate policy shadow --journal journal --candidate 3f9a --output json"
)]
pub(crate) struct Args {
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    journal: PathBuf,
    /// Only from this time on: `2026-11-24T08:00:00Z`, `2026-11-24`, or how long ago: `15m`, `24h`, `7d`
    #[arg(long, value_name = "TIME", value_parser = since, allow_hyphen_values = true)]
    from: Option<Timestamp>,
    /// Only before this time, written as for --from
    #[arg(long, value_name = "TIME", value_parser = since, allow_hyphen_values = true)]
    to: Option<Timestamp>,
    /// Only the candidate whose hash begins so
    #[arg(long, value_name = "HASH")]
    candidate: Option<String>,
    /// How to print
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    output: Output,
}

/// Runs the command.
pub(super) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let found = progress::with(&args.journal, "reading", |bar| {
        report(&args.journal, (args.from, args.to), args.candidate.as_deref(), bar.bytes())
    })?;
    match args.output {
        Output::Json => writeln!(out, "{:#}", serde_json::to_value(&found)?)?,
        Output::Table => print(&found, out)?,
    }
    let agrees = found.compared > 0 && found.diverged == 0 && found.groups.is_empty();
    Ok(if agrees { Answer::Yes } else { Answer::No })
}

fn print(found: &Report, out: &mut dyn Write) -> io::Result<()> {
    let Paint { red, yellow, green, dim, plain } = Paint::of_terminal();
    if let Some(last) = found.candidates.last().filter(|last| !last.problems.is_empty()) {
        writeln!(out, "{yellow}the newest candidate was not compared{plain} ({}):", last.time)?;
        for problem in &last.problems {
            writeln!(out, "  {}", printable(problem))?;
        }
        writeln!(out)?;
    }
    for group in &found.groups {
        let colour = if group.key.differs == "decision" { red } else { yellow };
        let Group { key, divergences, .. } = group;
        writeln!(out, "{colour}{divergences} × {}: {} differs{plain}", printable(&key.action), key.differs)?;
        writeln!(out, "  was     {}", outcome(&key.was))?;
        writeln!(out, "  would   {}", outcome(&key.would))?;
        writeln!(out, "  {dim}candidate {}, live {}{plain}", short(&key.candidate), short(&key.live))?;
        for example in &group.examples {
            writeln!(out, "  {dim}e.g.{plain}    {}", shown(example))?;
        }
        writeln!(out)?;
    }
    let (compared, diverged) = (found.compared, found.diverged);
    let colour = match (compared, diverged) {
        (0, _) => yellow,
        (_, 0) => green,
        _ => red,
    };
    write!(out, "{colour}{compared} decisions compared, {diverged} differ{plain}")?;
    for (count, what) in [
        (found.dropped, "not compared: the queue was full"),
        (found.failed, "not compared: the evaluation failed"),
        (found.ungrouped, "in no group"),
    ] {
        if count > 0 {
            write!(out, "; {count} {what}")?;
        }
    }
    writeln!(out)?;
    if found.unsummed > 0 {
        writeln!(
            out,
            "{dim}{} of these are not in the gateway's sums yet, which it writes once a minute and when it stops: more may have \
             been compared{plain}",
            found.unsummed
        )?;
    }
    Ok(())
}

fn outcome(outcome: &ShadowOutcome<'_>) -> String {
    let mut text = outcome.decision.to_string();
    if let Some(code) = &outcome.code {
        text.push_str(&format!(" ({code})"));
    }
    if let Some(destination) = &outcome.destination {
        text.push_str(&format!(" to {destination}"));
    }
    if let Some(protection) = &outcome.protection {
        text.push_str(&format!(", protection {protection}"));
    }
    if !outcome.policies.is_empty() {
        text.push_str(&format!(" by {}", outcome.policies.join(", ")));
    }
    printable(&text)
}

fn shown(example: &Example) -> String {
    let Some(seen) = &example.decision else {
        return format!("{} (its decision is not there any more)", example.id);
    };
    let teams = if seen.teams.is_empty() { String::new() } else { format!(" ({})", seen.teams.join(", ")) };
    let level = seen.level.as_deref().map(|level| format!(", {level}")).unwrap_or_default();
    let time = seen.time.strftime("%Y-%m-%dT%H:%M:%SZ");
    printable(&format!("{} {time} {}{teams} {}{level}", example.id, seen.who, seen.resource))
}

/// As much of a hash as tells bundles apart for people.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
