//! What a person writes: one mirror of the TOML file, without logic.
//!
//! Each table, and each element of a list or map, is read by itself: a mistake in one hides none in another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::model::{ClusterName, Duration, Problems, RouteName, ServiceName, StoreName};
use crate::route::RouteSettings;
use crate::upstream::{ClusterSettings, ServiceSettings, StoreSettings};
use crate::{admin, audit, identity, limit, listen, message, telemetry};

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

/// The `[policy]` table.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicySettings {
    /// The folder of `*.cedar`, `tidegate.cedarschema` and `entities.json`.
    pub directory: PathBuf,
    /// How often the folder's contents are compared with what is loaded; SIGHUP compares at once.
    #[serde(default = "PolicySettings::default_poll")]
    pub poll: Duration,
}

impl PolicySettings {
    const fn default_poll() -> Duration {
        Duration::secs(1)
    }
}

/// A file that parsed: every section by itself is sound, every path is resolved.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file's name, as the user gave it.
    pub name: String,
    /// Its sections.
    pub file: FileConfig,
}

/// Parses the text; what is wrong goes into `problems`.
pub(super) fn parse(name: &str, text: &str, base: &Path, problems: &mut Problems) -> Option<Config> {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            problems.push(name, place(text, &error), error.message(), "the file is no TOML");
            return None;
        }
    };
    let mut reader = Reader { name, table, problems };
    // All sections are read before the first missing one ends the attempt.
    let (listen, policy, audit) =
        (reader.required("listen"), reader.required("policy"), reader.required("audit"));
    let (gateway, admin, gate) =
        (reader.optional("gateway"), reader.optional("admin"), reader.optional("gate"));
    let (identity, telemetry) = (reader.optional("identity"), reader.optional("telemetry"));
    let (clusters, stores, services) = (reader.map("clusters"), reader.map("stores"), reader.map("services"));
    let (limits, routes) = (reader.map("limits"), reader.list("routes"));
    reader.leftovers();
    let mut file = FileConfig {
        gateway,
        listen: listen?,
        admin,
        gate,
        identity,
        policy: policy?,
        audit: audit?,
        telemetry,
        clusters,
        stores,
        services,
        limits,
        routes,
    };
    resolve(&mut file, base);
    Some(Config { name: name.to_owned(), file })
}

/// Reads the sections of a table one by one.
struct Reader<'a> {
    name: &'a str,
    table: toml::Table,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    fn required<T: DeserializeOwned>(&mut self, section: &str) -> Option<T> {
        let Some(value) = self.table.remove(section) else {
            self.problems.push(self.name, section, "is missing", format!("add a table `[{section}]`"));
            return None;
        };
        self.element(section, value)
    }

    fn optional<T: DeserializeOwned + Default>(&mut self, section: &str) -> T {
        match self.table.remove(section) {
            Some(value) => self.element(section, value).unwrap_or_default(),
            None => T::default(),
        }
    }

    fn map<K: std::str::FromStr<Err: std::fmt::Display> + Ord, T: DeserializeOwned>(
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
                        Err(error) => self.problems.push(self.name, place, error, ""),
                    }
                }
            }
            Some(other) => self.wrong_shape(section, &other, "tables", &format!("[{section}.NAME]")),
        }
        found
    }

    fn list<T: DeserializeOwned>(&mut self, section: &str) -> Vec<T> {
        let mut found = Vec::new();
        match self.table.remove(section) {
            None => {}
            Some(toml::Value::Array(elements)) => {
                for (index, value) in elements.into_iter().enumerate() {
                    found.extend(self.element(&format!("{section}[{index}]"), value));
                }
            }
            Some(other) => self.wrong_shape(section, &other, "a list of tables", &format!("[[{section}]]")),
        }
        found
    }

    fn element<T: DeserializeOwned>(&mut self, place: &str, value: toml::Value) -> Option<T> {
        serde_path_to_error::deserialize(value)
            .map_err(|error| {
                let inner = error.path().to_string();
                let place = if inner == "." { place.to_owned() } else { format!("{place}.{inner}") };
                let message = error.into_inner().to_string();
                self.problems.push(self.name, place, message.trim_end(), "");
            })
            .ok()
    }

    fn wrong_shape(&mut self, section: &str, found: &toml::Value, wanted: &str, example: &str) {
        let message = format!("is {}, expected {wanted}", found.type_str());
        self.problems.push(self.name, section, message, format!("write `{example}`"));
    }

    fn leftovers(&mut self) {
        for section in self.table.keys() {
            self.problems.push(
                self.name,
                section,
                "is no section of the configuration",
                "see docs/configuration.md",
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
    if let Some(tls) = &mut file.listen.tls {
        at(&mut tls.certificate);
        at(&mut tls.key);
        maybe(&mut tls.client_ca);
    }
    for issuer in &mut file.identity.issuers {
        maybe(&mut issuer.jwks_file);
        maybe(&mut issuer.jwks_ca);
    }
    maybe(&mut file.identity.api_keys);
    at(&mut file.policy.directory);
    at(&mut file.audit.directory);
    maybe(&mut file.telemetry.otlp_ca);
    for cluster in file.clusters.values_mut() {
        maybe(&mut cluster.ca);
        maybe(&mut cluster.credential_file);
    }
    for store in file.stores.values_mut() {
        maybe(&mut store.ca);
        at(&mut store.secret_key_file);
    }
    for service in file.services.values_mut() {
        maybe(&mut service.ca);
        maybe(&mut service.credential_file);
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
    /// Where the policies' entities are.
    #[must_use]
    pub fn entities_file(&self) -> PathBuf {
        self.file.policy.directory.join("entities.json")
    }
}
