//! Alarms before certificates end: at 30, 7 and 1 days, and when they have ended; each once, in the log, the journal and as a metric.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::audit::record::Event;
use crate::config::Config;
use crate::model::{Clock as _, SystemClock};
use crate::net::CertificateFacts;
use crate::telemetry::Gauge;

use super::{Followed, Hash, Reports};

/// Days before the end at which somebody is told.
const BOUNDS: [u16; 4] = [30, 7, 1, 0];
/// Seconds of a day.
const DAY: i64 = 86_400;
/// How often the files are read for this.
const EVERY: Duration = Duration::from_secs(10);

/// The certificates whose end is watched: the listener's, its authorities, and those shown to far sides.
pub(super) struct Expiry {
    watched: Arc<Mutex<Vec<Watched>>>,
    reports: Reports,
}

struct Watched {
    /// The setting that names the file.
    place: String,
    path: PathBuf,
    /// When the first certificate of the file ends; none while it cannot be read.
    ends: Option<Timestamp>,
    /// The lowest bound that was told of for this end.
    told: Option<u16>,
}

impl Watched {
    /// Reads the file again. The bound that is to be told of now, if any.
    fn read(&mut self, now: Timestamp) -> Option<(u16, Timestamp)> {
        // What cannot be read has been told of by whoever uses it.
        let facts = CertificateFacts::read_all(&self.path).ok()?;
        let ends = facts.iter().map(|facts| facts.not_after).min();
        if ends != self.ends {
            (self.ends, self.told) = (ends, None);
        }
        let ends = ends?;
        let bound = bound(ends, now)?;
        let news = self.told.is_none_or(|told| bound < told);
        self.told = Some(bound);
        news.then_some((bound, ends))
    }
}

/// The lowest bound that is passed.
fn bound(ends: Timestamp, now: Timestamp) -> Option<u16> {
    let left = ends.as_second().saturating_sub(now.as_second());
    BOUNDS.into_iter().rfind(|days| left <= i64::from(*days) * DAY)
}

impl Expiry {
    /// Watches what the configuration names, and registers the metric.
    pub(super) fn new(config: &Config, reports: Reports) -> Self {
        let watched: Vec<Watched> = places(config)
            .into_iter()
            .map(|(place, path)| Watched { place, path, ends: None, told: None })
            .collect();
        let watched = Arc::new(Mutex::new(watched));
        let read = Arc::clone(&watched);
        let gauge = Gauge {
            name: "tidegate.certificate.expiry",
            unit: "s",
            description: "Time until the first certificate of a file ends; 0 if it has",
        };
        reports.telemetry.metrics().observe_each(gauge, "tidegate.certificate", move |note| {
            let now = SystemClock.now().as_second();
            for watched in read.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let left = watched.ends.map(|ends| ends.as_second().saturating_sub(now));
                left.into_iter().for_each(|left| note(&watched.place, u64::try_from(left).unwrap_or(0)));
            }
        });
        Self { watched, reports }
    }
}

impl Followed for Expiry {
    const NAME: &'static str = "ends of certificates";

    fn poll(&self) -> Duration {
        EVERY
    }

    /// Time passes also where no file changes, so every look reads them all.
    fn hash(&self) -> Hash {
        Hash::default()
    }

    fn take(&mut self, _: &'static str) -> bool {
        true
    }

    fn look(&mut self) {
        let now = SystemClock.now();
        for watched in self.watched.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            let Some((days, not_after)) = watched.read(now) else { continue };
            let certificate = watched.place.as_str();
            if days > 1 {
                tracing::warn!(certificate, %not_after, days, "a certificate ends soon");
            } else {
                tracing::error!(certificate, %not_after, days, "a certificate ends within a day, or has ended");
            }
            let event = Event::CertificateExpiring { certificate: certificate.into(), days, not_after };
            self.reports.audit.event(&event);
        }
    }
}

fn places(config: &Config) -> Vec<(String, PathBuf)> {
    let file = &config.file;
    let mut places: Vec<(String, PathBuf)> = Vec::new();
    if let Some(tls) = &file.listen.tls {
        places.push(("listen.tls.certificate".to_owned(), tls.certificate.clone()));
        places.extend(tls.client_ca.iter().map(|path| ("listen.tls.client_ca".to_owned(), path.clone())));
    }
    let mut add = |section: &str, name: &str, path: &Option<PathBuf>| {
        places.extend(path.iter().map(|path| (format!("{section}.{name}.client_certificate"), path.clone())));
    };
    file.clusters.iter().for_each(|(name, far)| add("clusters", name.as_str(), &far.client_certificate));
    file.stores.iter().for_each(|(name, far)| add("stores", name.as_str(), &far.client_certificate));
    file.services.iter().for_each(|(name, far)| add("services", name.as_str(), &far.client_certificate));
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Authority, Subject};

    #[test]
    fn each_bound_is_told_once_and_again_for_another_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let issued: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let authority = Authority::new("test", issued).unwrap();
        let (path, _) = authority.issue(Subject::Server(&["a"])).unwrap().write(dir.path(), "a").unwrap();
        let mut watched = Watched { place: "p".to_owned(), path: path.clone(), ends: None, told: None };
        let ends: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
        let mut at = |text: &str| watched.read(text.parse().unwrap()).map(|(days, _)| days);
        assert_eq!(at("2026-12-01T00:00:00Z"), None);
        assert_eq!(at("2026-12-02T00:00:00Z"), Some(30));
        assert_eq!(at("2026-12-24T00:00:00Z"), None);
        assert_eq!(at("2026-12-31T12:00:00Z"), Some(1));
        assert_eq!(at("2026-12-31T13:00:00Z"), None);
        assert_eq!(at("2027-01-01T00:00:01Z"), Some(0));
        assert_eq!(at("2027-02-01T00:00:01Z"), None);
        assert_eq!(watched.ends, Some(ends));
        let later = Authority::new("test", "2026-01-20T12:00:00Z".parse().unwrap()).unwrap();
        std::fs::write(&path, later.issue(Subject::Server(&["a"])).unwrap().certificate).unwrap();
        assert_eq!(watched.read(ends).map(|(days, _)| days), Some(30));
    }
}
