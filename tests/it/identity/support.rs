//! Keys that sign, a key source that counts, a clock that steps.

use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use jiff::Timestamp;
use serde_json::{Value, json};
use tidegate::identity::{Identity, IdentityError, KeySource, Settings};
use tidegate::message::{CallerHeaders, ClientCertificate, Connection, Protocol, Standing};
use tidegate::model::{Clock, IdentityRule, Principal};

/// The Unix second at which every test begins.
pub(super) const NOW: i64 = 1_800_000_000;
pub(super) const ISSUER: &str = "https://idp.example";
pub(super) const AUDIENCE: &str = "tidegate";
pub(super) const KEYS_URL: &str = "https://idp.example/keys";

pub(super) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key pair of a test issuer.
pub(super) enum Pair {
    Es256(EcdsaKeyPair),
    Es384(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl Pair {
    pub(super) fn es256() -> Self {
        Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    /// The members of its public JWK.
    pub(super) fn jwk(&self, kid: &str) -> Value {
        let point = |pair: &EcdsaKeyPair, crv: &str, size: usize| {
            let (x, y) = pair.public_key().as_ref()[1..].split_at(size);
            json!({"kty": "EC", "crv": crv, "kid": kid, "x": b64(x), "y": b64(y)})
        };
        match self {
            Self::Es256(pair) => point(pair, "P-256", 32),
            Self::Es384(pair) => point(pair, "P-384", 48),
            Self::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": b64(pair.public_key())})
            }
            Self::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "kid": kid, "n": b64(public.n), "e": b64(public.e)})
            }
        }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Es256(pair) | Self::Es384(pair) => {
                pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
            }
            Self::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Rsa(_) => self.sign_rsa(&RSA_PKCS1_SHA256, message),
        }
    }

    fn sign_rsa(&self, encoding: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
        let Self::Rsa(pair) = self else { panic!("not RSA") };
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }

    pub(super) fn sign_pss(&self, message: &[u8]) -> Vec<u8> {
        self.sign_rsa(&RSA_PSS_SHA256, message)
    }
}

/// The pairs of the test issuer; generating RSA keys is slow, so they are made once.
pub(super) struct Pairs {
    pub(super) es256: Pair,
    pub(super) es384: Pair,
    pub(super) ed: Pair,
    pub(super) rsa: Pair,
    /// Signs, and is not in any set.
    pub(super) stranger: Pair,
}

pub(super) fn pairs() -> &'static Pairs {
    static PAIRS: OnceLock<Pairs> = OnceLock::new();
    PAIRS.get_or_init(|| Pairs {
        es256: Pair::es256(),
        es384: Pair::Es384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()),
        ed: Pair::Ed(Ed25519KeyPair::generate().unwrap()),
        rsa: Pair::Rsa(RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap()),
        stranger: Pair::es256(),
    })
}

/// A token out of raw texts.
pub(super) fn token_of(pair: &Pair, header: &str, payload: &str) -> String {
    let message = format!("{}.{}", b64(header), b64(payload));
    let signature = b64(pair.sign(message.as_bytes()));
    format!("{message}.{signature}")
}

pub(super) fn header() -> Value {
    json!({"alg": "ES256", "kid": "es", "typ": "JWT"})
}

pub(super) fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOW + 600, "nbf": NOW - 60, "iat": NOW - 60,
        "groups": ["research", "eu/staff", "research"],
    })
}

/// Puts the members of `changes` into `base`; `null` takes a member away.
pub(super) fn with(mut base: Value, changes: Value) -> Value {
    let Value::Object(changes) = changes else { panic!("not an object") };
    for (name, value) in changes {
        match value {
            Value::Null => base.as_object_mut().unwrap().remove(&name),
            value => base.as_object_mut().unwrap().insert(name, value),
        };
    }
    base
}

/// A token of the ES256 key with changed claims.
pub(super) fn token(changes: Value) -> String {
    token_of(&pairs().es256, &header().to_string(), &with(claims(), changes).to_string())
}

/// A token of the ES256 key with a changed header.
pub(super) fn token_with_header(changes: Value) -> String {
    token_of(&pairs().es256, &with(header(), changes).to_string(), &claims().to_string())
}

pub(super) fn key_set(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

/// The set of the test issuer, with keys that must not be used.
pub(super) fn issuer_keys() -> Vec<u8> {
    let pairs = pairs();
    key_set(&[
        pairs.es256.jwk("es"),
        pairs.es384.jwk("es384"),
        pairs.ed.jwk("ed"),
        pairs.rsa.jwk("rs"),
        with(pairs.rsa.jwk("rs512-only"), json!({"alg": "RS512"})),
        with(pairs.es256.jwk("enc"), json!({"use": "enc"})),
        with(pairs.es256.jwk("sign-only"), json!({"key_ops": ["sign"]})),
        pairs.es256.jwk("twice"),
        pairs.ed.jwk("twice"),
        json!({"kty": "oct", "kid": "oct", "k": b64("a secret that everyone can read"), "alg": "HS256"}),
    ])
}

/// A wall clock that only tests move.
#[derive(Debug)]
pub(super) struct StepClock(AtomicI64);

impl StepClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(NOW)))
    }

    pub(super) fn step(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for StepClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

/// A key source that says what it is told to, and counts.
#[derive(Debug, Default)]
pub(super) struct CountingSource {
    pub(super) answer: Mutex<Option<Vec<u8>>>,
    pub(super) delay: Mutex<Duration>,
    pub(super) fetches: AtomicUsize,
    pub(super) urls: Mutex<Vec<String>>,
}

impl CountingSource {
    pub(super) fn saying(answer: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { answer: Mutex::new(Some(answer)), ..Self::default() })
    }

    pub(super) fn say(&self, answer: Option<Vec<u8>>) {
        *self.answer.lock().unwrap() = answer;
    }

    pub(super) fn count(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl KeySource for CountingSource {
    async fn fetch(
        &self,
        url: &str,
        _: Option<&Path>,
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        self.urls.lock().unwrap().push(url.to_owned());
        let delay = *self.delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        self.answer.lock().unwrap().clone().ok_or_else(|| "the source is down".into())
    }
}

/// An issuer with its keys at a URL.
pub(super) fn issuer() -> Value {
    json!({
        "issuer": ISSUER, "audiences": [AUDIENCE, "other"], "algorithms": ["ES256", "RS256", "EdDSA"],
        "jwks_url": KEYS_URL, "tenant": "acme",
    })
}

pub(super) fn settings(value: Value) -> Settings {
    serde_json::from_value(value).unwrap()
}

/// Identity with one issuer, a source and a clock; its keys are there.
pub(super) struct Bench {
    pub(super) identity: Identity,
    pub(super) source: Arc<CountingSource>,
    pub(super) clock: Arc<StepClock>,
}

impl Bench {
    pub(super) async fn new(value: Value) -> Self {
        Self::with_keys(value, issuer_keys()).await
    }

    pub(super) async fn with_keys(value: Value, keys: Vec<u8>) -> Self {
        let (source, clock) = (CountingSource::saying(keys), StepClock::new());
        let identity = Identity::new(&settings(value), "t.toml", source.clone(), clock.clone()).unwrap();
        identity.start().await;
        Self { identity, source, clock }
    }

    pub(super) async fn plain() -> Self {
        Self::new(json!({"issuers": [issuer()]})).await
    }

    pub(super) async fn show(
        &self,
        token: &str,
        certificate: Option<&Arc<ClientCertificate>>,
    ) -> Result<Arc<Principal>, IdentityError> {
        let caller = bearer(token);
        self.identity.authenticate(&connection(certificate), &caller, IdentityRule::Required).await
    }

    /// The code of the refusal.
    pub(super) async fn refusal(&self, token: &str) -> &'static str {
        match self.show(token, None).await {
            Ok(principal) => panic!("accepted as {principal:?}"),
            Err(error) => error.code(),
        }
    }
}

pub(super) fn bearer(token: &str) -> CallerHeaders {
    let value = HeaderValue::from_bytes(format!("Bearer {token}").as_bytes()).unwrap();
    CallerHeaders { authorization: vec![value], ..CallerHeaders::default() }
}

pub(super) fn api_key(key: &str) -> CallerHeaders {
    CallerHeaders { api_key: vec![HeaderValue::from_str(key).unwrap()], ..CallerHeaders::default() }
}

pub(super) fn connection(certificate: Option<&Arc<ClientCertificate>>) -> Connection {
    Connection {
        peer: "192.0.2.1:4000".parse().unwrap(),
        local: "192.0.2.2:443".parse().unwrap(),
        server_name: None,
        protocol: Protocol::Http1,
        tls: None,
        client: certificate.cloned(),
    }
}

pub(super) fn certificate(number: u8, uri_sans: &[&str]) -> Arc<ClientCertificate> {
    Arc::new(ClientCertificate {
        sha256: [number; 32],
        uri_sans: uri_sans.iter().map(|uri| Arc::from(*uri)).collect(),
        not_before: Timestamp::from_second(NOW - 3_600).unwrap(),
        not_after: Timestamp::from_second(NOW + 3_600).unwrap(),
        is_ca: false,
        standing: Standing::default(),
    })
}
