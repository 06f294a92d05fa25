//! JSON Web Key sets (RFC 7517): which keys of a published set may verify which signatures.
//!
//! Only public signature keys of the types that our algorithms need are used. Symmetric keys, keys for encryption and keys that
//! give away their private part are never used, whatever the set says of them.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::settings::Algorithm;

/// The largest key set, in bytes.
pub(super) const MAX_SET_BYTES: usize = 256 * 1024;
/// The most keys in a set, the unusable ones included.
const MAX_KEYS: usize = 100;
/// The longest key id, in bytes.
pub(super) const MAX_KID_BYTES: usize = 256;

/// A key set that cannot replace another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Too large to be read.
    #[error("the key set is larger than 256 KiB")]
    Size,
    /// Not a JSON object with a list `keys`.
    #[error("this is not a JSON Web Key set")]
    Syntax,
    /// Too many keys.
    #[error("the key set has more than 100 keys")]
    TooMany,
    /// Nothing in it could verify a token.
    #[error("the key set has no usable signature key")]
    Empty,
}

/// A public key and what it may verify.
#[derive(Debug)]
pub(super) struct Key {
    verifier: DecodingKey,
    algorithms: Vec<Algorithm>,
    /// SHA-256 of type, parameters and permitted algorithm: the same key has the same one.
    fingerprint: [u8; 32],
}

impl Key {
    pub(super) fn permits(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Verifies a JWS signature (RFC 7515 5.2), given in base64url, over `header.payload`.
    pub(super) fn verify(&self, algorithm: Algorithm, signature: &str, message: &[u8]) -> bool {
        self.permits(algorithm)
            && jsonwebtoken::crypto::verify(signature, message, &self.verifier, algorithm.library())
                .unwrap_or(false)
    }
}

/// The usable keys of a set.
#[derive(Debug)]
pub(super) struct KeySet {
    named: HashMap<String, Arc<Key>>,
    unnamed: Vec<Arc<Key>>,
}

#[derive(Deserialize)]
struct RawSet<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// Members of a key that matter here. A member that stands twice makes the key unreadable.
#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<serde::de::IgnoredAny>,
    k: Option<serde::de::IgnoredAny>,
}

impl KeySet {
    /// Parses a set; keys that are of no use here are passed over.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, KeySetError> {
        if bytes.len() > MAX_SET_BYTES {
            return Err(KeySetError::Size);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| KeySetError::Syntax)?;
        let raw: RawSet<'_> = serde_json::from_str(text).map_err(|_| KeySetError::Syntax)?;
        if raw.keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let mut by_kid: HashMap<String, Option<Arc<Key>>> = HashMap::new();
        let mut unnamed = Vec::new();
        for raw in raw.keys.iter().filter_map(|raw| serde_json::from_str::<RawKey>(raw.get()).ok()) {
            let key = key(&raw).map(Arc::new);
            match raw.kid {
                // Two keys of one name: which one is meant cannot be known, so neither is used,
                // not even if one of them is of a kind that would not be used anyway.
                Some(kid) => {
                    by_kid.entry(kid).and_modify(|known| *known = None).or_insert(key);
                }
                None => unnamed.extend(key),
            }
        }
        let named: HashMap<_, _> = by_kid
            .into_iter()
            .filter(|(kid, _)| kid.len() <= MAX_KID_BYTES)
            .filter_map(|(kid, key)| Some((kid, key?)))
            .collect();
        if named.is_empty() && unnamed.is_empty() {
            return Err(KeySetError::Empty);
        }
        Ok(Self { named, unnamed })
    }

    /// The key that a token names. A token without `kid` means the only key that fits its algorithm, if there is just one.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<&Arc<Key>> {
        if let Some(kid) = kid {
            return self.named.get(kid);
        }
        let mut fitting =
            self.named.values().chain(&self.unnamed).filter(|candidate| candidate.permits(algorithm));
        let only = fitting.next()?;
        fitting.next().is_none().then_some(only)
    }

    /// How many keys can be used.
    pub(super) fn len(&self) -> usize {
        self.named.len() + self.unnamed.len()
    }

    /// Whether a key of `self` is missing in `newer`, or is another one there under the same name.
    pub(super) fn loses_a_key_to(&self, newer: &Self) -> bool {
        let same = |a: &Arc<Key>, b: &Arc<Key>| a.fingerprint == b.fingerprint;
        let named = self.named.iter().all(|(kid, key)| newer.named.get(kid).is_some_and(|n| same(key, n)));
        let unnamed = self.unnamed.iter().all(|key| newer.unnamed.iter().any(|n| same(key, n)));
        !(named && unnamed)
    }
}

fn key(raw: &RawKey) -> Option<Key> {
    let for_signatures = raw.usage.as_deref().is_none_or(|usage| usage == "sig")
        && raw.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if !for_signatures || raw.d.is_some() || raw.k.is_some() {
        return None;
    }
    let (verifier, fitting, parameters) = match raw.kty.as_str() {
        "RSA" => rsa(raw)?,
        "EC" => elliptic(raw)?,
        "OKP" => edwards(raw)?,
        _ => return None,
    };
    let algorithms: Vec<Algorithm> = match raw.alg.as_deref() {
        Some(name) => fitting.iter().copied().filter(|algorithm| algorithm.name() == name).collect(),
        None => fitting.to_vec(),
    };
    if algorithms.is_empty() {
        return None;
    }
    let mut context = Context::new(&SHA256);
    for part in [raw.kty.as_str(), raw.alg.as_deref().unwrap_or_default()].into_iter().chain(parameters) {
        context.update(part.as_bytes());
        context.update(b"\0");
    }
    let fingerprint = context.finish().as_ref().try_into().ok()?;
    Some(Key { verifier, algorithms, fingerprint })
}

type Parts<'a> = (DecodingKey, &'static [Algorithm], Vec<&'a str>);

fn rsa(raw: &RawKey) -> Option<Parts<'_>> {
    let (n, e) = (raw.n.as_deref()?, raw.e.as_deref()?);
    let modulus = URL_SAFE_NO_PAD.decode(n).ok()?;
    let exponent = URL_SAFE_NO_PAD.decode(e).ok()?;
    let significant = modulus.iter().position(|b| *b != 0).map_or(0, |zeros| modulus.len() - zeros);
    // 2048 to 8192 bits; an exponent below 3 or an even one is no RSA key.
    let sound = (256..=1_024).contains(&significant)
        && exponent.len() <= 8
        && exponent.last().is_some_and(|low| low & 1 == 1)
        && exponent.as_slice() != [1];
    let verifier = sound.then(|| DecodingKey::from_rsa_raw_components(&modulus, &exponent))?;
    let all = &[
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
    ];
    Some((verifier, all, vec![n, e]))
}

fn elliptic(raw: &RawKey) -> Option<Parts<'_>> {
    let (crv, x, y) = (raw.crv.as_deref()?, raw.x.as_deref()?, raw.y.as_deref()?);
    let (size, fitting): (usize, &'static [Algorithm]) = match crv {
        "P-256" => (32, &[Algorithm::ES256]),
        "P-384" => (48, &[Algorithm::ES384]),
        _ => return None,
    };
    let of_size = |text: &str| URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == size);
    if !of_size(x) || !of_size(y) {
        return None;
    }
    let verifier = DecodingKey::from_ec_components(x, y).ok()?;
    Some((verifier, fitting, vec![crv, x, y]))
}

fn edwards(raw: &RawKey) -> Option<Parts<'_>> {
    let (crv, x) = (raw.crv.as_deref()?, raw.x.as_deref()?);
    if crv != "Ed25519" || !URL_SAFE_NO_PAD.decode(x).is_ok_and(|bytes| bytes.len() == 32) {
        return None;
    }
    let verifier = DecodingKey::from_ed_components(x).ok()?;
    Some((verifier, &[Algorithm::EdDSA], vec![crv, x]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ed(kid: &str, byte: u8, more: &str) -> String {
        let x = URL_SAFE_NO_PAD.encode([byte; 32]);
        format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"{x}"{more}}}"#)
    }

    fn set(keys: &[String]) -> Result<KeySet, KeySetError> {
        KeySet::parse(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes())
    }

    #[test]
    fn keys_that_must_not_verify_are_passed_over() {
        let x = URL_SAFE_NO_PAD.encode([1; 32]);
        let n = URL_SAFE_NO_PAD.encode([255; 256]);
        for unusable in [
            ed("a", 1, r#","use":"enc""#),
            ed("a", 1, r#","key_ops":["sign"]"#),
            ed("a", 1, r#","alg":"ES256""#),
            ed("a", 1, r#","alg":"HS256""#),
            ed("a", 1, r#","d":"AAAA""#),
            ed("a", 1, r#","x":"AAAA""#),
            format!(r#"{{"kty":"oct","kid":"a","k":"{x}"}}"#),
            format!(r#"{{"kty":"oct","kid":"a","alg":"HS256","k":"{x}"}}"#),
            format!(r#"{{"kty":"EC","crv":"P-521","kid":"a","x":"{x}","y":"{x}"}}"#),
            format!(r#"{{"kty":"EC","crv":"P-384","kid":"a","x":"{x}","y":"{x}"}}"#),
            format!(r#"{{"kty":"OKP","crv":"Ed448","kid":"a","x":"{x}"}}"#),
            format!(r#"{{"kty":"RSA","kid":"a","n":"{x}","e":"AQAB"}}"#),
            format!(r#"{{"kty":"RSA","kid":"a","n":"{n}","e":"AQ"}}"#),
            r#"{"kid":"a"}"#.to_owned(),
            "5".to_owned(),
        ] {
            assert_eq!(set(std::slice::from_ref(&unusable)).unwrap_err(), KeySetError::Empty, "{unusable}");
            let beside_a_good_one = set(&[unusable, ed("b", 2, "")]).unwrap();
            assert!(beside_a_good_one.find(Some("a"), Algorithm::EdDSA).is_none());
            assert_eq!(beside_a_good_one.len(), 1);
        }
    }

    #[test]
    fn two_keys_of_one_name_are_both_unusable() {
        let keys = set(&[ed("a", 1, ""), ed("a", 2, ""), ed("a", 3, ""), ed("b", 4, "")]).unwrap();
        assert!(keys.find(Some("a"), Algorithm::EdDSA).is_none());
        assert!(keys.find(Some("b"), Algorithm::EdDSA).is_some());
    }

    #[test]
    fn no_kid_means_the_only_fitting_key() {
        let one = set(&[ed("a", 1, "")]).unwrap();
        assert!(one.find(None, Algorithm::EdDSA).is_some());
        assert!(one.find(None, Algorithm::ES256).is_none());
        let two = set(&[ed("a", 1, ""), ed("b", 2, "")]).unwrap();
        assert!(two.find(None, Algorithm::EdDSA).is_none());
    }

    #[test]
    fn a_lost_or_exchanged_key_is_noticed() {
        let old = set(&[ed("a", 1, ""), ed("b", 2, "")]).unwrap();
        let grown = set(&[ed("b", 2, ""), ed("a", 1, ""), ed("c", 3, "")]).unwrap();
        assert!(!old.loses_a_key_to(&grown));
        assert!(grown.loses_a_key_to(&old));
        assert!(old.loses_a_key_to(&set(&[ed("a", 1, ""), ed("b", 3, "")]).unwrap()));
        assert!(old.loses_a_key_to(&set(&[ed("a", 1, ""), ed("b", 2, r#","alg":"EdDSA""#)]).unwrap()));
    }

    #[test]
    fn sets_are_bounded() {
        let many: Vec<String> = (0..101).map(|i| ed(&i.to_string(), 1, "")).collect();
        assert_eq!(set(&many).unwrap_err(), KeySetError::TooMany);
        assert_eq!(KeySet::parse(&vec![b' '; MAX_SET_BYTES + 1]).unwrap_err(), KeySetError::Size);
        for garbage in ["", "{}", "[]", "<html>", r#"{"keys":5}"#, r#"{"keys":[],"keys":[]}"#] {
            assert_eq!(KeySet::parse(garbage.as_bytes()).unwrap_err(), KeySetError::Syntax, "{garbage}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_fail_otherwise(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = KeySet::parse(&bytes);
        }

        #[test]
        fn half_broken_keys_are_no_trouble(kty in "RSA|EC|OKP|oct", value in "[A-Za-z0-9_=-]{0,60}", crv in "P-256|Ed25519") {
            let text = format!(
                r#"{{"keys":[{{"kty":"{kty}","crv":"{crv}","n":"{value}","e":"{value}","x":"{value}","y":"{value}"}}]}}"#
            );
            let _ = KeySet::parse(text.as_bytes());
        }
    }
}
