//! The flags that say which records are wanted, the same for every subcommand that reads the journal.

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use crate::audit::filter::{self, Decided, Filter, IdPrefix, Levels};

/// Which records are wanted.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which records")]
pub struct FilterArgs {
    /// Only from this time on: `2026-11-24T08:00:00Z`, `2026-11-24`, or how long ago: `15m`, `24h`, `7d`
    #[arg(long, value_name = "TIME", alias = "since", value_parser = since, allow_hyphen_values = true)]
    pub from: Option<Timestamp>,
    /// Only before this time, written as for --from
    #[arg(long, value_name = "TIME", value_parser = since, allow_hyphen_values = true)]
    pub to: Option<Timestamp>,
    /// Only principals whose id contains this text
    #[arg(long, value_name = "TEXT")]
    pub principal: Option<String>,
    /// Only principals of this team
    #[arg(long, value_name = "NAME")]
    pub team: Option<String>,
    /// Only this action: infer, embed, read, list, write, delete, call
    #[arg(long, value_name = "NAME")]
    pub action: Option<String>,
    /// Only resources whose type and id contain this text, as in `Dataset lake/papers`
    #[arg(long, value_name = "TEXT")]
    pub resource: Option<String>,
    /// Only this route
    #[arg(long, value_name = "NAME")]
    pub route: Option<String>,
    /// Only this decision
    #[arg(long, value_enum)]
    pub decision: Option<DecisionArg>,
    /// Only decisions of this policy, by its @id
    #[arg(long, value_name = "ID")]
    pub policy: Option<String>,
    /// Only data of this level; `internal+` is internal and above
    #[arg(long, value_name = "LEVEL")]
    pub label: Option<Levels>,
    /// Only this model
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Only what went, or would have gone, to this cluster, store or service
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Only the crossing with this record id, or whose id begins so
    #[arg(long, value_name = "RECORD")]
    pub id: Option<IdPrefix>,
}

/// A decision to search for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DecisionArg {
    /// Permitted by policy
    Allow,
    /// Not permitted by policy
    Deny,
    /// Refused before or after the policies: malformed, unidentified, over a limit
    Reject,
    /// No request: what happened to the gateway itself
    Event,
}

impl FilterArgs {
    /// The filter that the flags say.
    #[must_use]
    pub fn filter(&self) -> Filter {
        let decision = self.decision.map(|decision| match decision {
            DecisionArg::Allow => Decided::Allow,
            DecisionArg::Deny => Decided::Deny,
            DecisionArg::Reject => Decided::Reject,
            DecisionArg::Event => Decided::Event,
        });
        let Self { principal, team, action, resource, route, policy, model, cluster, id, .. } = self.clone();
        let (label, from, to) = (self.label, self.from, self.to);
        Filter {
            principal,
            team,
            action,
            resource,
            route,
            decision,
            policy,
            label,
            model,
            cluster,
            from,
            to,
            id,
        }
    }
}

/// A time, or how long ago.
///
/// # Errors
/// It is neither.
pub(in crate::cli) fn since(text: &str) -> Result<Timestamp, String> {
    filter::time(text, Timestamp::now())
}
