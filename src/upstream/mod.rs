//! The far sides: which there are, which endpoint is called, and how an [`Outbound`](crate::protect::Outbound) gets there.
//!
//! An upstream is one of the configuration; nothing in a request can add one or change where it is. Bytes pass as they come,
//! both ways, with backpressure; nothing is buffered, retried, redirected or decoded here. Whether to try again is the
//! gateway's decision, for which [`SendError`] says what is safe. Read `send.rs` first.

mod address;
mod answer;
mod budget;
mod check;
mod dial;
mod endpoint;
mod error;
mod group;
mod health;
mod idle;
mod pool;
mod registry;
mod send;
mod settings;
mod sigv4;
mod upload;
mod validate;

pub use address::{Address, InvalidAddress};
pub use answer::{Answer, AnswerError};
pub use endpoint::{Endpoint, EndpointId, EndpointReading};
pub use error::{SendError, SendErrorKind, UpstreamError};
pub use group::{Standing, UpstreamReading};
pub use health::EndpointState;
pub use registry::Upstreams;
pub use settings::{
    ClusterSettings, DatasetSettings, Ejection, HealthCheck, Http2, Plaintext, Queue, ServiceSettings,
    Settings, StoreSettings, Timeouts,
};
