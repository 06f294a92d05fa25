//! Objects: the answer from a store, sealed for its reader as one message over exactly the bytes that were asked for; and the message
//! that an object is at rest.

use super::context::{self, Facts};
use super::error::{OpeningError, SealingError};
use super::keys::{KeyError, Scope};
use super::protector::{Plan, Protector, Seal, SealFacts};
use super::seal::{EncryptionContext, OpenError, Opener, UnverifiedHeader};

/// Which part of which version of which object an answer holds.
#[derive(Debug, Clone, Copy)]
pub struct ObjectFacts<'a> {
    /// The store, by its configured name.
    pub store: &'a str,
    /// The bucket.
    pub bucket: &'a str,
    /// The object's key.
    pub key: &'a str,
    /// The store's entity tag, if it gave one.
    pub version: Option<&'a str>,
    /// The first and the last byte; none of an empty object.
    pub range: Option<(u64, u64)>,
    /// Bytes of the whole object.
    pub total: u64,
}

/// Which object a message is at rest.
#[derive(Debug, Clone, Copy)]
pub struct ObjectName<'a> {
    /// The store, by its configured name.
    pub store: &'a str,
    /// The bucket.
    pub bucket: &'a str,
    /// The object's key.
    pub key: &'a str,
}

/// Why an object that should be sealed at rest is not believed.
#[derive(Debug, thiserror::Error)]
pub enum StoredFault {
    /// The format, the commitment or a tag.
    #[error("the object does not open: {0}")]
    Open(#[from] OpenError),
    /// None of the expected keys opens it, or the key could not be had.
    #[error("the object does not open: {0}")]
    Key(#[from] KeyError),
    /// It is another object's message, or another tenant's.
    #[error("the object is a message that was made for another place: `{0}` differs")]
    Place(&'static str),
    /// This gateway has no keys.
    #[error("this gateway has no keys")]
    NoKeys,
    /// It could not be read.
    #[error("the sealed body could not be read")]
    Body(#[source] crate::message::BoxError),
}

impl StoredFault {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Open(error) => error.code(),
            Self::Key(error) => error.code(),
            Self::Place(_) => "seal_context",
            Self::NoKeys => "protection_unavailable",
            Self::Body(_) => "body_broken",
        }
    }

    /// Whether the message is to blame, and not that its key cannot be had now.
    #[must_use]
    pub const fn is_of_the_message(&self) -> bool {
        match self {
            Self::Open(_) | Self::Place(_) => true,
            Self::Key(error) => matches!(error, KeyError::Foreign(_) | KeyError::Sealed(_)),
            Self::NoKeys | Self::Body(_) => false,
        }
    }
}

impl From<OpeningError> for StoredFault {
    fn from(error: OpeningError) -> Self {
        match error {
            OpeningError::Open(error) => Self::Open(error),
            OpeningError::Key(error) => Self::Key(error),
            OpeningError::NoKeys => Self::NoKeys,
            OpeningError::Body(cause) => Self::Body(cause),
            // Of exchanges, which an object has none of.
            OpeningError::Frame(_) => Self::Open(OpenError::Header("it is no object's")),
            OpeningError::Context(_) | OpeningError::Replay(_) => Self::Place("direction"),
        }
    }
}

impl Protector {
    /// Prepares the message that an object will be at rest, bound to its place.
    ///
    /// # Errors
    /// There is no key to be had, or the object's name is too long to be bound.
    pub async fn plan_at_rest(
        &self,
        scope: &Scope,
        object: ObjectName<'_>,
        content_type: Option<&str>,
    ) -> Result<Plan, SealingError> {
        let mut context = EncryptionContext::new();
        for (name, value) in place_of(scope, object) {
            context.insert(name, value)?;
        }
        if let Some(media) = content_type {
            context.insert("content-type", media)?;
        }
        Ok(Plan::Rest(Box::new(self.seal(scope, context).await?)))
    }

    /// Believes the header of an object at rest: it opens with a key of one of these scopes, and, if `place` is given, is the message
    /// of that object under the first of them.
    pub(super) async fn unlock_stored(
        &self,
        header: UnverifiedHeader,
        scopes: &[Scope],
        place: Option<ObjectName<'_>>,
    ) -> Result<(Opener, SealFacts), StoredFault> {
        let named = |scope: &&Scope| self.names(&header, scope);
        let scope = scopes.iter().find(named).or_else(|| scopes.first()).ok_or(StoredFault::NoKeys)?;
        let (opener, facts) = self.unlock(header, scope).await?;
        if let Some(object) = place {
            let context = opener.header().context();
            for (name, value) in place_of(scope, object) {
                if context.get(name) != Some(value) {
                    return Err(StoredFault::Place(name));
                }
            }
        }
        Ok((opener, facts))
    }

    /// Whether a header names a key of that scope; nothing of it is verified.
    fn names(&self, header: &UnverifiedHeader, scope: &Scope) -> bool {
        let edks = header.unverified().edks();
        self.keys().is_some_and(|keys| keys.named(edks).any(|key| key.scope == *scope))
    }

    /// Prepares the message of an answer; its context says what of which object it holds, so that no answer passes for another.
    ///
    /// # Errors
    /// There is no key to be had, or the facts are too long to be bound.
    pub async fn seal_object(
        &self,
        scope: &Scope,
        facts: Facts<'_>,
        object: ObjectFacts<'_>,
    ) -> Result<Seal, SealingError> {
        let mut context = context::build(scope, &facts, None, self.now())?;
        context.insert("store", object.store)?;
        context.insert("bucket", object.bucket)?;
        context.insert("key", object.key)?;
        if let Some(version) = object.version {
            context.insert("version", version)?;
        }
        if let Some((first, last)) = object.range {
            context.insert("range", format!("{first}-{last}"))?;
        }
        context.insert("total", object.total.to_string())?;
        self.seal(scope, context).await
    }
}

/// What binds an object at rest to its place, by the names of the context.
fn place_of<'a>(scope: &'a Scope, object: ObjectName<'a>) -> [(&'static str, &'a str); 6] {
    [
        ("tenant", scope.tenant.as_str()),
        ("recipient", scope.recipient.as_str()),
        ("direction", scope.direction.name()),
        ("store", object.store),
        ("bucket", object.bucket),
        ("key", object.key),
    ]
}
