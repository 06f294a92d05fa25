//! From the claims of a token to what is judged and to whom it names. The signature is none of its business.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::model::{Authn, Chain, Principal, PrincipalKind, TeamName, TenantName};

use super::error::{IdentityError, Why};
use super::settings::{ForeignTeams, IssuerSettings};
use super::{ANONYMOUS, hex};

/// The longest subject, client id, agent or token id, in bytes. OpenID Connect Core 2 bounds `sub` so, and to ASCII.
const MAX_ID_BYTES: usize = 255;
/// The most teams of a token.
const MAX_TEAMS: usize = 256;
/// The most audiences of a token.
const MAX_AUDIENCES: usize = 64;
/// The latest date that a claim may name: the year 9999, as Unix seconds.
const MAX_DATE: f64 = 253_000_000_000.0;

pub(super) type Claims = Map<String, Value>;

/// What is judged again each time a token is shown. Dates are Unix milliseconds, rounded so that no fraction lengthens a life.
#[derive(Debug)]
pub(super) struct Facts {
    expires: i64,
    not_before: Option<i64>,
    issued: Option<i64>,
    /// All audiences of the token.
    pub(super) audiences: Vec<Arc<str>>,
    /// SHA-256 of the client certificate that the token is bound to.
    binding: Option<[u8; 32]>,
}

impl Facts {
    pub(super) fn read(claims: &Claims) -> Result<Self, IdentityError> {
        Ok(Self {
            expires: date(claims, "exp", f64::floor)?.ok_or(claim("`exp` is missing"))?,
            not_before: date(claims, "nbf", f64::ceil)?,
            issued: date(claims, "iat", f64::ceil)?,
            audiences: audiences(claims)?,
            binding: binding(claims)?,
        })
    }

    /// Whether the token's time has come and is not over, whether it is meant for us, and whether it came over the
    /// connection that it is bound to.
    pub(super) fn judge(
        &self,
        ours: &[String],
        leeway_ms: i64,
        certificate: Option<[u8; 32]>,
        now: Timestamp,
    ) -> Result<(), IdentityError> {
        let now = now.as_millisecond();
        if now.saturating_sub(leeway_ms) >= self.expires {
            return Err(IdentityError::TokenExpired);
        }
        // A token from the future is as unusable as one that says so by `nbf`.
        if self.not_before.max(self.issued).is_some_and(|start| now.saturating_add(leeway_ms) < start) {
            return Err(IdentityError::TokenNotYetValid);
        }
        if !self.audiences.iter().any(|theirs| ours.iter().any(|our| our.as_str() == theirs.as_ref())) {
            return Err(IdentityError::TokenAudience);
        }
        match (self.binding, certificate) {
            (None, _) => Ok(()),
            (Some(bound), Some(shown)) if bound == shown => Ok(()),
            (Some(_), Some(_)) => {
                Err(IdentityError::TokenBinding(Why("the connection has another certificate")))
            }
            (Some(_), None) => Err(IdentityError::TokenBinding(Why("the connection has no certificate"))),
        }
    }
}

/// A NumericDate (RFC 7519 2): a number, never a text that looks like one.
fn date(claims: &Claims, name: &str, round: fn(f64) -> f64) -> Result<Option<i64>, IdentityError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let Some(seconds) = value.as_f64().filter(|seconds| (0.0..=MAX_DATE).contains(seconds)) else {
        return Err(claim("a date is not a number within bounds"));
    };
    #[expect(clippy::cast_possible_truncation, reason = "at most 253e12, far below 2^53")]
    let millis = round(seconds * 1_000.0) as i64;
    Ok(Some(millis))
}

fn audiences(claims: &Claims) -> Result<Vec<Arc<str>>, IdentityError> {
    match claims.get("aud") {
        None => Err(IdentityError::TokenAudience),
        Some(Value::String(one)) => Ok(vec![Arc::from(one.as_str())]),
        Some(Value::Array(many)) if many.len() <= MAX_AUDIENCES => {
            let texts: Option<Vec<Arc<str>>> =
                many.iter().map(|value| value.as_str().map(Arc::from)).collect();
            texts.ok_or(claim("`aud` is no list of texts"))
        }
        Some(_) => Err(claim("`aud` is neither a text nor a list of at most 64 texts")),
    }
}

/// The certificate that the token is bound to (RFC 8705 3.1). Any other binding is refused, for it could not be checked.
fn binding(claims: &Claims) -> Result<Option<[u8; 32]>, IdentityError> {
    let Some(confirmation) = claims.get("cnf") else { return Ok(None) };
    let only = confirmation.as_object().filter(|methods| methods.len() == 1);
    let Some(thumbprint) = only.and_then(|methods| methods.get("x5t#S256")).and_then(Value::as_str) else {
        return Err(IdentityError::TokenBinding(Why("the binding is not by `x5t#S256` alone")));
    };
    let bytes = URL_SAFE_NO_PAD.decode(thumbprint).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes.map(Some).ok_or(IdentityError::TokenBinding(Why("`x5t#S256` is no SHA-256 in base64url")))
}

/// Tokens that are signed by the issuer, but are not for us to accept: ID tokens, refresh tokens, logout tokens.
pub(super) fn check_type(claims: &Claims, accept_id_tokens: bool) -> Result<(), IdentityError> {
    let text = |name| claims.get(name).and_then(Value::as_str);
    let named = |kinds: &[&str]| text("typ").is_some_and(|t| kinds.iter().any(|k| t.eq_ignore_ascii_case(k)));
    if named(&["refresh", "offline", "logout", "initial", "registration"]) || claims.contains_key("events") {
        return Err(IdentityError::TokenType(Why("the token is for the issuer itself")));
    }
    let is_id_token = named(&["id"]) || claims.contains_key("at_hash") || claims.contains_key("c_hash");
    if is_id_token && !accept_id_tokens {
        return Err(IdentityError::TokenType(Why("an ID token is no access token")));
    }
    Ok(())
}

/// Facts about the whole configuration that decide who may be called what.
pub(super) struct Naming<'a> {
    /// Whether there is no other issuer that could name the same client.
    pub(super) single_issuer: bool,
    /// Ids of workloads that API keys have taken.
    pub(super) taken: &'a (dyn Fn(&str) -> bool + Sync),
}

/// The principal of a token whose signature, time, audience and binding were found good.
pub(super) fn principal(
    claims: &Claims,
    facts: &Facts,
    token_sha256: &[u8; 32],
    settings: &IssuerSettings,
    naming: &Naming<'_>,
) -> Result<Principal, IdentityError> {
    let (kind, id) = subject(claims, settings, naming)?;
    let agent = agent(claims)?;
    let credential = match text(claims, "jti")? {
        Some(id) => hex(digest(&SHA256, id.as_bytes()).as_ref()),
        None => hex(token_sha256),
    };
    Ok(Principal {
        kind,
        id,
        tenant: tenant(claims, settings)?,
        teams: teams(claims, settings)?,
        authn: Authn::Jwt,
        chain: Chain { workload: None, agent },
        issued_at: facts.issued.and_then(|millis| Timestamp::from_millisecond(millis).ok()),
        expires_at: Timestamp::from_millisecond(facts.expires).ok(),
        credential: Some(credential),
    })
}

fn subject(
    claims: &Claims,
    settings: &IssuerSettings,
    naming: &Naming<'_>,
) -> Result<(PrincipalKind, Arc<str>), IdentityError> {
    let subject = text(claims, "sub")?;
    let client = match (text(claims, "client_id")?, text(claims, "azp")?) {
        (Some(a), Some(b)) if a != b => return Err(claim("`client_id` and `azp` differ")),
        (a, b) => a.or(b),
    };
    let alone = client.is_some() && (subject.is_none() || subject == client);
    let listed = match (&settings.workload_clients, client) {
        (Some(list), Some(client)) => list.iter().any(|known| known == client),
        _ => false,
    };
    let Some(client) = client.filter(|_| alone || listed) else {
        let subject = subject.ok_or(claim("`sub` is missing"))?;
        return Ok((PrincipalKind::User, Arc::from(format!("{}|{subject}", settings.issuer))));
    };
    let admitted = listed || (settings.workload_clients.is_none() && naming.single_issuer);
    if !admitted {
        return Err(claim("the client is not listed in `workload_clients`"));
    }
    // A client id must not pass for a workload that another proof of identity names.
    if client == ANONYMOUS || client.starts_with("spiffe:") || (naming.taken)(client) {
        return Err(claim("the client id is the name of another kind of workload"));
    }
    Ok((PrincipalKind::Workload, Arc::from(client)))
}

/// The agent that acts for the subject (RFC 8693 4.1). A chain of actors is refused: only one can be told to policies.
fn agent(claims: &Claims) -> Result<Option<Arc<str>>, IdentityError> {
    let Some(actor) = claims.get("act") else { return Ok(None) };
    let actor = actor.as_object().ok_or(claim("`act` is no object"))?;
    if actor.contains_key("act") {
        return Err(claim("`act` is nested"));
    }
    if actor.get("iss").is_some_and(|issuer| Some(issuer) != claims.get("iss")) {
        return Err(claim("`act` names another issuer"));
    }
    text(actor, "sub")?.map(|agent| Some(Arc::from(agent))).ok_or(claim("`act` has no `sub`"))
}

fn tenant(claims: &Claims, settings: &IssuerSettings) -> Result<TenantName, IdentityError> {
    if let Some(tenant) = &settings.tenant {
        return Ok(tenant.clone());
    }
    let named = settings.tenant_claim.as_ref().and_then(|name| claims.get(name)).and_then(Value::as_str);
    named.and_then(|tenant| tenant.parse().ok()).ok_or(IdentityError::TokenTenantMissing)
}

fn teams(claims: &Claims, settings: &IssuerSettings) -> Result<Vec<TeamName>, IdentityError> {
    // OpenID Connect Core 5.6.2: the issuer says that the teams are elsewhere. To take them for none would lift prohibitions.
    if claims.get("_claim_names").is_some_and(|names| names.get(&settings.teams_claim).is_some()) {
        return Err(claim("the teams are not in the token"));
    }
    let Some(listed) = claims.get(&settings.teams_claim) else { return Ok(Vec::new()) };
    let listed = listed.as_array().ok_or(claim("the teams are no list"))?;
    if listed.len() > MAX_TEAMS {
        return Err(claim("more than 256 teams"));
    }
    let mut teams = BTreeSet::new();
    for team in listed {
        let team = team.as_str().ok_or(claim("a team is no text"))?;
        match team.parse::<TeamName>() {
            Ok(team) => {
                teams.insert(team);
            }
            Err(_) if settings.foreign_teams == ForeignTeams::Ignore => {}
            Err(_) => return Err(claim("a team is no team name")),
        }
    }
    Ok(teams.into_iter().collect())
}

/// An identifier: printable ASCII, so that no two that look the same differ.
fn text<'a>(claims: &'a Claims, name: &str) -> Result<Option<&'a str>, IdentityError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let fine = |text: &&str| {
        !text.is_empty()
            && text.len() <= MAX_ID_BYTES
            && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
    };
    value
        .as_str()
        .filter(fine)
        .map(Some)
        .ok_or(claim("an identifier is not 1 to 255 printable ASCII characters"))
}

const fn claim(why: &'static str) -> IdentityError {
    IdentityError::TokenClaims(Why(why))
}
