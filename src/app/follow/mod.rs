//! Files that change while the gateway serves, besides the policies: certificates and revocations.
//!
//! The rule is that of policies: contents are compared by hash at each poll, at once on SIGHUP. What a poll meets for the first time is
//! looked at when a second one finds it unchanged, so that half a copy is not taken for a whole. What is broken changes nothing.

mod certificates;
mod expiry;
mod revocations;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::Status;
use crate::audit::Audit;
use crate::config::Config;
use crate::gateway::Gateway;
use crate::net::ServerTls;
use crate::telemetry::Telemetry;

use super::look::SHORTEST;
use certificates::Certificates;
use expiry::Expiry;
use revocations::Revocations;

/// SHA-256 of everything that is followed together.
type Hash = [u8; 32];

/// A set of files that is followed. All calls may block.
trait Followed: Send + 'static {
    /// What it is called in the log.
    const NAME: &'static str;

    /// Time between two looks.
    fn poll(&self) -> Duration;

    /// Hash of the files' contents now.
    fn hash(&self) -> Hash;

    /// Hash of the contents that were loaded at the start.
    fn loaded(&self) -> Hash {
        self.hash()
    }

    /// Whether it is to be read again although no file changed.
    fn is_due(&self) -> bool {
        false
    }

    /// Takes the files or refuses them, and says so; true if they were taken. `actor`: who asked.
    fn take(&mut self, actor: &'static str) -> bool;

    /// What is to be done at each look besides.
    fn look(&mut self) {}
}

/// Where followers write what happens.
#[derive(Debug, Clone)]
struct Reports {
    audit: Audit,
    telemetry: Arc<Telemetry>,
    status: Arc<Status>,
}

impl Reports {
    /// The outcome of a reload, for `/readyz` and the metrics; `name` is one of [`Status`]'s.
    fn reloaded(&self, name: &'static str, problems: &[String]) {
        let accepted = problems.is_empty();
        self.status.reloaded_other(name, (!accepted).then(|| problems.join("\n")));
        self.telemetry.metrics().reloaded_kind(name, accepted);
    }
}

/// All followers; dropping it ends them.
#[derive(Debug)]
pub(super) struct Following(Vec<(Arc<Notify>, JoinHandle<()>)>);

impl Following {
    /// Starts to follow the listener's certificates, if it has any, and the revocations, if there is a file of them.
    pub(super) fn start(
        config: &Config,
        gateway: &Arc<Gateway>,
        tls: Option<&ServerTls>,
        (audit, telemetry, status): (&Audit, &Arc<Telemetry>, &Arc<Status>),
    ) -> Self {
        let reports =
            Reports { audit: audit.clone(), telemetry: Arc::clone(telemetry), status: Arc::clone(status) };
        let mut all = Self(Vec::new());
        all.follow(Expiry::new(config, reports.clone()));
        if let Some((tls, settings)) = tls.zip(config.file.listen.tls.as_ref()) {
            all.follow(Certificates::new(tls.clone(), settings, reports.clone()));
        }
        if let Some(settings) = &config.file.identity.revoked {
            let identity = Arc::clone(&gateway.snapshot().identity);
            all.follow(Revocations::new(settings, identity, reports));
        }
        all
    }

    /// Looks at all files now.
    pub(super) fn now(&self) {
        self.0.iter().for_each(|(notify, _)| notify.notify_one());
    }

    fn follow(&mut self, followed: impl Followed) {
        let notify = Arc::new(Notify::new());
        let task = tokio::spawn(follow(Follower::new(followed), Arc::clone(&notify)));
        self.0.push((notify, task));
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.iter().for_each(|(_, task)| task.abort());
    }
}

/// Looks again and again. Files are read off the workers that serve.
async fn follow<F: Followed>(mut follower: Follower<F>, notify: Arc<Notify>) {
    let mut poll = interval(follower.followed.poll().max(SHORTEST));
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let actor = tokio::select! {
            _ = poll.tick() => "file",
            () = notify.notified() => "signal",
        };
        let looked = tokio::task::spawn_blocking(move || {
            follower.look(actor);
            follower
        });
        follower = match looked.await {
            Ok(follower) => follower,
            Err(error) => {
                tracing::error!(%error, "{} are followed no longer: restart the gateway", F::NAME);
                return;
            }
        };
    }
}

/// What has been seen of a set of files.
struct Follower<F> {
    followed: F,
    /// The contents of the last verdict: one verdict for each change.
    seen: Hash,
    /// Whether that verdict was yes.
    taken: bool,
    /// Contents that the last poll met for the first time.
    fresh: Option<Hash>,
}

impl<F: Followed> Follower<F> {
    fn new(followed: F) -> Self {
        Self { seen: followed.loaded(), taken: true, fresh: None, followed }
    }

    fn look(&mut self, actor: &'static str) {
        let (hash, fresh) = (self.followed.hash(), self.fresh.take());
        let (signal, due) = (actor == "signal", self.followed.is_due());
        if due || (hash != self.seen && (signal || fresh == Some(hash))) || (signal && !self.taken) {
            self.taken = self.followed.take(if due { "clock" } else { actor });
            self.seen = hash;
        } else if hash != self.seen {
            self.fresh = Some(hash);
        }
        self.followed.look();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contents that a test sets; 0 is broken.
    struct Set {
        now: u8,
        due: bool,
        takes: Vec<(u8, &'static str)>,
    }

    impl Followed for Set {
        const NAME: &'static str = "sets";

        fn poll(&self) -> Duration {
            Duration::from_secs(1)
        }

        fn hash(&self) -> Hash {
            [self.now; 32]
        }

        fn is_due(&self) -> bool {
            self.due
        }

        fn take(&mut self, actor: &'static str) -> bool {
            self.takes.push((self.now, actor));
            self.due = false;
            self.now != 0
        }
    }

    #[test]
    fn contents_are_taken_at_their_second_look_and_once() {
        let mut follower = Follower::new(Set { now: 1, due: false, takes: Vec::new() });
        for now in [1, 2, 3, 3, 3, 0, 0, 0, 3, 3] {
            follower.followed.now = now;
            follower.look("file");
        }
        assert_eq!(follower.followed.takes, [(3, "file"), (0, "file"), (3, "file")]);
    }

    #[test]
    fn a_signal_does_not_wait_and_asks_again_about_what_was_refused() {
        let mut follower = Follower::new(Set { now: 1, due: false, takes: Vec::new() });
        for now in [1, 2, 2, 0, 0] {
            follower.followed.now = now;
            follower.look("signal");
        }
        assert_eq!(follower.followed.takes, [(2, "signal"), (0, "signal"), (0, "signal")]);
        follower.followed.due = true;
        follower.look("file");
        assert_eq!(follower.followed.takes.last(), Some(&(0, "clock")));
    }
}
