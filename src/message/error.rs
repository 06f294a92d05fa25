//! Why the gate refuses a request: one variant a row of the refusal table, each with its status and stable code.

use http::StatusCode;

use super::DuplicatedHeader;

/// A request that the gate refuses. `Display` is the public reason; nothing internal is in it.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// No host at all (RFC 9112 3.2).
    #[error("the request names no host")]
    HostMissing,
    /// Several hosts, or the target's authority and `Host` differ.
    #[error("the request names more than one host")]
    HostAmbiguous,
    /// The host is no registered name or IP literal with an optional port.
    #[error("the host is not a valid name or address")]
    HostInvalid,
    /// Asterisk form, authority form, an unknown scheme or a target without a path.
    #[error("the request target must be a path or an absolute URI")]
    TargetForm,
    /// `//`, `.` or `..` segments, `\` or `;`: servers disagree about what they name.
    #[error("the path has empty or dot segments, a backslash or a semicolon")]
    PathAmbiguous,
    /// A path byte or percent escape that servers decode differently.
    #[error(
        "the path has an invalid, doubled or forbidden percent escape, or a byte that must be percent-encoded"
    )]
    PathEncoding,
    /// `;` in the query: some servers split there.
    #[error("the query has a raw semicolon")]
    QueryAmbiguous,
    /// The query has a broken escape, is not UTF-8 when decoded, or holds NUL.
    #[error("the query has an invalid percent escape or a byte that must be percent-encoded")]
    QueryEncoding,
    /// More pairs than [`super::target::MAX_QUERY_PAIRS`].
    #[error("the query has more than {} pairs", super::target::MAX_QUERY_PAIRS)]
    QueryTooManyPairs,
    /// The target is longer than the configured bound.
    #[error("the request target is longer than {limit} bytes")]
    UriTooLong {
        /// The bound, in bytes.
        limit: usize,
    },
    /// The method is not served by this gateway at all; `connection` methods also end the connection.
    #[error("the method is not allowed")]
    MethodNotAllowed {
        /// Whether it is CONNECT or TRACE, after which the connection cannot be trusted.
        connection: bool,
    },
    /// `Upgrade` or `HTTP2-Settings`: this gateway never tunnels.
    #[error("protocol upgrades are not served")]
    UpgradeRefused,
    /// Neither HTTP/1.1 nor HTTP/2.
    #[error("the HTTP version is not served")]
    VersionUnsupported,
    /// A header name with `_`: servers map it onto the name with `-`.
    #[error("header names with underscores are not accepted")]
    HeaderUnderscore,
    /// A header that may occur once occurs again.
    #[error("header `{0}` occurs more than once")]
    HeaderDuplicated(String),
    /// A header of the caller's own occurs again.
    #[error(transparent)]
    CallerHeaderDuplicated(#[from] DuplicatedHeader),
    /// The headers are larger or more than the configured bounds.
    #[error("the request headers are too large")]
    HeaderTooLarge,
    /// `Connection` names a header that is not the connection's to drop.
    #[error("the connection header names an end-to-end header")]
    ConnectionOption,
    /// An expectation other than `100-continue`.
    #[error("only the expectation `100-continue` is served")]
    ExpectationFailed,
    /// The declared length is over the bound.
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge {
        /// The bound, in bytes.
        limit: u64,
    },
    /// GET or HEAD with a body: it has no meaning, and servers differ in reading it (RFC 9110 9.3.1).
    #[error("a request of this method has no body")]
    BodyUnexpected,
    /// The length headers contradict each other or the framing.
    #[error("the length of the body is ambiguous")]
    FramingAmbiguous,
    /// A transfer coding other than `chunked` (RFC 9112 6.1).
    #[error("the transfer coding is not served")]
    TransferCoding,
}

impl GateError {
    /// The status that answers it.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::UriTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::VersionUnsupported => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::HeaderTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The stable code in answers, records and metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::HostMissing => "host_missing",
            Self::HostAmbiguous => "host_ambiguous",
            Self::HostInvalid => "host_invalid",
            Self::TargetForm => "target_form",
            Self::PathAmbiguous => "path_ambiguous",
            Self::PathEncoding => "path_encoding",
            Self::QueryAmbiguous => "query_ambiguous",
            Self::QueryEncoding => "query_encoding",
            Self::QueryTooManyPairs => "query_too_many_pairs",
            Self::UriTooLong { .. } => "uri_too_long",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::UpgradeRefused => "upgrade_refused",
            Self::VersionUnsupported => "version_unsupported",
            Self::HeaderUnderscore => "header_underscore",
            Self::HeaderDuplicated(_) | Self::CallerHeaderDuplicated(_) => "header_duplicated",
            Self::HeaderTooLarge => "header_too_large",
            Self::ConnectionOption => "connection_option",
            Self::ExpectationFailed => "expectation_failed",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyUnexpected => "body_unexpected",
            Self::FramingAmbiguous => "framing_ambiguous",
            Self::TransferCoding => "transfer_coding",
        }
    }

    /// Whether an HTTP/1.1 connection must end after the answer: what follows on it may be read differently by others.
    /// False means that the next request is safe, once the body of this one has been drained.
    #[must_use]
    pub const fn close(&self) -> bool {
        match self {
            Self::PathAmbiguous
            | Self::PathEncoding
            | Self::QueryAmbiguous
            | Self::QueryEncoding
            | Self::QueryTooManyPairs
            | Self::HeaderUnderscore
            | Self::HeaderDuplicated(_)
            | Self::CallerHeaderDuplicated(_) => false,
            Self::MethodNotAllowed { connection } => *connection,
            _ => true,
        }
    }

    /// The value of `Allow` that a 405 must carry (RFC 9110 15.5.6).
    #[must_use]
    pub const fn allow(&self) -> Option<&'static str> {
        match self {
            Self::MethodNotAllowed { .. } => Some(super::gate::ALLOWED_METHODS),
            _ => None,
        }
    }
}
