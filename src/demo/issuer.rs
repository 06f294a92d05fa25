//! An identity provider that is none: a test double that makes signing keys at start and signs any token it is asked for.
//!
//! The private key lives in memory only; the public one is written as a JWKS file, which the gateway's configuration names.
//! It also signs what a gateway must refuse: expired tokens, and tokens under a key that is not in the set.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// The issuer's name, as in `iss`.
pub(crate) const ISSUER: &str = "https://issuer.tidegate.demo";

/// The audience of its tokens.
pub(crate) const AUDIENCE: &str = "tidegate";

/// The tenant of everybody in the demo.
pub(crate) const TENANT: &str = "demo";

const KID: &str = "demo-1";

/// How long a token holds: a day of playing.
const LIFETIME: SignedDuration = SignedDuration::from_hours(12);

/// Whether a token is one that the gateway should take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Holds for twelve hours.
    Good,
    /// Ended an hour ago.
    Expired,
    /// Says all the right things under a stranger's key with the right `kid`.
    Forged,
}

/// Keys could not be made or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssuerError {
    /// The system's random source failed.
    #[error("cannot make an issuer key")]
    Key,
    /// The key could not sign.
    #[error("cannot sign a token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// A pretended issuer.
pub(crate) struct Issuer {
    key: EncodingKey,
    stranger: EncodingKey,
    jwks: Value,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").finish_non_exhaustive()
    }
}

impl Issuer {
    /// New ES256 keys.
    ///
    /// # Errors
    /// The random source failed.
    pub(crate) fn new() -> Result<Self, IssuerError> {
        let (key, jwk) = generate()?;
        let (stranger, _) = generate()?;
        Ok(Self { key, stranger, jwks: json!({"keys": [jwk]}) })
    }

    /// The public keys (RFC 7517).
    pub(crate) const fn jwks(&self) -> &Value {
        &self.jwks
    }

    /// A token for a member of a team, for an agent in their name if one is given.
    ///
    /// # Errors
    /// The key could not sign.
    pub(crate) fn token(
        &self,
        subject: &str,
        team: &str,
        agent: Option<&str>,
        kind: Kind,
    ) -> Result<String, IssuerError> {
        let issued = match kind {
            Kind::Good | Kind::Forged => Timestamp::now().as_second(),
            Kind::Expired => Timestamp::now().as_second() - LIFETIME.as_secs() - 3_600,
        };
        let mut claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "tenant": TENANT, "groups": [team],
            "iat": issued, "nbf": issued, "exp": issued + LIFETIME.as_secs(),
            "jti": format!("{subject}-{issued}"),
        });
        if let (Some(agent), Some(members)) = (agent, claims.as_object_mut()) {
            members.insert("act".to_owned(), json!({"sub": agent}));
        }
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(KID.to_owned());
        let key = if kind == Kind::Forged { &self.stranger } else { &self.key };
        jsonwebtoken::encode(&header, &claims, key).map_err(IssuerError::Sign)
    }
}

fn generate() -> Result<(EncodingKey, Value), IssuerError> {
    let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|_| IssuerError::Key)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref())
        .map_err(|_| IssuerError::Key)?;
    // An uncompressed point: 0x04, then x and y of 32 bytes each (SEC 1, 2.3.3).
    let point = pair.public_key().as_ref().strip_prefix(&[4]).ok_or(IssuerError::Key)?;
    let (x, y) = point.split_at_checked(32).ok_or(IssuerError::Key)?;
    let jwk = json!({
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KID,
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    });
    Ok((EncodingKey::from_ec_der(der.as_ref()), jwk))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::errors::ErrorKind;
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, TokenData, Validation};

    use super::*;

    fn check(issuer: &Issuer, token: &str) -> Result<TokenData<Value>, ErrorKind> {
        let set: JwkSet = serde_json::from_value(issuer.jwks().clone()).unwrap();
        let kid = jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
        let key = DecodingKey::from_jwk(set.find(&kid).unwrap()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        jsonwebtoken::decode(token, &key, &validation).map_err(|error| error.into_kind())
    }

    #[test]
    fn only_the_good_token_verifies_against_the_published_keys() {
        let issuer = Issuer::new().unwrap();
        let token = |kind| issuer.token("ada", "research", Some("helper"), kind).unwrap();
        let claims = check(&issuer, &token(Kind::Good)).unwrap().claims;
        assert_eq!((&claims["groups"], &claims["act"]["sub"]), (&json!(["research"]), &json!("helper")));
        assert_eq!(check(&issuer, &token(Kind::Expired)).unwrap_err(), ErrorKind::ExpiredSignature);
        assert_eq!(check(&issuer, &token(Kind::Forged)).unwrap_err(), ErrorKind::InvalidSignature);
    }
}
