//! Whom a connection was made in trust of, and what becomes of it when that changes.
//!
//! A connection of an older generation is drained: no new request begins on it, those under way go on. If its client would not be let
//! in any more, its certificate loses its standing, and with it every request of the connection.

use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::message::Standing;
use crate::net::ServerTls;

/// What a connection knows of the generation that it was made in; nothing on a plain listener.
#[derive(Debug)]
pub(super) struct Trust(Option<Generation>);

#[derive(Debug)]
struct Generation {
    tls: ServerTls,
    made_in: u64,
    changes: watch::Receiver<u64>,
    /// Leaf first; empty if the client showed none.
    chain: Vec<CertificateDer<'static>>,
    standing: Option<Standing>,
}

impl Trust {
    /// Of a connection that trusts nobody in particular.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// Of a connection whose handshake used the configuration of generation `made_in`.
    pub(super) fn new(
        tls: &ServerTls,
        made_in: u64,
        chain: Vec<CertificateDer<'static>>,
        standing: Option<Standing>,
    ) -> Self {
        Self(Some(Generation { tls: tls.clone(), made_in, changes: tls.generations(), chain, standing }))
    }

    /// Waits for a newer generation; says whether the client would be let in again, and takes its standing if not.
    pub(super) async fn outdated(&mut self) -> bool {
        let Some(generation) = &mut self.0 else { return std::future::pending().await };
        let made_in = generation.made_in;
        let Ok(now) = generation.changes.wait_for(|now| *now != made_in).await.map(|now| *now) else {
            return std::future::pending().await;
        };
        generation.made_in = now;
        let trusted = generation.tls.trusts(&generation.chain);
        if let Some(standing) = generation.standing.as_ref().filter(|_| !trusted) {
            standing.withdraw();
        }
        trusted
    }
}
