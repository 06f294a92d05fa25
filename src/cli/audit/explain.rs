//! `tidegate audit explain`: why one crossing was allowed or not, in words, with the policies as they were and asked again.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use super::super::Answer;
use super::Output;
use super::progress::{self, Bar};
use crate::audit::crossing::{self, Crossing, Found, Stored};
use crate::audit::filter::IdPrefix;
use crate::audit::record::{Decision, Outcome, Record, Refusal, Verdict};
use crate::audit::sentence::{Because, sentence};
use crate::audit::subjects::Opener;
use crate::audit::view::printable;
use crate::policy::replay::{PolicyThen, ReplayError, Replayed, Replayer};

const EXAMPLES: &str = "\
Examples:
  tidegate audit explain 01912f6e-7a3c-7d1e-8b0a-0123456789ab --journal journal
  tidegate audit explain 01912f6e-7a3c --journal journal --trace-url 'http://127.0.0.1:6006/redirects/traces/{trace_id}'

Exit codes: 0 if the archived policies decide as recorded (or none was asked); 1 if they do not, if they cannot be asked,
or if no crossing or several have this id.";

/// The variable that holds the form of trace links.
const TRACE_URL: &str = "TIDEGATE_TRACE_URL";
/// Columns of the text.
const WIDTH: usize = 96;
/// Columns before the facts.
const INDENT: usize = 12;

/// Say why a crossing was allowed or not: the policies as they were, asked again, and what came of it
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct ExplainArgs {
    /// The record id of the crossing, or its beginning if no other id begins so
    #[arg(value_name = "ID")]
    pub id: IdPrefix,
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    pub journal: PathBuf,
    /// Where the backend shows a trace, with {trace_id} in its place; else the variable TIDEGATE_TRACE_URL
    #[arg(long, value_name = "URL", value_parser = template)]
    pub trace_url: Option<String>,
    /// How to print it
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Output,
}

fn template(text: &str) -> Result<String, String> {
    match text.contains("{trace_id}") {
        true => Ok(text.to_owned()),
        false => Err("it has no `{trace_id}`, so every link would be the same".to_owned()),
    }
}

/// `explain` to standard output.
///
/// # Errors
/// The journal cannot be read, or the output not written.
pub(crate) fn run(args: &ExplainArgs) -> anyhow::Result<Answer> {
    let found = progress::with(&args.journal, "searching", |bar: &Bar| {
        crossing::find(&args.journal, &args.id, |bytes| bar.add(bytes))
    })?;
    let crossing = match found {
        Found::One(crossing) => crossing.restored(&mut Opener::new(&args.journal)),
        Found::None => {
            writeln!(
                io::stderr(),
                "tidegate: no crossing in `{}` has the id {}",
                args.journal.display(),
                args.id
            )?;
            return Ok(Answer::No);
        }
        Found::Many(ids) => {
            let err = &mut io::stderr();
            writeln!(
                err,
                "tidegate: several ids begin with {}; write more of the one that you mean:",
                args.id
            )?;
            ids.iter().try_for_each(|id| writeln!(err, "  {id}"))?;
            return Ok(Answer::No);
        }
    };
    let trace_url = match &args.trace_url {
        Some(url) => Some(url.clone()),
        None => std::env::var(TRACE_URL).ok().filter(|url| !url.is_empty()),
    };
    if let Some(wrong) = trace_url.as_deref().and_then(|url| template(url).err()) {
        anyhow::bail!("{TRACE_URL}: {wrong}");
    }
    let explained =
        Explained::of(crossing, &mut Replayer::new(&args.journal.join("bundles")), trace_url.as_deref());
    let out = &mut io::stdout().lock();
    match args.output {
        Output::Json => writeln!(out, "{}", explained.json()).context("cannot print")?,
        _ => write!(out, "{}", explained.text()).context("cannot print")?,
    }
    Ok(if explained.agrees() { Answer::Yes } else { Answer::No })
}

/// A crossing with the answers of its policies.
#[derive(Debug)]
pub struct Explained {
    crossing: Crossing,
    /// The answer to each decision, in the order of the records; none where no policy was asked.
    replays: Vec<Option<Result<Replayed, ReplayError>>>,
    trace_url: Option<String>,
}

impl Explained {
    /// Asks the archived policies again for every decision of the crossing.
    #[must_use]
    pub fn of(crossing: Crossing, replayer: &mut Replayer, trace_url: Option<&str>) -> Self {
        let replays = crossing
            .records
            .iter()
            .map(|stored| match &stored.record {
                Record::Decision(_) => match replayer.replay(&stored.json) {
                    Err(ReplayError::NotAsked(_)) => None,
                    answer => Some(answer),
                },
                _ => None,
            })
            .collect();
        let trace = trace_of(&crossing);
        let trace_url = trace_url.zip(trace).map(|(url, trace)| url.replace("{trace_id}", &trace));
        Self { crossing, replays, trace_url }
    }

    /// Whether every decision for which policies were asked is decided again as it was.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.replays.iter().flatten().all(|answer| answer.as_ref().is_ok_and(|replayed| replayed.agrees))
    }

    fn decisions(
        &self,
    ) -> impl DoubleEndedIterator<Item = (&Stored, &Decision<'static>, Option<&Result<Replayed, ReplayError>>)>
    {
        let answers = self.replays.iter().map(Option::as_ref);
        self.crossing.records.iter().zip(answers).filter_map(|(stored, answer)| match &stored.record {
            Record::Decision(decision) => Some((stored, decision.as_ref(), answer)),
            _ => None,
        })
    }

    fn outcomes(&self) -> impl Iterator<Item = (&Stored, &Outcome<'static>)> {
        self.crossing.records.iter().filter_map(|stored| match &stored.record {
            Record::Outcome(outcome) => Some((stored, outcome.as_ref())),
            _ => None,
        })
    }

    /// Why, in one sentence: that of the last decision.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Some((stored, decision, answer)) = self.decisions().next_back() else { return self.undecided() };
        let replayed = answer.and_then(|answer| answer.as_ref().ok());
        let reason = |id: &str| {
            let then = replayed?.policies.iter().find(|policy| policy.info.id.as_ref() == id)?;
            then.info.reason.as_ref().map(ToString::to_string)
        };
        let because: Vec<Because> = decision
            .policies
            .iter()
            .map(|id| Because { policy: id.to_string(), reason: reason(id) })
            .collect();
        sentence(decision, stored.stamp.time, &because, replayed.map(|replayed| replayed.of_policies))
    }

    /// That of a crossing that ended before any decision.
    fn undecided(&self) -> String {
        let refusal = self.crossing.records.iter().find_map(|stored| match &stored.record {
            Record::Refusal(refusal) => Some((stored.stamp.time, refusal)),
            _ => None,
        });
        match refusal {
            Some((time, Refusal { code, status, peer, method, host, path, .. })) => {
                let part = |text: &Option<std::borrow::Cow<'_, str>>| {
                    text.as_deref().map(printable).unwrap_or_default()
                };
                let asked = format!("{} {}{}", part(method), part(host), part(path));
                format!(
                    "Somebody at {peer} was refused{} on {} with status {status}, because of `{}`, before anybody was identified.",
                    if asked.trim().is_empty() {
                        String::new()
                    } else {
                        format!(" when trying to send {}", asked.trim())
                    },
                    time.strftime("%-d %B %Y at %H:%M:%S UTC"),
                    printable(code),
                )
            }
            None => "The journal holds how this crossing ended, and no decision.".to_owned(),
        }
    }

    /// The policies that took part in any of the decisions, each once.
    fn policies(&self) -> Vec<(&str, &PolicyThen)> {
        let mut found: Vec<(&str, &PolicyThen)> = Vec::new();
        for replayed in self.replays.iter().flatten().filter_map(|answer| answer.as_ref().ok()) {
            for policy in &replayed.policies {
                let known = found
                    .iter()
                    .any(|(bundle, then)| *bundle == replayed.bundle && then.info.id == policy.info.id);
                if !known {
                    found.push((&replayed.bundle, policy));
                }
            }
        }
        found
    }

    /// For programs: one object.
    #[must_use]
    pub fn json(&self) -> Value {
        let answer = |answer: &Result<Replayed, ReplayError>| match answer {
            Ok(replayed) => json!(replayed),
            Err(error) => json!({ "agrees": false, "error": error.to_string() }),
        };
        let replays: Vec<Value> = self
            .decisions()
            .map(|(stored, _, replay)| {
                json!({ "seq": stored.seq, "attempt": stored.stamp.attempt, "answer": replay.map(answer) })
            })
            .collect();
        let records: Vec<Value> = self
            .crossing
            .records
            .iter()
            .map(|stored| {
                let mut json = stored.json.clone();
                if let Some(members) = json.as_object_mut() {
                    members.insert("seq".to_owned(), stored.seq.into());
                }
                json
            })
            .collect();
        json!({
            "id": self.crossing.id,
            "sentence": self.sentence(),
            "agrees": self.agrees(),
            "replays": replays,
            "records": records,
            "trace_id": trace_of(&self.crossing),
            "trace_url": self.trace_url,
        })
    }

    /// For people: the sentence, the facts, the policies.
    #[must_use]
    pub fn text(&self) -> String {
        let mut page = Page::default();
        page.paragraph(&self.sentence());
        page.blank();
        page.fact("crossing", &self.crossing.id.to_string());
        if let Some((_, decision, _)) = self.decisions().next_back() {
            facts(&mut page, decision);
        }
        if let Some(trace) = trace_of(&self.crossing) {
            page.fact("trace", self.trace_url.as_ref().unwrap_or(&trace));
        }
        for (stored, decision, answer) in self.decisions() {
            page.blank();
            attempt(&mut page, stored, decision);
            let of = |outcome: &&(&Stored, &Outcome<'_>)| outcome.0.stamp.attempt == stored.stamp.attempt;
            match self.outcomes().find(|outcome| of(&outcome)) {
                Some((_, outcome)) => page.fact("outcome", &ended(outcome)),
                None => {
                    page.fact("outcome", "not recorded yet: it goes on, or the gateway ended before it knew")
                }
            }
            page.fact("replay", &agreement(answer));
            for difference in answer.into_iter().flatten().flat_map(|replayed| &replayed.differences) {
                page.fact("", &format!("- {}", printable(difference)));
            }
            for note in answer.into_iter().flatten().flat_map(|replayed| &replayed.notes) {
                page.fact("", &format!("note: {}", printable(note)));
            }
        }
        if self.decisions().next().is_none() {
            for (_, outcome) in self.outcomes() {
                page.fact("outcome", &ended(outcome));
            }
        }
        for (bundle, policy) in self.policies() {
            page.blank();
            page.policy(bundle, policy);
        }
        page.0
    }
}

fn trace_of(crossing: &Crossing) -> Option<String> {
    crossing.records.iter().find_map(|stored| match &stored.record {
        Record::Decision(decision) => decision.trace_id.as_deref().map(printable),
        Record::Refusal(refusal) => refusal.trace_id.as_deref().map(printable),
        _ => None,
    })
}

fn facts(page: &mut Page, decision: &Decision<'_>) {
    let principal = &decision.principal;
    if !principal.id.is_empty() {
        let teams: Vec<&str> = principal.teams.iter().map(crate::model::TeamName::as_str).collect();
        let teams =
            if teams.is_empty() { "no team".to_owned() } else { format!("teams {}", teams.join(", ")) };
        let who = format!(
            "{} {}; {teams}; proved by {}; tenant {}",
            principal.kind, principal.id, principal.authn, decision.tenant
        );
        page.fact("who", &printable(&who));
        for (kind, id) in [("agent", &decision.chain.agent), ("workload", &decision.chain.workload)] {
            if let Some(id) = id.as_deref().filter(|id| *id != principal.id) {
                page.fact("", &printable(&format!("through {kind} {id}")));
            }
        }
    }
    let request = &decision.request;
    let asked = format!(
        "{} {}{}, {} bytes, from {} on route {}",
        request.method, request.host, request.path, request.bytes, decision.peer, decision.route
    );
    page.fact("what", &printable(&asked));
    if let Some(label) = &decision.label {
        let places: Vec<&str> = label.residency.iter().map(crate::model::Jurisdiction::as_str).collect();
        let places = if places.is_empty() { "nowhere".to_owned() } else { places.join(" or ") };
        let text = format!("{}, fixed by {}; may be in {places}", label.level, origin(&label.origin));
        page.fact("label", &printable(&text));
    }
}

fn origin(name: &str) -> &str {
    match name {
        "default" => "default, for nobody said one",
        "route" => "the route",
        "dataset" => "the dataset",
        "detector" => "a detector",
        "caller" => "the caller",
        other => other,
    }
}

/// What was decided for an attempt, and how it came to it.
fn attempt(page: &mut Page, stored: &Stored, decision: &Decision<'_>) {
    let number = stored.stamp.attempt.unwrap_or_default();
    let time = stored.stamp.time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
    page.fact(
        &format!("attempt {number}"),
        &format!("{} at {time}, record {}", decision.decision.name(), stored.seq),
    );
    for evaluation in &decision.evaluations {
        let policies: Vec<&str> = evaluation.policies.iter().map(AsRef::as_ref).collect();
        let why = match (evaluation.allowed, evaluation.errors.first(), policies.is_empty()) {
            (true, ..) => format!("permitted by {}", policies.join(", ")),
            (false, Some(error), _) => format!("a policy failed: {error}"),
            (false, None, true) => "no policy permits it".to_owned(),
            (false, None, false) => format!("forbidden by {}", policies.join(", ")),
        };
        let to = evaluation
            .destination
            .as_deref()
            .map_or_else(|| "to nowhere known".to_owned(), |to| format!("to {to}"));
        let resource = format!("{} {}", evaluation.resource.kind, evaluation.resource.id);
        let text = format!("{resource} {to}, protection {}: {why}", evaluation.protection);
        page.fact("", &printable(&text));
    }
    if decision.evaluations.is_empty() && decision.decision == Verdict::Reject {
        page.fact("", &format!("refused with `{}`", printable(decision.code.as_deref().unwrap_or_default())));
    }
    if let Some(upstream) = &decision.upstream {
        let plain = if upstream.plaintext { ", without TLS" } else { "" };
        page.fact("sent to", &printable(&format!("{} at {}{plain}", upstream.name, upstream.endpoint)));
    }
    if let Some(seal) = &decision.seal {
        let key = seal.key.as_deref().map_or_else(String::new, |key| format!(" with key {key}"));
        page.fact("sealed for", &printable(&format!("{}{key}", seal.recipient)));
    }
}

fn ended(outcome: &Outcome<'_>) -> String {
    let status = outcome.status.map(|status| format!("status {status}"));
    let code = outcome.code.as_deref().map(|code| format!("`{code}`"));
    let tokens =
        outcome.usage.map(|usage| format!("{} tokens in, {} out", usage.input_tokens, usage.output_tokens));
    let withdrawn = outcome.withdrawn.as_deref().filter(|withdrawn| !withdrawn.policies.is_empty());
    let withdrawn = withdrawn.map(|withdrawn| {
        let policies: Vec<String> = withdrawn.policies.iter().map(|id| format!("`{id}`")).collect();
        format!("ended by {}", policies.join(", "))
    });
    let parts = [Some(outcome.ending.name().to_owned()), status, code, withdrawn, tokens];
    let mut parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.push(format!("{} bytes sent, {} bytes answered", outcome.request_bytes, outcome.response_bytes));
    parts.push(format!("{}.{:03} ms", outcome.duration_us / 1000, outcome.duration_us % 1000));
    printable(&parts.join(", "))
}

fn agreement(answer: Option<&Result<Replayed, ReplayError>>) -> String {
    match answer {
        None => "no policy was asked, so there is nothing to replay".to_owned(),
        Some(Ok(replayed)) if replayed.agrees => {
            "agrees: the archived policies decide the same, for the same reasons".to_owned()
        }
        Some(Ok(_)) => "DISAGREES with the record:".to_owned(),
        Some(Err(error)) => format!("NOT POSSIBLE: {}", printable(&error.to_string())),
    }
}

/// Text in two columns, no line wider than [`WIDTH`] unless a word is.
#[derive(Debug, Default)]
struct Page(String);

impl Page {
    fn blank(&mut self) {
        self.0.push('\n');
    }

    fn paragraph(&mut self, text: &str) {
        self.wrapped(text, 0);
    }

    fn fact(&mut self, name: &str, text: &str) {
        self.0.push_str(&format!("{name:<INDENT$}"));
        self.wrapped(text, INDENT);
    }

    fn wrapped(&mut self, text: &str, indent: usize) {
        let mut column = indent;
        for (number, word) in text.split(' ').enumerate() {
            let length = word.chars().count();
            if number > 0 && column + 1 + length > WIDTH {
                self.0.push('\n');
                self.0.push_str(&" ".repeat(indent));
                column = indent;
            } else if number > 0 {
                self.0.push(' ');
                column += 1;
            }
            self.0.push_str(word);
            column += length;
        }
        self.0.push('\n');
    }

    fn policy(&mut self, bundle: &str, policy: &PolicyThen) {
        let (file, line) = (&policy.info.file, policy.info.line);
        self.0.push_str(&format!("policy      {}, as it was in {file}:{line}\n", printable(&policy.info.id)));
        self.0.push_str(&format!("            bundle {bundle}\n\n"));
        for line in policy.text.lines() {
            self.0.push_str(&format!("  {}\n", printable(line)));
        }
    }
}
