//! The cost of a decision: context, request, index, evaluation. Nothing of a decision is kept, so each is made anew.
//!
//! `cargo bench --bench policies` prints every case. `cargo bench --bench policies -- count 1000` makes 1,000 decisions over 1,000 policies and
//! nothing else, for `valgrind --tool=callgrind --toggle-collect='policies::Bench::counted*'`.
//!
//! The bundle is made up: of N policies, 20 are forbids for everything, the others name a team, a user, a dataset, a model or a cluster in their
//! scope; teams and users grow with N, so that about four of them match a request whatever N is. Each decision is about another user.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement may panic and prints its figures"
)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use tidegate::model::{
    Action, Authn, Candidate, Chain, ClusterName, Label, Level, Origin, Principal, PrincipalKind, Protection,
    Resource, UpstreamRef,
};
use tidegate::policy::{AuthzRequest, Bundle, embedded};

/// Forbids without a scope, at every size.
const GLOBAL: usize = 20;
const MODELS: usize = 10;
const DATASETS: usize = 200;
/// Decisions in a round, and rounds of which the best and the middle one are printed.
const DECISIONS: usize = 20_000;
const ROUNDS: usize = 5;

/// What a bundle is made of.
#[derive(Clone, Copy)]
struct Shape {
    policies: usize,
    global: usize,
    entities: usize,
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let [mode, decisions] = arguments.as_slice()
        && mode == "count"
    {
        let case = Bench::new(Shape { policies: 1_000, global: GLOBAL, entities: 1_000 });
        let decisions = decisions.parse().unwrap();
        case.decide_all(decisions, 200);
        println!("{} allowed", case.counted(decisions));
        return;
    }
    println!(
        "                                      p50 µs   p99 µs   mean CPU µs   (median of {ROUNDS} rounds)"
    );
    for policies in [100, 1_000, 10_000] {
        let shape = Shape { policies, global: GLOBAL, entities: 1_000 };
        let case = Bench::new(shape);
        println!("load: {policies} policies in {:.2} s", case.loaded.as_secs_f64());
        case.report(&format!("{policies} policies, 200 principals"), 200);
        case.report(&format!("{policies} policies, each principal new"), DECISIONS * ROUNDS);
    }
    let case = Bench::new(Shape { policies: 1_000, global: GLOBAL, entities: 100_000 });
    println!("load: 1000 policies and 100,000 entities in {:.2} s", case.loaded.as_secs_f64());
    case.report("100,000 entities, 200 principals", 200);
    case.report("100,000 entities, each principal new", DECISIONS * ROUNDS);
    let case = Bench::new(Shape { policies: 1_000, global: 0, entities: 1_000 });
    case.report("3 candidates, 200 principals", 200);
    case.report("3 candidates, each principal new", DECISIONS * ROUNDS);
}

struct Bench {
    bundle: Bundle,
    /// How long it took to load, on a thread of its own.
    loaded: Duration,
    teams: usize,
    candidates: Vec<Candidate>,
}

impl Bench {
    fn new(shape: Shape) -> Self {
        let files = files(shape);
        let start = Instant::now();
        let bundle = Bundle::from_files("bench", files).map_err(|problems| problems.to_string()).unwrap();
        let loaded = start.elapsed();
        let candidates = (0..MODELS).map(model).collect();
        Self { bundle, loaded, teams: teams(shape), candidates }
    }

    /// One decision about the principal and model of this number.
    fn decide(&self, principal: &Principal, label: &Label, number: usize) -> bool {
        let request = AuthzRequest {
            principal,
            action: Action::Infer,
            label,
            method: "POST",
            path: "/v1/chat/completions",
            bytes: 1_000 + u64::try_from(number % 1_000).unwrap(),
            stream: true,
            max_tokens: Some(512),
            peer: [10, 0, 0, 7].into(),
            now: "2026-11-24T12:00:00.123Z".parse().unwrap(),
            purpose: Some("care"),
        };
        let candidate = std::slice::from_ref(&self.candidates[number % MODELS]);
        black_box(self.bundle.decide(black_box(&request), candidate, &[Protection::None])).is_ok()
    }

    /// Times decisions one by one, in nanoseconds, and the CPU time of all.
    fn decide_all(&self, decisions: usize, principals: usize) -> (Vec<u64>, Duration, usize) {
        self.decide_from(0, decisions, principals)
    }

    fn decide_from(&self, first: usize, decisions: usize, principals: usize) -> (Vec<u64>, Duration, usize) {
        let label = Label {
            level: Level::Internal,
            residency: ["EU".parse().unwrap()].into_iter().collect(),
            origin: Origin::Route,
        };
        let who: Vec<Principal> =
            (0..decisions.min(principals)).map(|number| principal(first + number, self.teams)).collect();
        let mut times = Vec::with_capacity(decisions);
        let mut allowed = 0;
        let cpu = cpu_time();
        for number in 0..decisions {
            let start = Instant::now();
            allowed += usize::from(self.decide(&who[number % who.len()], &label, number));
            times.push(u64::try_from(start.elapsed().as_nanos()).unwrap());
        }
        (times, cpu_time() - cpu, allowed)
    }

    #[inline(never)]
    fn counted(&self, decisions: usize) -> usize {
        self.decide_all(decisions, 200).2
    }

    fn report(&self, name: &str, principals: usize) {
        let (mut p50, mut p99, mut mean) = (Vec::new(), Vec::new(), Vec::new());
        self.decide_all(principals.min(2_000), principals.min(2_000));
        for round in 0..ROUNDS {
            let first = if principals > DECISIONS { 1_000_000 + round * DECISIONS } else { 0 };
            let (mut times, cpu, allowed) = self.decide_from(first, DECISIONS, principals);
            assert!(allowed * 5 > DECISIONS, "{allowed} of {DECISIONS} allowed");
            times.sort_unstable();
            p50.push(times[DECISIONS / 2] as f64 / 1e3);
            p99.push(times[DECISIONS * 99 / 100] as f64 / 1e3);
            mean.push(cpu.as_secs_f64() * 1e6 / DECISIONS as f64);
        }
        println!("{name:36}  {:>7.1}  {:>7.1}  {:>7.1}", median(p50), median(p99), median(mean));
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Of this thread, as the kernel counts it; not by a clock, which valgrind does not have.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// So many that about two permits and one forbid name a team.
fn teams(shape: Shape) -> usize {
    (shape.policies * 8 / 10 / 3).max(10)
}

fn principal(number: usize, teams: usize) -> Principal {
    let own = number * 7 % teams;
    Principal {
        kind: PrincipalKind::User,
        id: format!("https://issuer.example|user-{number}").into(),
        tenant: "acme".parse().unwrap(),
        teams: vec![format!("team-{own}").parse().unwrap()],
        authn: Authn::Jwt,
        chain: Chain { workload: Some("spiffe://example/agent-host".into()), agent: None },
        issued_at: Some("2026-11-24T11:59:00Z".parse().unwrap()),
        expires_at: None,
        credential: None,
    }
}

fn model(number: usize) -> Candidate {
    let cluster: ClusterName = format!("cluster-{}", number % 2).parse().unwrap();
    let resource =
        Resource::Model { cluster: cluster.clone(), model: format!("model-{number}").parse().unwrap() };
    Candidate {
        resource,
        destination: Some(cluster.clone()),
        upstream: UpstreamRef::Cluster(cluster),
        can_open: None,
    }
}

fn files(shape: Shape) -> Vec<(String, Vec<u8>)> {
    let schema = embedded::FILES.iter().find(|(name, _)| *name == "tidegate.cedarschema").unwrap().1;
    let mut files = vec![
        ("tidegate.cedarschema".to_owned(), schema.as_bytes().to_vec()),
        ("entities.json".to_owned(), entities(shape).into_bytes()),
    ];
    let policies: Vec<String> = (0..shape.policies).map(|number| policy(number, shape)).collect();
    for (number, some) in policies.chunks(1_000).enumerate() {
        files.push((format!("{number:02}.cedar"), some.concat().into_bytes()));
    }
    files
}

/// Forbids for everything first, then of each ten: five permits for a team, one for users, one for a dataset, three forbids.
fn policy(number: usize, shape: Shape) -> String {
    let team = format!("Tidegate::Team::\"team-{}\"", number % teams(shape));
    let dataset = format!("Tidegate::Dataset::\"dataset-{}\"", number % DATASETS);
    let infer = "action in [Tidegate::Action::\"infer\", Tidegate::Action::\"embed\"]";
    let body = if number < shape.global {
        match number % 4 {
            0 => "forbid (principal, action in Tidegate::Action::\"send\", resource) unless \
                 { context has destination && context.destination in context.data.residency }"
                .to_owned(),
            1 => "forbid (principal, action, resource) when { context.data.level >= 3 } unless \
                 { context.protection.sealed && context has destination && context.destination.peer }"
                .to_owned(),
            2 => format!(
                "forbid (principal, action, resource) when {{ context.request has maxTokens && context.request.maxTokens > {} }}",
                100_000 + number
            ),
            _ => format!(
                "forbid (principal, action, resource) when {{ principal.tenant == \"tenant-{number}\" || \
                 context.peerAddress.isInRange(ip(\"192.0.2.{number}/32\")) }}"
            ),
        }
    } else {
        match number % 10 {
            0..=2 => {
                format!("permit (principal in {team}, {infer}, resource) when {{ context.data.level <= 2 }}")
            }
            3 | 4 => format!(
                "permit (principal is Tidegate::User in {team}, {infer}, resource in Tidegate::Cluster::\"cluster-{}\") \
                 when {{ context has purpose && [\"care\", \"trial\"].contains(context.purpose) }}",
                number % 2
            ),
            5 => format!(
                "permit (principal == Tidegate::User::\"https://issuer.example|user-{number}\", \
                 action == Tidegate::Action::\"infer\", resource == Tidegate::Model::\"cluster-0/model-0\")"
            ),
            6 => format!(
                "permit (principal in {team}, action in [Tidegate::Action::\"read\", Tidegate::Action::\"list\"], \
                 resource == {dataset}) when {{ context.data.level <= 1 }}"
            ),
            7 | 8 => format!(
                "forbid (principal in {team}, action == Tidegate::Action::\"infer\", resource) \
                 when {{ context.request.bytes > {} }}",
                1_000_000 + number
            ),
            _ => format!(
                "forbid (principal in {team}, action, resource in {dataset}) when {{ context.chain has agent }}"
            ),
        }
    };
    format!("@id(\"policy-{number}\") @owner(\"bench\") {body};\n")
}

fn entities(shape: Shape) -> String {
    let mut text = String::from("[");
    let mut add = |kind: &str, id: &str, parents: &[(&str, &str)], attrs: &str| {
        let parents: Vec<String> = parents
            .iter()
            .map(|(kind, id)| format!("{{\"type\":\"Tidegate::{kind}\",\"id\":\"{id}\"}}"))
            .collect();
        let comma = if text.len() > 1 { ",\n" } else { "" };
        write!(
            text,
            "{comma}{{\"uid\":{{\"type\":\"Tidegate::{kind}\",\"id\":\"{id}\"}},\"parents\":[{}],\"attrs\":{attrs}}}",
            parents.join(",")
        )
        .unwrap();
    };
    add("Jurisdiction", "world", &[], "{}");
    add("Jurisdiction", "EU", &[("Jurisdiction", "world")], "{}");
    add("Jurisdiction", "DE", &[("Jurisdiction", "EU")], "{}");
    add("Provider", "cloud", &[], "{}");
    for cluster in ["private", "cluster-0", "cluster-1"] {
        add("Cluster", cluster, &[("Jurisdiction", "DE"), ("Provider", "cloud")], "{\"peer\":false}");
    }
    for number in 0..MODELS {
        let cluster = format!("cluster-{}", number % 2);
        let name = format!("model-{number}");
        add(
            "Model",
            &format!("{cluster}/{name}"),
            &[("Cluster", &cluster)],
            &format!("{{\"name\":\"{name}\"}}"),
        );
    }
    for number in 0..teams(shape) {
        add("Team", &format!("team-{number}"), &[], "{}");
    }
    add("Store", "lake", &[("Jurisdiction", "DE")], "{}");
    let owner = "{\"owner\":{\"__entity\":{\"type\":\"Tidegate::Team\",\"id\":\"team-0\"}}}";
    let others = shape.entities.saturating_sub(teams(shape) + MODELS + 8).max(DATASETS);
    for number in 0..others {
        add("Dataset", &format!("dataset-{number}"), &[("Store", "lake")], owner);
    }
    text.push(']');
    text
}
