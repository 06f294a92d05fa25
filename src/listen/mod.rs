//! Listening sockets: accept, TLS handshake, HTTP/1.1 and HTTP/2 connections, and their end.
//!
//! Bounds everything that a peer can hold before there is a request, and refuses HTTP/1 bytes that two readers could read differently. What a request
//! means, who sent it and what is answered belongs to the [`Handler`]. Read `accept.rs` first, then `serve.rs`, `http1.rs`, `guard.rs` and `head.rs`.

mod accept;
mod gather;
mod guard;
mod head;
mod http1;
mod proxy;
mod refusal;
mod serve;
mod settings;
mod stall;
mod trust;
mod turns;

pub use accept::{ListenError, Listener};
pub use head::{HeadLimits, Scanner};
pub use proxy::ProxyError;
pub use refusal::{Refusal, RefusedConnection};
pub use serve::{AnswerBody, BoxError, Handler, RequestBody};
pub use settings::{Http2, Limits, Settings, TlsSettings};
