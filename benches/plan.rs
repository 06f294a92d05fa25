//! `tidegate policy plan` over a large journal: recorded decisions a second, read from segments, parsed and asked of the new policies.
//!
//! `cargo bench --bench plan [-- RECORDS [POLICIES [DIR]]]`: 200,000 decisions, each of another principal, by the shipped policies and 100 more, in
//! segments below DIR (default: a folder below target/). Each round is what the command does with its journal; the records name the old bundle, as
//! those of a gateway do that serves it, so that only the new policies are asked.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "a measurement may panic and prints its figures"
)]

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tidegate::audit::frame::Kind;
use tidegate::audit::reader::{ReadError, Reader};
use tidegate::audit::record::{
    Decision, Ending, Entity, Evaluation, Links, Marking, Outcome, Party, Request, Verdict,
};
use tidegate::audit::subjects::Opener;
use tidegate::audit::{Audit, Instance, Settings};
use tidegate::model::{
    Action, AuditMode, Authn, Candidate, Chain, ClusterName, Label, Level, Origin, Principal, PrincipalKind,
    Protection, RecordId, Resource, UpstreamRef,
};
use tidegate::policy::plan::{Batch, Jobs, Judge, Replay, Restore, replay};
use tidegate::policy::{AuthzRequest, Bundle, embedded};

const TEAMS: [&str; 4] = ["research", "clinical", "marketing", "ops"];
const LEVELS: [Level; 4] = [Level::Public, Level::Internal, Level::Confidential, Level::Restricted];
const ROUNDS: usize = 5;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let records: usize = arguments.next().map_or(200_000, |text| text.parse().unwrap());
    let policies: usize = arguments.next().map_or(100, |text| text.parse().unwrap());
    let journal = arguments.next().map_or_else(|| PathBuf::from("target/bench-plan"), PathBuf::from);
    let _ = fs::remove_dir_all(&journal);
    let (old, new) = (bundle(policies, "level <= 1"), bundle(policies, "level <= 2"));
    write(&journal, &old, records);

    let bytes: u64 =
        fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    println!("{records} decisions, {} MiB of segments, {} policies", bytes >> 20, new.policies().len());
    println!("threads   decisions/s, median and best of {ROUNDS}   CPU µs a decision");
    let mut first = None;
    for threads in [1, 2] {
        let mut rounds: Vec<(f64, f64)> = (0..ROUNDS)
            .map(|_| {
                // Fresh bundles: the command has no slices of entities from a round before.
                let (old, new) = (bundle(policies, "level <= 1"), bundle(policies, "level <= 2"));
                let (cpu, began) = (cpu_time(), Instant::now());
                let found = plan(&journal, &old, &new, threads);
                let (took, cpu) = (began.elapsed(), cpu_time() - cpu);
                assert_eq!(found.replayed, records as u64);
                assert!(found.looser > 0 && found.unreplayed.is_empty());
                assert_eq!(first.get_or_insert_with(|| found.clone()), &found);
                (records as f64 / took.as_secs_f64(), cpu.as_secs_f64() * 1e6 / records as f64)
            })
            .collect();
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (median, best) = (rounds[ROUNDS / 2], rounds[ROUNDS - 1]);
        println!("{threads:>7}   {:>11.0}   {:>8.0}                 {:>8.1}", median.0, best.0, median.1);
    }
    let _ = fs::remove_dir_all(&journal);
}

/// What the command does with its journal.
fn plan(journal: &Path, old: &Bundle, new: &Bundle, threads: usize) -> Replay {
    let judge = Judge::new(old, new);
    let mut reader = Reader::open(journal, None).unwrap();
    let restore = || -> Restore<'_> {
        let mut opener = Opener::new(journal);
        Box::new(move |payload| opener.restored(payload))
    };
    let fill = |batch: &mut Batch| -> Result<(), ReadError> {
        while !batch.is_full()
            && let Some(stored) = reader.read_next()?
        {
            if matches!(stored.kind, Kind::Allow | Kind::Refuse) {
                batch.push(stored.payload);
            }
        }
        Ok(())
    };
    replay(&judge, Jobs { threads, restore: &restore }, fill).unwrap()
}

/// Of all threads, as the kernel counts it.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    // Fields 14 and 15, counted from behind the program's name: ticks of 10 ms (proc_pid_stat(5)).
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// The shipped policies with marketing up to another level, and more that name teams, models and purposes in turn.
fn bundle(more: usize, level: &str) -> Bundle {
    let mut files: Vec<(String, Vec<u8>)> = embedded::FILES
        .iter()
        .map(|(name, text)| ((*name).to_owned(), text.replacen("level <= 1", level, 1).into_bytes()))
        .collect();
    let mut text = String::new();
    for number in 0..more {
        let team = TEAMS[number % TEAMS.len()];
        writeln!(
            text,
            "@id(\"more-{number}\") permit (principal in Tidegate::Team::\"{team}\", \
             action == Tidegate::Action::\"{}\", resource) when {{ context.data.level <= {} && \
             context has purpose && context.purpose == \"purpose-{number}\" }};",
            if number.is_multiple_of(3) { "infer" } else { "read" },
            number % 3
        )
        .unwrap();
    }
    files.push(("90-more.cedar".to_owned(), text.into_bytes()));
    Bundle::from_files("bench", files).map_err(|problems| problems.to_string()).unwrap()
}

fn write(journal: &Path, bundle: &Bundle, records: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let settings = Settings { directory: journal.to_owned(), ..Settings::default() };
    let audit = {
        let _inside = runtime.enter();
        Audit::open(&settings, Instance { name: "bench".into(), version: "0" }).unwrap()
    };
    runtime.block_on(async {
        for number in 0..records {
            let mut draft = loop {
                match audit.draft(RecordId::new(), AuditMode::BestEffort) {
                    Ok(draft) => break draft,
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            };
            draft.decision(&decision(bundle, number)).await.unwrap();
            draft.close(&Outcome { status: Some(200), ..Outcome::bare(Ending::Complete) });
        }
        audit.close().await;
    });
}

fn principal(number: usize) -> Principal {
    Principal {
        kind: PrincipalKind::User,
        id: format!("https://issuer.example|user-{number}").into(),
        tenant: "acme".parse().unwrap(),
        teams: vec![TEAMS[number % 3].parse().unwrap(), format!("group-{}", number % 50).parse().unwrap()],
        authn: Authn::Jwt,
        chain: Chain { workload: Some("spiffe://example/agent-host".into()), agent: None },
        issued_at: Some("2026-11-24T11:59:00Z".parse().unwrap()),
        expires_at: None,
        credential: None,
    }
}

/// The record that a gateway writes: mostly one place, at times two, of four levels.
fn decision(bundle: &Bundle, number: usize) -> Decision<'static> {
    let principal = principal(number);
    let level = LEVELS[number / 3 % 4];
    let residency = ["EU".parse().unwrap()].into_iter().collect();
    let label = Label { level, residency, origin: Origin::Route };
    let asked = AuthzRequest {
        principal: &principal,
        action: Action::Infer,
        label: &label,
        method: "POST",
        path: "/v1/chat/completions",
        bytes: 1_000 + number as u64 % 1_000,
        stream: true,
        max_tokens: Some(512),
        peer: [10, 0, 0, 7].into(),
        now: "2026-11-24T12:00:00.123Z".parse().unwrap(),
        purpose: Some("care"),
    };
    let places: &[&str] = if number.is_multiple_of(5) { &["us", "eu"] } else { &["eu"] };
    let candidates: Vec<Candidate> = places.iter().map(|cluster| model(cluster)).collect();
    let decided = bundle.decide(&asked, &candidates, &[Protection::None, Protection::Sealed]);
    let (code, policies, evaluations, request) = match &decided {
        Ok(permit) => (None, permit.policies(), permit.evaluations(), permit.request()),
        Err(denial) => (
            Some(Cow::Borrowed(denial.reason.code())),
            denial.policies.as_slice(),
            denial.evaluations.as_slice(),
            denial.request.as_ref(),
        ),
    };
    let evaluations: Vec<Evaluation<'static>> = evaluations.iter().map(evaluation).collect();
    let last = evaluations.last().cloned().unwrap();
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
            credential: Some("6f".repeat(32).into()),
        },
        chain: Links { workload: Some("spiffe://example/agent-host".into()), agent: None },
        action: Some("infer".into()),
        resource: Some(last.resource),
        destination: last.destination,
        label: Some(Marking {
            level,
            residency: Cow::Owned(label.residency.clone()),
            origin: "route".into(),
        }),
        protection: Some(last.protection),
        request: Request {
            method: "POST".into(),
            host: "gateway.example".into(),
            path: "/v1/chat/completions".into(),
            query: vec![],
            bytes: asked.bytes,
            version: "2".into(),
            user_agent: Some("openai-python/1.0".into()),
        },
        peer: "10.0.0.7:4711".parse().unwrap(),
        context: Cow::Owned(serde_json::to_value(request).unwrap().as_object().unwrap().clone()),
        evaluations,
        bundle: bundle.hash().to_owned().into(),
        upstream: None,
        seal: None,
        opened: None,
        body_digest: Some("8f".repeat(32).into()),
        trace_id: Some("4b".repeat(16).into()),
    }
}

fn evaluation(e: &tidegate::policy::Evaluation) -> Evaluation<'static> {
    Evaluation {
        resource: Entity { kind: e.resource.kind().into(), id: e.resource.id().into() },
        destination: e.destination.as_ref().map(|name| name.as_str().to_owned().into()),
        protection: e.protection.name().into(),
        allowed: e.allowed,
        policies: e.policies.clone().into(),
        errors: e.errors.clone().into(),
    }
}

fn model(cluster: &str) -> Candidate {
    let cluster: ClusterName = cluster.parse().unwrap();
    Candidate {
        resource: Resource::Model { cluster: cluster.clone(), model: "tide-small".parse().unwrap() },
        destination: Some(cluster.clone()),
        upstream: UpstreamRef::Cluster(cluster),
        can_open: None,
    }
}
