//! The values of a message: its id, its data key, an encrypted data key, its frame length.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand;
use bytes::Bytes;
use zeroize::Zeroizing;

use super::SealError;
use super::aead::KEY_BYTES;
use crate::model::hex;

/// The length of a message id in bytes.
pub const MESSAGE_ID_BYTES: usize = 32;

/// The id of a message: 32 random bytes, the salt of its keys. Displays as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub(super) [u8; MESSAGE_ID_BYTES]);

impl MessageId {
    /// A new id.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn random() -> Result<Self, SealError> {
        random().map(Self)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; MESSAGE_ID_BYTES] {
        &self.0
    }
}

impl From<[u8; MESSAGE_ID_BYTES]> for MessageId {
    fn from(bytes: [u8; MESSAGE_ID_BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Text that is no message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message id is 64 lower-case hexadecimal digits")]
pub struct InvalidMessageId;

impl FromStr for MessageId {
    type Err = InvalidMessageId;

    fn from_str(text: &str) -> Result<Self, InvalidMessageId> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut id = [0; MESSAGE_ID_BYTES];
        if pairs.len() != id.len() || !rest.is_empty() {
            return Err(InvalidMessageId);
        }
        for (byte, [high, low]) in id.iter_mut().zip(pairs) {
            let (high, low) = digit(*high).zip(digit(*low)).ok_or(InvalidMessageId)?;
            *byte = high << 4 | low;
        }
        Ok(Self(id))
    }
}

/// The key of one message, wrapped for its recipients. Zeroed when dropped; `Debug` shows nothing.
#[derive(Clone)]
pub struct DataKey(Zeroizing<[u8; KEY_BYTES]>);

impl DataKey {
    /// A fresh key.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn random() -> Result<Self, SealError> {
        random().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl From<[u8; KEY_BYTES]> for DataKey {
    fn from(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl TryFrom<&[u8]> for DataKey {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(|bytes| Self(Zeroizing::new(bytes)))
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// An encrypted data key: one recipient's way into the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edk {
    /// Which kind of key service or namespace.
    pub provider: Bytes,
    /// Which key of it, with what the provider needs to use it.
    pub info: Bytes,
    /// The data key, encrypted.
    pub ciphertext: Bytes,
}

/// Plaintext bytes of a regular frame, 1 to 1 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLength(u32);

impl FrameLength {
    /// That of bodies: 64 KiB, 0.05 % overhead.
    pub const BODY: Self = Self(64 * 1024);
    /// That of objects at rest: 32 KiB, so that a range of 100 kB is read out of at most 200 kB of the object, the final frame included.
    pub const REST: Self = Self(32 * 1024);
    /// The largest that is written or read.
    pub const MAX: u32 = 1024 * 1024;

    /// A frame length; none for 0 and above [`Self::MAX`].
    #[must_use]
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes == 0 || bytes > Self::MAX { None } else { Some(Self(bytes)) }
    }

    /// That of an event stream whose first event has so many bytes: 16 more, rounded up to 32, at most [`Self::BODY`].
    #[must_use]
    pub fn for_event(first: usize) -> Self {
        let padded = first.saturating_add(16).div_ceil(32).saturating_mul(32);
        u32::try_from(padded).map_or(Self::BODY, |bytes| Self(bytes.min(Self::BODY.0)))
    }

    /// Bytes.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Bytes, as a length.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0 as usize
    }

    /// Never: a frame has room for a byte.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| SealError::Random)?;
    Ok(bytes)
}
