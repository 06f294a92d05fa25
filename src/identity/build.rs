//! From settings to issuers: every mistake of the configuration is found here, all at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::model::{Clock, Problems};

use super::api_key::ApiKeys;
use super::cache::TokenCache;
use super::jwks::MAX_SET_BYTES;
use super::jwt::Issuer;
use super::keyring::{KeyRing, KeySource, Origin, RingParts};
use super::settings::{
    IssuerSettings, MAX_CACHE_ENTRIES, MAX_CACHE_TTL, MAX_LEEWAY, MAX_LIST, MAX_STALE, Settings,
};
use super::{ANONYMOUS, CONFIG, read_bounded};

/// What all issuers share.
pub(super) struct Shared {
    pub(super) source: Arc<dyn KeySource>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) cache: Arc<TokenCache>,
}

/// The issuers, those with mistakes left out.
pub(super) fn issuers(settings: &Settings, shared: &Shared, problems: &mut Problems) -> Vec<Issuer> {
    if settings.issuers.len() > MAX_LIST {
        problems.push(CONFIG, "identity.issuers", "more than 1000 issuers", "");
    }
    let mut names = HashSet::new();
    let mut issuers = Vec::new();
    for (place, issuer) in settings.issuers.iter().enumerate().take(MAX_LIST) {
        let mut note = Note { place: format!("identity.issuers[{place}]"), problems };
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
pub(super) fn check_cache(settings: &Settings, problems: &mut Problems) {
    if settings.cache.entries > MAX_CACHE_ENTRIES {
        problems.push(CONFIG, "identity.cache.entries", "more than 100000", "");
    }
    if settings.cache.ttl > MAX_CACHE_TTL {
        problems.push(CONFIG, "identity.cache.ttl", "longer than 5m", "");
    }
}

/// No two proofs of identity may lead to the same workload by chance.
pub(super) fn check_workload_names(settings: &Settings, api_keys: &ApiKeys, problems: &mut Problems) {
    let mut claimed: HashMap<&str, usize> = HashMap::new();
    for (index, issuer) in settings.issuers.iter().enumerate() {
        let place = format!("identity.issuers[{index}].workload_clients");
        for client in issuer.workload_clients.iter().flatten() {
            if client.is_empty() || client == ANONYMOUS || client.starts_with("spiffe:") {
                problems.push(CONFIG, &place, format!("`{client}` is no client id"), "");
            }
            if api_keys.names_workload(client) {
                problems.push(
                    CONFIG,
                    &place,
                    format!("`{client}` is also the id of an API key"),
                    "rename one",
                );
            }
            if claimed.insert(client, index).is_some_and(|other| other != index) {
                let message = format!("`{client}` is also a client of another issuer");
                problems.push(CONFIG, &place, message, "one workload has one issuer");
            }
        }
    }
}

struct Note<'a> {
    place: String,
    problems: &'a mut Problems,
}

impl Note<'_> {
    fn push(&mut self, member: &str, message: &str, hint: &str) {
        self.problems.push(CONFIG, format!("{}.{member}", self.place), message, hint);
    }
}

fn check_names(issuer: &IssuerSettings, note: &mut Note<'_>) {
    let fine = |text: &str| !text.is_empty() && text.len() <= 255 && !text.chars().any(char::is_control);
    if !fine(&issuer.issuer) || issuer.issuer.contains('|') || issuer.issuer == "apikey" {
        note.push(
            "issuer",
            "not a usable issuer",
            "write the exact `iss` of its tokens; `|` is not possible",
        );
    }
    if issuer.audiences.is_empty() || !issuer.audiences.iter().all(|audience| fine(audience)) {
        note.push("audiences", "no audience, or an empty one", "name at least one value of `aud`");
    }
    if issuer.algorithms.is_empty() {
        note.push("algorithms", "no algorithm", "name at least one, for example `ES256`");
    }
    if issuer.tenant.is_some() == issuer.tenant_claim.is_some() {
        note.push("tenant", "name exactly one of `tenant` and `tenant_claim`", "");
    }
    if issuer.tenant_claim.as_ref().is_some_and(String::is_empty) {
        note.push("tenant_claim", "empty", "");
    }
    if issuer.teams_claim.is_empty() {
        note.push("teams_claim", "empty", "leave it out for `groups`");
    }
    if issuer.token_types.as_ref().is_some_and(Vec::is_empty) {
        note.push("token_types", "an empty list accepts nothing", "leave it out for the default");
    }
}

fn check_bounds(issuer: &IssuerSettings, note: &mut Note<'_>) {
    if issuer.leeway > MAX_LEEWAY {
        note.push("leeway", "longer than 5m", "");
    }
    if issuer.max_stale > MAX_STALE {
        note.push("max_stale", "longer than 1d", "");
    }
    if issuer.jwks_ca.is_some() && issuer.jwks_url.is_none() {
        note.push("jwks_ca", "of no use without `jwks_url`", "");
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
                "not a usable URL",
                "`https`, or `http` to a loopback address; no user name",
            );
            None
        }
        _ => {
            note.push("jwks_url", "name exactly one of `jwks_file` and `jwks_url`", "");
            None
        }
    }
}

/// Keys fetched without TLS could be anyone's, so plain HTTP must stay on this machine.
fn is_safe_url(text: &str) -> bool {
    let Ok(url) = text.parse::<http::Uri>() else { return false };
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else { return false };
    let loopback = matches!(authority.host(), "127.0.0.1" | "[::1]" | "localhost");
    !text.contains('#')
        && !authority.as_str().contains('@')
        && (scheme == "https" || (scheme == "http" && loopback))
}

/// A key file is there when the gateway starts; a URL may answer later.
fn read_file(issuer: &IssuerSettings, keys: &KeyRing, now: Timestamp, problems: &mut Problems) {
    let Some(path) = &issuer.jwks_file else { return };
    let name = path.display().to_string();
    match read_bounded(path, u64::try_from(MAX_SET_BYTES).unwrap_or(u64::MAX)) {
        Err(error) => problems.push(name, "", format!("cannot be read: {error}"), ""),
        Ok(bytes) => {
            if let Err(error) = keys.install(&bytes, now) {
                problems.push(name, "", error, "expected is a JSON Web Key set with public signature keys");
            }
        }
    }
}
