//! The files of a bundle: which they are, how large they may be, and where in them something stands.
//!
//! A bundle is exactly `*.cedar` of one directory (not recursive), `tidegate.cedarschema`, `entities.json` and `*.entities.json`. Everything
//! is read once into memory, so the hash is of the very bytes that were parsed. Invariants ([`Source::invariants`])
//! are read by the same rules from a directory of their own, and are no part of any bundle.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::nesting::{self, TooDeep};
use crate::model::Problems;

/// The schema's file name.
pub(super) const SCHEMA: &str = "tidegate.cedarschema";
/// The name of the file of entities; others may stand beside it, such as `datasets.entities.json`.
pub(super) const ENTITIES: &str = "entities.json";
/// How the names of those others end.
const MORE_ENTITIES: &str = ".entities.json";

/// The largest policy or schema file, in bytes.
pub(super) const MAX_TEXT: u64 = 1 << 20;
/// The largest files of entities together, in bytes: some 300,000 entities.
pub(super) const MAX_ENTITIES: u64 = 64 << 20;
/// The most policy files in a bundle, and the most files of entities.
pub(super) const MAX_FILES: usize = 1_000;

/// What a bundle has of some kind, in words, and which file names are of it.
type Kind = (&'static str, fn(&str) -> bool);

/// The files of one bundle, in order of name.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The directory as the user named it; for messages.
    dir: String,
    files: Vec<(String, Vec<u8>)>,
    /// Whether these are invariants, not a bundle.
    invariants: bool,
}

impl Source {
    /// Reads the bundle in a directory.
    pub(super) fn read(dir: &Path, problems: &mut Problems) -> Self {
        let shown = dir.display().to_string();
        let mut source = Self { dir: shown, files: Vec::new(), invariants: false };
        let mut names = match list(dir) {
            Ok((names, unreadable)) => {
                for name in unreadable {
                    problems.push(source.path(&name), "", "has a name that is not UTF-8", "rename it");
                }
                names
            }
            Err(error) => {
                problems.push(
                    &source.dir,
                    "",
                    format!("cannot list the directory: {error}"),
                    "mend `policy.directory`, or put the shipped policies there",
                );
                return source;
            }
        };
        names.sort();
        let kinds: [Kind; 2] = [("policy files", is_policy), ("files of entities", is_entities)];
        for (kind, is_kind) in kinds {
            if names.iter().filter(|name| is_kind(name)).count() > MAX_FILES {
                problems.push(&source.dir, "", format!("more than {MAX_FILES} {kind}"), "merge some of them");
                return source;
            }
        }
        let mut left = MAX_ENTITIES;
        for name in names {
            let cap = if is_entities(&name) { left } else { MAX_TEXT };
            match read_file(&dir.join(&name), cap) {
                Ok(bytes) => {
                    if is_entities(&name) {
                        left = left.saturating_sub(length(&bytes));
                    }
                    source.files.push((name, bytes));
                }
                Err(error) => problems.push(source.path(&name), "", format!("cannot be read: {error}"), ""),
            }
        }
        source.require(problems);
        source
    }

    /// Takes files from memory under the same rules; those that are no part of a bundle are left out.
    pub(super) fn from_files(dir: &str, files: Vec<(String, Vec<u8>)>, problems: &mut Problems) -> Self {
        let mut files: Vec<_> = files.into_iter().filter(|(name, _)| is_part(name)).collect();
        files.sort();
        let source = Self { dir: dir.to_owned(), files, invariants: false };
        let mut left = MAX_ENTITIES;
        for (name, bytes) in &source.files {
            let cap = if is_entities(name) { left } else { MAX_TEXT };
            if length(bytes) > cap {
                problems.push(source.path(name), "", format!("larger than {cap} bytes"), "");
            }
            if is_entities(name) {
                left = left.saturating_sub(length(bytes));
            }
        }
        source.require(problems);
        source
    }

    /// Reads `*.bad.cedar` of a directory; one that does not exist has none.
    pub(super) fn invariants(dir: &Path, problems: &mut Problems) -> Self {
        let mut source = Self { dir: dir.display().to_string(), files: Vec::new(), invariants: true };
        let (mut names, unreadable) = match list(dir) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return source,
            Err(error) => {
                problems.push(&source.dir, "", format!("cannot list the directory: {error}"), "");
                return source;
            }
        };
        names.sort();
        for name in unreadable {
            problems.push(source.path(&name), "", "has a name that is not UTF-8", "rename it");
        }
        if names.len() > MAX_FILES {
            problems.push(&source.dir, "", format!("more than {MAX_FILES} files"), "merge some of them");
            return source;
        }
        for name in names {
            if !name.ends_with(".bad.cedar") {
                let hint = "name it `*.bad.cedar` if it says what must never be allowed, else move it";
                problems.push(source.path(&name), "", "is no invariant", hint);
                continue;
            }
            match read_file(&dir.join(&name), MAX_TEXT) {
                Ok(bytes) => source.files.push((name, bytes)),
                Err(error) => problems.push(source.path(&name), "", format!("cannot be read: {error}"), ""),
            }
        }
        source
    }

    /// Adds a file that stands elsewhere.
    pub(super) fn add(&mut self, name: &str, bytes: Vec<u8>, problems: &mut Problems) {
        if self.files.iter().any(|(known, _)| known == name) {
            let hint = "give it another name: this one stands for the entities of `[policy.entities]`";
            problems.push(self.path(name), "", "is there twice", hint);
            return;
        }
        self.files.push((name.to_owned(), bytes));
        self.files.sort();
    }

    fn require(&self, problems: &mut Problems) {
        for name in self.files.iter().map(|(name, _)| name).filter(|name| name.ends_with(".bad.cedar")) {
            problems.push(
                self.path(name),
                "",
                "describes what must never be allowed and would be read as policies here",
                "move it to the directory `invariants`",
            );
        }
        if !self.files.iter().any(|(name, _)| is_policy(name)) {
            problems.push(&self.dir, "", "has no policy", "add a file that ends in `.cedar`");
        }
        let kinds: [Kind; 2] = [(SCHEMA, is_schema), (ENTITIES, is_entities)];
        for (name, is_kind) in kinds {
            if !self.files.iter().any(|(file, _)| is_kind(file)) {
                problems.push(self.path(name), "", "is missing", "start from the shipped one");
            }
        }
    }

    /// The path of a file as shown in messages.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    /// The text of a file, if it is there and UTF-8.
    pub(super) fn text(&self, name: &str, problems: &mut Problems) -> Option<&str> {
        let (_, bytes) = self.files.iter().find(|(file, _)| file == name)?;
        self.utf8(name, bytes, problems)
    }

    /// The policy files with their text.
    pub(super) fn policies(&self, problems: &mut Problems) -> Vec<(&str, &str)> {
        self.texts(is_policy, problems)
    }

    /// The files of entities with their text.
    pub(super) fn entities(&self, problems: &mut Problems) -> Vec<(&str, &str)> {
        self.texts(is_entities, problems)
    }

    fn texts(&self, is_kind: fn(&str) -> bool, problems: &mut Problems) -> Vec<(&str, &str)> {
        self.files
            .iter()
            .filter(|(name, _)| self.invariants || is_kind(name))
            .filter_map(|(name, bytes)| Some((name.as_str(), self.utf8(name, bytes, problems)?)))
            .collect()
    }

    /// The text, if a parser can be trusted with it.
    fn shallow<'a>(&self, name: &str, text: &'a str, problems: &mut Problems) -> Option<&'a str> {
        match nesting::check(text) {
            Ok(()) => Some(text),
            Err(TooDeep { line, what }) => {
                problems.push(
                    self.path(name),
                    format!("line {line}"),
                    what,
                    "split it into several policies",
                );
                None
            }
        }
    }

    fn utf8<'a>(&self, name: &str, bytes: &'a [u8], problems: &mut Problems) -> Option<&'a str> {
        match std::str::from_utf8(bytes) {
            // The parser of JSON has a bound of its own.
            Ok(text) if is_entities(name) => Some(text),
            Ok(text) => self.shallow(name, text, problems),
            Err(error) => {
                problems.push(self.path(name), format!("byte {}", error.valid_up_to()), "is not UTF-8", "");
                None
            }
        }
    }

    /// SHA-256 over names and contents in order of name, each with its length; lower-case hexadecimal.
    pub(super) fn hash(&self) -> String {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        digest.update(b"tidegate policy bundle v1\n");
        for (name, bytes) in &self.files {
            for part in [name.as_bytes(), bytes.as_slice()] {
                digest.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
                digest.update(part);
            }
        }
        crate::model::hex(digest.finish().as_ref())
    }

    /// How many files there are.
    pub(super) const fn count(&self) -> usize {
        self.files.len()
    }

    /// The files, taken over.
    pub(super) fn into_files(self) -> Vec<(String, Vec<u8>)> {
        self.files
    }
}

/// Whether the name is `*.cedar` as a shell would expand it, and not an invariant.
fn is_policy(name: &str) -> bool {
    name.ends_with(".cedar") && !name.starts_with('.') && !name.ends_with(".bad.cedar")
}

fn is_schema(name: &str) -> bool {
    name == SCHEMA
}

pub(super) fn is_entities(name: &str) -> bool {
    name == ENTITIES || (name.ends_with(MORE_ENTITIES) && !name.starts_with('.'))
}

pub(super) fn is_part(name: &str) -> bool {
    (name.ends_with(".cedar") && !name.starts_with('.')) || is_schema(name) || is_entities(name)
}

pub(super) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The bundle's names, and those that look like policies but are not UTF-8: to skip one could skip a forbid.
fn list(dir: &Path) -> io::Result<(Vec<String>, Vec<String>)> {
    let (mut names, mut unreadable) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir)? {
        match entry?.file_name().into_string() {
            Ok(name) if is_part(&name) => names.push(name),
            Ok(_) => {}
            Err(name) => {
                let shown = name.to_string_lossy();
                unreadable.extend(is_part(&shown).then(|| shown.into_owned()));
            }
        }
    }
    Ok((names, unreadable))
}

pub(super) fn read_file(path: &Path, cap: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(cap.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > cap {
        return Err(io::Error::other(format!("it is larger than {cap} bytes")));
    }
    Ok(bytes)
}

/// `line 3, column 7` of a byte offset; both count from 1, columns in characters.
pub(super) fn place(text: &str, offset: usize) -> String {
    let (line, column) = position(text, offset);
    format!("line {line}, column {column}")
}

/// Line and column of a byte offset; an offset inside a character counts as its start.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = text.split_at_checked(end).map_or("", |(before, _)| before);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// The place that a Cedar error points to, if it points anywhere.
pub(super) fn place_of(text: &str, error: &dyn miette::Diagnostic) -> String {
    error.labels().and_then(|mut labels| labels.next()).map_or_else(String::new, |l| place(text, l.offset()))
}

/// What a Cedar error advises, or what it says of the place, as a hint; else `usual`.
pub(super) fn help_of(error: &dyn miette::Diagnostic, usual: &str) -> String {
    let label = || {
        let label = error.labels()?.next()?.label()?.to_owned();
        (!label.is_empty()).then_some(label)
    };
    error.help().map(|help| help.to_string()).or_else(label).unwrap_or_else(|| usual.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        assert_eq!(place("ab\ncd", 0), "line 1, column 1");
        assert_eq!(place("ab\ncd", 4), "line 2, column 2");
        assert_eq!(place("ü\nüx", 5), "line 2, column 2");
        assert_eq!(place("ab", 99), "line 1, column 3");
    }

    #[test]
    fn the_hash_tells_names_contents_and_their_border_apart() {
        let hash = |files: &[(&str, &str)]| {
            let files = files.iter().map(|(n, t)| ((*n).to_owned(), t.as_bytes().to_vec())).collect();
            Source::from_files("d", files, &mut Problems::new()).hash()
        };
        let base = hash(&[("a.cedar", "xy"), ("b.cedar", "z")]);
        assert_eq!(base, hash(&[("b.cedar", "z"), ("a.cedar", "xy")]));
        assert_eq!(base, hash(&[("a.cedar", "xy"), ("b.cedar", "z"), ("README.md", "no part")]));
        assert_ne!(base, hash(&[("a.cedar", "x"), ("b.cedar", "yz")]));
        assert_ne!(base, hash(&[("a.cedar", "xy"), ("c.cedar", "z")]));
        assert_eq!(base.len(), 64);
    }

    proptest! {
        #[test]
        fn any_offset_has_a_place(text in ".{0,40}", offset in 0_usize..80) {
            let (line, column) = position(&text, offset);
            prop_assert!(line >= 1 && column >= 1);
        }
    }
}
