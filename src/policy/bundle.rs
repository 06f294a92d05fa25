//! A bundle: policies, schema and entities that belong together, checked as a whole, hashed, and never changed.
//!
//! A reload makes a new bundle, with its own slices; whoever holds the old one goes on with it.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

#[cfg(any(test, feature = "prove"))]
use cedar_policy::PolicySet;
use cedar_policy::{PolicyId, Schema};
use serde::Serialize;

use super::check;
use super::context::Contexts;
use super::engine::Engine;
use super::entities::Slices;
use super::master::Master;
use super::names::{Names, type_name};
use super::nesting::STACK_BYTES;
use super::release::Release;
use super::request::probe;
use super::schema;
use super::source::{SCHEMA, Source};
use crate::model::{Jurisdictions, Problems};

/// What a policy does when it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It allows, unless a forbid matches too.
    Permit,
    /// It denies, whatever permits match.
    Forbid,
}

/// A policy as people know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyInfo {
    /// Its `@id`, unique in the bundle.
    pub id: Arc<str>,
    /// What it does.
    pub effect: Effect,
    /// Its `@owner`: whom to ask.
    pub owner: Option<Arc<str>>,
    /// Its `@reason`: why, in words that a caller may read.
    pub reason: Option<Arc<str>>,
    /// The file within the bundle.
    pub file: String,
    /// The line where it starts, from 1.
    pub line: usize,
}

/// A checked bundle.
pub struct Bundle {
    hash: Arc<str>,
    files: Vec<(String, Vec<u8>)>,
    names: Names,
    schema: Schema,
    #[cfg(any(test, feature = "prove"))]
    policies: PolicySet,
    infos: HashMap<PolicyId, Arc<PolicyInfo>>,
    spans: HashMap<PolicyId, Range<usize>>,
    master: Master,
    engine: Engine,
    contexts: Contexts,
    slices: Slices,
    released: Released,
}

/// What is known of a bundle besides its files.
#[derive(Debug, Default)]
struct Released {
    release: Option<Release>,
    /// The hash of the files that a manifest names, and that of all that was read.
    own: Option<String>,
    content: Option<String>,
}

/// What a bundle loaded from `dir` now would have as its hash; with the problems of reading it, if there are any, so that every
/// change of the files changes the text.
#[must_use]
pub fn content_hash(dir: &Path) -> String {
    let mut problems = Problems::new();
    let hash = Source::read(dir, &mut problems).hash();
    if problems.is_empty() { hash } else { format!("{hash} {problems}") }
}

/// The entities of a directory whose policies may be wrong.
#[derive(Debug)]
pub struct Entities(Master);

impl Entities {
    /// As [`Bundle::has_entity`].
    #[must_use]
    pub fn has_entity(&self, kind: &str, id: &str) -> bool {
        has(&self.0, kind, id)
    }
}

fn has(master: &Master, kind: &str, id: &str) -> bool {
    type_name(kind).is_some_and(|kind| {
        let id = cedar_policy::EntityId::new(id);
        master.contains(&cedar_policy::EntityUid::from_type_name_and_id(kind, id))
    })
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle").field("hash", &self.hash).field("policies", &self.infos.len()).finish()
    }
}

impl Bundle {
    /// Reads exactly `*.cedar`, `tidegate.cedarschema`, `entities.json` and `*.entities.json` of a directory, and checks them as a whole.
    ///
    /// Bounds: 1 MiB a policy file or schema, 64 MiB of entities, 1,000 files of each, 10,000 policies.
    ///
    /// # Errors
    /// All problems that were found, each with file, line and column.
    pub fn load(dir: &Path) -> Result<Self, Problems> {
        let mut problems = Problems::new();
        let source = Source::read(dir, &mut problems);
        Self::assemble(source, problems)
    }

    /// The same from files in memory, such as an archived bundle; `origin` stands for the directory in messages.
    ///
    /// # Errors
    /// As [`Bundle::load`].
    pub fn from_files(origin: &str, files: Vec<(String, Vec<u8>)>) -> Result<Self, Problems> {
        let mut problems = Problems::new();
        let source = Source::from_files(origin, files, &mut problems);
        Self::assemble(source, problems)
    }

    /// Loads for a check: beside the bundle, what is known of the entities even if policies are wrong. Problems of
    /// all files go to `problems`.
    pub fn examine(dir: &Path, problems: &mut Problems) -> (Option<Self>, Option<Entities>) {
        let mut found = Problems::new();
        let source = Source::read(dir, &mut found);
        let entities = Self::entities(&source);
        let bundle = Self::assemble(source, found).map_err(|found| problems.append(found)).ok();
        (bundle, entities)
    }

    /// The entities, if nothing is wrong with them and the schema.
    pub(super) fn entities(source: &Source) -> Option<Entities> {
        let mut problems = Problems::new();
        let names = Names::new()?;
        let schema = schema::load(source, &names, &mut problems)?;
        let master = Master::load(source, &schema, &names, &mut problems)?;
        problems.is_empty().then_some(Entities(master))
    }

    /// Parses and validates, on a stack that is deep enough for whatever [`nesting::check`] lets through.
    pub(super) fn assemble(source: Source, problems: Problems) -> Result<Self, Problems> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("policies".to_owned()).stack_size(STACK_BYTES);
            let failed = |what: String| {
                let mut problems = Problems::new();
                problems.push("", "", format!("the policies could not be loaded: {what}"), "try again");
                problems
            };
            let running = thread
                .spawn_scoped(scope, || Self::assembled(source, problems))
                .map_err(|error| failed(error.to_string()))?;
            running.join().unwrap_or_else(|_| Err(failed("a policy made the library panic".to_owned())))
        })
    }

    fn assembled(source: Source, mut problems: Problems) -> Result<Self, Problems> {
        let (Some(names), Some(contexts)) = (Names::new(), Contexts::new()) else {
            problems.push("", "", "the names of the Cedar domain do not parse", "");
            return Err(problems);
        };
        let schema = schema::load(&source, &names, &mut problems);
        let master = schema.as_ref().and_then(|schema| {
            probe(schema, &names, &source.path(SCHEMA), &mut problems);
            Master::load(&source, schema, &names, &mut problems)
        });
        let checked = check::load(&source, schema.as_ref(), master.as_ref(), &mut problems);
        let slices = schema.as_ref().and_then(|schema| Slices::new(schema).ok());
        match (schema, master, slices) {
            (Some(schema), Some(master), Some(slices)) if problems.is_empty() => Ok(Self {
                hash: source.hash().into(),
                files: source.into_files(),
                names,
                schema,
                engine: Engine::new(&checked.policies),
                #[cfg(any(test, feature = "prove"))]
                policies: checked.policies,
                infos: checked.infos,
                spans: checked.spans,
                master,
                contexts,
                slices,
                released: Released::default(),
            }),
            _ => Err(problems),
        }
    }

    /// The same bundle, with what its manifest said.
    pub(super) fn released(self, release: Option<Release>, (own, content): (String, String)) -> Self {
        Self { released: Released { release, own: Some(own), content: Some(content) }, ..self }
    }

    /// What its manifest said, if it has one.
    #[must_use]
    pub const fn release(&self) -> Option<&Release> {
        self.released.release.as_ref()
    }

    /// The hash that a manifest names: of its own files, without entities from elsewhere.
    #[must_use]
    pub fn own_hash(&self) -> &str {
        self.released.own.as_deref().unwrap_or(&self.hash)
    }

    /// The [`Origin::content_hash`](super::Origin::content_hash) of what it was read from.
    #[must_use]
    pub fn content(&self) -> &str {
        self.released.content.as_deref().unwrap_or(&self.hash)
    }

    /// SHA-256 over the names and contents of its files, lower-case hexadecimal.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Its files with their bytes, in order of name.
    #[must_use]
    pub fn files(&self) -> &[(String, Vec<u8>)] {
        &self.files
    }

    /// The known places and what contains them.
    #[must_use]
    pub const fn jurisdictions(&self) -> &Jurisdictions {
        self.master.jurisdictions()
    }

    /// Whether `entities.json` has the entity: `has_entity("Cluster", "eu")`.
    #[must_use]
    pub fn has_entity(&self, kind: &str, id: &str) -> bool {
        has(&self.master, kind, id)
    }

    /// The ids of all entities of a kind, in no order.
    pub fn entity_ids(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.master.ids(type_name(kind))
    }

    /// All policies, in order of file and line.
    #[must_use]
    pub fn policies(&self) -> Vec<Arc<PolicyInfo>> {
        let mut all: Vec<_> = self.infos.values().cloned().collect();
        all.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        all
    }

    /// The policy with this `@id`.
    #[must_use]
    pub fn policy(&self, id: &str) -> Option<&Arc<PolicyInfo>> {
        self.infos.get(&PolicyId::new(id))
    }

    /// The text of the policy with this `@id`, annotations and comments within it included.
    #[must_use]
    pub fn policy_text(&self, id: &str) -> Option<String> {
        let id = PolicyId::new(id);
        let (info, span) = (self.infos.get(&id)?, self.spans.get(&id)?);
        let (_, bytes) = self.files.iter().find(|(name, _)| *name == info.file)?;
        std::str::from_utf8(bytes.get(span.clone())?).ok().map(ToOwned::to_owned)
    }

    pub(super) const fn names(&self) -> &Names {
        &self.names
    }

    pub(super) const fn schema(&self) -> &Schema {
        &self.schema
    }

    pub(super) const fn master(&self) -> &Master {
        &self.master
    }

    pub(super) const fn slices(&self) -> &Slices {
        &self.slices
    }

    pub(super) const fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) const fn contexts(&self) -> &Contexts {
        &self.contexts
    }

    #[cfg(feature = "prove")]
    pub(super) const fn policy_set(&self) -> &PolicySet {
        &self.policies
    }

    /// The same as [`Bundle::hash`], for somebody else to hold.
    #[must_use]
    pub const fn shared_hash(&self) -> &Arc<str> {
        &self.hash
    }

    pub(super) fn info(&self, id: &PolicyId) -> Option<&Arc<PolicyInfo>> {
        self.infos.get(id)
    }

    /// The same bundle with policies that no check has seen: what a decision does when a check has a gap.
    #[cfg(test)]
    pub(super) fn with_unchecked(mut self, policies: &str) -> Self {
        let set: PolicySet = policies.parse().unwrap();
        self.policies.merge(&set, true).unwrap();
        self.engine = Engine::new(&self.policies);
        self
    }
}
