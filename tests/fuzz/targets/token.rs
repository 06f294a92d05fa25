//! Bearer tokens: raw text, and headers and claims of any bytes, signed truly or by a stranger.
//!
//! Nothing that the issuer's key did not sign is accepted; what is accepted says so in claims that another reader reads the same.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use jiff::Timestamp;
use serde_json::{Value, json};
use tidegate::identity::{Identity, KeySource, Settings};
use tidegate::message::{CallerHeaders, Connection, Protocol};
use tidegate::model::{Clock, IdentityRule};

use super::wait;

pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const AUDIENCE: &str = "tidegate";
pub(crate) const NOW: i64 = 1_800_000_000;
const LEEWAY: i64 = 60;

/// Always the same moment.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }
}

/// Gives these bytes for a key set.
#[derive(Debug)]
struct Fixed(Vec<u8>);

#[async_trait]
impl KeySource for Fixed {
    async fn fetch(
        &self,
        _: &str,
        _: Option<&Path>,
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.clone())
    }
}

/// A key pair that is the same in each run.
pub(crate) fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

/// The public part of a pair, as a key set has it.
pub(crate) fn public(pair: &Ed25519KeyPair) -> String {
    URL_SAFE_NO_PAD.encode(pair.public_key().as_ref())
}

pub(crate) fn signed(pair: &Ed25519KeyPair, header: &[u8], claims: &[u8]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes()).as_ref());
    format!("{message}.{signature}")
}

/// The gateway's identity stage, with this key set at its issuer.
pub(crate) fn identity(key_set: Vec<u8>) -> Identity {
    let settings: Settings = serde_json::from_value(json!({"issuers": [{
        "issuer": ISSUER, "audiences": [AUDIENCE], "algorithms": ["EdDSA", "ES256", "RS256"],
        "jwks_url": "https://issuer.example/keys", "tenant": "acme",
    }]}))
    .unwrap();
    let identity = Identity::new(&settings, "t.toml", Arc::new(Fixed(key_set)), Arc::new(Still)).unwrap();
    wait(identity.start());
    identity
}

/// Whether a token is accepted, and as whom.
pub(crate) fn shown(identity: &Identity, token: &[u8]) -> Option<String> {
    let value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
    let caller = CallerHeaders { authorization: vec![value], ..CallerHeaders::default() };
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let connection = Connection {
        peer: address,
        local: address,
        server_name: None,
        protocol: Protocol::Http1,
        tls: None,
        client: None,
    };
    let principal = wait(identity.authenticate(&connection, &caller, IdentityRule::Required)).ok()?;
    Some(principal.id.to_string())
}

fn known() -> &'static (Identity, Ed25519KeyPair, Ed25519KeyPair) {
    static KNOWN: OnceLock<(Identity, Ed25519KeyPair, Ed25519KeyPair)> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let own = pair(1);
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": public(&own)}]});
        (identity(set.to_string().into_bytes()), own, pair(2))
    })
}

pub(crate) fn read(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let (identity, own, stranger) = known();
    let cut = rest.iter().position(|byte| *byte == 0).unwrap_or(0);
    let (header, claims) = (&rest[..cut], rest.get(cut + 1..).unwrap_or_default());
    match kind % 4 {
        0 => assert_eq!(shown(identity, rest), None, "nobody signed this"),
        1 => assert_eq!(
            shown(identity, signed(stranger, header, claims).as_bytes()),
            None,
            "a stranger signed this"
        ),
        2 => {
            // A true token, its signature over other claims.
            let true_token = signed(own, br#"{"alg":"EdDSA","kid":"k"}"#, b"{}");
            let signature = true_token.rsplit('.').next().unwrap();
            let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
            assert_eq!(
                shown(identity, format!("{message}.{signature}").as_bytes()),
                None,
                "signed for another text"
            );
        }
        _ => {
            let Some(id) = shown(identity, signed(own, header, claims).as_bytes()) else { return };
            let header: Value = serde_json::from_slice(header)
                .unwrap_or_else(|error| panic!("an accepted header is no JSON: {error}"));
            let claims: Value = serde_json::from_slice(claims)
                .unwrap_or_else(|error| panic!("accepted claims are no JSON: {error}"));
            assert_eq!(header["alg"], "EdDSA");
            assert_eq!(claims["iss"], ISSUER);
            let for_us = |audience: &Value| audience == AUDIENCE;
            assert!(
                for_us(&claims["aud"]) || claims["aud"].as_array().is_some_and(|all| all.iter().any(for_us))
            );
            assert!(claims["exp"].as_f64().is_some_and(|end| end + LEEWAY as f64 > NOW as f64), "{claims}");
            let names = [claims["sub"].as_str(), claims["client_id"].as_str(), claims["azp"].as_str()];
            assert!(names.into_iter().flatten().any(|name| id.ends_with(name)), "{id} is nobody of {claims}");
        }
    }
}
