//! Why a caller could not be identified: a stable code, a public reason, a private cause.

use http::StatusCode;

/// A private detail, for the operator's log only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Why(pub(crate) &'static str);

/// A caller who is not identified. `Display` is the public reason; `source()` the private cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Nothing that could identify anyone was shown.
    #[error("no credentials were presented")]
    CredentialsMissing,
    /// More than one credential was shown.
    #[error("more than one credential was presented")]
    CredentialsAmbiguous,
    /// `Authorization` holds something else than a bearer token.
    #[error("the authorization scheme is not supported; present a bearer token")]
    CredentialsUnsupported,
    /// The token is not a compact JWS within the bounds.
    #[error("the bearer token is malformed")]
    TokenMalformed(#[source] Why),
    /// The token's algorithm is not allowed, or does not fit its key.
    #[error("the signature algorithm of the bearer token is not accepted")]
    TokenAlgorithm(#[source] Why),
    /// The token's type says that it is no access token.
    #[error("the bearer token is not of an accepted type")]
    TokenType(#[source] Why),
    /// The issuer has no such key.
    #[error("the bearer token was signed with an unknown key")]
    TokenKeyUnknown,
    /// The signature is wrong.
    #[error("the signature of the bearer token is not valid")]
    TokenSignature,
    /// The token has ended.
    #[error("the bearer token has expired")]
    TokenExpired,
    /// The token has not begun.
    #[error("the bearer token is not valid yet")]
    TokenNotYetValid,
    /// The token is for someone else.
    #[error("the bearer token is not meant for this gateway")]
    TokenAudience,
    /// The token comes from an issuer that is not configured.
    #[error("the issuer of the bearer token is not trusted")]
    TokenIssuer,
    /// A claim is missing, doubled, of a wrong type or out of bounds.
    #[error("the claims of the bearer token are not acceptable")]
    TokenClaims(#[source] Why),
    /// The token is bound to another client certificate, or by a method that is not supported.
    #[error("the bearer token is bound to another client")]
    TokenBinding(#[source] Why),
    /// The token does not say which tenant it belongs to.
    #[error("the bearer token names no tenant")]
    TokenTenantMissing,
    /// The client certificate is outside its validity, or is an authority's.
    #[error("the client certificate is not valid")]
    CertificateInvalid(#[source] Why),
    /// The client certificate carries no single SPIFFE ID of a trusted domain.
    #[error("the client certificate does not identify a trusted workload")]
    CertificateIdentity(#[source] Why),
    /// There is no such API key.
    #[error("the API key is not known")]
    ApiKeyUnknown,
    /// The API key has ended.
    #[error("the API key has expired")]
    ApiKeyExpired,
    /// The token or key is on the list of revocations.
    #[error("the credential was revoked")]
    CredentialRevoked,
    /// The subject or workload is on the list of revocations.
    #[error("the caller was revoked")]
    PrincipalRevoked,
    /// The issuer's keys could not be had for too long: nobody can be verified.
    #[error("the keys of the token issuer are not available at the moment")]
    KeysUnavailable,
}

impl IdentityError {
    /// The stable code of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::CredentialsMissing => "credentials_missing",
            Self::CredentialsAmbiguous => "credentials_ambiguous",
            Self::CredentialsUnsupported => "credentials_unsupported",
            Self::TokenMalformed(_) => "token_malformed",
            Self::TokenAlgorithm(_) => "token_algorithm",
            Self::TokenType(_) => "token_type",
            Self::TokenKeyUnknown => "token_key_unknown",
            Self::TokenSignature => "token_signature",
            Self::TokenExpired => "token_expired",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::TokenAudience => "token_audience",
            Self::TokenIssuer => "token_issuer",
            Self::TokenClaims(_) => "token_claims",
            Self::TokenBinding(_) => "token_binding",
            Self::TokenTenantMissing => "token_tenant_missing",
            Self::CertificateInvalid(_) => "certificate_invalid",
            Self::CertificateIdentity(_) => "certificate_identity",
            Self::ApiKeyUnknown => "api_key_unknown",
            Self::ApiKeyExpired => "api_key_expired",
            Self::CredentialRevoked => "credential_revoked",
            Self::PrincipalRevoked => "principal_revoked",
            Self::KeysUnavailable => "keys_unavailable",
        }
    }

    /// 401; 403 if no other credential would help, 503 if the fault is not the caller's.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::KeysUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::PrincipalRevoked => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The value of `WWW-Authenticate` that a 401 must carry (RFC 9110 11.6.1, RFC 6750 3).
    #[must_use]
    pub const fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::KeysUnavailable | Self::PrincipalRevoked => None,
            Self::CredentialsMissing
            | Self::CredentialsUnsupported
            | Self::CertificateInvalid(_)
            | Self::CertificateIdentity(_) => Some("Bearer"),
            Self::CredentialsAmbiguous => Some("Bearer error=\"invalid_request\""),
            _ => Some("Bearer error=\"invalid_token\""),
        }
    }
}
