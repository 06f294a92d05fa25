//! The candidate beside the live policies follows its folder as they follow theirs.
//!
//! Whatever is wrong with it is told, and changes nothing of what is enforced: a candidate that does not load is none.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::audit::Audit;
use crate::audit::record::Event;
use crate::config::Config;
use crate::gateway::shadow::Shadow;
use crate::policy::release::Terms;
use crate::policy::{Origin, Place};
use crate::telemetry::{Gauge, Telemetry};

use super::look::{Look, SHORTEST, Seen};

/// The candidate of a running gateway: its thread, and the task that follows its folder.
#[derive(Debug)]
pub(super) struct Follow {
    shadow: Arc<Shadow>,
    notify: Arc<Notify>,
    task: JoinHandle<()>,
}

/// Starts the thread that asks, if the configuration names a folder for a candidate.
pub(super) fn open(config: &Config, audit: &Audit) -> anyhow::Result<Option<Arc<Shadow>>> {
    let Some(settings) = &config.file.policy.shadow else { return Ok(None) };
    let workers = match config.file.gateway.workers {
        0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        workers => usize::from(workers),
    };
    let shadow = Shadow::start(usize::from(settings.queue.get()), workers, audit.clone());
    Ok(Some(Arc::new(shadow.context("failed to start the shadow policies")?)))
}

/// Registers the readings.
pub(super) fn observe(telemetry: &Telemetry, shadow: &Shadow) {
    let metrics = telemetry.metrics();
    let gauge = |name, description| Gauge { name, unit: "{decision}", description };
    let figures = || Arc::clone(shadow.figures());
    let read = figures();
    let compared =
        gauge("tidegate.shadow.compared", "Decisions that the candidate was asked about since the start");
    metrics.observe(compared, move || read.compared());
    let read = figures();
    let dropped =
        gauge("tidegate.shadow.dropped", "Decisions that found no place in the queue of the candidate");
    metrics.observe(dropped, move || read.dropped());
    let read = figures();
    let failed = gauge("tidegate.shadow.failed", "Decisions on which the candidate's evaluation failed");
    metrics.observe(failed, move || read.failed());
    let read = figures();
    let diverged =
        gauge("tidegate.shadow.divergences", "Decisions that the candidate would have taken otherwise");
    metrics.observe_each(diverged, "tidegate.differs", move |note| {
        read.divergences().for_each(|(differs, count)| note(differs, count));
    });
}

/// Starts to follow the folder.
pub(super) fn follow(config: &Config, shadow: Option<Arc<Shadow>>, audit: Audit) -> Option<Follow> {
    let (shadow, settings) = (shadow?, config.file.policy.shadow.as_ref()?);
    let notify = Arc::new(Notify::new());
    let follower = Follower {
        directory: settings.directory.clone(),
        origin: Origin::new(Place::Folder(settings.directory.clone()), None, Terms::default()),
        config: Arc::new(config.clone()),
        shadow: Arc::clone(&shadow),
        audit,
        seen: NOTHING.to_owned(),
        fresh: None,
    };
    let task = tokio::spawn(follower.run(Arc::clone(&notify)));
    Some(Follow { shadow, notify, task })
}

impl Follow {
    /// Compares the folder now.
    pub(super) fn now(&self) {
        self.notify.notify_one();
    }

    /// Ends it; what was counted is in the journal then.
    pub(super) async fn close(self) {
        self.task.abort();
        let shadow = self.shadow;
        let _ = tokio::task::spawn_blocking(move || shadow.close()).await;
    }
}

/// What stands for a folder that is not there.
const NOTHING: &str = "no candidate";

struct Follower {
    directory: PathBuf,
    origin: Origin,
    config: Arc<Config>,
    shadow: Arc<Shadow>,
    audit: Audit,
    seen: String,
    fresh: Option<String>,
}

impl Follower {
    async fn run(mut self, notify: Arc<Notify>) {
        let mut poll = interval(self.config.file.policy.poll.get().max(SHORTEST));
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let forced = tokio::select! {
                _ = poll.tick() => false,
                () = notify.notified() => true,
            };
            self.compare(forced).await;
        }
    }

    async fn compare(&mut self, forced: bool) {
        if !self.directory.exists() {
            return self.none();
        }
        let (config, audit, origin) = (Arc::clone(&self.config), self.audit.clone(), self.origin.clone());
        let look = Look { seen: self.seen.clone(), fresh: self.fresh.take(), forced };
        match tokio::task::spawn_blocking(move || look.at(&origin, &config, &audit)).await {
            Ok(Seen::Same) => {}
            Ok(Seen::Fresh(hash)) => self.fresh = Some(hash),
            Ok(Seen::Sound(bundle)) if bundle.hash() == self.seen => {}
            Ok(Seen::Sound(bundle)) => {
                self.seen = bundle.hash().to_owned();
                tracing::info!(candidate = self.seen, "candidate policies are compared");
                self.tell(Some(&self.seen), &[]);
                self.shadow.replace(Some(Arc::from(bundle)), String::new());
            }
            Ok(Seen::Broken { hash, problems, retry }) => {
                let shown = problems.join("\n");
                if *self.shadow.problem() != shown {
                    tracing::warn!(
                        problems = problems.join("; "),
                        "candidate policies refused: none are compared"
                    );
                    self.tell((hash.len() == 64).then_some(&hash), &problems);
                }
                self.shadow.replace(None, shown);
                self.seen = if retry { String::new() } else { hash };
            }
            Err(error) => tracing::error!(%error, "a look at candidate policies failed"),
        }
    }

    /// The folder is not there: nothing is compared, and nothing is wrong.
    fn none(&mut self) {
        if self.seen != NOTHING {
            tracing::info!("there are no candidate policies any more");
            self.tell(None, &[]);
            self.shadow.replace(None, String::new());
            (self.seen, self.fresh) = (NOTHING.to_owned(), None);
        }
    }

    fn tell(&self, candidate: Option<&String>, problems: &[String]) {
        self.audit.event(&Event::ShadowCandidate {
            candidate: candidate.map(|hash| hash.as_str().into()),
            problems: problems.iter().map(|problem| problem.as_str().into()).collect(),
        });
    }
}
