//! The file in its surroundings: names that must meet, entities that must exist, files that must load.

use std::collections::BTreeSet;
use std::path::Path;

use crate::model::{Problems, Residency};
use crate::policy::Bundle;

use super::Config;
use super::source::{moment, origin};

/// Checks everything that the file names and returns the bundle that it was checked against.
///
/// # Errors
/// Every problem of policies, entities, references, keys and certificates.
pub fn check(config: &Config) -> Result<Bundle, Problems> {
    let mut problems = Problems::new();
    let (bundle, entities) = match config.parsed("policy") {
        true => match origin(config).and_then(|origin| Ok((origin, moment(config)?))) {
            Ok((origin, moment)) => origin.examine(&moment, &mut problems),
            Err(found) => {
                problems.append(found);
                (None, None)
            }
        },
        false => (None, None),
    };
    references(config, &mut problems);
    candidate(config, &mut problems);
    // What is only in entities that were never fetched is no mistake of the configuration.
    if let Some(entities) = entities.as_ref().filter(|_| !config.lacks_entities()) {
        problems.append(lacking(config, &|kind, id| entities.has_entity(kind, id)));
    }
    match bundle {
        Some(bundle) if problems.is_empty() => Ok(bundle),
        _ => Err(problems),
    }
}

/// That a candidate is not the live policies.
fn candidate(config: &Config, problems: &mut Problems) {
    let policy = &config.file.policy;
    let Some(shadow) = &policy.shadow else { return };
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if real(&shadow.directory) == real(&policy.directory) {
        let message = "is the folder of the live policies: they would be compared with themselves";
        let hint = "name another folder, such as `candidate`; it need not exist yet";
        problems.push(&config.name, "policy.shadow.directory", message, hint);
    }
}

/// What the configuration names and the entities lack. Asked of each new bundle before it replaces one.
#[must_use]
pub fn entities(config: &Config, bundle: &Bundle) -> Problems {
    lacking(config, &|kind, id| bundle.has_entity(kind, id))
}

fn lacking(config: &Config, has: &dyn Fn(&str, &str) -> bool) -> Problems {
    let mut found = Entities { config, has, problems: Problems::new() };
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
        found.residency(&config.route_place(index), route.residency.as_ref());
    }
    found.problems
}

struct Entities<'a> {
    config: &'a Config,
    has: &'a dyn Fn(&str, &str) -> bool,
    problems: Problems,
}

impl Entities<'_> {
    fn expect(&mut self, place: &str, kind: &str, id: &str) {
        if !(self.has)(kind, id) {
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
        // One that is there and did not parse has its own problem.
        if !config.parsed(&format!("{section}.{name}")) {
            return;
        }
        let hint = format!("add `[{section}.{name}]` or mend the name");
        problems.push(&config.name, place, format!("{what} `{name}` is not configured"), hint);
    };
    let mut names = BTreeSet::new();
    for (index, route) in file.routes.iter().enumerate() {
        let place = config.route_place(index);
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
    if !config.routes_parsed() {
        return;
    }
    for name in file.limits.keys().filter(|name| !names.contains(*name)) {
        let known: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        problems.push(
            &config.name,
            format!("limits.{name}"),
            "no route has this name",
            format!("use the name of a route: {}", known.join(", ")),
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
