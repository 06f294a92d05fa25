//! The small HTTPS client behind key sets and telemetry export: one origin, bounded answers, one time limit, no redirects, no retries.
//!
//! Traffic that is governed does not go through here; that is `upstream/`.

use std::path::PathBuf;
use std::time::Duration as StdDuration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::{Origin, OriginError, Reach};
use super::connector::{ConnectError, ConnectTimes, Connector, Plaintext};
use super::tls::{Alpn, ClientIdentityFiles, ClientTls, TlsError};
use crate::model::{ByteSize, Duration};

/// How a service of the house (an issuer, a collector) is reached.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientSettings {
    /// PEM file: the authorities that the server's certificate must come from; wanted for `https`. Default: none.
    pub ca: Option<PathBuf>,
    /// The name that the server's certificate must carry. Default: the host of the URL.
    pub server_name: Option<String>,
    /// Networks that the host may resolve into besides the public internet, as CIDR. Default: none.
    #[schemars(with = "Vec<String>")]
    pub allow_networks: Vec<IpNet>,
    /// Time for a whole exchange. Default: `10s`.
    pub timeout: Duration,
    /// Bytes of an answer. Default: `1MiB`.
    pub max_bytes: ByteSize,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            ca: None,
            server_name: None,
            allow_networks: Vec::new(),
            timeout: Duration::secs(10),
            max_bytes: ByteSize::mib(1),
        }
    }
}

/// Where the house's own services may be: their URLs are the operator's, and they are commonly inside. Link-local and metadata
/// addresses stay forbidden.
#[must_use]
pub fn private_networks() -> Vec<IpNet> {
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "fc00::/7", "::1/128"]
        .iter()
        .filter_map(|network| network.parse().ok())
        .collect()
}

/// A client of one origin. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    origin: Origin,
    http: legacy::Client<Connector, Full<Bytes>>,
    timeout: StdDuration,
    max_bytes: usize,
}

impl Client {
    /// A client for the origin of `url`; `http` only on this machine.
    ///
    /// # Errors
    /// The URL has no origin, the authorities are missing or unusable, or plaintext would leave this machine.
    pub fn new(url: &str, settings: &ClientSettings) -> Result<Self, ClientError> {
        Self::with_identity(url, settings, None)
    }

    /// Like [`Client::new`], and shows a certificate if it is asked for one.
    ///
    /// # Errors
    /// As [`Client::new`], and the certificate or its key cannot be used.
    pub fn with_identity(
        url: &str,
        settings: &ClientSettings,
        identity: Option<&ClientIdentityFiles>,
    ) -> Result<Self, ClientError> {
        let origin = Origin::parse(url)?;
        let reach = Reach::new(settings.allow_networks.clone());
        let times = ConnectTimes::default();
        let connector = if origin.secure {
            let ca = settings.ca.as_deref().ok_or_else(|| ClientError::NoCa(origin.clone()))?;
            let tls = ClientTls::load(ca, identity, Alpn::PreferHttp2)?;
            Connector::secure(origin.clone(), &tls, settings.server_name.as_deref(), reach, times)?
        } else {
            Connector::plain(origin.clone(), Plaintext::LoopbackOnly, reach, times)?
        };
        let http = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(StdDuration::from_secs(30))
            .pool_max_idle_per_host(2)
            .retry_canceled_requests(false)
            .http1_max_headers(100)
            .http1_max_buf_size(64 * 1024)
            .http2_max_header_list_size(32 * 1024)
            .build(connector);
        Ok(Self { origin, http, timeout: settings.timeout.get(), max_bytes: settings.max_bytes.as_usize() })
    }

    /// What it reaches.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The body of a `200 OK`.
    ///
    /// # Errors
    /// Another status, another origin, an answer over the bound, or any failure on the way.
    pub async fn get(&self, url: &str) -> Result<Bytes, FetchError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        match self.exchange(Method::GET, url, headers, Bytes::new()).await? {
            (StatusCode::OK, _, body) => Ok(body),
            (status, ..) => Err(FetchError::Status(status)),
        }
    }

    /// The body of a `200 OK` with its entity tag; none if the server says that it is still the one with this tag (RFC 9110 section 13.1.2).
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_if_changed(
        &self,
        url: &str,
        known: Option<&HeaderValue>,
    ) -> Result<Option<(Bytes, Option<HeaderValue>)>, FetchError> {
        let mut headers = HeaderMap::new();
        if let Some(tag) = known {
            headers.insert(IF_NONE_MATCH, tag.clone());
        }
        match self.exchange(Method::GET, url, headers, Bytes::new()).await? {
            (StatusCode::OK, headers, body) => Ok(Some((body, headers.get(ETAG).cloned()))),
            (StatusCode::NOT_MODIFIED, ..) if known.is_some() => Ok(None),
            (status, ..) => Err(FetchError::Status(status)),
        }
    }

    /// Posts a body; `headers` should hold its content type. The status is the caller's to judge.
    ///
    /// # Errors
    /// Another origin, an answer over the bound, or any failure on the way.
    pub async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), FetchError> {
        self.post_for_head(url, headers, body).await.map(|(status, _, body)| (status, body))
    }

    /// Like [`Client::post`], and gives the headers of the answer too.
    ///
    /// # Errors
    /// As [`Client::post`].
    pub async fn post_for_head(
        &self,
        url: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, HeaderMap, Bytes), FetchError> {
        headers.entry(CONTENT_TYPE).or_insert_with(|| HeaderValue::from_static("application/octet-stream"));
        self.exchange(Method::POST, url, headers, body).await
    }

    async fn exchange(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, HeaderMap, Bytes), FetchError> {
        let uri: Uri = url.parse().map_err(|_| FetchError::Url(OriginError::Malformed))?;
        if Origin::of(&uri)? != self.origin {
            return Err(FetchError::OtherOrigin(self.origin.clone()));
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let agent = HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        let whole = async {
            let answer = self.http.request(request).await?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, self.max_bytes).collect().await;
            body.map(|body| (head.status, head.headers, body.to_bytes())).map_err(|error| {
                if error.is::<LengthLimitError>() { FetchError::TooLarge } else { FetchError::Body(error) }
            })
        };
        tokio::time::timeout(self.timeout, whole).await.unwrap_or(Err(FetchError::Timeout))
    }
}

/// A client that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL.
    #[error(transparent)]
    Url(#[from] OriginError),
    /// Nobody is trusted.
    #[error("origin `{0}` is https but no `ca` is given")]
    NoCa(Origin),
    /// The authorities.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The origin.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// An exchange that failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL.
    #[error(transparent)]
    Url(#[from] OriginError),
    /// The URL is of another origin.
    #[error("url is not of `{0}`")]
    OtherOrigin(Origin),
    /// The connection or the exchange failed.
    #[error("exchange failed")]
    Exchange(#[from] legacy::Error),
    /// The answer broke off.
    #[error("answer broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is larger than allowed.
    #[error("answer is too large")]
    TooLarge,
    /// It took too long.
    #[error("exchange took too long")]
    Timeout,
    /// Another status than 200.
    #[error("status is `{0}`")]
    Status(StatusCode),
}
