//! `tidegate policy plan` as a process, over journals that the product's own code wrote of decisions that the shipped policies made.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tidegate::audit::record::{
    Decision, Ending, Evaluation, Links, Marking, Outcome, Party, Request, Verdict,
};
use tidegate::audit::{Audit, Instance, PersonalData, Settings};
use tidegate::model::{
    Action, AuditMode, Authn, ByteSize, Candidate, Chain, ClusterName, Label, Level, Origin, Principal,
    PrincipalKind, Protection, Resource, UpstreamRef,
};
use tidegate::policy::{self, AuthzRequest, Bundle, embedded};

const RUNGS: [Protection; 2] = [Protection::None, Protection::Sealed];
/// The places of a prompt; the second can open what is sealed.
const EU: &[(&str, bool)] = &[("eu", false)];
const HAVEN: &[(&str, bool)] = &[("haven", true)];

/// Who asks for what.
#[derive(Clone, Copy)]
struct Ask<'a> {
    user: &'a str,
    teams: &'a [&'a str],
    level: Level,
    residency: &'a str,
    purpose: Option<&'a str>,
    places: &'a [(&'a str, bool)],
}

const ADA: Ask<'_> = Ask {
    user: "ada",
    teams: &["research"],
    level: Level::Internal,
    residency: "EU",
    purpose: None,
    places: EU,
};

/// A prompt for each kind of decision that the shipped policies make of prompts.
const DAY: [Ask<'_>; 8] = [
    ADA,
    Ask { level: Level::Confidential, ..ADA },
    Ask { user: "mia", teams: &["marketing"], level: Level::Confidential, ..ADA },
    Ask { user: "moe", teams: &["marketing"], level: Level::Confidential, ..ADA },
    Ask { level: Level::Restricted, ..ADA },
    Ask {
        user: "carl",
        teams: &["clinical"],
        level: Level::Restricted,
        purpose: Some("care"),
        places: HAVEN,
        ..ADA
    },
    Ask { user: "guest", teams: &[], ..ADA },
    Ask { places: &[("us", false), ("eu", false)], ..ADA },
];

/// The shipped policies as `old` and `new`, and a journal.
struct World {
    dir: tempfile::TempDir,
    count: u64,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["old", "new"] {
            embedded::write_to(&dir.path().join(name)).unwrap();
        }
        Self { dir, count: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn edit(&self, folder: &str, file: &str, from: &str, to: &str) -> &Self {
        let path = self.path(folder).join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no `{from}`");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
        self
    }

    fn bundle(&self, folder: &str) -> Bundle {
        Bundle::load(&self.path(folder)).map_err(|problems| problems.to_string()).unwrap()
    }

    /// Records what the bundle of a folder decides, in order; `change` may spoil each record.
    async fn record(&mut self, folder: &str, asks: &[Ask<'_>], change: impl Fn(usize, &mut Decision<'_>)) {
        self.record_with(folder, asks, PersonalData::default(), change).await;
    }

    async fn record_with(
        &mut self,
        folder: &str,
        asks: &[Ask<'_>],
        personal: PersonalData,
        change: impl Fn(usize, &mut Decision<'_>),
    ) {
        let bundle = self.bundle(folder);
        let settings = Settings {
            directory: self.path("journal"),
            segment_size: ByteSize::mib(1),
            queue: 1024,
            personal,
            ..Settings::default()
        };
        let audit = Audit::open(&settings, Instance { name: "border-1".into(), version: "0" }).unwrap();
        audit.archive(bundle.hash(), bundle.files()).unwrap();
        for (number, ask) in asks.iter().enumerate() {
            self.count += 1;
            let id = format!("01912f6e-7a3c-7d1e-8b0a-{:012x}", self.count).parse().unwrap();
            let mut draft = audit.draft(id, AuditMode::BestEffort).unwrap();
            let principal = principal(ask);
            let label = label(ask);
            let decided = bundle.decide(&request(ask, &principal, &label), &candidates(ask), &RUNGS);
            let mut record = decision(ask, &principal, &label, &decided);
            record.bundle = Cow::Owned(bundle.hash().to_owned());
            change(number, &mut record);
            draft.decision(&record).await.unwrap();
            draft.close(&Outcome { status: Some(200), ..Outcome::bare(Ending::Complete) });
        }
        audit.close().await;
    }

    fn plan(&self, args: &[&str]) -> (i32, String) {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["policy", "plan"])
            .args(args)
            .current_dir(self.dir.path())
            .env("NO_COLOR", "1")
            // No solver: what one adds is tested where there is one.
            .env("CVC5", "/nowhere/cvc5")
            .output()
            .unwrap();
        (status.code().unwrap(), String::from_utf8([stdout, stderr].concat()).unwrap())
    }

    /// Of `old` and `new` over the journal, without a solver.
    fn replayed(&self, more: &[&str]) -> (i32, String) {
        self.plan(&[&["old", "new", "--journal", "journal", "--without-proof"], more].concat())
    }

    fn json(&self, more: &[&str]) -> (i32, Value) {
        let (code, text) = self.replayed(&[&["--output", "json"], more].concat());
        (code, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")))
    }
}

fn principal(ask: &Ask<'_>) -> Principal {
    Principal {
        kind: PrincipalKind::User,
        id: format!("https://issuer.example|{}", ask.user).into(),
        tenant: "acme".parse().unwrap(),
        teams: ask.teams.iter().map(|team| team.parse().unwrap()).collect(),
        authn: Authn::Jwt,
        chain: Chain::default(),
        issued_at: Some("2026-11-24T11:59:00Z".parse().unwrap()),
        expires_at: None,
        credential: None,
    }
}

fn label(ask: &Ask<'_>) -> Label {
    let residency = [ask.residency.parse().unwrap()].into_iter().collect();
    Label { level: ask.level, residency, origin: Origin::Route }
}

fn request<'a>(ask: &Ask<'a>, principal: &'a Principal, label: &'a Label) -> AuthzRequest<'a> {
    AuthzRequest {
        principal,
        action: Action::Infer,
        label,
        method: "POST",
        path: "/v1/chat/completions",
        bytes: 100,
        stream: true,
        max_tokens: Some(64),
        peer: [10, 0, 0, 7].into(),
        now: "2026-11-24T12:00:00.123Z".parse().unwrap(),
        purpose: ask.purpose,
    }
}

fn candidates(ask: &Ask<'_>) -> Vec<Candidate> {
    let place = |(cluster, opens): &(&str, bool)| {
        let cluster: ClusterName = cluster.parse().unwrap();
        let model = "tide-small".parse().unwrap();
        Candidate {
            resource: Resource::Model { cluster: cluster.clone(), model },
            destination: Some(cluster.clone()),
            upstream: UpstreamRef::Cluster(cluster),
            can_open: opens.then(|| "job".parse().unwrap()),
        }
    };
    ask.places.iter().map(place).collect()
}

/// The record that a gateway writes of it.
fn decision(
    ask: &Ask<'_>,
    principal: &Principal,
    label: &Label,
    decided: &Result<policy::Permit, policy::Denial>,
) -> Decision<'static> {
    let (code, policies, evaluations, asked) = match decided {
        Ok(permit) => (None, permit.policies(), permit.evaluations(), permit.request()),
        Err(denial) => (
            Some(Cow::Borrowed(denial.reason.code())),
            denial.policies.as_slice(),
            denial.evaluations.as_slice(),
            denial.request.as_ref(),
        ),
    };
    let evaluation = |e: &policy::Evaluation| Evaluation {
        resource: tidegate::audit::record::Entity {
            kind: e.resource.kind().into(),
            id: e.resource.id().into(),
        },
        destination: e.destination.as_ref().map(|name| name.as_str().to_owned().into()),
        protection: e.protection.name().into(),
        allowed: e.allowed,
        policies: e.policies.clone().into(),
        errors: e.errors.clone().into(),
    };
    let evaluations: Vec<Evaluation<'static>> = evaluations.iter().map(evaluation).collect();
    let last = evaluations.last().cloned();
    Decision {
        decision: if decided.is_ok() { Verdict::Allow } else { Verdict::Deny },
        code,
        policies: policies.to_vec().into(),
        route: "chat".into(),
        mode: AuditMode::BestEffort,
        tenant: "acme".into(),
        principal: Party {
            kind: "User".into(),
            id: principal.id.to_string().into(),
            teams: principal.teams.clone().into(),
            authn: "jwt".into(),
            credential: None,
        },
        chain: Links::default(),
        action: Some("infer".into()),
        resource: last.as_ref().map(|last| last.resource.clone()),
        destination: last.as_ref().and_then(|last| last.destination.clone()),
        label: Some(Marking {
            level: ask.level,
            residency: Cow::Owned(label.residency.clone()),
            origin: "route".into(),
        }),
        protection: last.map(|last| last.protection),
        request: Request {
            method: "POST".into(),
            host: "gateway.example".into(),
            path: "/v1/chat/completions".into(),
            query: vec![],
            bytes: 100,
            version: "2".into(),
            user_agent: None,
        },
        peer: "10.0.0.7:4711".parse().unwrap(),
        context: Cow::Owned(serde_json::to_value(asked).unwrap().as_object().unwrap().clone()),
        evaluations,
        bundle: "".into(),
        upstream: None,
        seal: None,
        opened: None,
        body_digest: None,
        trace_id: None,
    }
}

/// `looser deny by residency -> allow by research-models: 2`
fn groups(plan: &Value) -> Vec<String> {
    let said = |decided: &Value| {
        let mut text = decided["decision"].as_str().unwrap().to_owned();
        for member in ["protection", "place", "code"] {
            decided[member].as_str().iter().for_each(|value| text.push_str(&format!(" {value}")));
        }
        if decided["supposed"] == true {
            text.push_str(" supposed");
        }
        decided["policies"]
            .as_array()
            .unwrap()
            .iter()
            .for_each(|id| text.push_str(&format!(" {}", id.as_str().unwrap())));
        text
    };
    let group = |group: &Value| {
        format!(
            "{}: {} -> {}: {}",
            group["direction"].as_str().unwrap(),
            said(&group["old"]),
            said(&group["new"]),
            group["decisions"]
        )
    };
    plan["replay"]["groups"].as_array().unwrap().iter().map(group).collect()
}

/// Replays the day against `new` with one edit.
async fn day(file: &str, from: &str, to: &str) -> (World, i32, Value) {
    let mut world = World::new();
    world.record("old", &DAY, |_, _| {}).await;
    world.edit("new", file, from, to);
    let (code, plan) = world.json(&[]);
    assert_eq!(
        (&plan["replay"]["replayed"], &plan["replay"]["unreplayed"]),
        (&8.into(), &Value::Array(vec![])),
        "{plan:#}"
    );
    (world, code, plan)
}

#[tokio::test]
async fn what_was_denied_and_would_be_allowed_is_looser() {
    let (_world, code, plan) =
        day("20-inference.cedar", "context.data.level <= 1", "context.data.level <= 2").await;
    assert_eq!(groups(&plan), ["looser: deny policy_denied -> allow none marketing-models: 2"]);
    let group = &plan["replay"]["groups"][0];
    assert_eq!(group["principals"]["count"], 2);
    assert_eq!(
        group["principals"]["most"][0],
        serde_json::json!({"name": "User https://issuer.example|mia", "decisions": 1})
    );
    assert_eq!(group["teams"]["most"], serde_json::json!([{"name": "marketing", "decisions": 2}]));
    assert_eq!(
        group["resources"]["most"],
        serde_json::json!([{"name": "Model eu/tide-small", "decisions": 2}])
    );
    assert_eq!(group["examples"][0]["id"], "01912f6e-7a3c-7d1e-8b0a-000000000003");
    // The case that says that marketing must not fails, of the old tests and of the new ones.
    assert_eq!(plan["tests"]["new"]["failed"].as_array().unwrap().len(), 1);
    assert_eq!(plan["tests"]["old_tests_of_new"]["failed"].as_array().unwrap().len(), 1);
    assert_eq!(plan["tests"]["old"]["failed"].as_array().unwrap().len(), 0);
    assert_eq!(
        (code, &plan["verdict"]["loosens"], &plan["verdict"]["tests_fail"]),
        (1, &true.into(), &true.into())
    );
}

#[tokio::test]
async fn what_was_allowed_and_would_be_denied_is_stricter() {
    let (world, _, plan) =
        day("20-inference.cedar", "context.data.level <= 2", "context.data.level <= 1").await;
    assert_eq!(groups(&plan), ["stricter: allow none research-models -> deny policy_denied: 1"]);
    assert_eq!(plan["verdict"]["loosens"], false);
    // Its tests say what was wanted before; with those that fit, nothing speaks against it.
    fs::remove_dir_all(world.path("new/tests")).unwrap();
    let (code, plan) = world.json(&[]);
    assert_eq!(
        (code, &plan["clear"], &plan["tests"]["new"]["cases"]),
        (0, &true.into(), &0.into()),
        "{plan:#}"
    );
}

#[tokio::test]
async fn from_sealed_to_plain_is_looser_and_the_reverse_stricter() {
    let (world, code, plan) =
        day("10-safety.cedar", "when { context.data.level >= 3 }", "when { context.data.level >= 4 }").await;
    // The permit asks for sealing as well, so that the rule alone does not let the prompt of carl out; nothing permits that of ada.
    assert_eq!(groups(&plan), Vec::<String>::new());
    assert_eq!((code, &plan["replay"]["otherwise"]), (1, &1.into()), "{plan:#}");
    world.edit("new", "20-inference.cedar", "context.protection.sealed &&", "");
    let (code, plan) = world.json(&[]);
    assert_eq!(
        groups(&plan),
        ["looser: allow sealed clinical-restricted-sealed -> allow none clinical-restricted-sealed: 1"]
    );
    assert_eq!((code, &plan["verdict"]["loosens"]), (1, &true.into()));

    // Whether `eu` can open is in no record where it was not needed.
    let rule = "when { context.data.level >= 3 }\nunless\n{\n  context.protection.sealed &&\n  context has destination &&\n  \
                context.destination.peer\n}";
    let (_world, _, plan) = day(
        "10-safety.cedar",
        rule,
        "when { context.data.level >= 1 }\nunless { context.protection.sealed }",
    )
    .await;
    let sealed = "stricter: allow none research-models -> allow sealed supposed research-models: 3";
    assert_eq!(groups(&plan), [sealed]);
}

#[tokio::test]
async fn another_place_is_looser_if_it_was_denied_before() {
    let rule = "unless\n{ context has destination && context.destination in context.data.residency };";
    let (_world, code, plan) = day("10-safety.cedar", rule, "unless { context has destination };").await;
    assert_eq!(
        groups(&plan),
        ["looser: allow none eu/tide-small research-models -> allow none us/tide-small research-models: 1"]
    );
    assert_eq!(code, 1);
}

#[tokio::test]
async fn what_only_reads_otherwise_changes_nothing_and_needs_no_solver() {
    let mut world = World::new();
    world.record("old", &DAY, |_, _| {}).await;
    world.edit("new", "20-inference.cedar", "// Who may ask models.", "// About models.");
    world.edit("new", "20-inference.cedar", "@owner(\"research\")", "@owner(\"science\")");
    let (code, text) = world.plan(&["old", "new", "--journal", "journal"]);
    assert_eq!(code, 0, "{text}");
    for said in [
        "file    20-inference.cedar: changed",
        "policy  research-models: reworded (permit, 20-inference.cedar:6)",
        "new tests, new policies: 44 of 44 as expected",
        "8 replayed: 0 looser, 0 stricter, 8 unchanged\n",
        "Nothing loosens: every request is decided alike.",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let (code, text) = world.plan(&["old", "old"]);
    assert!(code == 0 && text.contains("Changes\n  none"), "{text}");
}

#[tokio::test]
async fn what_could_not_be_compared_does_not_look_like_nothing_loosens() {
    let mut world = World::new();
    world.record("old", &DAY[..1], |_, _| {}).await;
    world.edit("new", "20-inference.cedar", "context.data.level <= 2", "context.data.level <= 1");
    fs::remove_dir_all(world.path("new/tests")).unwrap();
    for args in [&["old", "new"][..], &["old", "new", "--journal", "journal"]] {
        let (code, text) = world.plan(args);
        assert_eq!(code, 1, "{text}");
        assert!(
            text.contains("NOT COMPARED: ") && text.contains("Not known whether anything loosens: "),
            "{text}"
        );
        assert!(!text.contains("Nothing loosens"), "{text}");
    }
    let (code, text) = world.replayed(&[]);
    assert!(code == 0 && text.contains("NOT COMPARED: --without-proof"), "{text}");
    assert!(
        text.contains("No recorded decision loosens. Requests that are in no record were not compared."),
        "{text}"
    );
    // A journal without decisions shows nothing.
    let (code, text) = world.replayed(&["--from", "2099-01-01"]);
    assert!(code == 1 && text.contains("no recorded decision was replayed"), "{text}");
}

#[tokio::test]
async fn another_cluster_in_the_union_is_a_change_of_facts() {
    let mut world = World::new();
    world.record("old", &DAY, |_, _| {}).await;
    world.edit(
        "new",
        "entities.json",
        "\"id\": \"us\"}, \"parents\": [{\"type\": \"Tidegate::Jurisdiction\", \"id\": \"US\"}",
        "\"id\": \"us\"}, \"parents\": [{\"type\": \"Tidegate::Jurisdiction\", \"id\": \"EU\"}",
    );
    let (code, plan) = world.json(&[]);
    assert_eq!(code, 1);
    assert_eq!(
        plan["changes"]["entities"],
        serde_json::json!([{"entity": "Cluster us", "change": "changed"}])
    );
    assert_eq!(
        groups(&plan),
        ["looser: allow none eu/tide-small research-models -> allow none us/tide-small research-models: 1"]
    );
}

#[tokio::test]
async fn a_team_that_becomes_known_gives_its_members_their_rights() {
    let mut world = World::new();
    let sam = Ask { user: "sam", teams: &["sales", "and-others"], ..ADA };
    world.record("old", &[sam], |_, _| {}).await;
    let team = r#"{"uid": {"type": "Tidegate::Team", "id": "sales"}, "parents": [], "attrs": {}}, "#;
    world.edit("new", "entities.json", "{\"uid\": ", &format!("{team}{{\"uid\": "));
    let permit = "@id(\"sales\") permit (principal in Tidegate::Team::\"sales\", action, resource);";
    fs::write(world.path("new/50-sales.cedar"), permit).unwrap();
    let (code, plan) = world.json(&[]);
    let flip = "looser: deny policy_denied -> allow none sales: 1".to_owned();
    assert_eq!((code, groups(&plan)), (1, vec![flip]));
}

#[tokio::test]
async fn what_cannot_be_replayed_is_counted_and_said() {
    let mut world = World::new();
    world
        .record("old", &[ADA; 8], |number, record| match number {
            // A gateway writes no such thing.
            0 => record.context = Cow::default(),
            1 => record.principal.id = "https://issuer.example|mallory".into(),
            2 => record.evaluations[0].allowed = false,
            // Too large, so cut.
            3 => record.policies = vec!["x".repeat(200).into(); 300].into(),
            // Refused after the policies: no decision of theirs.
            4 => (record.decision, record.code) = (Verdict::Reject, Some("rate_limited".into())),
            // Denied before any place was tried.
            5 => {
                (record.decision, record.code) = (Verdict::Deny, Some("unknown_entity".into()));
                record.context.to_mut().remove("resource");
                record.context.to_mut()["context"].as_object_mut().unwrap().remove("protection");
                record.evaluations.clear();
            }
            _ => {}
        })
        .await;
    world.edit("new", "20-inference.cedar", "// Who may ask models.", "// About models.");
    let (code, plan) = world.json(&[]);
    let unreplayed: Vec<String> = plan["replay"]["unreplayed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|told| format!("{} {}", told["why"].as_str().unwrap(), told["decisions"]))
        .collect();
    assert_eq!(unreplayed, ["cut 1", "malformed 3", "nothing_tried 1"], "{plan:#}");
    assert_eq!((code, &plan["replay"]["replayed"]), (0, &2.into()));
    let (_, text) = world.replayed(&[]);
    assert!(
        text.contains("3 not replayed: not as a gateway writes them") && text.contains("1 not replayed: cut"),
        "{text}"
    );
    let (_, text) = world.replayed(&["--output", "markdown"]);
    assert!(text.contains("- 3 not replayed: not as a gateway writes them"), "{text}");
    // Where nothing but the records speaks for a change, what they might have said is open.
    world.edit("new", "20-inference.cedar", "context.data.level <= 1", "context.data.level <= 0");
    let (code, plan) = world.json(&[]);
    let open = plan["verdict"]["open"][0].as_str().unwrap();
    assert!(code == 1 && open.starts_with("3 recorded decisions are not as a gateway writes them"), "{open}");
}

#[tokio::test]
async fn a_damaged_journal_is_not_planned_over() {
    let mut world = World::new();
    world.record("old", &[ADA; 40], |_, _| {}).await;
    let segments = fs::read_dir(world.path("journal")).unwrap().map(|entry| entry.unwrap().path());
    let segment = segments.filter(|path| path.to_string_lossy().ends_with(".log")).min().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[20_000] ^= 1;
    fs::write(&segment, bytes).unwrap();
    // More records, in a segment of their own: what is broken is not the end.
    let damaged = world.path("journal");
    let last = damaged.join(format!("seg-{:020}.log", 1_000));
    fs::copy(&segment, last).unwrap();
    let (code, text) = world.replayed(&[]);
    assert!(code == 3 && text.contains("is damaged at offset"), "{text}");
}

#[tokio::test]
async fn personal_data_is_read_while_its_keys_are_there() {
    let mut world = World::new();
    world.record_with("old", &DAY[..3], PersonalData::Erasable, |_, _| {}).await;
    world.edit("new", "20-inference.cedar", "context.data.level <= 1", "context.data.level <= 2");
    let (_, plan) = world.json(&[]);
    assert_eq!(
        plan["replay"]["groups"][0]["principals"]["most"][0]["name"],
        "User https://issuer.example|mia"
    );
    fs::remove_dir_all(world.path("journal/keys")).unwrap();
    let (code, plan) = world.json(&[]);
    assert_eq!((code, &plan["replay"]["replayed"]), (1, &0.into()), "{plan:#}");
    assert_eq!(
        (&plan["replay"]["unreplayed"][0]["why"], &plan["replay"]["unreplayed"][0]["decisions"]),
        (&"erased".into(), &3.into())
    );
}

#[tokio::test]
async fn records_of_a_third_bundle_are_asked_of_both() {
    let mut world = World::new();
    embedded::write_to(&world.path("third")).unwrap();
    world.edit("third", "20-inference.cedar", "context.data.level <= 1", "context.data.level <= 0");
    world.record("third", &DAY, |_, _| {}).await;
    world.record("old", &DAY, |_, _| {}).await;
    world.edit("new", "20-inference.cedar", "context.data.level <= 1", "context.data.level <= 2");
    let (_, plan) = world.json(&[]);
    assert_eq!(groups(&plan), ["looser: deny policy_denied -> allow none marketing-models: 4"]);
    // What the third made of it does not matter, only what is asked of old and new.
    world.edit("old", "20-inference.cedar", "context.data.level <= 1", "context.data.level <= 2");
    let (_, plan) = world.json(&[]);
    assert_eq!(groups(&plan), Vec::<String>::new());
}

#[tokio::test]
async fn any_number_of_threads_says_the_same() {
    let mut world = World::new();
    let users: Vec<String> = (0..3_000).map(|number| format!("user-{}", number * 7 % 2_000)).collect();
    let asks: Vec<Ask<'_>> =
        users.iter().zip(DAY.iter().cycle()).map(|(user, ask)| Ask { user, ..*ask }).collect();
    world.record("old", &asks, |_, _| {}).await;
    world.edit("new", "20-inference.cedar", "context.data.level <= 1", "context.data.level <= 2");
    world.edit(
        "new",
        "20-inference.cedar",
        "when { context.data.level <= 2 }",
        "when { context.data.level <= 1 }",
    );
    let one = world.json(&["--jobs", "1"]);
    assert_eq!(one.1["replay"]["replayed"], 3_000);
    assert_eq!((&one.1["replay"]["looser"], &one.1["replay"]["stricter"]), (&750.into(), &375.into()));
    assert!(one.1["replay"]["groups"][0]["principals"]["count"].as_u64() > Some(100));
    for jobs in ["2", "7"] {
        assert_eq!(world.json(&["--jobs", jobs]), one);
    }
}

#[tokio::test]
async fn an_archived_bundle_is_named_by_its_hash() {
    let mut world = World::new();
    world.record("old", &DAY, |_, _| {}).await;
    let hash = world.bundle("old").hash().to_owned();
    world.edit("new", "20-inference.cedar", "context.data.level <= 1", "context.data.level <= 2");
    let by_directory = world.json(&[]).1;
    for name in [hash.as_str(), hash.get(..8).unwrap()] {
        let args = [name, "new", "--journal", "journal", "--without-proof", "--output", "json"];
        let plan: Value = serde_json::from_str(&world.plan(&args).1).unwrap();
        assert_eq!(plan["replay"], by_directory["replay"]);
        assert_eq!(plan["changes"], by_directory["changes"]);
        // The archive keeps no tests.
        assert_eq!(plan["tests"]["old"]["cases"], 0);
    }
    let (code, text) = world.plan(&["0123456789", "new", "--journal", "journal"]);
    assert!(
        code == 3 && text.contains("`0123456789` is no directory, and no bundle in `journal/bundles`"),
        "{text}"
    );
    // One that is not what its name says is no base for anything.
    world.edit(&format!("journal/bundles/{hash}"), "20-inference.cedar", "// Who may ask models.", "//");
    let (code, text) = world.plan(&[&hash, "new", "--journal", "journal", "--without-proof"]);
    assert!(code == 3 && text.contains("was changed: its files hash to"), "{text}");
}

#[tokio::test]
async fn it_reads_well() {
    let mut world = World::new();
    world.record("old", &DAY, |_, _| {}).await;
    world.edit("new", "20-inference.cedar", "context.data.level <= 1", "context.data.level <= 2");
    world.edit(
        "new",
        "20-inference.cedar",
        "when { context.data.level <= 2 }",
        "when { context.data.level <= 1 }",
    );
    // The shipped policies may change without these pages.
    let steady = |text: &str| {
        text.replace(world.bundle("old").hash().get(..12).unwrap(), "OLD")
            .replace(world.bundle("new").hash().get(..12).unwrap(), "NEW")
    };
    let (code, text) = world.replayed(&[]);
    assert_eq!(code, 1);
    insta::assert_snapshot!("table", steady(&text));
    let (_, text) = world.replayed(&["--output", "markdown"]);
    insta::assert_snapshot!("markdown", steady(&text));
}

#[test]
fn what_is_wrong_is_told() {
    let world = World::new();
    assert_eq!(world.plan(&["old"]).0, 2);
    assert_eq!(world.plan(&["old", "new", "--without-proof"]).0, 2);
    let (code, text) = world.plan(&["old", "nowhere"]);
    assert!(code == 1 && text.contains("nowhere") && text.contains("nothing was planned"), "{text}");
    let (code, text) = world.plan(&["old", "new", "--journal", "nowhere"]);
    assert!(code == 3 && text.contains("nowhere"), "{text}");
    world.edit("new", "20-inference.cedar", "permit (", "permit ((");
    let (code, text) = world.plan(&["old", "new", "--output", "json"]);
    let told: Value = serde_json::from_str(&text).unwrap();
    assert!(code == 1 && told["problems"][0]["file"] == "new/20-inference.cedar", "{text}");
}

#[tokio::test]
async fn a_recorded_request_is_explained_by_the_policies_of_now() {
    let mut world = World::new();
    world.record("old", &DAY, |_, _| {}).await;
    world.edit("new", "20-inference.cedar", "context.data.level <= 1", "context.data.level <= 2");
    let explain = |args: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args([&["policy", "explain", "--journal", "journal"], args].concat())
            .current_dir(world.dir.path())
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        (done.status.code().unwrap(), String::from_utf8([done.stdout, done.stderr].concat()).unwrap())
    };
    let id = "01912f6e-7a3c-7d1e-8b0a-000000000003";
    let (code, text) = explain(&["--record", id, "--policies", "old"]);
    assert!(
        code == 1
            && text.contains(": deny by policy_denied, bundle ")
            && text.contains("marketing-models lacks 1 of 3"),
        "{text}"
    );
    let (code, text) = explain(&["--record", id, "--policies", "new"]);
    assert!(code == 0 && text.contains("; now:\nallowed: infer of eu/tide-small"), "{text}");
    let (_, text) = explain(&["--record", id, "--policies", "new", "--output", "json"]);
    let said: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&said["decision"], &said["record"]["decision"], &said["record"]["id"]),
        (&"allow".into(), &"deny".into(), &id.into())
    );
    let (code, text) = explain(&["--record", "01912f6e", "--policies", "new"]);
    assert!(code == 3 && text.contains("several ids begin with"), "{text}");
    let (code, text) = explain(&["--record", "ffff", "--policies", "new"]);
    assert!(code == 3 && text.contains("no crossing in `journal` has the id ffff"), "{text}");
    assert_eq!(explain(&["--record", id, "--policies", "new", "team=research"]).0, 2);
}

/// Files under `Path` stay: a plan changes nothing.
#[tokio::test]
async fn a_plan_changes_no_file() {
    let mut world = World::new();
    world.record("old", &DAY[..2], |_, _| {}).await;
    let before = state(world.dir.path());
    world.replayed(&[]);
    assert_eq!(state(world.dir.path()), before);
}

fn state(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(state(&path)),
            false => found.push((path.clone(), path.metadata().unwrap().len())),
        }
    }
    found.sort();
    found
}
