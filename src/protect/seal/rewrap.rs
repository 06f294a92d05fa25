//! Other recipients for a message that is there already: a new header, and every frame stays as it is.

use bytes::Bytes;

use super::derive::derive;
use super::header::Header;
use super::{DataKey, Edk, EncryptionContext, OpenError, SealError, UnverifiedHeader};

/// A header that cannot be wrapped anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RewrapError {
    /// The old header does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new one cannot be written.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// The header with other encrypted data keys. Id, context, frame length and commitment stay, so the frames fit it.
///
/// # Errors
/// The old header does not open with this data key, or the new one cannot be written.
pub fn rewrap(
    header: UnverifiedHeader,
    data_key: &DataKey,
    required: &EncryptionContext,
    edks: Vec<Edk>,
) -> Result<Bytes, RewrapError> {
    let opener = header.verify(data_key, required)?;
    let old = opener.header();
    let (cipher, commitment) = derive(data_key, old.message_id())?;
    let new = Header::new(*old.message_id(), old.context().clone(), edks, old.frame_length(), commitment);
    Ok(new.write(&cipher, required)?)
}
