//! What the configuration says about models, datasets and services, arranged for lookup.

use std::collections::{HashMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{
    ClusterName, DatasetName, Floor, Level, ModelName, Problems, RecipientName, Residency, SealedAtRest,
    ServiceName, StoreName,
};

/// One dataset of a store: the keys of a bucket that start with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetSettings {
    /// The name; its `Tidegate::Dataset` entity has the same id.
    pub dataset: DatasetName,
    /// The bucket.
    pub bucket: String,
    /// The start of the keys: empty for the whole bucket, else it ends in `/`. The longest prefix wins. Default empty.
    #[serde(default)]
    pub prefix: String,
    /// The level of the data. Default none: the route's floor holds alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// The jurisdictions that may get the data. Default none: the route's floor holds alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residency: Option<Residency>,
    /// Whose key its objects are sealed with at rest. Default none: they lie in the clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealedAtRest>,
}

/// A dataset as requests find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The name.
    pub name: DatasetName,
    /// Its label.
    pub label: Floor,
    /// Whose key its objects are sealed with at rest.
    pub sealed: Option<SealedAtRest>,
    prefix: String,
}

/// Models by cluster, datasets by store, services.
#[derive(Debug, Clone)]
pub struct Catalog {
    inside: ClusterName,
    models: HashMap<ClusterName, HashSet<ModelName>>,
    can_open: HashMap<ClusterName, RecipientName>,
    /// Each bucket's datasets, the longest prefix first.
    datasets: HashMap<StoreName, HashMap<String, Vec<Dataset>>>,
    services: HashMap<ServiceName, ClusterName>,
}

impl Catalog {
    /// An empty catalog; `inside` is the cluster that stands for the private side (`private`).
    #[must_use]
    pub fn new(inside: ClusterName) -> Self {
        Self {
            inside,
            models: HashMap::new(),
            can_open: HashMap::new(),
            datasets: HashMap::new(),
            services: HashMap::new(),
        }
    }

    /// Adds the models of a cluster.
    pub fn add_cluster(&mut self, cluster: ClusterName, models: impl IntoIterator<Item = ModelName>) {
        self.models.entry(cluster).or_default().extend(models);
    }

    /// Says whose keys a cluster can open.
    pub fn add_recipient(&mut self, cluster: ClusterName, recipient: RecipientName) {
        self.can_open.insert(cluster, recipient);
    }

    /// Adds a plain service and the cluster where it runs; `private` for one inside.
    pub fn add_service(&mut self, service: ServiceName, cluster: ClusterName) {
        self.services.insert(service, cluster);
    }

    /// Adds the datasets of a store; problems go to `problems` under `place` (`stores.lake.datasets`).
    pub fn add_store(
        &mut self,
        store: StoreName,
        datasets: &[DatasetSettings],
        file: &str,
        place: &str,
        problems: &mut Problems,
    ) {
        let buckets = self.datasets.entry(store).or_default();
        for (index, settings) in datasets.iter().enumerate() {
            let at = |field: &str| format!("{place}[{index}].{field}");
            if !is_bucket(&settings.bucket) {
                let message = format!("`{}` is no bucket name", settings.bucket);
                problems.push(file, at("bucket"), message, "3 to 63 lower-case letters, digits, `-` and `.`");
            }
            let prefix = &settings.prefix;
            if !(prefix.is_empty() || prefix.ends_with('/') && is_plain_key(prefix)) {
                let message = format!("`{prefix}` is no prefix");
                problems.push(
                    file,
                    at("prefix"),
                    message,
                    "end it in `/`, without a leading `/`, empty or dot segments",
                );
            }
            let bucket = buckets.entry(settings.bucket.clone()).or_default();
            if bucket.iter().any(|other| other.prefix == *prefix) {
                problems.push(file, at("prefix"), "two datasets have this bucket and prefix", "remove one");
            }
            bucket.push(Dataset {
                name: settings.dataset.clone(),
                label: Floor { level: settings.level, residency: settings.residency.clone() },
                sealed: settings.sealed.clone(),
                prefix: prefix.clone(),
            });
            bucket.sort_by_key(|dataset| std::cmp::Reverse(dataset.prefix.len()));
        }
    }

    /// The cluster that stands for the private side.
    #[must_use]
    pub const fn inside(&self) -> &ClusterName {
        &self.inside
    }

    /// Whether the cluster serves the model.
    #[must_use]
    pub fn serves(&self, cluster: &ClusterName, model: &ModelName) -> bool {
        self.models.get(cluster).is_some_and(|models| models.contains(model))
    }

    /// Whose keys a cluster can open.
    #[must_use]
    pub fn can_open(&self, cluster: &ClusterName) -> Option<&RecipientName> {
        self.can_open.get(cluster)
    }

    /// Where a service runs.
    #[must_use]
    pub fn service(&self, service: &ServiceName) -> Option<&ClusterName> {
        self.services.get(service)
    }

    /// The dataset of an object: the longest prefix that its key starts with.
    #[must_use]
    pub fn dataset(&self, store: &StoreName, bucket: &str, key: &str) -> Option<&Dataset> {
        self.bucket(store, bucket).iter().find(|dataset| key.starts_with(&dataset.prefix))
    }

    /// Whether keys that start with `listed` can belong to a dataset other than the one of `listed` itself.
    #[must_use]
    pub fn spans_datasets(&self, store: &StoreName, bucket: &str, listed: &str) -> bool {
        let inside =
            |dataset: &Dataset| dataset.prefix.len() > listed.len() && dataset.prefix.starts_with(listed);
        self.bucket(store, bucket).iter().any(inside)
    }

    fn bucket(&self, store: &StoreName, bucket: &str) -> &[Dataset] {
        self.datasets.get(store).and_then(|buckets| buckets.get(bucket)).map_or(&[], Vec::as_slice)
    }
}

/// The bucket names that every S3 implementation accepts.
pub(super) fn is_bucket(name: &str) -> bool {
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.chars().all(|c| ends(c) || c == '-' || c == '.')
        && name.starts_with(ends)
        && name.ends_with(ends)
        && !name.contains("..")
}

/// A key or start of a key that a store which keeps keys as files cannot read as another one.
pub(super) fn is_plain_key(key: &str) -> bool {
    let mut segments = key.split('/').peekable();
    let mut plain = !key.contains('\\') && !key.chars().any(char::is_control);
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        plain &= segment != "." && segment != ".." && (last || !segment.is_empty());
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dataset: &str, prefix: &str) -> DatasetSettings {
        DatasetSettings {
            dataset: dataset.parse().unwrap(),
            bucket: "lake".into(),
            prefix: prefix.into(),
            level: None,
            residency: None,
            sealed: None,
        }
    }

    fn catalog(list: &[DatasetSettings]) -> (Catalog, StoreName, Problems) {
        let (mut catalog, store) =
            (Catalog::new("private".parse().unwrap()), "s".parse::<StoreName>().unwrap());
        let mut problems = Problems::new();
        catalog.add_store(store.clone(), list, "f", "stores.s.datasets", &mut problems);
        (catalog, store, problems)
    }

    #[test]
    fn the_longest_prefix_wins() {
        let (catalog, store, problems) =
            catalog(&[settings("raw", "raw/"), settings("secret", "raw/secret/"), settings("open", "open/")]);
        assert!(problems.is_empty());
        let name = |bucket, key| catalog.dataset(&store, bucket, key).map(|d| d.name.as_str().to_owned());
        assert_eq!(name("lake", "raw/a").as_deref(), Some("raw"));
        assert_eq!(name("lake", "raw/secret/a").as_deref(), Some("secret"));
        assert_eq!(name("lake", "raw/secrets").as_deref(), Some("raw"));
        assert_eq!(name("lake", "raw"), None);
        assert_eq!(name("pond", "raw/a"), None);
        for (listed, spans) in
            [("raw/", true), ("raw/s", true), ("raw/x", false), ("raw/secret/", false), ("", true)]
        {
            assert_eq!(catalog.spans_datasets(&store, "lake", listed), spans, "{listed}");
        }
    }

    #[test]
    fn mistakes_are_found_together() {
        let mut bad = settings("b", "x");
        bad.bucket = "Lake".into();
        let (_, _, problems) = catalog(&[
            settings("a", "raw/"),
            settings("b", "raw/"),
            bad,
            settings("c", "/x/"),
            settings("d", "a/../b/"),
        ]);
        assert_eq!(problems.iter().count(), 5, "{problems}");
    }
}
