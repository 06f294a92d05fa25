//! `tidegate policy explain`: what would be decided, by which policies, and what was missing.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::super::Output;
use super::super::audit::progress;
use super::{Answer, Paint};
use crate::audit::crossing::{self, Found};
use crate::audit::filter::IdPrefix;
use crate::audit::subjects::Opener;
use crate::audit::view::printable;
use crate::model::{did_you_mean, did_you_mean_of};
use crate::policy::replay::Trial;
use crate::policy::suite::{Facts, RUNGS, Suite};
use crate::policy::{Anatomy, Bundle, Denial, Dissected, Effect, Evaluation, Holds, Permit, at, nearest};

/// How many permits that did not match are shown.
const NEAREST: usize = 3;

/// Say what would be decided for a request, by which policies, and why not
///
/// The request is told in the words of the tests: KEY=VALUE, lists with commas.
/// Or it is a recorded one (--record), asked of the policies as they are now;
/// `tidegate audit explain` asks them as they were. Where no permit matches,
/// those that lack least are shown, with what each lacked.
/// Exit code 1 if the answer is a denial.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  tidegate policy explain action=infer team=marketing model=eu/tide-small level=confidential residency=EU\n  tidegate policy explain action=read workload=spiffe://tidegate.demo/job/scanner dataset=patients to=haven\n  tidegate policy explain --case 'marketing, confidential'\n  tidegate policy explain --record 01912f6e-7a3c --journal journal\n\nKeys:\n  user workload anonymous team tenant agent authn via token_age\n  action (infer embed read list write delete call)\n  model (cluster/model) dataset service to can_open\n  level (public internal confidential restricted) residency\n  method path bytes stream max_tokens purpose peer now"
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
    /// Ask the recorded request of this id, or its beginning; of several attempts the last
    #[arg(long, value_name = "ID", requires = "journal", conflicts_with_all = ["facts", "case"])]
    record: Option<IdPrefix>,
    /// The journal that holds the record
    #[arg(long, value_name = "DIR", requires = "record")]
    journal: Option<PathBuf>,
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
    let mut unknown = Vec::new();
    let (subject, decided) = match args.record.as_ref().zip(args.journal.as_deref()) {
        Some((id, journal)) => {
            let record = recorded(id, journal)?;
            let trial =
                Trial::of(&serde_json::to_vec(&record)?).context("the record cannot be asked again")?;
            let decided = bundle.decide(&trial.request(), trial.candidates(), trial.rungs());
            let action = trial.request().action.name();
            (Subject { action, told: json!({ "record": then(&record, &trial) }) }, decided)
        }
        None => {
            let facts = facts(args)?;
            unknown = facts.unknown(&bundle);
            let ask = facts.ask().context("that is no whole request")?;
            let decided = bundle.decide(&ask.request(), &ask.candidates, &RUNGS);
            let action = facts.action.map_or("asking", crate::model::Action::name);
            (Subject { action, told: json!({ "facts": facts }) }, decided)
        }
    };
    let anatomy = Anatomy::new(&bundle)?;
    match args.output {
        Output::Json => {
            let mut value = as_json(&subject, &decided, &anatomy)?;
            let warnings: Vec<String> = unknown.iter().map(ToString::to_string).collect();
            if let Some(members) = value.as_object_mut() {
                members.insert("warnings".to_owned(), warnings.into());
            }
            writeln!(out, "{value:#}")?;
        }
        Output::Table => {
            let Paint { yellow, plain, .. } = Paint::of_terminal();
            for warning in &unknown {
                writeln!(out, "{yellow}warning{plain}: the request {warning}")?;
            }
            print(args, &subject, &decided, &anatomy, out)?;
        }
    }
    Ok(if decided.is_ok() { Answer::Yes } else { Answer::No })
}

/// What is asked.
struct Subject {
    action: &'static str,
    /// Where the question comes from, for programs: `facts`, or the `record`.
    told: Value,
}

/// The last decision of a crossing, with its personal members put back if their key is there.
fn recorded(id: &IdPrefix, journal: &Path) -> anyhow::Result<Value> {
    let found =
        progress::with(journal, "searching", |bar| crossing::find(journal, id, |bytes| bar.add(bytes)))?;
    let crossing = match found {
        Found::One(crossing) => crossing,
        Found::None => bail!("no crossing in `{}` has the id {id}", journal.display()),
        Found::Many(_) => bail!("several ids begin with {id}: write more of the one that you mean"),
    };
    let mut decisions =
        crossing.records.into_iter().filter(|stored| stored.json.get("kind") == Some(&json!("decision")));
    let Some(mut record) = decisions.next_back().map(|stored| stored.json) else {
        bail!("the crossing {id} was refused before any policy was asked")
    };
    Opener::new(journal).restore(&mut record);
    Ok(record)
}

/// What was decided when it was recorded.
fn then(record: &Value, trial: &Trial) -> Value {
    let digested = trial.has_digested_path();
    let note = digested.then_some("the path is asked with the object's key as a digest, as it is recorded");
    let member = |name: &str| record.get(name).cloned().unwrap_or_default();
    json!({
        "id": member("id"), "attempt": member("attempt"), "time": member("time"), "bundle": member("bundle"),
        "decision": member("decision"), "code": member("code"), "policies": member("policies"),
        "note": note,
    })
}

/// Explains one case of the tests, for people.
pub(super) fn show(policies: &Path, case: &str, out: &mut dyn Write) -> anyhow::Result<()> {
    let (policies, case, output) = (policies.to_owned(), Some(case.to_owned()), Output::Table);
    let args = Args { facts: Vec::new(), policies, case, record: None, journal: None, all: false, output };
    run(&args, out).map(drop)
}

/// The facts of the command line, over those of a case.
fn facts(args: &Args) -> anyhow::Result<Facts> {
    let mut told = toml::Table::new();
    for (key, text) in &args.facts {
        told.insert(key.clone(), value(key, text));
    }
    let told: Facts = toml::Value::from(told).try_into().map_err(|error: toml::de::Error| {
        let text = error.to_string().trim().replace('\n', " ");
        let meant = did_you_mean_of(error.message()).map_or_else(String::new, |meant| format!("; {meant}"));
        anyhow::anyhow!("a fact cannot be used: {text}{meant}")
    })?;
    let Some(name) = &args.case else { return Ok(told) };
    let suite = Suite::load(&args.policies).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let mut named = suite.cases.iter().filter(|case| case.name == *name);
    match (named.next(), named.next()) {
        (Some(case), None) => Ok(told.or(&case.facts)),
        (None, _) => {
            let meant = did_you_mean(name, suite.cases.iter().map(|case| case.name.as_str()));
            let all = || "`tidegate policy test --verbose` lists them".to_owned();
            bail!("no case is called `{name}`: {}", meant.unwrap_or_else(all))
        }
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

fn as_json(subject: &Subject, decided: &Result<Permit, Denial>, anatomy: &Anatomy) -> anyhow::Result<Value> {
    let (request, evaluations) = evaluated(decided)?;
    let mut asked = Vec::new();
    for evaluation in evaluations {
        let policies = anatomy.dissect(&at(&request, evaluation))?;
        let nearest = if is_default_denial(evaluation) { nearest(&policies, NEAREST) } else { Vec::new() };
        let lacks = |policy: &&Dissected| policy.lacking().map(|part| part.text.clone()).collect::<Vec<_>>();
        let nearest: Vec<_> =
            (nearest.iter()).map(|policy| json!({ "id": policy.info.id, "lacks": lacks(policy) })).collect();
        asked.push(json!({ "evaluation": evaluation, "policies": policies, "nearest": nearest }));
    }
    let (decision, code, detail) = match decided {
        Ok(_) => ("allow", None, None),
        Err(denial) => ("deny", Some(denial.reason.code()), denial.detail.clone()),
    };
    let mut value = json!({
        "decision": decision, "code": code, "detail": detail, "request": request, "asked": asked,
    });
    if let (Value::Object(members), Value::Object(told)) = (&mut value, &subject.told) {
        members.extend(told.clone());
    }
    Ok(value)
}

fn print(
    args: &Args,
    subject: &Subject,
    decided: &Result<Permit, Denial>,
    anatomy: &Anatomy,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let paint = Paint::of_terminal();
    let Paint { red, green, dim, plain, .. } = paint;
    if let Some(then) = subject.told.get("record") {
        let text = |name: &str| printable(then.get(name).and_then(Value::as_str).unwrap_or_default());
        let ids = then.get("policies").and_then(Value::as_array).into_iter().flatten();
        let ids: Vec<String> = ids.filter_map(Value::as_str).map(printable).collect();
        let why = if ids.is_empty() { text("code") } else { ids.join(", ") };
        let bundle: String = text("bundle").chars().take(12).collect();
        writeln!(
            out,
            "{dim}recorded {}: {} by {why}, bundle {bundle}; now:{plain}",
            text("time"),
            text("decision")
        )?;
        if let Some(note) = then.get("note").and_then(Value::as_str) {
            writeln!(out, "{dim}note: {note}{plain}")?;
        }
    }
    match decided {
        Ok(permit) => {
            let (to, protection) = (permit.candidate().resource.id(), permit.protection());
            let how = if protection == crate::model::Protection::None {
                String::new()
            } else {
                format!(", {protection}")
            };
            writeln!(out, "{green}allowed{plain}{how}: {} of {to}", subject.action)?;
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
            show_policy(policy, &format!("{verb} {}", policy.info.id), paint, args, out)?;
        }
        if args.all {
            for policy in policies.iter().filter(|policy| !decided(policy)) {
                let verb = if policy.matches { "matches" } else { "does not match" };
                show_policy(policy, &format!("{verb} {}", policy.info.id), paint, args, out)?;
            }
        } else if is_default_denial(evaluation) {
            writeln!(out, "    {dim}no permit matches; nearest:{plain}")?;
            for policy in nearest(&policies, NEAREST) {
                let said = format!(
                    "{} lacks {} of {}",
                    policy.info.id,
                    policy.lacking().count(),
                    policy.parts.len()
                );
                show_policy(policy, &said, paint, args, out)?;
            }
        }
    }
    Ok(())
}

/// Whether nothing matched at all.
fn is_default_denial(evaluation: &Evaluation) -> bool {
    !evaluation.allowed && evaluation.policies.is_empty() && evaluation.errors.is_empty()
}

fn show_policy(
    policy: &Dissected,
    said: &str,
    paint: Paint,
    args: &Args,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let Paint { red, green, dim, plain, .. } = paint;
    let info = &policy.info;
    let place = args.policies.join(&info.file);
    writeln!(out, "    {said}   {dim}{}:{}{plain}", place.display(), info.line)?;
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
