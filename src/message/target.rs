//! The one canonical reading of host, path and query. Router, policy, record and upstream all use this one.
//!
//! Nothing is repaired: a target that two servers could read differently is refused, so decoding is the identity of meaning.
//!
//! - **Path.** Raw bytes must be RFC 3986 `pchar` or `/`. Refused: empty segments other than a last one, `.` and `..` segments
//!   (also before a `;`), raw `\` and `;` (path parameters), escapes of `.`, `/`, `\` and control characters, broken escapes, what is
//!   not UTF-8 or holds a control character after decoding, and what still holds a percent escape after decoding
//!   (`%252e`): an upstream that decodes twice would see another path. A lone `%25` (`100%25`) is accepted.
//! - **Query.** Split once as `application/x-www-form-urlencoded` (WHATWG): `&` separates, the first `=` ends the name, `+` is a space.
//!   Go, Python and Node upstreams read it so. A raw `;` is refused since old servers split there, so are broken escapes and NUL.
//!   OpenAI and plain upstreams get the raw bytes; an S3 store gets the pairs encoded anew, a space as `%20`.
//! - **Host.** Exactly one; a name of letters, digits, `-`, `_` and dots, or an IP literal, with an optional port. Lower case.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Uri, header};

use super::GateError;

/// The most pairs of a query.
pub const MAX_QUERY_PAIRS: usize = 100;

/// The longest host name (RFC 1035 2.3.4), in bytes.
const MAX_HOST_BYTES: usize = 253;

/// Host, path and query of a request, read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    authority: Authority,
    path_and_query: PathAndQuery,
    /// The decoded path, where it differs from the raw one.
    decoded: Option<String>,
    query: Vec<(String, String)>,
}

impl Target {
    /// Reads the target of a request from its URI and `Host` header.
    ///
    /// # Errors
    /// The target or the host is missing, ambiguous, malformed, or longer than `max_bytes`.
    pub fn parse(uri: &Uri, headers: &HeaderMap, max_bytes: usize) -> Result<Self, GateError> {
        let path_and_query = uri.path_and_query().ok_or(GateError::TargetForm)?;
        let authority_bytes = uri.authority().map_or(0, |a| a.as_str().len());
        if path_and_query.as_str().len().saturating_add(authority_bytes) > max_bytes {
            return Err(GateError::UriTooLong { limit: max_bytes });
        }
        if !path_and_query.as_str().starts_with('/') {
            return Err(GateError::TargetForm);
        }
        let authority = authority(uri, headers)?;
        let decoded = decode_path(path_and_query.path())?;
        let query = path_and_query.query().map_or(Ok(Vec::new()), decode_query)?;
        Ok(Self { authority, path_and_query: path_and_query.clone(), decoded, query })
    }

    /// The host without its port, lower case; an IPv6 address in brackets, in its canonical text form.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.authority.host
    }

    /// The port that the client named, if any.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.authority.port
    }

    /// The decoded path: what router and policy see.
    #[must_use]
    pub fn path(&self) -> &str {
        self.decoded.as_deref().unwrap_or_else(|| self.raw_path())
    }

    /// The path as the client sent it.
    #[must_use]
    pub fn raw_path(&self) -> &str {
        self.path_and_query.path()
    }

    /// The query as the client sent it, without `?`.
    #[must_use]
    pub fn raw_query(&self) -> Option<&str> {
        self.path_and_query.query()
    }

    /// The decoded pairs of the query, in order. At most [`MAX_QUERY_PAIRS`].
    #[must_use]
    pub fn query(&self) -> &[(String, String)] {
        &self.query
    }

    /// Path and query as the client sent them: the exact bytes to forward.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        self.path_and_query.as_str()
    }

    /// Path and query to forward, without the first `segments` segments of the path; none if the path has no more than those.
    /// Segments are the same before and after decoding, since an escaped `/` is refused.
    #[must_use]
    pub fn forward(&self, segments: usize) -> Option<PathAndQuery> {
        if segments == 0 {
            return Some(self.path_and_query.clone());
        }
        let rest = skip_segments(self.path_and_query.as_str(), segments, self.raw_path().len())?;
        PathAndQuery::try_from(rest).ok()
    }

    /// The decoded path without its first `segments` segments.
    #[must_use]
    pub fn path_after(&self, segments: usize) -> Option<&str> {
        skip_segments(self.path(), segments, self.path().len())
    }
}

/// `/a/b/c` without 1 segment is `/b/c`; slashes from `end` on do not count.
fn skip_segments(text: &str, segments: usize, end: usize) -> Option<&str> {
    let slash = text.match_indices('/').map(|(at, _)| at).filter(|at| *at < end).nth(segments)?;
    text.get(slash..)
}

/// A host and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Authority {
    host: String,
    port: Option<u16>,
}

/// The one host of a request: of the target (absolute form, `:authority`), the `Host` header, or both if they agree.
fn authority(uri: &Uri, headers: &HeaderMap) -> Result<Authority, GateError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (None, _) => None,
        (Some(one), None) => Some(parse_authority(one.to_str().map_err(|_| GateError::HostInvalid)?)?),
        (Some(_), Some(_)) => return Err(GateError::HostAmbiguous),
    };
    let default_port = match uri.scheme() {
        None => None,
        Some(scheme) if *scheme == Scheme::HTTPS => Some(443),
        Some(scheme) if *scheme == Scheme::HTTP => Some(80),
        Some(_) => return Err(GateError::TargetForm),
    };
    let target = uri.authority().map(|authority| parse_authority(authority.as_str())).transpose()?;
    match (target, header) {
        (None, None) => Err(GateError::HostMissing),
        (Some(one), None) | (None, Some(one)) => Ok(one),
        (Some(target), Some(header)) => {
            let port = |authority: &Authority| authority.port.or(default_port);
            if target.host == header.host && port(&target) == port(&header) {
                Ok(target)
            } else {
                Err(GateError::HostAmbiguous)
            }
        }
    }
}

/// The canonical form of a host without a port, as [`Target::host`] gives it; none if it is no host.
#[must_use]
pub fn canonical_host(text: &str) -> Option<String> {
    parse_authority(text).ok().filter(|authority| authority.port.is_none()).map(|authority| authority.host)
}

/// `host [":" port]` of RFC 3986 3.2.2, without user information, percent escapes, empty labels or a zone.
fn parse_authority(text: &str) -> Result<Authority, GateError> {
    if text.is_empty() {
        return Err(GateError::HostMissing);
    }
    let (host, rest) = if let Some(literal) = text.strip_prefix('[') {
        let (address, rest) = literal.split_once(']').ok_or(GateError::HostInvalid)?;
        let address: Ipv6Addr = address.parse().map_err(|_| GateError::HostInvalid)?;
        (format!("[{address}]"), rest)
    } else {
        let end = text.find(':').unwrap_or(text.len());
        let (name, rest) = text.split_at_checked(end).ok_or(GateError::HostInvalid)?;
        (host_name(name).ok_or(GateError::HostInvalid)?, rest)
    };
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        None => return Err(GateError::HostInvalid),
        Some(digits) => Some(parse_port(digits).ok_or(GateError::HostInvalid)?),
    };
    Ok(Authority { host, port })
}

fn host_name(name: &str) -> Option<String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    (name.len() <= MAX_HOST_BYTES && name.split('.').all(label)).then(|| name.to_ascii_lowercase())
}

fn parse_port(digits: &str) -> Option<u16> {
    let plain = (1..=5).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten().filter(|port| *port != 0)
}

/// The decoded path, or none if it has no escape.
fn decode_path(raw: &str) -> Result<Option<String>, GateError> {
    for byte in raw.bytes() {
        match byte {
            b'\\' | b';' => return Err(GateError::PathAmbiguous),
            b'/' | b'%' => {}
            _ if is_pchar(byte) => {}
            _ => return Err(GateError::PathEncoding),
        }
    }
    let decoded = if raw.contains('%') { Some(unescape_path(raw)?) } else { None };
    let path = decoded.as_deref().unwrap_or(raw);
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let name = segment.split(';').next().unwrap_or_default();
        let empty_inside = segment.is_empty() && segments.peek().is_some();
        if empty_inside || name == "." || name == ".." {
            return Err(GateError::PathAmbiguous);
        }
    }
    Ok(decoded)
}

fn unescape_path(raw: &str) -> Result<String, GateError> {
    let escaped_meaning = |byte: u8| matches!(byte, b'.' | b'/' | b'\\' | 0..=0x1f | 0x7f);
    let bytes = unescape(raw.as_bytes(), escaped_meaning).ok_or(GateError::PathEncoding)?;
    let text = String::from_utf8(bytes).map_err(|_| GateError::PathEncoding)?;
    let doubled = text.as_bytes().windows(3).any(|w| matches!(w, [b'%', h, l] if is_hex(*h) && is_hex(*l)));
    if doubled || text.chars().any(char::is_control) {
        return Err(GateError::PathEncoding);
    }
    Ok(text)
}

fn decode_query(raw: &str) -> Result<Vec<(String, String)>, GateError> {
    for byte in raw.bytes() {
        match byte {
            b';' => return Err(GateError::QueryAmbiguous),
            0x21..=0x7e => {}
            _ => return Err(GateError::QueryEncoding),
        }
    }
    let mut pairs = Vec::new();
    for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
        if pairs.len() == MAX_QUERY_PAIRS {
            return Err(GateError::QueryTooManyPairs);
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.push((unescape_query(name)?, unescape_query(value)?));
    }
    Ok(pairs)
}

fn unescape_query(raw: &str) -> Result<String, GateError> {
    let spaced = if raw.contains('+') { Cow::Owned(raw.replace('+', " ")) } else { Cow::Borrowed(raw) };
    if !spaced.contains('%') {
        return Ok(spaced.into_owned());
    }
    let bytes = unescape(spaced.as_bytes(), |byte| byte == 0).ok_or(GateError::QueryEncoding)?;
    String::from_utf8(bytes).map_err(|_| GateError::QueryEncoding)
}

/// Undoes percent escapes once; none for a broken escape or one whose byte is `forbidden`.
fn unescape(raw: &[u8], forbidden: impl Fn(u8) -> bool) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw.iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let byte = hex(*rest.next()?)? << 4 | hex(*rest.next()?)?;
        if forbidden(byte) {
            return None;
        }
        decoded.push(byte);
    }
    Some(decoded)
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

const fn is_hex(digit: u8) -> bool {
    digit.is_ascii_hexdigit()
}

/// `pchar` of RFC 3986 3.3 without `%` and `;`.
const fn is_pchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b'='
                | b':'
                | b'@'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(uri: &str) -> Result<Target, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "example.test".parse().unwrap());
        Target::parse(&uri.parse().unwrap(), &headers, 8192).map_err(|e| e.code())
    }

    #[test]
    fn segments_are_cut_alike_before_and_after_decoding() {
        let target = target("/%6cake/b/k%20y?x=/1/").unwrap();
        assert_eq!(target.path(), "/lake/b/k y");
        assert_eq!(target.path_after(1), Some("/b/k y"));
        assert_eq!(target.forward(1).unwrap(), "/b/k%20y?x=/1/");
        assert_eq!(target.forward(2).unwrap(), "/k%20y?x=/1/");
        assert_eq!(target.forward(3), None);
        assert_eq!(target.path_after(3), None);
    }

    #[test]
    fn queries_are_split_once() {
        let query = |raw: &str| target(&format!("/?{raw}")).map(|t| t.query().to_vec());
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(query("a=1&&b&c=x=y+z%2B").unwrap(), [pair("a", "1"), pair("b", ""), pair("c", "x=y z+")]);
        assert_eq!(query("a%3d=%26"), Ok(vec![pair("a=", "&")]));
        assert_eq!(query(""), Ok(vec![]));
        for (raw, code) in [
            ("a;b", "query_ambiguous"),
            ("a=%", "query_encoding"),
            ("a=%0", "query_encoding"),
            ("a=%zz", "query_encoding"),
            ("a=%00", "query_encoding"),
            ("a=%ff", "query_encoding"),
        ] {
            assert_eq!(query(raw), Err(code), "{raw}");
        }
        assert!(query(&"a&".repeat(100)).is_ok());
        assert_eq!(query(&"a&".repeat(101)), Err("query_too_many_pairs"));
    }

    #[test]
    fn hosts_have_one_form() {
        assert_eq!(canonical_host("API.Example.test").as_deref(), Some("api.example.test"));
        assert_eq!(canonical_host("[0:0::0001]").as_deref(), Some("[::1]"));
        assert_eq!(canonical_host("127.0.0.1").as_deref(), Some("127.0.0.1"));
        for text in
            ["", "a..b", "a.", ".a", "a:1", "a b", "[::1", "[fe80::1%25lo]", "[v1.x]", "u@a", "a/b", "a%41"]
        {
            assert_eq!(canonical_host(text), None, "{text}");
        }
    }
}
