//! The one closed list of header changes, both ways. Nothing else in the gateway drops or rewrites a header, but for what
//! `protect/` and `upstream/` must say about the payload and their own credentials.
//!
//! **Towards the upstream** ([`outbound`]) these go away: the connection's own (RFC 9110 7.6.1) and what `Connection` names;
//! `Host` and `Content-Length` (rebuilt from the target and the body); `Authorization`, `X-Api-Key`, `Cookie` (upstream cookies never
//! reach a client, so what comes belongs to somebody else) and `Proxy-*`; everything that claims who or where the caller is (`Forwarded`,
//! `X-Forwarded-*`, `X-Real-IP`, `X-Forwarded-Client-Cert`, `X-SPIFFE-*` …); everything that asks an upstream to see another method or
//! path than Cedar saw (`X-HTTP-Method-Override`, `X-Original-URL` …); `tidegate-*`; trace context and `baggage`; `Expect`.
//! `TE: trailers` stays for gRPC. `Accept-Encoding` becomes `identity` on inference routes only (`inspect/` does it by
//! [`refuse_compression`]), so that usage can be read from the answer.
//!
//! **Towards the client** ([`inbound`]): the connection's own, `Set-Cookie`, `Server`, `Via`, `X-Powered-By`, `Alt-Svc` and other fields that move
//! a client elsewhere or speak for our host, `tidegate-*`. A redirect that leads out of the border is refused.

use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LOCATION, HeaderMap, HeaderName, HeaderValue, LOCATION, TE,
};
use http::{StatusCode, Uri};

use super::GateError;

/// Fields of one connection, never of the message (RFC 9110 7.6.1).
const CONNECTION_OWN: &[&str] =
    &["connection", "keep-alive", "te", "transfer-encoding", "upgrade", "http2-settings"];

/// Request fields that never travel upstream, sorted by what they would do there.
const NEVER_OUT: &[&str] = &[
    "host",
    "content-length",
    "expect",
    "max-forwards",
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "ocp-apim-subscription-key",
    "cookie",
    "cookie2",
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-original-url",
    "x-original-uri",
    "x-original-host",
    "x-rewrite-url",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "traceparent",
    "tracestate",
    "baggage",
];

/// Request fields that never travel upstream, by the start of their name.
const NEVER_OUT_PREFIXES: &[&str] = &["tidegate-", "proxy-", "x-forwarded-", "x-spiffe-", "x-envoy-"];

/// Response fields that never reach a client.
const NEVER_IN: &[&str] = &[
    "server",
    "via",
    "x-powered-by",
    "set-cookie",
    "set-cookie2",
    "alt-svc",
    "refresh",
    "strict-transport-security",
    "public-key-pins",
    "clear-site-data",
    "nel",
    "report-to",
    "reporting-endpoints",
    "www-authenticate",
    "authentication-info",
];

/// Response fields that never reach a client, by the start of their name.
const NEVER_IN_PREFIXES: &[&str] = &["tidegate-", "proxy-", "x-envoy-"];

/// What `Connection` may name: the connection's own, or what is dropped anyway. Naming another field would let a client
/// take away what policy or upstream relies on.
const CONNECTION_OPTIONS: &[&str] =
    &["close", "keep-alive", "te", "upgrade", "http2-settings", "proxy-connection"];

/// A trailer is read after the decision, so it may not carry what decides (RFC 9110 6.5.1).
const NEVER_TRAILER_PREFIXES: &[&str] = &["content-", "if-", "x-amz-", "accept", "cache-", "access-control-"];
const NEVER_TRAILER: &[&str] = &["range", "trailer", "location", "age", "date", "expires", "vary", "etag"];

/// Fields that may occur once, since policy, framing or upstream relies on them; also all `tidegate-*` and `x-amz-*`.
const SINGLE: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "content-range",
    "content-md5",
    "transfer-encoding",
    "range",
    "if-range",
    "expect",
    "traceparent",
];

/// Whether a request may have this field once only.
pub(crate) fn is_single(name: &str) -> bool {
    SINGLE.contains(&name) || name.starts_with("tidegate-") || name.starts_with("x-amz-")
}

/// Makes request headers fit to travel upstream.
///
/// # Errors
/// `Connection` names an end-to-end field.
pub fn outbound(headers: &mut HeaderMap) -> Result<(), GateError> {
    check_connection_options(headers)?;
    let trailers = accepts_trailers(headers);
    remove_where(headers, |name| {
        CONNECTION_OWN.contains(&name)
            || NEVER_OUT.contains(&name)
            || NEVER_OUT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    });
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}

/// All that travels beside a sealed request, in clear: what its far side needs before it has opened anything. Whatever else the
/// caller said could be payload.
const BESIDE_SEALED_REQUEST: &[&str] = &["accept", "traceparent"];

/// The same beside a sealed answer.
const BESIDE_SEALED_ANSWER: &[&str] = &["connection", "retry-after", "tidegate-record"];

/// Keeps of a request's headers only what may travel beside its sealed body.
pub fn beside_sealed_request(headers: &mut HeaderMap) {
    remove_where(headers, |name| !BESIDE_SEALED_REQUEST.contains(&name));
}

/// Keeps of an answer's headers only what may travel beside its sealed body: they are not authenticated, so the border believes
/// no others either.
pub fn beside_sealed_answer(headers: &mut HeaderMap) {
    remove_where(headers, |name| !BESIDE_SEALED_ANSWER.contains(&name));
}

/// Asks the upstream for an answer that can be read as it passes.
pub fn refuse_compression(headers: &mut HeaderMap) {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// A redirect that would lead the client around the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the upstream redirects out of the border")]
pub struct ForeignRedirect;

/// Makes response headers fit for the client that reached us as `host`.
///
/// # Errors
/// A redirect leads to another authority; the answer must be replaced.
pub fn inbound(status: StatusCode, headers: &mut HeaderMap, host: &str) -> Result<(), ForeignRedirect> {
    let foreign = |name: &HeaderName| headers.get_all(name).iter().any(|value| leads_away(value, host));
    let (location, content_location) = (foreign(&LOCATION), foreign(&CONTENT_LOCATION));
    if location && status.is_redirection() {
        return Err(ForeignRedirect);
    }
    if location {
        headers.remove(LOCATION);
    }
    if content_location {
        headers.remove(CONTENT_LOCATION);
    }
    let named = connection_names(headers);
    remove_where(headers, |name| {
        CONNECTION_OWN.contains(&name)
            || NEVER_IN.contains(&name)
            || NEVER_IN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || named.iter().any(|other| other.eq_ignore_ascii_case(name))
    });
    Ok(())
}

/// Makes trailers of either direction fit to travel on: what frames, routes, identifies or describes the body does not.
pub fn trailers(trailers: &mut HeaderMap) {
    remove_where(trailers, |name| {
        CONNECTION_OWN.contains(&name)
            || NEVER_OUT.contains(&name)
            || NEVER_IN.contains(&name)
            || NEVER_TRAILER.contains(&name)
            || [NEVER_OUT_PREFIXES, NEVER_IN_PREFIXES, NEVER_TRAILER_PREFIXES]
                .iter()
                .any(|list| list.iter().any(|prefix| name.starts_with(prefix)))
    });
}

fn check_connection_options(headers: &HeaderMap) -> Result<(), GateError> {
    for value in headers.get_all(CONNECTION) {
        let text = value.to_str().map_err(|_| GateError::ConnectionOption)?;
        for option in text.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            if !CONNECTION_OPTIONS.iter().any(|known| known.eq_ignore_ascii_case(option)) {
                return Err(GateError::ConnectionOption);
            }
        }
    }
    Ok(())
}

fn connection_names(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|text| text.split(',')).map(|name| name.trim().to_owned()).collect()
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|text| text.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Whether a URI reference of an upstream names another authority than ours. What is unreadable leads away.
fn leads_away(reference: &HeaderValue, host: &str) -> bool {
    let Ok(text) = reference.to_str() else { return true };
    // Browsers read `\` as `/`, and both `//x` and `/\x` as an authority.
    if text.contains('\\') || text.starts_with("//") {
        return true;
    }
    let relative =
        text.find(':').is_none_or(|colon| text.find(['/', '?', '#']).is_some_and(|end| end < colon));
    if relative {
        return false;
    }
    let Ok(uri) = text.parse::<Uri>() else { return true };
    !matches!(uri.scheme_str(), Some("http" | "https"))
        || uri.host().is_none_or(|other| !other.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[&str]) -> HeaderMap {
        let pairs = lines.iter().map(|line| line.split_once(": ").unwrap());
        pairs.map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap())).collect()
    }

    #[test]
    fn what_claims_an_identity_or_another_request_stays_behind() {
        let mut headers = map(&[
            "authorization: Bearer t",
            "x-api-key: k",
            "cookie: s=1",
            "proxy-authorization: p",
            "proxy-connection: keep-alive",
            "connection: keep-alive, TE",
            "keep-alive: 5",
            "te: gzip, Trailers",
            "x-forwarded-for: 1.2.3.4",
            "x-forwarded-client-cert: c",
            "x-spiffe-id: spiffe://x",
            "forwarded: for=1",
            "x-http-method-override: DELETE",
            "x-original-url: /admin",
            "tidegate-anything: 1",
            "baggage: a=1",
            "host: a",
            "content-length: 3",
            "content-type: text/plain",
            "accept: */*",
        ]);
        outbound(&mut headers).unwrap();
        assert_eq!(headers, map(&["content-type: text/plain", "accept: */*", "te: trailers"]));
    }

    #[test]
    fn connection_names_no_end_to_end_header() {
        for name in ["authorization", "host", "Content-Type", "x-anything", "close, tidegate-label", "a b"] {
            let mut headers = HeaderMap::new();
            headers.insert(CONNECTION, name.parse().unwrap());
            assert!(matches!(outbound(&mut headers), Err(GateError::ConnectionOption)), "{name}");
        }
    }

    #[test]
    fn answers_do_not_speak_for_us() {
        let mut headers = map(&[
            "server: x",
            "set-cookie: a=1",
            "alt-svc: h3=\":443\"",
            "connection: x-hop",
            "x-hop: 1",
            "tidegate-record: forged",
            "www-authenticate: Basic",
            "access-control-allow-origin: *",
            "location: https://elsewhere.test/x",
            "content-type: text/plain",
        ]);
        inbound(StatusCode::CREATED, &mut headers, "gw.test").unwrap();
        assert_eq!(headers, map(&["access-control-allow-origin: *", "content-type: text/plain"]));
    }

    #[test]
    fn redirects_stay_inside() {
        for (location, stays) in [
            ("/x?y=http://z", true),
            ("x/y:z", true),
            ("?a=1", true),
            ("https://gw.test/x", true),
            ("https://GW.test:8443/x", true),
            ("//evil.test/x", false),
            ("/\\evil.test", false),
            ("https://evil.test/", false),
            ("https://gw.test@evil.test/", false),
            ("https:evil.test", false),
            ("javascript:alert(1)", false),
            ("gw.test:443/x", false),
            ("ftp://gw.test/x", false),
        ] {
            let mut headers = map(&[&format!("location: {location}")]);
            assert_eq!(inbound(StatusCode::FOUND, &mut headers, "gw.test").is_ok(), stays, "{location}");
        }
    }

    #[test]
    fn trailers_decide_nothing() {
        let mut all =
            map(&["grpc-status: 0", "content-length: 1", "authorization: x", "tidegate-label: public"]);
        trailers(&mut all);
        assert_eq!(all, map(&["grpc-status: 0"]));
    }
}
