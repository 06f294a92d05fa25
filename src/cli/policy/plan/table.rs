//! A plan for people at a terminal.

use std::io::{self, Write};

use comfy_table::{Table, presets};

use super::super::Paint;
use crate::audit::view::printable;
use crate::policy::plan::{
    Affected, Changes, Comparison, Direction, Group, Plan, Ran, Replay, Skipped, Tests, Verdict,
};
use crate::policy::prove::{Compared, Counterexample, Relation};
use crate::policy::suite::CaseReport;

/// The most groups and entities that are shown; JSON has all.
pub(super) const MAX_SHOWN: usize = 20;
/// The names of a group that are shown.
const MAX_NAMES: usize = 4;
/// The characters of a hash that tell bundles apart.
const HASH: usize = 12;

/// Prints a plan.
pub(super) fn print(
    plan: &Plan,
    verdict: &Verdict,
    (old, new): (&str, &str),
    out: &mut dyn Write,
) -> io::Result<()> {
    let paint = Paint::of_terminal();
    writeln!(out, "old  {}   {}", short(&plan.changes.old), printable(old))?;
    writeln!(out, "new  {}   {}", short(&plan.changes.new), printable(new))?;
    changes(&plan.changes, out)?;
    tests(&plan.tests, paint, out)?;
    if let Some(replay) = &plan.replay {
        replayed(replay, paint, out)?;
    }
    compared(&plan.comparison, paint, out)?;
    writeln!(out)?;
    let (red, yellow, green, plain) = (paint.red, paint.yellow, paint.green, paint.plain);
    let colour = match (verdict.is_clear(), verdict.loosens || verdict.tests_fail) {
        (true, _) => green,
        (false, true) => red,
        (false, false) => yellow,
    };
    for line in conclusions(plan, verdict) {
        writeln!(out, "{colour}{line}{plain}")?;
    }
    Ok(())
}

/// The beginning of a hash.
pub(super) fn short(hash: &str) -> &str {
    hash.get(..HASH).unwrap_or(hash)
}

/// What a plan comes to, in sentences.
pub(super) fn conclusions(plan: &Plan, verdict: &Verdict) -> Vec<String> {
    let mut lines = Vec::new();
    if verdict.loosens {
        lines.push("Something loosens: look at what is marked `looser`.".to_owned());
    }
    if verdict.tests_fail {
        lines.push("Tests of the new policies fail.".to_owned());
    }
    lines.extend(verdict.open.iter().map(|why| match verdict.loosens {
        true => format!("Not known in full: {why}."),
        false => format!("Not known whether anything loosens: {why}."),
    }));
    if verdict.is_clear() {
        lines.push(match plan.comparison {
            Comparison::LeftOut => {
                "No recorded decision loosens. Requests that are in no record were not compared.".to_owned()
            }
            Comparison::Equal => "Nothing loosens: every request is decided alike.".to_owned(),
            Comparison::Solver { .. } | Comparison::Failed { .. } => "Nothing loosens.".to_owned(),
        });
    }
    lines
}

fn changes(changes: &Changes, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nChanges")?;
    if changes.files.is_empty() {
        return writeln!(out, "  none");
    }
    for file in &changes.files {
        writeln!(out, "  file    {}: {}", file.name, file.change.name())?;
    }
    for policy in &changes.policies {
        let effect = format!("{:?}", policy.effect).to_lowercase();
        writeln!(out, "  policy  {}: {} ({effect}, {})", policy.id, policy.change.name(), policy.place)?;
    }
    for entity in changes.entities.iter().take(MAX_SHOWN) {
        writeln!(out, "  entity  {}: {}", printable(&entity.entity), entity.change.name())?;
    }
    match changes.entities.len().saturating_sub(MAX_SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more entities"),
    }
}

/// The three runs of tests, each with what it is called.
pub(super) fn runs(tests: &Tests) -> [(&'static str, &Ran); 3] {
    [
        ("new tests, new policies", &tests.new),
        ("old tests, old policies", &tests.old),
        ("old tests, new policies", &tests.old_tests_of_new),
    ]
}

/// How a run of tests went.
pub(super) fn outcome(ran: &Ran) -> String {
    match &ran.problem {
        Some(problem) => format!("cannot be run: {}", printable(problem)),
        None if ran.cases == 0 => "none".to_owned(),
        None => format!("{} of {} as expected", ran.cases.saturating_sub(ran.failed.len()), ran.cases),
    }
}

/// The cases that fail in a run. Old tests that fail as the new ones do are told once.
pub(super) fn failures<'a>(tests: &'a Tests, ran: &'a Ran) -> impl Iterator<Item = &'a CaseReport> {
    let told = |case: &CaseReport| {
        let same = |new: &CaseReport| {
            (&new.name, &new.got, &new.problems) == (&case.name, &case.got, &case.problems)
        };
        std::ptr::eq(ran, &tests.old_tests_of_new) && tests.new.failed.iter().any(same)
    };
    ran.failed.iter().filter(move |case| !told(case)).take(MAX_SHOWN)
}

fn tests(tests: &Tests, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let Paint { red, dim, plain, .. } = paint;
    writeln!(out, "\nTests")?;
    for (name, ran) in runs(tests) {
        writeln!(out, "  {name}: {}", outcome(ran))?;
        for case in failures(tests, ran) {
            writeln!(out, "    {red}✗{plain} {}   {dim}{}:{}{plain}", case.name, case.file, case.line)?;
            writeln!(out, "      {}; {}", case.got, case.problems.join("; "))?;
        }
    }
    Ok(())
}

/// The counts of a replay in a sentence.
pub(super) fn counted(replay: &Replay) -> String {
    let unchanged = replay.replayed.saturating_sub(replay.looser).saturating_sub(replay.stricter);
    let otherwise = match replay.otherwise {
        0 => String::new(),
        count => format!(" ({count} for other reasons)"),
    };
    format!(
        "{} replayed: {} looser, {} stricter, {unchanged} unchanged{otherwise}",
        replay.replayed, replay.looser, replay.stricter
    )
}

fn replayed(replay: &Replay, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nRecorded decisions\n  {}", counted(replay))?;
    for group in replay.groups.iter().take(MAX_SHOWN) {
        shown(group, paint, out)?;
    }
    let hidden = replay.groups.iter().skip(MAX_SHOWN).map(|group| group.decisions).sum::<u64>();
    if let more @ 1.. = hidden.saturating_add(replay.ungrouped) {
        writeln!(out, "  and {more} more that change in yet other ways: --output json has them")?;
    }
    for Skipped { why, decisions, example } in &replay.unreplayed {
        writeln!(out, "  {decisions} not replayed: {}, such as {}", why.says(), printable(example))?;
    }
    Ok(())
}

/// `looser` or `stricter`.
pub(super) const fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Looser => "looser",
        Direction::Stricter => "stricter",
    }
}

/// `3: User ada (8), User eve (2) and 1 more`; `name` makes a name safe to show.
pub(super) fn affected(names: &Affected, name: fn(&str) -> String) -> String {
    let shown = names.most.iter().take(MAX_NAMES);
    let shown: Vec<String> =
        shown.map(|count| format!("{} ({})", name(&count.name), count.decisions)).collect();
    let or_more = if names.more { " or more" } else { "" };
    let rest = match names.count.saturating_sub(shown.len()) {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    format!("{}{or_more}: {}{rest}", names.count, shown.join(", "))
}

fn shown(group: &Group, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let Paint { red, green, plain, .. } = paint;
    let (mark, colour) = match group.direction {
        Direction::Looser => ("✗", red),
        Direction::Stricter => ("·", green),
    };
    let decisions = if group.decisions == 1 { "decision" } else { "decisions" };
    writeln!(
        out,
        "\n  {colour}{mark} {}{plain}: {}, {} {decisions}",
        direction(group.direction),
        group.action,
        group.decisions
    )?;
    writeln!(out, "      before      {}", group.old)?;
    writeln!(out, "      now         {}", group.new)?;
    writeln!(out, "      principals  {}", affected(&group.principals, printable))?;
    if group.teams.count > 0 {
        writeln!(out, "      teams       {}", affected(&group.teams, printable))?;
    }
    writeln!(out, "      resources   {}", affected(&group.resources, printable))?;
    let ids: Vec<String> = group.examples.iter().map(|example| printable(&example.id)).collect();
    writeln!(out, "      records     {}", ids.join(", "))
}

/// Why there is nothing of a solver to show, if so.
pub(super) fn without_solver(comparison: &Comparison) -> Option<String> {
    match comparison {
        Comparison::Solver { .. } => None,
        Comparison::Equal => Some("no policy, entity or type changes: all are decided alike".to_owned()),
        Comparison::LeftOut => Some("NOT COMPARED: --without-proof".to_owned()),
        Comparison::Failed { why } => Some(format!("NOT COMPARED: {why}")),
    }
}

fn compared(comparison: &Comparison, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nEvery request that there can be")?;
    if let Some(why) = without_solver(comparison) {
        return writeln!(out, "  {why}");
    }
    let kinds = comparison.kinds();
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty();
    table.set_header(["kind of request", "the new policies are"]);
    for kind in kinds {
        table.add_row([kind.environment.as_str(), kind.result.name()]);
    }
    writeln!(out, "{}", table.trim_fmt())?;
    for kind in kinds {
        told(kind, paint, out)?;
    }
    Ok(())
}

fn told(kind: &Compared, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let Paint { red, yellow, green, plain, .. } = paint;
    if let Some(request) = &kind.looser {
        writeln!(out, "\n{red}✗ looser{plain} for {}; one request:", kind.environment)?;
        example(request, out)?;
    }
    if let Some(request) = &kind.stricter {
        writeln!(out, "\n{green}· stricter{plain} for {}; one request:", kind.environment)?;
        example(request, out)?;
    }
    match (&kind.why, kind.result) {
        (Some(why), Relation::Unknown) => {
            writeln!(out, "\n{yellow}? not known{plain} for {}: {why}", kind.environment)
        }
        (Some(why), _) => writeln!(out, "\n· {} for {}: {why}", kind.result.name(), kind.environment),
        (None, _) => Ok(()),
    }
}

fn example(request: &Counterexample, out: &mut dyn Write) -> io::Result<()> {
    for (name, value) in request.facts() {
        writeln!(out, "    {name:<13}{value}")?;
    }
    writeln!(out, "    {:<13}{}", "decided", request.answer)
}
