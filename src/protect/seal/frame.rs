//! What a frame looks like, and what its tag covers beside its text.

use super::aead::NONCE_BYTES;
use super::ids::{MESSAGE_ID_BYTES, MessageId};

/// Bytes before the text of a regular frame: its number and the nonce.
pub(super) const REGULAR_HEAD: usize = 4 + NONCE_BYTES;
/// Bytes before the text of the final frame: the mark, its number, the nonce, the text's length.
pub(super) const FINAL_HEAD: usize = 4 + 4 + NONCE_BYTES + 4;
/// Stands where a regular frame has its number.
pub(super) const FINAL_MARK: u32 = u32::MAX;

const REGULAR_TEXT: &[u8] = b"AWSKMSEncryptionClient Frame";
const FINAL_TEXT: &[u8] = b"AWSKMSEncryptionClient Final Frame";
const AAD_BYTES: usize = MESSAGE_ID_BYTES + FINAL_TEXT.len() + 4 + 8;

/// Whether a frame is the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    Final,
}

/// The nonce of frame `number`; the header's is that of number 0.
pub(super) fn nonce(number: u32) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    let (_, counter) = nonce.split_at_mut(NONCE_BYTES - 4);
    counter.copy_from_slice(&number.to_be_bytes());
    nonce
}

/// Which message, which frame of it, whether the last, how long.
pub(super) struct Aad {
    bytes: [u8; AAD_BYTES],
    length: usize,
}

impl Aad {
    pub(super) fn new(id: &MessageId, kind: Kind, number: u32, length: usize) -> Self {
        let text = if kind == Kind::Final { FINAL_TEXT } else { REGULAR_TEXT };
        let mut aad = Self { bytes: [0; AAD_BYTES], length: 0 };
        for part in [id.as_bytes().as_slice(), text, &number.to_be_bytes(), &(length as u64).to_be_bytes()] {
            aad.push(part);
        }
        aad
    }

    fn push(&mut self, part: &[u8]) {
        let end = self.length + part.len();
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(part);
            self.length = end;
        }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}
