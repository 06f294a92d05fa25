//! Load balancers that say who is behind them (PROXY protocol, version 2).

use std::net::SocketAddr;

use tidegate::message::Connection;
use tidegate::net::ClientAuth;
use tokio::io::AsyncWriteExt as _;

use super::fixture::{BOTH, Client, Pki, Running, eventually, exchange, settings, statuses};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// A header by the text of the specification, not by the library that reads it.
fn header(client: [u8; 4], port: u16) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend_from_slice(&client);
    bytes.extend_from_slice(&[10, 0, 0, 2]);
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&443_u16.to_be_bytes());
    bytes
}

fn last(running: &Running) -> std::sync::Arc<Connection> {
    running.echo.connections.lock().unwrap().pop().unwrap()
}

#[tokio::test]
async fn the_peer_is_whom_a_listed_balancer_names() {
    let mut balanced = settings(None);
    balanced.proxy_protocol = vec!["127.0.0.0/8".parse().unwrap()];
    balanced.limits.max_connections_per_ip = 1;
    let running = Running::start(balanced);
    let (client, other): (SocketAddr, _) = ("203.0.113.7:5000".parse().unwrap(), [203, 0, 113, 8]);

    let mut first = running.connect().await;
    first.write_all(&header([203, 0, 113, 7], 5000)).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    eventually("the request is handled", || running.handled() == 1).await;
    assert_eq!(last(&running).peer, client);

    // One connection for each client, not for the balancer; the first one is still open.
    let mut second = running.connect().await;
    second.write_all(&header([203, 0, 113, 7], 5001)).await.unwrap();
    eventually("the second is one too many", || running.refused() == ["connections_per_address_exhausted"])
        .await;
    let mut third = running.connect().await;
    third.write_all(&header(other, 5002)).await.unwrap();
    assert_eq!(statuses(&exchange(&mut third, GET).await.0), ["200"]);
    assert_eq!(last(&running).peer.to_string(), "203.0.113.8:5002");
}

#[tokio::test]
async fn a_listed_balancer_without_a_header_is_refused_and_nothing_is_handled() {
    let mut balanced = settings(None);
    balanced.proxy_protocol = vec!["127.0.0.1/32".parse().unwrap()];
    let running = Running::start(balanced);
    let mut stream = running.connect().await;
    let (text, closed) = exchange(&mut stream, GET).await;
    assert_eq!((text.as_str(), closed, running.handled()), ("", true, 0));
    assert_eq!(running.refused(), ["proxy_header"]);
}

#[tokio::test]
async fn nobody_else_can_choose_an_address() {
    let pki = Pki::new();
    let mut balanced = settings(Some(pki.tls(ClientAuth::Off)));
    balanced.proxy_protocol = vec!["192.0.2.0/24".parse().unwrap()];
    let running = Running::start(balanced);
    let mut stream = running.connect().await;
    let mut bytes = header([203, 0, 113, 7], 5000);
    bytes.extend_from_slice(GET);
    let (_, closed) = exchange(&mut stream, &bytes).await;
    assert!(closed && running.handled() == 0);
    eventually("the handshake fails", || running.refused() == ["handshake_failed"]).await;

    let client = Client { versions: BOTH, alpn: &[b"http/1.1"], identity: None };
    let mut stream = client.connect(&pki, running.address).await.unwrap();
    assert_eq!(statuses(&exchange(&mut stream, GET).await.0), ["200"]);
    assert!(last(&running).peer.ip().is_loopback());
}
