//! The file of headers that a collector wants, commonly its token: one `name: value` a line.

use std::path::Path;

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::model::{Secret, SecretFileError};

/// Most headers of a file.
const MAX_HEADERS: usize = 32;
/// Headers that are ours to set.
const OURS: [HeaderName; 5] = [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING, HOST, TRANSFER_ENCODING];

/// A file of headers that cannot be used. Never says what a value is.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeadersError {
    #[error(transparent)]
    File(#[from] SecretFileError),
    #[error("the file of headers is no UTF-8")]
    Text,
    #[error("line {0} of the file of headers is no `name: value`")]
    Line(usize),
    #[error("line {0} of the file of headers sets a header that the exporter sets itself")]
    Ours(usize),
    #[error("the file of headers has more than {MAX_HEADERS} of them")]
    Many,
}

impl HeadersError {
    /// What to do.
    pub(super) const fn hint(&self) -> &'static str {
        match self {
            Self::File(error) => error.hint(),
            Self::Text | Self::Line(_) => "write for example `authorization: Bearer TOKEN`, one a line",
            Self::Ours(_) => "remove it",
            Self::Many => "remove some",
        }
    }
}

/// Reads a file of headers, which only its owner may read.
///
/// # Errors
/// It cannot be read, is open to others, or has a line that is no header.
pub(super) fn load(path: &Path) -> Result<HeaderMap, HeadersError> {
    let secret = Secret::read(path)?;
    parse(std::str::from_utf8(secret.expose()).map_err(|_| HeadersError::Text)?)
}

/// Empty lines and those that begin with `#` say nothing.
fn parse(text: &str) -> Result<HeaderMap, HeadersError> {
    let mut headers = HeaderMap::new();
    for (index, line) in text.lines().enumerate() {
        let (number, line) = (index.saturating_add(1), line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once(':').ok_or(HeadersError::Line(number))?;
        let name: HeaderName = name.trim().parse().map_err(|_| HeadersError::Line(number))?;
        let mut value: HeaderValue = value.trim().parse().map_err(|_| HeadersError::Line(number))?;
        if OURS.contains(&name) {
            return Err(HeadersError::Ours(number));
        }
        value.set_sensitive(true);
        headers.append(name, value);
        if headers.len() > MAX_HEADERS {
            return Err(HeadersError::Many);
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_are_read_and_mistakes_named_without_the_secret() {
        let headers =
            parse("# of the collector\nauthorization: Bearer s3cret\n\nX-Scope-OrgID:acme\n").unwrap();
        assert_eq!(headers["authorization"], "Bearer s3cret");
        assert_eq!(headers["x-scope-orgid"], "acme");
        assert!(!format!("{headers:?}").contains("s3cret"));
        for (text, says) in [
            ("a: b\ns3cret", "line 2"),
            ("a b: s3cret", "line 1"),
            ("a: s3cret\u{7f}", "line 1"),
            ("Content-Type: text/s3cret", "sets itself"),
            ("host: s3cret", "sets itself"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("s3cret"), "{error}");
        }
        assert!(parse(&"a: b\n".repeat(33)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,200}|[a-z:\n #]{0,200}") {
            if let Ok(headers) = parse(&text) {
                prop_assert!(headers.len() <= MAX_HEADERS);
            }
        }
    }
}
