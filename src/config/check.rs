//! The file in its surroundings: names that must meet, entities that must exist, files that must load.

use std::collections::BTreeSet;
use std::path::Path;

use crate::model::{Problems, Residency, Secret};
use crate::policy::Bundle;

use super::Config;

/// Checks everything that the file names and returns the bundle that it was checked against.
///
/// # Errors
/// Every problem of policies, entities, references, keys and certificates.
pub fn check(config: &Config) -> Result<Bundle, Problems> {
    let mut problems = Problems::new();
    let bundle = Bundle::load(&config.file.policy.directory).map_err(|found| problems.append(found)).ok();
    problems.append(config.file.upstreams().validate(&config.name));
    references(config, &mut problems);
    secrets(config, &mut problems);
    if let Some(bundle) = &bundle {
        problems.append(entities(config, bundle));
    }
    match bundle {
        Some(bundle) if problems.is_empty() => Ok(bundle),
        _ => Err(problems),
    }
}

/// What the configuration names and the entities lack. Also asked of each new bundle before it replaces one.
#[must_use]
pub fn entities(config: &Config, bundle: &Bundle) -> Problems {
    let mut found = Entities { config, bundle, problems: Problems::new() };
    let file = &config.file;
    for (name, cluster) in &file.clusters {
        let place = format!("clusters.{name}");
        found.expect(&place, "Cluster", name.as_str());
        for (index, model) in cluster.models.iter().enumerate() {
            found.expect(&format!("{place}.models[{index}]"), "Model", &format!("{name}/{model}"));
        }
    }
    for (name, store) in &file.stores {
        let place = format!("stores.{name}");
        found.expect(&place, "Store", name.as_str());
        for (index, dataset) in store.datasets.iter().enumerate() {
            let place = format!("{place}.datasets[{index}]");
            found.expect(&format!("{place}.id"), "Dataset", dataset.id.as_str());
            found.residency(&place, dataset.residency.as_ref());
        }
    }
    for (name, service) in &file.services {
        found.expect(&format!("services.{name}"), "Service", name.as_str());
        found.expect(&format!("services.{name}.cluster"), "Cluster", service.cluster.as_str());
    }
    for (index, route) in file.routes.iter().enumerate() {
        found.residency(&format!("routes[{index}]"), route.residency.as_ref());
    }
    found.problems
}

struct Entities<'a> {
    config: &'a Config,
    bundle: &'a Bundle,
    problems: Problems,
}

impl Entities<'_> {
    fn expect(&mut self, place: &str, kind: &str, id: &str) {
        if !self.bundle.has_entity(kind, id) {
            let hint = format!("add it to `{}`", self.config.entities_file().display());
            let message = format!("entity `Tidegate::{kind}::\"{id}\"` does not exist");
            self.problems.push(&self.config.name, place, message, hint);
        }
    }

    fn residency(&mut self, place: &str, residency: Option<&Residency>) {
        let Some(residency) = residency else { return };
        let place = format!("{place}.residency");
        if residency.is_nowhere() {
            let hint = "name the jurisdictions that may hold the data; `world` if all may";
            self.problems.push(&self.config.name, place.clone(), "is empty: the data could go nowhere", hint);
        }
        for jurisdiction in residency.iter() {
            self.expect(&place, "Jurisdiction", jurisdiction.as_str());
        }
    }
}

/// Names in one section that another section must have.
fn references(config: &Config, problems: &mut Problems) {
    let file = &config.file;
    let mut missing = |place: String, what: &str, name: &str, section: &str| {
        let hint = format!("add `[{section}.{name}]` or mend the name");
        problems.push(&config.name, place, format!("{what} `{name}` is not configured"), hint);
    };
    let mut names = BTreeSet::new();
    for (index, route) in file.routes.iter().enumerate() {
        let place = format!("routes[{index}]");
        names.insert(&route.name);
        for (kind, calls) in [("infer", &route.infer), ("embed", &route.embed)] {
            for (at, cluster) in calls.iter().flat_map(|calls| calls.clusters.iter().enumerate()) {
                if !file.clusters.contains_key(cluster) {
                    missing(
                        format!("{place}.{kind}.clusters[{at}]"),
                        "cluster",
                        cluster.as_str(),
                        "clusters",
                    );
                }
            }
        }
        if let Some(store) = route.store.as_ref().filter(|name| !file.stores.contains_key(*name)) {
            missing(format!("{place}.store"), "store", store.as_str(), "stores");
        }
        if let Some(service) = route.service.as_ref().filter(|name| !file.services.contains_key(*name)) {
            missing(format!("{place}.service"), "service", service.as_str(), "services");
        }
    }
    for name in file.limits.keys().filter(|name| !names.contains(*name)) {
        problems.push(
            &config.name,
            format!("limits.{name}"),
            "no route has this name",
            "limits hold for one route",
        );
    }
    if file.routes.is_empty() {
        problems.push(
            &config.name,
            "routes",
            "there is no route: every request would be refused",
            "add `[[routes]]`",
        );
    }
}

/// Secret files that cannot be used.
fn secrets(config: &Config, problems: &mut Problems) {
    let file = &config.file;
    let mut check = |place: String, path: Option<&Path>| {
        if let Some(path) = path
            && let Err(error) = Secret::read(path)
        {
            problems.push(&config.name, place, error, "");
        }
    };
    for (name, cluster) in &file.clusters {
        check(format!("clusters.{name}.credential_file"), cluster.credential_file.as_deref());
    }
    for (name, store) in &file.stores {
        check(format!("stores.{name}.secret_key_file"), Some(&store.secret_key_file));
    }
    for (name, service) in &file.services {
        check(format!("services.{name}.credential_file"), service.credential_file.as_deref());
    }
}
