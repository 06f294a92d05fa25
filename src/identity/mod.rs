//! Who asks: a bearer token (OIDC), an API key or a client certificate (SPIFFE) becomes a principal.
//!
//! A credential that is shown must be good: a bad token never falls back to the certificate, two credentials are ambiguous. This
//! stage reads header values and connection facts; what the principal may do is none of its business.

mod api_key;
mod build;
mod cache;
mod claims;
mod discovery;
mod error;
mod json;
mod jwks;
mod jwt;
mod keyring;
mod mtls;
mod revoked;
mod settings;

use std::collections::HashMap;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::HeaderValue;
use jiff::Timestamp;

use crate::message::{CallerHeaders, ClientCertificate, Connection};
use crate::model::{
    Authn, Chain, Clock, IdentityRule, Placement, Principal, PrincipalKind, Problems, TenantName,
};

use api_key::ApiKeys;
use cache::{CacheKey, TokenCache};
use claims::Naming;
use jwt::{Issuer, Shown, Unverified};
use mtls::TrustDomains;
use revoked::Revoked;

pub use api_key::{NewApiKey, NewApiKeyError, new_api_key};
pub use discovery::DiscoveryError;
pub use error::{IdentityError, Why};
pub use jwks::KeySetError;
pub use keyring::{KeyHealth, KeySource};
pub use mtls::SpiffeId;
pub use revoked::{Revocations, RevokedSettings};
pub use settings::{
    Algorithm, CacheSettings, ForeignTeams, IssuerSettings, MtlsSettings, Settings, TrustDomainSettings,
    WorkloadSettings,
};

/// The id and the tenant of callers on routes that ask for no identity.
const ANONYMOUS: &str = "anonymous";
/// Everything that is needed to tell who asks.
pub struct Identity {
    issuers: Vec<Issuer>,
    by_name: HashMap<String, usize>,
    trust_domains: TrustDomains,
    api_keys: ApiKeys,
    cache: Arc<TokenCache>,
    revoked: Revoked,
    clock: Arc<dyn Clock>,
    anonymous: Arc<Principal>,
}

impl Identity {
    /// Checks the settings, which stand in `file`, and reads the files they name. Key sets at URLs are not fetched yet: see [`Self::start`].
    ///
    /// # Errors
    /// All mistakes of the settings and of the files.
    pub fn new(
        settings: &Settings,
        file: &str,
        source: Arc<dyn KeySource>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::new();
        let cache = Arc::new(TokenCache::new(&settings.cache));
        build::check_cache(settings, file, &mut problems);
        let shared = build::Shared { source, clock: Arc::clone(&clock), cache: Arc::clone(&cache) };
        let issuers = build::issuers(settings, file, &shared, &mut problems);
        let trust_domains = TrustDomains::new(&settings.mtls, file, &mut problems);
        let api_keys = settings
            .api_keys
            .as_deref()
            .map_or_else(ApiKeys::default, |path| ApiKeys::read(path, &mut problems));
        let revoked = Revoked::new(settings.revoked.as_ref(), &mut problems);
        build::check_workload_names(settings, file, &api_keys, &mut problems);
        let tenant: Option<TenantName> = ANONYMOUS.parse().ok();
        let Some(tenant) = tenant.filter(|_| problems.is_empty()) else { return Err(problems) };
        let by_name = issuers.iter().map(|issuer| (issuer.settings.issuer.clone(), issuer.index)).collect();
        let anonymous = Arc::new(anonymous(tenant));
        Ok(Self { issuers, by_name, trust_domains, api_keys, cache, revoked, clock, anonymous })
    }

    /// Takes over the key sets of an earlier configuration, so that a reload needs no answer from the issuers.
    pub fn adopt_keys(&self, earlier: &Self) {
        for issuer in &self.issuers {
            let same =
                earlier.by_name.get(&issuer.settings.issuer).and_then(|index| earlier.issuers.get(*index));
            if let Some(same) = same {
                issuer.keys.adopt(&same.keys);
            }
        }
    }

    /// Fetches the key sets, waiting for at most 5 s, and keeps them fresh in the background until `self` is dropped.
    /// A set that cannot be had is tried again; its callers get 503 until then. Must be called within a runtime.
    pub async fn start(&self) {
        let rings: Vec<_> = self.issuers.iter().map(|issuer| Arc::downgrade(&issuer.keys)).collect();
        let first: Vec<_> = self.issuers.iter().filter_map(|issuer| issuer.keys.fetch_missing()).collect();
        let all = async {
            for refresh in first {
                refresh.await;
            }
        };
        // Those that are late arrive in the background.
        let _ = tokio::time::timeout(keyring::WAIT, all).await;
        if rings.is_empty() {
            return;
        }
        tokio::spawn(async move {
            // A second more than the pause between refreshes, so that each round finds its refresh allowed.
            let mut rounds = tokio::time::interval(keyring::REFRESH_PAUSE + Duration::from_secs(1));
            rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while rings.iter().any(|ring| ring.strong_count() > 0) {
                rounds.tick().await;
                rings.iter().filter_map(Weak::upgrade).for_each(|ring| ring.keep_fresh());
            }
        });
    }

    /// The principal of a request.
    ///
    /// A bearer token or an API key decides alone. The workload of the client certificate is then kept beside it in the
    /// chain, and must be good as well if trust domains are configured. Without either, the certificate decides.
    ///
    /// # Errors
    /// Nothing was shown, too much was shown, or what was shown is not good.
    pub async fn authenticate(
        &self,
        conn: &Connection,
        caller: &CallerHeaders,
        rule: IdentityRule,
    ) -> Result<Arc<Principal>, IdentityError> {
        if rule == IdentityRule::None {
            return Ok(Arc::clone(&self.anonymous));
        }
        let certificate = conn.client.as_deref();
        match Presented::find(caller)? {
            Presented::Token(token) => self.by_token(token, certificate).await,
            Presented::ApiKey(key) => self.by_api_key(key, certificate),
            Presented::Nothing => self.by_certificate(certificate),
        }
    }

    /// Whether neither the principal nor the credential nor the workload that connected is on the list of revocations.
    ///
    /// # Errors
    /// One of them is.
    pub fn not_revoked(&self, principal: &Principal) -> Result<(), IdentityError> {
        self.revoked.judge(principal, self.clock.now())
    }

    /// Whether a principal who was identified earlier, over a connection with this certificate, would be identified still: what proved
    /// it has not ended. Revocations are looked at by [`Self::not_revoked`].
    ///
    /// # Errors
    /// The token, key or certificate has ended, or the certificate is trusted no longer.
    pub fn still_identified(
        &self,
        principal: &Principal,
        certificate: Option<&ClientCertificate>,
        now: Timestamp,
    ) -> Result<(), IdentityError> {
        if principal.authn == Authn::Anonymous {
            return Ok(());
        }
        certificate.map_or(Ok(()), |certificate| mtls::check_validity(certificate, now))?;
        let Some(end) = principal.expires_at else { return Ok(()) };
        match principal.authn {
            Authn::Jwt
                if now.as_millisecond().saturating_sub(self.leeway_of(principal)) >= end.as_millisecond() =>
            {
                Err(IdentityError::TokenExpired)
            }
            Authn::ApiKey if now >= end => Err(IdentityError::ApiKeyExpired),
            _ => Ok(()),
        }
    }

    /// The leeway of the issuer that named the principal, in milliseconds.
    fn leeway_of(&self, principal: &Principal) -> i64 {
        let of_user = || principal.id.split_once('|').and_then(|(issuer, _)| self.by_name.get(issuer));
        let names = |issuer: &&Issuer| {
            let clients = issuer.settings.workload_clients.as_ref();
            clients.map_or(self.issuers.len() == 1, |list| list.iter().any(|id| **id == *principal.id))
        };
        let issuer = match principal.kind {
            PrincipalKind::User => of_user().and_then(|index| self.issuers.get(*index)),
            PrincipalKind::Workload => self.issuers.iter().find(names),
        };
        issuer.map_or(0, |issuer| issuer.leeway_ms)
    }

    /// The list of revocations that is in force.
    #[must_use]
    pub fn revocations(&self) -> Arc<Revocations> {
        self.revoked.current()
    }

    /// A number that changes with the list of revocations.
    #[must_use]
    pub fn revocations_version(&self) -> u64 {
        self.revoked.version()
    }

    /// Reads the file of revocations again.
    ///
    /// # Errors
    /// It is missing, or anything in it is wrong; the old list then stays.
    pub fn read_revocations(&self, settings: &RevokedSettings) -> Result<(), Problems> {
        self.revoked.read(settings)
    }

    /// What the configuration says of the workload that connected; nothing, if it names none.
    #[must_use]
    pub fn placement_of(&self, principal: &Principal) -> Placement {
        let workload = principal.chain.workload.as_deref();
        workload.and_then(|id| self.trust_domains.placement(id)).cloned().unwrap_or_default()
    }

    /// The state of every issuer's keys.
    #[must_use]
    pub fn health(&self) -> Vec<KeyHealth> {
        self.issuers.iter().map(|issuer| issuer.keys.health()).collect()
    }

    async fn by_token(
        &self,
        token: &[u8],
        certificate: Option<&ClientCertificate>,
    ) -> Result<Arc<Principal>, IdentityError> {
        if token.len() > jwt::MAX_TOKEN_BYTES {
            return Err(IdentityError::TokenMalformed(Why("longer than 8 KiB")));
        }
        let now = self.clock.now();
        let thumbprint = certificate.map(|certificate| certificate.sha256);
        let key = CacheKey::new(token, thumbprint);
        if let Some(known) = self.cache.get(&key, now)
            && let Some(issuer) = self.issuers.get(known.issuer)
            && issuer.keys.usable_generation(now) == Some(known.generation)
        {
            if let Some(certificate) = certificate {
                mtls::check_validity(certificate, now)?;
            }
            known.facts.judge(&issuer.settings.audiences, issuer.leeway_ms, thumbprint, now)?;
            return Ok(Arc::clone(&known.principal));
        }
        let workload = self.presenting(certificate, now)?;
        let token = std::str::from_utf8(token);
        let token = Unverified::parse(token.map_err(|_| IdentityError::TokenMalformed(Why("not ASCII")))?)?;
        let issuer = self.by_name.get(token.issuer()?).and_then(|index| self.issuers.get(*index));
        let issuer = issuer.ok_or(IdentityError::TokenIssuer)?;
        let naming =
            Naming { single_issuer: self.issuers.len() == 1, taken: &|id| self.api_keys.names_workload(id) };
        let shown = Shown { key, certificate: thumbprint, workload, clock: &*self.clock };
        let verified = Arc::new(jwt::verify(&token, issuer, &shown, &naming).await?);
        self.cache.insert(key, Arc::clone(&verified));
        Ok(Arc::clone(&verified.principal))
    }

    fn by_api_key(
        &self,
        key: &[u8],
        certificate: Option<&ClientCertificate>,
    ) -> Result<Arc<Principal>, IdentityError> {
        let now = self.clock.now();
        let principal = self.api_keys.identify(key, now)?;
        match self.presenting(certificate, now)? {
            None => Ok(Arc::clone(principal)),
            Some(workload) => {
                let mut principal = Principal::clone(principal);
                principal.chain.workload = Some(workload);
                Ok(Arc::new(principal))
            }
        }
    }

    fn by_certificate(
        &self,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Arc<Principal>, IdentityError> {
        let certificate = certificate.ok_or(IdentityError::CredentialsMissing)?;
        let workload = self.trust_domains.identify(certificate, self.clock.now())?;
        Ok(Arc::new(Principal {
            kind: PrincipalKind::Workload,
            id: Arc::clone(workload.id),
            tenant: workload.tenant.clone(),
            teams: workload.teams.to_vec(),
            authn: Authn::Mtls,
            chain: Chain { workload: Some(Arc::clone(workload.id)), agent: None },
            issued_at: Some(certificate.not_before),
            expires_at: Some(workload.expires_at),
            credential: Some(workload.credential),
        }))
    }

    /// The workload that shows another's token or a key. A certificate that cannot be named is refused as soon as trust
    /// domains are configured: the chain must not silently lose its last link.
    fn presenting(
        &self,
        certificate: Option<&ClientCertificate>,
        now: Timestamp,
    ) -> Result<Option<Arc<str>>, IdentityError> {
        let Some(certificate) = certificate else { return Ok(None) };
        if self.trust_domains.is_empty() {
            return mtls::check_validity(certificate, now).map(|()| None);
        }
        self.trust_domains.identify(certificate, now).map(|workload| Some(Arc::clone(workload.id)))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("issuers", &self.by_name.keys()).finish_non_exhaustive()
    }
}

/// What the caller shows besides the certificate.
enum Presented<'a> {
    Nothing,
    Token(&'a [u8]),
    ApiKey(&'a [u8]),
}

impl<'a> Presented<'a> {
    fn find(caller: &'a CallerHeaders) -> Result<Self, IdentityError> {
        match (caller.authorization.as_slice(), caller.api_key.as_slice()) {
            ([], []) => Ok(Self::Nothing),
            ([], [key]) => Ok(Self::ApiKey(key.as_bytes())),
            ([authorization], []) => Self::bearer(authorization),
            _ => Err(IdentityError::CredentialsAmbiguous),
        }
    }

    /// `Bearer`, in any case (RFC 9110 11.1), one space, the token (RFC 6750 2.1).
    fn bearer(authorization: &'a HeaderValue) -> Result<Self, IdentityError> {
        let text = authorization.as_bytes();
        let (scheme, token) = match text.iter().position(|b| *b == b' ') {
            Some(end) => text.split_at_checked(end).unwrap_or((text, &[])),
            None => (text, [].as_slice()),
        };
        if !scheme.eq_ignore_ascii_case(b"Bearer") {
            return Err(IdentityError::CredentialsUnsupported);
        }
        let token = token.strip_prefix(b" ").unwrap_or(token);
        let is_key = token.starts_with(api_key::PREFIX.as_bytes());
        Ok(if is_key { Self::ApiKey(token) } else { Self::Token(token) })
    }
}

fn anonymous(tenant: TenantName) -> Principal {
    Principal {
        kind: PrincipalKind::Workload,
        id: Arc::from(ANONYMOUS),
        tenant,
        teams: Vec::new(),
        authn: Authn::Anonymous,
        chain: Chain::default(),
        issued_at: None,
        expires_at: None,
        credential: None,
    }
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> Arc<str> {
    crate::model::hex(bytes).into()
}

/// Reads a file of at most `max` bytes.
fn read_bounded(path: &Path, max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = std::fs::File::open(path)?.take(max.saturating_add(1));
    file.read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
        return Err(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            format!("larger than {max} bytes"),
        ));
    }
    Ok(bytes)
}
