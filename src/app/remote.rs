//! Policies and entities that come from a URL: fetched, judged, and laid down beside the journal, where the follower of files finds them.
//!
//! What is fetched is tried as a whole, with what it would be served with, before it replaces the last good file. So the file on disk is
//! always one that was sound, and it is judged again at each start: a source that is down, or sends rubbish, stops nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::admin::Status;
use crate::audit::Audit;
use crate::audit::record::Event;
use crate::config::{self, Config, RemoteSettings};
use crate::gateway::Gateway;
use crate::model::Problems;
use crate::net::{Client, ClientError, ClientSettings, FetchError, private_networks};
use crate::policy::Place;
use crate::telemetry::{Gauge, Telemetry};

use super::look::SHORTEST;
use super::release::put;

/// What is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Bundle,
    Entities,
}

impl What {
    const fn name(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Entities => "entities",
        }
    }

    /// Where the last good one is.
    fn file(self, config: &Config) -> PathBuf {
        match self {
            Self::Bundle => config.fetched_bundle(),
            Self::Entities => config.fetched_entities(),
        }
    }

    /// Where one is that is tried.
    fn trial(self, config: &Config) -> PathBuf {
        let mut path = self.file(config).into_os_string();
        path.push(".fetched");
        path.into()
    }
}

/// One URL.
struct Source {
    what: What,
    settings: RemoteSettings,
    client: Client,
    /// The version that was judged last.
    etag: Option<HeaderValue>,
    /// Its bytes, if it was refused: the same again is no news.
    refused: Option<Bytes>,
}

/// Why nothing new is there.
#[derive(Debug, thiserror::Error)]
enum RemoteError {
    #[error("cannot be fetched")]
    Fetch(#[from] FetchError),
    #[error("cannot be asked")]
    Client(#[from] ClientError),
    #[error("cannot be kept in `{}`", .0.display())]
    Keep(PathBuf, #[source] std::io::Error),
    #[error("is refused: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Problems),
    #[error("was not judged")]
    Judge,
}

impl Source {
    fn all(config: &Config) -> Result<Vec<Self>, (What, RemoteError)> {
        let policy = &config.file.policy;
        let both = [(What::Bundle, &policy.remote), (What::Entities, &policy.entities)];
        let configured = both.into_iter().filter_map(|(what, settings)| Some((what, settings.as_ref()?)));
        configured
            .map(|(what, settings)| {
                let client = ClientSettings {
                    ca: settings.ca.clone(),
                    allow_networks: private_networks(),
                    timeout: settings.timeout,
                    max_bytes: settings.max_bytes,
                    ..ClientSettings::default()
                };
                let client = Client::new(&settings.url, &client).map_err(|error| (what, error.into()))?;
                Ok(Self { what, settings: settings.clone(), client, etag: None, refused: None })
            })
            .collect()
    }

    /// When it is asked next.
    fn due(&self) -> Instant {
        Instant::now() + self.settings.poll.get().max(SHORTEST)
    }

    /// The file if it is another than the one that was judged last.
    async fn fetch(&mut self) -> Result<Option<Bytes>, RemoteError> {
        match self.client.get_if_changed(&self.settings.url, self.etag.as_ref()).await? {
            None => Ok(None),
            Some((bytes, etag)) => {
                self.etag = etag;
                Ok(Some(bytes))
            }
        }
    }
}

/// What is wrong with the URLs and the authorities that they are fetched by.
pub(super) fn check(config: &Config, problems: &mut Problems) {
    if let Err((what, error)) = Source::all(config) {
        let place = match what {
            What::Bundle => "policy.remote",
            What::Entities => "policy.entities",
        };
        let hint = "name an `https` URL, and in `ca` a PEM file of the authorities that are trusted for it";
        problems.push(&config.name, place, told(&error), hint);
    }
}

/// Whether what was fetched is sound, with what it would be served with.
fn judge(config: &Config, fetched: &[What]) -> Result<(), RemoteError> {
    let origin = || -> Result<(), Problems> {
        let mut origin = config::origin(config)?;
        for what in fetched {
            origin = match what {
                What::Bundle => origin.at(Place::Packed(what.trial(config))),
                What::Entities => origin.with_entities(what.trial(config)),
            };
        }
        let bundle = origin.load(&config::moment(config)?)?;
        let lacking = config::entities(config, &bundle);
        if lacking.is_empty() { Ok(()) } else { Err(lacking) }
    };
    origin().map_err(RemoteError::Refused)?;
    for what in fetched {
        let file = what.file(config);
        std::fs::rename(what.trial(config), &file).map_err(|error| RemoteError::Keep(file, error))?;
    }
    Ok(())
}

fn lay(path: &Path, bytes: &[u8]) -> Result<(), RemoteError> {
    put(path, bytes).map_err(|error| RemoteError::Keep(path.to_owned(), error))
}

/// What was wrong with URLs at the start: each with its source and the URL.
pub(super) struct Fetched(Vec<(&'static str, String, String)>);

impl Fetched {
    /// Adds to what is wrong with the files why they are not newer ones.
    pub(super) fn explain(&self, mut problems: Problems) -> Problems {
        self.0.iter().for_each(|(source, url, problem)| problems.push(url, *source, problem, ""));
        problems
    }

    /// Tells that the last good files are served.
    pub(super) fn tell(self, status: &Status) {
        for (source, url, problem) in self.0 {
            tracing::error!(source, url, problem, "the last good is served");
            status.fetched(source, Some(format!("{url}: {problem}")));
        }
    }
}

/// Asks all URLs before the start. What is wrong is no reason not to start as long as the last good files are there.
pub(super) async fn first(config: &Config) -> Fetched {
    Fetched(ask(config).await)
}

async fn ask(config: &Config) -> Vec<(&'static str, String, String)> {
    let mut problems = Vec::new();
    let mut sources = match Source::all(config) {
        Ok(sources) => sources,
        Err((what, error)) => return vec![(what.name(), String::new(), told(&error))],
    };
    let mut fetched = Vec::new();
    for source in &mut sources {
        let laid = match source.fetch().await {
            Ok(bytes) => lay(&source.what.trial(config), &bytes.unwrap_or_default()),
            Err(error) => Err(error),
        };
        match laid {
            Ok(()) => fetched.push(source.what),
            Err(error) => problems.push((source.what.name(), source.settings.url.clone(), told(&error))),
        }
    }
    // Both together, for one may need the other; else each with the last good of the other.
    let tries: Vec<Vec<What>> = match fetched.as_slice() {
        [bundle, entities] => vec![vec![*bundle, *entities], vec![*bundle], vec![*entities]],
        one => vec![one.to_vec()],
    };
    for fetched in tries.into_iter().filter(|fetched| !fetched.is_empty()) {
        let (config, names) = (config.clone(), fetched.clone());
        let judged = tokio::task::spawn_blocking(move || judge(&config, &names)).await;
        match judged.unwrap_or(Err(RemoteError::Judge)) {
            Ok(()) => {
                // What was wrong with both together is no fault of what is served now.
                problems.retain(|(name, ..)| fetched.iter().all(|what| what.name() != *name));
                return problems;
            }
            Err(error) => {
                let of = |what: &What| sources.iter().find(|source| source.what == *what);
                for source in fetched.iter().filter_map(of) {
                    problems.push((source.what.name(), source.settings.url.clone(), told(&error)));
                }
            }
        }
    }
    problems
}

/// An error with its causes.
fn told(error: &RemoteError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// The task that asks the URLs again; dropping it ends it.
#[derive(Debug)]
pub(super) struct Poll(JoinHandle<()>);

impl Drop for Poll {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the task tells to.
pub(super) struct Told {
    pub(super) gateway: Arc<Gateway>,
    pub(super) audit: Audit,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) status: Arc<Status>,
}

/// Registers whether each URL is sound.
fn observe(sources: &[Source], told: &Told) {
    let names: Vec<&'static str> = sources.iter().map(|source| source.what.name()).collect();
    let status = Arc::clone(&told.status);
    let gauge = Gauge {
        name: "tidegate.policy.source.state",
        unit: "{state}",
        description: "0 what the URL gives is served, 1 the last good is served instead",
    };
    told.telemetry.metrics().observe_each(gauge, "tidegate.source", move |note| {
        names.iter().for_each(|name| note(name, u64::from(status.has_problem(name))));
    });
}

/// Starts to ask each URL again and again.
pub(super) fn poll(config: &Config, told: Told) -> Option<Poll> {
    let sources = Source::all(config).ok().filter(|sources| !sources.is_empty())?;
    observe(&sources, &told);
    let poller = Poller { config: Arc::new(config.clone()), told };
    Some(Poll(tokio::spawn(poller.run(sources))))
}

struct Poller {
    config: Arc<Config>,
    told: Told,
}

impl Poller {
    async fn run(self, mut sources: Vec<Source>) {
        // One after the other: each is tried with what the other has laid down.
        let mut due: Vec<Instant> = sources.iter().map(Source::due).collect();
        loop {
            let Some(next) = due.iter().min().copied() else { return };
            sleep_until(next).await;
            let mut changed = false;
            for (source, due) in sources.iter_mut().zip(&mut due) {
                if *due <= next {
                    let came = self.look(source).await;
                    changed |= matches!(came, Ok(true));
                    self.tell(source, came.err());
                    *due = source.due();
                }
            }
            if changed {
                // What was refused beside the old may be sound beside the new.
                for source in sources.iter_mut().filter(|source| source.refused.is_some()) {
                    (source.refused, source.etag) = (None, None);
                }
            }
        }
    }

    /// Whether a new file was laid down.
    async fn look(&self, source: &mut Source) -> Result<bool, RemoteError> {
        let Some(bytes) = source.fetch().await? else { return Ok(false) };
        if source.refused.as_ref() == Some(&bytes) {
            return Err(RemoteError::Judge);
        }
        let (config, what, tried) = (Arc::clone(&self.config), source.what, bytes.clone());
        let judged = tokio::task::spawn_blocking(move || {
            let (file, trial) = (what.file(&config), what.trial(&config));
            if std::fs::read(file).is_ok_and(|last| last == tried) {
                return Ok(false);
            }
            lay(&trial, &tried)?;
            judge(&config, &[what]).map(|()| true)
        });
        let judged = judged.await.unwrap_or(Err(RemoteError::Judge));
        source.refused = matches!(judged, Err(RemoteError::Refused(_))).then_some(bytes);
        if judged.is_err() && source.refused.is_none() {
            // The fault is not in the file: it is looked at again.
            source.etag = None;
        }
        judged
    }

    fn tell(&self, source: &Source, error: Option<RemoteError>) {
        let (name, url) = (source.what.name(), source.settings.url.as_str());
        match error {
            None if source.refused.is_some() => {}
            None => {
                self.told.status.fetched(name, None);
            }
            // Told when it was judged.
            Some(RemoteError::Judge) if source.refused.is_some() => {}
            Some(error) => {
                let shown = format!("{url}: {}", told(&error));
                if self.told.status.fetched(name, Some(shown.clone())) {
                    tracing::error!(source = name, problem = shown, "the last good stays");
                }
                if let RemoteError::Refused(problems) = error {
                    self.refused(problems);
                }
            }
        }
    }

    fn refused(&self, problems: Problems) {
        self.told.telemetry.metrics().reloaded(false);
        let snapshot = self.told.gateway.snapshot();
        let problems: Vec<String> = problems.into_vec().iter().map(ToString::to_string).collect();
        self.told.audit.event(&Event::Reload {
            actor: "remote".into(),
            old: Some(snapshot.bundle.hash().into()),
            new: None,
            files: Vec::new(),
            problems: problems.iter().map(|problem| problem.as_str().into()).collect(),
        });
    }
}
