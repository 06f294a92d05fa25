//! Readings that are taken when metrics are collected: the journal, its export, the far sides.

use std::sync::Arc;

use crate::audit::outbox::{ExportStats, Health, Outbox};
use crate::audit::{Audit, State, Stats};
use crate::gateway::Gateway;
use crate::telemetry::{Gauge, Telemetry};
use crate::upstream::{EndpointReading, UpstreamReading};

/// Registers the readings of the export, one for each destination.
pub(super) fn export(telemetry: &Telemetry, outbox: &Outbox) {
    let metrics = telemetry.metrics();
    let gauge = |name, unit, description, read: fn(ExportStats) -> u64| {
        let watch = outbox.watch();
        metrics.observe_each(Gauge { name, unit, description }, "tidegate.destination", move |note| {
            watch.stats().for_each(|(name, stats)| note(name, read(stats)));
        });
    };
    gauge(
        "tidegate.audit.export.state",
        "{state}",
        "0 records are taken, 1 tried again, 2 refused until somebody mends it, 3 the journal cannot be read",
        |stats| match stats.health {
            Health::Sending => 0,
            Health::Waiting => 1,
            Health::Denied => 2,
            Health::Unreadable => 3,
        },
    );
    gauge("tidegate.audit.export.lag_records", "{record}", "Records not acknowledged yet", |stats| {
        stats.lag_records
    });
    gauge("tidegate.audit.export.lag", "s", "Age of the oldest record on its way", |stats| stats.lag_seconds);
    gauge("tidegate.audit.export.sent", "{record}", "Records acknowledged since the start", |stats| {
        stats.sent
    });
    gauge("tidegate.audit.export.failures", "{attempt}", "Attempts that failed since the start", |stats| {
        stats.failures
    });
    gauge("tidegate.audit.export.dead_letters", "{record}", "Records refused for good", |stats| {
        stats.dead_letters
    });
    gauge(
        "tidegate.audit.export.missed",
        "{record}",
        "Records removed before they were sent, since the start",
        |stats| stats.missed,
    );
}

/// Registers the reading of exchanges under way.
pub(super) fn exchanges(telemetry: &Telemetry, gateway: &Arc<Gateway>) {
    let gauge = Gauge {
        name: "tidegate.exchanges",
        unit: "{exchange}",
        description: "Exchanges under way that are decided again when something changes",
    };
    // Metrics must not keep the gateway alive, which has them.
    let gateway = Arc::downgrade(gateway);
    let read = move || gateway.upgrade().map_or(0, |gateway| gateway.exchanges());
    telemetry.metrics().observe(gauge, move || u64::try_from(read()).unwrap_or(u64::MAX));
}

/// Registers the readings of the room for bodies that are read whole.
pub(super) fn held_bodies(telemetry: &Telemetry, gateway: &Gateway) {
    let held = Arc::clone(&gateway.snapshot().held);
    let room = Arc::clone(&held);
    let used = Gauge {
        name: "tidegate.held_bodies",
        unit: "By",
        description: "Bytes of bodies that are read whole, held now",
    };
    telemetry.metrics().observe(used, move || held.used());
    let most = Gauge {
        name: "tidegate.held_bodies.limit",
        unit: "By",
        description: "Bytes of bodies that may be held",
    };
    telemetry.metrics().observe(most, move || room.most());
}

/// Registers the readings of the far sides: endpoints, queues, retries.
pub(super) fn upstreams(telemetry: &Telemetry, gateway: &Arc<Gateway>) {
    let metrics = telemetry.metrics();
    let of_endpoints = |name, unit, description, read: fn(EndpointReading<'_>) -> u64| {
        let gateway = Arc::downgrade(gateway);
        let labels = ["tidegate.upstream", "tidegate.endpoint"];
        metrics.observe_labelled(Gauge { name, unit, description }, labels, move |note| {
            if let Some(gateway) = gateway.upgrade() {
                gateway.snapshot().upstreams.endpoints().for_each(|reading| {
                    note([reading.id.upstream().name(), reading.id.address()], read(reading));
                });
            }
        });
    };
    of_endpoints(
        "tidegate.upstream.endpoint.state",
        "{state}",
        "0 the endpoint is called, 1 its calls failed and it is left out, 2 its checks fail",
        |reading| reading.state.number(),
    );
    of_endpoints(
        "tidegate.upstream.endpoint.ejections",
        "{ejection}",
        "How often the endpoint was left out since the start",
        |reading| reading.ejections,
    );
    of_endpoints(
        "tidegate.upstream.endpoint.floods",
        "{connection}",
        "Connections that were cut since the start because the endpoint sent HTTP/2 frames without end",
        |reading| reading.floods,
    );
    of_endpoints(
        "tidegate.upstream.endpoint.in_flight",
        "{request}",
        "Requests in flight there",
        |reading| reading.in_flight,
    );
    let of_upstreams = |name, unit, description, read: fn(UpstreamReading<'_>) -> u64| {
        let gateway = Arc::downgrade(gateway);
        metrics.observe_labelled(Gauge { name, unit, description }, ["tidegate.upstream"], move |note| {
            if let Some(gateway) = gateway.upgrade() {
                gateway.snapshot().upstreams.readings().for_each(|reading| {
                    note([reading.upstream.name()], read(reading));
                });
            }
        });
    };
    of_upstreams(
        "tidegate.upstream.waiting",
        "{request}",
        "Requests that wait for a place in flight",
        |reading| reading.waiting,
    );
    of_upstreams(
        "tidegate.upstream.shed",
        "{request}",
        "Requests that found the queue full or waited too long, since the start",
        |reading| reading.shed,
    );
    of_upstreams(
        "tidegate.upstream.retries",
        "{attempt}",
        "Further attempts after one that failed there, since the start",
        |reading| reading.retries,
    );
    of_upstreams(
        "tidegate.upstream.retries_withheld",
        "{attempt}",
        "Further attempts that the retry budget forbade, since the start",
        |reading| reading.retries_withheld,
    );
}

/// Registers the readings of the journal.
pub(super) fn journal(telemetry: &Telemetry, audit: &Audit) {
    let metrics = telemetry.metrics();
    let gauge = |name, unit, description, read: fn(Stats) -> u64| {
        let audit = audit.clone();
        metrics.observe(Gauge { name, unit, description }, move || read(audit.stats()));
    };
    gauge("tidegate.audit.state", "1", "0 while the journal can be written, 1 while it cannot", |stats| {
        u64::from(stats.state != State::Ok)
    });
    gauge("tidegate.audit.records", "{record}", "Records written since the start", |stats| stats.records);
    gauge("tidegate.audit.commits", "{commit}", "Syncs of the journal since the start", |stats| {
        stats.commits
    });
    gauge("tidegate.audit.refused", "{request}", "Requests refused for want of a record", |stats| {
        stats.refused
    });
    gauge("tidegate.audit.lost_events", "{event}", "Events that found no place in the queue", |stats| {
        stats.lost
    });
    gauge("tidegate.audit.queue", "{record}", "Records that wait to be written", |stats| {
        u64::try_from(stats.queue_depth).unwrap_or(u64::MAX)
    });
}
