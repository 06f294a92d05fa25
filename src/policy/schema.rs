//! The schema of a bundle, and what the gateway demands of it.
//!
//! An author may extend the schema. What must hold regardless: every action that can be asked for is in exactly one of the groups `send`
//! and `local`, the gateway's own sending actions are in `send`, and the gateway can fill the context (checked in `request`).

use std::collections::BTreeSet;

use cedar_policy::{EntityUid, Schema};

use super::names::{ACTIONS, Names, sends};
use super::source::{SCHEMA, Source, help_of, place_of};
use crate::model::Problems;

/// The group of actions that make data leave.
const SEND: &str = "send";
/// The group of actions that leave data where it is.
const LOCAL: &str = "local";

/// Parses and checks the schema.
pub(super) fn load(source: &Source, names: &Names, problems: &mut Problems) -> Option<Schema> {
    let text = source.text(SCHEMA, problems)?;
    let file = source.path(SCHEMA);
    match Schema::from_cedarschema_str(text) {
        Ok((schema, warnings)) => {
            for warning in warnings {
                problems.push(
                    &file,
                    place_of(text, &warning),
                    &warning,
                    help_of(&warning, "compare it with the shipped schema"),
                );
            }
            check_groups(&schema, names, &file, problems);
            Some(schema)
        }
        Err(error) => {
            problems.push(
                &file,
                place_of(text, &error),
                describe(&error),
                help_of(&error, "compare it with the shipped schema"),
            );
            None
        }
    }
}

/// The message with its causes: Cedar's own text often says only that parsing failed.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

fn check_groups(schema: &Schema, names: &Names, file: &str, problems: &mut Problems) {
    let (send, local) = (names.action(SEND), names.action(LOCAL));
    let askable: BTreeSet<EntityUid> = schema.request_envs().map(|env| env.action().clone()).collect();
    let actions = match schema.action_entities() {
        Ok(actions) => actions,
        Err(error) => {
            problems.push(
                file,
                "",
                format!("the actions do not fit together: {}", describe(&error)),
                "compare them with the shipped schema",
            );
            return;
        }
    };
    for action in &askable {
        let place = format!("action `{}`", action.id().unescaped());
        match (actions.is_ancestor_of(&send, action), actions.is_ancestor_of(&local, action)) {
            (true, false) | (false, true) => {}
            (false, false) => problems.push(
                file,
                place,
                "is in neither of the groups `send` and `local`, so no safety rule covers it",
                "write `in [send]` if it makes data leave, else `in [local]`",
            ),
            (true, true) => {
                problems.push(file, place, "is in both of the groups `send` and `local`", "choose one");
            }
        }
    }
    for action in ACTIONS {
        let uid = names.action(action.name());
        let place = format!("action `{action}`");
        if !askable.contains(&uid) {
            problems.push(
                file,
                place,
                "is missing, but the gateway asks for it",
                "copy it from the shipped schema",
            );
        } else if sends(action) && !actions.is_ancestor_of(&send, &uid) {
            problems.push(
                file,
                place,
                "makes data leave and is not in the group `send`",
                "write `in [send]`",
            );
        }
    }
}
