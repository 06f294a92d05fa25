//! What a request is about and where it could go.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Action, ClusterName, DatasetName, Level, ModelName, Protection, RecipientName, Residency, ServiceName,
    StoreName, TenantName,
};

/// The Cedar resource of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum Resource {
    /// A model on a cluster; entity `Tidegate::Model::"cluster/model"`.
    Model {
        /// The cluster that serves it.
        cluster: ClusterName,
        /// The model as the client named it.
        model: ModelName,
    },
    /// A dataset of a store.
    Dataset(DatasetName),
    /// A plain HTTP service.
    Service(ServiceName),
}

impl Resource {
    /// The entity type's name within the namespace `Tidegate`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Model { .. } => "Model",
            Self::Dataset(_) => "Dataset",
            Self::Service(_) => "Service",
        }
    }

    /// The entity id.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::Model { cluster, model } => format!("{cluster}/{model}"),
            Self::Dataset(name) => name.to_string(),
            Self::Service(name) => name.to_string(),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::\"{}\"", self.kind(), self.id())
    }
}

/// The configured far side that a request is sent to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum UpstreamRef {
    /// A GPU cluster.
    Cluster(ClusterName),
    /// A data store.
    Store(StoreName),
    /// A plain HTTP service.
    Service(ServiceName),
}

impl UpstreamRef {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Cluster(name) => name.as_str(),
            Self::Store(name) => name.as_str(),
            Self::Service(name) => name.as_str(),
        }
    }

    /// The same text for somebody else to hold.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        match self {
            Self::Cluster(name) => name.shared(),
            Self::Store(name) => name.shared(),
            Self::Service(name) => name.shared(),
        }
    }
}

impl fmt::Display for UpstreamRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(name) => write!(f, "cluster `{name}`"),
            Self::Store(name) => write!(f, "store `{name}`"),
            Self::Service(name) => write!(f, "service `{name}`"),
        }
    }
}

/// One way to serve a request: the resource that Cedar decides on, where the data would go, and who is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Cedar's resource.
    pub resource: Resource,
    /// Cedar's `context.destination`: the cluster that gets the data, if it is known.
    pub destination: Option<ClusterName>,
    /// The far side.
    pub upstream: UpstreamRef,
    /// The keys that whoever gets the data can open; without any, sealed is no way to serve the request.
    pub can_open: Option<RecipientName>,
}

impl Candidate {
    /// Whether both ends can do it: sealing needs somebody who can open.
    #[must_use]
    pub const fn can(&self, protection: Protection) -> bool {
        match protection {
            Protection::None | Protection::Masked => true,
            Protection::Sealed => self.can_open.is_some(),
        }
    }
}

/// What the configuration says of the workload that connected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Where it runs, which is where data goes that it reads.
    pub cluster: Option<ClusterName>,
    /// The keys that it can open; they win over those of its cluster.
    pub can_open: Option<RecipientName>,
    /// Whether it is another gateway, whose sealed messages are opened.
    pub peer: bool,
}

/// What a route leads to; it fixes the kind of resource and, but for stores, the action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteKind {
    /// An OpenAI-compatible call to any of these clusters that serves the model, in this order.
    Inference {
        /// `Infer` or `Embed`.
        action: Action,
        /// The candidates, best first.
        clusters: Vec<ClusterName>,
    },
    /// An S3 store, path-style; the operation fixes the action.
    Store {
        /// The store.
        store: StoreName,
    },
    /// A plain HTTP service.
    Service {
        /// The service.
        service: ServiceName,
    },
}

/// How the objects of a store route lie in the store, and what its callers see of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objects {
    /// They lie in the clear, and travel as policy demands.
    #[default]
    Plain,
    /// They are sealed messages and travel as they are: lengths and ranges are those of the message.
    Pass,
    /// They are sealed at rest under the dataset's key and opened here: callers see plaintext lengths and ranges.
    Open,
}

/// Whose key seals the objects of a dataset at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealedAtRest {
    /// The tenant whose data it is.
    pub tenant: TenantName,
    /// The recipient of `[recipients]` under whose keys, of direction `rest`, the objects lie.
    pub recipient: RecipientName,
}

/// The least strict label that a route lets through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Floor {
    /// The lowest level, if the route declares one.
    pub level: Option<Level>,
    /// The widest residency, if the route declares one.
    pub residency: Option<Residency>,
}
