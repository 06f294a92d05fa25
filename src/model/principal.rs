//! Who asks: a user or a workload, with the facts that were verified about them.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{TeamName, TenantName};

/// The Cedar type of a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum PrincipalKind {
    /// A person; id `issuer|subject`.
    User,
    /// A program; id is its SPIFFE ID, client id or API key id.
    Workload,
}

impl PrincipalKind {
    /// The entity type's name within the namespace `Tidegate`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Workload => "Workload",
        }
    }
}

/// How the principal proved who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authn {
    /// A bearer JWT of a configured issuer.
    Jwt,
    /// A client certificate with a SPIFFE ID.
    Mtls,
    /// An API key of the configuration.
    ApiKey,
    /// The route asks for no identity.
    Anonymous,
}

/// The parties behind one request (Cedar's `context.chain`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// The workload that connected (SPIFFE ID of the client certificate).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Arc<str>>,
    /// The agent that acts for the user (`act.sub` of the token).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Arc<str>>,
}

/// A verified principal. Made by `identity/` only from verified facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Principal {
    /// User or workload.
    pub kind: PrincipalKind,
    /// The entity id.
    pub id: Arc<str>,
    /// The tenant, from the issuer's, key's or trust domain's configuration or a named claim.
    pub tenant: TenantName,
    /// Verified groups, sorted and without doubles: the parents of the principal's entity.
    pub teams: Vec<TeamName>,
    /// How it was proved.
    pub authn: Authn,
    /// The parties behind the request.
    pub chain: Chain,
    /// When the credential was issued (`iat`), if it says so.
    pub issued_at: Option<Timestamp>,
    /// When the credential ends; none for a key without expiry.
    pub expires_at: Option<Timestamp>,
    /// SHA-256 of the credential's id, lower-case hexadecimal, for records; never the credential.
    pub credential: Option<Arc<str>>,
}

#[cfg(test)]
impl Principal {
    /// Somebody of a unit test, with a token and nothing else.
    pub(crate) fn fixture(kind: PrincipalKind, id: &str, tenant: &str) -> Self {
        Self {
            kind,
            id: id.into(),
            tenant: tenant.parse().unwrap(),
            teams: Vec::new(),
            authn: Authn::Jwt,
            chain: Chain::default(),
            issued_at: None,
            expires_at: None,
            credential: None,
        }
    }
}
