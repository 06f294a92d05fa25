//! Who is behind a load balancer: the header of the PROXY protocol, version 2, before anything else on a connection.
//!
//! Source: the PROXY protocol, section 2.2 (`proxy-protocol.txt` of HAProxy, 2020). Only listed networks are asked for the header, and then it
//! must be there: a peer that could choose to send one could choose its address. Anybody else who sends one only fails the TLS handshake.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ppp::v2::{Addresses, Command, Header, PROTOCOL_PREFIX, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

/// Bytes of the fixed part: signature, version and command, family and protocol, length.
const FIXED: usize = 16;
/// The most bytes of addresses and extensions that are read; extensions are passed over.
const MAX_REST: usize = 4096;

/// Why a header was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The connection ended or failed before the header was whole.
    #[error("the connection ended within the proxy header")]
    Io(#[source] io::Error),
    /// It did not arrive in time.
    #[error("the proxy header did not arrive in time")]
    Late,
    /// Something else than a header stands first; also the text header of version 1.
    #[error("the connection does not begin with a proxy header of version 2")]
    Missing,
    /// The header is longer than 4112 bytes.
    #[error("the proxy header is too long")]
    Size,
    /// The header breaks the rules of the protocol.
    #[error("the proxy header is malformed")]
    Malformed,
    /// A client that came by anything but TCP over IP.
    #[error("the proxy header names no tcp client")]
    Kind,
}

/// Reads the header and gives the client's address; none if the balancer speaks for itself (`LOCAL`, or a client without address).
///
/// # Errors
/// There is no header, or one that leaves a doubt; then nothing on the connection may be believed.
pub(super) async fn client<S>(stream: &mut S, limit: Duration) -> Result<Option<SocketAddr>, ProxyError>
where
    S: AsyncRead + Unpin,
{
    timeout(limit, read(stream)).await.unwrap_or(Err(ProxyError::Late))
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<SocketAddr>, ProxyError> {
    let mut fixed = [0; FIXED];
    stream.read_exact(&mut fixed).await.map_err(ProxyError::Io)?;
    if !fixed.starts_with(PROTOCOL_PREFIX) {
        return Err(ProxyError::Missing);
    }
    let [.., high, low] = fixed;
    let rest = usize::from(u16::from_be_bytes([high, low]));
    if rest > MAX_REST {
        return Err(ProxyError::Size);
    }
    let mut header = Vec::with_capacity(FIXED + rest);
    header.extend_from_slice(&fixed);
    header.resize(FIXED + rest, 0);
    let (_, tail) = header.split_at_mut(FIXED);
    stream.read_exact(tail).await.map_err(ProxyError::Io)?;
    address(&header)
}

/// The client that a whole header names.
fn address(bytes: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    let header = Header::try_from(bytes).map_err(|_| ProxyError::Malformed)?;
    let client = match (header.command, header.protocol, header.addresses) {
        (Command::Local, _, _) | (Command::Proxy, Protocol::Unspecified, Addresses::Unspecified) => {
            return Ok(None);
        }
        (Command::Proxy, Protocol::Stream, Addresses::IPv4(of)) => {
            SocketAddr::from((of.source_address, of.source_port))
        }
        (Command::Proxy, Protocol::Stream, Addresses::IPv6(of)) => {
            SocketAddr::from((of.source_address, of.source_port))
        }
        _ => return Err(ProxyError::Kind),
    };
    // Policies and limits speak of the plain form.
    Ok(Some(SocketAddr::new(client.ip().to_canonical(), client.port())))
}

#[cfg(test)]
mod tests {
    use ppp::v2::{Builder, Version};
    use proptest::prelude::*;

    use super::*;

    fn header(command: Command, protocol: Protocol, from: &str) -> Vec<u8> {
        let from: SocketAddr = from.parse().unwrap();
        let to: SocketAddr =
            if from.is_ipv4() { "10.0.0.2:443" } else { "[2001:db8::2]:443" }.parse().unwrap();
        Builder::with_addresses(Version::Two | command, protocol, (from, to)).build().unwrap()
    }

    async fn read_all(bytes: &[u8]) -> Result<(Option<SocketAddr>, Vec<u8>), ProxyError> {
        let mut stream = bytes;
        let client = client(&mut stream, Duration::from_secs(5)).await?;
        Ok((client, stream.to_vec()))
    }

    #[tokio::test]
    async fn the_client_is_who_the_balancer_says_and_what_follows_is_left() {
        for (from, plain) in [
            ("203.0.113.7:5000", "203.0.113.7:5000"),
            ("[2001:db8::7]:5000", "[2001:db8::7]:5000"),
            ("[::ffff:203.0.113.7]:5000", "203.0.113.7:5000"),
        ] {
            let mut bytes = header(Command::Proxy, Protocol::Stream, from);
            bytes.extend_from_slice(b"\x16\x03\x01");
            let (client, rest) = read_all(&bytes).await.unwrap();
            assert_eq!((client, rest.as_slice()), (Some(plain.parse().unwrap()), b"\x16\x03\x01".as_slice()));
        }
    }

    #[tokio::test]
    async fn a_balancer_may_speak_for_itself() {
        let local = header(Command::Local, Protocol::Stream, "203.0.113.7:5000");
        assert_eq!(read_all(&local).await.unwrap().0, None);
        let mut unknown = PROTOCOL_PREFIX.to_vec();
        unknown.extend_from_slice(&[0x21, 0, 0, 0]);
        assert_eq!(read_all(&unknown).await.unwrap().0, None);
    }

    #[tokio::test]
    async fn extensions_are_passed_over() {
        let mut bytes = header(Command::Proxy, Protocol::Stream, "203.0.113.7:5000");
        bytes.extend_from_slice(&[0x02, 0, 3, b'a', b'b', b'c']);
        bytes[15] += 6;
        assert_eq!(read_all(&bytes).await.unwrap(), (Some("203.0.113.7:5000".parse().unwrap()), Vec::new()));
    }

    #[tokio::test]
    async fn whatever_leaves_a_doubt_is_refused() {
        let good = header(Command::Proxy, Protocol::Stream, "203.0.113.7:5000");
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            bytes
        };
        let text = b"PROXY TCP4 203.0.113.7 10.0.0.2 5000 443\r\n".to_vec();
        for (bytes, wanted) in [
            (text, "Missing"),
            (changed(0, b'G'), "Missing"),
            (changed(12, 0x11), "Malformed"),
            (changed(12, 0x22), "Malformed"),
            (changed(13, 0x41), "Malformed"),
            (changed(13, 0x12), "Kind"),
            (changed(13, 0x21), "Malformed"),
            (changed(14, 0x20), "Size"),
            (good[..15].to_vec(), "Io"),
            (good[..20].to_vec(), "Io"),
            (Vec::new(), "Io"),
        ] {
            let error = read_all(&bytes).await.unwrap_err();
            assert!(format!("{error:?}").starts_with(wanted), "{error:?}, not {wanted}: {bytes:?}");
        }
    }

    #[tokio::test]
    async fn the_wait_is_bounded() {
        let (mut near, _far) = tokio::io::duplex(64);
        let error = client(&mut near, Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(error, ProxyError::Late));
    }

    proptest! {
        #[test]
        fn no_bytes_are_taken_for_a_client_without_the_signature(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let signed = bytes.starts_with(PROTOCOL_PREFIX);
            prop_assert!(signed || runtime.block_on(read_all(&bytes)).is_err());
        }

        #[test]
        fn no_rest_makes_the_parser_fail_otherwise(kind in any::<[u8; 2]>(), rest in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = PROTOCOL_PREFIX.to_vec();
            bytes.extend_from_slice(&kind);
            bytes.extend_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(&rest);
            let _ = address(&bytes);
        }
    }
}
