//! The policy stage from outside: the shipped policies decide what their comments say, broken bundles are refused with a
//! place and a reason, and nothing of a decision is remembered.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use proptest::prelude::*;
use tidegate::model::{
    Action, Authn, Candidate, Chain, ClusterName, Label, Level, Origin, Principal, PrincipalKind, Protection,
    Resource, UpstreamRef,
};
use tidegate::policy::{AuthzRequest, Bundle, Denial, Effect, Permit, embedded};

/// A request that the tests change at will.
#[derive(Debug, Clone)]
struct Ask {
    principal: Principal,
    action: Action,
    label: Label,
    method: &'static str,
    bytes: u64,
    max_tokens: Option<u64>,
    now: &'static str,
    purpose: Option<&'static str>,
    candidates: Vec<Candidate>,
}

impl Ask {
    fn new(principal: Principal, action: Action, candidate: Candidate) -> Self {
        Self {
            principal,
            action,
            label: label(Level::Internal, &["EU"]),
            method: "POST",
            bytes: 10,
            max_tokens: None,
            now: "2026-11-24T12:00:00Z",
            purpose: None,
            candidates: vec![candidate],
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn level(self, level: Level) -> Self {
        self.with(|ask| ask.label.level = level)
    }

    fn residency(self, places: &[&str]) -> Self {
        let level = self.label.level;
        self.with(|ask| ask.label = label(level, places))
    }

    fn decide(&self, bundle: &Bundle) -> Result<Permit, Denial> {
        let request = AuthzRequest {
            principal: &self.principal,
            action: self.action,
            label: &self.label,
            method: self.method,
            path: "/",
            bytes: self.bytes,
            stream: false,
            max_tokens: self.max_tokens,
            peer: [10, 0, 0, 1].into(),
            now: self.now.parse().unwrap(),
            purpose: self.purpose,
        };
        bundle.decide(&request, &self.candidates, &[Protection::None])
    }

    /// `allow research-models` or `policy_forbidden residency`.
    fn verdict(&self, bundle: &Bundle) -> String {
        let (head, policies) = match self.decide(bundle) {
            Ok(permit) => ("allow", permit.policies().to_vec()),
            Err(denial) => (denial.reason.code(), denial.policies),
        };
        policies.iter().fold(head.to_owned(), |text, id| text + " " + id)
    }
}

fn label(level: Level, places: &[&str]) -> Label {
    let residency = places.iter().map(|place| place.parse().unwrap()).collect();
    Label { level, residency, origin: Origin::Route }
}

fn principal(kind: PrincipalKind, id: &str, teams: &[&str], authn: Authn) -> Principal {
    Principal {
        kind,
        id: id.into(),
        tenant: "demo".parse().unwrap(),
        teams: teams.iter().map(|team| team.parse().unwrap()).collect(),
        authn,
        chain: Chain::default(),
        issued_at: None,
        expires_at: None,
        credential: None,
    }
}

fn user(team: &str) -> Principal {
    principal(PrincipalKind::User, "https://issuer.demo|someone", &[team], Authn::Jwt)
}

fn trainer(teams: &[&str]) -> Principal {
    let id = "spiffe://tidegate.demo/job/trainer";
    let mut trainer = principal(PrincipalKind::Workload, id, teams, Authn::Mtls);
    trainer.chain.workload = Some(id.into());
    trainer
}

fn model(cluster: &str, name: &str) -> Candidate {
    let cluster: ClusterName = cluster.parse().unwrap();
    Candidate {
        resource: Resource::Model { cluster: cluster.clone(), model: name.parse().unwrap() },
        destination: Some(cluster.clone()),
        upstream: UpstreamRef::Cluster(cluster),
        can_open: None,
    }
}

fn dataset(name: &str, destination: Option<&str>) -> Candidate {
    Candidate {
        resource: Resource::Dataset(name.parse().unwrap()),
        destination: destination.map(|cluster| cluster.parse().unwrap()),
        upstream: UpstreamRef::Store("lake".parse().unwrap()),
        can_open: None,
    }
}

fn service(destination: Option<&str>) -> Candidate {
    Candidate {
        resource: Resource::Service("status".parse().unwrap()),
        destination: destination.map(|cluster| cluster.parse().unwrap()),
        upstream: UpstreamRef::Service("status".parse().unwrap()),
        can_open: None,
    }
}

fn shipped() -> Bundle {
    embedded::bundle().map_err(|problems| problems.to_string()).unwrap()
}

#[test]
fn the_shipped_policies_decide_what_they_say() {
    use Action::{Call, Delete, Embed, Infer, List, Read, Write};
    use Level::{Confidential, Internal, Public, Restricted};
    let small = || model("eu", "tide-small");
    let chat = |team: &str| Ask::new(user(team), Infer, small());
    let data = |who: Principal, action, name, to| Ask::new(who, action, dataset(name, to));
    let clinical = || chat("clinical").level(Confidential).with(|ask| ask.purpose = Some("care"));
    let anonymous = || principal(PrincipalKind::Workload, "anonymous", &[], Authn::Anonymous);
    let status = || Ask::new(anonymous(), Call, service(Some("private"))).level(Public);
    let agent = |mut who: Principal| {
        who.chain.agent = Some("assistant".into());
        who
    };
    let rows = [
        (chat("research").level(Confidential), "allow research-models"),
        (Ask::new(user("research"), Embed, model("eu", "tide-embed")), "allow research-models"),
        (chat("research").level(Restricted), "policy_forbidden restricted-only-sealed"),
        (
            chat("research").with(|ask| ask.candidates = vec![model("us", "tide-small")]),
            "policy_forbidden residency",
        ),
        (
            chat("research").with(|ask| ask.candidates.insert(0, model("us", "tide-small"))),
            "allow research-models",
        ),
        (chat("research").residency(&[]), "policy_forbidden residency"),
        (chat("research").residency(&["US", "DE"]), "allow research-models"),
        (chat("research").residency(&["FR"]), "policy_forbidden residency"),
        (chat("research").with(|ask| ask.candidates = vec![model("eu", "ghost")]), "unknown_entity"),
        (chat("research").residency(&["Atlantis"]), "unknown_entity"),
        (
            chat("research").with(|ask| ask.max_tokens = Some(16_385)),
            "policy_forbidden no-endless-generation",
        ),
        (chat("marketing"), "allow marketing-models"),
        (chat("marketing").level(Confidential), "policy_denied"),
        (chat("ops"), "policy_denied"),
        (chat("unheard-of"), "policy_denied"),
        (clinical(), "allow clinical-models"),
        (clinical().with(|ask| ask.purpose = None), "policy_denied"),
        (clinical().with(|ask| ask.purpose = Some("fun")), "policy_denied"),
        (
            clinical().residency(&["world"]).with(|ask| ask.candidates = vec![model("us", "tide-small")]),
            "policy_denied",
        ),
        (data(user("marketing"), Read, "handbook", Some("private")), "allow handbook-for-all"),
        (data(user("marketing"), Write, "handbook", None), "policy_denied"),
        (data(user("ops"), Write, "handbook", None), "allow owners-keep-their-data"),
        (data(user("ops"), Delete, "handbook", None), "allow owners-keep-their-data"),
        (data(agent(user("ops")), Write, "handbook", None), "allow owners-keep-their-data"),
        (data(agent(user("ops")), Delete, "handbook", None), "policy_forbidden agents-never-delete"),
        (
            data(trainer(&["research"]), Read, "trials", Some("eu")).level(Confidential),
            "allow owners-keep-their-data trainer-reads-trials",
        ),
        (data(trainer(&[]), Read, "trials", Some("eu")).level(Confidential), "policy_denied"),
        (data(trainer(&["research"]), List, "trials", Some("us")), "policy_forbidden residency"),
        (data(trainer(&["research"]), Read, "trials", None), "policy_forbidden residency"),
        (
            data(user("clinical"), Read, "patients", Some("private")).level(Restricted),
            "policy_forbidden restricted-only-sealed",
        ),
        (data(user("clinical"), Write, "patients", None).level(Restricted), "allow owners-keep-their-data"),
        (status().with(|ask| ask.method = "GET"), "allow status-for-anyone"),
        (status().with(|ask| ask.method = "POST"), "policy_denied"),
        (status().level(Internal).with(|ask| ask.method = "GET"), "policy_forbidden anonymous-only-public"),
        (
            status().with(|ask| (ask.method, ask.candidates) = ("GET", vec![service(None)])),
            "policy_forbidden residency",
        ),
        (Ask::new(user("research"), Read, small()), "invalid_authorization_request"),
    ];
    let bundle = shipped();
    for (ask, expected) in rows {
        assert_eq!(ask.verdict(&bundle), expected, "{ask:#?}");
    }
}

#[test]
fn a_permit_says_how_it_came_about() {
    let bundle = shipped();
    let ask = Ask::new(user("research"), Action::Infer, model("us", "tide-small"))
        .with(|ask| ask.candidates.push(model("eu", "tide-small")));
    let permit = ask.decide(&bundle).unwrap();
    fn shared_by_threads(_: &(impl Send + Sync)) {}
    shared_by_threads(&(&bundle, &permit));
    assert_eq!(permit.candidate(), &model("eu", "tide-small"));
    assert_eq!(permit.protection(), Protection::None);
    assert_eq!(permit.bundle().as_ref(), bundle.hash());
    let tried = serde_json::to_value(permit.evaluations()).unwrap();
    let at = |cluster: &str| serde_json::json!({"Model": {"cluster": cluster, "model": "tide-small"}});
    assert_eq!(
        tried,
        serde_json::json!([
            {"resource": at("us"), "destination": "us", "protection": "none", "allowed": false, "policies": ["residency"]},
            {"resource": at("eu"), "destination": "eu", "protection": "none", "allowed": true, "policies": ["research-models"]},
        ])
    );
    let policy = bundle.policy("research-models").unwrap();
    assert_eq!((policy.effect, policy.file.as_str()), (Effect::Permit, "20-inference.cedar"));
    assert_eq!(policy.owner.as_deref(), Some("research"));
}

/// The shipped files by name, to be broken.
type Files = BTreeMap<String, String>;

fn files() -> Files {
    embedded::FILES.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn load(files: Files) -> Result<Bundle, tidegate::model::Problems> {
    Bundle::from_files("policies", files.into_iter().map(|(name, text)| (name, text.into_bytes())).collect())
}

/// The shipped bundle with these policies instead of its own, except for the safety rules.
fn with_policies(text: &str) -> Bundle {
    let mut files = files();
    files.retain(|name, _| !name.ends_with(".cedar") || name == "10-safety.cedar");
    files.insert("99-test.cedar".to_owned(), text.to_owned());
    load(files).map_err(|problems| problems.to_string()).unwrap()
}

#[test]
fn each_fact_of_the_request_counts_at_once() {
    let bundle = with_policies(
        r#"@id("window") permit (principal, action, resource)
           when { context.now < datetime("2026-11-24T12:00:00.001Z") && context.request.bytes <= 10 && context.data.level <= 1 };"#,
    );
    let base = Ask::new(user("research"), Action::Infer, model("eu", "tide-small"));
    let later = base.clone().with(|ask| ask.now = "2026-11-24T12:00:00.001Z");
    let larger = base.clone().with(|ask| ask.bytes = 11);
    let unknown_length = base.clone().with(|ask| ask.bytes = u64::MAX);
    let higher = base.clone().level(Level::Confidential);
    for other in [later, larger, unknown_length, higher] {
        assert_eq!(base.verdict(&bundle), "allow window");
        assert_eq!(other.verdict(&bundle), "policy_denied", "{other:#?}");
        assert_eq!(base.verdict(&bundle), "allow window");
    }
}

fn level() -> impl Strategy<Value = Level> {
    prop::sample::select(vec![Level::Public, Level::Internal, Level::Confidential, Level::Restricted])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A bundle that has decided much answers like one that never decided anything.
    #[test]
    fn nothing_of_a_decision_is_remembered(
        asks in prop::collection::vec((
            prop::sample::select(vec!["research", "clinical", "marketing", "ops", "nobody"]),
            prop::sample::select(vec![("eu", "tide-small"), ("us", "tide-small"), ("eu", "tide-large")]),
            level(),
            prop::sample::select(vec!["EU", "US", "world"]),
            prop::option::of(prop::sample::select(vec!["care", "fun"])),
            0_u64..2,
        ), 1..6)
    ) {
        let used = shipped();
        for (team, (cluster, name), level, place, purpose, extra) in asks {
            let ask = Ask::new(user(team), Action::Infer, model(cluster, name))
                .residency(&[place])
                .level(level)
                .with(|ask| (ask.purpose, ask.max_tokens) = (purpose, Some(16_384 + extra)));
            prop_assert_eq!(ask.verdict(&used), ask.verdict(&shipped()));
        }
    }
}

/// Puts a text in place of another in one file; the other must be there.
fn replace(files: &mut Files, name: &str, from: &str, to: &str) {
    let text = files.get_mut(name).unwrap();
    assert!(text.contains(from), "{name} has no {from:?}");
    *text = text.replacen(from, to, 1);
}

fn add_policy(files: &mut Files, text: &str) {
    files.insert("50-more.cedar".to_owned(), text.to_owned());
}

fn add_entity(files: &mut Files, text: &str) {
    replace(files, "entities.json", "[\n", &format!("[\n  {text},\n"));
}

/// A way to break the shipped files.
type Break = fn(&mut Files);

const SCHEMA: &str = "tidegate.cedarschema";

const BROKEN: &[(&str, Break)] = &[
    ("no @id", |f| add_policy(f, "// fine so far\n\n  permit (principal, action, resource);")),
    ("@id is no id", |f| add_policy(f, "@id(\"two words\") permit (principal, action, resource);")),
    ("@id twice, across files", |f| {
        add_policy(f, "@id(\"residency\")\npermit (principal, action, resource);")
    }),
    ("syntax", |f| {
        add_policy(f, "@id(\"x\")\npermit (principal, action, resource) when { context.data.level < };")
    }),
    ("wrong type", |f| {
        add_policy(
            f,
            "@id(\"x\")\nforbid (principal, action, resource)\nwhen { context.data.level == \"secret\" };",
        );
    }),
    ("optional fact read without `has`", |f| {
        add_policy(f, "@id(\"x\")\nforbid (principal, action, resource)\nwhen { context.destination.peer };");
    }),
    ("unknown attribute", |f| {
        add_policy(f, "@id(\"x\") permit (principal, action, resource) when { principal.clearance > 2 };");
    }),
    ("unknown entity", |f| {
        add_policy(
            f,
            "@id(\"x\")\npermit (\n  principal in Tidegate::Team::\"reserch\",\n  action,\n  resource\n);",
        );
    }),
    ("unknown action", |f| {
        add_policy(f, "@id(\"x\") permit (principal, action == Tidegate::Action::\"train\", resource);");
    }),
    ("never applies", |f| {
        add_policy(
            f,
            "@id(\"x\") permit (principal, action == Tidegate::Action::\"infer\", resource is Tidegate::Dataset);",
        );
    }),
    ("template", |f| add_policy(f, "@id(\"x\") permit (principal == ?principal, action, resource);")),
    ("two levels deep", |f| {
        replace(f, SCHEMA, "entity Agent;", "entity Agent = { boss?: User };");
        add_policy(
            f,
            "@id(\"x\") forbid (principal, action, resource)\nwhen { context.chain has agent && context.chain.agent \
             has boss && context.chain.agent.boss.tenant == \"x\" };",
        );
    }),
    ("label of the resource", |f| {
        replace(f, SCHEMA, "owner: Team,", "owner: Team, level?: Long,");
        add_policy(
            f,
            "@id(\"x\") permit (principal, action == Tidegate::Action::\"read\", resource)\nwhen { resource has level \
             && resource.level < 2 };",
        );
    }),
    ("arithmetic", |f| {
        add_policy(
            f,
            "@id(\"x\") forbid (principal, action, resource) when { context.request.bytes * 8 > 100 };",
        );
    }),
    ("several at once", |f| {
        add_policy(
            f,
            "permit (principal, action, resource);\n@id(\"x\") permit (principal, action, resource) when { context.nothing };",
        );
        f.insert("60-more.cedar".to_owned(), "permit (principal, action, resource) when".to_owned());
        replace(f, "entities.json", "\"id\": \"FR\"", "\"id\": \"F R\"");
    }),
    ("an invariant beside the policies", |f| {
        f.insert("seal.bad.cedar".to_owned(), "@id(\"x\") permit (principal, action, resource);".to_owned());
    }),
    ("no policies", |f| f.retain(|name, _| !name.ends_with(".cedar"))),
    ("no schema", |f| f.retain(|name, _| name != SCHEMA)),
    ("nothing", Files::clear),
    ("schema syntax", |f| replace(f, SCHEMA, "entity Team;", "entity Team")),
    ("schema names an unknown type", |f| replace(f, SCHEMA, "owner: Team,", "owner: Squad,")),
    ("action in neither group", |f| {
        replace(
            f,
            SCHEMA,
            "  action call in",
            "  action export appliesTo { principal: [User], resource: [Dataset], context: Context };\n  action call in",
        );
    }),
    ("sending action declared local", |f| {
        replace(f, SCHEMA, "action infer, embed in [send]", "action infer, embed in [local]");
    }),
    ("action in both groups", |f| {
        replace(f, SCHEMA, "action write, delete in [local]", "action write, delete in [local, send]");
    }),
    ("action missing", |f| replace(f, SCHEMA, "action read, list in", "action read in")),
    ("context without a fact", |f| replace(f, SCHEMA, "    now: datetime, ", "    //")),
    ("context with another fact", |f| {
        replace(f, SCHEMA, "    now: datetime, ", "    now: datetime, mood: String, //")
    }),
    ("principal with another fact", |f| {
        replace(f, SCHEMA, "entity User in [Team] = {", "entity User in [Team] = {\n    age: Long,");
    }),
    ("entities are no JSON", |f| replace(f, "entities.json", "},\n", "}\n")),
    ("entities are no list", |f| {
        f.insert("entities.json".to_owned(), "{}".to_owned());
    }),
    ("entity without a uid", |f| add_entity(f, "{\"parents\": []}")),
    ("entity of an unknown type", |f| {
        add_entity(
            f,
            "{\"uid\": {\"type\": \"Tidegate::Moon\", \"id\": \"x\"}, \"parents\": [], \"attrs\": {}}",
        )
    }),
    ("entity with a wrong attribute", |f| replace(f, "entities.json", "\"peer\": false", "\"peer\": \"no\"")),
    ("entity with a wrong parent type", |f| {
        add_entity(
            f,
            "{\"uid\": {\"type\": \"Tidegate::Team\", \"id\": \"x\"}, \"parents\": [{\"type\": \"Tidegate::Store\", \"id\": \"lake\"}], \"attrs\": {}}",
        );
    }),
    ("entity with an unknown parent", |f| {
        replace(
            f,
            "entities.json",
            "[{\"type\": \"Tidegate::Jurisdiction\", \"id\": \"world\"}]",
            "[{\"type\": \"Tidegate::Jurisdiction\", \"id\": \"wrld\"}]",
        );
    }),
    ("entity with an unknown owner", |f| {
        replace(
            f,
            "entities.json",
            "{\"type\": \"Tidegate::Team\", \"id\": \"ops\"}}}",
            "{\"type\": \"Tidegate::Team\", \"id\": \"opps\"}}}",
        );
    }),
    ("entity twice", |f| {
        add_entity(
            f,
            "{\"uid\": {\"type\": \"Tidegate::Service\", \"id\": \"status\"}, \"parents\": [], \"attrs\": {}}",
        )
    }),
    ("principal among the entities", |f| {
        add_entity(
            f,
            "{\"uid\": {\"type\": \"Tidegate::Workload\", \"id\": \"w\"}, \"parents\": [], \"attrs\": {\"tenant\": \"t\", \"authn\": \"mtls\"}}",
        )
    }),
    ("action among the entities", |f| {
        add_entity(
            f,
            "{\"uid\": {\"type\": \"Tidegate::Action\", \"id\": \"infer\"}, \"parents\": [], \"attrs\": {}}",
        )
    }),
    ("entities in a circle", |f| {
        replace(
            f,
            "entities.json",
            "\"id\": \"world\"}, \"parents\": []",
            "\"id\": \"world\"}, \"parents\": [{\"type\": \"Tidegate::Jurisdiction\", \"id\": \"DE\"}]",
        );
    }),
    ("model without its cluster", |f| {
        replace(f, "entities.json", "\"id\": \"eu/tide-large\"", "\"id\": \"tide-large\"")
    }),
    ("cluster nowhere", |f| {
        add_entity(
            f,
            "{\"uid\": {\"type\": \"Tidegate::Cluster\", \"id\": \"sea\"}, \"parents\": [], \"attrs\": {\"peer\": true}}",
        )
    }),
    ("cluster with a slash", |f| {
        add_entity(
            f,
            "{\"uid\": {\"type\": \"Tidegate::Cluster\", \"id\": \"a/b\"}, \"parents\": [{\"type\": \"Tidegate::Jurisdiction\", \"id\": \"US\"}], \"attrs\": {\"peer\": true}}",
        )
    }),
    ("no inside", |f| replace(f, "entities.json", "\"id\": \"private\"", "\"id\": \"inside\"")),
];

#[test]
fn broken_bundles_are_refused_with_a_place_and_a_reason() {
    let mut all = String::new();
    for (what, break_it) in BROKEN {
        let mut files = files();
        break_it(&mut files);
        let problems = load(files).expect_err(what).into_vec();
        assert!(!problems.is_empty(), "{what}");
        writeln!(all, "# {what}").unwrap();
        for mut problem in problems {
            // Of several names that are equally near, the library suggests any.
            if problem.hint.starts_with("did you mean") {
                problem.hint = "did you mean …".to_owned();
            }
            writeln!(all, "{problem}").unwrap();
        }
        writeln!(all).unwrap();
    }
    insta::assert_snapshot!(all);
}

#[test]
fn a_bundle_is_exactly_the_files_of_its_directory() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    embedded::write_to(dir).unwrap();
    let before = Bundle::load(dir).unwrap();

    let junk = "this is no policy";
    for name in
        ["invariants/seal.bad.cedar", "invariants/more.cedar", ".hidden.cedar", "notes.txt", "old.cedar~"]
    {
        fs::write(dir.join(name), junk).unwrap();
    }
    let same = Bundle::load(dir).unwrap();
    assert_eq!(same.hash(), before.hash());
    assert_eq!(same.files(), before.files());
    assert_eq!(same.files().len(), 6);

    fs::write(dir.join("90-new.cedar"), "@id(\"new\") permit (principal, action, resource);").unwrap();
    let more = Bundle::load(dir).unwrap();
    assert_ne!(more.hash(), before.hash());
    assert!(more.policy("new").is_some() && before.policy("new").is_none());

    let refused = |what: &str| {
        let shown = Bundle::load(dir).unwrap_err().to_string();
        assert!(shown.contains(what), "{shown}");
    };
    fs::write(dir.join("seal.bad.cedar"), "@id(\"x\") permit (principal, action, resource);").unwrap();
    refused("seal.bad.cedar: describes what must never be allowed");
    fs::remove_file(dir.join("seal.bad.cedar")).unwrap();
    fs::create_dir(dir.join("dir.cedar")).unwrap();
    refused("dir.cedar: cannot be read: it is no regular file");
    fs::remove_dir(dir.join("dir.cedar")).unwrap();
    fs::write(dir.join("90-new.cedar"), "/".repeat((1 << 20) + 1)).unwrap();
    refused("90-new.cedar: cannot be read: it is larger than 1048576 bytes");
    fs::remove_file(dir.join("90-new.cedar")).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"forbid\xff.cedar");
    fs::write(dir.join(odd), "@id(\"x\") forbid (principal, action, resource);").unwrap();
    refused("forbid\u{fffd}.cedar: has a name that is not UTF-8");
    assert!(
        Bundle::load(Path::new("/nowhere")).unwrap_err().to_string().contains("cannot list the directory")
    );
}

#[test]
fn entities_in_several_files_are_read_as_one() {
    let mut split = files();
    let all: Vec<serde_json::Value> = serde_json::from_str(&split.remove("entities.json").unwrap()).unwrap();
    let (places, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|entity| entity["uid"]["type"] == "Tidegate::Jurisdiction");
    let text = |list: &Vec<serde_json::Value>| serde_json::to_string_pretty(list).unwrap();
    split.insert("places.entities.json".to_owned(), text(&places));
    split.insert("others.entities.json".to_owned(), text(&others));
    let bundle = load(split.clone()).map_err(|problems| problems.to_string()).unwrap();
    assert!(bundle.has_entity("Cluster", "eu") && bundle.has_entity("Jurisdiction", "EU"));
    assert_ne!(bundle.hash(), shipped().hash());

    let refused = |change: &dyn Fn(&mut Files), what: &[&str]| {
        let mut files = split.clone();
        change(&mut files);
        let shown = load(files).unwrap_err().to_string();
        assert!(what.iter().all(|part| shown.contains(part)), "{shown}");
    };
    // A mistake is named with its file and line, one between two files with both.
    let again = r#"[
  {"uid": {"type": "Tidegate::Jurisdiction", "id": "EU"}, "parents": [], "attrs": {}}]"#;
    refused(
        &|files| drop(files.insert("zz.entities.json".to_owned(), again.to_owned())),
        &["policies/zz.entities.json: line 2, column 3: `Tidegate::Jurisdiction::\"EU\"` is there twice: \
           also in policies/places.entities.json, line "],
    );
    refused(
        &|files| drop(files.insert("zz.entities.json".to_owned(), "[1,]".to_owned())),
        &["policies/zz.entities.json: line 1, column"],
    );
    refused(
        &|files| drop(files.remove("places.entities.json")),
        &["others.entities.json: line ", "has the parent"],
    );
    refused(&|files| files.retain(|name, _| !name.ends_with("json")), &["entities.json: is missing"]);
}

#[test]
fn jurisdictions_and_entities_can_be_looked_up() {
    let bundle = shipped();
    let places = bundle.jurisdictions();
    let set = |name: &str| label(Level::Public, &[name]).residency;
    assert_eq!(places.intersect(&set("world"), &set("DE")), set("DE"));
    assert!(places.intersect(&set("FR"), &set("DE")).is_nowhere());
    assert!(!places.contains(&"Atlantis".parse().unwrap()));
    assert!(bundle.has_entity("Model", "eu/tide-large") && !bundle.has_entity("Model", "us/tide-large"));
    assert!(!bundle.has_entity("not a type", "x"));
}
