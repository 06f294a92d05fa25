//! Which addresses may be dialled: the rules against server-side request forgery, tested at the moment of dialling.
//!
//! A host name that resolves to the inside of a network reaches it only if the operator listed that network; metadata services are out of reach whatever
//! is configured. Nothing here resolves or dials.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use http::uri::Scheme;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A host as it stands in a URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name, lower case.
    Name(Box<str>),
    /// A literal address.
    Literal(IpAddr),
}

impl Host {
    /// Reads a host as it stands in a URL, with brackets around IPv6.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        bare.parse().map_or_else(|_| Self::Name(text.to_ascii_lowercase().into()), Self::Literal)
    }

    /// Whether it says in itself that it stays on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name.as_ref() == "localhost",
            Self::Literal(ip) => ip.to_canonical().is_loopback(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Literal(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Literal(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// Scheme, host and port: what one connector reaches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Whether TLS is spoken.
    pub secure: bool,
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

impl Origin {
    /// The origin of an absolute `http` or `https` URL.
    ///
    /// # Errors
    /// It is not absolute, has another scheme, or names a user.
    pub fn of(uri: &Uri) -> Result<Self, OriginError> {
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(OriginError::Scheme),
        };
        let authority = uri.authority().ok_or(OriginError::Host)?;
        if authority.as_str().contains('@') {
            return Err(OriginError::User);
        }
        if authority.host().is_empty() {
            return Err(OriginError::Host);
        }
        // `Authority::port` is silent about a port that it cannot read.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") if secure => 443,
            Some("") => 80,
            Some(rest) => {
                let digits =
                    rest.strip_prefix(':').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
                digits.and_then(|digits| digits.parse().ok()).ok_or(OriginError::Port)?
            }
            None => return Err(OriginError::Host),
        };
        Ok(Self { secure, host: Host::new(authority.host()), port })
    }

    /// As [`Origin::of`], from text.
    ///
    /// # Errors
    /// As [`Origin::of`], and if it is no URL.
    pub fn parse(url: &str) -> Result<Self, OriginError> {
        Self::of(&url.parse().map_err(|_| OriginError::Malformed)?)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.secure { "https" } else { "http" }, self.host, self.port)
    }
}

/// A URL that has no origin we reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// Not a URL.
    #[error("url is malformed")]
    Malformed,
    /// Neither `http` nor `https`.
    #[error("url must begin with `https://` or `http://`")]
    Scheme,
    /// No host.
    #[error("url has no host")]
    Host,
    /// A port that is no number up to 65535.
    #[error("url has a malformed port")]
    Port,
    /// A user or password.
    #[error("url must not hold a user name")]
    User,
}

/// The networks that may be reached besides the public internet.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    networks: Vec<IpNet>,
}

impl Reach {
    /// The public internet and these networks.
    #[must_use]
    pub const fn new(networks: Vec<IpNet>) -> Self {
        Self { networks }
    }

    /// Whether `ip`, to which the configured `host` resolved, may be dialled. Gives the address in the form that was judged.
    ///
    /// # Errors
    /// The address is never dialled, or not for this host.
    pub fn check(&self, host: &Host, ip: IpAddr) -> Result<IpAddr, AddressError> {
        let ip = ip.to_canonical();
        if [Some(ip), embedded(ip)].into_iter().flatten().any(is_never_dialled) {
            return Err(AddressError::Never(ip));
        }
        let named = match host {
            Host::Literal(literal) => literal.to_canonical() == ip,
            Host::Name(_) => host.is_loopback() && ip.is_loopback(),
        };
        if named || self.networks.iter().any(|network| network.contains(&ip)) || is_global(ip) {
            Ok(ip)
        } else {
            Err(AddressError::NotAllowed(ip))
        }
    }
}

/// An address that may not be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Link-local, unspecified, multicast, broadcast, or a metadata service.
    #[error("address `{0}` is never dialled")]
    Never(IpAddr),
    /// Not public, and in no allowed network.
    #[error("address `{0}` is not public and in none of `allow_networks`")]
    NotAllowed(IpAddr),
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// Out of reach whatever the configuration says.
const NEVER_V4: &[Ipv4Net] = &[
    v4(0, 0, 0, 0, 8),
    // Link-local, with the metadata services of most clouds.
    v4(169, 254, 0, 0, 16),
    v4(224, 0, 0, 0, 4),
    v4(255, 255, 255, 255, 32),
    // Metadata services elsewhere: Alibaba, Azure, Oracle.
    v4(100, 100, 100, 200, 32),
    v4(168, 63, 129, 16, 32),
    v4(192, 0, 0, 192, 32),
];
const NEVER_V6: &[Ipv6Net] = &[
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128),
    v6(0xfe80, 0, 0, 10),
    v6(0xff00, 0, 0, 8),
    // Metadata services: AWS, Google.
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
];

/// Not globally reachable by the IANA special-purpose registry (RFC 6890 and later).
const SPECIAL_V4: &[Ipv4Net] = &[
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
];
/// Within 2000::/3, the only global unicast space: protocol assignments with Teredo, documentation, 6to4.
const SPECIAL_V6: &[Ipv6Net] =
    &[v6(0x2001, 0, 0, 23), v6(0x2001, 0xdb8, 0, 32), v6(0x2002, 0, 0, 16), v6(0x3fff, 0, 0, 20)];
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 0, 3);
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 96);
const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 0, 16);

fn is_never_dialled(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => NEVER_V4.iter().any(|network| network.contains(&ip)),
        IpAddr::V6(ip) => NEVER_V6.iter().any(|network| network.contains(&ip)),
    }
}

fn is_global(ip: IpAddr) -> bool {
    match (ip, embedded(ip)) {
        (IpAddr::V4(ip), _) => !SPECIAL_V4.iter().any(|network| network.contains(&ip)),
        (IpAddr::V6(ip), Some(inner)) if NAT64.contains(&ip) => is_global(inner),
        (IpAddr::V6(ip), _) => {
            GLOBAL_V6.contains(&ip) && !SPECIAL_V6.iter().any(|network| network.contains(&ip))
        }
    }
}

/// The IPv4 address that a translating or compatible IPv6 address stands for.
fn embedded(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(ip) = ip else { return None };
    let [.., a, b, c, d] = ip.octets();
    let [_, _, e, f, g, h, ..] = ip.octets();
    if NAT64.contains(&ip) {
        Some(Ipv4Addr::new(a, b, c, d).into())
    } else if SIX_TO_FOUR.contains(&ip) {
        Some(Ipv4Addr::new(e, f, g, h).into())
    } else if ip.octets().iter().take(12).all(|byte| *byte == 0) && !ip.is_loopback() {
        Some(Ipv4Addr::new(a, b, c, d).into())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verdict(host: &str, ip: &str, allow: &[&str]) -> char {
        let reach = Reach::new(allow.iter().map(|network| network.parse().unwrap()).collect());
        match reach.check(&Host::new(host), ip.parse().unwrap()) {
            Ok(_) => '+',
            Err(AddressError::NotAllowed(_)) => '-',
            Err(AddressError::Never(_)) => '!',
        }
    }

    #[test]
    fn the_table_holds() {
        const ALL: &[&str] = &["0.0.0.0/0", "::/0"];
        for (host, ip, allow, expect) in [
            ("gpu.example", "93.184.216.34", &[][..], '+'),
            ("gpu.example", "2606:2800:220:1::1", &[], '+'),
            ("gpu.example", "10.1.2.3", &[], '-'),
            ("gpu.example", "10.1.2.3", &["10.1.0.0/16"], '+'),
            ("gpu.example", "::ffff:10.1.2.3", &["10.1.0.0/16"], '+'),
            ("gpu.example", "10.2.2.3", &["10.1.0.0/16"], '-'),
            ("10.1.2.3", "10.1.2.3", &[], '+'),
            ("10.1.2.3", "10.1.2.4", &[], '-'),
            ("[fd00::1]", "fd00::1", &[], '+'),
            ("127.0.0.1", "127.0.0.1", &[], '+'),
            ("localhost", "127.0.0.1", &[], '+'),
            ("LocalHost", "::1", &[], '+'),
            ("localhost", "10.0.0.1", &[], '-'),
            ("localhost.example", "127.0.0.1", &[], '-'),
            ("2130706433", "127.0.0.1", &[], '-'),
            ("0x7f.1", "127.0.0.1", &[], '-'),
            ("gpu.example", "127.0.0.1", &[], '-'),
            ("gpu.example", "::1", &[], '-'),
            ("gpu.example", "::ffff:127.0.0.1", &[], '-'),
            ("gpu.example", "::127.0.0.1", &[], '-'),
            ("gpu.example", "172.31.0.1", &[], '-'),
            ("gpu.example", "192.168.0.1", &[], '-'),
            ("gpu.example", "100.64.0.1", &[], '-'),
            ("gpu.example", "198.18.0.1", &[], '-'),
            ("gpu.example", "240.0.0.1", &[], '-'),
            ("gpu.example", "fd12:3456::1", &[], '-'),
            ("gpu.example", "2001:db8::1", &[], '-'),
            ("gpu.example", "2001::1", &[], '-'),
            ("gpu.example", "64:ff9b::10.0.0.1", &[], '-'),
            ("gpu.example", "64:ff9b::93.184.216.34", &[], '+'),
            ("gpu.example", "64:ff9b::169.254.169.254", ALL, '!'),
            ("gpu.example", "2002:a9fe:a9fe::1", ALL, '!'),
            ("gpu.example", "::169.254.169.254", ALL, '!'),
            ("169.254.169.254", "169.254.169.254", ALL, '!'),
            ("gpu.example", "::ffff:169.254.169.254", ALL, '!'),
            ("gpu.example", "fe80::1", ALL, '!'),
            ("[fe80::1]", "fe80::1", &[], '!'),
            ("0.0.0.0", "0.0.0.0", ALL, '!'),
            ("[::]", "::", ALL, '!'),
            ("gpu.example", "::ffff:0.0.0.0", ALL, '!'),
            ("gpu.example", "224.0.0.1", ALL, '!'),
            ("gpu.example", "ff02::1", ALL, '!'),
            ("gpu.example", "255.255.255.255", ALL, '!'),
            ("gpu.example", "fd00:ec2::254", ALL, '!'),
            ("gpu.example", "168.63.129.16", ALL, '!'),
        ] {
            assert_eq!(verdict(host, ip, allow), expect, "{host} {ip} {allow:?}");
        }
    }

    #[test]
    fn origins_are_read_strictly() {
        let origin = Origin::parse("https://GPU.example/v1").unwrap();
        assert_eq!(origin.to_string(), "https://gpu.example:443");
        assert_eq!(Origin::parse("http://[::1]:8080").unwrap().to_string(), "http://[::1]:8080");
        for (url, error) in [
            ("ftp://a", OriginError::Scheme),
            ("/path", OriginError::Scheme),
            ("https://u:p@a", OriginError::User),
            ("https://a:99999", OriginError::Port),
            ("https://a:", OriginError::Port),
            ("https://", OriginError::Malformed),
        ] {
            assert_eq!(Origin::parse(url), Err(error), "{url}");
        }
    }

    proptest! {
        #[test]
        fn a_mapped_address_is_judged_like_itself(bits in any::<u32>()) {
            let ip = Ipv4Addr::from_bits(bits);
            let host = Host::new("gpu.example");
            let reach = Reach::default();
            prop_assert_eq!(reach.check(&host, ip.into()), reach.check(&host, ip.to_ipv6_mapped().into()));
        }
    }
}
