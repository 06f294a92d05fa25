//! From a configuration to the parts of a gateway. Opens no sockets.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::runtime::Handle;

use crate::audit::outbox::{self, Outbox};
use crate::audit::{Audit, Instance};
use crate::config::{self, Config};
use crate::gateway::Snapshot;
use crate::identity::Identity;
use crate::inspect::{Catalog, DatasetSettings};
use crate::limit::Limits;
use crate::listen;
use crate::message::HeldBodies;
use crate::model::{Clock, ClusterName, Duration, Objects, Problems, RecipientName, RouteKind, SystemClock};
use crate::net::{self, Alpn, CertificateFacts, Client, ClientSettings, ClientTls};
use crate::policy::Bundle;
use crate::protect::Protector;
use crate::protect::keys::Keys;
use crate::route::{RouteSettings, Table};
use crate::telemetry::{Exporters, Telemetry};
use crate::upstream::Upstreams;

use super::keys::Keys as IssuerKeys;
use super::remote;

/// Everything that is wrong with a configuration and what it names.
///
/// # Errors
/// All problems at once.
pub fn check(config: &Config) -> Result<(), Problems> {
    snapshot(config).map(|_| ())
}

/// Everything that is wrong with a configuration file and what it names: a mistake in one section hides none elsewhere. Warnings, if nothing
/// is wrong: of what a gateway fetches before it starts, and what cannot be checked because it was never fetched.
///
/// # Errors
/// All problems at once.
pub fn check_file(path: &Path) -> Result<Problems, Problems> {
    let (mut problems, mut warnings) = (Problems::new(), Problems::new());
    if let Some(config) = config::examine(path, &mut problems)
        && let Err(found) = check(&config)
    {
        let unfetched = config.unfetched();
        let shown: Vec<String> = unfetched.iter().map(|(.., file)| file.display().to_string()).collect();
        for problem in config.without_echoes(found).into_vec() {
            if !shown.contains(&problem.file) {
                problems.push(problem.file, problem.place, problem.message, problem.hint);
            }
        }
        for (table, url, _) in unfetched {
            let message =
                format!("nothing was fetched from `{url}` yet, so what it gives is not checked here");
            let hint = "`tidegate serve` fetches it before it starts, and does not start without one that passes all checks";
            warnings.push(&config.name, table, message, hint);
        }
    }
    if problems.is_empty() { Ok(warnings) } else { Err(problems) }
}

/// Builds what requests see; all problems of all parts are reported together.
pub(super) fn snapshot(config: &Config) -> Result<Snapshot, Problems> {
    let file = &config.file;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut problems = Problems::new();
    let bundle = kept(config::check(config), &mut problems);
    listener(config, &mut problems);
    key_authorities(config, &mut problems);
    remote::check(config, &mut problems);
    for (key, error) in file.audit.problems() {
        problems.push(&config.name, format!("audit.{key}"), &error, error.hint());
    }
    problems.append(outbox::check(file.audit.export.iter(), &config.name, "audit.export"));
    problems.append(file.telemetry.check(&config.name, "telemetry"));
    for (key, time) in [("answer_stall", file.gate.answer_stall), ("body_time", file.gate.body_time)] {
        if time < Duration::millis(100) || time > Duration::secs(86_400) {
            let message = format!("{time} is out of range");
            problems.push(&config.name, format!("gate.{key}"), message, "use `100ms` to `1d`");
        }
    }
    let routes = routes(config, &mut problems);
    if let Some(table) = &routes {
        room(config, table, &mut problems);
    }
    let mut of_datasets = Problems::new();
    let catalog = catalog(config, &mut of_datasets);
    let identity = kept(
        Identity::new(&file.identity, &config.name, Arc::new(IssuerKeys::default()), Arc::clone(&clock)),
        &mut problems,
    );
    let limits = kept(Limits::new(&file.limits, &config.name), &mut problems);
    let protector = protector(config, &clock, &mut problems);
    let upstreams = kept(Upstreams::new(&file.upstreams(), &config.name, clock), &mut problems);
    // Both the catalogue and the upstreams look at buckets and prefixes: each is told once.
    for problem in of_datasets.into_vec() {
        if !problems.iter().any(|told| (&told.file, &told.place) == (&problem.file, &problem.place)) {
            problems.push(problem.file, problem.place, problem.message, problem.hint);
        }
    }
    match (bundle, routes, catalog, identity, limits, protector.zip(upstreams)) {
        (
            Some(bundle),
            Some(routes),
            Some(catalog),
            Some(identity),
            Some(limits),
            Some((protector, upstreams)),
        ) if problems.is_empty() => Ok(Snapshot {
            gate: file.gate.clone(),
            held: Arc::new(HeldBodies::new(&file.gate)),
            routes: Arc::new(routes),
            identity: Arc::new(identity),
            catalog: Arc::new(catalog),
            bundle: Arc::new(bundle),
            limits: Arc::new(limits),
            protector,
            upstreams: Arc::new(upstreams),
        }),
        _ => Err(problems),
    }
}

/// Takes the value, or its problems.
fn kept<T>(result: Result<T, Problems>, problems: &mut Problems) -> Option<T> {
    result.map_err(|found| problems.append(found)).ok()
}

/// Keys, and that everything which seals or opens has some.
fn protector(config: &Config, clock: &Arc<dyn Clock>, problems: &mut Problems) -> Option<Protector> {
    let file = &config.file;
    let mut known = |place: String, recipient: Option<&RecipientName>| {
        if let Some(name) = recipient.filter(|name| !file.recipients.contains_key(*name)) {
            let message = format!("`{name}` is no recipient of `[recipients]`");
            problems.push(&config.name, place, message, "correct the name, or add the recipient");
        }
    };
    for (name, cluster) in &file.clusters {
        known(format!("clusters.{name}.can_open"), cluster.can_open.as_ref());
    }
    for (domain, settings) in file.identity.mtls.trust_domains.iter().enumerate() {
        for (workload, settings) in settings.workloads.iter().enumerate() {
            let place = format!("identity.mtls.trust_domains[{domain}].workloads[{workload}].can_open");
            known(place, settings.can_open.as_ref());
        }
    }
    for (name, store) in &file.stores {
        for (index, dataset) in store.datasets.iter().enumerate() {
            let place = format!("stores.{name}.datasets[{index}].sealed.recipient");
            known(place, dataset.sealed.as_ref().map(|sealed| &sealed.recipient));
        }
    }
    for (index, route) in file.routes.iter().enumerate() {
        sealed_as_said(config, (index, route), problems);
    }
    let Some(keys) = &file.keys else {
        let hint = "add `[keys]` with a root key, and the recipient";
        for index in file.routes.iter().enumerate().filter(|(_, route)| route.opens).map(|(index, _)| index) {
            let place = format!("{}.opens", config.route_place(index));
            problems.push(&config.name, place, "there are no keys to open with", hint);
        }
        if !file.recipients.is_empty() {
            problems.push(&config.name, "recipients", "there are no keys", hint);
        }
        return Some(Protector::new(None, Arc::clone(clock)));
    };
    let keys = kept(Keys::new(keys, &file.recipients, &config.name, Arc::clone(clock)), problems)?;
    Some(Protector::new(Some(keys), Arc::clone(clock)))
}

/// That a route says of each dataset of its store what the dataset says: nothing is read as what it is not, or written in the clear
/// where it is to be sealed.
fn sealed_as_said(config: &Config, (index, route): (usize, &RouteSettings), problems: &mut Problems) {
    let Some((name, store)) = route.store.as_ref().and_then(|name| config.file.stores.get_key_value(name))
    else {
        return;
    };
    for dataset in &store.datasets {
        let (message, hint) = match (route.objects, &dataset.sealed) {
            (Objects::Plain, Some(_)) => (
                format!("dataset `{}` of store `{name}` is sealed at rest", dataset.id),
                "set `objects = \"open\"` or `\"pass\"`; keep plain datasets in another store",
            ),
            (Objects::Pass | Objects::Open, None) => (
                format!("dataset `{}` of store `{name}` has no `sealed`", dataset.id),
                "give it `sealed = { tenant = \"…\", recipient = \"…\" }`, or keep it in another store",
            ),
            (Objects::Plain, None) => continue,
            (objects, Some(sealed)) => {
                let recipient = config.file.recipients.get(&sealed.recipient);
                if objects == Objects::Pass || recipient.is_none_or(|recipient| recipient.root.is_some()) {
                    continue;
                }
                (
                    format!(
                        "recipient `{}` of dataset `{}` has a public key alone",
                        sealed.recipient, dataset.id
                    ),
                    "give the recipient a `root`: with a public key nothing is opened here",
                )
            }
        };
        let place = format!("{}.objects", config.route_place(index));
        problems.push(&config.name, place, message, hint);
    }
}

/// That every body which is read whole finds room when it is alone.
fn room(config: &Config, routes: &Table, problems: &mut Problems) {
    let gate = &config.file.gate;
    let whole = routes.routes().filter(|route| matches!(route.kind, RouteKind::Inference { .. }));
    let Some(route) = whole.max_by_key(|route| route.max_body) else { return };
    let needed = route.max_body.min(gate.max_body.get());
    if gate.held_bodies.get() < needed {
        let message = format!(
            "{} is less than a body of route `{}` may have, {needed} bytes",
            gate.held_bodies, route.name
        );
        problems.push(&config.name, "gate.held_bodies", message, "raise it, or lower the route's `max_body`");
    }
}

fn routes(config: &Config, problems: &mut Problems) -> Option<Table> {
    let mut checked = Vec::new();
    for (index, route) in config.file.routes.iter().enumerate() {
        let place = config.route_place(index);
        if let Some(route) = route.check(&config.name, &place, problems) {
            checked.push((place, route));
        }
    }
    let whole = checked.len() == config.file.routes.len();
    // Those that are sound are compared with each other also beside a broken one.
    kept(Table::build_at(&config.name, checked), problems).filter(|_| whole)
}

fn catalog(config: &Config, problems: &mut Problems) -> Option<Catalog> {
    let inside: ClusterName = "private".parse().ok()?;
    let mut catalog = Catalog::new(inside);
    for (name, cluster) in &config.file.clusters {
        catalog.add_cluster(name.clone(), cluster.models.iter().cloned());
        if let Some(recipient) = &cluster.can_open {
            catalog.add_recipient(name.clone(), recipient.clone());
        }
    }
    for (name, store) in &config.file.stores {
        let datasets: Vec<DatasetSettings> = store
            .datasets
            .iter()
            .map(|dataset| DatasetSettings {
                dataset: dataset.id.clone(),
                bucket: dataset.bucket.clone(),
                prefix: dataset.prefix.clone(),
                level: dataset.level,
                residency: dataset.residency.clone(),
                sealed: dataset.sealed.clone(),
            })
            .collect();
        catalog.add_store(
            name.clone(),
            &datasets,
            &config.name,
            &format!("stores.{name}.datasets"),
            problems,
        );
    }
    for (name, service) in &config.file.services {
        catalog.add_service(name.clone(), service.cluster.clone());
    }
    Some(catalog)
}

/// The authorities of issuers' key sets; `identity` itself opens no connection, so it does not look at them.
fn key_authorities(config: &Config, problems: &mut Problems) {
    for (index, issuer) in config.file.identity.issuers.iter().enumerate() {
        let place = format!("identity.issuers[{index}].jwks_ca");
        match issuer.jwks_ca.as_deref().map(|ca| ClientTls::load(ca, None, Alpn::Http1)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => problems.push(&config.name, place, error.describe(), error.hint()),
            None if issuer.is_fetched_by_tls() => problems.push(
                &config.name,
                place,
                "is missing: an `https` key set needs the authorities that are trusted for it",
                "name a PEM file; system roots are not used",
            ),
            None => {}
        }
    }
}

/// The listener's certificate, key, authorities and bounds.
fn listener(config: &Config, problems: &mut Problems) {
    let listen = &config.file.listen;
    problems.append(listen.check(&config.name, "listen"));
    problems.append(admin_listener(config).check(&config.name, "admin"));
    let Some(tls) = &listen.tls else { return };
    // What cannot be read has been noted already.
    if let Ok(facts) = CertificateFacts::read(&tls.certificate)
        && let Some(reason) = facts.outside_validity(SystemClock.now())
    {
        let message = format!("certificate `{}` {reason}", tls.certificate.display());
        problems.push(
            &config.name,
            "listen.tls.certificate",
            message,
            "renew it, or set this machine's clock",
        );
    }
}

/// The second listener, with the default bounds.
pub(super) fn admin_listener(config: &Config) -> listen::Settings {
    let admin = &config.file.admin;
    listen::Settings::new(admin.address, admin.tls.clone())
}

fn instance(config: &Config) -> Instance {
    Instance { name: config.file.gateway.name.as_str().into(), version: env!("CARGO_PKG_VERSION") }
}

/// Opens the journal and keeps the bundle in it. Blocks while it recovers.
pub(super) fn journal(config: &Config, bundle: &Bundle, routes: &Table) -> anyhow::Result<Audit> {
    let audit = Audit::open(&config.file.audit, instance(config))?;
    audit.archive(bundle.hash(), bundle.files()).context("failed to keep the policies in the journal")?;
    let modes = routes.routes().map(|route| (route.name.to_string(), route.audit)).collect();
    audit.modes(&modes)?;
    Ok(audit)
}

pub(super) fn telemetry(config: &Config) -> anyhow::Result<Arc<Telemetry>> {
    let settings = &config.file.telemetry;
    let client = match &settings.otlp_endpoint {
        Some(url) => {
            let ca = settings.otlp_ca.clone();
            let client =
                ClientSettings { ca, allow_networks: net::private_networks(), ..ClientSettings::default() };
            Some(Arc::new(Client::new(url, &client)?))
        }
        None => None,
    };
    let exporters = Exporters::new(settings, config.file.gateway.name.as_str(), client, Handle::current())?;
    Ok(Arc::new(Telemetry::new(exporters)))
}

/// Starts to send records to the configured destinations.
pub(super) fn outbox(config: &Config, audit: &Audit) -> anyhow::Result<Outbox> {
    let settings = &config.file.audit;
    Ok(Outbox::start(audit, &settings.directory, &instance(config), &settings.export)?)
}
