//! The entities that a record names.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Text;
use crate::model::Resource;

/// A Cedar entity of the namespace `Tidegate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Entity<'a> {
    /// The id.
    #[schemars(with = "String")]
    pub id: EntityId<'a>,
    /// The type without the namespace.
    #[serde(rename = "type")]
    pub kind: Text<'a>,
}

impl<'a> From<&'a Resource> for Entity<'a> {
    fn from(resource: &'a Resource) -> Self {
        let id = match resource {
            Resource::Model { cluster, model } => {
                EntityId::Model { cluster: cluster.as_str(), model: model.as_str() }
            }
            Resource::Dataset(name) => name.as_str().into(),
            Resource::Service(name) => name.as_str().into(),
        };
        Self { id, kind: resource.kind().into() }
    }
}

/// The id of an entity. What was read is whole; a writer need not put a model's two names together.
#[derive(Debug, Clone, Eq)]
pub enum EntityId<'a> {
    /// The id.
    Whole(Text<'a>),
    /// The id `cluster/model`.
    Model {
        /// The cluster.
        cluster: &'a str,
        /// The model.
        model: &'a str,
    },
}

impl EntityId<'_> {
    /// As one text.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Whole(id) => Cow::Borrowed(id),
            Self::Model { .. } => Cow::Owned(self.to_string()),
        }
    }
}

impl fmt::Display for EntityId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(id) => f.write_str(id),
            Self::Model { cluster, model } => write!(f, "{cluster}/{model}"),
        }
    }
}

impl PartialEq for EntityId<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl<'a> From<&'a str> for EntityId<'a> {
    fn from(id: &'a str) -> Self {
        Self::Whole(id.into())
    }
}

impl From<String> for EntityId<'_> {
    fn from(id: String) -> Self {
        Self::Whole(id.into())
    }
}

impl Serialize for EntityId<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Whole(id) => serializer.serialize_str(id),
            Self::Model { .. } => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for EntityId<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|id| Self::Whole(id.into()))
    }
}
