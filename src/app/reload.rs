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
use crate::audit::record::{Change, Event};
use crate::config::Config;
use crate::gateway::{Gateway, Snapshot};
use crate::policy::{Bundle, Origin};
use crate::telemetry::Telemetry;

use super::look::{Look, SHORTEST, Seen};
use super::release::{self, Expiry};

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
    (config, origin): (Config, Origin),
    gateway: Arc<Gateway>,
    audit: Audit,
    telemetry: Arc<Telemetry>,
    status: Arc<Status>,
) -> Trigger {
    let notify = Arc::new(Notify::new());
    let seen = gateway.snapshot().bundle.content().to_owned();
    let follower = Follower {
        config: Arc::new(config),
        gateway,
        audit,
        telemetry,
        status,
        seen,
        origin,
        expiry: Expiry::default(),
        fresh: None,
    };
    let task = tokio::spawn(follower.run(Arc::clone(&notify)));
    Trigger { notify, task }
}

struct Follower {
    config: Arc<Config>,
    gateway: Arc<Gateway>,
    audit: Audit,
    telemetry: Arc<Telemetry>,
    status: Arc<Status>,
    /// The contents of the last verdict, accepted or not: one verdict for each change.
    seen: String,
    origin: Origin,
    expiry: Expiry,
    /// Contents that the last poll met for the first time: they are looked at when a second poll finds them unchanged, so
    /// that half a copy is not taken for a set.
    fresh: Option<String>,
}

impl Follower {
    async fn run(mut self, notify: Arc<Notify>) {
        let mut poll = interval(self.config.file.policy.poll.get().max(SHORTEST));
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = poll.tick() => self.compare("file").await,
                () = notify.notified() => self.compare("signal").await,
            }
        }
    }

    async fn compare(&mut self, actor: &'static str) {
        self.expiry.look(&self.audit, &self.gateway.snapshot().bundle);
        let (config, audit) = (Arc::clone(&self.config), self.audit.clone());
        let origin = self.origin.clone();
        let look = Look { seen: self.seen.clone(), fresh: self.fresh.take(), forced: actor == "signal" };
        // Parsing, validating and archiving take long for a large set, so they are kept off the workers that serve.
        match tokio::task::spawn_blocking(move || look.at(&origin, &config, &audit)).await {
            Ok(Seen::Same) => {}
            Ok(Seen::Fresh(hash)) => self.fresh = Some(hash),
            Ok(Seen::Sound(bundle)) => self.adopt(actor, *bundle),
            Ok(Seen::Broken { hash, problems, retry }) => {
                self.refuse(actor, &hash, &problems);
                if !retry {
                    self.seen = hash;
                }
            }
            Err(error) => tracing::error!(%error, "a reload of policies failed"),
        }
    }

    fn adopt(&mut self, actor: &'static str, bundle: Bundle) {
        // Without it an older release could be served after the next start.
        if let Err(error) = release::remember(&self.config, &bundle) {
            let problem = format!("the serial of the bundle cannot be kept: {error}");
            return self.refuse(actor, bundle.hash(), &[problem]);
        }
        let snapshot = self.gateway.snapshot();
        let content = bundle.content().to_owned();
        if content != snapshot.bundle.content() {
            release::announce(&self.audit, &bundle);
        }
        let (old, new) = (snapshot.bundle.hash(), bundle.hash().to_owned());
        self.status.reloaded(None);
        if content != snapshot.bundle.content() {
            let files = Change::between(snapshot.bundle.files(), bundle.files());
            self.gateway.replace(Snapshot { bundle: Arc::new(bundle), ..Snapshot::clone(&snapshot) });
            self.telemetry.metrics().reloaded(true);
            tracing::info!(old, new, actor, "policies reloaded");
            self.audit.event(&Event::Reload {
                actor: actor.into(),
                old: Some(old.into()),
                new: Some(new.as_str().into()),
                files,
                problems: Vec::new(),
            });
        }
        self.seen = content;
    }

    fn refuse(&self, actor: &'static str, hash: &str, problems: &[String]) {
        let snapshot = self.gateway.snapshot();
        let old = snapshot.bundle.hash();
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
            // Contents that could not be read whole have no hash.
            new: hash.split(':').next().filter(|hash| hash.len() == 64).map(Into::into),
            files: Vec::new(),
            problems: problems.iter().map(|problem| problem.as_str().into()).collect(),
        });
    }
}
