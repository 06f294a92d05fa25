//! Names that parse: once made, a name is printable, bounded and free of separators that logs or policies could misread.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderValue;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a name: use 1 to 128 letters, digits and `. _ - / : @`, starting with a letter or digit"
)]
pub struct InvalidName(String);

fn checked(text: &str) -> Result<Arc<str>, InvalidName> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if starts && text.len() <= 128 && text.bytes().all(ok) {
        Ok(Arc::from(text))
    } else {
        Err(InvalidName(text.chars().take(140).collect()))
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The same text for somebody else to hold.
            #[must_use]
            pub fn shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                checked(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "pattern": "^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,127}$"
                })
            }
        }
    )*};
}

names! {
    /// A route of the configuration.
    RouteName;
    /// A public GPU cluster, or `private` for the inside.
    ClusterName;
    /// A private data store.
    StoreName;
    /// A dataset of a store; the id of its `Tidegate::Dataset` entity.
    DatasetName;
    /// A plain HTTP service; the id of its `Tidegate::Service` entity.
    ServiceName;
    /// A model as clients name it.
    ModelName;
    /// A tenant: the boundary of keys and budgets.
    TenantName;
    /// A team; the id of its `Tidegate::Team` entity.
    TeamName;
    /// A recipient of sealed payloads: the name of its keys.
    RecipientName;
    /// A jurisdiction; the id of its `Tidegate::Jurisdiction` entity.
    Jurisdiction;
}

/// The id of one crossing and of its audit records: a UUID version 7 (RFC 9562), so ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordId(Uuid);

impl RecordId {
    /// A new id, unique in this process and, by its random bits, everywhere.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "two calls never give the same value")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl schemars::JsonSchema for RecordId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RecordId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "uuid" })
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl From<RecordId> for HeaderValue {
    fn from(id: RecordId) -> Self {
        let mut text = Uuid::encode_buffer();
        // INVARIANT: hexadecimal digits and hyphens are a value.
        Self::from_str(id.0.hyphenated().encode_lower(&mut text)).unwrap_or(Self::from_static(""))
    }
}

impl FromStr for RecordId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::parse_str(text).map(Self)
    }
}
