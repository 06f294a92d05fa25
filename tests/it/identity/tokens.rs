//! Bearer tokens: what is refused, what is accepted.

use proptest::prelude::*;
use serde_json::json;
use tidegate::identity::Identity;
use tidegate::model::IdentityRule;

use super::attacks;
use super::support::{
    AUDIENCE, Bench, CountingSource, ISSUER, KEYS_URL, NOW, StepClock, b64, bearer, certificate, claims,
    connection, header, issuer, issuer_keys, pairs, settings, token, token_of, token_with_header, with,
};

#[tokio::test]
async fn every_attack_is_refused_with_its_code_and_fetches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    std::fs::write(&file, issuer_keys()).unwrap();
    let one = with(issuer(), json!({"jwks_url": null, "jwks_file": file}));
    let bench = Bench::new(json!({"issuers": [one]})).await;

    let accepted = bench.show(&token(json!({})), None).await.unwrap();
    assert_eq!(accepted.id.as_ref(), "https://idp.example|alice");
    let rows = attacks::all();
    assert!(rows.len() > 150);
    let mut wrong = Vec::new();
    for (name, token, code) in &rows {
        // Twice: a failure must not be remembered as anything else.
        for _ in 0..2 {
            let got = match bench.show(token, None).await {
                Ok(principal) => format!("accepted as {}", principal.id),
                Err(error) => error.code().to_owned(),
            };
            if got != *code {
                wrong.push(format!("{name}: {got} instead of {code}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(bench.source.count(), 0);
    assert_eq!(bench.refusal(&token(json!({"sub": "root", "exp": 5}))).await, "token_expired");
    assert!(bench.show(&token(json!({})), None).await.is_ok());
}

#[tokio::test]
async fn a_token_fetches_from_no_place_but_the_configured_one() {
    let bench = Bench::plain().await;
    bench.clock.step(31);
    for (_, token, _) in attacks::headers() {
        assert!(bench.show(&token, None).await.is_err());
    }
    let urls = bench.source.urls.lock().unwrap();
    assert!(urls.len() <= 2 && urls.iter().all(|url| url == KEYS_URL), "{urls:?}");
}

#[tokio::test]
async fn what_is_in_order_is_accepted() {
    let bench = Bench::plain().await;
    let pairs = pairs();
    let other = |pair, alg: &str, kid: &str| {
        token_of(pair, &with(header(), json!({"alg": alg, "kid": kid})).to_string(), &claims().to_string())
    };
    for (name, token) in [
        ("ES256", token(json!({}))),
        ("RS256", other(&pairs.rsa, "RS256", "rs")),
        ("EdDSA", other(&pairs.ed, "EdDSA", "ed")),
        ("no typ", token_with_header(json!({"typ": null}))),
        ("access token", token_with_header(json!({"typ": "application/AT+jwt"}))),
        ("aud a list", token(json!({"aud": ["x", AUDIENCE]}))),
        ("second audience", token(json!({"aud": "other"}))),
        ("expired within leeway", token(json!({"exp": NOW - 29}))),
        ("a fraction", token(json!({"exp": 1_800_000_000.5, "iat": 1_799_999_999.5}))),
        ("from soon", token(json!({"nbf": NOW + 30, "iat": NOW + 30}))),
        ("no nbf, no iat, no groups", token(json!({"nbf": null, "iat": null, "groups": null}))),
        ("actor of the same issuer", token(json!({"act": {"sub": "bot", "iss": ISSUER}}))),
        (
            "ignored header members",
            token_with_header(json!({"jku": "https://evil.example", "x5u": "https://evil.example"})),
        ),
    ] {
        let shown = bench.show(&token, None).await;
        assert!(shown.is_ok(), "{name}: {shown:?}");
    }
    // The scheme's name is compared without case (RFC 9110 11.1).
    let mut caller = bearer("");
    caller.authorization = vec![format!("bEARER {}", token(json!({}))).parse().unwrap()];
    assert!(bench.identity.authenticate(&connection(None), &caller, IdentityRule::Required).await.is_ok());
}

#[tokio::test]
async fn a_bound_token_is_good_only_on_its_connection() {
    let bench = Bench::plain().await;
    let bound = token(json!({"cnf": {"x5t#S256": b64([7; 32])}}));
    let (own, other) = (certificate(7, &[]), certificate(8, &[]));
    for _ in 0..2 {
        assert!(bench.show(&bound, Some(&own)).await.is_ok());
        assert_eq!(bench.show(&bound, Some(&other)).await.unwrap_err().code(), "token_binding");
        assert_eq!(bench.refusal(&bound).await, "token_binding");
    }
    let twice = token(json!({"cnf": {"x5t#S256": b64([7; 32]), "jkt": b64([7; 32])}}));
    assert_eq!(bench.show(&twice, Some(&own)).await.unwrap_err().code(), "token_binding");
    bench.clock.step(590);
    let mut old = (*own).clone();
    old.not_after = jiff::Timestamp::from_second(NOW + 500).unwrap();
    let refused = bench.show(&bound, Some(&std::sync::Arc::new(old))).await.unwrap_err();
    assert_eq!(refused.code(), "certificate_invalid");
}

#[tokio::test]
async fn token_types_can_be_narrowed_and_id_tokens_let_in() {
    let strict = with(issuer(), json!({"token_types": ["at+jwt"]}));
    let bench = Bench::new(json!({"issuers": [strict]})).await;
    assert_eq!(bench.refusal(&token(json!({}))).await, "token_type");
    assert_eq!(bench.refusal(&token_with_header(json!({"typ": null}))).await, "token_type");
    assert!(bench.show(&token_with_header(json!({"typ": "AT+JWT"})), None).await.is_ok());

    let lenient = with(issuer(), json!({"accept_id_tokens": true}));
    let bench = Bench::new(json!({"issuers": [lenient]})).await;
    assert!(bench.show(&token(json!({"at_hash": "x"})), None).await.is_ok());
    assert_eq!(bench.refusal(&token(json!({"typ": "Refresh"}))).await, "token_type");
}

#[test]
fn no_bytes_are_a_token_but_the_signed_ones() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    std::fs::write(&file, issuer_keys()).unwrap();
    let value = json!({"issuers": [with(issuer(), json!({"jwks_url": null, "jwks_file": file}))]});
    let source = CountingSource::saying(Vec::new());
    let identity = Identity::new(&settings(value), "t.toml", source, StepClock::new()).unwrap();
    let accepts = |bytes: &[u8]| {
        let mut text = b"Bearer ".to_vec();
        text.extend_from_slice(bytes);
        let Ok(value) = http::HeaderValue::from_bytes(&text) else { return false };
        let mut caller = bearer("");
        caller.authorization = vec![value];
        let on = connection(None);
        runtime.block_on(identity.authenticate(&on, &caller, IdentityRule::Required)).is_ok()
    };
    let good = token(json!({}));
    assert!(accepts(good.as_bytes()));
    let config = ProptestConfig { cases: 512, ..ProptestConfig::default() };
    proptest!(config, |(
        noise in proptest::collection::vec(any::<u8>(), 0..400),
        part in "[A-Za-z0-9_-]{0,80}",
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        payload in r#"\{("(iss|sub|aud|exp)":("https://idp.example"|"tidegate"|9e9|\[\]),?){0,6}\}"#,
    )| {
        prop_assert!(!accepts(&noise));
        let forged = format!("{}.{}.{part}", b64(header().to_string()), b64(&payload));
        prop_assert!(!accepts(forged.as_bytes()));
        let mut changed = good.clone().into_bytes();
        let index = place.index(changed.len());
        if changed[index] != byte {
            changed[index] = byte;
            prop_assert!(!accepts(&changed), "byte {} as {}", index, byte);
        }
    });
}
