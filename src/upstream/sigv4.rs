//! AWS Signature Version 4 for S3: a request is signed anew under the gateway's credentials, whatever the client signed.
//!
//! The canonical request is made by `aws-sigv4`; this module only says what goes into it. The path is signed in the one
//! encoding that S3 itself computes from the decoded key, so that the bytes on the wire may stay as the client wrote them.

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningError, SigningParams,
    SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RANGE};
use http::request::Parts;
use http::uri::Authority;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
pub(super) const DECODED_LENGTH: HeaderName = HeaderName::from_static("x-amz-decoded-content-length");

/// What a client's own signature needed. The forms of `aws-chunked` go too: the body that is sent is decoded.
const CLIENTS_OWN: [HeaderName; 6] = [
    AUTHORIZATION,
    CONTENT_SHA256,
    DECODED_LENGTH,
    HeaderName::from_static("x-amz-date"),
    HeaderName::from_static("x-amz-security-token"),
    HeaderName::from_static("x-amz-trailer"),
];

/// All but the unreserved characters of RFC 3986 and the `/` between segments.
const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A request that cannot be signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    /// A header that must be signed holds other bytes than visible ASCII.
    #[error("header `{0}` cannot be signed: it holds other characters than visible ASCII")]
    Header(HeaderName),
    /// The path is not UTF-8 when decoded.
    #[error("the path cannot be signed: it is not UTF-8")]
    Path,
    /// A body of unknown content would travel unencrypted: neither TLS nor the signature would guard it.
    #[error("a streamed body without a digest is not sent without encryption")]
    Unguarded,
    /// The signing library refused.
    #[error("cannot sign")]
    Library(#[source] SigningError),
    /// The signing library was given too little; a mistake of ours.
    #[error("cannot sign")]
    Settings,
}

/// What is known of the body when the head is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload {
    /// There is none.
    Empty,
    /// It streams; its digest is the client's claim in `x-amz-content-sha256`, or not known.
    Streaming {
        /// Whether TLS guards its integrity, or it does not leave this machine.
        guarded: bool,
    },
}

/// Signs for one store.
pub(super) struct Signer {
    credentials: Credentials,
    region: String,
}

impl Signer {
    pub(super) fn new(access_key_id: &str, secret: &str, region: &str) -> Self {
        let credentials = Credentials::new(access_key_id, secret, None, None, "tidegate");
        Self { credentials, region: region.to_owned() }
    }

    /// Replaces a client's signature by ours. `host` is what the `Host` header will say.
    pub(super) fn sign(
        &self,
        parts: &mut Parts,
        host: &Authority,
        payload: Payload,
        now: SystemTime,
    ) -> Result<(), SignError> {
        let body = signable(parts, payload)?;
        for name in CLIENTS_OWN {
            parts.headers.remove(name);
        }
        drop_aws_chunked(parts);

        let mut signed: Vec<(&str, &str)> = vec![(HOST.as_str(), host.as_str())];
        for (name, value) in &parts.headers {
            if is_signed(name) {
                signed.push((name.as_str(), text(value).ok_or_else(|| SignError::Header(name.clone()))?));
            }
        }
        let target = canonical_target(parts)?;
        let request = SignableRequest::new(parts.method.as_str(), target, signed.into_iter(), body)
            .map_err(SignError::Library)?;
        let identity = self.credentials.clone().into();
        let params: SigningParams<'_> = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("s3")
            .time(now)
            .settings(settings())
            .build()
            .map_err(|_| SignError::Settings)?
            .into();
        let (instructions, _) = sign(request, &params).map_err(SignError::Library)?.into_parts();
        let (headers, _) = instructions.into_parts();
        for header in headers {
            let mut value = HeaderValue::from_str(header.value()).map_err(|_| SignError::Settings)?;
            value.set_sensitive(header.name() == AUTHORIZATION.as_str());
            parts.headers.insert(header.name(), value);
        }
        Ok(())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("region", &self.region).finish_non_exhaustive()
    }
}

fn settings() -> SigningSettings {
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings
}

/// A client's digest of the very bytes that are sent is kept, for then the store checks them; one of encoded bytes is not.
fn signable(parts: &Parts, payload: Payload) -> Result<SignableBody<'static>, SignError> {
    let Payload::Streaming { guarded } = payload else {
        return Ok(SignableBody::Bytes(&[]));
    };
    let claimed = parts.headers.get(CONTENT_SHA256).and_then(text).filter(|digest| is_sha256(digest));
    match claimed {
        Some(digest) if !is_aws_chunked(parts) => Ok(SignableBody::Precomputed(digest.to_owned())),
        _ if guarded => Ok(SignableBody::UnsignedPayload),
        _ => Err(SignError::Unguarded),
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_signed(name: &HeaderName) -> bool {
    *name == RANGE || *name == CONTENT_TYPE || *name == CONTENT_MD5 || name.as_str().starts_with("x-amz-")
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

/// Whether the client framed the body as `aws-chunked`.
pub(super) fn is_aws_chunked(parts: &Parts) -> bool {
    codings(parts).any(|coding| coding.eq_ignore_ascii_case("aws-chunked"))
}

fn codings(parts: &Parts) -> impl Iterator<Item = &str> {
    let values = parts.headers.get_all(CONTENT_ENCODING).into_iter().filter_map(text);
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|coding| !coding.is_empty())
}

/// Other codings are the object's own metadata and stay.
fn drop_aws_chunked(parts: &mut Parts) {
    if !is_aws_chunked(parts) {
        return;
    }
    let kept: Vec<&str> =
        codings(parts).filter(|coding| !coding.eq_ignore_ascii_case("aws-chunked")).collect();
    let kept = HeaderValue::from_str(&kept.join(", "));
    parts.headers.remove(CONTENT_ENCODING);
    if let Ok(value) = kept
        && !value.is_empty()
    {
        parts.headers.insert(CONTENT_ENCODING, value);
    }
}

/// Path and query as S3 computes them: decoded once, encoded once by its own rule.
fn canonical_target(parts: &Parts) -> Result<String, SignError> {
    let decoded: Cow<'_, str> =
        percent_decode_str(parts.uri.path()).decode_utf8().map_err(|_| SignError::Path)?;
    let mut target = utf8_percent_encode(&decoded, KEY).to_string();
    if let Some(query) = parts.uri.query() {
        target.push('?');
        target.push_str(query);
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};
    use aws_lc_rs::hmac;
    use proptest::prelude::*;

    use super::*;
    use crate::model::hex;

    const KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

    /// 2013-05-24T00:00:00Z, the time of the examples in the documentation of AWS.
    fn then() -> SystemTime {
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_369_353_600)
    }

    fn signed(request: http::request::Builder, host: &str, payload: Payload) -> Parts {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let signer = Signer::new(KEY_ID, SECRET, "us-east-1");
        signer.sign(&mut parts, &host.parse().unwrap(), payload, then()).unwrap();
        parts
    }

    fn header<'a>(parts: &'a Parts, name: &str) -> &'a str {
        parts.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The examples of "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)".
    #[test]
    fn signs_as_the_documentation_of_aws_does() {
        let host = "examplebucket.s3.amazonaws.com";
        let get = http::Request::get("/test.txt").header("range", "bytes=0-9");
        assert_eq!(
            header(&signed(get, host, Payload::Empty), "authorization"),
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, \
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let lifecycle = signed(http::Request::get("/?lifecycle"), host, Payload::Empty);
        assert!(
            header(&lifecycle, "authorization")
                .ends_with("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")
        );
        let list = signed(http::Request::get("/?max-keys=2&prefix=J"), host, Payload::Empty);
        assert!(
            header(&list, "authorization")
                .ends_with("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")
        );
    }

    #[test]
    fn nothing_of_the_clients_signature_is_left() {
        let put = http::Request::put("/b/k")
            .header("authorization", "AWS4-HMAC-SHA256 Credential=CLIENT/x, Signature=00")
            .header("x-amz-date", "20200101T000000Z")
            .header("x-amz-security-token", "token")
            .header("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
            .header("x-amz-decoded-content-length", "5")
            .header("x-amz-trailer", "x-amz-checksum-crc32")
            .header("content-encoding", "aws-chunked, gzip")
            .header("x-amz-meta-a", "1");
        let parts = signed(put, "store:9000", Payload::Streaming { guarded: true });
        assert_eq!(header(&parts, "x-amz-content-sha256"), "UNSIGNED-PAYLOAD");
        assert_eq!(header(&parts, "x-amz-date"), "20130524T000000Z");
        assert_eq!(header(&parts, "content-encoding"), "gzip");
        assert!(header(&parts, "authorization").contains(
            "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-meta-a,"
        ));
        assert!(parts.headers.get("authorization").unwrap().is_sensitive());
        for gone in ["x-amz-security-token", "x-amz-decoded-content-length", "x-amz-trailer"] {
            assert!(!parts.headers.contains_key(gone), "{gone}");
        }
        assert!(!format!("{:?}", Signer::new(KEY_ID, SECRET, "r")).contains("wJal"));
    }

    #[test]
    fn a_clients_digest_is_kept_only_of_the_bytes_that_are_sent() {
        let digest = "a".repeat(64);
        let put = || http::Request::put("/b/k").header("x-amz-content-sha256", &digest);
        for guarded in [true, false] {
            let parts = signed(put(), "store", Payload::Streaming { guarded });
            assert_eq!(header(&parts, "x-amz-content-sha256"), digest);
        }
        let chunked = put().header("content-encoding", "aws-chunked");
        let parts = signed(chunked, "store", Payload::Streaming { guarded: true });
        assert_eq!(header(&parts, "x-amz-content-sha256"), "UNSIGNED-PAYLOAD");
        assert!(!parts.headers.contains_key("content-encoding"));
        let (mut parts, ()) = http::Request::put("/b/k").body(()).unwrap().into_parts();
        let signer = Signer::new(KEY_ID, SECRET, "us-east-1");
        let unguarded = Payload::Streaming { guarded: false };
        let error = signer.sign(&mut parts, &"store".parse().unwrap(), unguarded, then()).unwrap_err();
        assert!(matches!(error, SignError::Unguarded));
    }

    fn mac(key: &[u8], text: &str) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
    }

    /// What a store computes from the decoded key and query pairs of a GET.
    fn by_hand(key: &str, pairs: &[(String, String)], host: &str) -> String {
        let encode = |text: &str, slash: bool| -> String {
            text.bytes()
                .map(|b| match b {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        char::from(b).to_string()
                    }
                    b'/' if slash => "/".to_owned(),
                    _ => format!("%{b:02X}"),
                })
                .collect()
        };
        let mut query: Vec<String> =
            pairs.iter().map(|(k, v)| format!("{}={}", encode(k, false), encode(v, false))).collect();
        query.sort();
        let empty = hex(digest(&SHA256, b"").as_ref());
        let canonical = format!(
            "GET\n{}\n{}\nhost:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:20130524T000000Z\n\n\
             host;x-amz-content-sha256;x-amz-date\n{empty}",
            encode(key, true),
            query.join("&"),
        );
        let scope = "20130524/us-east-1/s3/aws4_request";
        let hash = hex(digest(&SHA256, canonical.as_bytes()).as_ref());
        let text = format!("AWS4-HMAC-SHA256\n20130524T000000Z\n{scope}\n{hash}");
        let mut derived = format!("AWS4{SECRET}").into_bytes();
        for part in scope.split('/') {
            derived = mac(&derived, part);
        }
        hex(&mac(&derived, &text))
    }

    proptest! {
        #[test]
        fn any_key_in_any_encoding_is_signed_as_the_store_will_see_it(
            key in "/[a-z]{3}/[a-zA-Z0-9 +()!*'%~ü./=:@-]{1,20}",
            pairs in prop::collection::vec(("[a-c]{1,2}", "[a-z /+%=&ü]{0,6}"), 0..3),
            all: bool,
        ) {
            // A client may encode more than it must, in either case of hexadecimal.
            let wire: String = key
                .bytes()
                .map(|b| match b {
                    b'/' | b'a'..=b'z' | b'-' => char::from(b).to_string(),
                    b'+' | b'(' | b')' | b'!' | b'*' | b'\'' | b'=' | b':' | b'@' if !all => char::from(b).to_string(),
                    _ if all => format!("%{b:02x}"),
                    _ => format!("%{b:02X}"),
                })
                .collect();
            let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let query: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={}", encode(v))).collect();
            let target = if query.is_empty() { wire } else { format!("{wire}?{}", query.join("&")) };
            let parts = signed(http::Request::get(&target), "store:9000", Payload::Empty);
            prop_assert_eq!(parts.uri.to_string(), target);
            let authorization = header(&parts, "authorization");
            let expected = by_hand(&key, &pairs, "store:9000");
            prop_assert!(authorization.ends_with(&expected), "{} {}", authorization, expected);
        }
    }
}
