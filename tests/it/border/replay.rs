//! What was decided can be decided again, offline, from the journal and the bundles beside it: over the shipped policies, with every kind of
//! principal, label, destination and protection that they speak of.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tidegate::identity::new_api_key;
use tidegate::policy::plan::{Batch, Jobs, Judge, Restore, replay as replay_all};
use tidegate::policy::replay::{ReplayError, Replayer, replay};
use tidegate::policy::{Bundle, embedded};
use tidegate::protect::keys::Direction;

use super::fixture::{Border, PEER, Recorder, head};
use super::objects_fixture::{KEYS, keys, scope};
use super::seal_fixture::{make_private, write_root};

/// A gateway over the shipped policies alone, with what they speak of: three clusters, a store, a service.
pub(super) struct Bench {
    pub(super) border: Border,
    /// Name, key.
    callers: Vec<(&'static str, String)>,
}

impl Bench {
    pub(super) async fn start() -> Self {
        let upstream = Recorder::start().await;
        let people = [
            ("ada", "user", vec!["research"]),
            ("carl", "user", vec!["clinical", "unheard-of"]),
            ("mia", "user", vec!["marketing"]),
            ("guest", "user", vec![]),
            ("nightly", "workload", vec!["ops", "research"]),
        ];
        let (mut callers, mut entries) = (Vec::new(), Vec::new());
        for (id, kind, teams) in people {
            let key = new_api_key(id).unwrap();
            entries.push(
                json!({"id": id, "sha256": key.sha256, "tenant": "acme", "kind": kind, "teams": teams}),
            );
            callers.push((id, key.text.to_string()));
        }
        let border = Border::prepared(&configuration(&upstream.endpoint), |dir| {
            std::fs::remove_file(dir.join("policies/90-test.cedar")).unwrap();
            std::fs::write(dir.join("api.json"), json!({"keys": entries}).to_string()).unwrap();
            std::fs::write(dir.join("lake.key"), "secret").unwrap();
            for private in ["api.json", "lake.key"] {
                std::fs::set_permissions(dir.join(private), std::fs::Permissions::from_mode(0o600)).unwrap();
            }
            write_root(dir, 7);
            make_private(&dir.join("branch"));
        })
        .await;
        let keys = keys(border.dir.path());
        for direction in [Direction::Request, Direction::Answer] {
            keys.make(&scope("job", direction)).await.unwrap();
        }
        Self { border, callers }
    }

    async fn send(&self, caller: Option<&str>, head: &str, body: &str) -> u16 {
        let mut lines = head.lines();
        let mut request = format!("{} HTTP/1.1\r\nHost: localhost\r\n", lines.next().unwrap());
        lines.for_each(|line| request.push_str(&format!("{line}\r\n")));
        if let Some((_, key)) = caller.and_then(|name| self.callers.iter().find(|(id, _)| *id == name)) {
            request.push_str(&format!("Authorization: Bearer {key}\r\n"));
        }
        let has_body = ["POST", "PUT"].iter().any(|method| head.starts_with(method));
        if has_body {
            request
                .push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        request.push_str(&format!("\r\n{}", if has_body { body } else { "" }));
        match caller {
            Some("peer") => self.border.send_as("peer", request.as_bytes()).await.status(),
            _ => self.border.send(request.as_bytes()).await.status(),
        }
    }

    /// A varied day: who × how sensitive × what for × which model × how much, then the store, then the service.
    pub(super) async fn day(&self) {
        for (caller, _) in &self.callers {
            for level in ["public", "internal", "confidential", "restricted"] {
                for purpose in ["", "\ntidegate-purpose: care"] {
                    for route in ["/eu", "/world"] {
                        let head =
                            format!("POST {route}/v1/chat/completions\ntidegate-label: {level}{purpose}");
                        for (model, tokens) in [("tide-small", 16), ("tide-large", 20_000)] {
                            let body = json!({"model": model, "max_tokens": tokens,
                                "messages": [{"role": "user", "content": "hello"}]});
                            self.send(Some(caller), &head, &body.to_string()).await;
                        }
                    }
                }
            }
        }
        for caller in ["ada", "carl", "mia", "guest", "nightly", "peer"] {
            for dataset in ["open", "trials", "patients"] {
                for method in ["GET", "HEAD", "PUT", "DELETE"] {
                    let head = format!("{method} /data/{dataset}/object.csv");
                    if method != "HEAD" {
                        self.send(Some(caller), &head, "a,b").await;
                    }
                }
            }
        }
        for method in ["GET", "POST", "DELETE"] {
            self.send(None, &format!("{method} /status"), "x").await;
        }
    }

    fn bundles(&self) -> PathBuf {
        self.border.dir.path().join("journal/bundles")
    }
}

fn configuration(upstream: &str) -> String {
    let head = head("optional");
    let mut text = format!(
        r#"
{head}[identity]
api_keys = "api.json"
[[identity.mtls.trust_domains]]
name = "border.test"
tenant = "acme"
workloads = [{{ id = "{PEER}", teams = ["research"], cluster = "eu" }}]
[clusters.us]
endpoints = ["{upstream}"]
models = ["tide-small"]
[clusters.eu]
endpoints = ["{upstream}"]
models = ["tide-small", "tide-large"]
[clusters.haven]
endpoints = ["{upstream}"]
models = ["tide-small"]
can_open = "job"
[services.status]
endpoints = ["{upstream}"]
[stores.lake]
endpoints = ["{upstream}"]
region = "r"
access_key_id = "a"
secret_key_file = "lake.key"
[[routes]]
name = "store"
path = "/data/*"
store = "lake"
strip_prefix = false
audit = "best_effort"
[[routes]]
name = "status"
path = "/status"
service = "status"
identity = "none"
audit = "best_effort"
level = "public"
residency = ["world"]
{KEYS}"#
    );
    for (dataset, prefix, level, residency) in [
        ("handbook", "open/", "public", "world"),
        ("trials", "trials/", "confidential", "EU"),
        ("patients", "patients/", "restricted", "EU"),
    ] {
        text.push_str(&format!(
            "[[stores.lake.datasets]]\nid = \"{dataset}\"\nbucket = \"data\"\nprefix = \"{prefix}\"\nlevel = \"{level}\"\nresidency = [\"{residency}\"]\n"
        ));
    }
    for (name, residency) in [("eu", "EU"), ("world", "world")] {
        text.push_str(&format!(
            "[[routes]]\nname = \"{name}\"\npath = \"/{name}/*\"\nstrip_prefix = true\naudit = \"best_effort\"\nlevel = \"public\"\n\
             residency = [\"{residency}\"]\ninfer = {{ clusters = [\"us\", \"eu\", \"haven\"] }}\n"
        ));
    }
    text
}

pub(super) fn is_decided(record: &&Value) -> bool {
    record["kind"] == "decision" && record["decision"] != "reject"
}

#[tokio::test]
async fn every_decision_of_a_varied_day_replays_to_the_same_reasons() {
    let bench = Bench::start().await;
    bench.day().await;
    let bundles = bench.bundles();
    let records = bench.border.journal();
    let Border { dir, running } = bench.border;
    running.shutdown().await;
    // The gateway is gone and its policies are others: only the journal's own copy can answer.
    std::fs::write(dir.path().join("policies/10-safety.cedar"), "forbid (principal, action, resource);")
        .unwrap();

    let mut replayer = Replayer::new(&bundles);
    let (mut allowed, mut denied, mut reasons) = (0, 0, BTreeSet::new());
    for record in records.iter().filter(is_decided) {
        let answer = replayer.replay(record).unwrap();
        assert!(answer.agrees, "{:?}\n{record:#}", answer.differences);
        assert_eq!(record["decision"], answer.decision);
        assert_eq!(record["policies"], json!(answer.reasons));
        assert_eq!(record["bundle"], answer.bundle);
        for policy in &answer.policies {
            assert!(policy.text.contains(&format!("@id(\"{}\")", policy.info.id)), "{}", policy.text);
        }
        *(if answer.decision == "allow" { &mut allowed } else { &mut denied }) += 1;
        reasons.extend(answer.reasons);
    }
    assert!(allowed > 30 && denied > 60, "{allowed} allowed, {denied} denied");
    // All but the two that need the demo's own workloads, and the one about agents.
    let expected: BTreeSet<String> = [
        "clinical-models",
        "clinical-restricted-sealed",
        "handbook-for-all",
        "marketing-models",
        "no-endless-generation",
        "owners-keep-their-data",
        "research-models",
        "residency",
        "restricted-only-sealed",
        "status-for-anyone",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(reasons, expected);
    for other in records.iter().filter(|record| record["kind"] == "outcome").take(3) {
        assert!(matches!(replayer.replay(other), Err(ReplayError::NoDecision(kind)) if kind == "outcome"));
    }
}

#[tokio::test]
async fn a_varied_day_is_planned_over() {
    let bench = Bench::start().await;
    bench.day().await;
    let records = bench.border.journal();
    let dir = bench.border.dir.path();
    let load = |dir: &Path| Bundle::load(dir).map_err(|problems| problems.to_string()).unwrap();
    let old = load(&dir.join("policies"));
    let decided: Vec<&Value> = records.iter().filter(is_decided).collect();
    assert!(decided.len() > 200 && decided.iter().all(|record| record["bundle"] == old.hash()));
    let plan = |old: &Bundle, new: &Bundle| {
        let mut left = records.iter();
        let fill = |batch: &mut Batch| {
            left.by_ref().take(50).for_each(|record| batch.push(record.to_string().as_bytes()));
            Ok::<_, std::convert::Infallible>(())
        };
        let restore = || -> Restore<'_> { Box::new(|_| None) };
        replay_all(&Judge::new(old, new), Jobs { threads: 3, restore: &restore }, fill).unwrap()
    };
    // Asked again, the policies that decided decide the same: by what the record says, and by asking them twice.
    let other = dir.join("other");
    embedded::write_to(&other).unwrap();
    let text = std::fs::read_to_string(other.join("10-safety.cedar")).unwrap();
    std::fs::write(other.join("10-safety.cedar"), format!("// The same.\n{text}")).unwrap();
    for found in [plan(&old, &old), plan(&load(&other), &old), plan(&old, &load(&other))] {
        assert_eq!(found.replayed, decided.len() as u64, "{:?}", found.unreplayed);
        assert_eq!((found.looser, found.stricter, found.otherwise), (0, 0, 0), "{:#?}", found.groups);
    }
    // Without the rule of residency data would have gone to `us`, the first place, on either route.
    let rule = "context has destination && context.destination in context.data.residency";
    assert!(text.contains(rule));
    std::fs::write(other.join("10-safety.cedar"), text.replacen(rule, "context has destination", 1)).unwrap();
    let found = plan(&old, &load(&other));
    assert!(found.looser > 10 && found.stricter == 0, "{found:#?}");
    let places: BTreeSet<_> = found.groups.iter().filter_map(|group| group.new.place.clone()).collect();
    assert_eq!(places, BTreeSet::from(["us/tide-small".to_owned()]));
    bench.border.running.shutdown().await;
}

/// One allowed and one denied record, and the archive.
pub(super) async fn pair() -> (Bench, Value, Value) {
    let bench = Bench::start().await;
    let body = json!({"model": "tide-small", "messages": []}).to_string();
    for level in ["internal", "restricted"] {
        bench
            .send(Some("ada"), &format!("POST /eu/v1/chat/completions\ntidegate-label: {level}"), &body)
            .await;
    }
    let records = bench.border.journal();
    let of = |decision: &str| records.iter().find(|record| record["decision"] == decision).unwrap().clone();
    let (allowed, denied) = (of("allow"), of("deny"));
    (bench, allowed, denied)
}

#[tokio::test]
async fn a_tampered_record_does_not_agree_and_says_where() {
    let (bench, allowed, denied) = pair().await;
    let bundles = bench.bundles();
    assert!(replay(&allowed, &bundles).unwrap().agrees && replay(&denied, &bundles).unwrap().agrees);
    let changed = |record: &Value, pointer: &str, value: Value| {
        let mut record = record.clone();
        *record.pointer_mut(pointer).expect(pointer) = value;
        record
    };
    let told = |record: &Value| {
        let answer = replay(record, &bundles).unwrap();
        assert!(!answer.agrees, "{record:#}");
        answer.differences.join("; ")
    };
    for (record, pointer, value, says) in [
        (&denied, "/decision", json!("allow"), "says `allow`, these policies say `deny`"),
        (&allowed, "/decision", json!("deny"), "says `deny`, these policies say `allow`"),
        (
            &allowed,
            "/policies",
            json!(["clinical-models"]),
            "`clinical-models`, deciding are `research-models`",
        ),
        (
            &denied,
            "/code",
            json!("policy_denied"),
            "code is `policy_denied`, the policies give `policy_forbidden`",
        ),
        (&allowed, "/principal/id", json!("mia"), "`principal` is not what"),
        (&allowed, "/principal/teams", json!([]), "`principal.teams` is not what"),
        (&allowed, "/tenant", json!("globex"), "`tenant` is not what"),
        (&allowed, "/action", json!("embed"), "`action` is not what"),
        (&allowed, "/resource/id", json!("us/tide-small"), "`resource` is not what"),
        (&allowed, "/destination", json!("us"), "`destination` is not what"),
        (&allowed, "/label/level", json!("public"), "`label.level` is not what"),
        (&denied, "/label/residency", json!(["world"]), "`label.residency` is not what"),
        (&allowed, "/protection", json!("sealed"), "`protection` is not what"),
        (&allowed, "/request/path", json!("/v1/other"), "`request.path` is not what"),
        (&allowed, "/peer", json!("192.0.2.1:1"), "`peer` is not what"),
        (&allowed, "/chain", json!({"agent": "bot"}), "`chain` is not what"),
        // Where the question itself is changed, the answer is another one.
        (&allowed, "/context/context/data/level", json!(3), "these policies say `deny`"),
        (&allowed, "/context/principal/parents", json!([]), "these policies say `deny`"),
        (&allowed, "/context/context/destination/id", json!("haven"), "`context.destination` is not what"),
        (&denied, "/evaluations/0/allowed", json!(true), "evaluation 1 is answered otherwise"),
        (&denied, "/evaluations", json!([]), "the record holds 0 evaluations"),
    ] {
        let told = told(&changed(record, pointer, value));
        assert!(told.contains(says), "{pointer}: {told}");
    }
    for (pointer, value) in [
        ("/context", json!({})),
        ("/context/action", json!("levitate")),
        ("/context/context/now", json!("yesterday")),
        ("/context/context/data/level", json!(17)),
        ("/context/context/data/origin", json!("nobody")),
        ("/context/context/protection/masked", json!(7)),
        ("/evaluations/0/protection", json!("hoped")),
        ("/evaluations/0/resource/type", json!("Gateway")),
        ("/bundle", json!("../../etc")),
        ("/policies", json!("all")),
    ] {
        let error = replay(&changed(&allowed, pointer, value), &bundles).unwrap_err();
        assert!(matches!(error, ReplayError::Malformed { .. }), "{pointer}: {error}");
        assert!(error.to_string().starts_with("the record is not as a gateway writes it: `"), "{error}");
    }
    bench.border.running.shutdown().await;
}

#[tokio::test]
async fn a_missing_changed_or_unreadable_bundle_is_told_from_a_different_answer() {
    let (bench, allowed, _) = pair().await;
    let archive = bench.bundles();
    let Border { dir: _dir, running } = bench.border;
    running.shutdown().await;
    let hash = allowed["bundle"].as_str().unwrap();
    let told = |expect: &str| {
        let error = replay(&allowed, &archive).unwrap_err().to_string();
        assert!(error.contains(expect) && error.contains(hash), "{error}");
    };
    let file = archive.join(hash).join("20-inference.cedar");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("level <= 2", "level <= 3")).unwrap();
    told("was changed: its files hash to");
    std::fs::remove_file(&file).unwrap();
    told("was changed");
    std::fs::write(&file, &text).unwrap();
    assert!(replay(&allowed, &archive).unwrap().agrees);
    // A file that is no part of a bundle is no part of its hash.
    std::fs::write(archive.join(hash).join("NOTES.txt"), "x").unwrap();
    assert!(replay(&allowed, &archive).unwrap().agrees);
    std::fs::rename(archive.join(hash), archive.join("elsewhere")).unwrap();
    told("is not in");
    assert!(matches!(replay(&allowed, Path::new("/nowhere")), Err(ReplayError::Missing { .. })));
}

/// What changes from run to run, made equal: ids, hashes, times, ports.
fn steady(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let words = line.split(' ').map(|word| {
            let bare = word.trim_end_matches([',', ';']);
            let hex = bare.len() >= 32 && bare.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
            let varies = hex
                || bare.starts_with("127.0.0.1:")
                || bare.starts_with("http://127")
                || bare.ends_with('Z');
            if varies { word.replace(bare, "…") } else { word.to_owned() }
        });
        out.push_str(&words.collect::<Vec<_>>().join(" "));
        out.push('\n');
    }
    out
}

#[tokio::test]
async fn a_crossing_is_explained() {
    use tidegate::audit::crossing::{Found, find};
    use tidegate::cli::audit::explain::Explained;

    let (bench, allowed, denied) = pair().await;
    let journal = bench.border.dir.path().join("journal");
    for record in [&allowed, &denied] {
        bench.border.closed_records(record["id"].as_str().unwrap()).await;
    }
    let mut pages = Vec::new();
    for record in [&allowed, &denied] {
        let prefix = record["id"].as_str().unwrap().parse().unwrap();
        let Found::One(crossing) = find(&journal, &prefix, |_| ()).unwrap() else { panic!("{prefix}") };
        let explained = Explained::of(crossing, &mut Replayer::new(&bench.bundles()), None);
        assert!(explained.agrees());
        assert_eq!(explained.json()["agrees"], true);
        let text = explained.text();
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        // The sentence holds the time; the rest is the same each time.
        let (sentence, facts) = text.split_once("\n\n").unwrap();
        let sentence = sentence.replace('\n', " ");
        let (what, rest) =
            sentence.split_once(" on 2").or_else(|| sentence.split_once(" on 1")).unwrap_or((&sentence, ""));
        let why = rest.split_once(", because ").map_or("", |(_, why)| why);
        pages.push(format!(
            "{what} … because {why}\n\n{}",
            steady(facts).lines().filter(|line| !line.starts_with("outcome")).collect::<Vec<_>>().join("\n")
        ));
    }
    insta::assert_snapshot!(pages.join("\n\n=====\n\n"));
    bench.border.running.shutdown().await;
}
