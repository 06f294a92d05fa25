//! Policies and entities follow their files: contents are compared by hash at each poll and at once on SIGHUP.
//!
//! A set that does not load, or lacks an entity that the configuration names, changes nothing: the old one goes
//! on, the log and `/readyz` say what is wrong. Watching inodes is not enough (symlink swaps), so hashes it is.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::Status;
use crate::audit::Audit;
use crate::audit::record::Event;
use crate::config::{self, Config};
use crate::gateway::{Gateway, Snapshot};
use crate::model::Problems;
use crate::policy::{self, Bundle};
use crate::telemetry::Telemetry;

/// Asks for a comparison now; dropping it ends the task.
#[derive(Debug)]
pub(super) struct Trigger {
    notify: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Trigger {
    pub(super) fn now(&self) {
        self.notify.notify_one();
    }
}

impl Drop for Trigger {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts to follow the files.
pub(super) fn start(
    config: Config,
    gateway: Arc<Gateway>,
    audit: Audit,
    telemetry: Arc<Telemetry>,
    status: Arc<Status>,
) -> Trigger {
    let notify = Arc::new(Notify::new());
    let seen = gateway.snapshot().bundle.hash().to_string();
    let follower = Follower { config: Arc::new(config), gateway, audit, telemetry, status, seen };
    let task = tokio::spawn(follower.run(Arc::clone(&notify)));
    Trigger { notify, task }
}

struct Follower {
    config: Arc<Config>,
    gateway: Arc<Gateway>,
    audit: Audit,
    telemetry: Arc<Telemetry>,
    status: Arc<Status>,
    /// The contents that were looked at last, accepted or not: one verdict for each change.
    seen: String,
}

impl Follower {
    async fn run(mut self, notify: Arc<Notify>) {
        let mut poll = interval(self.config.file.policy.poll.get());
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let actor = tokio::select! {
                _ = poll.tick() => "file",
                () = notify.notified() => "signal",
            };
            self.compare(actor).await;
        }
    }

    async fn compare(&mut self, actor: &'static str) {
        let config = Arc::clone(&self.config);
        let seen = self.seen.clone();
        // Parsing and validating takes long for a large set, so it is kept off the workers that serve.
        let looked = tokio::task::spawn_blocking(move || look(&config, &seen)).await;
        match looked {
            Ok(None) => {}
            Ok(Some((hash, result))) => {
                self.seen = hash;
                self.adopt(actor, result);
            }
            Err(error) => tracing::error!(%error, "a reload of policies failed"),
        }
    }

    fn adopt(&self, actor: &'static str, result: Result<Bundle, Problems>) {
        let snapshot = self.gateway.snapshot();
        let old = snapshot.bundle.hash();
        match result {
            Ok(bundle) => {
                let new = bundle.hash().to_string();
                // A bundle that cannot be archived could never be explained to an auditor.
                if let Err(error) = self.audit.archive(&new, bundle.files()) {
                    self.refuse(actor, old, &[error.to_string()]);
                    return;
                }
                self.gateway.replace(Snapshot { bundle: Arc::new(bundle), ..Snapshot::clone(&snapshot) });
                self.status.reloaded(None);
                self.telemetry.metrics().reloaded(true);
                tracing::info!(old, new, actor, "policies reloaded");
                self.audit.event(&Event::Reload {
                    actor: actor.into(),
                    old: Some(old.into()),
                    new: Some(new.into()),
                    problems: Vec::new(),
                });
            }
            Err(problems) => {
                let texts: Vec<String> = problems.into_vec().iter().map(ToString::to_string).collect();
                self.refuse(actor, old, &texts);
            }
        }
    }

    fn refuse(&self, actor: &'static str, old: &str, problems: &[String]) {
        self.telemetry.metrics().reloaded(false);
        self.status.reloaded(Some(problems.join("\n")));
        tracing::error!(
            bundle = old,
            actor,
            problems = problems.join("; "),
            "new policies refused, the old ones stay"
        );
        self.audit.event(&Event::Reload {
            actor: actor.into(),
            old: Some(old.into()),
            new: None,
            problems: problems.iter().map(|problem| problem.as_str().into()).collect(),
        });
    }
}

/// The folder's hash and, if it is not the one seen last, what loading it gave.
fn look(config: &Config, seen: &str) -> Option<(String, Result<Bundle, Problems>)> {
    let directory = &config.file.policy.directory;
    let hash = policy::content_hash(directory);
    if hash == seen {
        return None;
    }
    let loaded = Bundle::load(directory).and_then(|bundle| {
        let problems = config::entities(config, &bundle);
        if problems.is_empty() { Ok(bundle) } else { Err(problems) }
    });
    Some((hash, loaded))
}
