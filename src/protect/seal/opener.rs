//! Reads a message: frames are opened where they stand, in order, each released only after its tag fits.

use bytes::{Bytes, BytesMut};

use super::OpenError;
use super::aead::{Cipher, NONCE_BYTES, TAG_BYTES};
use super::frame::{Aad, FINAL_HEAD, FINAL_MARK, Kind, REGULAR_HEAD};
use super::header::{Header, Reader};

/// A message whose header is believed.
pub struct Opener {
    header: Header,
    cipher: Cipher,
    /// The number of the next frame, from 1; none after the final one.
    next: Option<u32>,
    /// The number of the last regular frame that was opened; 0 if none was.
    regular: u32,
}

/// The head of a frame.
struct Head {
    kind: Kind,
    /// Bytes before the text.
    length: usize,
    /// Bytes of text.
    text: usize,
    nonce: [u8; NONCE_BYTES],
}

impl Opener {
    pub(super) const fn new(header: Header, cipher: Cipher) -> Self {
        Self { header, cipher, next: Some(1), regular: 0 }
    }

    /// The header, verified.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Splits the next whole frame off `input` and opens it in place. None if bytes are missing, or the message is over and
    /// `input` is empty.
    ///
    /// # Errors
    /// The frame is not the next one of this message, was changed, or bytes follow the final frame. Nothing opens after an error.
    pub fn next_frame(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, OpenError> {
        let Some(number) = self.next else {
            return if input.is_empty() { Ok(None) } else { Err(OpenError::Trailing) };
        };
        let Some(head) = self.head(number, input)? else { return Ok(None) };
        let whole = head.length + head.text + TAG_BYTES;
        if input.len() < whole {
            // So that what is still to come needs no second move.
            input.reserve(whole - input.len());
            return Ok(None);
        }
        let frame = input.split_to(whole);
        let text = self.open(number, &head, frame)?;
        if head.kind == Kind::Regular {
            self.regular = number;
        }
        self.next = match head.kind {
            Kind::Final => None,
            // The number of the final mark is no number.
            Kind::Regular => Some(
                number.checked_add(1).filter(|next| *next < FINAL_MARK).ok_or(OpenError::Frame(number))?,
            ),
        };
        Ok(Some(text))
    }

    pub(super) const fn set_next(&mut self, number: u32) {
        self.next = Some(number);
        self.regular = number.saturating_sub(1);
    }

    /// Whether the final frame was opened.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.next.is_none()
    }

    /// The frames that were opened before the final one.
    #[must_use]
    pub const fn frames(&self) -> u32 {
        self.regular
    }

    /// Ends the message; `rest` is what of it was not opened.
    ///
    /// # Errors
    /// The final frame is missing, or bytes follow it.
    pub fn finish(&self, rest: &[u8]) -> Result<(), OpenError> {
        match self.next {
            Some(next) => Err(OpenError::Truncated { after: next.saturating_sub(1) }),
            None if rest.is_empty() => Ok(()),
            None => Err(OpenError::Trailing),
        }
    }

    /// Reads the head of the frame that must be `number`; none if bytes are missing. A number or length that cannot be is told at
    /// once, before anybody waits for its text.
    fn head(&self, number: u32, input: &[u8]) -> Result<Option<Head>, OpenError> {
        let wrong = OpenError::Frame(number);
        let limit = self.header.frame_length().get();
        let mut reader = Reader::new(input);
        let Some(mark) = reader.u32() else { return Ok(None) };
        let kind = if mark == FINAL_MARK { Kind::Final } else { Kind::Regular };
        let stated = match kind {
            Kind::Regular => Some(mark),
            Kind::Final => reader.u32(),
        };
        let Some(stated) = stated else { return Ok(None) };
        if stated != number {
            return Err(wrong);
        }
        // Ours follows from the number. Writers of the format may take another, as vectors of its authors do; the tag tells.
        let Some(nonce) = reader.array::<NONCE_BYTES>() else { return Ok(None) };
        let (length, text) = match kind {
            Kind::Regular => (REGULAR_HEAD, limit),
            Kind::Final => match reader.u32() {
                None => return Ok(None),
                Some(text) if text > limit => return Err(wrong),
                Some(text) => (FINAL_HEAD, text),
            },
        };
        Ok(Some(Head { kind, length, text: usize::try_from(text).map_err(|_| wrong)?, nonce }))
    }

    fn open(&self, number: u32, head: &Head, mut frame: BytesMut) -> Result<Bytes, OpenError> {
        let wrong = OpenError::Frame(number);
        let mut text = frame.split_off(head.length);
        let tag = text.split_off(head.text);
        let tag = tag.as_ref().try_into().map_err(|_| wrong)?;
        let aad = Aad::new(self.header.message_id(), head.kind, number, head.text);
        self.cipher.open(&head.nonce, aad.as_slice(), &mut text, tag).map_err(|_| wrong)?;
        Ok(text.freeze())
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener")
            .field("id", self.header.message_id())
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}
