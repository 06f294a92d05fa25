//! Bearer tokens: JWT (RFC 7519) in the compact form of JWS (RFC 7515), judged by the rules of RFC 8725.
//!
//! The header is attacker's text: it only ever narrows what is accepted. Keys come from the issuer's set alone; `jwk`, `jku`, `x5u` and
//! `x5c` are never looked at, so no token causes a fetch from a place of its choice.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::model::Clock;

use super::cache::{CacheKey, Verified};
use super::claims::{self, Claims, Facts, Naming};
use super::error::{IdentityError, Why};
use super::json;
use super::jwks::MAX_KID_BYTES;
use super::keyring::KeyRing;
use super::settings::{Algorithm, IssuerSettings};

/// The longest token, in bytes.
pub(super) const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Header types that mean an access token (RFC 9068) or nothing in particular.
const DEFAULT_TYPES: [&str; 2] = ["jwt", "at+jwt"];

/// One issuer with its keys.
#[derive(Debug)]
pub(super) struct Issuer {
    /// Its place in the configuration.
    pub(super) index: usize,
    pub(super) settings: IssuerSettings,
    pub(super) leeway_ms: i64,
    pub(super) keys: Arc<KeyRing>,
}

/// How a token was shown.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    pub(super) key: CacheKey,
    /// SHA-256 of the connection's client certificate.
    pub(super) certificate: Option<[u8; 32]>,
    /// The workload of that certificate.
    pub(super) workload: Option<Arc<str>>,
    pub(super) clock: &'a dyn Clock,
}

/// A token taken apart; nothing of it is verified.
#[derive(Debug)]
pub(super) struct Unverified<'a> {
    header: Header,
    claims: Claims,
    /// `header.payload`, as it was signed.
    message: &'a str,
    /// In base64url.
    signature: &'a str,
}

#[derive(Debug)]
struct Header {
    algorithm: Algorithm,
    kid: Option<String>,
    /// Lower case, without `application/`.
    kind: Option<String>,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart and refuses every header that could be understood in two ways.
    pub(super) fn parse(token: &'a str) -> Result<Self, IdentityError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(malformed("longer than 8 KiB"));
        }
        let not_three = malformed("not three parts");
        let Some((message, signature)) = token.rsplit_once('.') else { return Err(not_three) };
        let Some((header, payload)) = message.split_once('.') else { return Err(not_three) };
        if payload.contains('.') {
            return Err(not_three);
        }
        let header = Header::parse(&decode(header)?)?;
        if signature.is_empty() {
            return Err(IdentityError::TokenSignature);
        }
        let claims = json::object(&decode(payload)?)
            .ok_or(IdentityError::TokenClaims(Why("the payload is no JSON object with distinct names")))?;
        Ok(Self { header, claims, message, signature })
    }

    /// Which issuer the token says it is from.
    pub(super) fn issuer(&self) -> Result<&str, IdentityError> {
        self.claims.get("iss").and_then(Value::as_str).ok_or(IdentityError::TokenIssuer)
    }

    /// Verifies the signature by a key of the issuer; gives the generation of the keys.
    async fn verify(&self, issuer: &Issuer) -> Result<u64, IdentityError> {
        let algorithm = self.header.algorithm;
        if !issuer.settings.algorithms.contains(&algorithm) {
            return Err(IdentityError::TokenAlgorithm(Why("not allowed for the issuer")));
        }
        self.header.check_kind(issuer.settings.token_types.as_deref())?;
        let (key, generation) = issuer.keys.key(self.header.kid.as_deref(), algorithm).await?;
        if !key.permits(algorithm) {
            return Err(IdentityError::TokenAlgorithm(Why("not the algorithm of the key")));
        }
        if key.verify(algorithm, self.signature, self.message.as_bytes()) {
            Ok(generation)
        } else {
            Err(IdentityError::TokenSignature)
        }
    }
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, IdentityError> {
        let Some(header) = json::object(bytes) else {
            return Err(malformed("the header is no JSON object with distinct names"));
        };
        // RFC 7515 4.1.11: what is critical must be understood, and we understand no extension.
        for name in ["crit", "b64", "enc", "zip"] {
            if header.contains_key(name) {
                return Err(malformed("the header asks for an extension"));
            }
        }
        let text = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(malformed("a header parameter is no text")),
        };
        let algorithm = text("alg")?.and_then(Algorithm::from_name);
        let Some(algorithm) = algorithm else {
            return Err(IdentityError::TokenAlgorithm(Why("missing or not an asymmetric signature")));
        };
        let kid = text("kid")?.map(str::to_owned);
        if kid.as_ref().is_some_and(|kid| kid.is_empty() || kid.len() > MAX_KID_BYTES) {
            return Err(malformed("the key id is empty or longer than 256 bytes"));
        }
        if text("cty")?.is_some_and(|content| plain_type(content) == "jwt") {
            return Err(malformed("a token inside a token"));
        }
        Ok(Self { algorithm, kid, kind: text("typ")?.map(plain_type) })
    }

    fn check_kind(&self, accepted: Option<&[String]>) -> Result<(), IdentityError> {
        let fits = match (&self.kind, accepted) {
            (None, accepted) => accepted.is_none(),
            (Some(kind), None) => DEFAULT_TYPES.contains(&kind.as_str()),
            (Some(kind), Some(accepted)) => accepted.iter().any(|other| plain_type(other) == *kind),
        };
        if fits {
            Ok(())
        } else {
            Err(IdentityError::TokenType(Why("the `typ` header is not an accepted one")))
        }
    }
}

/// Media types without case and without `application/` (RFC 7515 4.1.9).
fn plain_type(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    lower.strip_prefix("application/").unwrap_or(&lower).to_owned()
}

/// Verifies a token of one issuer and finds out whom it names.
///
/// # Errors
/// Anything about the token is not as it must be; the first thing found is told.
pub(super) async fn verify(
    token: &Unverified<'_>,
    issuer: &Issuer,
    shown: &Shown<'_>,
    naming: &Naming<'_>,
) -> Result<Verified, IdentityError> {
    let generation = token.verify(issuer).await?;
    let now = shown.clock.now();
    let settings = &issuer.settings;
    let facts = Facts::read(&token.claims)?;
    facts.judge(&settings.audiences, issuer.leeway_ms, shown.certificate, now)?;
    claims::check_type(&token.claims, settings.accept_id_tokens)?;
    let mut principal = claims::principal(&token.claims, &facts, shown.key.token(), settings, naming)?;
    principal.chain.workload = shown.workload.clone();
    Ok(Verified { principal: Arc::new(principal), issuer: issuer.index, generation, facts, verified_at: now })
}

fn decode(part: &str) -> Result<Vec<u8>, IdentityError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed("a part is not base64url"))
}

const fn malformed(why: &'static str) -> IdentityError {
    IdentityError::TokenMalformed(Why(why))
}
