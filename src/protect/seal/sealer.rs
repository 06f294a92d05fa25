//! Writes a message: the header, then frames as plaintext comes, then the final frame. Holds one frame.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::aead::{Cipher, TAG_BYTES};
use super::derive::derive;
use super::frame::{Aad, FINAL_HEAD, FINAL_MARK, Kind, REGULAR_HEAD, nonce};
use super::header::Header;
use super::ids::{DataKey, Edk, FrameLength, MessageId};
use super::{EncryptionContext, SealError};

/// What a new message is made of.
#[derive(Debug)]
pub struct NewMessage {
    /// Its id; never used for another message.
    pub message_id: MessageId,
    /// Its key; never used for another message.
    pub data_key: DataKey,
    /// The key, encrypted for each recipient.
    pub edks: Vec<Edk>,
    /// What everybody can read in the header.
    pub context: EncryptionContext,
    /// What the opener must know from elsewhere.
    pub required: EncryptionContext,
    /// Plaintext bytes of a regular frame.
    pub frame_length: FrameLength,
}

/// A message being written.
pub struct Sealer {
    cipher: Cipher,
    id: MessageId,
    header: Bytes,
    frame_length: FrameLength,
    /// The number of the frame being filled, from 1.
    number: u32,
    /// The head of a regular frame and the text so far; empty before the first byte.
    frame: BytesMut,
}

impl Sealer {
    /// Begins a message.
    ///
    /// # Errors
    /// The header cannot be written, or a key cannot be derived.
    pub fn new(message: NewMessage) -> Result<Self, SealError> {
        let NewMessage { message_id, data_key, edks, context, required, frame_length } = message;
        let (cipher, commitment) = derive(&data_key, &message_id)?;
        let header = Header::new(message_id, context, edks, frame_length, commitment);
        let header = header.write(&cipher, &required)?;
        Ok(Self { cipher, id: message_id, header, frame_length, number: 1, frame: BytesMut::new() })
    }

    /// The header with its tag: the first bytes of the message.
    #[must_use]
    pub const fn header(&self) -> &Bytes {
        &self.header
    }

    /// The message's id.
    #[must_use]
    pub const fn message_id(&self) -> &MessageId {
        &self.id
    }

    /// Takes as much of `input` as the frame has room for; a frame when it is full. Call it until `input` is empty.
    ///
    /// # Errors
    /// The message has more frames than the format can count.
    pub fn push(&mut self, input: &mut Bytes) -> Result<Option<BytesMut>, SealError> {
        if input.is_empty() {
            return Ok(None);
        }
        if self.frame.is_empty() {
            // A small chunk may be all there is; one that fills the frame gets its place at once.
            let room = self.frame_length.len().min(input.len().max(4096));
            self.frame.reserve(REGULAR_HEAD + room + TAG_BYTES);
            self.frame.put_u32(self.number);
            self.frame.put_slice(&nonce(self.number));
        }
        let missing = REGULAR_HEAD + self.frame_length.len() - self.frame.len();
        let taken = input.split_to(missing.min(input.len()));
        self.frame.extend_from_slice(&taken);
        if taken.len() < missing {
            return Ok(None);
        }
        let next =
            self.number.checked_add(1).filter(|next| *next < FINAL_MARK).ok_or(SealError::TooManyFrames)?;
        let mut frame = std::mem::take(&mut self.frame);
        let text = frame.get_mut(REGULAR_HEAD..).unwrap_or_default();
        let aad = Aad::new(&self.id, Kind::Regular, self.number, text.len());
        let tag =
            self.cipher.seal(&nonce(self.number), aad.as_slice(), text).map_err(|_| SealError::Cipher)?;
        frame.put_slice(&tag);
        self.number = next;
        Ok(Some(frame))
    }

    /// Plaintext bytes that wait for their frame to fill.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.frame.len().saturating_sub(REGULAR_HEAD)
    }

    /// Ends the message with its final frame.
    ///
    /// # Errors
    /// The cipher failed.
    pub fn finish(self) -> Result<BytesMut, SealError> {
        let text = self.frame.get(REGULAR_HEAD..).unwrap_or_default();
        let mut frame = BytesMut::with_capacity(FINAL_HEAD + text.len() + TAG_BYTES);
        frame.put_u32(FINAL_MARK);
        frame.put_u32(self.number);
        frame.put_slice(&nonce(self.number));
        frame.put_u32(u32::try_from(text.len()).map_err(|_| SealError::TooLong)?);
        frame.put_slice(text);
        let aad = Aad::new(&self.id, Kind::Final, self.number, text.len());
        let text = frame.get_mut(FINAL_HEAD..).unwrap_or_default();
        let tag =
            self.cipher.seal(&nonce(self.number), aad.as_slice(), text).map_err(|_| SealError::Cipher)?;
        frame.put_slice(&tag);
        Ok(frame)
    }

    /// The length of the whole message over so many bytes of plaintext; none beyond 2^64.
    ///
    /// A last chunk that fills its frame is a regular frame, and an empty final frame follows it.
    #[must_use]
    pub fn sealed_length(&self, plaintext: u64) -> Option<u64> {
        let frame = u64::from(self.frame_length.get());
        let overhead = (plaintext / frame).checked_mul((REGULAR_HEAD + TAG_BYTES) as u64)?;
        let fixed = (self.header.len() + FINAL_HEAD + TAG_BYTES) as u64;
        plaintext.checked_add(overhead)?.checked_add(fixed)
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("id", &self.id).field("frame", &self.number).finish_non_exhaustive()
    }
}
