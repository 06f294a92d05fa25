//! AES-256-GCM in place, behind the `aead` traits: which implementation does it is chosen when the program is built.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut as _, KeyInit as _};

/// The implementation: RustCrypto's, or AWS-LC's with the feature `fast-aead`. The bytes are the same.
#[cfg(not(feature = "fast-aead"))]
type Backend = aes_gcm::Aes256Gcm;
#[cfg(feature = "fast-aead")]
type Backend = super::aws_lc::AwsLcGcm;

/// The length of a key in bytes.
pub(crate) const KEY_BYTES: usize = 32;
/// The length of a nonce in bytes.
pub(crate) const NONCE_BYTES: usize = 12;
/// The length of a tag in bytes.
pub(crate) const TAG_BYTES: usize = 16;

/// A tag that does not fit, or a text beyond the cipher's bound (2^36 bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cipher refused")]
pub(crate) struct CipherError;

/// One expanded key (NIST SP 800-38D).
pub(crate) struct Cipher(Backend);

impl Cipher {
    pub(crate) fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self(Backend::new(key.into()))
    }

    /// Encrypts `text` where it stands; the tag covers `aad` too.
    pub(crate) fn seal(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], CipherError> {
        let tag = self.0.encrypt_inout_detached(nonce.into(), aad, InOutBuf::from(text));
        tag.map(Into::into).map_err(|_| CipherError)
    }

    /// Decrypts `text` where it stands. After an error `text` is to be thrown away.
    pub(crate) fn open(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), CipherError> {
        self.0
            .decrypt_inout_detached(nonce.into(), aad, InOutBuf::from(text), tag.into())
            .map_err(|_| CipherError)
    }
}
