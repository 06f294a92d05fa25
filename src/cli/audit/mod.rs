//! `tidegate audit`: the journal for people and programs. One file a subcommand; what they share stands here.

pub mod erase;
pub mod explain;
pub mod export;
pub mod filter;
pub(super) mod progress;
pub mod query;
pub mod reconcile;
pub mod report;
pub mod table;
pub mod tail;
pub mod verify;

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;

pub use self::filter::FilterArgs;

/// The form of the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Text for people
    #[default]
    Table,
    /// JSON for programs
    Json,
}

/// Whether standard output wants colours: a terminal, and `NO_COLOR` unset or empty.
#[must_use]
pub fn wants_color() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
