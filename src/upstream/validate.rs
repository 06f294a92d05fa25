//! Mistakes in the settings that can be seen without reading a file or resolving a name.

use std::collections::BTreeSet;
use std::path::PathBuf;

use http::uri::PathAndQuery;

use super::address::Address;
use super::settings::{
    ClusterSettings, DatasetSettings, Dial, Ejection, HealthCheck, Plaintext, Queue, ServiceSettings,
    Settings, StoreSettings, Timeouts,
};
use crate::model::{Duration, Problems};

/// The most endpoints of one far side.
const MAX_ENDPOINTS: usize = 16;

/// What is wrong without `ca`, and the mend.
pub(super) const NO_CA: (&str, &str) = (
    "is missing: `https` endpoints need the certificate authorities that are trusted for them",
    "set `ca` to a PEM file; system roots are not used",
);

/// The most requests in flight at one endpoint.
const MAX_IN_FLIGHT: u32 = 100_000;

/// The most requests that wait for one far side.
const MAX_QUEUE: u32 = 10_000;

/// Notes problems at places below one place of one file.
struct Notes<'a> {
    file: &'a str,
    place: String,
    problems: &'a mut Problems,
}

impl Notes<'_> {
    fn add(&mut self, member: impl std::fmt::Display, message: impl std::fmt::Display, hint: &str) {
        self.problems.push(self.file, format!("{}.{member}", self.place), message, hint);
    }
}

impl Settings {
    /// All mistakes, with their places (`clusters.eu.endpoints[0]`) in `file`.
    #[must_use]
    pub fn validate(&self, file: &str) -> Problems {
        let mut problems = Problems::new();
        for (name, cluster) in &self.clusters {
            cluster.validate(&mut Notes { file, place: format!("clusters.{name}"), problems: &mut problems });
        }
        for (name, store) in &self.stores {
            store.validate(&mut Notes { file, place: format!("stores.{name}"), problems: &mut problems });
        }
        for (name, service) in &self.services {
            service.validate(&mut Notes { file, place: format!("services.{name}"), problems: &mut problems });
        }
        problems
    }
}

impl ClusterSettings {
    fn validate(&self, notes: &mut Notes<'_>) {
        far_side(&self.dial(), notes);
        bearer(&self.dial(), self.credential_file.as_ref(), notes);
        if self.models.is_empty() {
            notes.add("models", "a cluster without models serves nothing", "name the models that it serves");
        }
        let mut seen = BTreeSet::new();
        for (index, model) in self.models.iter().enumerate() {
            if !seen.insert(model) {
                notes.add(
                    format_args!("models[{index}]"),
                    format_args!("`{model}` is named twice"),
                    "remove one",
                );
            }
        }
    }
}

impl ServiceSettings {
    fn validate(&self, notes: &mut Notes<'_>) {
        far_side(&self.dial(), notes);
        bearer(&self.dial(), self.credential_file.as_ref(), notes);
    }
}

impl StoreSettings {
    fn validate(&self, notes: &mut Notes<'_>) {
        far_side(&self.dial(), notes);
        let token = |text: &str| {
            !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
        };
        if !token(&self.region) {
            notes.add(
                "region",
                format_args!("`{}` is not a region", self.region),
                "leave it out for `us-east-1`",
            );
        }
        if !token(&self.access_key_id) {
            notes.add("access_key_id", "not an access key id", "use 1 to 128 visible characters without `/`");
        }
        if self.datasets.is_empty() {
            notes.add("datasets", "a store without datasets cannot be reached", "name at least one dataset");
        }
        let mut places = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for (index, dataset) in self.datasets.iter().enumerate() {
            dataset_problems(dataset, index, notes);
            if !ids.insert(&dataset.id) {
                let text = format!("dataset `{}` is declared twice", dataset.id);
                notes.add(
                    format_args!("datasets[{index}].id"),
                    text,
                    "one dataset is one bucket and prefix: remove one",
                );
            }
            if !places.insert((&dataset.bucket, &dataset.prefix)) {
                let text = format!("`{}/{}` is already another dataset", dataset.bucket, dataset.prefix);
                notes.add(
                    format_args!("datasets[{index}].prefix"),
                    text,
                    "give it another prefix, or remove one",
                );
            }
        }
    }
}

fn dataset_problems(dataset: &DatasetSettings, index: usize, notes: &mut Notes<'_>) {
    let bucket = dataset.bucket.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-' || *b == b'.';
    let sound = (3..=63).contains(&bucket.len())
        && ends(bucket.first())
        && ends(bucket.last())
        && bucket.iter().all(inner)
        && !dataset.bucket.contains("..");
    if !sound {
        let text = format!("`{}` is not a bucket name", dataset.bucket);
        notes.add(
            format_args!("datasets[{index}].bucket"),
            text,
            "use 3 to 63 lower-case letters, digits, `-`, `.`",
        );
    }
    let segments = || dataset.prefix.split('/');
    let odd = dataset.prefix.starts_with('/')
        || dataset.prefix.contains("//")
        || dataset.prefix.len() > 1024
        || dataset.prefix.chars().any(char::is_control)
        || segments().any(|segment| segment == "." || segment == "..");
    if odd {
        let text = format!("`{}` cannot be the beginning of a key", dataset.prefix);
        notes.add(
            format_args!("datasets[{index}].prefix"),
            text,
            "write it without a leading `/`, `//`, `.` and `..` segments, in at most 1024 bytes, and end it in `/`",
        );
    }
}

fn far_side(dial: &Dial<'_>, notes: &mut Notes<'_>) {
    if dial.endpoints.is_empty() || dial.endpoints.len() > MAX_ENDPOINTS {
        let text = format!("{} endpoints", dial.endpoints.len());
        notes.add("endpoints", text, "name 1 to 16 endpoints");
    }
    let mut seen = BTreeSet::new();
    let mut tls = false;
    for (index, text) in dial.endpoints.iter().enumerate() {
        let member = format!("endpoints[{index}]");
        let address = match text.parse::<Address>() {
            Ok(address) => address,
            Err(error) => {
                let hint = error.hint();
                notes.add(member, error, hint);
                continue;
            }
        };
        tls |= address.is_tls();
        if address.is_plaintext_remote() && dial.plaintext == Plaintext::Refused {
            notes.add(
                &member,
                format_args!("`{address}` would be called without encryption"),
                "use `https://`, or say `plaintext = \"accepted\"`: it is recorded, and refused for confidential data",
            );
        }
        if !seen.insert(address.to_string()) {
            notes.add(&member, format_args!("`{address}` is named twice"), "remove one");
        }
    }
    if dial.half_client {
        let message = "needs both `client_certificate` and `client_key`, or neither";
        notes.add("client_key", message, "name the file that is missing");
    }
    if tls && dial.ca.is_none() {
        notes.add("ca", NO_CA.0, NO_CA.1);
    }
    if let Some(name) = dial.server_name {
        let ok = |b: u8| b.is_ascii_alphanumeric() || b"-.:".contains(&b);
        if name.is_empty() || name.len() > 253 || !name.bytes().all(ok) {
            notes.add(
                "server_name",
                format_args!("`{name}` is neither a host name nor an address"),
                "write the name without scheme and port",
            );
        }
        if !tls {
            notes.add("server_name", "has no effect without an `https` endpoint", "remove it");
        }
    }
    timeouts(&dial.timeouts, notes);
    if dial.max_in_flight == 0 || dial.max_in_flight > MAX_IN_FLIGHT {
        notes.add("max_in_flight", format_args!("{} is out of range", dial.max_in_flight), "use 1 to 100000");
    }
    queue(dial.queue, notes);
    ejection(dial.ejection, notes);
    if let Some(check) = dial.health {
        health(check, notes);
    }
}

fn timeouts(timeouts: &Timeouts, notes: &mut Notes<'_>) {
    let least = Duration::millis(1);
    within("timeouts.connect", timeouts.connect, (least, Duration::secs(60)), notes);
    within("timeouts.first_byte", timeouts.first_byte, (least, Duration::secs(3_600)), notes);
    within("timeouts.idle", timeouts.idle, (least, Duration::secs(86_400)), notes);
}

fn queue(queue: Queue, notes: &mut Notes<'_>) {
    if queue.length > MAX_QUEUE {
        notes.add("queue.length", format_args!("{} is out of range", queue.length), "use 0 to 10000");
    }
    within("queue.timeout", queue.timeout, (Duration::millis(1), Duration::secs(60)), notes);
}

fn ejection(ejection: Ejection, notes: &mut Notes<'_>) {
    if ejection.failures > 1000 {
        notes.add(
            "ejection.failures",
            format_args!("{} is out of range", ejection.failures),
            "use 0 to 1000",
        );
    }
    within("ejection.base", ejection.base, (Duration::millis(1), Duration::secs(3_600)), notes);
    within("ejection.longest", ejection.longest, (ejection.base, Duration::secs(86_400)), notes);
}

fn health(check: &HealthCheck, notes: &mut Notes<'_>) {
    let path = &check.path;
    let sound = path.starts_with('/')
        && path.len() <= 1024
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
        && path.parse::<PathAndQuery>().is_ok();
    if !sound {
        let hint = "write a path such as `/health`, in at most 1024 visible ASCII characters without `#`";
        notes.add("health.path", format_args!("`{path}` is not a path"), hint);
    }
    within("health.interval", check.interval, (Duration::millis(100), Duration::secs(3_600)), notes);
    within("health.timeout", check.timeout, (Duration::millis(1), Duration::secs(60)), notes);
    for (member, value) in [("health.healthy", check.healthy), ("health.unhealthy", check.unhealthy)] {
        if !(1..=100).contains(&value) {
            notes.add(member, format_args!("{value} is out of range"), "use 1 to 100");
        }
    }
}

fn within(member: &str, value: Duration, (least, most): (Duration, Duration), notes: &mut Notes<'_>) {
    if value < least || value > most {
        notes.add(member, format_args!("{value} is out of range"), &format!("use `{least}` to `{most}`"));
    }
}

/// A credential must not travel where anybody can read it, accepted or not.
fn bearer(dial: &Dial<'_>, credential: Option<&PathBuf>, notes: &mut Notes<'_>) {
    let remote = |text: &String| text.parse::<Address>().is_ok_and(|address| address.is_plaintext_remote());
    if credential.is_some() && dial.endpoints.iter().any(remote) {
        notes.add(
            "credential_file",
            "the credential would travel unencrypted",
            "use `https://` for all endpoints, or remove it",
        );
    }
}
