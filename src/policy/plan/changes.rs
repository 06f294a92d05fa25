//! What differs between two bundles, as their author sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cedar_policy::Policy;
use serde::Serialize;
use serde_json::Value;

use crate::policy::bundle::{Bundle, Effect, PolicyInfo};
use crate::policy::names::NAMESPACE;
use crate::policy::source::{SCHEMA, is_entities};

/// What became of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is another.
    Changed,
    /// Of a policy: annotations, comments or layout are others, and what it says is the same.
    Reworded,
}

impl Change {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
            Self::Reworded => "reworded",
        }
    }
}

/// A file that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// Its name within the bundle.
    pub name: String,
    /// What became of it.
    pub change: Change,
}

/// A policy that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyChange {
    /// Its `@id`.
    pub id: Arc<str>,
    /// What became of it.
    pub change: Change,
    /// What it does; of one that is gone, what it did.
    pub effect: Effect,
    /// Where it stands, or stood: `20-inference.cedar:62`.
    pub place: String,
}

/// An entity that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntityChange {
    /// Type and id: `Team sales`.
    pub entity: String,
    /// What became of it.
    pub change: Change,
}

/// All that differs.
#[derive(Debug, Clone, Serialize)]
pub struct Changes {
    /// The hash of the old bundle.
    pub old: String,
    /// The hash of the new one.
    pub new: String,
    /// The files, in order of name.
    pub files: Vec<FileChange>,
    /// The policies, in order of id.
    pub policies: Vec<PolicyChange>,
    /// The entities, in order of type and id.
    pub entities: Vec<EntityChange>,
    /// Whether the schema differs.
    pub schema: bool,
}

impl Changes {
    /// Compares two bundles.
    #[must_use]
    pub fn between(old: &Bundle, new: &Bundle) -> Self {
        let file =
            |bundle: &Bundle| -> BTreeMap<String, Vec<u8>> { bundle.files().iter().cloned().collect() };
        let (before, after) = (file(old), file(new));
        let differ = differences(&before, &after);
        let files: Vec<FileChange> =
            differ.into_iter().map(|(name, change)| FileChange { name, change }).collect();
        Self {
            old: old.hash().to_owned(),
            new: new.hash().to_owned(),
            schema: files.iter().any(|file| file.name == SCHEMA),
            policies: policies(old, new),
            entities: differences(&entities(old), &entities(new))
                .into_iter()
                .map(|(entity, change)| EntityChange { entity, change })
                .collect(),
            files,
        }
    }

    /// Whether both bundles decide every request alike, because no policy, entity or type is another.
    #[must_use]
    pub fn changes_nothing(&self) -> bool {
        let said = self.policies.iter().any(|policy| policy.change != Change::Reworded);
        !said && !self.schema && self.entities.is_empty()
    }
}

/// The keys whose values are not the same in both, in order.
fn differences<K: Ord + Clone, V: PartialEq>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Vec<(K, Change)> {
    let keys: BTreeSet<&K> = old.keys().chain(new.keys()).collect();
    let change = |key: &K| match (old.get(key), new.get(key)) {
        (None, _) => Some(Change::Added),
        (_, None) => Some(Change::Removed),
        (before, after) => (before != after).then_some(Change::Changed),
    };
    keys.into_iter().filter_map(|key| Some((key.clone(), change(key)?))).collect()
}

fn policies(old: &Bundle, new: &Bundle) -> Vec<PolicyChange> {
    type Told = (Arc<PolicyInfo>, String);
    let all = |bundle: &Bundle| -> BTreeMap<Arc<str>, Told> {
        let told = |info: Arc<PolicyInfo>| {
            let text = bundle.policy_text(&info.id).unwrap_or_default();
            (Arc::clone(&info.id), (info, text))
        };
        bundle.policies().into_iter().map(told).collect()
    };
    let (before, after) = (all(old), all(new));
    let text = |all: &BTreeMap<Arc<str>, Told>| -> BTreeMap<Arc<str>, String> {
        all.iter().map(|(id, (_, text))| (Arc::clone(id), text.clone())).collect()
    };
    let differ = differences(&text(&before), &text(&after));
    let changes = differ.into_iter().filter_map(|(id, change)| {
        let (info, now) = after.get(&id).or_else(|| before.get(&id))?;
        let same = |(_, then): &Told| meaning(then).is_some_and(|then| Some(then) == meaning(now));
        let reworded = change == Change::Changed && before.get(&id).is_some_and(same);
        Some(PolicyChange {
            change: if reworded { Change::Reworded } else { change },
            effect: info.effect,
            place: format!("{}:{}", info.file, info.line),
            id,
        })
    });
    changes.collect()
}

/// A policy without what decides nothing: annotations, comments, layout.
fn meaning(text: &str) -> Option<Value> {
    let mut json = Policy::parse(None, text).ok()?.to_json().ok()?;
    json.as_object_mut()?.remove("annotations");
    Some(json)
}

/// The entities of a bundle by type and id, each in one form.
fn entities(bundle: &Bundle) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for (_, bytes) in bundle.files().iter().filter(|(name, _)| is_entities(name)) {
        let list: Vec<Value> = serde_json::from_slice(bytes).unwrap_or_default();
        for mut entity in list {
            let name = entity.get("uid").map(shown).unwrap_or_default();
            if let Some(Value::Array(parents)) = entity.get_mut("parents") {
                let names: BTreeSet<String> = parents.iter().map(shown).collect();
                *parents = names.into_iter().map(Value::String).collect();
            }
            if let Some(members) = entity.as_object_mut() {
                members.remove("uid");
            }
            all.insert(name, entity);
        }
    }
    all
}

fn shown(uid: &Value) -> String {
    let uid = uid.get("__entity").unwrap_or(uid);
    let text = |member: &str| uid.get(member).and_then(Value::as_str).unwrap_or_default();
    let kind = text("type");
    let plain = kind.strip_prefix(NAMESPACE).and_then(|rest| rest.strip_prefix("::")).unwrap_or(kind);
    format!("{plain} {}", text("id"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::embedded;

    fn changed(file: &str, from: &str, to: &str) -> Changes {
        let files = embedded::FILES.iter().map(|(name, text)| {
            let text = if *name == file { text.replacen(from, to, 1) } else { (*text).to_owned() };
            ((*name).to_owned(), text.into_bytes())
        });
        let new =
            Bundle::from_files("new", files.collect()).map_err(|problems| problems.to_string()).unwrap();
        Changes::between(&embedded::bundle().unwrap(), &new)
    }

    fn told(changes: &Changes) -> Vec<String> {
        let policies = changes.policies.iter().map(|p| format!("{} {}", p.id, p.change.name()));
        let entities = changes.entities.iter().map(|e| format!("{} {}", e.entity, e.change.name()));
        policies.chain(entities).collect()
    }

    #[test]
    fn a_change_is_told_from_a_new_wording() {
        let nothing = changed("", "", "");
        assert!(nothing.files.is_empty() && nothing.changes_nothing() && told(&nothing).is_empty());
        let file = "20-inference.cedar";
        let wording = changed(file, "research may ask models up to confidential", "research asks");
        assert_eq!(told(&wording), ["research-models reworded"]);
        assert!(wording.changes_nothing() && wording.files.len() == 1);
        let changes = changed(file, "context.data.level <= 2", "context.data.level <= 1");
        assert_eq!(told(&changes), ["research-models changed"]);
        assert!(!changes.changes_nothing());
        let other = changed(file, "@id(\"research-models\")", "@id(\"researchers\")");
        assert_eq!(told(&other), ["research-models removed", "researchers added"]);
    }

    #[test]
    fn an_entity_written_otherwise_is_the_same() {
        let spaced = changed("entities.json", "{\"uid\":", "{  \"uid\" :");
        assert!(spaced.files.len() == 1 && spaced.changes_nothing(), "{:?}", spaced.entities);
        let team = r#"{"uid": {"type": "Tidegate::Team", "id": "sales"}, "parents": [], "attrs": {}}, "#;
        let first = "{\"uid\": ";
        assert_eq!(told(&changed("entities.json", first, &format!("{team}{first}"))), ["Team sales added"]);
    }
}
