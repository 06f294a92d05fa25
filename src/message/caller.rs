//! The headers in which a caller speaks to the gateway, taken out of the message so that they never travel on.

use http::{HeaderMap, HeaderValue};

/// What the caller said to the gateway itself.
#[derive(Debug, Clone, Default)]
pub struct CallerHeaders {
    /// `Authorization`, all of them.
    pub authorization: Vec<HeaderValue>,
    /// `x-api-key`, all of them.
    pub api_key: Vec<HeaderValue>,
    /// `traceparent`.
    pub traceparent: Option<HeaderValue>,
    /// `tracestate`.
    pub tracestate: Option<HeaderValue>,
    /// `tidegate-label`.
    pub label: Option<HeaderValue>,
    /// `tidegate-residency`.
    pub residency: Option<HeaderValue>,
    /// `tidegate-purpose`.
    pub purpose: Option<HeaderValue>,
}

/// A header that may occur once occurs more often.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header `{0}` occurs more than once")]
pub struct DuplicatedHeader(pub &'static str);

impl CallerHeaders {
    /// Takes the caller's headers out of `headers`.
    ///
    /// # Errors
    /// One of those that may occur once occurs more often.
    pub fn take_from(headers: &mut HeaderMap) -> Result<Self, DuplicatedHeader> {
        Ok(Self {
            authorization: take_all(headers, "authorization"),
            api_key: take_all(headers, "x-api-key"),
            traceparent: take_one(headers, "traceparent")?,
            tracestate: take_one(headers, "tracestate")?,
            label: take_one(headers, "tidegate-label")?,
            residency: take_one(headers, "tidegate-residency")?,
            purpose: take_one(headers, "tidegate-purpose")?,
        })
    }
}

fn take_all(headers: &mut HeaderMap, name: &'static str) -> Vec<HeaderValue> {
    let values = headers.get_all(name).iter().cloned().collect();
    headers.remove(name);
    values
}

fn take_one(headers: &mut HeaderMap, name: &'static str) -> Result<Option<HeaderValue>, DuplicatedHeader> {
    let mut values = take_all(headers, name);
    let one = values.pop();
    if values.is_empty() { Ok(one) } else { Err(DuplicatedHeader(name)) }
}
