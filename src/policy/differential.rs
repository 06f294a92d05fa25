//! The engine against Cedar's own authorizer over the whole set: the same decision, reasons and errors, always.
//!
//! Three sources: sets and requests made up by proptest, Cedar's integration tests where they are at hand (`TIDEGATE_VECTORS` is a folder with
//! `cedar/corpus-tests.tar.gz`, `cedar/handwritten` and `cedar/sample-data`; without it that test has nothing to do and says so),
//! and cases of our own for what those lack.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityUid, PolicyId, PolicySet, Request,
    Schema, SlotId, Template,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde::Deserialize;
use serde_json::Value;

use super::engine::{Engine, error_text};
use super::schema::describe;

/// What is compared: allowed or not, deciding policies, and the text of each error.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    allow: bool,
    reasons: BTreeSet<String>,
    errors: BTreeSet<String>,
}

fn plain(request: &Request, policies: &PolicySet, entities: &Entities) -> Seen {
    let response = Authorizer::new().is_authorized(request, policies, entities);
    Seen {
        allow: response.decision() == Decision::Allow,
        reasons: response.diagnostics().reason().map(ToString::to_string).collect(),
        errors: response.diagnostics().errors().map(|error| describe(error)).collect(),
    }
}

fn ours(request: &Request, engine: &Engine, entities: &Entities) -> Seen {
    let known = |uid: Option<&EntityUid>| uid.cloned().unwrap();
    let (principal, action) = (known(request.principal()), known(request.action()));
    let slice = engine.slice(&principal, &action, &known(request.resource()), entities);
    let answer = engine.answer(request.as_ref().clone(), &slice, entities);
    Seen {
        allow: answer.allow,
        reasons: answer.reasons.iter().map(ToString::to_string).collect(),
        errors: answer.errors.iter().map(|(id, error)| error_text(id, error)).collect(),
    }
}

// --- Made up. ---

const TYPES: [&str; 3] = ["User", "Team", "Doc"];
const IDS: [&str; 4] = ["a", "b", "c", "d"];
const ACTIONS: [&str; 5] = ["read", "write", "any", "send", "stray"];

/// Conditions that are true, false, or error, some of them only for some requests.
const CLAUSES: [&str; 14] = [
    "",
    "when { true }",
    "unless { true }",
    "when { context.level >= 2 }",
    "unless { context.flag }",
    "when { context.absent }",
    "when { context has absent && context.absent }",
    "when { context.level + 9223372036854775806 > 0 }",
    "when { principal.clearance >= context.level }",
    "unless { resource.open }",
    "when { principal in Team::\"a\" && resource in [Doc::\"a\", Doc::\"b\"] }",
    "when { Ghost::\"nobody\".shape == 1 }",
    "when { context.level }",
    "when { context.level > 1 } unless { resource == principal && action == Action::\"read\" }",
];

/// What clauses are built of: every operator with values of its type and of others, there or missing.
const TERMS: [&str; 38] = [
    "true",
    "false",
    "context.flag",
    "context.level",
    "context.absent",
    "context.level >= 2",
    "context.level < context.name",
    "2 <= context.inner.depth",
    "context.since < context.until",
    "context.since < context.level",
    "context.level == 2",
    "context.level == \"2\"",
    "context.name == \"ab\"",
    "context.name != context.inner.name",
    "context.list == [2, 1]",
    "context.inner == context.inner",
    "context == context.inner",
    "context.name like \"a*\"",
    "context.inner.name like \"*b*\"",
    "context.level like \"*\"",
    "context has absent",
    "context has inner && context.inner has depth",
    "context has inner.depth",
    "context.name has length",
    "principal has clearance",
    "principal.clearance >= context.level",
    "Ghost::\"nobody\" has shape",
    "context.who.open",
    "context.list.contains(context.level)",
    "[\"ab\", \"cd\", 3].contains(context.name)",
    "context.name.contains(1)",
    "context.list.containsAny([1, 7])",
    "context.who in [Team::\"a\", Doc::\"b\"]",
    "principal in [Team::\"a\", User::\"a\"]",
    "context.who in context.list",
    "context.level in Team::\"a\"",
    "resource is Doc && context.who is User",
    "context.name is User",
];

/// Terms under and, or, not and if; and what else a policy may say.
fn clauses() -> impl Strategy<Value = String> {
    let terms = select(&TERMS[..]).prop_map(|term| format!("({term})"));
    let conditions = terms.prop_recursive(3, 12, 3, |inner| {
        let (a, b, c) = (inner.clone(), inner.clone(), inner.clone());
        prop_oneof![
            3 => (a.clone(), b.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            3 => (a.clone(), b.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            2 => inner.prop_map(|inner| format!("!{inner}")),
            1 => (a, b, c).prop_map(|(a, b, c)| format!("(if {a} then {b} else {c})")),
        ]
    });
    let word = select(&["when", "unless"][..]);
    let clause = (word, conditions).prop_map(|(word, condition)| format!("{word} {{ {condition} }}"));
    prop_oneof![
        1 => select(&CLAUSES[..]).prop_map(str::to_owned),
        2 => prop::collection::vec(clause, 1..3).prop_map(|clauses| clauses.join(" ")),
    ]
}

fn uid() -> impl Strategy<Value = String> {
    (select(&TYPES[..]), select(&IDS[..])).prop_map(|(kind, id)| format!("{kind}::\"{id}\""))
}

fn action() -> impl Strategy<Value = String> {
    select(&ACTIONS[..]).prop_map(|id| format!("Action::\"{id}\""))
}

/// Every kind of scope that the language has; with `slot`, those of a template too.
fn part(variable: &'static str, slot: bool) -> impl Strategy<Value = String> {
    let other = if slot { format!("?{variable}") } else { "User::\"a\"".to_owned() };
    let value = prop_oneof![uid(), Just(other)];
    prop_oneof![
        2 => Just(variable.to_owned()),
        2 => value.clone().prop_map(move |uid| format!("{variable} == {uid}")),
        2 => value.clone().prop_map(move |uid| format!("{variable} in {uid}")),
        1 => select(&TYPES[..]).prop_map(move |kind| format!("{variable} is {kind}")),
        2 => (select(&TYPES[..]), value).prop_map(move |(kind, uid)| format!("{variable} is {kind} in {uid}")),
    ]
}

fn actions() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("action".to_owned()),
        action().prop_map(|uid| format!("action == {uid}")),
        action().prop_map(|uid| format!("action in {uid}")),
        prop::collection::vec(action(), 0..4).prop_map(|uids| format!("action in [{}]", uids.join(", "))),
    ]
}

fn policy(slot: bool) -> impl Strategy<Value = String> {
    let effect = select(&["permit", "permit", "forbid"][..]);
    (effect, part("principal", slot), actions(), part("resource", slot), clauses()).prop_map(
        |(effect, principal, action, resource, condition)| {
            format!("{effect} ({principal}, {action}, {resource}) {condition};")
        },
    )
}

/// Static policies, and templates with what their slots are linked to.
fn set() -> impl Strategy<Value = PolicySet> {
    let policies = prop::collection::vec(policy(false), 0..24);
    let templates = prop::collection::vec((policy(true), uid(), uid()), 0..6);
    (policies, templates).prop_map(|(policies, templates)| {
        let mut set: PolicySet = policies.concat().parse().unwrap();
        for (number, (text, principal, resource)) in templates.into_iter().enumerate() {
            let id = PolicyId::new(format!("template{number}"));
            // Not every one has a slot.
            let Ok(template) = Template::parse(Some(id.clone()), text) else { continue };
            let values = template
                .slots()
                .map(|slot| {
                    let uid = if *slot == SlotId::principal() { &principal } else { &resource };
                    (slot.clone(), uid.parse().unwrap())
                })
                .collect();
            set.add_template(template).unwrap();
            set.link(id, PolicyId::new(format!("linked{number}")), values).unwrap();
        }
        set
    })
}

/// Some of the entities, each inside some of those after it, so that there is no circle; some lack an attribute.
fn store() -> impl Strategy<Value = Entities> {
    let mut all: Vec<String> = Vec::new();
    for kind in ["User", "Doc", "Team"] {
        all.extend(IDS.iter().map(|id| format!("{kind}::\"{id}\"")));
    }
    let count = all.len();
    let parents = prop::collection::vec((subsequence(all.clone(), 0..4), any::<bool>()), count);
    let groups = prop::collection::vec(any::<bool>(), 3);
    (subsequence((0..count).collect::<Vec<_>>(), 0..=count), parents, groups).prop_map(
        move |(present, parents, groups)| {
            let number = |uid: &String| all.iter().position(|other| other == uid).unwrap();
            let mut list: Vec<Value> = present
                .iter()
                .map(|own| {
                    let (above, complete) = &parents[*own];
                    let above: Vec<Value> =
                        above.iter().filter(|uid| number(uid) > *own).map(|uid| json_uid(uid)).collect();
                    let attrs = if *complete {
                        serde_json::json!({"clearance": 2, "open": false})
                    } else {
                        serde_json::json!({"open": true})
                    };
                    serde_json::json!({"uid": json_uid(&all[*own]), "parents": above, "attrs": attrs})
                })
                .collect();
            let send = |inside: bool| if inside { vec![json_uid("Action::\"send\"")] } else { Vec::new() };
            for (action, inside) in ["read", "write", "any"].iter().zip(groups) {
                let uid = json_uid(&format!("Action::\"{action}\""));
                list.push(serde_json::json!({"uid": uid, "parents": send(inside), "attrs": {}}));
            }
            Entities::from_json_value(Value::Array(list), None).unwrap()
        },
    )
}

fn json_uid(text: &str) -> Value {
    let uid: EntityUid = text.parse().unwrap();
    serde_json::json!({"type": uid.type_name().to_string(), "id": uid.id().unescaped()})
}

/// Requests that have not every attribute, and some under another type than the terms ask for.
fn request() -> impl Strategy<Value = Request> {
    let inner = prop_oneof![
        Just(serde_json::json!({"name": "ab", "depth": 2})),
        Just(serde_json::json!({"name": "cab"})),
        Just(serde_json::json!("no record")),
    ];
    let name = prop_oneof![Just(Value::from("ab")), Just(Value::from("ba")), Just(Value::from(2))];
    let facts = (0_i64..4, any::<bool>(), name, inner, uid(), subsequence(vec![1, 2, 3], 0..=3));
    let some = subsequence(vec!["flag", "name", "inner", "who", "list", "since", "until"], 3..=7);
    (uid(), action(), uid(), facts, some).prop_map(|(principal, action, resource, facts, some)| {
        let (level, flag, name, inner, who, list) = facts;
        let date = |day: &str| serde_json::json!({"__extn": {"fn": "datetime", "arg": day}});
        let mut context = serde_json::json!({
            "level": level, "flag": flag, "name": name, "inner": inner, "who": {"__entity": json_uid(&who)}, "list": list,
            "since": date("2026-01-01"), "until": date("2026-01-02"),
        });
        context.as_object_mut().unwrap().retain(|key, _| key == "level" || some.contains(&key.as_str()));
        let context = Context::from_json_value(context, None).unwrap();
        let uid = |text: String| text.parse().unwrap();
        Request::new(uid(principal), uid(action), uid(resource), context, None).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_set_answers_as_the_plain_authorizer(
        set in set(),
        store in store(),
        requests in prop::collection::vec(request(), 12),
    ) {
        let engine = Engine::new(&set);
        for request in &requests {
            prop_assert_eq!(ours(request, &engine, &store), plain(request, &set, &store), "{}\n{}", set, request);
        }
    }
}

// --- Cedar's integration tests. ---

#[derive(Deserialize)]
struct Case {
    policies: String,
    entities: String,
    schema: String,
    requests: Vec<Asked>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    principal: Value,
    action: Value,
    resource: Value,
    context: Value,
    #[serde(default = "yes")]
    validate_request: bool,
    decision: String,
    reason: BTreeSet<String>,
    errors: BTreeSet<String>,
}

const fn yes() -> bool {
    true
}

/// How a run over a folder of cases came out.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    cases: usize,
    requests: usize,
    allowed: usize,
    with_errors: usize,
}

fn run_cases(root: &Path, folder: &Path, tally: &mut Tally) {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        if file.is_dir() {
            run_cases(root, &file, tally);
        } else if file.extension().is_some_and(|end| end == "json")
            && !file.to_string_lossy().ends_with(".entities.json")
        {
            run_case(root, &file, tally);
        }
    }
}

/// The paths within a case count from the root of Cedar's tests, which kept the written ones in `tests`.
fn text_of(root: &Path, path: &str) -> String {
    let path =
        path.strip_prefix("tests/").map_or_else(|| path.to_owned(), |path| format!("handwritten/{path}"));
    fs::read_to_string(root.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn run_case(root: &Path, file: &Path, tally: &mut Tally) {
    let case: Case = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let (schema, _) = Schema::from_cedarschema_str(&text_of(root, &case.schema)).unwrap();
    let set: PolicySet = text_of(root, &case.policies).parse().unwrap();
    let entities = Entities::from_json_str(&text_of(root, &case.entities), Some(&schema)).unwrap();
    let engine = Engine::new(&set);
    tally.cases += 1;
    for (number, asked) in case.requests.iter().enumerate() {
        let uid = |value: &Value| EntityUid::from_json(value.clone()).unwrap();
        let (principal, action, resource) = (uid(&asked.principal), uid(&asked.action), uid(&asked.resource));
        let context = Context::from_json_value(asked.context.clone(), Some((&schema, &action))).unwrap();
        let schema = asked.validate_request.then_some(&schema);
        let request = Request::new(principal, action, resource, context, schema).unwrap();
        let seen = ours(&request, &engine, &entities);
        let place = format!("{}, request {number}", file.display());
        assert_eq!(seen, plain(&request, &set, &entities), "{place}");
        assert_eq!(seen.allow, asked.decision == "allow", "{place}");
        assert_eq!(seen.reasons, asked.reason, "{place}");
        // The file names the policies that had errors, without saying which.
        let named = |id: &String| seen.errors.iter().any(|error| error.contains(&format!("`{id}`")));
        assert!(
            seen.errors.len() == asked.errors.len() && asked.errors.iter().all(named),
            "{place}: {seen:?}"
        );
        tally.requests += 1;
        tally.allowed += usize::from(seen.allow);
        tally.with_errors += usize::from(!seen.errors.is_empty());
    }
}

#[test]
fn cedars_own_tests_come_out_as_they_say() {
    let Some(vectors) = std::env::var_os("TIDEGATE_VECTORS") else {
        println!("skipped: TIDEGATE_VECTORS names no folder with Cedar's integration tests");
        return;
    };
    let vectors = PathBuf::from(vectors).join("cedar");
    let folder = tempfile::tempdir().unwrap();
    let unpacked = std::process::Command::new("tar")
        .arg("xzf")
        .arg(vectors.join("corpus-tests.tar.gz"))
        .arg("-C")
        .arg(folder.path())
        .status();
    assert!(unpacked.unwrap().success());
    let mut tally = Tally::default();
    run_cases(&vectors, &vectors.join("handwritten"), &mut tally);
    run_cases(folder.path(), &folder.path().join("corpus-tests"), &mut tally);
    println!("{tally:?}");
    assert_eq!((tally.cases, tally.requests), (7_831, 62_546));
}

// --- What neither has. ---

/// A principal in team `a`, a document that is not open, and a request at level 2.
fn small() -> (Request, Entities) {
    let uid = |text: &str| -> EntityUid { text.parse().unwrap() };
    let inside = |own: &str, parent: &str| Entity::new_no_attrs(uid(own), [uid(parent)].into());
    let entities = Entities::from_entities(
        [
            inside("User::\"ada\"", "Team::\"a\""),
            Entity::new_no_attrs(uid("Team::\"a\""), BTreeSet::new().into_iter().collect()),
            inside("Doc::\"plan\"", "Doc::\"folder\""),
            inside("Action::\"read\"", "Action::\"send\""),
        ],
        None,
    )
    .unwrap();
    let context = Context::from_json_value(serde_json::json!({"level": 2, "bytes": i64::MAX}), None).unwrap();
    let request =
        Request::new(uid("User::\"ada\""), uid("Action::\"read\""), uid("Doc::\"plan\""), context, None);
    (request.unwrap(), entities)
}

/// The answer to the small request, which is also the plain authorizer's.
fn answer(policies: &str) -> Seen {
    let (request, entities) = small();
    let set: PolicySet = policies.parse().unwrap();
    let seen = ours(&request, &Engine::new(&set), &entities);
    assert_eq!(seen, plain(&request, &set, &entities));
    seen
}

const ALLOW: &str =
    "permit (principal in Team::\"a\", action in Action::\"send\", resource in Doc::\"folder\");";

#[test]
fn an_allow_beside_an_erroring_forbid_shows_the_error() {
    for (condition, error) in [
        // Missing attribute, missing entity, overflow, no boolean, a wrong type, a text that is no address.
        ("principal.clearance > 1", "does not have the attribute"),
        ("Team::\"ghost\".shape == 1", "does not exist"),
        ("context.bytes + 1 > 0", "overflow"),
        ("context.level", "expected bool"),
        ("context.level && true", "expected bool"),
        ("context.level in Team::\"a\"", "expected"),
        ("ip(\"nowhere\").isLoopback()", "error"),
    ] {
        let seen = answer(&format!("{ALLOW} forbid (principal, action, resource) when {{ {condition} }};"));
        assert!(seen.allow, "Cedar skips what errors, so whoever enforces must look at the errors");
        assert_eq!(seen.reasons, ["policy0".to_owned()].into());
        assert_eq!(seen.errors.len(), 1, "{condition}");
        let text = seen.errors.first().unwrap();
        assert!(
            text.starts_with("error while evaluating policy `policy1`") && text.contains(error),
            "{text}"
        );
    }
}

/// What makes leaving policies out sound: the scope is evaluated before the conditions, and cannot error itself.
#[test]
fn a_policy_outside_its_scope_cannot_error() {
    for scope in [
        "principal == User::\"eve\", action, resource",
        "principal in Team::\"b\", action, resource",
        "principal in User::\"ghost\", action, resource",
        "principal is Team, action, resource",
        "principal is User in Team::\"b\", action, resource",
        "principal is Team in Team::\"a\", action, resource",
        "principal, action == Action::\"write\", resource",
        "principal, action in [], resource",
        "principal, action in [Action::\"write\", Action::\"local\"], resource",
        "principal, action, resource == Doc::\"ghost\"",
        "principal, action, resource in Doc::\"ghost\"",
        "principal, action, resource is User",
        "principal, action, resource is Doc in Team::\"a\"",
    ] {
        let seen =
            answer(&format!("{ALLOW} forbid ({scope}) when {{ context.bytes + 1 > 0 && context.no }};"));
        assert!(seen.allow && seen.errors.is_empty(), "{scope}: {seen:?}");
    }
}

#[test]
fn a_forbid_wins_and_permits_are_no_reason_beside_it() {
    let seen = answer(&format!("{ALLOW} {ALLOW} forbid (principal, action, resource);"));
    assert_eq!((seen.allow, seen.reasons), (false, ["policy2".to_owned()].into()));
    let seen = answer("permit (principal, action, resource) when { false };");
    assert_eq!((seen.allow, seen.reasons), (false, BTreeSet::new()));
    assert!(!answer("").allow);
    let seen = answer(&ALLOW.replace("permit", "forbid"));
    assert_eq!((seen.allow, seen.reasons.len()), (false, 1));
}

#[test]
fn entities_that_nobody_knows_are_in_nothing_but_themselves() {
    let (_, entities) = small();
    let uid = |text: &str| -> EntityUid { text.parse().unwrap() };
    let request = Request::new(
        uid("User::\"ghost\""),
        uid("Action::\"unheard\""),
        uid("Doc::\"ghost\""),
        Context::empty(),
        None,
    )
    .unwrap();
    let set: PolicySet = "permit (principal in User::\"ghost\", action in [Action::\"unheard\"], resource is Doc in Doc::\"ghost\");
        forbid (principal in Team::\"a\", action, resource);
        forbid (principal, action in Action::\"send\", resource);
        forbid (principal, action, resource in Doc::\"folder\");"
        .parse()
        .unwrap();
    let seen = ours(&request, &Engine::new(&set), &entities);
    assert_eq!(seen, plain(&request, &set, &entities));
    assert!(seen.allow);
}

/// Thousands of policies of which a few match, and hundreds of forbids for everything, of which some error.
#[test]
fn thousands_of_policies_and_hundreds_of_unscoped_forbids_answer_the_same() {
    let mut text = String::new();
    for number in 0..3_000 {
        let (user, team, doc) = (number % 700, number % 90, number % 450);
        text += &match number % 6 {
            0 => format!("permit (principal == User::\"u{user}\", action, resource == Doc::\"d{doc}\");"),
            1 => format!(
                "permit (principal in Team::\"t{team}\", action in [Action::\"read\", Action::\"send\"], resource);"
            ),
            2 => format!(
                "permit (principal is User in Team::\"t{team}\", action, resource in Doc::\"d{doc}\");"
            ),
            3 => format!(
                "forbid (principal, action == Action::\"write\", resource in Doc::\"d{doc}\") when {{ context.no }};"
            ),
            4 => format!(
                "permit (principal, action in Action::\"send\", resource == Doc::\"d{doc}\") when {{ context.level > 5 }};"
            ),
            _ if number % 10 == 5 => {
                format!("forbid (principal, action, resource) when {{ context.level == {number} }};")
            }
            _ => format!("forbid (principal is Team, action, resource is Doc in Doc::\"d{doc}\");"),
        };
    }
    text += "forbid (principal, action, resource) when { context.level + 9223372036854775806 > 0 };";
    let set: PolicySet = text.parse().unwrap();
    let engine = Engine::new(&set);
    let named =
        |kind: &str, id: String| EntityUid::from_type_name_and_id(kind.parse().unwrap(), EntityId::new(id));
    let mut entities = BTreeMap::new();
    for number in 0..450_usize {
        let teams = [named("Team", format!("t{}", number % 90)), named("Team", format!("t{}", number % 7))];
        let user = Entity::new_no_attrs(named("User", format!("u{number}")), teams.into_iter().collect());
        let above = (number > 0).then(|| named("Doc", format!("d{}", number / 2)));
        let doc = Entity::new_no_attrs(named("Doc", format!("d{number}")), above.into_iter().collect());
        entities.extend([(user.uid(), user), (doc.uid(), doc)]);
    }
    let read = Entity::new_no_attrs(named("Action", "read".into()), [named("Action", "send".into())].into());
    entities.insert(read.uid(), read);
    let entities = Entities::from_entities(entities.into_values(), None).unwrap();
    let (mut allowed, mut failed) = (0, 0);
    for number in 0..60 {
        for (action, level) in [("read", 2), ("write", 0), ("read", 2_435)] {
            let context = Context::from_json_value(serde_json::json!({"level": level}), None).unwrap();
            let request = Request::new(
                named("User", format!("u{}", number * 7)),
                named("Action", action.to_owned()),
                named("Doc", format!("d{}", number * 3)),
                context,
                None,
            )
            .unwrap();
            let seen = ours(&request, &engine, &entities);
            assert_eq!(seen, plain(&request, &set, &entities), "{request}");
            allowed += usize::from(seen.allow);
            failed += usize::from(!seen.errors.is_empty());
        }
    }
    assert!(
        allowed > 10 && failed > 100,
        "{allowed} allowed, {failed} with errors: the set is not what it should be"
    );
}
