//! Where the policies of a configuration come from, what is demanded of them, and what was served before.

use std::path::{Path, PathBuf};

use crate::model::note::VerifierKey;
use crate::model::{Clock as _, Problems, SystemClock};
use crate::policy::release::{Last, Moment, Terms};
use crate::policy::{Origin, Place};

use super::Config;
use super::policy::{AttestationRule, PolicySettings};

/// The file of the last release within the state folder.
const LAST: &str = "release.json";
/// The last good bundle of a URL, within the state folder.
const BUNDLE: &str = "bundle.tar.gz";
/// The last good entities of a URL, within the state folder.
const ENTITIES: &str = "entities.json";

impl Config {
    /// Where the gateway keeps what it must remember of policies: the last release, and the last good of what is fetched.
    #[must_use]
    pub fn policy_state(&self) -> PathBuf {
        let own = || self.file.audit.directory.join("policy");
        self.file.policy.state.clone().unwrap_or_else(own)
    }

    /// The file of the last release.
    #[must_use]
    pub fn last_release_file(&self) -> PathBuf {
        self.policy_state().join(LAST)
    }

    /// The last good bundle of `[policy.remote]`.
    #[must_use]
    pub fn fetched_bundle(&self) -> PathBuf {
        self.policy_state().join(BUNDLE)
    }

    /// The last good entities of `[policy.entities]`.
    #[must_use]
    pub fn fetched_entities(&self) -> PathBuf {
        self.policy_state().join(ENTITIES)
    }

    /// Whether `[policy.entities]` is there, and nothing was ever fetched from it.
    pub(super) fn lacks_entities(&self) -> bool {
        self.file.policy.entities.is_some() && is_absent(&self.fetched_entities())
    }

    /// What is fetched before a gateway starts, and never was: the table, its URL, and the file that a gateway would have kept. What is in it
    /// cannot be checked.
    #[must_use]
    pub fn unfetched(&self) -> Vec<(&'static str, &str, PathBuf)> {
        let policy = &self.file.policy;
        let bundle =
            policy.remote.as_ref().map(|remote| ("policy.remote", &remote.url, self.fetched_bundle()));
        let entities = policy.entities.as_ref();
        let entities = entities.map(|remote| ("policy.entities", &remote.url, self.fetched_entities()));
        let all = bundle.into_iter().chain(entities);
        all.filter(|(.., file)| is_absent(file))
            .map(|(table, url, file)| (table, url.as_str(), file))
            .collect()
    }
}

/// Whether there is certainly no such file: one that cannot be looked at is another matter.
fn is_absent(file: &Path) -> bool {
    file.try_exists().is_ok_and(|exists| !exists)
}

/// Where the policies come from.
///
/// # Errors
/// The keys are none, or what is demanded makes no sense.
pub fn origin(config: &Config) -> Result<Origin, Problems> {
    let policy = &config.file.policy;
    let mut problems = Problems::new();
    let terms = terms(policy, &config.name, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    let place = match &policy.remote {
        Some(_) => Place::Packed(config.fetched_bundle()),
        None => Place::Folder(policy.directory.clone()),
    };
    let entities = policy.entities.as_ref().map(|_| config.fetched_entities());
    Ok(Origin::new(place, entities, terms))
}

fn terms(policy: &PolicySettings, file: &str, problems: &mut Problems) -> Terms {
    let mut keys = Vec::new();
    for (index, key) in policy.keys.iter().enumerate() {
        match key.parse::<VerifierKey>() {
            Ok(key) => keys.push(key),
            Err(error) => {
                let hint = "copy the line that `tidegate policy bundle` prints";
                problems.push(file, format!("policy.keys[{index}]"), error, hint);
            }
        }
    }
    let demanded = policy.attestation == AttestationRule::Required;
    if !demanded && !policy.claims.is_empty() {
        let hint = "add `attestation = \"required\"`";
        problems.push(file, "policy.claims", "is of no effect: no attestation is demanded", hint);
    }
    Terms { keys, attested: demanded.then(|| policy.claims.clone()), expired: policy.expired }
}

/// Now, and the release with the highest serial that was served.
///
/// # Errors
/// What was served cannot be read: then any bundle could be an older one.
pub fn moment(config: &Config) -> Result<Moment, Problems> {
    let path = config.last_release_file();
    let last = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Last>(&bytes).map(Some).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    };
    let now = SystemClock.now();
    last.map(|last| Moment { now, last }).map_err(|error| {
        let mut problems = Problems::new();
        let hint = "bring it back from a backup; without it a bundle older than the last could be served";
        problems.push(path.display().to_string(), "", format!("cannot be read: {error}"), hint);
        problems
    })
}
