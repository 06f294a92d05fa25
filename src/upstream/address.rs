//! The address of an endpoint: scheme, host and port, and nothing else, for path and query are the request's.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::uri::{Authority, Scheme, Uri};

/// A text that is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// Not a URL at all.
    #[error("`{0}` is no URL of an endpoint")]
    NotUrl(String),
    /// Neither `https` nor `http`.
    #[error("`{0}` has a scheme that is not supported")]
    Scheme(String),
    /// It holds a path, query, fragment or user: these never come from an endpoint.
    #[error("`{0}` says more than scheme, host and port")]
    TooMuch(String),
}

impl InvalidAddress {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::NotUrl(_) => "write for example `https://gpu.example.com:8443`",
            Self::Scheme(_) => "use `https`, or `http` to a loopback address",
            Self::TooMuch(_) => "leave out path, query, fragment and user: the request has its own",
        }
    }
}

/// Where an endpoint is. `Display` is the canonical form: lower case, without a default port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    scheme: Scheme,
    authority: Authority,
    loopback: bool,
}

impl Address {
    /// `https` or `http`.
    pub(crate) const fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Host and port; the port only if it is not the scheme's own. The value of `Host`.
    pub(crate) const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The host: a name, or an address, a version 6 one in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority.host()
    }

    /// The port, also where it is the scheme's own.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    /// Whether bytes to it travel in TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// Whether the URL itself says that this very machine is meant: `localhost`, `127.0.0.0/8`, `[::1]`.
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// Whether bytes leave this machine unencrypted.
    #[must_use]
    pub fn is_plaintext_remote(&self) -> bool {
        !self.is_tls() && !self.loopback
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let shown = || text.chars().take(200).collect::<String>();
        let uri: Uri = text.parse().map_err(|_| InvalidAddress::NotUrl(shown()))?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(InvalidAddress::NotUrl(shown()));
        };
        if *scheme != Scheme::HTTPS && *scheme != Scheme::HTTP {
            return Err(InvalidAddress::Scheme(shown()));
        }
        if authority.as_str().contains('@') {
            // The text may hold a password: it is not repeated.
            return Err(InvalidAddress::TooMuch(format!("{scheme}://{}", authority.host())));
        }
        if uri.path() != "/" || uri.query().is_some() || text.contains('#') {
            return Err(InvalidAddress::TooMuch(shown()));
        }
        let host = authority.host().to_ascii_lowercase();
        let usual = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        // `Authority::port` hides a port that is none.
        let canonical = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => host.clone(),
            Some(tail) => match tail.strip_prefix(':').and_then(port) {
                None | Some(0) => return Err(InvalidAddress::NotUrl(shown())),
                Some(port) if port == usual => host.clone(),
                Some(port) => format!("{host}:{port}"),
            },
            None => return Err(InvalidAddress::NotUrl(shown())),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if bare.is_empty() {
            return Err(InvalidAddress::NotUrl(shown()));
        }
        let loopback = bare == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        let authority = canonical.parse().map_err(|_| InvalidAddress::NotUrl(shown()))?;
        Ok(Self { scheme: scheme.clone(), authority, loopback })
    }
}

/// A port in digits; `u16` itself would take `+80`.
fn port(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, canonical, loopback) in [
            ("https://GPU.example.com", "https://gpu.example.com", false),
            ("https://gpu.example.com:443/", "https://gpu.example.com", false),
            ("https://gpu.example.com:8443", "https://gpu.example.com:8443", false),
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000", true),
            ("http://[::1]:80", "http://[::1]", true),
            ("http://localhost:1", "http://localhost:1", true),
            ("http://10.1.2.3:8000", "http://10.1.2.3:8000", false),
            ("http://localhost.example.com", "http://localhost.example.com", false),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(
                (address.to_string().as_str(), address.is_loopback()),
                (canonical, loopback),
                "{text}"
            );
        }
    }

    #[test]
    fn only_scheme_host_and_port() {
        for text in [
            "",
            "gpu.example.com",
            "//gpu.example.com",
            "ftp://gpu.example.com",
            "https://",
            "https://gpu.example.com/v1",
            "https://gpu.example.com?a=b",
            "https://gpu.example.com#a",
            "https://user:secret@gpu.example.com",
            "https://gpu.example.com:0",
            "https://gpu.example.com:99999",
            "https://gpu.example.com:",
            "https://gpu.example.com:+80",
            "https://gpu example.com",
        ] {
            let error = text.parse::<Address>().expect_err(text);
            assert!(!error.to_string().contains("secret"));
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_back(text in "https?://[a-zA-Z0-9.\\-\\[\\]:@/#?]{0,20}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            }
        }
    }
}
