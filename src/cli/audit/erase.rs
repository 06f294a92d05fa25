//! `tidegate audit erase` and `hold`: what must not be read any more, and what must not be deleted yet.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use jiff::Timestamp;
use serde_json::json;

use super::Output;
use crate::audit::holds::{self, Hold};
use crate::audit::notes;
use crate::audit::record::Event;
use crate::audit::subjects::{self, Erased};
use crate::audit::view::printable;
use crate::cli::Answer;
use crate::model::{RecordId, TenantName};

const ERASE_HELP: &str = "\
Example:
  tidegate audit erase --journal journal --tenant acme --subject 'https://issuer.example|alice' --reason 'request 4711'

Only records written with `audit.personal = \"erasable\"` can be erased. The tree still verifies. Exit code 1 if nothing is known of the subject.";

/// Destroy the key over what identifies a user in the records; cannot be undone
#[derive(Debug, Clone, Args)]
#[command(after_help = ERASE_HELP)]
pub struct EraseArgs {
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    pub journal: PathBuf,
    /// The tenant of the user
    #[arg(long, value_name = "NAME")]
    pub tenant: TenantName,
    /// The user, as the principal's id of a record: `issuer|subject`; or `subject:` and the id of the key
    #[arg(long, value_name = "ID")]
    pub subject: String,
    /// Why, for the record of it; do not name the user
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// How to print the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Output,
}

/// Keep records from being deleted for as long as a matter is open
#[derive(Debug, Clone, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum HoldArgs {
    /// Set a hold: retention deletes nothing from its time on
    #[command(
        after_help = "Example:\n  tidegate audit hold add case-17 --reason 'litigation' --from 2026-01-01T00:00:00Z --journal journal"
    )]
    Add(AddArgs),
    /// Show the holds that stand; exit code 1 if there is none
    List(ListArgs),
    /// Lift a hold
    Remove(RemoveArgs),
}

/// See [`HoldArgs::Add`].
#[derive(Debug, Clone, Args)]
pub struct AddArgs {
    /// The name of the hold
    pub name: String,
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    pub journal: PathBuf,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Records from this time on are kept; all, if it is not given
    #[arg(long, value_name = "TIME", value_parser = super::filter::since)]
    pub from: Option<Timestamp>,
}

/// See [`HoldArgs::List`].
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    pub journal: PathBuf,
    /// How to print the holds
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Output,
}

/// See [`HoldArgs::Remove`].
#[derive(Debug, Clone, Args)]
pub struct RemoveArgs {
    /// The name of the hold
    pub name: String,
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    pub journal: PathBuf,
    /// Why it ends
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// Notes that records left the journal, where it can be written; an auditor's copy need not be.
pub(crate) fn tell_read(journal: &Path, how: &str, asked: Option<&str>, records: Option<u64>) {
    let actor = notes::actor();
    let event = Event::AuditRead {
        actor: actor.into(),
        how: how.into(),
        asked: asked.map(Into::into),
        records,
        at: Timestamp::now(),
    };
    if let Err(error) = notes::leave(journal, &event) {
        let _ = writeln!(io::stderr(), "tidegate: this reading is not recorded in the journal: {error}");
    }
}

/// Erases a user.
///
/// # Errors
/// The keys cannot be read, or the erasure not be noted or done.
pub(crate) fn erase(args: &EraseArgs, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let named = args.subject.strip_prefix("subject:").and_then(|id| id.parse::<RecordId>().ok());
    let found = match named {
        Some(id) => Some(id).filter(|id| subjects::is_known(&args.journal, *id)),
        None => subjects::find(&args.journal, &args.tenant, &args.subject)?,
    };
    let Some(subject) = found else {
        match args.output {
            Output::Json => writeln!(out, "{}", json!({ "erased": false }))?,
            Output::Table => writeln!(
                out,
                "nothing is known of `{}` of tenant `{}`: no record with a key of theirs was written, or it is erased already",
                printable(&args.subject),
                args.tenant
            )?,
        }
        return Ok(Answer::No);
    };
    let (actor, at) = (notes::actor(), Timestamp::now());
    // Noted first: if we are killed in between, the gateway does the rest.
    notes::leave(
        &args.journal,
        &Event::SubjectErased {
            subject,
            tenant: args.tenant.as_str().into(),
            actor: actor.as_str().into(),
            reason: args.reason.as_deref().map(Into::into),
            at,
        },
    )?;
    subjects::destroy(&args.journal, subject, &Erased { at, actor, reason: args.reason.clone() })?;
    match args.output {
        Output::Json => writeln!(out, "{}", json!({ "erased": true, "subject": subject, "at": at }))?,
        Output::Table => writeln!(
            out,
            "erased: what identifies subject:{subject} cannot be read any more, here or in any copy without the key\n\
             the gateway records it within a second, or at its next start; back-ups of `keys/subjects` must forget it too"
        )?,
    }
    Ok(Answer::Yes)
}

/// Sets, shows or lifts holds.
///
/// # Errors
/// There is no such journal or hold, or a file cannot be read or written.
pub(crate) fn hold(args: &HoldArgs, out: &mut dyn Write) -> anyhow::Result<Answer> {
    match args {
        HoldArgs::Add(args) => {
            let hold = Hold {
                name: args.name.clone(),
                reason: args.reason.clone(),
                from: args.from,
                added: Timestamp::now(),
                actor: notes::actor(),
            };
            holds::add(&args.journal, &hold)?;
            let from = hold.from.map_or_else(|| "all".to_owned(), |from| format!("from {from} on, all"));
            writeln!(out, "hold `{}` stands: {from} records are kept until it is lifted", hold.name)?;
        }
        HoldArgs::Remove(args) => {
            holds::remove(&args.journal, &args.name, &args.reason, &notes::actor(), Timestamp::now())?;
            writeln!(out, "hold `{}` is lifted", args.name)?;
        }
        HoldArgs::List(args) => {
            let all = holds::list(&args.journal)?;
            print(&all, args.output, out)?;
            return Ok(if all.is_empty() { Answer::No } else { Answer::Yes });
        }
    }
    Ok(Answer::Yes)
}

fn print(holds: &[Hold], output: Output, out: &mut dyn Write) -> anyhow::Result<()> {
    match output {
        Output::Json => {
            for hold in holds {
                writeln!(out, "{}", serde_json::to_string(hold)?)?;
            }
        }
        Output::Table if holds.is_empty() => writeln!(out, "no holds")?,
        Output::Table => {
            let mut table = Table::new();
            table.load_style(NOTHING).set_header(["HOLD", "RECORDS FROM", "SET", "BY", "REASON"]);
            for hold in holds {
                let from = hold.from.map_or_else(|| "the first".to_owned(), |from| from.to_string());
                let (added, reason) = (hold.added.strftime("%Y-%m-%d").to_string(), printable(&hold.reason));
                table.add_row([&hold.name, &from, &added, &hold.actor, &reason]);
            }
            writeln!(out, "{}", table.trim_fmt())?;
        }
    }
    Ok(())
}
