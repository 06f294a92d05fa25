//! An answer from a store, sealed for its reader: one message over exactly the bytes that were asked for.

use super::context::{self, Facts};
use super::error::SealingError;
use super::keys::Scope;
use super::protector::{Protector, Seal};

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

impl Protector {
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
