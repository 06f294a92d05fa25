//! What an operator says about identity. Paths are already resolved when they arrive here.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{ClusterName, Duration, RecipientName, TeamName, TenantName};

use super::revoked::RevokedSettings;

/// The most issuers, trust domains and workload entries that are accepted, each.
pub(super) const MAX_LIST: usize = 1_000;

/// Who may be who.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Issuers of bearer tokens that are trusted. Absent: no token is.
    #[serde(default)]
    pub issuers: Vec<IssuerSettings>,
    /// Client certificates that identify workloads. Absent: none do.
    #[serde(default)]
    pub mtls: MtlsSettings,
    /// File with the hashes of API keys: TOML with `[[keys]]`, or JSON (`*.json`) with a list `keys`. Absent: no API key is accepted.
    #[serde(default)]
    pub api_keys: Option<PathBuf>,
    /// How long a verified token is remembered.
    #[serde(default)]
    pub cache: CacheSettings,
    /// Tokens, subjects, workloads and keys that are believed no longer. Absent: nothing is revoked before it ends.
    #[serde(default)]
    pub revoked: Option<RevokedSettings>,
}

/// One issuer of bearer tokens (JWT, RFC 7519).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerSettings {
    /// The exact value of the `iss` claim. Must not contain `|`, which separates issuer and subject in a user's id.
    pub issuer: String,
    /// Accepted values of the `aud` claim, compared exactly; one match is enough.
    pub audiences: Vec<String>,
    /// Accepted signature algorithms. No symmetric algorithm can be.
    pub algorithms: Vec<Algorithm>,
    /// File with the issuer's key set (RFC 7517); read again every 30 s. Not beside `jwks_url`. Absent: see there.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// URL of the issuer's key set: `https`, or `http` to a loopback address; fetched again every 5 minutes. Absent, without `jwks_file`:
    /// found by OpenID Connect Discovery, from `/.well-known/openid-configuration` below the issuer.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// PEM file of the authorities that `jwks_url`, or the issuer and the keys that it names, are trusted by. Required for `https`; absent for
    /// `http`.
    #[serde(default)]
    pub jwks_ca: Option<PathBuf>,
    /// The tenant of everyone who comes from this issuer. Exactly one of `tenant` and `tenant_claim`.
    #[serde(default)]
    pub tenant: Option<TenantName>,
    /// The claim that names the tenant; a token without it is refused. Absent: see `tenant`.
    #[serde(default)]
    pub tenant_claim: Option<String>,
    /// The claim that lists the teams, at the top level of the token.
    #[serde(default = "default_teams_claim")]
    pub teams_claim: String,
    /// What becomes of a listed team whose text is no team name.
    #[serde(default)]
    pub foreign_teams: ForeignTeams,
    /// How far clocks may differ when `exp`, `nbf` and `iat` are judged. At most `5m`.
    #[serde(default = "default_leeway")]
    pub leeway: Duration,
    /// How long the last good key set is used when the source fails; then callers get 503. At most `1d`.
    #[serde(default = "default_max_stale")]
    pub max_stale: Duration,
    /// Accepted values of the `typ` header, compared without case and without `application/`. If set, the header
    /// must be there. Absent: `JWT` and `at+jwt`, or no header.
    #[serde(default)]
    pub token_types: Option<Vec<String>>,
    /// Whether ID tokens are accepted in place of access tokens.
    #[serde(default)]
    pub accept_id_tokens: bool,
    /// The client ids that are workloads of this issuer. A token is a workload's if its `client_id` or `azp` is listed
    /// here. Absent (only with a single issuer): every client whose token has no `sub`, or a `sub` equal to its client
    /// id. With several issuers, clients that are not listed are refused, because two issuers could name the same.
    #[serde(default)]
    pub workload_clients: Option<Vec<String>>,
}

impl IssuerSettings {
    /// Whether its keys, or the document that says where they are, come over TLS.
    #[must_use]
    pub fn is_fetched_by_tls(&self) -> bool {
        let from = match (&self.jwks_file, &self.jwks_url) {
            (Some(_), _) => return false,
            (None, Some(url)) => url,
            (None, None) => &self.issuer,
        };
        from.starts_with("https:")
    }
}

/// A signature algorithm of RFC 7518 or RFC 8037.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

impl Algorithm {
    const ALL: [Self; 9] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// The registered name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }

    /// The algorithm of that exact name; `none` and the symmetric ones are not among them.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    pub(super) const fn library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::RS256 => jsonwebtoken::Algorithm::RS256,
            Self::RS384 => jsonwebtoken::Algorithm::RS384,
            Self::RS512 => jsonwebtoken::Algorithm::RS512,
            Self::PS256 => jsonwebtoken::Algorithm::PS256,
            Self::PS384 => jsonwebtoken::Algorithm::PS384,
            Self::PS512 => jsonwebtoken::Algorithm::PS512,
            Self::ES256 => jsonwebtoken::Algorithm::ES256,
            Self::ES384 => jsonwebtoken::Algorithm::ES384,
            Self::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What becomes of a listed team whose text is no team name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ForeignTeams {
    /// The token is refused: a policy that forbids something to that team would be missed.
    #[default]
    Refuse,
    /// The team is left out.
    Ignore,
}

/// Client certificates as identities.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MtlsSettings {
    /// The SPIFFE trust domains whose workloads are known. Absent: no certificate identifies anybody.
    #[serde(default)]
    pub trust_domains: Vec<TrustDomainSettings>,
}

/// One SPIFFE trust domain.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustDomainSettings {
    /// The name of the trust domain, as in `spiffe://NAME/...`.
    pub name: String,
    /// The tenant of its workloads.
    pub tenant: TenantName,
    /// What is known of some of its workloads. An exact `id` wins over a `prefix`, a longer prefix over a shorter one.
    /// A workload that no entry names is identified, and is in no team.
    #[serde(default)]
    pub workloads: Vec<WorkloadSettings>,
}

/// Facts of one workload, or of all below a path.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSettings {
    /// The exact SPIFFE ID. Exactly one of `id` and `prefix`.
    #[serde(default)]
    pub id: Option<String>,
    /// A SPIFFE ID that stands for itself and for all below it, by whole path segments. Absent: see `id`.
    #[serde(default)]
    pub prefix: Option<String>,
    /// The teams of the workload.
    #[serde(default)]
    pub teams: Vec<TeamName>,
    /// The cluster where the workload runs: the destination of what it reads. Absent: unknown.
    #[serde(default)]
    pub cluster: Option<ClusterName>,
    /// The recipient whose keys the workload holds: what it reads can be sealed for it. Absent: the `can_open` of its cluster.
    #[serde(default)]
    pub can_open: Option<RecipientName>,
    /// Whether it is another Tidegate: its sealed messages are opened on routes that say `opens`, and its `tidegate-*` headers count.
    #[serde(default)]
    pub peer: bool,
}

/// The cache of verified tokens.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheSettings {
    /// How many tokens are remembered. At most 100000; 0 turns the cache off.
    #[serde(default = "default_entries")]
    pub entries: usize,
    /// How long a token is remembered before its signature is verified again. At most `5m`.
    #[serde(default = "default_ttl")]
    pub ttl: Duration,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { entries: default_entries(), ttl: default_ttl() }
    }
}

fn default_teams_claim() -> String {
    "groups".to_owned()
}

const fn default_leeway() -> Duration {
    Duration::secs(30)
}

const fn default_max_stale() -> Duration {
    Duration::secs(3_600)
}

const fn default_entries() -> usize {
    MAX_CACHE_ENTRIES
}

const fn default_ttl() -> Duration {
    MAX_CACHE_TTL
}

/// The most tokens that are remembered.
pub(super) const MAX_CACHE_ENTRIES: usize = 100_000;
/// The longest time that a token is remembered.
pub(super) const MAX_CACHE_TTL: Duration = Duration::secs(300);
/// The largest difference of clocks that is tolerated.
pub(super) const MAX_LEEWAY: Duration = Duration::secs(300);
/// The longest time that an old key set is used.
pub(super) const MAX_STALE: Duration = Duration::secs(86_400);
