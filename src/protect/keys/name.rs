//! Names of branch keys, as they stand on the wire and in records: `t/<tenant>/<recipient>/<direction>/v<N>`.

use std::fmt;
use std::str::FromStr;

use crate::model::{RecipientName, TenantName};

/// Which way what a key seals travels. A key for one direction opens nothing of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub enum Direction {
    /// From the border to the far side.
    Request,
    /// Back.
    Answer,
    /// Nowhere: an object at rest.
    Rest,
}

impl Direction {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Request, Self::Answer, Self::Rest];

    /// The word in names and contexts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Answer => "answer",
            Self::Rest => "rest",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a branch key is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// Whose data.
    pub tenant: TenantName,
    /// Who opens.
    pub recipient: RecipientName,
    /// Which way.
    pub direction: Direction,
}

/// One version of a branch key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyName {
    /// What it is for.
    pub scope: Scope,
    /// From 1.
    pub version: u32,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [tenant, recipient] =
            [self.tenant.as_str(), self.recipient.as_str()].map(|name| name.replace('/', "%2F"));
        write!(f, "t/{tenant}/{recipient}/{}", self.direction)
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/v{}", self.scope, self.version)
    }
}

/// Text that is no key name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key name is `t/TENANT/RECIPIENT/request|answer|rest/vN`")]
pub struct InvalidKeyName;

impl FromStr for KeyName {
    type Err = InvalidKeyName;

    fn from_str(text: &str) -> Result<Self, InvalidKeyName> {
        let mut parts = text.split('/');
        let mut next = || parts.next().ok_or(InvalidKeyName);
        let (mark, tenant, recipient, direction, version) = (next()?, next()?, next()?, next()?, next()?);
        let direction = Direction::ALL.into_iter().find(|known| known.name() == direction);
        let version = version.strip_prefix('v').and_then(|digits| digits.parse().ok());
        let name = Self {
            scope: Scope {
                tenant: tenant.replace("%2F", "/").parse().map_err(|_| InvalidKeyName)?,
                recipient: recipient.replace("%2F", "/").parse().map_err(|_| InvalidKeyName)?,
                direction: direction.ok_or(InvalidKeyName)?,
            },
            version: version.ok_or(InvalidKeyName)?,
        };
        // One form alone: no leading zeros, no signs, nothing behind.
        if mark == "t" && name.version > 0 && name.to_string() == text {
            Ok(name)
        } else {
            Err(InvalidKeyName)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_form() {
        for text in ["t/acme/gpu/request/v1", "t/a%2Fb/lake.eu/rest/v4294967295"] {
            assert_eq!(text.parse::<KeyName>().unwrap().to_string(), text);
        }
        for text in [
            "t/acme/gpu/request/v0",
            "t/acme/gpu/request/v01",
            "t/acme/gpu/request/v+1",
            "t/acme/gpu/request/1",
            "t/acme/gpu/sideways/v1",
            "t/acme/gpu/request/v1/x",
            "t/acme//request/v1",
            "t/a%2fb/gpu/request/v1",
            "x/acme/gpu/request/v1",
            "",
        ] {
            assert!(text.parse::<KeyName>().is_err(), "{text}");
        }
    }
}
