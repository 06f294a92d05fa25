//! From settings to issuers: every mistake of the configuration is found here, all at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::model::{Clock, Problems};

use super::api_key::ApiKeys;
use super::cache::TokenCache;
use super::discovery::is_safe_url;
use super::jwks::MAX_SET_BYTES;
use super::jwt::Issuer;
use super::keyring::{KeyRing, KeySource, Origin, RingParts};
use super::settings::{
    IssuerSettings, MAX_CACHE_ENTRIES, MAX_CACHE_TTL, MAX_LEEWAY, MAX_LIST, MAX_STALE, Settings,
};
use super::{ANONYMOUS, read_bounded};

/// What all issuers share.
pub(super) struct Shared {
    pub(super) source: Arc<dyn KeySource>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) cache: Arc<TokenCache>,
}

/// The issuers, those with mistakes left out.
pub(super) fn issuers(
    settings: &Settings,
    file: &str,
    shared: &Shared,
    problems: &mut Problems,
) -> Vec<Issuer> {
    if settings.issuers.len() > MAX_LIST {
        problems.push(file, "identity.issuers", "more than 1000 issuers", "remove some");
    }
    let mut names = HashSet::new();
    let mut issuers = Vec::new();
    for (place, issuer) in settings.issuers.iter().enumerate().take(MAX_LIST) {
        let mut note = Note { file, place: format!("identity.issuers[{place}]"), problems };
        check_names(issuer, &mut note);
        check_bounds(issuer, &mut note);
        if !names.insert(issuer.issuer.as_str()) {
            note.push("issuer", "this issuer stands twice", "merge the two entries");
        }
        let Some(origin) = origin(issuer, &mut note) else { continue };
        let index = issuers.len();
        let keys = KeyRing::new(RingParts {
            issuer: issuer.issuer.clone(),
            index,
            origin,
            max_stale: issuer.max_stale.get(),
            source: Arc::clone(&shared.source),
            clock: Arc::clone(&shared.clock),
            cache: Arc::clone(&shared.cache),
        });
        read_file(issuer, &keys, shared.clock.now(), problems);
        let leeway_ms = i64::try_from(issuer.leeway.get().as_millis()).unwrap_or(0);
        issuers.push(Issuer { index, settings: issuer.clone(), leeway_ms, keys: Arc::new(keys) });
    }
    issuers
}

/// Bounds of the cache.
pub(super) fn check_cache(settings: &Settings, file: &str, problems: &mut Problems) {
    if settings.cache.entries > MAX_CACHE_ENTRIES {
        problems.push(file, "identity.cache.entries", "is more than 100000", "use 0 to 100000");
    }
    if settings.cache.ttl > MAX_CACHE_TTL {
        problems.push(file, "identity.cache.ttl", "is longer than 5m", "use at most `5m`");
    }
}

/// No two proofs of identity may lead to the same workload by chance.
pub(super) fn check_workload_names(
    settings: &Settings,
    file: &str,
    api_keys: &ApiKeys,
    problems: &mut Problems,
) {
    let mut claimed: HashMap<&str, usize> = HashMap::new();
    for (index, issuer) in settings.issuers.iter().enumerate() {
        let place = format!("identity.issuers[{index}].workload_clients");
        for client in issuer.workload_clients.iter().flatten() {
            if client.is_empty() || client == ANONYMOUS || client.starts_with("spiffe:") {
                problems.push(
                    file,
                    &place,
                    format!("`{client}` is no client id"),
                    "write the `client_id` of its tokens",
                );
            }
            if api_keys.names_workload(client) {
                problems.push(file, &place, format!("`{client}` is also the id of an API key"), "rename one");
            }
            if claimed.insert(client, index).is_some_and(|other| other != index) {
                let message = format!("`{client}` is also a client of another issuer");
                problems.push(file, &place, message, "one workload has one issuer");
            }
        }
    }
}

struct Note<'a> {
    file: &'a str,
    place: String,
    problems: &'a mut Problems,
}

impl Note<'_> {
    fn push(&mut self, member: &str, message: &str, hint: &str) {
        self.problems.push(self.file, format!("{}.{member}", self.place), message, hint);
    }
}

fn check_names(issuer: &IssuerSettings, note: &mut Note<'_>) {
    let fine = |text: &str| !text.is_empty() && text.len() <= 255 && !text.chars().any(char::is_control);
    if !fine(&issuer.issuer) || issuer.issuer.contains('|') || issuer.issuer == "apikey" {
        note.push(
            "issuer",
            "is not a usable issuer",
            "write the exact `iss` of its tokens; `|` is not possible",
        );
    }
    if issuer.audiences.is_empty() || !issuer.audiences.iter().all(|audience| fine(audience)) {
        note.push("audiences", "names no audience, or an empty one", "name at least one value of `aud`");
    }
    if issuer.algorithms.is_empty() {
        note.push("algorithms", "names no algorithm", "name at least one, for example `ES256`");
    }
    match (&issuer.tenant, &issuer.tenant_claim) {
        (None, None) => note.push("tenant", "is missing", "set `tenant` or `tenant_claim`"),
        (Some(_), Some(_)) => note.push("tenant", "stands beside `tenant_claim`", "remove one of the two"),
        _ => {}
    }
    if issuer.tenant_claim.as_ref().is_some_and(String::is_empty) {
        note.push("tenant_claim", "is empty", "name the claim, or set `tenant`");
    }
    if issuer.teams_claim.is_empty() {
        note.push("teams_claim", "is empty", "leave it out for `groups`");
    }
    if issuer.token_types.as_ref().is_some_and(Vec::is_empty) {
        note.push("token_types", "an empty list accepts nothing", "leave it out for the default");
    }
}

fn check_bounds(issuer: &IssuerSettings, note: &mut Note<'_>) {
    if issuer.leeway > MAX_LEEWAY {
        note.push("leeway", "is longer than 5m", "use at most `5m`");
    }
    if issuer.max_stale > MAX_STALE {
        note.push("max_stale", "is longer than 1d", "use at most `1d`");
    }
    if issuer.jwks_ca.is_some() && issuer.jwks_file.is_some() {
        note.push("jwks_ca", "has no effect beside `jwks_file`", "remove it");
    }
}

fn origin(issuer: &IssuerSettings, note: &mut Note<'_>) -> Option<Origin> {
    match (&issuer.jwks_file, &issuer.jwks_url) {
        (Some(path), None) => Some(Origin::File(path.clone())),
        (None, Some(url)) if is_safe_url(url) => {
            Some(Origin::Url { url: url.clone(), ca: issuer.jwks_ca.clone() })
        }
        (None, Some(_)) => {
            note.push(
                "jwks_url",
                "is not a usable URL",
                "use `https`, or `http` to a loopback address, without a user name",
            );
            None
        }
        (Some(_), Some(_)) => {
            note.push("jwks_url", "stands beside `jwks_file`", "remove one of the two");
            None
        }
        (None, None) if is_safe_url(&issuer.issuer) => Some(Origin::Discovery { ca: issuer.jwks_ca.clone() }),
        (None, None) => {
            let message = "is missing, and the issuer is no URL that keys could be discovered from";
            note.push("jwks_url", message, "set `jwks_url` or `jwks_file`");
            None
        }
    }
}

/// A key file is there when the gateway starts; a URL may answer later.
fn read_file(issuer: &IssuerSettings, keys: &KeyRing, now: Timestamp, problems: &mut Problems) {
    let Some(path) = &issuer.jwks_file else { return };
    let name = path.display().to_string();
    match read_bounded(path, u64::try_from(MAX_SET_BYTES).unwrap_or(u64::MAX)) {
        Err(error) => problems.push(
            name,
            "",
            format!("cannot be read: {error}"),
            "mend `jwks_file`, or put the key set there",
        ),
        Ok(bytes) => {
            if let Err(error) = keys.install(&bytes, now) {
                problems.push(
                    name,
                    "",
                    error,
                    "put a JSON Web Key Set (RFC 7517) of public signature keys there",
                );
            }
        }
    }
}
