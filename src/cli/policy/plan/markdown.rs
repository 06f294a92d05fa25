//! A plan as Markdown (GitHub Flavored Markdown, tables extension), to be pasted into a pull request.

use std::io::{self, Write};

use super::table::{
    MAX_SHOWN, affected, conclusions, counted, direction, failures, outcome, runs, short, without_solver,
};
use crate::audit::view::printable;
use crate::policy::plan::{Changes, Comparison, Group, Plan, Replay, Skipped, Verdict};
use crate::policy::prove::{Compared, Counterexample};

/// Prints a plan.
pub(super) fn print(plan: &Plan, verdict: &Verdict, out: &mut dyn Write) -> io::Result<()> {
    let mark = if verdict.is_clear() { "✅" } else { "⚠️" };
    writeln!(out, "## {mark} Policy plan\n")?;
    for line in conclusions(plan, verdict) {
        writeln!(out, "**{}**\n", text(&line))?;
    }
    writeln!(out, "Bundle `{}` → `{}`\n", short(&plan.changes.old), short(&plan.changes.new))?;
    changes(&plan.changes, out)?;
    writeln!(out, "### Tests\n\n| tests | result |\n|---|---|")?;
    for (name, ran) in runs(&plan.tests) {
        writeln!(out, "| {name} | {} |", text(&outcome(ran)))?;
    }
    writeln!(out)?;
    let mut failed = false;
    for (name, ran) in runs(&plan.tests) {
        for case in failures(&plan.tests, ran) {
            let problems = text(&case.problems.join("; "));
            writeln!(out, "- {name}: {} ({}): {problems}", code(&case.name), text(&case.got))?;
            failed = true;
        }
    }
    if failed {
        writeln!(out)?;
    }
    if let Some(replay) = &plan.replay {
        replayed(replay, out)?;
    }
    compared(&plan.comparison, out)
}

/// A text that is no markup and fits into a cell of a table.
fn text(text: &str) -> String {
    let mut safe = String::new();
    for c in printable(text).chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '&' => safe.push_str("&amp;"),
            '|' | '*' | '_' | '[' | ']' | '\\' | '#' | '~' | '@' => {
                safe.push('\\');
                safe.push(c);
            }
            c => safe.push(c),
        }
    }
    safe
}

/// A name that somebody else chose, as code: nothing in it is markup, a mention or a link.
fn code(name: &str) -> String {
    format!("`{}`", printable(name).replace('`', "'").replace('|', "\\|"))
}

fn changes(changes: &Changes, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "### Changes\n")?;
    if changes.files.is_empty() {
        return writeln!(out, "None.\n");
    }
    writeln!(out, "| what | name | change |\n|---|---|---|")?;
    for file in &changes.files {
        writeln!(out, "| file | {} | {} |", code(&file.name), file.change.name())?;
    }
    for policy in &changes.policies {
        let effect = format!("{:?}", policy.effect).to_lowercase();
        writeln!(
            out,
            "| {effect} | {} ({}) | {} |",
            code(&policy.id),
            text(&policy.place),
            policy.change.name()
        )?;
    }
    for entity in changes.entities.iter().take(MAX_SHOWN) {
        writeln!(out, "| entity | {} | {} |", code(&entity.entity), entity.change.name())?;
    }
    if let more @ 1.. = changes.entities.len().saturating_sub(MAX_SHOWN) {
        writeln!(out, "| entities | and {more} more | |")?;
    }
    writeln!(out)
}

fn replayed(replay: &Replay, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "### Recorded decisions\n\n{}.\n", counted(replay))?;
    if !replay.groups.is_empty() {
        writeln!(out, "| change | action | before | now | decisions | principals | resources | such as |")?;
        writeln!(out, "|---|---|---|---|--:|---|---|---|")?;
        replay.groups.iter().take(MAX_SHOWN).try_for_each(|group| row(group, out))?;
        writeln!(out)?;
    }
    let hidden = replay.groups.iter().skip(MAX_SHOWN).map(|group| group.decisions).sum::<u64>();
    if let more @ 1.. = hidden.saturating_add(replay.ungrouped) {
        writeln!(out, "And {more} more that change in yet other ways.\n")?;
    }
    for Skipped { why, decisions, example } in &replay.unreplayed {
        writeln!(out, "- {decisions} not replayed: {}, such as {}", text(why.says()), code(example))?;
    }
    if !replay.unreplayed.is_empty() {
        writeln!(out)?;
    }
    Ok(())
}

fn row(group: &Group, out: &mut dyn Write) -> io::Result<()> {
    let example = group.examples.last().map_or_else(String::new, |example| code(&example.id));
    writeln!(
        out,
        "| {} | {} | {} | {} | {} | {} | {} | {example} |",
        direction(group.direction),
        group.action,
        text(&group.old.to_string()),
        text(&group.new.to_string()),
        group.decisions,
        affected(&group.principals, code),
        affected(&group.resources, code),
    )
}

fn compared(comparison: &Comparison, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "### Every request that there can be\n")?;
    if let Some(why) = without_solver(comparison) {
        return writeln!(out, "{}", text(&why));
    }
    writeln!(out, "| kind of request | the new policies are |\n|---|---|")?;
    for kind in comparison.kinds() {
        let why = kind.why.as_deref().map_or_else(String::new, |why| format!(": {}", text(why)));
        writeln!(out, "| {} | {}{why} |", kind.environment, kind.result.name())?;
    }
    for kind in comparison.kinds() {
        examples(kind, out)?;
    }
    Ok(())
}

fn examples(kind: &Compared, out: &mut dyn Write) -> io::Result<()> {
    for (name, request) in [("looser", &kind.looser), ("stricter", &kind.stricter)] {
        if let Some(request) = request {
            writeln!(out, "\n<details><summary>{name} for {}: one request</summary>\n", kind.environment)?;
            facts(request, out)?;
            writeln!(out, "\n</details>")?;
        }
    }
    Ok(())
}

fn facts(request: &Counterexample, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "| fact | |\n|---|---|")?;
    for (name, value) in request.facts() {
        writeln!(out, "| {name} | {} |", code(value))?;
    }
    writeln!(out, "| decided | {} |", text(&request.answer))
}
