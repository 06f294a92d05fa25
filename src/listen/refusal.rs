//! Why bytes on an HTTP/1 connection, or a whole connection, are turned away before there is a request.
//!
//! Codes are stable: they appear in records and in answers. The texts are public and hold nothing that the peer sent.

use std::io;

use http::StatusCode;

use super::proxy::ProxyError;

/// Why the bytes of an HTTP/1 message were refused before the HTTP library saw them (RFC 9112).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A line of the head, of the trailers or of the chunk framing ends without a carriage return.
    #[error("a line ends with a bare line feed")]
    BareLf,
    /// A carriage return stands anywhere but at the end of a line.
    #[error("a line holds a bare carriage return")]
    BareCr,
    /// The first line is not `method SP target SP version`.
    #[error("the request line is malformed")]
    RequestLine,
    /// Any version but HTTP/1.0 and HTTP/1.1, so also the preface of HTTP/2 without TLS.
    #[error("the protocol version is not HTTP/1.0 or HTTP/1.1")]
    Version,
    /// The target holds `#`.
    #[error("the request target holds a fragment")]
    Fragment,
    /// The target holds a control byte or one above 0x7e.
    #[error("the request target holds a byte that must be percent-encoded")]
    TargetByte,
    /// A field line begins with white space (obs-fold, RFC 9112 section 5.2).
    #[error("a header is folded over several lines")]
    Folded,
    /// White space before the colon (RFC 9112 section 5.1).
    #[error("a header name is followed by white space")]
    SpaceBeforeColon,
    /// No colon, no name, or a name that is no token.
    #[error("a header name is malformed")]
    FieldName,
    /// A control byte in a field value.
    #[error("a header value holds a control byte")]
    FieldValue,
    /// Both `Content-Length` and `Transfer-Encoding`.
    #[error("both content-length and transfer-encoding are present")]
    TwoFramings,
    /// More than one `Content-Length`, also an equal one.
    #[error("content-length is repeated")]
    RepeatedLength,
    /// `Content-Length` is not one to nineteen digits.
    #[error("content-length is not a number")]
    Length,
    /// `Transfer-Encoding` is anything but one `chunked`.
    #[error("the transfer-encoding is not exactly chunked")]
    TransferEncoding,
    /// `Transfer-Encoding` in HTTP/1.0.
    #[error("transfer-encoding is not part of HTTP/1.0")]
    TransferEncodingVersion,
    /// A chunk size that is not one to sixteen hexadecimal digits, or is followed by anything but an extension.
    #[error("a chunk size is not plain hexadecimal")]
    ChunkSize,
    /// A control byte or one above 0x7e in a chunk extension, or an extension over the bound.
    #[error("a chunk extension is malformed or too long")]
    ChunkExtension,
    /// The data of a chunk is not followed by CRLF.
    #[error("a chunk does not end where its size says")]
    ChunkEnd,
    /// A framing or routing field among the trailers (RFC 9110 section 6.5.1).
    #[error("a trailer names a field that only a head may have")]
    Trailer,
    /// The head or the trailers have more bytes than allowed.
    #[error("the request head is too large")]
    HeadTooLarge,
    /// The head or the trailers have more fields than allowed.
    #[error("the request head has too many headers")]
    TooManyFields,
    /// The head was not complete in time.
    #[error("the request head did not arrive in time")]
    HeadTimeout,
}

impl Refusal {
    /// The stable code, for records and answers.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::BareLf => "bare_line_feed",
            Self::BareCr => "bare_carriage_return",
            Self::RequestLine => "request_line_malformed",
            Self::Version => "http_version_unsupported",
            Self::Fragment => "target_fragment",
            Self::TargetByte => "target_byte",
            Self::Folded => "header_folded",
            Self::SpaceBeforeColon => "header_space_before_colon",
            Self::FieldName => "header_name_malformed",
            Self::FieldValue => "header_value_malformed",
            Self::TwoFramings => "framing_ambiguous",
            Self::RepeatedLength => "content_length_repeated",
            Self::Length => "content_length_malformed",
            Self::TransferEncoding | Self::TransferEncodingVersion => "transfer_encoding_unsupported",
            Self::ChunkSize => "chunk_size_malformed",
            Self::ChunkExtension => "chunk_extension_malformed",
            Self::ChunkEnd => "chunk_end_malformed",
            Self::Trailer => "trailer_forbidden",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyFields => "too_many_headers",
            Self::HeadTimeout => "head_timeout",
        }
    }

    /// The status to answer with.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::HeadTooLarge | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Why a connection was closed without an answer.
#[derive(Debug, thiserror::Error)]
pub enum RefusedConnection {
    /// All connection places are taken.
    #[error("too many connections")]
    TooMany,
    /// The peer's address, or its /64, holds as many connections as one may.
    #[error("too many connections from one address")]
    TooManyFromAddress,
    /// A load balancer's connection does not say who is behind it.
    #[error("the load balancer's header cannot be used")]
    ProxyHeader(#[source] ProxyError),
    /// The TLS handshake did not end in time.
    #[error("the tls handshake did not end in time")]
    HandshakeTimeout,
    /// The TLS handshake failed: version, name, or the client certificate.
    #[error("the tls handshake failed")]
    Handshake(#[source] io::Error),
    /// The client certificate was verified but cannot be read.
    #[error("the client certificate cannot be read")]
    ClientCertificate(#[source] crate::net::CertificateError),
    /// The HTTP library refused what the peer sent, for HTTP/2 also when a flood was cut.
    #[error("the peer broke the protocol")]
    Protocol(#[source] hyper::Error),
    /// The peer sent HTTP/2 frames without end that the library does not count.
    #[error("the peer sent http/2 frames without end")]
    Flood,
}

impl RefusedConnection {
    /// The stable code, for records and metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooMany => "connections_exhausted",
            Self::TooManyFromAddress => "connections_per_address_exhausted",
            Self::ProxyHeader(_) => "proxy_header",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Handshake(_) => "handshake_failed",
            Self::ClientCertificate(_) => "client_certificate_unreadable",
            Self::Protocol(_) => "protocol_violation",
            Self::Flood => "http2_flood",
        }
    }
}
