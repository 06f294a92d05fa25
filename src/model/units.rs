//! Sizes and durations as people write them: `64KiB`, `250ms`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is no size or duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: write for example {example}")]
pub struct InvalidUnit {
    text: String,
    what: &'static str,
    example: &'static str,
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

macro_rules! units {
    ($($(#[$doc:meta])* $name:ident: $what:literal, $example:literal, [$(($unit:literal, $factor:expr)),*];)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            const UNITS: &'static [(&'static str, u64)] = &[$(($unit, $factor)),*];
        }

        impl FromStr for $name {
            type Err = InvalidUnit;

            fn from_str(text: &str) -> Result<Self, InvalidUnit> {
                let invalid = || InvalidUnit { text: text.chars().take(40).collect(), what: $what, example: $example };
                let (number, unit) = split(text).ok_or_else(invalid)?;
                let (_, factor) = Self::UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
                number.checked_mul(*factor).map(Self).ok_or_else(invalid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let largest = Self::UNITS.iter().rev().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
                match largest {
                    Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
                    None => write!(f, "0{}", Self::UNITS.first().map_or("", |(unit, _)| unit)),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!($what, " such as ", $example))
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let units: Vec<&str> = Self::UNITS.iter().map(|(unit, _)| *unit).collect();
                schemars::json_schema!({ "type": "string", "pattern": format!("^[0-9]+({})$", units.join("|")) })
            }
        }
    )*};
}

units! {
    /// A number of bytes: `512B`, `64KiB`, `4MiB`, `1GiB`.
    ByteSize: "a size", "`64KiB` or `4MiB`", [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    /// A span of time: `250ms`, `30s`, `5m`, `1h`, `1d`.
    Duration: "a duration", "`250ms`, `30s` or `5m`",
        [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
}

impl ByteSize {
    /// A number of bytes.
    #[must_use]
    pub const fn bytes(count: u64) -> Self {
        Self(count)
    }

    /// A number of KiB.
    #[must_use]
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// A number of MiB.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The bytes as a length in memory; saturates on a small machine.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Duration {
    /// A number of milliseconds.
    #[must_use]
    pub const fn millis(count: u64) -> Self {
        Self(count)
    }

    /// A number of seconds.
    #[must_use]
    pub const fn secs(count: u64) -> Self {
        Self(count * 1_000)
    }

    /// As the standard library's type.
    #[must_use]
    pub const fn get(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_parses_back() {
        for text in ["0B", "1B", "64KiB", "4MiB", "3GiB", "1025B"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
        for text in ["250ms", "30s", "5m", "1h", "90s", "1d"] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_unit_is_refused() {
        for text in ["", "5", "s", "-1s", "1.5s", "99999999999999999GiB", "5 parsecs"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }
}
