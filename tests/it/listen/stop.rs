//! The listener's end: nothing new is accepted, what runs may finish, and not for ever.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy;
use tidegate::model::Duration as Span;
use tidegate::net::{Alpn, ClientAuth, Connector};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::fixture::{BOTH, Client, Pki, Running, client_of, settings};

/// Opens `/stream` and reads its first piece.
async fn open_stream(
    running: &Running,
    client: &legacy::Client<Connector, Full<Bytes>>,
) -> hyper::body::Incoming {
    let url = format!("https://gateway.test:{}/stream", running.address.port());
    let request = Request::get(url).body(Full::default()).unwrap();
    let mut body = client.request(request).await.unwrap().into_body();
    send(running, "one").await;
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    body
}

async fn send(running: &Running, piece: &'static str) {
    let sender = running.echo.streams.lock().unwrap().last().unwrap().clone();
    sender.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
}

async fn stream_through_a_stop(alpn: Alpn) {
    let pki = Pki::new();
    let mut running = Running::start(settings(Some(pki.tls(ClientAuth::Off))));
    let client = client_of(&pki, running.address, alpn);
    let mut body = open_stream(&running, &client).await;
    running.stop.take().unwrap().send(()).unwrap();
    let stopped = Instant::now();
    while TcpStream::connect(running.address).await.is_ok() {
        assert!(stopped.elapsed() < Duration::from_millis(100), "still accepting");
        sleep(Duration::from_millis(2)).await;
    }
    // The open stream goes on to its end.
    send(&running, "two").await;
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "two");
    assert!(!running.task.is_finished());
    running.echo.streams.lock().unwrap().clear();
    let rest = body.collect().await.unwrap().to_bytes();
    assert!(rest.is_empty());
    timeout(Duration::from_secs(2), running.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stop_lets_an_http1_stream_end() {
    stream_through_a_stop(Alpn::Http1).await;
}

#[tokio::test]
async fn a_stop_lets_an_http2_stream_end() {
    stream_through_a_stop(Alpn::PreferHttp2).await;
}

#[tokio::test]
async fn the_drain_time_is_the_end() {
    let pki = Pki::new();
    let mut settings = settings(Some(pki.tls(ClientAuth::Off)));
    settings.drain = Span::millis(80);
    let mut running = Running::start(settings);
    let client = client_of(&pki, running.address, Alpn::PreferHttp2);
    let mut body = open_stream(&running, &client).await;
    let idle =
        Client { versions: BOTH, alpn: &[], identity: None }.connect(&pki, running.address).await.unwrap();
    let unshaken = running.connect().await;
    let started = Instant::now();
    running.stop.take().unwrap().send(()).unwrap();
    timeout(Duration::from_secs(2), &mut running.task).await.unwrap().unwrap();
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(70) && took < Duration::from_millis(1500), "{took:?}");
    assert!(body.frame().await.unwrap().is_err(), "a cut stream must not look complete");
    drop((idle, unshaken));
}
