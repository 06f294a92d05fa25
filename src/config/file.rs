//! What a person writes: one mirror of the TOML file, without logic.
//!
//! Each table, and each element of a list or map, is read by itself: a mistake in one hides none in another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::model::{ClusterName, Problems, RecipientName, RouteName, ServiceName, StoreName};
use crate::protect::keys::{KeysSettings, RecipientSettings};
use crate::route::RouteSettings;
use crate::upstream::{ClusterSettings, ServiceSettings, StoreSettings};
use crate::{admin, audit, identity, limit, listen, message, telemetry};

use super::element;
use super::policy::PolicySettings;

/// The whole file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// The instance.
    #[serde(default)]
    pub gateway: GatewaySettings,
    /// The data listener.
    pub listen: listen::Settings,
    /// The admin listener: health, metrics, version.
    #[serde(default)]
    pub admin: admin::Settings,
    /// Bounds on a request before anything else looks at it.
    #[serde(default)]
    pub gate: message::GateSettings,
    /// Who may prove to be whom: issuers, trust domains, API keys.
    #[serde(default)]
    pub identity: identity::Settings,
    /// Where the policies are.
    pub policy: PolicySettings,
    /// The audit journal.
    pub audit: audit::Settings,
    /// Traces, metrics and the operator's log.
    #[serde(default)]
    pub telemetry: telemetry::Settings,
    /// Public GPU clusters by name; each is an entity `Tidegate::Cluster`.
    #[serde(default)]
    pub clusters: BTreeMap<ClusterName, ClusterSettings>,
    /// Private S3 stores by name; each is an entity `Tidegate::Store`.
    #[serde(default)]
    pub stores: BTreeMap<StoreName, StoreSettings>,
    /// Plain HTTP services by name; each is an entity `Tidegate::Service`.
    #[serde(default)]
    pub services: BTreeMap<ServiceName, ServiceSettings>,
    /// Where branch keys lie and what opens them. Absent: nothing is sealed or opened.
    #[serde(default)]
    pub keys: Option<KeysSettings>,
    /// Who can open what is sealed for them, by name.
    #[serde(default)]
    pub recipients: BTreeMap<RecipientName, RecipientSettings>,
    /// Rates and concurrency by the name of the route that they hold for.
    #[serde(default)]
    pub limits: BTreeMap<RouteName, limit::Settings>,
    /// The routes; the most specific match wins, whatever their order.
    #[serde(default)]
    pub routes: Vec<RouteSettings>,
}

/// The `[gateway]` table.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GatewaySettings {
    /// The instance's name in records and telemetry; unique among instances.
    pub name: RouteName,
    /// Worker threads; 0 means one for each core.
    pub workers: u16,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        // INVARIANT: the literal is a name; a test of this module parses it.
        Self { name: default_name(), workers: 0 }
    }
}

#[expect(clippy::expect_used, reason = "the literal is a name; a test parses it")]
fn default_name() -> RouteName {
    "tidegate".parse().expect("a literal name")
}

/// A file that parsed: every section by itself is sound, every path is resolved.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file's name, as the user gave it.
    pub name: String,
    /// Its sections.
    pub file: FileConfig,
    /// What is missing in `file` because it did not parse; nothing in a configuration that is served.
    gaps: Gaps,
}

/// Parts of a file that did not parse, so that checks can go on without them.
#[derive(Debug, Clone, Default)]
struct Gaps {
    /// Their places: `listen`, `clusters.eu`, `routes[2]`.
    places: BTreeSet<String>,
    /// The places of all mistakes; what later checks say of these follows from them.
    mistakes: BTreeSet<String>,
    /// Where each route that parsed stands among those that are written.
    routes: Vec<usize>,
}

/// Parses the text; what is wrong goes into `problems`, and is left out. None if the text is no TOML.
pub(super) fn parse(name: &str, text: &str, base: &Path, problems: &mut Problems) -> Option<Config> {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            let message = format!("is no TOML: {}", error.message());
            problems.push(
                name,
                place(text, &error),
                message,
                "mend the syntax: https://toml.io says how it is written",
            );
            return None;
        }
    };
    let mut reader = Reader { name, table, problems, gaps: Gaps::default() };
    let (listen, policy, audit) =
        (reader.required("listen"), reader.required("policy"), reader.required("audit"));
    let (gateway, admin, gate) =
        (reader.optional("gateway"), reader.optional("admin"), reader.optional("gate"));
    let (identity, telemetry) = (reader.optional("identity"), reader.optional("telemetry"));
    let (clusters, stores, services) = (reader.map("clusters"), reader.map("stores"), reader.map("services"));
    let (keys, recipients) = (reader.maybe("keys"), reader.map("recipients"));
    let limits = reader.map("limits");
    let (routes, places) = reader.list("routes");
    reader.gaps.routes = places;
    reader.leftovers();
    let gaps = reader.gaps;
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut file = FileConfig {
        gateway,
        listen: listen.unwrap_or_else(|| listen::Settings::new(nowhere, None)),
        admin,
        gate,
        identity,
        policy: policy.unwrap_or_default(),
        audit: audit.unwrap_or_default(),
        telemetry,
        clusters,
        stores,
        services,
        keys,
        recipients,
        limits,
        routes,
    };
    resolve(&mut file, base);
    Some(Config { name: name.to_owned(), file, gaps })
}

/// The sections, in the order of the reference.
const SECTIONS: [&str; 15] = [
    "gateway",
    "listen",
    "admin",
    "gate",
    "identity",
    "policy",
    "audit",
    "telemetry",
    "clusters",
    "stores",
    "services",
    "keys",
    "recipients",
    "limits",
    "routes",
];

/// Reads the sections of a table one by one.
struct Reader<'a> {
    name: &'a str,
    table: toml::Table,
    problems: &'a mut Problems,
    gaps: Gaps,
}

impl Reader<'_> {
    fn required<T: DeserializeOwned + JsonSchema>(&mut self, section: &str) -> Option<T> {
        let Some(value) = self.table.remove(section) else {
            self.problems.push(self.name, section, "is missing", format!("add a table `[{section}]`"));
            self.gaps.places.insert(section.to_owned());
            return None;
        };
        self.section(section, value)
    }

    fn optional<T: DeserializeOwned + JsonSchema + Default>(&mut self, section: &str) -> T {
        match self.table.remove(section) {
            Some(value) => self.section(section, value).unwrap_or_default(),
            None => T::default(),
        }
    }

    fn maybe<T: DeserializeOwned + JsonSchema>(&mut self, section: &str) -> Option<T> {
        let value = self.table.remove(section)?;
        self.section(section, value)
    }

    fn map<K: std::str::FromStr<Err: std::fmt::Display> + Ord, T: DeserializeOwned + JsonSchema>(
        &mut self,
        section: &str,
    ) -> BTreeMap<K, T> {
        let mut found = BTreeMap::new();
        match self.table.remove(section) {
            None => {}
            Some(toml::Value::Table(elements)) => {
                for (key, value) in elements {
                    let place = format!("{section}.{key}");
                    match key.parse() {
                        Ok(name) => {
                            if let Some(value) = self.element(&place, value) {
                                found.insert(name, value);
                            }
                        }
                        Err(error) => self.problems.push(self.name, place, error, "rename it"),
                    }
                }
            }
            Some(other) => self.wrong_shape(section, &other, "tables", &format!("[{section}.NAME]")),
        }
        found
    }

    /// The elements that parse, and where each stands.
    fn list<T: DeserializeOwned + JsonSchema>(&mut self, section: &str) -> (Vec<T>, Vec<usize>) {
        let (mut found, mut at) = (Vec::new(), Vec::new());
        match self.table.remove(section) {
            None => {}
            Some(toml::Value::Array(elements)) => {
                for (index, value) in elements.into_iter().enumerate() {
                    if let Some(value) = self.element(&format!("{section}[{index}]"), value) {
                        found.push(value);
                        at.push(index);
                    }
                }
            }
            Some(other) => self.wrong_shape(section, &other, "a list of tables", &format!("[[{section}]]")),
        }
        (found, at)
    }

    fn element<T: DeserializeOwned + JsonSchema>(&mut self, place: &str, value: toml::Value) -> Option<T> {
        let element::Element { value, mistakes, .. } = element::read(self.name, place, value, self.problems);
        if value.is_none() {
            self.gaps.places.insert(place.to_owned());
        }
        self.gaps.mistakes.extend(mistakes);
        value
    }

    /// A section of which other checks can use what is sound by itself.
    fn section<T: DeserializeOwned + JsonSchema>(&mut self, place: &str, value: toml::Value) -> Option<T> {
        let read: element::Element<T> = element::read(self.name, place, value, self.problems);
        self.gaps.mistakes.extend(read.mistakes);
        let value = read.value.or_else(|| read.sound.try_into().ok());
        if value.is_none() {
            self.gaps.places.insert(place.to_owned());
        }
        value
    }

    fn wrong_shape(&mut self, section: &str, found: &toml::Value, wanted: &str, example: &str) {
        self.gaps.places.insert(section.to_owned());
        let message = format!("is {}, expected {wanted}", found.type_str());
        self.problems.push(self.name, section, message, format!("write `{example}`"));
    }

    fn leftovers(&mut self) {
        for section in self.table.keys() {
            self.problems.push(
                self.name,
                section,
                "is no section of the configuration",
                format!("use one of {}", SECTIONS.map(|section| format!("`{section}`")).join(", ")),
            );
        }
    }
}

/// Makes every path relative to the file's folder.
fn resolve(file: &mut FileConfig, base: &Path) {
    let at = |path: &mut PathBuf| *path = base.join(&*path);
    let maybe = |path: &mut Option<PathBuf>| {
        if let Some(path) = path {
            at(path);
        }
    };
    for tls in [&mut file.listen.tls, &mut file.admin.tls].into_iter().flatten() {
        at(&mut tls.certificate);
        at(&mut tls.key);
        maybe(&mut tls.client_ca);
        tls.crl.iter_mut().for_each(at);
    }
    for issuer in &mut file.identity.issuers {
        maybe(&mut issuer.jwks_file);
        maybe(&mut issuer.jwks_ca);
    }
    maybe(&mut file.identity.api_keys);
    if let Some(revoked) = &mut file.identity.revoked {
        at(&mut revoked.file);
    }
    at(&mut file.policy.directory);
    maybe(&mut file.policy.state);
    for remote in [&mut file.policy.remote, &mut file.policy.entities].into_iter().flatten() {
        maybe(&mut remote.ca);
    }
    if let Some(shadow) = &mut file.policy.shadow {
        at(&mut shadow.directory);
    }
    at(&mut file.audit.directory);
    maybe(&mut file.audit.signing_key);
    maybe(&mut file.audit.previous_signing_key);
    for destination in file.audit.export.values_mut() {
        audit::outbox::resolve(destination, base);
    }
    maybe(&mut file.telemetry.otlp_ca);
    for cluster in file.clusters.values_mut() {
        maybe(&mut cluster.ca);
        maybe(&mut cluster.client_certificate);
        maybe(&mut cluster.client_key);
        maybe(&mut cluster.credential_file);
    }
    for store in file.stores.values_mut() {
        maybe(&mut store.ca);
        maybe(&mut store.client_certificate);
        maybe(&mut store.client_key);
        at(&mut store.secret_key_file);
    }
    for service in file.services.values_mut() {
        maybe(&mut service.ca);
        maybe(&mut service.client_certificate);
        maybe(&mut service.client_key);
        maybe(&mut service.credential_file);
    }
    if let Some(keys) = &mut file.keys {
        at(&mut keys.directory);
        for root in keys.roots.values_mut() {
            maybe(&mut root.file);
            if let Some(transit) = &mut root.transit {
                maybe(&mut transit.ca);
                at(&mut transit.token_file);
            }
        }
    }
    for recipient in file.recipients.values_mut() {
        maybe(&mut recipient.public_key);
    }
}

/// `line 3, column 7` of a syntax error.
fn place(text: &str, error: &toml::de::Error) -> String {
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return String::new();
    };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    format!("line {line}, column {column}")
}

impl FileConfig {
    /// The far sides of all kinds.
    #[must_use]
    pub fn upstreams(&self) -> crate::upstream::Settings {
        crate::upstream::Settings {
            clusters: self.clusters.clone(),
            stores: self.stores.clone(),
            services: self.services.clone(),
        }
    }
}

impl Config {
    /// Whether this part of the file parsed: a section, or an element (`clusters.eu`).
    pub(super) fn parsed(&self, place: &str) -> bool {
        let section = place.split_once('.').map_or(place, |(section, _)| section);
        !self.gaps.places.contains(place) && !self.gaps.places.contains(section)
    }

    /// Without what follows from a mistake that the file itself has: a key that does not parse is not missing too.
    #[must_use]
    pub fn without_echoes(&self, problems: Problems) -> Problems {
        let below = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let mut kept = Problems::new();
        for problem in problems.into_vec() {
            let place = problem.place.as_str();
            let echo = self.gaps.mistakes.iter().any(|at| below(at, place) || below(place, at));
            if problem.file != self.name || !echo {
                kept.push(problem.file, problem.place, problem.message, problem.hint);
            }
        }
        kept
    }

    /// Whether each route that is written parsed.
    pub(super) fn routes_parsed(&self) -> bool {
        !self.gaps.places.iter().any(|place| place.starts_with("routes"))
    }

    /// The place of a route by its index in `file`; another than there if one before it did not parse.
    #[must_use]
    pub fn route_place(&self, index: usize) -> String {
        format!("routes[{}]", self.gaps.routes.get(index).unwrap_or(&index))
    }

    /// Where the policies' entities are.
    #[must_use]
    pub fn entities_file(&self) -> PathBuf {
        self.file.policy.directory.join("entities.json")
    }
}
