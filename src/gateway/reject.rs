//! Every refusal that we answer ourselves: RFC 9457 `application/problem+json` with a stable code, a public
//! reason and the record's id. The cause stays inside.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::audit::Unavailable;
use crate::audit::record::Ending;
use crate::identity::IdentityError;
use crate::inspect::InspectError;
use crate::limit::LimitExceeded;
use crate::message::{self, Body, BodyFault, BoxError, GateError};
use crate::model::RecordId;
use crate::policy::Denial;
use crate::protect::ProtectError;
use crate::route::RouteError;
use crate::upstream::{SendError, UpstreamError};

use super::codes;
use super::live::Ended;

/// A refusal on its way out.
#[derive(Debug)]
pub struct Reject {
    code: &'static codes::Code,
    detail: String,
    cause: Option<BoxError>,
    close: bool,
    retry_after: Option<Duration>,
    allow: Option<String>,
    challenge: Option<&'static str>,
    /// Set if what was permitted is permitted no longer.
    withdrawn: Option<Arc<Ended>>,
}

impl Reject {
    /// A refusal with a code of [`codes::ALL`]; an unknown one is reported as `internal`.
    pub(crate) fn new(code: &str, detail: impl Into<String>) -> Self {
        Self {
            code: codes::find(code),
            detail: detail.into(),
            cause: None,
            close: false,
            retry_after: None,
            allow: None,
            challenge: None,
            withdrawn: None,
        }
    }

    /// From an error of a stage whose `Display` is its public reason.
    pub(crate) fn from_stage(code: &str, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        let mut reject = Self::new(code, error.to_string());
        reject.cause = Some(Box::new(error));
        reject
    }

    /// Of an exchange that was ended before it was answered.
    pub(super) fn withdrawn(ended: &Arc<Ended>) -> Self {
        let mut reject = Self::new(ended.code, ended.detail());
        reject.cause = ended.cause().map(BoxError::from);
        // What is left of an upload is not read.
        reject.close = true;
        reject.withdrawn = Some(Arc::clone(ended));
        reject
    }

    /// Why the exchange was ended, if that is why.
    pub(super) fn ended(&self) -> Option<&Ended> {
        self.withdrawn.as_deref()
    }

    /// The same refusal under another code, for what was a peer's fault and not the caller's.
    pub(crate) fn becomes(&mut self, code: &str, detail: String) {
        self.code = codes::find(code);
        self.detail = detail;
        self.close = false;
    }

    /// Another attempt would be safe, but too many are made already. `failure` is why one was wanted.
    pub(crate) fn without_retry(failure: Option<&Self>) -> Self {
        let mut reject =
            Self::new("retry_budget_exhausted", "too many requests to the far side fail at the moment");
        reject.cause = failure.map(|failure| format!("{}: {}", failure.code(), failure.cause()).into());
        reject.retry_after = Some(Duration::from_secs(1));
        reject
    }

    /// The far side answered that it cannot serve, and is asked elsewhere.
    pub(crate) fn declined(status: StatusCode) -> Self {
        let mut reject = Self::new("upstream_declined", "no far side can serve the request at the moment");
        reject.cause = Some(format!("the far side answered {}", status.as_u16()).into());
        reject.retry_after = Some(Duration::from_secs(1));
        reject
    }

    /// Something went wrong inside; the caller learns nothing but that.
    pub(crate) fn internal(cause: impl Into<BoxError>) -> Self {
        let mut reject = Self::new("internal", "the gateway failed to handle the request");
        reject.cause = Some(cause.into());
        reject
    }

    /// Cedar's Deny. What exactly was unknown stays inside.
    pub(crate) fn denied(denial: &Denial) -> Self {
        let mut reject = Self::new(denial.reason.code(), denial.reason.to_string());
        reject.cause = denial.detail.as_deref().map(BoxError::from);
        reject
    }

    /// How the record of a request ends that is answered with this.
    pub(crate) fn ending(&self) -> Ending {
        if self.withdrawn.is_some() {
            return Ending::Withdrawn;
        }
        match self.code.name {
            "upstream_timeout" | "request_body_timeout" | "body_idle" | "body_too_slow" => Ending::Timeout,
            "upstream_reset" => Ending::UpstreamReset,
            "panicked" => Ending::Panicked,
            _ => Ending::Refused,
        }
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code.name
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The private cause with its own causes, for the operator's log.
    pub(crate) fn cause(&self) -> String {
        let mut text = String::new();
        let mut next = self.cause.as_deref().map(|error| error as &dyn std::error::Error);
        while let Some(error) = next {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }

    /// The answer.
    pub(crate) fn response(&self, record: Option<RecordId>) -> Response<Body> {
        #[derive(Serialize)]
        struct Problem<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            code: &'a str,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            record: Option<RecordId>,
        }
        let problem = Problem {
            r#type: format!("urn:tidegate:error:{}", self.code.name),
            title: self.code.title,
            status: self.code.status,
            code: self.code.name,
            detail: &self.detail,
            record,
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(message::full(Bytes::from(body)));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(methods) = self.allow.as_deref().and_then(|list| HeaderValue::from_str(list).ok()) {
            headers.insert(ALLOW, methods);
        }
        response
    }
}

impl From<GateError> for Reject {
    fn from(error: GateError) -> Self {
        let (close, allow) = (error.close(), error.allow());
        let mut reject = Self::from_stage(error.code(), error);
        reject.close = close;
        reject.allow = allow.map(str::to_owned);
        reject
    }
}

impl From<IdentityError> for Reject {
    fn from(error: IdentityError) -> Self {
        let challenge = error.challenge();
        let mut reject = Self::from_stage(error.code(), error);
        reject.challenge = challenge;
        if reject.code.status == 503 {
            reject.retry_after = Some(Duration::from_secs(5));
        }
        reject
    }
}

impl From<RouteError> for Reject {
    fn from(error: RouteError) -> Self {
        let allow = error.allow().map(str::to_owned);
        let mut reject = Self::from_stage(error.code(), error);
        reject.allow = allow;
        reject
    }
}

impl From<InspectError> for Reject {
    fn from(error: InspectError) -> Self {
        let wait = error.is_for_now().then_some(Duration::from_secs(5));
        let mut reject = Self::from_stage(error.code(), error);
        reject.retry_after = wait;
        reject
    }
}

impl From<LimitExceeded> for Reject {
    fn from(error: LimitExceeded) -> Self {
        let wait = Duration::from_secs(error.retry_after_seconds());
        let mut reject = Self::from_stage(error.code(), error);
        reject.retry_after = Some(wait);
        reject
    }
}

impl From<Unavailable> for Reject {
    fn from(error: Unavailable) -> Self {
        let mut reject = Self::new(error.code(), "the request cannot be recorded, so it is not served");
        reject.cause = Some(error.into());
        reject.retry_after = Some(Duration::from_secs(1));
        reject
    }
}

impl From<ProtectError> for Reject {
    fn from(error: ProtectError) -> Self {
        Self::from_stage(error.code(), error)
    }
}

impl From<UpstreamError> for Reject {
    fn from(error: UpstreamError) -> Self {
        let mut reject = Self::new(error.code(), "no endpoint can serve the request at the moment");
        reject.cause = Some(error.into());
        reject.retry_after = Some(Duration::from_secs(1));
        reject
    }
}

impl From<&SendError> for Reject {
    /// The error names the endpoint, which is not the caller's business.
    fn from(error: &SendError) -> Self {
        if let Some(fault) = std::error::Error::source(error).and_then(BodyFault::find) {
            let mut reject = Self::new(fault.code(), fault.to_string());
            reject.close = true;
            return reject;
        }
        let code = codes::find(error.code());
        let mut reject = Self::new(code.name, code.title.to_lowercase());
        let mut cause = error.to_string();
        let mut next = std::error::Error::source(error);
        while let Some(inner) = next {
            cause.push_str(": ");
            cause.push_str(&inner.to_string());
            next = inner.source();
        }
        reject.cause = Some(cause.into());
        reject
    }
}
