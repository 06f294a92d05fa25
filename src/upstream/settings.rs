//! What the configuration says of far sides. Checked by `validate`, read from disk by `Upstreams::new`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{
    ClusterName, DatasetName, Duration, Level, ModelName, RecipientName, Residency, SealedAtRest,
    ServiceName, StoreName,
};

/// All far sides, by name. Two equal values make the same pools, so pools need not be made anew on a reload.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// GPU clusters.
    pub clusters: BTreeMap<ClusterName, ClusterSettings>,
    /// Data stores.
    pub stores: BTreeMap<StoreName, StoreSettings>,
    /// Plain HTTP services.
    pub services: BTreeMap<ServiceName, ServiceSettings>,
}

/// Whether bytes may travel unencrypted to another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Plaintext {
    /// Never; `http://` is for loopback only.
    #[default]
    Refused,
    /// `http://` to another machine is accepted, and recorded. Data of level confidential or above never takes it.
    Accepted,
}

/// Which HTTP version is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Http2 {
    /// What ALPN settles; HTTP/1.1 without TLS.
    #[default]
    Auto,
    /// HTTP/1.1 only.
    Never,
    /// HTTP/2 only, without TLS by prior knowledge (RFC 9113, 3.3).
    Only,
}

/// How long the parts of a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Resolving, connecting and the TLS handshake together. At most `1m`.
    pub connect: Duration,
    /// From the last byte that the upstream took to the head of its answer. At most `1h`.
    pub first_byte: Duration,
    /// The longest silence within a body, in either direction. At most `1d`.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::secs(2), first_byte: Duration::secs(60), idle: Duration::secs(300) }
    }
}

/// How an endpoint is asked whether it is well, beside its traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What is asked for by GET: a path, perhaps with a query. An answer of 2xx is a pass. The request carries the far side's own credential and
    /// nothing of any caller, so no policy is asked about it.
    pub path: String,
    /// Time between two checks of one endpoint. From `100ms` to `1h`.
    #[serde(default = "check_interval")]
    pub interval: Duration,
    /// The longest wait for the answer. From `1ms` to `1m`.
    #[serde(default = "check_timeout")]
    pub timeout: Duration,
    /// Passes in a row after which an endpoint that failed its checks is called again. From 1 to 100.
    #[serde(default = "check_healthy")]
    pub healthy: u32,
    /// Failures in a row after which an endpoint is called no more. From 1 to 100.
    #[serde(default = "check_unhealthy")]
    pub unhealthy: u32,
}

const fn check_interval() -> Duration {
    Duration::secs(5)
}

const fn check_timeout() -> Duration {
    Duration::secs(2)
}

const fn check_healthy() -> u32 {
    2
}

const fn check_unhealthy() -> u32 {
    3
}

/// When an endpoint whose calls fail is left out, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ejection {
    /// Calls in a row without an answer, or answered with 502, 503 or 504, after which the endpoint is left out. 0: it never is. At most 1000.
    pub failures: u32,
    /// How long it is left out the first time; the n-th time in a row n times as long, and up to a fifth longer at random. Then one request tries
    /// it: an answer brings it back. From `1ms` to `1h`.
    pub base: Duration,
    /// The longest that it is left out, but for that fifth. From `base` to `1d`.
    pub longest: Duration,
}

impl Default for Ejection {
    fn default() -> Self {
        Self { failures: 5, base: Duration::secs(5), longest: Duration::secs(300) }
    }
}

/// Requests that wait while all endpoints have as many in flight as they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// The most that wait; more are answered with 503 at once. 0: none waits. At most 10000.
    pub length: u32,
    /// The longest wait; then the answer is 503. From `1ms` to `1m`.
    pub timeout: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Self { length: 64, timeout: Duration::secs(1) }
    }
}

const fn max_in_flight() -> u32 {
    1024
}

fn region() -> String {
    "us-east-1".to_owned()
}

#[expect(clippy::expect_used, reason = "a constant that a test parses")]
fn private() -> ClusterName {
    "private".parse().expect("a valid name")
}

/// Declares a far side: its own members, then those that all far sides share (`flatten` would accept unknown members).
macro_rules! far_side {
    ($(#[$doc:meta])* $name:ident { $($(#[$member:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// One to 16 addresses, scheme, host and port only: `https://gpu.example.com:8443`. The least loaded of two is called.
            pub endpoints: Vec<String>,
            $($(#[$member])* pub $field: $type,)*
            /// PEM file of the only certificate authorities that are trusted for it. Required for `https`; absent for `http`.
            #[serde(default)]
            pub ca: Option<PathBuf>,
            /// PEM file of the certificate that the gateway shows there, then its intermediates: how a peer knows this border. Absent: none
            /// is shown.
            #[serde(default)]
            pub client_certificate: Option<PathBuf>,
            /// PEM file of that certificate's private key, mode 0600. Absent exactly if `client_certificate` is.
            #[serde(default)]
            pub client_key: Option<PathBuf>,
            /// The name that its certificate must carry and that SNI sends. Absent: the host of the endpoint.
            #[serde(default)]
            pub server_name: Option<String>,
            /// Whether `http://` to another machine is accepted.
            #[serde(default)]
            pub plaintext: Plaintext,
            /// Networks in CIDR form that it may resolve to though they are private, loopback or link-local.
            #[serde(default)]
            #[schemars(with = "Vec<String>")]
            pub allow_networks: Vec<IpNet>,
            /// The HTTP version.
            #[serde(default)]
            pub http2: Http2,
            /// Bounds on waiting.
            #[serde(default)]
            pub timeouts: Timeouts,
            /// Requests that one endpoint may have in flight; more wait in the queue. At most 100000.
            #[serde(default = "max_in_flight")]
            pub max_in_flight: u32,
            /// Requests that wait for a place in flight.
            #[serde(default)]
            pub queue: Queue,
            /// When an endpoint whose calls fail is left out.
            #[serde(default)]
            pub ejection: Ejection,
            /// Checks of each endpoint beside its traffic. Absent: there are none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub health: Option<HealthCheck>,
        }

        impl $name {
            pub(super) fn dial(&self) -> Dial<'_> {
                Dial {
                    endpoints: &self.endpoints,
                    ca: self.ca.as_ref(),
                    client: self.client_certificate.as_ref().zip(self.client_key.as_ref()),
                    half_client: self.client_certificate.is_some() != self.client_key.is_some(),
                    server_name: self.server_name.as_deref(),
                    plaintext: self.plaintext,
                    allow_networks: &self.allow_networks,
                    http2: self.http2,
                    timeouts: self.timeouts,
                    max_in_flight: self.max_in_flight,
                    queue: self.queue,
                    ejection: self.ejection,
                    health: self.health.as_ref(),
                }
            }
        }
    };
}

/// The members that all far sides share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dial<'a> {
    pub(super) endpoints: &'a [String],
    pub(super) ca: Option<&'a PathBuf>,
    /// Certificate and key.
    pub(super) client: Option<(&'a PathBuf, &'a PathBuf)>,
    /// One of the two without the other.
    pub(super) half_client: bool,
    pub(super) server_name: Option<&'a str>,
    pub(super) plaintext: Plaintext,
    pub(super) allow_networks: &'a [IpNet],
    pub(super) http2: Http2,
    pub(super) timeouts: Timeouts,
    pub(super) max_in_flight: u32,
    pub(super) queue: Queue,
    pub(super) ejection: Ejection,
    pub(super) health: Option<&'a HealthCheck>,
}

far_side! {
    /// A cluster that speaks the OpenAI API.
    ClusterSettings {
        /// The models that it serves, by the names that clients use and that are sent on unchanged.
        models: Vec<ModelName>,
        /// The recipient whose keys its far end can open: another Tidegate there, or any program that has them. Payloads can then be
        /// sealed for it; whether they are, policy decides. Absent: nothing can be sealed for it.
        #[serde(default)]
        can_open: Option<RecipientName>,
        /// File with the key that is sent as `Authorization: Bearer`, mode 0600. Absent: none is sent.
        #[serde(default)]
        credential_file: Option<PathBuf>,
    }
}

far_side! {
    /// An S3 store, called path-style. The gateway signs with its own credentials (AWS Signature Version 4); clients hold none.
    StoreSettings {
        /// The region that signatures name.
        #[serde(default = "region")]
        region: String,
        /// The id of the store's access key.
        access_key_id: String,
        /// File with the secret of the access key, mode 0600.
        secret_key_file: PathBuf,
        /// The datasets in it. What lies in none of them cannot be reached.
        datasets: Vec<DatasetSettings>,
    }
}

far_side! {
    /// A plain HTTP service. Absent: see `infer`.
    ServiceSettings {
        /// The cluster in which it is, for policies on residency; `private` is the inside.
        #[serde(default = "private")]
        cluster: ClusterName,
        /// File with the key that is sent as `Authorization: Bearer`, mode 0600. Absent: none is sent.
        #[serde(default)]
        credential_file: Option<PathBuf>,
    }
}

/// A dataset: all objects of a bucket whose keys begin with a prefix; of several the longest prefix wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetSettings {
    /// The id of its `Tidegate::Dataset` entity.
    pub id: DatasetName,
    /// The bucket.
    pub bucket: String,
    /// How keys of the dataset begin, without a leading `/`. Empty: the whole bucket.
    #[serde(default)]
    pub prefix: String,
    /// How sensitive its objects are. Absent: that of the route; if it has none either, restricted.
    #[serde(default)]
    pub level: Option<Level>,
    /// The jurisdictions that may hold its objects. Absent: that of the route; if it has none either, they may go nowhere.
    #[serde(default)]
    pub residency: Option<Residency>,
    /// Whose key its objects are sealed with at rest. Absent: they lie in the clear. Routes to the store say the same by `objects`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealedAtRest>,
}
