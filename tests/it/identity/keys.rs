//! Key sets over time: storms, rotation, garbage, absence; and the cache of verified tokens beside them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tidegate::identity::{Identity, KeySource};
use tidegate::model::IdentityRule;

use super::support::{
    Bench, CountingSource, ISSUER, NOW, Pair, StepClock, bearer, claims, connection, header, issuer,
    issuer_keys, key_set, pairs, settings, token, token_of, token_with_header, with,
};

#[tokio::test]
async fn a_storm_of_unknown_keys_costs_the_issuer_one_request() {
    let bench = Arc::new(Bench::plain().await);
    assert_eq!(bench.source.count(), 1);
    bench.clock.step(31);
    *bench.source.delay.lock().unwrap() = Duration::from_millis(50);
    let mut storm = tokio::task::JoinSet::new();
    for number in 0..1_000 {
        let bench = Arc::clone(&bench);
        storm.spawn(async move {
            let token = token_with_header(json!({ "kid": format!("unknown-{number}") }));
            bench.refusal(&token).await
        });
    }
    let codes = storm.join_all().await;
    assert!(codes.iter().all(|code| *code == "token_key_unknown"));
    assert_eq!(bench.source.count(), 2);
    bench.clock.step(29);
    assert_eq!(bench.refusal(&token_with_header(json!({"kid": "unknown"}))).await, "token_key_unknown");
    assert_eq!(bench.source.count(), 2);
    bench.clock.step(1);
    assert_eq!(bench.refusal(&token_with_header(json!({"kid": "unknown"}))).await, "token_key_unknown");
    assert_eq!(bench.source.count(), 3);
    // Known keys never wait and never fetch.
    assert!(bench.show(&token(json!({})), None).await.is_ok());
    assert_eq!(bench.source.count(), 3);
}

#[tokio::test]
async fn a_new_key_is_fetched_and_a_removed_one_ends_what_it_verified() {
    let (old, new) = (Pair::es256(), Pair::es256());
    let sign = |pair: &Pair, kid: &str| {
        token_of(pair, &with(header(), json!({ "kid": kid })).to_string(), &claims().to_string())
    };
    let bench = Bench::with_keys(json!({"issuers": [issuer()]}), key_set(&[old.jwk("old")])).await;
    let (by_old, by_new) = (sign(&old, "old"), sign(&new, "new"));
    let first = bench.show(&by_old, None).await.unwrap();
    let second = bench.show(&by_old, None).await.unwrap();
    assert!(Arc::ptr_eq(&first, &second), "the second time it comes from the cache");

    // Both keys are published: nothing that was verified is lost.
    bench.source.say(Some(key_set(&[old.jwk("old"), new.jwk("new")])));
    bench.clock.step(31);
    assert!(bench.show(&by_new, None).await.is_ok());
    assert!(Arc::ptr_eq(&first, &bench.show(&by_old, None).await.unwrap()));

    // The old key leaves: its cached token is refused at once, that of the new key is good.
    bench.source.say(Some(key_set(&[new.jwk("new")])));
    bench.clock.step(31);
    assert_eq!(bench.refusal(&token_with_header(json!({"kid": "other"}))).await, "token_key_unknown");
    assert_eq!(bench.refusal(&by_old).await, "token_key_unknown");
    assert!(bench.show(&by_new, None).await.is_ok());

    // The name of a key goes to another key: what the former one signed is worth nothing.
    bench.source.say(Some(key_set(&[old.jwk("new")])));
    bench.clock.step(31);
    assert_eq!(bench.refusal(&token_with_header(json!({"kid": "other"}))).await, "token_key_unknown");
    assert_eq!(bench.refusal(&by_new).await, "token_signature");
}

#[tokio::test]
async fn all_who_show_a_new_key_wait_for_the_one_refresh() {
    let new = Pair::es256();
    let by_new = token_of(&new, &with(header(), json!({"kid": "new"})).to_string(), &claims().to_string());
    let bench = Arc::new(Bench::plain().await);
    bench.source.say(Some(key_set(&[pairs().es256.jwk("es"), new.jwk("new")])));
    *bench.source.delay.lock().unwrap() = Duration::from_millis(100);
    bench.clock.step(31);
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (bench, by_new) = (Arc::clone(&bench), by_new.clone());
        all.spawn(async move { bench.show(&by_new, None).await.is_ok() });
    }
    // One of them hangs up: the refresh goes on for the others.
    let gone = tokio::time::timeout(Duration::from_millis(20), bench.show(&by_new, None)).await;
    assert!(gone.is_err());
    assert!(all.join_all().await.into_iter().all(|accepted| accepted));
    assert_eq!(bench.source.count(), 2);
}

#[tokio::test]
async fn garbage_and_silence_keep_the_old_set_until_it_is_too_old() {
    let bench = Bench::plain().await;
    let long = with(claims(), json!({"exp": NOW + 100_000}));
    let good = token_of(&pairs().es256, &header().to_string(), &long.to_string());
    assert!(bench.show(&good, None).await.is_ok());
    let garbage: [Option<Vec<u8>>; 7] = [
        None,
        Some(Vec::new()),
        Some(b"<html>maintenance</html>".to_vec()),
        Some(br#"{"keys":[]}"#.to_vec()),
        Some(br#"{"keys":[{"kty":"oct","kid":"es","k":"AAAA"}]}"#.to_vec()),
        Some(vec![b' '; 300 * 1024]),
        Some(key_set(&(0..101).map(|i| pairs().ed.jwk(&i.to_string())).collect::<Vec<_>>())),
    ];
    for (index, answer) in garbage.into_iter().enumerate() {
        bench.source.say(answer);
        bench.clock.step(31);
        assert_eq!(bench.refusal(&token_with_header(json!({"kid": "new"}))).await, "token_key_unknown");
        assert_eq!(bench.source.count(), index + 2);
        assert!(bench.show(&good, None).await.is_ok(), "{index}");
    }
    bench.clock.step(3_600 - 7 * 31);
    assert!(bench.show(&good, None).await.is_ok());
    bench.clock.step(1);
    let refused = bench.show(&good, None).await.unwrap_err();
    assert_eq!((refused.code(), refused.status().as_u16()), ("keys_unavailable", 503));
    assert!(!bench.identity.health()[0].usable);
    // The source is back: the first request after the pause fetches, and is served.
    bench.source.say(Some(issuer_keys()));
    bench.clock.step(31);
    assert!(bench.show(&good, None).await.is_ok());
    assert!(bench.identity.health()[0].usable);
}

#[tokio::test]
async fn without_keys_nobody_is_verified_and_the_wait_is_bounded() {
    let (source, clock) = (Arc::new(CountingSource::default()), StepClock::new());
    let identity =
        Identity::new(&settings(json!({"issuers": [issuer()]})), "t.toml", source.clone(), clock.clone())
            .unwrap();
    identity.start().await;
    let bench = Bench { identity, source, clock };
    assert_eq!(bench.refusal(&token(json!({}))).await, "keys_unavailable");
    assert_eq!(bench.source.count(), 1);
    *bench.source.delay.lock().unwrap() = Duration::from_secs(3_600);
    bench.clock.step(31);
    let begun = std::time::Instant::now();
    assert_eq!(bench.refusal(&token(json!({}))).await, "keys_unavailable");
    assert!((4..8).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_cached_token_is_judged_again_by_the_clock() {
    let bench = Bench::plain().await;
    let short = token(json!({"exp": NOW + 100}));
    let first = bench.show(&short, None).await.unwrap();
    bench.clock.step(129);
    assert!(Arc::ptr_eq(&first, &bench.show(&short, None).await.unwrap()));
    bench.clock.step(1);
    assert_eq!(bench.refusal(&short).await, "token_expired");
    // The clock is set back to before the token was issued.
    bench.clock.step(-130 - 91);
    assert_eq!(bench.refusal(&short).await, "token_not_yet_valid");
    bench.clock.step(91);
    assert!(bench.show(&short, None).await.is_ok());

    let long = token(json!({}));
    let first = bench.show(&long, None).await.unwrap();
    bench.clock.step(301);
    assert!(!Arc::ptr_eq(&first, &bench.show(&long, None).await.unwrap()), "older than five minutes");
}

#[tokio::test]
async fn a_reload_needs_no_answer_from_the_issuer() {
    let bench = Bench::plain().await;
    bench.source.say(None);
    let again =
        |value| Identity::new(&settings(value), "t.toml", bench.source.clone(), bench.clock.clone()).unwrap();
    let same = again(json!({"issuers": [with(issuer(), json!({"audiences": ["elsewhere"]}))]}));
    same.adopt_keys(&bench.identity);
    let ask = async |identity: &Identity| {
        let caller = bearer(&token(json!({"aud": "elsewhere"})));
        identity.authenticate(&connection(None), &caller, IdentityRule::Required).await
    };
    assert!(ask(&same).await.is_ok());
    let moved =
        again(json!({"issuers": [with(issuer(), json!({"jwks_url": "https://other.example/keys"}))]}));
    moved.adopt_keys(&bench.identity);
    assert_eq!(ask(&moved).await.unwrap_err().code(), "keys_unavailable");
}

/// A key source over real sockets, as plain as can be.
#[derive(Debug)]
struct Http;

#[async_trait]
impl KeySource for Http {
    async fn fetch(
        &self,
        url: &str,
        _: Option<&Path>,
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        let uri: http::Uri = url.parse()?;
        let stream = tokio::net::TcpStream::connect(uri.authority().unwrap().as_str()).await?;
        let (mut sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(conn);
        let request =
            http::Request::get(uri.path()).header("host", "localhost").body(Empty::<Bytes>::new())?;
        Ok(sender.send_request(request).await?.into_body().collect().await?.to_bytes().to_vec())
    }
}

#[tokio::test]
async fn keys_come_from_a_real_server_and_from_a_file() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            let answer = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                assert_eq!(request.uri().path(), "/keys");
                count.fetch_add(1, Ordering::SeqCst);
                let body = Full::new(Bytes::from(issuer_keys()));
                async move { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer),
            );
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    std::fs::write(&file, key_set(&[pairs().stranger.jwk("es")])).unwrap();
    let by_file =
        with(issuer(), json!({"issuer": "https://file.example", "jwks_url": null, "jwks_file": file}));
    let by_url = with(issuer(), json!({ "jwks_url": format!("http://{address}/keys") }));
    let clock = StepClock::new();
    let identity = Identity::new(
        &settings(json!({"issuers": [by_file, by_url]})),
        "t.toml",
        Arc::new(Http),
        clock.clone(),
    );
    let identity = identity.unwrap();
    identity.start().await;
    assert_eq!(served.load(Ordering::SeqCst), 1);
    let ask = async |token: &str| {
        let caller = bearer(token);
        identity.authenticate(&connection(None), &caller, IdentityRule::Required).await.map_err(|e| e.code())
    };
    assert_eq!(ask(&token(json!({}))).await.unwrap().id.as_ref(), format!("{ISSUER}|alice"));
    let from_file = with(claims(), json!({"iss": "https://file.example"})).to_string();
    let stranger = token_of(&pairs().stranger, &header().to_string(), &from_file);
    assert_eq!(ask(&stranger).await.unwrap().id.as_ref(), "https://file.example|alice");
    // A key of one issuer is nothing at another, though both are called `es`.
    let crossed = token_of(&pairs().es256, &header().to_string(), &from_file);
    assert_eq!(ask(&crossed).await.unwrap_err(), "token_signature");

    // The file is exchanged: an unknown key id reads it again.
    std::fs::write(&file, key_set(&[pairs().ed.jwk("next")])).unwrap();
    clock.step(31);
    let next = with(header(), json!({"alg": "EdDSA", "kid": "next"})).to_string();
    assert!(ask(&token_of(&pairs().ed, &next, &from_file)).await.is_ok());
    assert_eq!(ask(&stranger).await.unwrap_err(), "token_key_unknown");
}
