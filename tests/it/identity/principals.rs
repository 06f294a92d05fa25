//! Who a credential is: users, workloads, tenants, teams, API keys, nobody.

use std::sync::Arc;

use http::HeaderValue;
use serde_json::{Value, json};
use tidegate::identity::{Identity, new_api_key};
use tidegate::message::CallerHeaders;
use tidegate::model::{Authn, IdentityRule, PrincipalKind, Problems};

use super::support::{
    Bench, CountingSource, ISSUER, NOW, StepClock, api_key, bearer, certificate, connection, issuer,
    settings, token, with,
};

async fn kind_of(bench: &Bench, changes: Value) -> Result<String, &'static str> {
    match bench.show(&token(changes), None).await {
        Ok(principal) => Ok(format!("{}::{}", principal.kind.name(), principal.id)),
        Err(error) => Err(error.code()),
    }
}

#[tokio::test]
async fn a_user_has_verified_facts_only() {
    let bench = Bench::plain().await;
    let alice = bench.show(&token(json!({"jti": "t-1", "role": "admin"})), None).await.unwrap();
    assert_eq!((alice.kind, alice.authn), (PrincipalKind::User, Authn::Jwt));
    assert_eq!(alice.id.as_ref(), format!("{ISSUER}|alice"));
    assert_eq!(alice.tenant.as_str(), "acme");
    assert_eq!(alice.teams.iter().map(|team| team.as_str()).collect::<Vec<_>>(), ["eu/staff", "research"]);
    assert_eq!(alice.issued_at.unwrap().as_second(), NOW - 60);
    assert_eq!(alice.expires_at.unwrap().as_second(), NOW + 600);
    let printed = format!("{alice:?}");
    assert!(!printed.contains("t-1") && alice.credential.as_ref().unwrap().len() == 64);
}

#[tokio::test]
async fn a_client_credentials_token_is_a_workload() {
    let bench = Bench::plain().await;
    let ask = |changes| kind_of(&bench, changes);
    assert_eq!(ask(json!({"client_id": "batch", "sub": "batch"})).await.unwrap(), "Workload::batch");
    assert_eq!(ask(json!({"azp": "batch", "sub": "batch"})).await.unwrap(), "Workload::batch");
    assert_eq!(ask(json!({"client_id": "batch", "sub": null})).await.unwrap(), "Workload::batch");
    let user = format!("User::{ISSUER}|alice");
    assert_eq!(ask(json!({"client_id": "web", "azp": "web"})).await.unwrap(), user);
    for changes in [
        json!({"client_id": "a", "azp": "b"}),
        json!({"client_id": "anonymous", "sub": null}),
        json!({"client_id": "spiffe://prod.example/ns/ml/job", "sub": null}),
        json!({"client_id": 5}),
    ] {
        assert_eq!(ask(changes.clone()).await, Err("token_claims"), "{changes}");
    }
}

#[tokio::test]
async fn clients_are_listed_where_two_issuers_could_name_the_same() {
    let listed = with(issuer(), json!({"workload_clients": ["batch"]}));
    let other = with(issuer(), json!({"issuer": "https://other.example"}));
    let bench = Bench::new(json!({"issuers": [listed, other]})).await;
    let ask = |changes| kind_of(&bench, changes);
    assert_eq!(
        ask(json!({"client_id": "batch", "sub": "service-account"})).await.unwrap(),
        "Workload::batch"
    );
    assert_eq!(ask(json!({"client_id": "else", "sub": "else"})).await, Err("token_claims"));
    let elsewhere = json!({"iss": "https://other.example", "client_id": "batch", "sub": "batch"});
    assert_eq!(ask(elsewhere).await, Err("token_claims"));
    let user = json!({"iss": "https://other.example", "sub": "bob"});
    assert_eq!(ask(user).await.unwrap(), "User::https://other.example|bob");
}

#[tokio::test]
async fn the_tenant_comes_from_configuration_or_a_claim_and_is_never_guessed() {
    let by_claim = with(issuer(), json!({"tenant": null, "tenant_claim": "org"}));
    let bench = Bench::new(json!({"issuers": [by_claim]})).await;
    let good = bench.show(&token(json!({"org": "globex"})), None).await.unwrap();
    assert_eq!(good.tenant.as_str(), "globex");
    for org in [json!(null), json!(""), json!(5), json!(["globex"]), json!("a b"), json!("../x")] {
        assert_eq!(bench.refusal(&token(json!({ "org": org }))).await, "token_tenant_missing", "{org}");
    }
}

#[tokio::test]
async fn teams_without_a_name_can_be_left_out_on_request() {
    let lenient = with(issuer(), json!({"foreign_teams": "ignore", "teams_claim": "roles"}));
    let bench = Bench::new(json!({"issuers": [lenient]})).await;
    let shown = bench.show(&token(json!({"roles": ["Domain Users", "ml"]})), None).await.unwrap();
    assert_eq!(shown.teams.iter().map(|team| team.as_str()).collect::<Vec<_>>(), ["ml"]);
}

#[tokio::test]
async fn credentials_are_missing_or_ambiguous_or_one() {
    let bench = Bench::plain().await;
    let good = token(json!({}));
    let ask = async |caller: &CallerHeaders, rule| {
        let asked = bench.identity.authenticate(&connection(None), caller, rule).await;
        asked
            .map(|principal| principal.id.to_string())
            .map_err(|error| (error.code(), error.status().as_u16()))
    };
    let nothing = CallerHeaders::default();
    assert_eq!(ask(&nothing, IdentityRule::Required).await, Err(("credentials_missing", 401)));
    let mut two = bearer(&good);
    two.authorization.push(two.authorization[0].clone());
    assert_eq!(ask(&two, IdentityRule::Required).await, Err(("credentials_ambiguous", 401)));
    let mut both = bearer(&good);
    both.api_key.push(HeaderValue::from_static("x"));
    assert_eq!(ask(&both, IdentityRule::Required).await, Err(("credentials_ambiguous", 401)));
    let mut keys = api_key("x");
    keys.api_key.push(HeaderValue::from_static("x"));
    assert_eq!(ask(&keys, IdentityRule::Required).await, Err(("credentials_ambiguous", 401)));
    // A token is no API key, and nobody is asked where the route does not want to know.
    assert_eq!(ask(&api_key(&good), IdentityRule::Required).await, Err(("api_key_unknown", 401)));
    for caller in [&nothing, &two, &bearer("nonsense")] {
        assert_eq!(ask(caller, IdentityRule::None).await.unwrap(), "anonymous");
    }
}

#[tokio::test]
async fn an_api_key_is_its_entry_until_it_ends() {
    let (user, job) = (new_api_key("alice-laptop").unwrap(), new_api_key("nightly").unwrap());
    let dir = tempfile::tempdir().unwrap();
    let entries = json!({"keys": [
        {"id": "alice-laptop", "sha256": user.sha256, "tenant": "acme", "kind": "user", "teams": ["research"]},
        {"id": "nightly", "sha256": job.sha256, "tenant": "globex", "kind": "workload", "expires": "2027-01-15T08:01:00Z"},
    ]});
    let json_file = dir.path().join("keys.json");
    std::fs::write(&json_file, entries.to_string()).unwrap();
    let toml_file = dir.path().join("keys.toml");
    std::fs::write(&toml_file, toml::to_string(&entries).unwrap()).unwrap();
    for file in [json_file, toml_file] {
        let bench = Bench::new(json!({"issuers": [issuer()], "api_keys": file})).await;
        let ask = async |caller: CallerHeaders| {
            let on = connection(None);
            bench
                .identity
                .authenticate(&on, &caller, IdentityRule::Required)
                .await
                .map_err(|error| error.code())
        };
        for caller in [api_key(&user.text), bearer(&user.text)] {
            let alice = ask(caller).await.unwrap();
            assert_eq!((alice.kind, alice.id.as_ref()), (PrincipalKind::User, "apikey|alice-laptop"));
            assert_eq!((alice.authn, alice.teams[0].as_str()), (Authn::ApiKey, "research"));
        }
        assert_eq!(ask(api_key(&job.text)).await.unwrap().id.as_ref(), "nightly");
        let mixed = user.text.replace("alice-laptop", "nightly");
        let cut = &user.text[..user.text.len() - 1];
        let other = new_api_key("alice-laptop").unwrap();
        for wrong in [mixed.as_str(), cut, &other.text, "tgk_", "tgk_nightly_", "", "nightly", &user.sha256] {
            assert_eq!(ask(api_key(wrong)).await.unwrap_err(), "api_key_unknown", "{wrong}");
        }
        // A client of the issuer cannot take the name of a key's workload.
        let thief = token(json!({"client_id": "nightly", "sub": null}));
        assert_eq!(bench.refusal(&thief).await, "token_claims");
        bench.clock.step(60);
        assert_eq!(ask(api_key(&job.text)).await.unwrap_err(), "api_key_expired");
        // An expired certificate beside a good key is refused as well.
        let mut old = (*certificate(1, &[])).clone();
        old.not_after = jiff::Timestamp::from_second(NOW).unwrap();
        let on = connection(Some(&Arc::new(old)));
        let asked = bench.identity.authenticate(&on, &api_key(&user.text), IdentityRule::Required).await;
        assert_eq!(asked.unwrap_err().code(), "certificate_invalid");
    }
}

fn problems(value: Value) -> Problems {
    Identity::new(&settings(value), "t.toml", CountingSource::saying(Vec::new()), StepClock::new())
        .unwrap_err()
}

#[test]
fn mistakes_of_the_settings_are_told_all_at_once_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.json");
    std::fs::write(&broken, "{").unwrap();
    let found = problems(json!({
        "issuers": [
            with(issuer(), json!({"issuer": "a|b", "audiences": [], "algorithms": [], "tenant": null, "leeway": "6m"})),
            with(issuer(), json!({"jwks_file": "keys.json"})),
            with(issuer(), json!({"jwks_url": "http://idp.example/keys", "max_stale": "2d", "tenant_claim": "org"})),
            with(issuer(), json!({"jwks_url": null, "jwks_file": broken, "issuer": "https://a", "workload_clients": ["x"]})),
            with(issuer(), json!({"issuer": "https://b", "workload_clients": ["x", "spiffe://td/x"], "token_types": []})),
        ],
        "mtls": {"trust_domains": [
            {"name": "spiffe://td", "tenant": "t"},
            {"name": "td", "tenant": "t", "workloads": [{"id": "spiffe://other/x"}, {"teams": ["a"]}]},
        ]},
        "api_keys": dir.path().join("missing.toml"),
        "cache": {"entries": 200_000, "ttl": "10m"},
    }));
    let text = found.to_string();
    for place in [
        "issuers[0].issuer",
        "issuers[0].audiences",
        "issuers[0].algorithms",
        "issuers[0].tenant",
        "issuers[0].leeway",
        "issuers[1].jwks_url",
        "issuers[2].jwks_url",
        "issuers[2].max_stale",
        "issuers[2].tenant",
        "issuers[2].issuer",
        "broken.json",
        "issuers[4].workload_clients",
        "issuers[4].token_types",
        "trust_domains[0].name",
        "trust_domains[1].workloads[0]",
        "trust_domains[1].workloads[1]",
        "missing.toml",
        "cache.entries",
        "cache.ttl",
    ] {
        assert!(text.contains(place), "{place} is not in\n{text}");
    }
}

#[test]
fn only_safe_places_of_keys_are_accepted() {
    for url in [
        "http://10.0.0.1/keys",
        "ftp://idp.example/keys",
        "idp.example/keys",
        "https://user@idp.example/keys",
        "file:///keys",
        "http://127.0.0.1.evil.example/keys",
        "http://localhost@evil.example/keys",
        "",
    ] {
        let text = problems(json!({"issuers": [with(issuer(), json!({ "jwks_url": url }))]})).to_string();
        assert!(text.contains("jwks_url"), "{url}: {text}");
    }
    for url in [
        "https://idp.example/keys?x=1",
        "http://127.0.0.1:8080/keys",
        "http://[::1]/keys",
        "http://localhost/keys",
    ] {
        let value = json!({"issuers": [with(issuer(), json!({ "jwks_url": url }))]});
        assert!(
            Identity::new(&settings(value), "t.toml", CountingSource::saying(Vec::new()), StepClock::new())
                .is_ok(),
            "{url}"
        );
    }
    for symmetric in ["HS256", "none", "es256"] {
        let value = json!({"issuers": [with(issuer(), json!({ "algorithms": [symmetric] }))]});
        assert!(serde_json::from_value::<tidegate::identity::Settings>(value).is_err(), "{symmetric}");
    }
}
