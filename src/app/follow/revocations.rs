//! The list of revocations follows its file.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use crate::audit::record::Event;
use crate::identity::{Identity, RevokedSettings};
use crate::telemetry::Gauge;

use super::{Followed, Hash, Reports};

/// The file of `[identity.revoked]`.
pub(super) struct Revocations {
    settings: RevokedSettings,
    identity: Arc<Identity>,
    reports: Reports,
}

impl Revocations {
    pub(super) fn new(settings: &RevokedSettings, identity: Arc<Identity>, reports: Reports) -> Self {
        let read = Arc::clone(&identity);
        let gauge = Gauge {
            name: "tidegate.revocations",
            unit: "{entry}",
            description: "Entries of the list of revocations that is in force",
        };
        let entries = move || u64::try_from(read.revocations().entries).unwrap_or(u64::MAX);
        reports.telemetry.metrics().observe(gauge, entries);
        Self { settings: settings.clone(), identity, reports }
    }
}

impl Followed for Revocations {
    const NAME: &'static str = "revocations";

    fn poll(&self) -> Duration {
        self.settings.poll.get()
    }

    fn hash(&self) -> Hash {
        let mut hash = Hash::default();
        if let Ok(bytes) = std::fs::read(&self.settings.file) {
            hash.copy_from_slice(digest(&SHA256, &bytes).as_ref());
        }
        hash
    }

    fn loaded(&self) -> Hash {
        let mut hash = Hash::default();
        let text = self.identity.revocations().hash.to_string();
        for (to, pair) in hash.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
            *to = std::str::from_utf8(pair)
                .ok()
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
                .unwrap_or(0);
        }
        hash
    }

    fn take(&mut self, actor: &'static str) -> bool {
        let problems: Vec<String> = match self.identity.read_revocations(&self.settings) {
            Ok(()) => Vec::new(),
            Err(problems) => problems.into_vec().iter().map(ToString::to_string).collect(),
        };
        let now = self.identity.revocations();
        if problems.is_empty() {
            tracing::info!(actor, entries = now.entries, "revocations reloaded");
        } else {
            let text = problems.join("; ");
            tracing::error!(actor, problems = text, "new revocations refused, the old ones stay");
        }
        self.reports.reloaded("revocations", &problems);
        self.reports.audit.event(&Event::RevocationsReload {
            actor: actor.into(),
            hash: now.hash.as_ref().into(),
            entries: u64::try_from(now.entries).unwrap_or(u64::MAX),
            problems: problems.iter().map(|problem| problem.as_str().into()).collect(),
        });
        problems.is_empty()
    }
}
