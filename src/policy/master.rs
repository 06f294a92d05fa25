//! The entities of a bundle: the single source of facts about jurisdictions, providers, teams, clusters, models, stores, datasets and services.
//! They stand in `entities.json`, or in several files beside the policies, which are read as one.
//!
//! Parsed once into our own map, with the ancestors of each entity worked out. A request never touches more of it than it names.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, EvalResult, Schema};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::names::{NAMESPACE, Names, PRINCIPAL_SIDE};
use super::schema::describe;
use super::source::{ENTITIES, Source, place};
use crate::model::{
    ClusterName, DatasetName, Jurisdiction, Jurisdictions, ModelName, Problems, ServiceName, StoreName,
    TeamName, near,
};

/// An entity with all that contain it.
#[derive(Debug)]
pub(super) struct Record {
    /// With its ancestors, so that a slice need not work them out again.
    pub(super) entity: Arc<cedar_policy_core::ast::Entity>,
    /// Transitive, without the entity itself.
    pub(super) ancestors: Box<[EntityUid]>,
}

/// The facts of one bundle.
#[derive(Debug, Default)]
pub(super) struct Master {
    records: HashMap<EntityUid, Record>,
    jurisdictions: Jurisdictions,
}

/// An entity as the file has it, before anything is known of the others.
struct Parsed {
    entity: Entity,
    parents: Vec<EntityUid>,
    at: At,
}

/// Where an entity stands: the number of its file, and the byte offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    file: usize,
    start: usize,
}

/// A mistake and its mend.
type Mistake = (String, &'static str);

/// Where mistakes of parsed entities are noted.
struct Found<'a> {
    /// Each with its path and text.
    files: &'a [(String, &'a str)],
    problems: &'a mut Problems,
}

impl Found<'_> {
    fn push(&mut self, at: At, message: impl Into<String>, hint: &str) {
        let (file, place) = self.place(at);
        self.problems.push(file, place, message.into(), hint);
    }

    fn place(&self, at: At) -> (String, String) {
        self.files
            .get(at.file)
            .map_or_else(Default::default, |(path, text)| (path.clone(), place(text, at.start)))
    }
}

/// What is read besides Cedar's own parser, to name the entity in messages.
#[derive(Deserialize)]
struct Shape {
    uid: Uid,
    #[serde(default)]
    parents: Vec<Uid>,
}

/// A reference, in the plain or in the escaped form.
#[derive(Deserialize)]
#[serde(untagged)]
enum Uid {
    Escaped { __entity: Plain },
    Plain(Plain),
}

#[derive(Deserialize)]
struct Plain {
    r#type: String,
    id: String,
}

impl Uid {
    fn plain(&self) -> &Plain {
        match self {
            Self::Escaped { __entity: plain } | Self::Plain(plain) => plain,
        }
    }

    fn parse(&self) -> Option<EntityUid> {
        let Plain { r#type, id } = self.plain();
        Some(EntityUid::from_type_name_and_id(r#type.parse().ok()?, EntityId::new(id)))
    }
}

/// All entities of all files.
#[derive(Default)]
struct All {
    parsed: BTreeMap<EntityUid, Parsed>,
    /// Those with mistakes. Whoever refers to a broken entity is not to blame.
    broken: HashSet<EntityUid>,
}

impl All {
    /// Reads one file. `None` if it is no list: then nothing can be said of what others refer to.
    fn read(&mut self, file: usize, text: &str, schema: &Schema, found: &mut Found<'_>) -> Option<()> {
        let items: Vec<&RawValue> = match serde_json::from_str(text) {
            Ok(items) => items,
            Err(error) => {
                let place = format!("line {}, column {}", error.line(), error.column().max(1));
                let text = error.to_string();
                let what = text.split(" at line ").next().unwrap_or("");
                let path = found.files.get(file).map_or("", |(path, _)| path.as_str());
                let message = format!("is no JSON list: {what}");
                found.problems.push(path, place, message, json_hint(what));
                return None;
            }
        };
        for item in items {
            let start = item.get().as_ptr().addr().saturating_sub(text.as_ptr().addr());
            let at = At { file, start };
            let shape = shape(item);
            match shape.as_ref().map_err(Clone::clone).and_then(|shape| parse(item, shape, at, schema)) {
                Ok(entity) => self.add(entity, found),
                Err((message, hint)) => {
                    self.broken.extend(shape.ok().and_then(|shape| shape.uid.parse()));
                    found.push(at, message, hint);
                }
            }
        }
        Some(())
    }

    fn add(&mut self, entity: Parsed, found: &mut Found<'_>) {
        let (uid, at) = (entity.entity.uid(), entity.at);
        let message = format!("`{uid}` is there twice");
        if let Some(first) = self.parsed.insert(uid, entity) {
            let (file, place) = found.place(first.at);
            let elsewhere = first.at.file != at.file;
            let message = if elsewhere { format!("{message}: also in {file}, {place}") } else { message };
            found.push(at, message, "remove one");
        }
    }

    fn knows(&self, uid: &EntityUid) -> bool {
        self.parsed.contains_key(uid) || self.broken.contains(uid)
    }

    /// What to do about a reference that leads nowhere.
    fn meant(&self, missing: &EntityUid) -> String {
        let same_type = self.parsed.keys().filter(|uid| uid.type_name() == missing.type_name());
        hint_for(missing, same_type.map(|uid| uid.id().unescaped()))
    }
}

impl Master {
    /// Parses and checks the entities. What could be read is returned also when there are problems.
    pub(super) fn load(
        source: &Source,
        schema: &Schema,
        names: &Names,
        problems: &mut Problems,
    ) -> Option<Self> {
        let files = source.entities(problems);
        if files.is_empty() {
            return None;
        }
        let files: Vec<_> = files.into_iter().map(|(name, text)| (source.path(name), text)).collect();
        let mut found = Found { files: &files, problems };
        let mut all = All::default();
        for (number, (_, text)) in files.iter().enumerate() {
            all.read(number, text, schema, &mut found)?;
        }
        check(&all, names, &source.path(ENTITIES), &mut found);
        Some(Self::assemble(all.parsed, &mut found))
    }

    fn assemble(parsed: BTreeMap<EntityUid, Parsed>, found: &mut Found<'_>) -> Self {
        let mut ancestors: HashMap<EntityUid, BTreeSet<EntityUid>> = HashMap::new();
        for (uid, entity) in &parsed {
            let above = climb(uid, &parsed);
            if above.contains(uid) {
                let message = format!("`{uid}` is inside itself");
                found.push(entity.at, message, "remove one of the parents in the circle");
            }
            ancestors.insert(uid.clone(), above);
        }
        let places = parsed.keys().filter(|uid| uid.type_name().basename() == "Jurisdiction");
        let jurisdictions = places
            .filter_map(|uid| {
                let above =
                    ancestors.get(uid)?.iter().filter_map(|outer| outer.id().unescaped().parse().ok());
                Some((uid.id().unescaped().parse::<Jurisdiction>().ok()?, above.collect()))
            })
            .collect();
        let records = parsed
            .into_iter()
            .map(|(uid, parsed)| {
                let above: Box<[_]> = ancestors.remove(&uid).unwrap_or_default().into_iter().collect();
                let mut entity = parsed.entity.as_ref().clone();
                for outer in above.iter().filter(|outer| !parsed.parents.contains(outer)) {
                    entity.add_indirect_ancestor(outer.clone().into());
                }
                (uid, Record { entity: Arc::new(entity), ancestors: above })
            })
            .collect();
        Self { records, jurisdictions: Jurisdictions::new(jurisdictions) }
    }

    /// The entity and its ancestors.
    pub(super) fn get(&self, uid: &EntityUid) -> Option<&Record> {
        self.records.get(uid)
    }

    /// Whether the entity is known.
    pub(super) fn contains(&self, uid: &EntityUid) -> bool {
        self.records.contains_key(uid)
    }

    /// The ids of all entities of a type, in no order.
    pub(super) fn ids(&self, kind: Option<EntityTypeName>) -> impl Iterator<Item = &str> {
        let of_kind = move |uid: &&EntityUid| Some(uid.type_name()) == kind.as_ref();
        self.records.keys().filter(of_kind).map(|uid| uid.id().unescaped())
    }

    /// The known places and what contains them.
    pub(super) const fn jurisdictions(&self) -> &Jurisdictions {
        &self.jurisdictions
    }
}

/// What to do where the file is no JSON list. The place is where the reader noticed, which is behind a comma that is missing.
fn json_hint(what: &str) -> &'static str {
    match what {
        "trailing comma" => "remove the comma before it: none stands behind the last element",
        "expected `,` or `]`" => {
            "write a comma before it, behind the element that ends there, or close the list with `]`"
        }
        "expected `,` or `}`" => "write a comma before it, or close the object with `}`",
        "key must be a string" => {
            "write the key in double quotes; if there is none, remove the comma before this place"
        }
        "expected `:`" => "write a colon behind the key",
        "EOF while parsing a list" => "close the list with `]`",
        "EOF while parsing an object" => "close the object with `}`",
        "EOF while parsing a string" => "close the text with a double quote",
        "trailing characters" => "remove what stands behind the list, or move it into the list",
        _ => "write a list of entities: `[{\"uid\": …, \"parents\": […], \"attrs\": {…}}, …]`",
    }
}

fn climb(start: &EntityUid, parsed: &BTreeMap<EntityUid, Parsed>) -> BTreeSet<EntityUid> {
    let mut above = BTreeSet::new();
    let mut open = vec![start];
    while let Some(uid) = open.pop() {
        for parent in parsed.get(uid).into_iter().flat_map(|entity| &entity.parents) {
            if above.insert(parent.clone()) {
                open.push(parent);
            }
        }
    }
    above
}

fn shape(item: &RawValue) -> Result<Shape, Mistake> {
    serde_json::from_str(item.get()).map_err(|_| {
        (
            "is no entity: `uid` or `parents` is not made of `type` and `id`".to_owned(),
            r#"write {"uid": {"type": "Tidegate::Team", "id": "research"}, "parents": [], "attrs": {}}"#,
        )
    })
}

fn parse(item: &RawValue, shape: &Shape, at: At, schema: &Schema) -> Result<Parsed, Mistake> {
    let Plain { r#type, id } = shape.uid.plain();
    if PRINCIPAL_SIDE.iter().any(|kind| *r#type == format!("{NAMESPACE}::{kind}")) {
        let message =
            format!("`{type}::\"{id}\"` may not stand here: who asks is known from verified facts only");
        return Err((message, "remove it; teams come with the token, key or certificate"));
    }
    if r#type.rsplit("::").next() == Some("Action") {
        let message = format!("`{type}::\"{id}\"` may not stand here: actions belong to the schema");
        return Err((message, "remove it"));
    }
    match Entity::from_json_str(item.get(), Some(schema)) {
        Ok(entity) => {
            let parents = shape.parents.iter().filter_map(Uid::parse).collect();
            Ok(Parsed { entity, parents, at })
        }
        Err(error) => {
            let text = describe(&error);
            let text = ["error during entity deserialization: ", "entity does not conform to the schema: "]
                .iter()
                .find_map(|start| text.strip_prefix(start))
                .unwrap_or(&text);
            // The parser counts from the start of the entity, whose place is given already.
            let text = text.split(" at line ").next().unwrap_or(text);
            Err((format!("`{type}::\"{id}\"`: {text}"), "write it as `tidegate.cedarschema` says"))
        }
    }
}

/// What the schema cannot say: references lead somewhere, ids are names, models and clusters are what the gateway takes them for.
fn check(all: &All, names: &Names, file: &str, found: &mut Found<'_>) {
    let mut in_order: Vec<_> = all.parsed.iter().collect();
    in_order.sort_by_key(|(_, entity)| entity.at);
    for (uid, entity) in in_order {
        for missing in entity.parents.iter().filter(|parent| !all.knows(parent)) {
            let message = format!("`{uid}` has the parent `{missing}`, which is not among the entities");
            found.push(entity.at, message, &all.meant(missing));
        }
        let mut references = BTreeSet::new();
        for (_, value) in entity.entity.attrs() {
            if let Ok(value) = value {
                collect_references(&value, &mut references);
            }
        }
        for missing in references.iter().filter(|reference| !all.knows(reference)) {
            let message = format!("`{uid}` refers to `{missing}`, which is not among the entities");
            found.push(entity.at, message, &all.meant(missing));
        }
        if let Err(message) = check_id(uid, entity) {
            found.push(entity.at, message, "");
        }
    }
    let private = "private".parse().ok().map(|private: ClusterName| names.cluster(&private));
    if !private.is_some_and(|private| all.knows(&private)) {
        let message = "has no `Tidegate::Cluster::\"private\"`, which stands for the inside";
        let hint = "add it, with its jurisdiction as a parent and `peer` false";
        found.problems.push(file, "", message, hint);
    }
}

fn check_id(uid: &EntityUid, entity: &Parsed) -> Result<(), String> {
    let id = uid.id().unescaped();
    let name = match uid.type_name().basename() {
        "Jurisdiction" => id.parse::<Jurisdiction>().err(),
        "Team" => id.parse::<TeamName>().err(),
        "Cluster" => id.parse::<ClusterName>().err(),
        "Model" => id.parse::<ModelName>().err(),
        "Store" => id.parse::<StoreName>().err(),
        "Dataset" => id.parse::<DatasetName>().err(),
        "Service" => id.parse::<ServiceName>().err(),
        _ => None,
    };
    if let Some(error) = name {
        return Err(format!("`{uid}`: {error}"));
    }
    let parents_of = |kind: &str| {
        let kind = kind.to_owned();
        entity.parents.iter().filter(move |parent| parent.type_name().basename() == kind)
    };
    match uid.type_name().basename() {
        // Else `a/b/c` could be model `b/c` of `a` or model `c` of `a/b`.
        "Cluster" if id.contains('/') => Err(format!("`{uid}`: a cluster's name may not contain `/`")),
        "Cluster" if parents_of("Jurisdiction").next().is_none() => {
            Err(format!("`{uid}` is in no jurisdiction, so nothing could ever go there"))
        }
        "Model" => {
            let Some(Ok(EvalResult::String(name))) = entity.entity.attr("name") else {
                return Err(format!("`{uid}` has no attribute `name`"));
            };
            let clusters: Vec<_> = parents_of("Cluster").map(|cluster| cluster.id().unescaped()).collect();
            match clusters.as_slice() {
                [cluster] if format!("{cluster}/{name}") == id => Ok(()),
                _ => Err(format!(
                    "`{uid}`: the id must be `cluster/name`, and the cluster its only parent cluster"
                )),
            }
        }
        _ => Ok(()),
    }
}

/// The entity that was probably meant by one that is not there, and else that it is not.
pub(super) fn hint_for<'a>(missing: &EntityUid, known: impl Iterator<Item = &'a str>) -> String {
    let near = near(missing.id().unescaped(), known);
    near.map_or_else(
        || "correct the name, or add the entity".to_owned(),
        |id| format!("did you mean `{}::\"{}\"`?", missing.type_name(), EntityId::new(id).escaped()),
    )
}

fn collect_references(value: &EvalResult, found: &mut BTreeSet<EntityUid>) {
    match value {
        EvalResult::EntityUid(uid) => {
            found.insert(uid.clone());
        }
        EvalResult::Set(set) => set.iter().for_each(|item| collect_references(item, found)),
        EvalResult::Record(record) => record.iter().for_each(|(_, item)| collect_references(item, found)),
        _ => {}
    }
}
