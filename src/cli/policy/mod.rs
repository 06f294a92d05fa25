//! `tidegate policy`: write, check, test and explain policies. The work is done in `policy`.

mod bundle;
mod check;
mod explain;
mod fmt;
mod plan;
mod prove;
mod shadow;
mod test;
mod verify;
mod watch;

use std::io::{self, IsTerminal as _};

use clap::Subcommand;

use super::Answer;

/// Subcommands of `policy`.
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    Bundle(bundle::Args),
    Check(check::Args),
    Fmt(fmt::Args),
    Prove(prove::Args),
    Shadow(shadow::Args),
    Test(test::Args),
    Explain(explain::Args),
    Plan(plan::Args),
    Verify(verify::Args),
    Watch(watch::Args),
}

/// Runs the command.
pub(super) fn run(command: &Policy) -> anyhow::Result<Answer> {
    let mut out = io::stdout().lock();
    match command {
        Policy::Bundle(args) => bundle::run(args, &mut out),
        Policy::Check(args) => check::run(args, &mut out),
        Policy::Fmt(args) => fmt::run(args, &mut out),
        Policy::Prove(args) => prove::run(args, &mut out),
        Policy::Shadow(args) => shadow::run(args, &mut out),
        Policy::Test(args) => test::run(args, &mut out),
        Policy::Explain(args) => explain::run(args, &mut out),
        Policy::Plan(args) => plan::run(args, &mut out),
        Policy::Verify(args) => verify::run(args, &mut out),
        Policy::Watch(args) => watch::run(args, &mut out),
    }
}

/// Colours for a terminal, unless `NO_COLOR` is set; empty texts else.
#[derive(Debug, Clone, Copy)]
struct Paint {
    red: &'static str,
    yellow: &'static str,
    green: &'static str,
    dim: &'static str,
    plain: &'static str,
}

impl Paint {
    const NONE: Self = Self { red: "", yellow: "", green: "", dim: "", plain: "" };

    fn of_terminal() -> Self {
        let wanted =
            io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if wanted {
            Self { red: "\x1b[31m", yellow: "\x1b[33m", green: "\x1b[32m", dim: "\x1b[2m", plain: "\x1b[0m" }
        } else {
            Self::NONE
        }
    }
}
