//! All upstreams of one configuration, and the choice among an upstream's endpoints.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::address::Address;
use super::check;
use super::endpoint::{Credential, Endpoint, EndpointId, EndpointReading, Node};
use super::error::UpstreamError;
use super::group::{Group, Standing, UpstreamReading};
use super::health::Health;
use super::pool;
use super::settings::{Dial, Plaintext, Settings, StoreSettings};
use super::sigv4::Signer;
use crate::model::{Clock, Problems, Secret, UpstreamRef};

/// The far sides that can be called. Fixed for the life of a snapshot; in-flight counts and connections live in it.
#[derive(Debug)]
pub struct Upstreams {
    groups: HashMap<UpstreamRef, Group>,
    checks: Mutex<JoinSet<()>>,
    pub(super) clock: Arc<dyn Clock>,
    /// Walks through numbers that are random enough to spread load.
    random: AtomicU64,
}

impl Upstreams {
    /// Checks the settings, reads the files that they name and prepares a pool for each endpoint. Connects to nothing.
    ///
    /// # Errors
    /// All mistakes in `settings`, which stand in `file`, and in the files that they name.
    pub fn new(settings: &Settings, file: &str, clock: Arc<dyn Clock>) -> Result<Self, Problems> {
        let mut build = Build { file, problems: settings.validate(file), groups: HashMap::new() };
        for (name, cluster) in &settings.clusters {
            let place = format!("clusters.{name}");
            let credential = build.bearer(&place, cluster.credential_file.as_ref());
            build.add(UpstreamRef::Cluster(name.clone()), &place, &cluster.dial(), credential);
        }
        for (name, store) in &settings.stores {
            let place = format!("stores.{name}");
            let credential = build.signer(&place, store);
            build.add(UpstreamRef::Store(name.clone()), &place, &store.dial(), credential);
        }
        for (name, service) in &settings.services {
            let place = format!("services.{name}");
            let credential = build.bearer(&place, service.credential_file.as_ref());
            build.add(UpstreamRef::Service(name.clone()), &place, &service.dial(), credential);
        }
        if !build.problems.is_empty() {
            return Err(build.problems);
        }
        let random = AtomicU64::new(RandomState::new().build_hasher().finish());
        Ok(Self { groups: build.groups, checks: Mutex::default(), clock, random })
    }

    /// Chooses the endpoint for one attempt: of two that are drawn at random among those that are well, the one with fewer
    /// requests in flight; if both are full, any other that is not. If none is well, all are tried.
    ///
    /// # Errors
    /// The upstream is unknown, or no endpoint outside of `exclude` has a place in flight.
    pub fn select(&self, upstream: &UpstreamRef, exclude: &[EndpointId]) -> Result<Endpoint, UpstreamError> {
        self.group(upstream)?.select(exclude, |bound| self.below(bound))
    }

    /// Chooses the endpoint for one attempt as [`Self::select`] does, but waits in the upstream's queue while all are full. A
    /// first attempt, one without `exclude`, earns its upstream a part of a retry.
    ///
    /// A request that comes while a place is free may take it before one that waits: what waits is bounded in number and
    /// time, so nobody starves for longer than that.
    ///
    /// # Errors
    /// As [`Self::select`]; overloaded only when the queue is full or the wait took too long.
    pub async fn acquire(
        &self,
        upstream: &UpstreamRef,
        exclude: &[EndpointId],
    ) -> Result<Endpoint, UpstreamError> {
        let group = self.group(upstream)?;
        let endpoint = group.acquire(exclude, |bound| self.below(bound)).await?;
        if exclude.is_empty() {
            group.budget.earn();
        }
        Ok(endpoint)
    }

    /// How an upstream stands for one more attempt elsewhere than at `exclude`.
    #[must_use]
    pub fn standing(&self, upstream: &UpstreamRef, exclude: &[EndpointId]) -> Standing {
        self.groups.get(upstream).map_or(Standing::Exhausted, |group| group.standing(exclude))
    }

    /// Whether one more attempt may follow one that failed at `upstream`: at most a tenth of its requests are tried again.
    /// Counts it as made.
    #[must_use]
    pub fn may_retry(&self, upstream: &UpstreamRef) -> bool {
        self.groups.get(upstream).is_some_and(|group| group.budget.spend())
    }

    /// Starts the checks of all endpoints that have some; they end with this value. Needs a runtime. Once is enough.
    pub fn start_checks(&self) {
        let mut tasks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        if !tasks.is_empty() {
            return;
        }
        for node in self.nodes() {
            if let Some(rules) = &node.check {
                tasks.spawn(check::run(Arc::clone(node), Arc::clone(rules), Arc::clone(&self.clock)));
            }
        }
    }

    fn group(&self, upstream: &UpstreamRef) -> Result<&Group, UpstreamError> {
        self.groups.get(upstream).ok_or_else(|| UpstreamError::Unknown(upstream.clone()))
    }

    fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.groups.values().flat_map(|group| &group.nodes)
    }

    /// The requests that each endpoint has in flight; for metrics.
    pub fn loads(&self) -> impl Iterator<Item = (&EndpointId, u32)> {
        self.nodes().map(|node| (&node.id, node.load()))
    }

    /// Health and load of each endpoint; for metrics.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointReading<'_>> {
        self.nodes().map(|node| node.reading())
    }

    /// Queues and retries of each upstream; for metrics.
    pub fn readings(&self) -> impl Iterator<Item = UpstreamReading<'_>> {
        self.groups.values().map(Group::reading)
    }

    /// A number below `bound`; 0 if that is 0. (SplitMix64 over a shared counter.)
    fn below(&self, bound: usize) -> usize {
        let mut x = self.random.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let bound = u64::try_from(bound).unwrap_or(u64::MAX);
        (x ^ (x >> 31)).checked_rem(bound).and_then(|x| usize::try_from(x).ok()).unwrap_or(0)
    }
}

/// Upstreams in the making: goes on after the first mistake.
struct Build<'a> {
    file: &'a str,
    problems: Problems,
    groups: HashMap<UpstreamRef, Group>,
}

impl Build<'_> {
    fn add(&mut self, upstream: UpstreamRef, place: &str, dial: &Dial<'_>, credential: Credential) {
        let credential = Arc::new(credential);
        let check = dial.health.cloned().map(Arc::new);
        let (mut nodes, freed) = (Vec::new(), Arc::new(Notify::new()));
        // What does not parse, or would be called without encryption, has been noted by `validate`.
        let refused =
            |address: &Address| address.is_plaintext_remote() && dial.plaintext == Plaintext::Refused;
        let addresses = dial.endpoints.iter().filter_map(|text| text.parse::<Address>().ok());
        for address in addresses.filter(|address| !refused(address)) {
            let floods = Arc::default();
            match pool::client(&address, dial, (self.file, place), &floods) {
                Ok(client) => {
                    let id = EndpointId::new(upstream.clone(), &address);
                    nodes.push(Arc::new(Node {
                        health: Arc::new(Health::new(id.clone(), dial.ejection)),
                        id,
                        address,
                        client,
                        credential: Arc::clone(&credential),
                        timeouts: dial.timeouts,
                        max_in_flight: dial.max_in_flight,
                        in_flight: AtomicU32::new(0),
                        freed: Arc::clone(&freed),
                        check: check.clone(),
                        floods,
                    }));
                }
                Err(problem) => {
                    self.problems.push(problem.file, problem.place, problem.message, problem.hint);
                }
            }
        }
        self.groups.insert(upstream.clone(), Group::new(upstream, nodes, dial.queue, freed));
    }

    fn bearer(&mut self, place: &str, path: Option<&PathBuf>) -> Credential {
        let Some(path) = path else { return Credential::None };
        let member = format!("{place}.credential_file");
        let Some(secret) = self.secret(&member, path) else { return Credential::None };
        let key = secret.expose_text().filter(|key| key.bytes().all(|b| b.is_ascii_graphic()));
        match key.map(|key| HeaderValue::from_str(&format!("Bearer {key}"))) {
            Some(Ok(mut value)) => {
                value.set_sensitive(true);
                Credential::Bearer(value)
            }
            _ => {
                let message =
                    format!("`{}` holds other characters than one line of visible ASCII", path.display());
                self.problems.push(self.file, member, message, "put the key alone on one line");
                Credential::None
            }
        }
    }

    fn signer(&mut self, place: &str, store: &StoreSettings) -> Credential {
        let member = format!("{place}.secret_key_file");
        let Some(secret) = self.secret(&member, &store.secret_key_file) else { return Credential::None };
        let Some(secret) = secret.expose_text() else {
            let message = format!("`{}` is not UTF-8", store.secret_key_file.display());
            self.problems.push(self.file, member, message, "put the secret alone on one line");
            return Credential::None;
        };
        Credential::SigV4(Signer::new(&store.access_key_id, secret, &store.region))
    }

    fn secret(&mut self, member: &str, path: &Path) -> Option<Secret> {
        match Secret::read(path) {
            Ok(secret) => Some(secret),
            Err(error) => {
                let hint = error.hint();
                self.problems.push(self.file, member, error, hint);
                None
            }
        }
    }
}
