//! A TCP proxy that does to answers what networks and dying servers do to them. Deterministic: faults strike at a byte, not at
//! a moment, and nothing waits longer than the fault itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// What is done to the bytes that come from the upstream. `after` counts the bytes of one connection that pass unharmed: the fault
/// strikes when the next one comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Each piece comes this much later.
    Delay(Duration),
    /// The connection is reset (TCP RST).
    Reset { after: usize },
    /// The connection is closed in order (FIN), both ways.
    Cut { after: usize },
    /// Only the upstream's direction is closed; what the gateway sends is still taken.
    HalfClose { after: usize },
    /// Nothing more comes, and nothing is closed.
    Stall { after: usize },
    /// At most so many bytes come in a second.
    Bandwidth { bytes_a_second: usize },
}

impl Fault {
    /// How many bytes may still pass on a connection that has passed `passed`.
    fn left(self, passed: usize) -> usize {
        match self {
            Self::None | Self::Delay(_) => usize::MAX,
            Self::Bandwidth { bytes_a_second } => (bytes_a_second / 20).max(1),
            Self::Reset { after }
            | Self::Cut { after }
            | Self::HalfClose { after }
            | Self::Stall { after } => after.saturating_sub(passed),
        }
    }
}

/// The proxy before one upstream.
#[derive(Debug)]
pub(crate) struct FaultProxy {
    pub(crate) endpoint: String,
    fault: Arc<Mutex<Fault>>,
    connections: Arc<AtomicUsize>,
}

impl FaultProxy {
    /// Stands before `upstream`; each connection suffers the fault that is set when it is made.
    pub(crate) async fn before(upstream: SocketAddr, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (fault, connections) = (Arc::new(Mutex::new(fault)), Arc::new(AtomicUsize::new(0)));
        let (current, count) = (Arc::clone(&fault), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((gateway, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let fault = *current.lock().unwrap();
                tokio::spawn(async move {
                    let server = TcpStream::connect(upstream).await.unwrap();
                    pass(gateway, server, fault).await;
                });
            }
        });
        Self { endpoint, fault, connections }
    }

    /// What the connections from now on suffer.
    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn pass(gateway: TcpStream, server: TcpStream, fault: Fault) {
    for stream in [&gateway, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let (mut from_gateway, mut to_gateway) = gateway.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upward = tokio::spawn(async move {
        let _ = copy(&mut from_gateway, &mut to_server).await;
        // Ends when the gateway hangs up.
        let _ = to_server.shutdown().await;
        (from_gateway, to_server)
    });
    let struck = answers(&mut from_server, &mut to_gateway, fault).await;
    match fault {
        Fault::Stall { .. } | Fault::HalfClose { .. } if struck => {
            if matches!(fault, Fault::HalfClose { .. }) {
                let _ = to_gateway.shutdown().await;
            }
            // Until the gateway has had enough.
            let _ = upward.await;
        }
        Fault::Reset { .. } if struck => {
            to_gateway.as_ref().set_zero_linger().unwrap();
            // The socket is closed, and so reset, when its last half is gone.
            to_gateway.forget();
            upward.abort();
            let _ = upward.await;
        }
        _ => {
            drop((from_server, to_gateway));
            upward.abort();
            let _ = upward.await;
        }
    }
}

/// Passes answers on until one side ends or the fault strikes; whether it did.
async fn answers(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, fault: Fault) -> bool {
    let (mut passed, mut piece) = (0, vec![0; 16 * 1024]);
    loop {
        let most = fault.left(passed).min(piece.len());
        let Ok(count @ 1..) = from.read(&mut piece[..most.max(1)]).await else { return false };
        if most == 0 {
            return true;
        }
        match fault {
            Fault::Delay(time) => sleep(time).await,
            Fault::Bandwidth { bytes_a_second } => {
                sleep(Duration::from_secs_f64(count as f64 / bytes_a_second as f64)).await;
            }
            _ => {}
        }
        if to.write_all(&piece[..count]).await.is_err() {
            return false;
        }
        passed += count;
    }
}

/// A client of the proxy before an upstream that answers `0123456789` a hundred times over to anything.
async fn through(fault: Fault) -> (Vec<u8>, std::io::Result<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = FaultProxy::before(listener.local_addr().unwrap(), fault).await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read_exact(&mut [0; 4]).await;
        let _ = stream.write_all(&b"0123456789".repeat(100)).await;
        let _ = stream.read(&mut [0]).await;
    });
    let mut stream = TcpStream::connect(proxy.endpoint.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut bytes = Vec::new();
    let ended = loop {
        if bytes.len() == 1000 {
            break Ok(1000);
        }
        match tokio::time::timeout(Duration::from_millis(400), stream.read_buf(&mut bytes)).await {
            Ok(Ok(1..)) => {}
            Ok(ended) => break ended,
            Err(elapsed) => break Err(elapsed.into()),
        }
    };
    assert_eq!(proxy.connections(), 1);
    (bytes, ended)
}

#[tokio::test]
async fn the_proxy_does_what_it_says() {
    let kind = |ended: std::io::Result<usize>| ended.map_err(|error| error.kind());
    let began = std::time::Instant::now();
    for (fault, bytes, ended) in [
        (Fault::None, 1000, Ok(1000)),
        (Fault::Delay(Duration::from_millis(100)), 1000, Ok(1000)),
        (Fault::Bandwidth { bytes_a_second: 2000 }, 1000, Ok(1000)),
        (Fault::Reset { after: 0 }, 0, Err(std::io::ErrorKind::ConnectionReset)),
        (Fault::Cut { after: 25 }, 25, Ok(0)),
        (Fault::HalfClose { after: 25 }, 25, Ok(0)),
        (Fault::Stall { after: 25 }, 25, Err(std::io::ErrorKind::TimedOut)),
    ] {
        let (seen, how) = through(fault).await;
        assert_eq!((seen.len(), kind(how)), (bytes, ended), "{fault:?}");
    }
    assert!(began.elapsed() >= Duration::from_millis(100 + 500 + 400));
}
