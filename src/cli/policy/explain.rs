//! `tidegate policy explain`: what would be decided, by which policies, and what was missing.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::super::Output;
use super::{Answer, Paint};
use crate::policy::suite::{Facts, RUNGS, Suite};
use crate::policy::{
    Anatomy, Bundle, Denial, Dissected, Effect, Evaluation, Holds, Part, PartKind, Permit, at,
};

/// How many permits that did not match are shown.
const NEAREST: usize = 3;

/// Say what would be decided for a request, by which policies, and why not
///
/// The request is told in the words of the tests: KEY=VALUE, lists with commas.
/// Where no permit matches, those that come nearest are shown, with what each lacked.
/// Exit code 1 if the answer is a denial.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  tidegate policy explain action=infer team=marketing model=eu/tide-small level=confidential residency=EU\n  tidegate policy explain action=read workload=spiffe://tidegate.demo/job/scanner dataset=patients to=haven\n  tidegate policy explain --case 'marketing, confidential'\n\nKeys:\n  user workload anonymous team tenant agent via token_age\n  action (infer embed read list write delete call)\n  model (cluster/model) dataset service to can_open\n  level (public internal confidential restricted) residency\n  method path bytes stream max_tokens purpose peer now"
)]
pub(crate) struct Args {
    /// Facts of the request
    #[arg(value_name = "KEY=VALUE", value_parser = pair)]
    facts: Vec<(String, String)>,
    /// Directory of the policies
    #[arg(long, value_name = "DIR", default_value = "policies")]
    policies: PathBuf,
    /// Begin with a case of the tests; facts change it
    #[arg(long, value_name = "NAME")]
    case: Option<String>,
    /// Show how every policy stands to the request
    #[arg(long)]
    all: bool,
    /// How to print
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    output: Output,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs the command.
pub(super) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let bundle = Bundle::load(&args.policies).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let facts = facts(args)?;
    let ask = facts.ask().context("that is no whole request")?;
    let decided = bundle.decide(&ask.request(), &ask.candidates, &RUNGS);
    let anatomy = Anatomy::new(&bundle)?;
    match args.output {
        Output::Json => writeln!(out, "{:#}", as_json(&facts, &decided, &anatomy)?)?,
        Output::Table => print(args, &facts, &decided, &anatomy, out)?,
    }
    Ok(if decided.is_ok() { Answer::Yes } else { Answer::No })
}

/// Explains one case of the tests, for people.
pub(super) fn show(policies: &Path, case: &str, out: &mut dyn Write) -> anyhow::Result<()> {
    let (policies, case, output) = (policies.to_owned(), Some(case.to_owned()), Output::Table);
    run(&Args { facts: Vec::new(), policies, case, all: false, output }, out).map(drop)
}

/// The facts of the command line, over those of a case.
fn facts(args: &Args) -> anyhow::Result<Facts> {
    let mut told = toml::Table::new();
    for (key, text) in &args.facts {
        told.insert(key.clone(), value(key, text));
    }
    let told: Facts = toml::Value::from(told).try_into().context("a fact cannot be used")?;
    let Some(name) = &args.case else { return Ok(told) };
    let suite = Suite::load(&args.policies).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let mut named = suite.cases.into_iter().filter(|case| case.name == *name);
    match (named.next(), named.next()) {
        (Some(case), None) => Ok(told.or(&case.facts)),
        (None, _) => bail!("no case is called `{name}`: `tidegate policy test --verbose` lists them"),
        (Some(_), Some(_)) => bail!("several cases are called `{name}`: give each a name of its own"),
    }
}

/// A value as a test file would have it.
fn value(key: &str, text: &str) -> toml::Value {
    let whole = || match key {
        "bytes" | "max_tokens" | "token_age" => text.parse().ok().map(toml::Value::Integer),
        "stream" | "anonymous" => text.parse().ok().map(toml::Value::Boolean),
        "team" | "model" | "can_open" | "residency" if text.contains(',') || text.is_empty() => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Some(parts.map(|part| toml::Value::String(part.to_owned())).collect::<Vec<_>>().into())
        }
        _ => None,
    };
    whole().unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

/// The record's request and all evaluations.
fn evaluated(decided: &Result<Permit, Denial>) -> anyhow::Result<(Value, &[Evaluation])> {
    Ok(match decided {
        Ok(permit) => (serde_json::to_value(permit.request())?, permit.evaluations()),
        Err(denial) => (serde_json::to_value(&denial.request)?, denial.evaluations.as_slice()),
    })
}

fn as_json(facts: &Facts, decided: &Result<Permit, Denial>, anatomy: &Anatomy) -> anyhow::Result<Value> {
    let (request, evaluations) = evaluated(decided)?;
    let mut asked = Vec::new();
    for evaluation in evaluations {
        let policies = anatomy.dissect(&at(&request, evaluation))?;
        asked.push(json!({ "evaluation": evaluation, "policies": policies }));
    }
    let (decision, code, detail) = match decided {
        Ok(_) => ("allow", None, None),
        Err(denial) => ("deny", Some(denial.reason.code()), denial.detail.clone()),
    };
    Ok(json!({
        "facts": facts, "decision": decision, "code": code, "detail": detail, "request": request, "asked": asked,
    }))
}

fn print(
    args: &Args,
    facts: &Facts,
    decided: &Result<Permit, Denial>,
    anatomy: &Anatomy,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let paint = Paint::of_terminal();
    let Paint { red, green, dim, plain, .. } = paint;
    match decided {
        Ok(permit) => {
            let (to, protection) = (permit.candidate().resource.id(), permit.protection());
            let how = if protection == crate::model::Protection::None {
                String::new()
            } else {
                format!(", {protection}")
            };
            writeln!(out, "{green}allowed{plain}{how}: {} of {to}", action(facts))?;
        }
        Err(denial) => {
            let detail = denial.detail.as_deref().map_or_else(String::new, |detail| format!(": {detail}"));
            writeln!(out, "{red}denied{plain}: {} ({}{detail})", denial.reason, denial.reason.code())?;
        }
    }
    let (request, evaluations) = evaluated(decided)?;
    for evaluation in evaluations {
        let policies = anatomy.dissect(&at(&request, evaluation))?;
        let to = evaluation
            .destination
            .as_ref()
            .map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let (mark, verdict) = if evaluation.allowed { ("✓", "allowed") } else { ("✗", "denied") };
        let colour = if evaluation.allowed { green } else { red };
        writeln!(
            out,
            "\n{colour}{mark}{plain} {}, to {to}, protection {}: {verdict}",
            evaluation.resource.id(),
            evaluation.protection
        )?;
        for error in &evaluation.errors {
            writeln!(out, "    {red}error{plain} {error}")?;
        }
        let decided = |policy: &&Dissected| evaluation.policies.contains(&policy.info.id);
        for policy in policies.iter().filter(decided) {
            let verb = if policy.info.effect == Effect::Permit { "permitted by" } else { "forbidden by" };
            show_policy(policy, verb, paint, args, out)?;
        }
        if args.all {
            for policy in policies.iter().filter(|policy| !decided(policy)) {
                show_policy(
                    policy,
                    if policy.matches { "matches" } else { "does not match" },
                    paint,
                    args,
                    out,
                )?;
            }
        } else if !evaluation.allowed && evaluation.policies.is_empty() && evaluation.errors.is_empty() {
            writeln!(out, "    {dim}no permit matches; nearest:{plain}")?;
            for policy in nearest(&policies) {
                show_policy(policy, "lacks", paint, args, out)?;
            }
        }
    }
    Ok(())
}

fn action(facts: &Facts) -> &'static str {
    facts.action.map_or("asking", crate::model::Action::name)
}

/// The permits for this action that lack least, first in their head, then in the number of conditions.
fn nearest(policies: &[Dissected]) -> Vec<&Dissected> {
    let mut permits: Vec<&Dissected> = policies
        .iter()
        .filter(|policy| policy.info.effect == Effect::Permit && !policy.matches)
        .filter(|policy| policy.lacking().all(|part| part.kind != PartKind::Action))
        .collect();
    permits.sort_by_key(|policy| {
        let head = policy.lacking().filter(|part| !is_condition(part)).count();
        let unasked = policy.parts.iter().filter(|part| part.holds == Holds::Unasked).count();
        (head, policy.lacking().count() + unasked)
    });
    permits.truncate(NEAREST);
    permits
}

const fn is_condition(part: &Part) -> bool {
    matches!(part.kind, PartKind::When | PartKind::Unless)
}

fn show_policy(
    policy: &Dissected,
    verb: &str,
    paint: Paint,
    args: &Args,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let Paint { red, green, dim, plain, .. } = paint;
    let info = &policy.info;
    let place = args.policies.join(&info.file);
    writeln!(out, "    {verb} {}   {dim}{}:{}{plain}", info.id, place.display(), info.line)?;
    if let Some(reason) = &info.reason {
        writeln!(out, "      {dim}{reason}{plain}")?;
    }
    for part in &policy.parts {
        let (mark, colour) = match part.holds {
            Holds::Yes => ("✓", green),
            Holds::No => ("✗", red),
            Holds::Error => ("!", red),
            Holds::Unasked => ("·", dim),
        };
        writeln!(out, "      {colour}{mark}{plain} {}", part.text)?;
    }
    Ok(())
}
