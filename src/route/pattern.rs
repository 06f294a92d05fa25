//! Host and path patterns of routes: what they may look like, and what they match.

use std::fmt;

use crate::message::target::canonical_host;

/// The longest path pattern, in bytes.
const MAX_PATH_BYTES: usize = 1024;

/// The hosts that a route serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// This host, lower case, without a port.
    Exact(String),
    /// Any host.
    Any,
}

/// A host or path pattern that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// Neither `*` nor a host.
    #[error("`{0}` is neither `*` nor a host name or address without a port")]
    Host(String),
    /// Not a path.
    #[error(
        "`{0}` is not a path: it must start with `/` and have no empty or dot segments, escapes, `?`, `#`, `;` or `\\`"
    )]
    Path(String),
    /// `*` somewhere else than as the last segment.
    #[error("`{0}` has a `*` that is not the whole last segment: only `/x/*` is a prefix")]
    Star(String),
}

impl HostPattern {
    /// Reads a host or `*`.
    ///
    /// # Errors
    /// The text is neither.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        if text == "*" {
            return Ok(Self::Any);
        }
        canonical_host(text).map(Self::Exact).ok_or_else(|| InvalidPattern::Host(text.to_owned()))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact(host) => host,
            Self::Any => "*",
        })
    }
}

/// The decoded paths that a route serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathPattern {
    /// This path.
    Exact(String),
    /// All paths that start with this, which ends in `/`.
    Prefix(String),
}

impl PathPattern {
    /// Reads `/exact/path` or `/prefix/*`.
    ///
    /// # Errors
    /// The text is neither, or a path that the gate would refuse.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let (path, prefix) = match text.strip_suffix('*') {
            Some(path) if path.ends_with('/') => (path, true),
            Some(_) => return Err(InvalidPattern::Star(text.to_owned())),
            None => (text, false),
        };
        if path.contains('*') {
            return Err(InvalidPattern::Star(text.to_owned()));
        }
        let inside = path.strip_prefix('/').unwrap_or("//");
        let inside = inside.strip_suffix('/').filter(|inside| !inside.is_empty()).unwrap_or(inside);
        let segment = |s: &str| !s.is_empty() && s != "." && s != "..";
        let odd = |c: char| c.is_control() || c.is_whitespace() || "%?#;\\".contains(c);
        let segments_ok = inside.is_empty() || inside.split('/').all(segment);
        if !segments_ok || path.chars().any(odd) || path.len() > MAX_PATH_BYTES {
            return Err(InvalidPattern::Path(text.to_owned()));
        }
        Ok(if prefix { Self::Prefix(path.to_owned()) } else { Self::Exact(path.to_owned()) })
    }

    /// How many segments stand before the `*`; none for an exact path.
    #[must_use]
    pub fn prefix_segments(&self) -> Option<usize> {
        match self {
            Self::Exact(_) => None,
            Self::Prefix(prefix) => Some(prefix.matches('/').count().saturating_sub(1)),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_are_none_are_refused() {
        for text in ["/", "/a", "/a/", "/a/b.c", "/*", "/a/*", "/v1/chat/completions"] {
            assert_eq!(PathPattern::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "", "a", "*", "//", "/a//b", "//*", "/a/../b", "/./", "/a*", "/*/a", "/a/**", "/a%20", "/a?b",
            "/a;b", "/a b",
        ] {
            assert!(PathPattern::parse(text).is_err(), "{text}");
        }
        for text in ["", "a:1", "*.a", "a b", "https://a"] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
        assert_eq!(HostPattern::parse("A.test"), Ok(HostPattern::Exact("a.test".into())));
    }

    #[test]
    fn prefixes_count_their_segments() {
        let segments = |text| PathPattern::parse(text).unwrap().prefix_segments();
        assert_eq!(segments("/*"), Some(0));
        assert_eq!(segments("/lake/*"), Some(1));
        assert_eq!(segments("/a/b/*"), Some(2));
        assert_eq!(segments("/a"), None);
    }
}
