//! The attack matrix on bearer tokens. Each row is signed as well as an attacker could.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::support::{
    ISSUER, NOW, Pair, b64, claims, header, pairs, token, token_of, token_with_header, with,
};

/// What it is, the token, the code of its refusal.
pub(super) type Row = (String, String, &'static str);

fn row(name: impl Into<String>, token: String, code: &'static str) -> Row {
    (name.into(), token, code)
}

/// The whole matrix.
pub(super) fn all() -> Vec<Row> {
    [algorithms(), headers(), forms(), dates(), names(), facts(), bindings()].into_iter().flatten().collect()
}

/// Rows on who signed, and how.
fn algorithms() -> Vec<Row> {
    let pairs = pairs();
    let payload = claims().to_string();
    let mut rows = Vec::new();
    for name in [
        "none", "None", "nOnE", "NONE", "", "es256", "ES256 ", "HS256", "HS512", "ES256K", "ES512",
        "RSA-OAEP",
    ] {
        let header = with(header(), json!({ "alg": name })).to_string();
        rows.push(row(format!("alg {name:?}"), token_of(&pairs.es256, &header, &payload), "token_algorithm"));
        let unsigned = format!("{}.{}.", b64(&header), b64(&payload));
        rows.push(row(format!("alg {name:?}, unsigned"), unsigned, "token_algorithm"));
    }
    rows.push(row("alg missing", token_with_header(json!({"alg": null})), "token_algorithm"));
    rows.push(row("alg a list", token_with_header(json!({"alg": ["ES256"]})), "token_malformed"));
    rows.push(row("alg a number", token_with_header(json!({"alg": 5})), "token_malformed"));

    let other = |alg: &str, kid: &str| with(header(), json!({"alg": alg, "kid": kid})).to_string();
    let signed = |header: String, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        let message = format!("{}.{}", b64(header), b64(&payload));
        format!("{message}.{}", b64(sign(message.as_bytes())))
    };
    let by_rsa = |message: &[u8]| pairs.rsa.sign(message);
    rows.push(row(
        "PS256 is not allowed",
        signed(other("PS256", "rs"), &|m| pairs.rsa.sign_pss(m)),
        "token_algorithm",
    ));
    rows.push(row(
        "ES384 is not allowed",
        signed(other("ES384", "es384"), &|m| pairs.es384.sign(m)),
        "token_algorithm",
    ));
    rows.push(row(
        "RS256 header, PSS signature",
        signed(other("RS256", "rs"), &|m| pairs.rsa.sign_pss(m)),
        "token_signature",
    ));
    rows.push(row("RS256 with the EC key", signed(other("RS256", "es"), &by_rsa), "token_algorithm"));
    rows.push(row(
        "ES256 with the RSA key",
        signed(other("ES256", "rs"), &|m| pairs.es256.sign(m)),
        "token_algorithm",
    ));
    rows.push(row(
        "ES256 with the P-384 key",
        signed(other("ES256", "es384"), &|m| pairs.es384.sign(m)),
        "token_algorithm",
    ));
    rows.push(row(
        "EdDSA with the EC key",
        signed(other("EdDSA", "es"), &|m| pairs.ed.sign(m)),
        "token_algorithm",
    ));
    rows.push(row(
        "RS256 with a key for RS512",
        signed(other("RS256", "rs512-only"), &by_rsa),
        "token_algorithm",
    ));
    rows.extend(secrets_that_are_public());
    rows
}

/// HMAC under bytes that everyone knows, wherever a naive verifier would find its "secret".
fn secrets_that_are_public() -> Vec<Row> {
    let Pair::Rsa(rsa) = &pairs().rsa else { panic!() };
    let der: PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
    let body = STANDARD.encode(der.as_ref());
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", lines.join("\n"));
    let secrets: [(&str, Vec<u8>); 7] = [
        ("rs", pem.clone().into_bytes()),
        ("rs", format!("{pem}\n").into_bytes()),
        ("rs", der.as_ref().to_vec()),
        ("rs", pairs().rsa.jwk("rs").to_string().into_bytes()),
        ("es", pairs().es256.jwk("es").to_string().into_bytes()),
        ("oct", b"a secret that everyone can read".to_vec()),
        ("es", Vec::new()),
    ];
    let mut rows = Vec::new();
    for (kid, secret) in secrets {
        for (alg, hash) in [("HS256", hmac::HMAC_SHA256), ("HS512", hmac::HMAC_SHA512)] {
            let header = with(header(), json!({"alg": alg, "kid": kid}));
            let message = format!("{}.{}", b64(header.to_string()), b64(claims().to_string()));
            let tag = hmac::sign(&hmac::Key::new(hash, &secret), message.as_bytes());
            let token = format!("{message}.{}", b64(tag));
            rows.push(row(format!("{alg} under the public key {kid}"), token, "token_algorithm"));
        }
    }
    rows
}

/// Rows on the other header parameters.
pub(super) fn headers() -> Vec<Row> {
    let evil = pairs().stranger.jwk("evil");
    let mut rows = vec![
        row("kid unknown", token_with_header(json!({"kid": "new"})), "token_key_unknown"),
        row("kid a path", token_with_header(json!({"kid": "../../../dev/null"})), "token_key_unknown"),
        row("kid SQL", token_with_header(json!({"kid": "' OR 1=1 --"})), "token_key_unknown"),
        row("kid of a key in other case", token_with_header(json!({"kid": "ES"})), "token_key_unknown"),
        row("kid of two keys", token_with_header(json!({"kid": "twice"})), "token_key_unknown"),
        row("kid of an encryption key", token_with_header(json!({"kid": "enc"})), "token_key_unknown"),
        row(
            "kid of a key that only signs",
            token_with_header(json!({"kid": "sign-only"})),
            "token_key_unknown",
        ),
        row("kid missing, signed by a stranger", with_stranger(json!({"kid": null})), "token_signature"),
        row("kid too long", token_with_header(json!({"kid": "k".repeat(257)})), "token_malformed"),
        row("kid empty", token_with_header(json!({"kid": ""})), "token_malformed"),
        row("kid a list", token_with_header(json!({"kid": ["es"]})), "token_malformed"),
        row("crit unknown", token_with_header(json!({"crit": ["exp"], "exp": 1})), "token_malformed"),
        row("crit empty", token_with_header(json!({"crit": []})), "token_malformed"),
        row("b64 false", token_with_header(json!({"b64": false, "crit": ["b64"]})), "token_malformed"),
        row("b64 without crit", token_with_header(json!({"b64": true})), "token_malformed"),
        row("zip", token_with_header(json!({"zip": "DEF"})), "token_malformed"),
        row("enc", token_with_header(json!({"enc": "A256GCM"})), "token_malformed"),
        row("cty JWT", token_with_header(json!({"cty": "JWT"})), "token_malformed"),
        row("typ of another kind", token_with_header(json!({"typ": "logout+jwt"})), "token_type"),
        row("typ of DPoP", token_with_header(json!({"typ": "dpop+jwt"})), "token_type"),
        row("typ empty", token_with_header(json!({"typ": ""})), "token_type"),
        row("jwk in the header", with_stranger(json!({ "jwk": evil })), "token_signature"),
        row("jwk of its own kid", with_stranger(json!({"jwk": evil, "kid": "evil"})), "token_key_unknown"),
        row("x5c in the header", with_stranger(json!({"x5c": ["MIIB"]})), "token_signature"),
    ];
    for name in ["jku", "x5u"] {
        for url in ["https://evil.example/keys", "http://127.0.0.1:1/", "file:///etc/passwd"] {
            rows.push(row(format!("{name} {url}"), with_stranger(json!({ name: url })), "token_signature"));
            let unknown = with_stranger(json!({ name: url, "kid": "evil" }));
            rows.push(row(format!("{name} {url}, unknown kid"), unknown, "token_key_unknown"));
        }
    }
    let double = r#"{"alg":"HS256","alg":"ES256","kid":"es"}"#;
    rows.push(row("alg twice", token_of(&pairs().es256, double, &claims().to_string()), "token_malformed"));
    rows
}

/// A token of a key that is in no set, with a changed header.
fn with_stranger(changes: Value) -> String {
    token_of(&pairs().stranger, &with(header(), changes).to_string(), &claims().to_string())
}

/// Rows on form and signature.
fn forms() -> Vec<Row> {
    let good = token(json!({}));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, body) = message.split_once('.').unwrap();
    let forged = b64(with(claims(), json!({"sub": "root"})).to_string());
    let mut rows = vec![
        row("signature empty", format!("{message}."), "token_signature"),
        row("signature missing", message.to_owned(), "token_malformed"),
        row("psychic signature", format!("{message}.{}", b64([0; 64])), "token_signature"),
        row("signature cut", format!("{message}.{}", &signature[..84]), "token_signature"),
        row("signature padded", format!("{good}=="), "token_signature"),
        row("payload exchanged", format!("{head}.{forged}.{signature}"), "token_signature"),
        row("another key", with_stranger(json!({})), "token_signature"),
        row("four parts", format!("{good}.{signature}"), "token_malformed"),
        row("JWE", format!("{head}.{body}.{signature}.{signature}.{signature}"), "token_malformed"),
        row("empty", String::new(), "token_malformed"),
        row("dots", "..".to_owned(), "token_malformed"),
        row("space before", format!(" {good}"), "token_malformed"),
        row("two tokens", format!("{good}, Bearer {good}"), "token_malformed"),
        row("header padded", format!("{head}=.{body}.{signature}"), "token_malformed"),
        row("standard alphabet", format!("{head}.{body}+/.{signature}"), "token_malformed"),
        row("not JSON", format!("{}.{body}.{signature}", b64("ES256")), "token_malformed"),
        row("header a list", token_of(&pairs().es256, "[]", &claims().to_string()), "token_malformed"),
        row("payload a list", token_of(&pairs().es256, &header().to_string(), "[]"), "token_claims"),
        row("8 KiB and more", token(json!({"pad": "x".repeat(8 * 1024)})), "token_malformed"),
        row("1 MB", "a.".repeat(500_000), "token_malformed"),
    ];
    let order = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
        0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    rows.push(row(
        "r and s the group order",
        format!("{message}.{}", b64([order, order].concat())),
        "token_signature",
    ));
    rows
}

/// Rows on the dates.
fn dates() -> Vec<Row> {
    let mut rows = vec![
        row("expired", token(json!({"exp": NOW - 31})), "token_expired"),
        row("expired, as a fraction", token(json!({"exp": 1_799_999_969.9})), "token_expired"),
        row("expired, just now", token(json!({"exp": NOW - 30})), "token_expired"),
        row("exp zero", token(json!({"exp": 0})), "token_expired"),
        row("exp missing", token(json!({"exp": null})), "token_claims"),
        row("not yet valid", token(json!({"nbf": NOW + 31})), "token_not_yet_valid"),
        row("not yet valid, by a fraction", token(json!({"nbf": 1_800_000_030.1})), "token_not_yet_valid"),
        row("issued in the future", token(json!({"iat": NOW + 31})), "token_not_yet_valid"),
    ];
    for name in ["exp", "nbf", "iat"] {
        for value in [
            r#""1800000600""#,
            r#""9999999999""#,
            "1e400",
            "-1",
            "-1e400",
            "[1800000600]",
            "null",
            "true",
            "{}",
            "1e300",
            "18446744073709551615",
            "-0.5",
            "\"\"",
        ] {
            let mut claims = with(claims(), json!({ name: null })).to_string();
            claims.pop();
            let payload = format!("{claims},\"{name}\":{value}}}");
            let token = token_of(&pairs().es256, &header().to_string(), &payload);
            rows.push(row(format!("{name} {value}"), token, "token_claims"));
        }
    }
    rows
}

/// Rows on whom the token is from, for and about.
fn names() -> Vec<Row> {
    let mut rows = Vec::new();
    for aud in [
        json!(null),
        json!("tidegate.evil"),
        json!("tide"),
        json!("TIDEGATE"),
        json!([]),
        json!(["a", "b"]),
        json!(""),
    ] {
        rows.push(row(format!("aud {aud}"), token(json!({ "aud": aud })), "token_audience"));
    }
    for aud in [json!(5), json!({"tidegate": 1}), json!(["tidegate", 5]), json!([["tidegate"]])] {
        rows.push(row(format!("aud {aud}"), token(json!({ "aud": aud })), "token_claims"));
    }
    for iss in [
        json!(null),
        json!("https://idp.example/"),
        json!("https://IDP.example"),
        json!("https://idp.example "),
        json!("http://idp.example"),
        json!("https://idp.example.evil"),
        json!([ISSUER]),
        json!({}),
        json!(""),
    ] {
        rows.push(row(format!("iss {iss}"), token(json!({ "iss": iss })), "token_issuer"));
    }
    for sub in [
        json!(null),
        json!(""),
        json!(5),
        json!(["alice"]),
        json!("\u{430}lice"),
        json!("alice\u{200b}"),
        json!("alice\u{0}"),
        json!("alice\n"),
        json!("a".repeat(256)),
    ] {
        rows.push(row(format!("sub {sub}"), token(json!({ "sub": sub })), "token_claims"));
    }
    rows
}

/// Rows on what else a token says.
fn facts() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, act) in [
        ("nested", json!({"sub": "bot", "act": {"sub": "deeper"}})),
        ("a text", json!("bot")),
        ("empty", json!({})),
        ("of another issuer", json!({"sub": "bot", "iss": "https://evil.example"})),
        ("confusable", json!({"sub": "b\u{43e}t"})),
    ] {
        rows.push(row(format!("act {name}"), token(json!({ "act": act })), "token_claims"));
    }
    for (name, groups) in [
        ("a text", json!("research")),
        ("numbers", json!([1])),
        ("no team name", json!(["Domain Users"])),
        ("too many", json!((0..300).map(|i| format!("t{i}")).collect::<Vec<_>>())),
    ] {
        rows.push(row(format!("groups {name}"), token(json!({ "groups": groups })), "token_claims"));
    }
    rows.push(row(
        "groups elsewhere",
        token(json!({"groups": null, "_claim_names": {"groups": "src1"}})),
        "token_claims",
    ));
    for (name, changes) in [
        ("ID token by at_hash", json!({"at_hash": "x"})),
        ("ID token by typ", json!({"typ": "ID"})),
        ("refresh token", json!({"typ": "Refresh"})),
        ("logout token", json!({"events": {}})),
    ] {
        rows.push(row(name, token(changes), "token_type"));
    }
    for payload in [
        r#","sub":"root"}"#,
        r#","\u0073ub":"root"}"#,
        r#","aud":"tidegate"}"#,
        r#","exp":99999999999}"#,
        r#","x":{"a":1,"a":1}}"#,
    ] {
        let mut claims = claims().to_string();
        claims.pop();
        let token = token_of(&pairs().es256, &header().to_string(), &(claims + payload));
        rows.push(row(format!("twice {payload}"), token, "token_claims"));
    }
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let mut claims = claims().to_string();
    claims.pop();
    let nested = token_of(&pairs().es256, &header().to_string(), &format!("{claims},\"x\":{deep}}}"));
    rows.push(row("nested", nested, "token_claims"));
    rows
}

/// Rows on proof of possession; none of them comes with a certificate.
fn bindings() -> Vec<Row> {
    [
        ("to a certificate", json!({"x5t#S256": b64([7; 32])})),
        ("to DPoP", json!({"jkt": b64([7; 32])})),
        ("to a key", json!({"jwk": pairs().es256.jwk("x")})),
        ("to two", json!({"x5t#S256": b64([7; 32]), "jkt": b64([7; 32])})),
        ("to nothing", json!({})),
        ("to a short print", json!({"x5t#S256": b64([7; 31])})),
        ("to a number", json!({"x5t#S256": 7})),
        ("a text", json!(b64([7; 32]))),
    ]
    .into_iter()
    .map(|(name, cnf)| row(format!("bound {name}"), token(json!({ "cnf": cnf })), "token_binding"))
    .collect()
}
