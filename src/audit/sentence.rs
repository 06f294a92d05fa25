//! One plain sentence for a decision: who, what, where to, when, whether it was allowed, and why.

use super::record::{Decision, Verdict};
use super::view::printable;
use jiff::Timestamp;

/// A deciding policy in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Because {
    /// Its `@id`.
    pub policy: String,
    /// Its `@reason`, if it is known.
    pub reason: Option<String>,
}

/// The sentence. `because` are the policies that decided; `of` is how many there were, if that is known.
#[must_use]
pub fn sentence(decision: &Decision<'_>, time: Timestamp, because: &[Because], of: Option<usize>) -> String {
    let verdict = match decision.decision {
        Verdict::Allow => "was allowed to",
        Verdict::Deny => "was not allowed to",
        Verdict::Reject => "was refused when trying to",
    };
    format!(
        "{who} {verdict} {what}{to}{data} on {when}, because {why}.",
        who = who(decision),
        what = what(decision),
        to = to(decision),
        data = data(decision),
        when = time.strftime("%-d %B %Y at %H:%M:%S UTC"),
        why = why(decision, because, of),
    )
}

fn who(decision: &Decision<'_>) -> String {
    let principal = &decision.principal;
    if principal.id.is_empty() {
        return "Somebody whom no credential identified".to_owned();
    }
    // A user's id is `issuer|subject`; people know the subject.
    let known = match (principal.kind.as_ref(), principal.id.rsplit_once('|')) {
        ("User", Some((_, subject))) if !subject.is_empty() => subject,
        _ => principal.id.as_ref(),
    };
    let kind = if principal.kind == "Workload" { "workload " } else { "" };
    let teams: Vec<&str> = principal.teams.iter().take(4).map(crate::model::TeamName::as_str).collect();
    let teams = match (teams.len(), principal.teams.len()) {
        (0, _) => String::new(),
        (1, 1) => format!(" of team {}", teams.concat()),
        (shown, all) if shown == all => format!(" of teams {}", teams.join(", ")),
        (_, all) => format!(" of {all} teams"),
    };
    let agent = decision.chain.agent.as_deref().map(|agent| format!(", through agent {agent},"));
    capital(&printable(&format!("{kind}{known}{teams}{}", agent.unwrap_or_default())))
}

/// Only words of ours begin with a capital: an id stays as it is.
fn capital(text: &str) -> String {
    text.strip_prefix("workload ").map_or_else(|| text.to_owned(), |rest| format!("Workload {rest}"))
}

fn what(decision: &Decision<'_>) -> String {
    let request =
        || format!("{} {}{}", decision.request.method, decision.request.host, decision.request.path);
    let (Some(action), Some(resource)) = (&decision.action, &decision.resource) else {
        return printable(&format!("send {}", request()));
    };
    let id = resource.id.text();
    let id = id.as_ref();
    printable(&match (action.as_ref(), id.split_once('/')) {
        ("infer", Some((cluster, model))) => format!("ask the model {model} on cluster {cluster}"),
        ("embed", Some((cluster, model))) => {
            format!("embed text with the model {model} on cluster {cluster}")
        }
        ("read", _) => format!("read from the dataset {id}"),
        ("list", _) => format!("list the dataset {id}"),
        ("write", _) => format!("write to the dataset {id}"),
        ("delete", _) => format!("delete from the dataset {id}"),
        ("call", _) => {
            format!("call the service {id} ({} {})", decision.request.method, decision.request.path)
        }
        (action, _) => format!("{action} {} {id}", resource.kind),
    })
}

/// Where the data goes that leaves a store.
fn to(decision: &Decision<'_>) -> String {
    let reads = matches!(decision.action.as_deref(), Some("read" | "list"));
    let to = decision.destination.as_deref().filter(|_| reads).map(|cluster| match cluster {
        "private" => " for the private side".to_owned(),
        cluster => format!(" for cluster {}", printable(cluster)),
    });
    to.unwrap_or_default()
}

/// How sensitive the data is, and how it leaves.
fn data(decision: &Decision<'_>) -> String {
    let level = decision.label.as_ref().map(|label| format!("{} data", label.level));
    let how = match (decision.decision, decision.protection.as_deref()) {
        (Verdict::Allow, Some(how @ ("sealed" | "masked"))) => Some(how.to_owned()),
        _ => None,
    };
    let parts: Vec<String> = level.into_iter().chain(how).collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

fn why(decision: &Decision<'_>, because: &[Because], of: Option<usize>) -> String {
    let named: Vec<String> = because
        .iter()
        .map(|because| match &because.reason {
            Some(reason) => format!("`{}` ({})", printable(&because.policy), printable(reason)),
            None => format!("`{}`", printable(&because.policy)),
        })
        .collect();
    let code = decision.code.as_deref().map(printable).unwrap_or_default();
    match (decision.decision, joined(&named)) {
        (Verdict::Allow, Some(policies)) if named.len() == 1 => format!("the policy {policies} permits it"),
        (Verdict::Allow, Some(policies)) => format!("the policies {policies} permit it"),
        (Verdict::Deny, Some(policies)) if named.len() == 1 => format!("the policy {policies} forbids it"),
        (Verdict::Deny, Some(policies)) => format!("the policies {policies} forbid it"),
        (Verdict::Allow, None) => "of a policy that the record does not name".to_owned(),
        (Verdict::Reject, _) => format!("of `{code}`; no policy decided that"),
        (Verdict::Deny, None) => match (code.as_str(), of) {
            ("policy_denied", Some(1)) => "the only policy does not permit it".to_owned(),
            ("policy_denied", Some(count)) => format!("none of the {count} policies permits it"),
            ("policy_denied", None) => "no policy permits it".to_owned(),
            ("policy_error", _) => {
                "a policy could not be evaluated, which denies whatever the others say".to_owned()
            }
            ("unknown_entity", _) => "it names something that the policies do not know".to_owned(),
            ("no_candidate", _) => "nothing serves such a request".to_owned(),
            _ => format!("of `{code}`"),
        },
    }
}

fn joined(parts: &[String]) -> Option<String> {
    match parts {
        [] => None,
        [one] => Some(one.clone()),
        [rest @ .., last] => Some(format!("{} and {last}", rest.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode::tests::decision;
    use super::super::record::{Entity, Links};
    use super::*;

    fn said(decision: &Decision<'_>, because: &[(&str, Option<&str>)], of: Option<usize>) -> String {
        let because: Vec<Because> = because
            .iter()
            .map(|(policy, reason)| Because { policy: (*policy).into(), reason: reason.map(str::to_owned) })
            .collect();
        sentence(decision, Timestamp::from_second(1_700_000_000).unwrap(), &because, of)
    }

    #[test]
    fn each_decision_is_one_plain_sentence() {
        let label = super::super::record::Marking {
            level: crate::model::Level::Internal,
            residency: std::borrow::Cow::Owned(crate::model::Residency::default()),
            origin: "route".into(),
        };
        let allowed = Decision { label: Some(label), ..decision() };
        let deny =
            |code: &'static str| Decision { decision: Verdict::Deny, code: Some(code.into()), ..decision() };
        let read = Decision {
            action: Some("read".into()),
            resource: Some(Entity { kind: "Dataset".into(), id: "trials".into() }),
            protection: Some("sealed".into()),
            principal: super::super::record::Party {
                kind: "Workload".into(),
                id: "spiffe://job/1".into(),
                teams: std::borrow::Cow::default(),
                ..decision().principal
            },
            ..decision()
        };
        let mut rejected =
            Decision { decision: Verdict::Reject, code: Some("rate_limited".into()), ..decision() };
        (rejected.action, rejected.resource) = (None, None);
        let agent = Decision {
            chain: Links { workload: None, agent: Some("bot\u{1b}".into()) },
            ..deny("policy_error")
        };
        let reason = Some("research may ask models");
        let sentences = [
            said(&allowed, &[("chat-for-research", reason)], Some(12)),
            said(
                &deny("policy_forbidden"),
                &[("residency", None), ("only-sealed", Some("sealed only"))],
                Some(12),
            ),
            said(&deny("policy_denied"), &[], Some(12)),
            said(&deny("policy_denied"), &[], None),
            said(&read, &[("trainer", None)], None),
            said(&rejected, &[], None),
            said(&agent, &[], Some(3)),
        ];
        let known = [
            "alice of team research was allowed to ask the model llama on cluster eu (internal data) on 14 November \
             2023 at 22:13:20 UTC, because the policy `chat-for-research` (research may ask models) permits it.",
            "alice of team research was not allowed to ask the model llama on cluster eu on 14 November 2023 at \
             22:13:20 UTC, because the policies `residency` and `only-sealed` (sealed only) forbid it.",
            "alice of team research was not allowed to ask the model llama on cluster eu on 14 November 2023 at \
             22:13:20 UTC, because none of the 12 policies permits it.",
            "alice of team research was not allowed to ask the model llama on cluster eu on 14 November 2023 at \
             22:13:20 UTC, because no policy permits it.",
            "Workload spiffe://job/1 was allowed to read from the dataset trials for cluster eu (sealed) on 14 November \
             2023 at 22:13:20 UTC, because the policy `trainer` permits it.",
            "alice of team research was refused when trying to send POST gateway.example/v1/chat/completions on 14 \
             November 2023 at 22:13:20 UTC, because of `rate_limited`; no policy decided that.",
            "alice of team research, through agent bot\\u{1b}, was not allowed to ask the model llama on cluster eu on 14 \
             November 2023 at 22:13:20 UTC, because a policy could not be evaluated, which denies whatever the others say.",
        ];
        for (said, known) in sentences.iter().zip(known) {
            assert_eq!(said, known);
        }
        assert_eq!(sentences.len(), known.len());
    }
}
