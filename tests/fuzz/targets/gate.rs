//! Raw HTTP/1 bytes to the scan of heads, and what passes it to the gate.
//!
//! However the bytes are cut, the verdict and what is passed on are the same; what is passed on is what came; and a target that the gate takes
//! goes on byte for byte, with a decoded path that no server reads as another.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body_util::Empty;
use tidegate::listen::{HeadLimits, Refusal, Scanner};
use tidegate::message::{Connection, GateSettings, Protocol, gate};

use super::in_pieces;

const LIMITS: HeadLimits = HeadLimits { bytes: 2048, fields: 20 };

pub(crate) fn read(input: &[u8]) {
    let Some((size, raw)) = in_pieces(input) else { return };
    let whole = scan(raw, raw.len().max(1));
    assert_eq!(whole, scan(raw, size), "the verdict depends on how the bytes are cut");
    let (passed, heads, _) = whole;
    assert!(came(raw, &passed), "what is passed on is not what came");
    if heads > 0 {
        pass_the_gate(&passed);
    }
}

fn scan(raw: &[u8], size: usize) -> (Vec<u8>, u64, Option<Refusal>) {
    let (mut scanner, mut passed) = (Scanner::new(LIMITS), Vec::new());
    for piece in raw.chunks(size) {
        scanner.feed(piece);
        passed.extend_from_slice(scanner.ready());
        scanner.consume(scanner.ready().len());
    }
    (passed, scanner.heads(), scanner.refused())
}

/// Whether `passed` is the beginning of `raw`, but for one empty line before a request line, which is left out (RFC 9112 section 2.2).
fn came(mut raw: &[u8], passed: &[u8]) -> bool {
    passed.iter().enumerate().all(|(at, byte)| {
        if raw.first() != Some(byte)
            && raw.starts_with(b"\r\n")
            && begins_a_request(passed.get(at..).unwrap_or_default())
        {
            raw = raw.get(2..).unwrap_or_default();
        }
        let same = raw.first() == Some(byte);
        raw = raw.get(1..).unwrap_or_default();
        same
    })
}

/// Whether the first line is a request line.
fn begins_a_request(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.ends_with(b" HTTP/1.1\r") || line.ends_with(b" HTTP/1.0\r")
}

/// What of a target goes on: of the absolute form what follows the authority, where an empty path is `/` (RFC 9110 section 4.2.3).
fn origin_form(target: &str) -> String {
    let Some((_, rest)) = target.split_once("://").filter(|_| !target.starts_with('/')) else {
        return target.to_owned();
    };
    let path = rest.find(['/', '?']).and_then(|start| rest.get(start..)).unwrap_or_default();
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// The first head, read by rules of our own, to the gate.
fn pass_the_gate(passed: &[u8]) {
    let Some(end) = passed.windows(4).position(|four| four == b"\r\n\r\n") else { return };
    let text = String::from_utf8_lossy(&passed[..end]);
    let mut lines = text.trim_start_matches("\r\n").split("\r\n");
    let first: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = first[..] else { return };
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            panic!("a line without a colon passed: {line:?}")
        };
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value.trim())) else {
            return;
        };
        headers.append(name, value);
    }
    let (Ok(uri), Ok(method)) = (target.parse::<Uri>(), method.parse::<Method>()) else { return };
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = uri;
    *request.method_mut() = method;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let connection = Connection {
        peer: address,
        local: address,
        server_name: None,
        protocol: Protocol::Http1,
        tls: None,
        client: None,
    };
    let Ok(inbound) = gate(&connection, request, &GateSettings::default()) else { return };
    let (path, sent) = (inbound.target.path(), inbound.target.path_and_query());
    assert_eq!(sent, origin_form(target), "of {target:?}");
    assert!(path.starts_with('/'), "{path:?}");
    let doubtful = |segment: &str| segment == "." || segment == "..";
    assert!(!path.contains("//") && !path.split('/').any(doubtful) && !path.contains('\0'), "{path:?}");
    assert_eq!(inbound.target.host(), inbound.target.host().to_ascii_lowercase());
    for name in inbound.headers.keys() {
        let hop = [
            "connection",
            "transfer-encoding",
            "upgrade",
            "keep-alive",
            "te",
            "trailer",
            "authorization",
            "host",
        ];
        assert!(!hop.contains(&name.as_str()), "`{name}` would go on");
    }
}
