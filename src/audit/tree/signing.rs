//! The keys that sign checkpoints, as the settings name them, and the tree that they have signed so far.

use std::sync::Arc;

use aws_lc_rs::signature::Ed25519KeyPair;

use super::log::LogDirectory;
use super::machine;
use super::note::{Signer, VerifierKey};
use super::recover::{Journal, Start, recover};
use super::{TreeError, key};
use crate::audit::Settings;
use crate::audit::recovery::Recovered;

/// The key that is made at the first start, below the journal. No tenant's key has this ending.
pub(crate) const OWN_KEY: &str = "keys/checkpoint.pem";

/// The keys that sign.
#[derive(Debug)]
pub(crate) struct Keys {
    current: Arc<Ed25519KeyPair>,
    /// The one before, as long as it is configured.
    previous: Option<Arc<Ed25519KeyPair>>,
}

/// The keys of a change, as verifier keys.
#[derive(Debug)]
pub(crate) struct KeyChange {
    pub(crate) old: String,
    pub(crate) new: String,
}

impl Keys {
    /// The signers under a log's name: the current, then the previous.
    pub(crate) fn signers(&self, name: &str) -> Vec<Signer> {
        let pairs = [Some(&self.current), self.previous.as_ref()];
        pairs.into_iter().flatten().map(|pair| Signer::new(name, pair.clone())).collect()
    }

    /// The verifier keys under a log's name, in the same order.
    pub(crate) fn verifiers(&self, name: &str) -> Vec<VerifierKey> {
        self.signers(name).iter().map(|signer| signer.verifier().clone()).collect()
    }

    /// The change from the previous key to the current.
    pub(crate) fn change(&self, name: &str) -> Option<KeyChange> {
        let keys = self.verifiers(name);
        let [new, old] = keys.as_slice() else { return None };
        Some(KeyChange { old: old.to_string(), new: new.to_string() })
    }
}

/// Reads or makes the keys, and compares the tree with the segments.
///
/// # Errors
/// A key cannot be used, or tree and segments do not belong together.
pub(crate) fn open(settings: &Settings, recovered: &Recovered) -> Result<(Keys, Option<Start>), TreeError> {
    let directory = &settings.directory;
    let own = directory.join(OWN_KEY);
    let path = settings.signing_key.as_ref().unwrap_or(&own);
    if !path.exists() && settings.signing_key.is_none() {
        let io = |source| TreeError::Io { action: "read", path: directory.clone(), source };
        // A new key in the place of a lost one could not vouch for what was signed before.
        if LogDirectory::list(directory).map_err(io)?.iter().any(|log| log.checkpoint().exists()) {
            return Err(TreeError::KeyMissing(own));
        }
        key::make(&own)?;
    }
    let current = Arc::new(key::read(path)?);
    let previous = settings.previous_signing_key.as_deref().map(key::read).transpose()?.map(Arc::new);
    let keys = Keys { current, previous };
    let journal = Journal {
        directory,
        log: recovered.log.as_ref(),
        next_seq: recovered.next_seq,
        last: &recovered.leaves,
        suspect: machine::was_restarted(directory),
    };
    let start = recover(&journal, |name| keys.verifiers(name))?;
    let path = directory.join("tree");
    machine::note(directory).map_err(|source| TreeError::Io { action: "write", path, source })?;
    Ok((keys, start))
}
