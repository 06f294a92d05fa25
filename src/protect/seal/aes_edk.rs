//! The data key encrypted with AES-256-GCM under a key that both sides hold, in the form of the raw AES keyring.

use bytes::Bytes;
use zeroize::Zeroize as _;

use super::aead::{Cipher, KEY_BYTES, NONCE_BYTES, TAG_BYTES};
use super::ids::{DataKey, Edk, random};
use super::{EncryptionContext, SealError};

/// What follows the key's name: the tag's length in bits, the nonce's length in bytes, the nonce.
const TRAILER_BYTES: usize = 4 + 4 + NONCE_BYTES;
const TAG_BITS: u32 = 128;
const NONCE_LENGTH: u32 = 12;

/// Wraps a data key; `context` is the whole one, stored and required.
///
/// # Errors
/// The system's random source failed, or the cipher did.
pub fn wrap(
    kek: &[u8; KEY_BYTES],
    namespace: &str,
    name: &str,
    data_key: &DataKey,
    context: &EncryptionContext,
) -> Result<Edk, SealError> {
    let nonce = random::<NONCE_BYTES>()?;
    let mut ciphertext = Vec::with_capacity(KEY_BYTES + TAG_BYTES);
    ciphertext.extend_from_slice(data_key.expose());
    let sealed = Cipher::new(kek).seal(&nonce, &context.serialise(), &mut ciphertext);
    let tag = sealed.map_err(|_| {
        ciphertext.zeroize();
        SealError::Cipher
    })?;
    ciphertext.extend_from_slice(&tag);
    let info = [name.as_bytes(), &TAG_BITS.to_be_bytes(), &NONCE_LENGTH.to_be_bytes(), &nonce].concat();
    Ok(Edk {
        provider: Bytes::copy_from_slice(namespace.as_bytes()),
        info: info.into(),
        ciphertext: ciphertext.into(),
    })
}

/// Unwraps a data key that was wrapped under this key and name for this context; none if it was not.
#[must_use]
pub fn unwrap(
    kek: &[u8; KEY_BYTES],
    namespace: &str,
    name: &str,
    edk: &Edk,
    context: &EncryptionContext,
) -> Option<DataKey> {
    if edk.provider != namespace.as_bytes() || name_of(edk)? != name {
        return None;
    }
    let nonce = edk.info.last_chunk::<NONCE_BYTES>()?;
    let (key, tag) = edk.ciphertext.split_last_chunk::<TAG_BYTES>()?;
    let mut key: [u8; KEY_BYTES] = key.try_into().ok()?;
    let opened = Cipher::new(kek).open(nonce, &context.serialise(), &mut key, tag);
    let data_key = opened.is_ok().then(|| DataKey::from(key));
    key.zeroize();
    data_key
}

/// The name of the key that wrapped it, if it has the form of this module.
#[must_use]
pub fn name_of(edk: &Edk) -> Option<&str> {
    let (name, trailer) = edk.info.split_at_checked(edk.info.len().checked_sub(TRAILER_BYTES)?)?;
    let (bits, trailer) = trailer.split_first_chunk::<4>()?;
    let (length, _) = trailer.split_first_chunk::<4>()?;
    let shaped = *bits == TAG_BITS.to_be_bytes() && *length == NONCE_LENGTH.to_be_bytes();
    if shaped { std::str::from_utf8(name).ok() } else { None }
}
