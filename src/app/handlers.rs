//! What each listener serves. The gateway and the admin interface know nothing of listeners; these join them.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};

use crate::admin::Admin;
use crate::gateway::Gateway;
use crate::listen::{Handler, Refusal, RefusedConnection, RequestBody};
use crate::message::{self, Body, Connection};

/// Serves the data listener.
#[derive(Debug)]
pub(super) struct DataHandler(pub(super) Arc<Gateway>);

impl Handler for DataHandler {
    async fn handle(&self, connection: Arc<Connection>, request: Request<RequestBody>) -> Response<Body> {
        self.0.handle(&connection, request).await
    }

    async fn reject(&self, connection: Arc<Connection>, refusal: Refusal) -> Response<Body> {
        self.0.malformed(connection.peer, refusal.code(), &refusal.to_string())
    }

    fn refused(&self, peer: SocketAddr, reason: &RefusedConnection) {
        tracing::debug!(%peer, code = reason.code(), cause = ?std::error::Error::source(reason), "connection refused");
        self.0.unanswered(peer, reason.code());
    }
}

/// Serves the admin listener.
#[derive(Debug)]
pub(super) struct AdminHandler(pub(super) Admin);

impl Handler for AdminHandler {
    async fn handle(&self, connection: Arc<Connection>, request: Request<RequestBody>) -> Response<Body> {
        self.0.answer(&connection, request.method(), request.uri().path())
    }

    async fn reject(&self, _: Arc<Connection>, refusal: Refusal) -> Response<Body> {
        let mut response = Response::new(message::full(format!("{refusal}\n")));
        *response.status_mut() = refusal.status();
        response
    }

    fn refused(&self, peer: SocketAddr, reason: &RefusedConnection) {
        tracing::debug!(%peer, code = reason.code(), "connection refused on the admin listener");
    }
}
