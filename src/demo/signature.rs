//! The checking half of AWS Signature Version 4, for the store double.
//!
//! Written from the specification and apart from the signer that the gateway uses, so that one cannot excuse the other.
//! Header form only (no presigned URLs), payload digest or `UNSIGNED-PAYLOAD` only (no chunk signatures).

use aws_lc_rs::{constant_time, digest, hmac};
use http::{HeaderMap, Request, header};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// How far the clock of the signer may be off, in seconds; S3 allows as much.
const MAX_SKEW: i64 = 15 * 60;

/// Why a request counts as unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignatureError {
    /// No usable `Authorization` or `x-amz-*` header.
    #[error("the request is not signed with AWS4-HMAC-SHA256 headers")]
    Missing,
    /// The credential scope names another key, day, region or service.
    #[error("the credential scope is not ours")]
    Scope,
    /// `x-amz-date` is too far from now.
    #[error("the time of the signature is too far from now")]
    Skew,
    /// The body is not the one that was signed.
    #[error("the payload differs from `x-amz-content-sha256`")]
    Payload,
    /// The signature does not fit the request.
    #[error("the signature does not match")]
    Mismatch,
}

/// The key that requests must be signed with.
#[derive(Clone)]
pub(crate) struct SigningKey {
    /// The public half.
    pub(crate) access_key_id: String,
    /// The secret half.
    pub(crate) secret: String,
    /// The region of the scope.
    pub(crate) region: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// `Authorization: AWS4-HMAC-SHA256 Credential=.., SignedHeaders=.., Signature=..`
#[derive(Debug)]
struct Authorization<'a> {
    credential: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let parts = text.strip_prefix("AWS4-HMAC-SHA256 ")?;
        let member =
            |name: &str| parts.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
        Some(Self {
            credential: member("Credential")?,
            signed_headers: member("SignedHeaders")?,
            signature: member("Signature")?,
        })
    }
}

impl SigningKey {
    /// Whether this key signed exactly this request, within 15 minutes of `now`.
    ///
    /// # Errors
    /// Says which check failed first.
    pub(crate) fn verify<B: AsRef<[u8]>>(
        &self,
        request: &Request<B>,
        now: Timestamp,
    ) -> Result<(), SignatureError> {
        let headers = request.headers();
        let authorization = text(headers, header::AUTHORIZATION.as_str())
            .and_then(Authorization::parse)
            .ok_or(SignatureError::Missing)?;
        let date = text(headers, "x-amz-date").ok_or(SignatureError::Missing)?;
        let payload = text(headers, "x-amz-content-sha256").ok_or(SignatureError::Missing)?;
        let day = date.split('T').next().unwrap_or_default();
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        if authorization.credential != format!("{}/{scope}", self.access_key_id) {
            return Err(SignatureError::Scope);
        }
        // What may be left out of a signature is nothing that the store acts on.
        if !["host", "x-amz-date", "x-amz-content-sha256"]
            .iter()
            .all(|name| authorization.signed_headers.split(';').any(|signed| signed == *name))
        {
            return Err(SignatureError::Missing);
        }
        let signed_at = DateTime::strptime("%Y%m%dT%H%M%SZ", date)
            .and_then(|time| Offset::UTC.to_timestamp(time))
            .map_err(|_| SignatureError::Missing)?;
        if (now.as_second() - signed_at.as_second()).abs() > MAX_SKEW {
            return Err(SignatureError::Skew);
        }
        if payload != "UNSIGNED-PAYLOAD" && payload != sha256(request.body().as_ref()) {
            return Err(SignatureError::Payload);
        }
        let canonical = canonical_request(request, authorization.signed_headers, payload)?;
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let key = ["s3", "aws4_request"].iter().fold(
            mac(mac(format!("AWS4{}", self.secret).as_bytes(), day).as_ref(), &self.region),
            |key, part| mac(key.as_ref(), part),
        );
        let expected = hex(mac(key.as_ref(), &to_sign).as_ref());
        constant_time::verify_slices_are_equal(expected.as_bytes(), authorization.signature.as_bytes())
            .map_err(|_| SignatureError::Mismatch)
    }
}

/// The canonical request of the specification; S3 takes the path as it came, without encoding it again.
fn canonical_request<B>(
    request: &Request<B>,
    signed_headers: &str,
    payload: &str,
) -> Result<String, SignatureError> {
    let mut pairs: Vec<String> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") })
        .collect();
    pairs.sort();
    let mut canonical = format!("{}\n{}\n{}\n", request.method(), request.uri().path(), pairs.join("&"));
    for name in signed_headers.split(';') {
        let value = text(request.headers(), name).ok_or(SignatureError::Missing)?;
        let value: Vec<&str> = value.split_whitespace().collect();
        canonical.push_str(&format!("{name}:{}\n", value.join(" ")));
    }
    canonical.push_str(&format!("\n{signed_headers}\n{payload}"));
    Ok(canonical)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use aws_credential_types::Credentials;
    use aws_sigv4::http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    };
    use aws_sigv4::sign::v4;
    use bytes::Bytes;

    use super::*;

    pub(crate) fn key() -> SigningKey {
        SigningKey { access_key_id: "DEMO".into(), secret: "s3cret".into(), region: "eu-demo-1".into() }
    }

    /// Signs with the official signer.
    pub(crate) fn signed(key: &SigningKey, mut request: Request<Bytes>, at: Timestamp) -> Request<Bytes> {
        let host = "store.test";
        request.headers_mut().insert("host", host.parse().unwrap());
        let identity =
            Credentials::new(key.access_key_id.clone(), key.secret.clone(), None, None, "test").into();
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&key.region)
            .name("s3")
            .time(UNIX_EPOCH + Duration::from_secs(u64::try_from(at.as_second()).unwrap()))
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let url = format!("http://{host}{}", request.uri());
        let headers: Vec<(String, String)> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        let (instructions, _) = {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let signable = SignableRequest::new(
                request.method().as_str(),
                url,
                headers,
                SignableBody::Bytes(request.body()),
            )
            .unwrap();
            sign(signable, &params).unwrap().into_parts()
        };
        for (name, value) in instructions.headers() {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        request
    }

    fn put() -> Request<Bytes> {
        Request::put("/bucket/a%20b/c?x-id=PutObject&flag")
            .header("content-type", "text/plain")
            .body(Bytes::from_static(b"hello"))
            .unwrap()
    }

    #[test]
    fn what_the_official_signer_signs_verifies() {
        let now = Timestamp::now();
        assert_eq!(key().verify(&signed(&key(), put(), now), now), Ok(()));
    }

    #[test]
    fn anything_else_does_not() {
        let now = Timestamp::now();
        let good = || signed(&key(), put(), now);
        assert_eq!(key().verify(&put(), now), Err(SignatureError::Missing));
        let later = now + jiff::Span::new().minutes(20);
        assert_eq!(key().verify(&good(), later), Err(SignatureError::Skew));
        let other = SigningKey { access_key_id: "OTHER".into(), ..key() };
        assert_eq!(other.verify(&good(), now), Err(SignatureError::Scope));
        let other = SigningKey { secret: "guess".into(), ..key() };
        assert_eq!(other.verify(&good(), now), Err(SignatureError::Mismatch));
        let mut body = good();
        *body.body_mut() = Bytes::from_static(b"jello");
        assert_eq!(key().verify(&body, now), Err(SignatureError::Payload));
        let mut path = good();
        *path.uri_mut() = "/bucket/other?x-id=PutObject&flag".parse().unwrap();
        assert_eq!(key().verify(&path, now), Err(SignatureError::Mismatch));
    }
}
