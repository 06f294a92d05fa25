//! Somebody who ends TLS before the cluster `haven`, as a provider's load balancer does, and keeps what passes.
//!
//! A test double: the border speaks plain HTTP to it over loopback, and it has a certificate that the far side knows as the border's.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::Uri;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tower_service::Service as _;

use super::double;
use crate::net::Connector;

/// The most that is kept of each way, in bytes.
const MAX_KEPT: usize = 1024 * 1024;

/// How many words in a row count as plaintext; one or two of them may stand in a path or a name.
const PHRASE: usize = 3;

/// How many bytes of a body are shown.
const SHOWN: usize = 64;

/// Both ways of what passed so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Passed {
    /// From the border to the cluster.
    pub(crate) sent: Vec<u8>,
    /// Back.
    pub(crate) answered: Vec<u8>,
}

/// A running wiretap; dropped, it stops.
#[derive(Debug)]
pub(crate) struct Wiretap {
    address: SocketAddr,
    passed: Arc<Mutex<Passed>>,
    server: JoinHandle<()>,
}

impl Wiretap {
    /// Listens on loopback, on `port` if that is free, and passes on to `far`.
    ///
    /// # Errors
    /// No port can be had.
    pub(crate) async fn start(port: u16, far: Connector, uri: Uri) -> io::Result<Self> {
        let listener = double::listen(port).await?;
        let address = listener.local_addr()?;
        let passed = Arc::new(Mutex::new(Passed::default()));
        let kept = Arc::clone(&passed);
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            // A listener on loopback fails only when descriptors run out; the border then sees a dead cluster.
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(relay(near, far.clone(), uri.clone(), Arc::clone(&kept)));
            }
        });
        Ok(Self { address, passed, server })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has passed so far.
    pub(crate) fn passed(&self) -> Passed {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Wiretap {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn relay(near: TcpStream, mut far: Connector, uri: Uri, passed: Arc<Mutex<Passed>>) {
    // Without a far side the connection closes, which the border reports.
    let Ok(far) = far.call(uri).await else { return };
    let (from_near, to_near) = near.into_split();
    let (from_far, to_far) = tokio::io::split(TokioIo::new(far));
    let back = Arc::clone(&passed);
    tokio::join!(
        copy(from_near, to_far, |piece| keep(&mut lock(&passed).sent, piece)),
        copy(from_far, to_near, |piece| keep(&mut lock(&back).answered, piece)),
    );
}

fn lock(passed: &Mutex<Passed>) -> std::sync::MutexGuard<'_, Passed> {
    passed.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(kept: &mut Vec<u8>, piece: &[u8]) {
    let room = MAX_KEPT.saturating_sub(kept.len());
    kept.extend(piece.iter().take(room));
}

/// Kept before it goes on: what arrived was seen.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut keep: impl FnMut(&[u8]),
) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        let Some(read) = piece.get(..count) else { break };
        keep(read);
        if to.write_all(read).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// What a wiretap holds of one crossing, for people and programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Wire {
    /// The request as it passed.
    request: Half,
    /// The answer as it passed.
    answer: Half,
    /// Phrases of prompt and answer that were looked for.
    phrases: usize,
    /// Those that were found.
    pub(crate) found: Vec<String>,
}

/// One message on the wire.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Half {
    /// The head: start line and fields.
    head: Vec<String>,
    /// How many bytes followed it.
    body_bytes: usize,
    /// The first of them, in hexadecimal.
    body_begins: String,
}

impl Wire {
    /// Looks for the plaintexts, phrase by phrase.
    pub(crate) fn of(passed: &Passed, plaintexts: &[&str]) -> Self {
        let mut phrases: Vec<String> = plaintexts.iter().flat_map(|text| phrases(text)).collect();
        phrases.sort_unstable();
        phrases.dedup();
        let holds = |bytes: &[u8], phrase: &str| {
            bytes.windows(phrase.len()).any(|window| window.eq_ignore_ascii_case(phrase.as_bytes()))
        };
        let found = phrases.iter();
        let found = found.filter(|phrase| holds(&passed.sent, phrase) || holds(&passed.answered, phrase));
        let found = found.cloned().collect();
        Self {
            request: Half::of(&passed.sent),
            answer: Half::of(&passed.answered),
            phrases: phrases.len(),
            found,
        }
    }

    /// Whether something passed, both ways.
    pub(crate) const fn passed(&self) -> bool {
        self.request.body_bytes > 0 && self.answer.body_bytes > 0
    }

    /// Prints it.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(crate) fn write(&self, out: &mut dyn Write, who: &str, what: &str) -> io::Result<()> {
        writeln!(out, "\nWhat somebody who ends TLS before `haven` saw of: {who}, {what}\n")?;
        for (arrow, half) in [("→", &self.request), ("←", &self.answer)] {
            half.write(out, arrow)?;
        }
        match self.found.as_slice() {
            [] => writeln!(
                out,
                "\n  {} phrases of prompt and answer looked for, none found. In the clear are path, sizes, times, and in the\n  \
                 message's header who sealed for whom: tenant, recipient, level, record. docs/sealing.md says more.",
                self.phrases
            ),
            found => writeln!(out, "\n  ✗ in the clear: {}", found.join(" | ")),
        }
    }
}

impl Half {
    fn of(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(bytes.len());
        let (head, body) = bytes.split_at_checked(end).unwrap_or((bytes, &[]));
        let body = body.get(4..).unwrap_or_default();
        Self {
            head: String::from_utf8_lossy(head).lines().map(ToOwned::to_owned).collect(),
            body_bytes: body.len(),
            body_begins: body.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    fn write(&self, out: &mut dyn Write, arrow: &str) -> io::Result<()> {
        for (index, line) in self.head.iter().enumerate() {
            writeln!(out, "  {} {line}", if index == 0 { arrow } else { " " })?;
        }
        let bytes: Vec<&str> = hex_pairs(&self.body_begins).collect();
        for line in bytes.chunks(32) {
            writeln!(out, "    {}", line.join(" "))?;
        }
        writeln!(out, "    … {} bytes", self.body_bytes)
    }
}

/// The digits two by two.
fn hex_pairs(digits: &str) -> impl Iterator<Item = &str> {
    (0..digits.len()).step_by(2).filter_map(|at| digits.get(at..at + 2))
}

fn phrases(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(PHRASE).map(|phrase| phrase.join(" ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_found_where_they_are() {
        let passed = Passed {
            sent: b"POST / HTTP/1.1\r\na: b\r\n\r\n\x02\x04the BIRDS ARE flying home".to_vec(),
            answered: b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        };
        let wire = Wire::of(&passed, &["birds are flying south", "nothing of this"]);
        assert_eq!((wire.phrases, wire.found.as_slice()), (3, ["birds are flying".to_owned()].as_slice()));
        assert_eq!((wire.request.body_bytes, wire.answer.body_bytes), (27, 0));
        let mut out = Vec::new();
        wire.write(&mut out, "cleo", "chat").unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("  → POST / HTTP/1.1\n    a: b\n    02 04 74 68"), "{text}");
        assert!(text.contains("✗ in the clear: birds are flying"));
    }
}
