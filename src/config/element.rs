//! One table of the file becomes one value, and all of its mistakes are found, not only the first.
//!
//! A mistake is noted and taken out of the table, and the rest is read again until nothing is wrong any more.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use crate::model::{Problems, did_you_mean_of};

use super::reference;

/// The most mistakes that one table is searched for.
const MAX_MISTAKES: usize = 50;

/// What became of a table.
#[derive(Debug)]
pub(super) struct Element<T> {
    /// Its value, if only unknown keys were wrong.
    pub(super) value: Option<T>,
    /// What is left of the table without the keys in which something is wrong; the whole, if nothing is.
    pub(super) sound: toml::Value,
    /// The places of the mistakes.
    pub(super) mistakes: BTreeSet<String>,
}

/// Reads `value`, which stands at `place` of the file `name`.
pub(super) fn read<T: DeserializeOwned + JsonSchema>(
    name: &str,
    place: &str,
    mut value: toml::Value,
    problems: &mut Problems,
) -> Element<T> {
    let mut sound = value.clone();
    let mut harmless = true;
    let mut taken = Taken::default();
    for _ in 0..MAX_MISTAKES {
        let error = match serde_path_to_error::deserialize(value.clone()) {
            Ok(read) => {
                let value = Some(read).filter(|_| harmless);
                return Element { value, sound, mistakes: taken.places };
            }
            Err(error) => error,
        };
        let path: Vec<Step> = error.path().iter().filter_map(Step::of).collect();
        let message = error.into_inner().to_string();
        let at = taken.place(place, &path);
        if let (Some(Step::Key(key)), Some(table)) = (path.first(), sound.as_table_mut()) {
            table.remove(key);
        }
        // The second line of a message repeats the path.
        let text = message.split("\nin `").next().unwrap_or_default().trim_end();
        match Mistake::of(text) {
            Mistake::Missing => {
                let absent = reference::required::<T>(&path).into_iter();
                for key in
                    absent.filter(|key| get(&value, &path).is_some_and(|table| table.get(key).is_none()))
                {
                    let at = format!("{at}.{key}");
                    if !taken.places.contains(&at) {
                        problems.push(name, &at, "is missing", "add it: it has no default");
                        taken.places.insert(at);
                    }
                }
            }
            Mistake::Unknown { key, expected } => {
                let (at, path) = match path.last() {
                    Some(Step::Key(last)) if last == key => (at, path),
                    _ => {
                        (format!("{at}.{key}"), path.into_iter().chain([Step::Key(key.to_owned())]).collect())
                    }
                };
                let meant = did_you_mean_of(text);
                let hint = meant.unwrap_or_else(|| format!("use one of {expected}"));
                problems.push(name, &at, "is no key of this table", hint);
                taken.take(&mut value, at, place, &path);
                continue;
            }
            Mistake::Other(text) => {
                let (text, hint) = plain(text);
                problems.push(name, &at, text, hint);
            }
        }
        harmless = false;
        if !taken.take(&mut value, at, place, &path) {
            break;
        }
    }
    Element { value: None, sound, mistakes: taken.places }
}

/// A message of serde or of a type, in the words of the other checks: what is wrong, and the mend.
fn plain(message: &str) -> (String, String) {
    if let Some((variant, expected)) =
        message.strip_prefix("unknown variant ").and_then(|rest| rest.split_once(", expected "))
    {
        let hint = format!("use one of {}", expected.trim_start_matches("one of "));
        return (format!("{variant} is not possible here"), hint);
    }
    let kind = ["invalid type: ", "invalid value: "].iter().find_map(|start| message.strip_prefix(start));
    if let Some((found, expected)) = kind.and_then(|rest| rest.rsplit_once(", expected ")) {
        let expected = match expected {
            "a nonzero u32" => "a whole number from 1",
            "u8" => "a whole number from 0 to 255",
            "u16" => "a whole number from 0 to 65535",
            "u32" | "u64" | "usize" => "a whole number from 0",
            "a sequence" => "a list",
            "a map" => "a table",
            other if other.starts_with("struct ") => "a table",
            other => other,
        };
        return (format!("is {found}"), format!("write {expected}"));
    }
    for verb in ["write ", "use "] {
        if let Some((what, hint)) = message.split_once(&format!(": {verb}")) {
            return (what.to_owned(), format!("{verb}{hint}"));
        }
    }
    (message.to_owned(), String::new())
}

/// One step from a table or list to what is in it.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    fn of(segment: &Segment) -> Option<Self> {
        match segment {
            Segment::Map { key } => Some(Self::Key(key.clone())),
            Segment::Seq { index } => Some(Self::Index(*index)),
            Segment::Enum { .. } | Segment::Unknown => None,
        }
    }
}

/// What serde says, by what is to be done.
enum Mistake<'a> {
    Missing,
    Unknown { key: &'a str, expected: &'a str },
    Other(&'a str),
}

impl<'a> Mistake<'a> {
    fn of(message: &'a str) -> Self {
        if message.starts_with("missing field `") {
            return Self::Missing;
        }
        let unknown =
            message.strip_prefix("unknown field `").and_then(|rest| rest.split_once("`, expected "));
        match unknown {
            Some((key, expected)) => Self::Unknown { key, expected: expected.trim_start_matches("one of ") },
            None => Self::Other(message),
        }
    }
}

/// What was taken out of a table, by the places of the file.
#[derive(Default)]
struct Taken {
    places: BTreeSet<String>,
    /// Of each list the indexes that are gone, so that the others keep their places.
    indexes: BTreeMap<String, BTreeSet<usize>>,
}

impl Taken {
    /// The place in the file of a path in what is left.
    fn place(&self, root: &str, path: &[Step]) -> String {
        path.iter().fold(root.to_owned(), |place, step| match step {
            Step::Key(key) => format!("{place}.{key}"),
            Step::Index(index) => {
                let gone = self.indexes.get(&place);
                let original =
                    gone.into_iter().flatten().fold(*index, |at, gone| if *gone <= at { at + 1 } else { at });
                format!("{place}[{original}]")
            }
        })
    }

    /// Takes out what is at `path`; false if that is the whole.
    fn take(&mut self, value: &mut toml::Value, at: String, root: &str, path: &[Step]) -> bool {
        let Some((last, before)) = path.split_last() else { return false };
        let list = self.place(root, before);
        let taken = match (get_mut(value, before), last) {
            (Some(toml::Value::Table(table)), Step::Key(key)) => table.remove(key).is_some(),
            (Some(toml::Value::Array(elements)), Step::Index(index)) if *index < elements.len() => {
                elements.remove(*index);
                let original: Option<usize> =
                    at.rsplit_once('[').and_then(|(_, index)| index.trim_end_matches(']').parse().ok());
                self.indexes.entry(list).or_default().extend(original);
                true
            }
            _ => false,
        };
        self.places.insert(at);
        taken
    }
}

fn get<'a>(value: &'a toml::Value, path: &[Step]) -> Option<&'a toml::Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(index) => value.get(*index),
    })
}

fn get_mut<'a>(value: &'a mut toml::Value, path: &[Step]) -> Option<&'a mut toml::Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(index) => value.get_mut(*index),
    })
}
