//! The listener's certificate, key, authorities and revocation lists follow their files.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use crate::audit::record::{Change, Event};
use crate::listen::TlsSettings;
use crate::model::{Clock as _, SystemClock};
use crate::net::{CertificateFacts, CrlError, ServerTls, ServerTlsFiles, TlsChange, TlsError};

use super::{Followed, Hash, Reports};

/// The files behind the data listener's TLS.
pub(super) struct Certificates {
    tls: ServerTls,
    files: ServerTlsFiles,
    poll: Duration,
    /// SHA-256 of each file that may be shown, by its path, as it was taken last.
    shown: BTreeMap<String, String>,
    /// What was told last: what is tried again each second is not told each second.
    told: Vec<String>,
    reports: Reports,
}

impl Certificates {
    pub(super) fn new(tls: ServerTls, settings: &TlsSettings, reports: Reports) -> Self {
        let files = settings.files();
        let shown = shown(&files);
        Self { tls, files, poll: settings.poll.get(), shown, told: Vec::new(), reports }
    }

    /// Everything that is wrong with new files.
    fn problems(&self) -> Vec<String> {
        let now = SystemClock.now();
        let problems = self.files.problems(now);
        // Whether a list is new and too old, or has become so, is known to `ServerTls::reload` alone.
        let stale = |error: &TlsError| matches!(error, TlsError::Crl(CrlError::Stale { .. }));
        let mut found: Vec<String> = problems
            .iter()
            .filter(|(_, error)| !stale(error))
            .map(|(setting, error)| format!("listen.tls.{setting}: {}", error.describe()))
            .collect();
        if let Ok(facts) = CertificateFacts::read(&self.files.certificate)
            && let Some(reason) = facts.outside_validity(now)
        {
            found.push(format!("listen.tls.certificate: `{}` {reason}", self.files.certificate.display()));
        }
        found
    }

    fn reload(&self) -> Result<TlsChange, Vec<String>> {
        let problems = self.problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        self.tls.reload(&self.files, SystemClock.now()).map_err(|error| vec![error.describe()])
    }
}

impl Followed for Certificates {
    const NAME: &'static str = "certificates";

    fn poll(&self) -> Duration {
        self.poll
    }

    fn hash(&self) -> Hash {
        self.files.content_hash()
    }

    fn loaded(&self) -> Hash {
        self.tls.content_hash()
    }

    fn is_due(&self) -> bool {
        self.tls.is_outdated(SystemClock.now())
    }

    fn take(&mut self, actor: &'static str) -> bool {
        let new = shown(&self.files);
        let files = changes(&self.shown, &new);
        let reloaded = self.reload();
        let (drained, problems) = match &reloaded {
            Ok(TlsChange::Trust) if actor == "clock" => {
                let problem = "a revocation list is too old: every client certificate is refused".to_owned();
                tracing::error!(actor, problem);
                (true, vec![problem])
            }
            Ok(change) => {
                let drained = *change == TlsChange::Trust;
                tracing::info!(actor, drained, "certificates reloaded");
                (drained, Vec::new())
            }
            Err(problems) => (false, problems.clone()),
        };
        if reloaded.is_err() && actor == "clock" && problems == self.told {
            return false;
        }
        if reloaded.is_err() {
            let text = problems.join("; ");
            tracing::error!(actor, problems = text, "new certificates refused, the old ones stay");
        }
        self.told.clone_from(&problems);
        self.reports.reloaded("certificates", &problems);
        self.reports.audit.event(&Event::CertificatesReload {
            actor: actor.into(),
            drained,
            files,
            problems: problems.into_iter().map(Into::into).collect(),
        });
        if reloaded.is_ok() {
            self.shown = new;
        }
        reloaded.is_ok()
    }
}

fn shown(files: &ServerTlsFiles) -> BTreeMap<String, String> {
    files
        .public()
        .filter_map(|(_, path)| {
            let digest = digest(&SHA256, &std::fs::read(path).ok()?);
            Some((path.display().to_string(), crate::model::hex(digest.as_ref())))
        })
        .collect()
}

fn changes(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<Change<'static>> {
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    let of = |map: &BTreeMap<String, String>, name: &String| map.get(name).map(|hash| hash.clone().into());
    names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| Change { name: name.clone().into(), old: of(old, name), new: of(new, name) })
        .collect()
}
