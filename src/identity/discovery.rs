//! OpenID Connect Discovery 1.0: where an issuer says that its key set is.
//!
//! The document is fetched anew with each refresh of the keys, so an issuer that moves its keys is followed within one refresh.

use serde::Deserialize;

/// Where an issuer's document is, below its own URL (section 4).
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// A document that leads to no keys.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// Not a JSON object with `issuer` and `jwks_uri`, or one of the two stands twice.
    #[error("this is no discovery document: `issuer` and `jwks_uri` are not to be had from it")]
    Syntax,
    /// It speaks of another issuer (section 4.3): its keys would vouch for somebody else.
    #[error("the discovery document is of the issuer `{0}`")]
    Issuer(String),
    /// The keys would come over a line that anybody may change, or from this machine although the issuer is none of it.
    #[error(
        "the discovery document names keys at `{0}`, which is not `https`: only an issuer at a loopback address may name one"
    )]
    Address(String),
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
}

/// The address of the document of an issuer (section 4: a trailing slash of the issuer is not doubled).
pub(super) fn address(issuer: &str) -> String {
    format!("{}{WELL_KNOWN}", issuer.strip_suffix('/').unwrap_or(issuer))
}

/// The address of the keys, from the document of `issuer`.
pub(super) fn keys_address(issuer: &str, document: &[u8]) -> Result<String, DiscoveryError> {
    let document: Document = serde_json::from_slice(document).map_err(|_| DiscoveryError::Syntax)?;
    if document.issuer != issuer {
        return Err(DiscoveryError::Issuer(shown(&document.issuer)));
    }
    // An issuer elsewhere must not send us to what listens on this machine alone.
    let leads_home = is_http(&document.jwks_uri) && !is_http(issuer);
    if leads_home || !is_safe_url(&document.jwks_uri) {
        return Err(DiscoveryError::Address(shown(&document.jwks_uri)));
    }
    Ok(document.jwks_uri)
}

/// What a stranger wrote, as it may stand in a log.
fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(200).collect()
}

fn is_http(url: &str) -> bool {
    url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http:"))
}

/// Keys fetched without TLS could be anyone's, so plain HTTP must stay on this machine.
pub(super) fn is_safe_url(text: &str) -> bool {
    let Ok(url) = text.parse::<http::Uri>() else { return false };
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else { return false };
    let loopback = matches!(authority.host(), "127.0.0.1" | "[::1]" | "localhost");
    !text.contains('#')
        && !authority.as_str().contains('@')
        && (scheme == "https" || (scheme == "http" && loopback))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ISSUER: &str = "https://id.example.com/tenant/";

    fn document(issuer: &str, keys: &str) -> Vec<u8> {
        format!(r#"{{"issuer":"{issuer}","jwks_uri":"{keys}","token_endpoint":"https://id.example.com/t"}}"#)
            .into_bytes()
    }

    #[test]
    fn the_document_is_found_below_the_issuer() {
        assert_eq!(address(ISSUER), "https://id.example.com/tenant/.well-known/openid-configuration");
        assert_eq!(
            address("https://id.example.com"),
            "https://id.example.com/.well-known/openid-configuration"
        );
    }

    #[test]
    fn keys_may_be_at_another_host_but_not_in_the_open() {
        let found = keys_address(ISSUER, &document(ISSUER, "https://keys.example.net/k"));
        assert_eq!(found.as_deref(), Ok("https://keys.example.net/k"));
        for open in [
            "http://keys.example.net/k",
            "http://127.0.0.1:9090/metrics",
            "HTTP://localhost/k",
            "ftp://127.0.0.1/k",
            "/keys",
            "https://a@b/k",
            "",
        ] {
            let refused = keys_address(ISSUER, &document(ISSUER, open));
            assert_eq!(refused, Err(DiscoveryError::Address(open.to_owned())), "{open}");
        }
    }

    #[test]
    fn an_issuer_on_this_machine_may_name_keys_there() {
        let (issuer, keys) = ("http://127.0.0.1:8080", "http://127.0.0.1:8080/k");
        assert_eq!(keys_address(issuer, &document(issuer, keys)).as_deref(), Ok(keys));
    }

    #[test]
    fn another_issuers_document_is_refused() {
        for other in
            ["https://id.example.com/tenant", "https://ID.example.com/tenant/", "https://evil.example", ""]
        {
            let refused = keys_address(ISSUER, &document(other, "https://keys.example.net/k"));
            assert_eq!(refused, Err(DiscoveryError::Issuer(other.to_owned())), "{other}");
        }
    }

    #[test]
    fn what_is_no_document_is_told() {
        let twice = format!(r#"{{"issuer":"{ISSUER}","jwks_uri":"https://a/k","jwks_uri":"https://b/k"}}"#);
        for text in ["", "<html>", "[]", "{}", r#"{"issuer":5,"jwks_uri":"https://a/k"}"#, twice.as_str()] {
            assert_eq!(keys_address(ISSUER, text.as_bytes()), Err(DiscoveryError::Syntax), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_lead_anywhere_else(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(keys_address(ISSUER, &bytes).is_err());
        }
    }
}
