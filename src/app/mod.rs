//! The composition root: configuration becomes a snapshot, listeners start, policies are reloaded, all is drained.
//!
//! The only place that imports everything; it decides nothing about any request.

mod build;
mod confine;
mod follow;
mod handlers;
mod keys;
mod look;
mod observe;
#[cfg(test)]
mod panics;
mod release;
mod reload;
mod remote;
mod shadow;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin::{Admin, Status};
use crate::audit::outbox::Outbox;
use crate::audit::{Audit, round};
use crate::config::{self, Config};
use crate::gateway::Gateway;
use crate::listen::Listener;
use crate::model::{Problems, SystemClock};
use crate::telemetry::{self, Telemetry};

use follow::Following;
use handlers::{AdminHandler, DataHandler};

pub use build::{check, check_file};

/// How often the journal is looked at while the last records come in, and how many times.
const SETTLE_STEP: Duration = Duration::from_millis(10);
const SETTLE_STEPS: u32 = 100;

/// How long the last records may take to their destinations when the gateway stops; the next start sends the rest.
const LAST_EXPORT: Duration = Duration::from_secs(3);

/// A gateway that serves.
#[derive(Debug)]
pub struct Running {
    data: SocketAddr,
    admin: SocketAddr,
    status: Arc<Status>,
    stop_data: watch::Sender<bool>,
    stop_admin: watch::Sender<bool>,
    reload: reload::Trigger,
    shadow: Option<shadow::Follow>,
    remote: Option<remote::Poll>,
    following: Following,
    judge: JoinHandle<()>,
    data_task: JoinHandle<()>,
    admin_task: JoinHandle<()>,
    audit: Audit,
    outbox: Outbox,
    telemetry: Arc<Telemetry>,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Files that people wrote are wrong; all problems are in it.
    #[error("the configuration has problems:\n{0}")]
    Invalid(Problems),
    /// Something else failed.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// Loads the configuration and starts the gateway on the current runtime.
///
/// # Errors
/// The configuration or what it names is wrong, an address is taken, or the journal cannot be opened.
pub async fn start(path: &Path) -> Result<Running, StartError> {
    let config = config::load(path).map_err(StartError::Invalid)?;
    start_with(config).await
}

/// Starts a gateway of a loaded configuration.
///
/// # Errors
/// As [`start`].
pub async fn start_with(config: Config) -> Result<Running, StartError> {
    let fetched = remote::first(&config).await;
    let snapshot =
        build::snapshot(&config).map_err(|problems| StartError::Invalid(fetched.explain(problems)))?;
    let audit = build::journal(&config, &snapshot.bundle, &snapshot.routes)
        .context("failed to open the audit journal")?;
    let origin = config::origin(&config).map_err(StartError::Invalid)?;
    release::remember(&config, &snapshot.bundle).context("failed to keep the serial of the policies")?;
    release::announce(&audit, &snapshot.bundle);
    let telemetry = build::telemetry(&config).context("failed to set up telemetry")?;
    observe::journal(&telemetry, &audit);
    let outbox = build::outbox(&config, &audit).context("failed to start the audit export")?;
    observe::export(&telemetry, &outbox);
    snapshot.identity.start().await;
    snapshot.upstreams.start_checks();
    let clock = Arc::new(SystemClock);
    let candidate = shadow::open(&config, &audit)?;
    candidate.iter().for_each(|shadow| shadow::observe(&telemetry, shadow));
    let gateway = Gateway::new(snapshot, audit.clone(), Arc::clone(&telemetry), clock);
    let gateway = Arc::new(gateway.with_shadow(candidate.clone()));
    observe::upstreams(&telemetry, &gateway);
    let status = Arc::new(Status::default());
    fetched.tell(&status);
    let admin = Admin::new(Arc::clone(&gateway), audit.clone(), Arc::clone(&telemetry), Arc::clone(&status));

    let listen = &config.file.listen;
    let data =
        Listener::bind(listen.clone()).with_context(|| format!("failed to listen on {}", listen.address))?;
    let admin_listener = Listener::bind(build::admin_listener(&config))
        .with_context(|| format!("failed to listen on {} for admin", config.file.admin.address))?;

    let (stop_data, data_stops) = watch::channel(false);
    let (stop_admin, admin_stops) = watch::channel(false);
    let (data_address, admin_address) = (data.local_addr(), admin_listener.local_addr());
    let shadow = shadow::follow(&config, candidate, audit.clone());
    let told = remote::Told {
        gateway: Arc::clone(&gateway),
        audit: audit.clone(),
        telemetry: Arc::clone(&telemetry),
        status: Arc::clone(&status),
    };
    let remote = remote::poll(&config, told);
    let files = config.clone();
    let reload = reload::start(
        (config, origin),
        Arc::clone(&gateway),
        audit.clone(),
        Arc::clone(&telemetry),
        Arc::clone(&status),
    );
    let following = Following::start(&files, &gateway, data.tls(), (&audit, &telemetry, &status));
    let judge = tokio::spawn(Arc::clone(&gateway).keep_deciding());
    observe::exchanges(&telemetry, &gateway);
    observe::held_bodies(&telemetry, &gateway);
    let data_task = tokio::spawn(data.run(Arc::new(DataHandler(gateway)), stopped(data_stops)));
    let admin_task = tokio::spawn(admin_listener.run(Arc::new(AdminHandler(admin)), stopped(admin_stops)));
    Ok(Running {
        data: data_address,
        admin: admin_address,
        status,
        stop_data,
        stop_admin,
        reload,
        shadow,
        remote,
        following,
        judge,
        data_task,
        admin_task,
        audit,
        outbox,
        telemetry,
    })
}

/// A runtime with the configured number of workers. Before it starts its threads the operator's log is installed and the process gives up what a
/// gateway does not need: for the life of the process it starts no other program.
///
/// # Errors
/// The system gives no threads.
pub fn runtime(config: &Config) -> anyhow::Result<Runtime> {
    telemetry::init_log(&config.file.telemetry);
    confine::confine(config);
    let mut builder = Builder::new_multi_thread();
    if config.file.gateway.workers > 0 {
        builder.worker_threads(usize::from(config.file.gateway.workers));
    }
    builder.on_thread_park(round::end);
    builder.enable_all().thread_name("tidegate").build().context("failed to start the runtime")
}

/// Resolves when the gateway is told to stop, or nobody is left to tell it.
async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

impl Running {
    /// Where requests are served.
    #[must_use]
    pub const fn data_address(&self) -> SocketAddr {
        self.data
    }

    /// Where health and metrics are served.
    #[must_use]
    pub const fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Compares policies, certificates and revocations with their files now instead of at the next poll.
    pub fn reload(&self) {
        self.reload.now();
        self.shadow.iter().for_each(shadow::Follow::now);
        self.following.now();
    }

    /// Stops accepting, lets streams end for the configured time, closes the journal, sends what telemetry holds.
    pub async fn shutdown(self) {
        self.status.drain();
        drop((self.remote, self.reload, self.following));
        // Health stays readable while streams end: a load balancer must see that this instance drains.
        for (stop, task) in [(self.stop_data, self.data_task), (self.stop_admin, self.admin_task)] {
            stop.send_replace(true);
            if let Err(error) = task.await {
                tracing::error!(%error, "a listener failed");
            }
        }
        self.judge.abort();
        settle(&self.audit).await;
        if let Some(shadow) = self.shadow {
            shadow.close().await;
        }
        self.audit.close().await;
        self.outbox.close(LAST_EXPORT).await;
        let telemetry = self.telemetry;
        let _ = tokio::task::spawn_blocking(move || telemetry.shutdown()).await;
    }
}

/// Waits for the records of requests that the end of their connection has only just ended.
async fn settle(audit: &Audit) {
    for _ in 0..SETTLE_STEPS {
        if audit.stats().places_taken == 0 {
            return;
        }
        tokio::time::sleep(SETTLE_STEP).await;
    }
    tracing::warn!("some requests were still open: their records end as unknown");
}
