//! Why a key cannot be used. Names keys and files, never their contents.

use std::sync::Arc;

use http::StatusCode;

use super::name::{KeyName, Scope};
use super::root::RootError;
use super::store::StoreError;
use crate::model::RecipientName;

/// A key that cannot be used. Displays for the operator; clients get the code.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyError {
    /// No recipient of that name is configured.
    #[error("no recipient `{0}` is configured")]
    Recipient(RecipientName),
    /// There is no branch key for it.
    #[error("there is no branch key `{0}`: run `tidegate keys init`")]
    Missing(Scope),
    /// The message was sealed under a key that is not here, is retired, or is for something else.
    #[error("none of the message's keys is one of `{0}` that is here and not retired")]
    Foreign(Scope),
    /// The recipient's private key is elsewhere; only its holder can open.
    #[error("recipient `{0}` has a public key: what is sealed for it opens elsewhere")]
    Sealed(RecipientName),
    /// The root key that opens the branch key cannot be asked.
    #[error("the root key of `{name}` cannot be used")]
    Unavailable {
        /// The branch key.
        name: KeyName,
        /// Why.
        #[source]
        source: Arc<RootError>,
    },
    /// The key directory cannot be read or written.
    #[error("the key directory cannot be used")]
    Store(#[source] Arc<StoreError>),
    /// The key has wrapped as many data keys as is safe.
    #[error("branch key `{0}` has wrapped all the data keys that it may: run `tidegate keys rotate`")]
    Exhausted(KeyName),
    /// The cipher or the random source failed.
    #[error("the data key could not be wrapped")]
    Crypto,
}

impl KeyError {
    /// The stable code of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Recipient(_) | Self::Missing(_) => "key_missing",
            Self::Foreign(_) | Self::Sealed(_) => "seal_key_unknown",
            Self::Unavailable { .. } | Self::Store(_) | Self::Crypto => "key_unavailable",
            Self::Exhausted(_) => "key_exhausted",
        }
    }

    /// The status of the refusal.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Foreign(_) | Self::Sealed(_) => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<StoreError> for KeyError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}
