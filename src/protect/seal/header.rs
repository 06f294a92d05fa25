//! The header: written whole, read only from whole, bounded bytes (AWS Encryption SDK message format, version 2).

use bytes::Bytes;
use subtle::ConstantTimeEq as _;

use super::aead::{Cipher, NONCE_BYTES, TAG_BYTES};
use super::derive::derive;
use super::ids::{DataKey, Edk, FrameLength, MESSAGE_ID_BYTES, MessageId};
use super::{EncryptionContext, OpenError, Opener, SealError};

/// AES-256-GCM, HKDF-SHA-512, key commitment, no signature.
pub(super) const SUITE: u16 = 0x0478;
/// The length of a commitment in bytes.
pub(super) const COMMITMENT_BYTES: usize = 32;
/// The most encrypted data keys that are written or read.
pub const MAX_EDKS: usize = 4;

const VERSION: u8 = 2;
const FRAMED: u8 = 2;
/// Version, suite, message id, length of the context.
const PREFIX_BYTES: usize = 1 + 2 + MESSAGE_ID_BYTES + 2;

/// Bounds on what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of a header.
    pub header: usize,
    /// Encrypted data keys.
    pub edks: usize,
    /// Plaintext bytes of a frame.
    pub frame: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { header: 64 * 1024, edks: MAX_EDKS, frame: FrameLength::MAX }
    }
}

/// What a header says.
#[derive(Debug, Clone)]
pub struct Header {
    id: MessageId,
    context: EncryptionContext,
    edks: Vec<Edk>,
    frame_length: FrameLength,
    commitment: [u8; COMMITMENT_BYTES],
}

impl Header {
    /// The message's id.
    #[must_use]
    pub const fn message_id(&self) -> &MessageId {
        &self.id
    }

    /// The stored context.
    #[must_use]
    pub const fn context(&self) -> &EncryptionContext {
        &self.context
    }

    /// The encrypted data keys, in order.
    #[must_use]
    pub fn edks(&self) -> &[Edk] {
        &self.edks
    }

    /// Plaintext bytes of a regular frame.
    #[must_use]
    pub const fn frame_length(&self) -> FrameLength {
        self.frame_length
    }

    pub(super) const fn new(
        id: MessageId,
        context: EncryptionContext,
        edks: Vec<Edk>,
        frame_length: FrameLength,
        commitment: [u8; COMMITMENT_BYTES],
    ) -> Self {
        Self { id, context, edks, frame_length, commitment }
    }

    /// The header with its tag.
    pub(super) fn write(&self, cipher: &Cipher, required: &EncryptionContext) -> Result<Bytes, SealError> {
        if self.edks.is_empty() || self.edks.len() > MAX_EDKS {
            return Err(SealError::DataKeys { got: self.edks.len() });
        }
        let mut out = Vec::with_capacity(512);
        out.push(VERSION);
        out.extend_from_slice(&SUITE.to_be_bytes());
        out.extend_from_slice(self.id.as_bytes());
        put(&mut out, &self.context.serialise())?;
        put_length(&mut out, self.edks.len())?;
        for edk in &self.edks {
            for part in [&edk.provider, &edk.info, &edk.ciphertext] {
                put(&mut out, part)?;
            }
        }
        out.push(FRAMED);
        out.extend_from_slice(&self.frame_length.get().to_be_bytes());
        out.extend_from_slice(&self.commitment);
        let tag = header_tag(cipher, &out, required)?;
        out.extend_from_slice(&tag);
        Ok(out.into())
    }
}

/// AES-GCM of nothing, over the header and the context that is required but not stored.
fn header_tag(
    cipher: &Cipher,
    header: &[u8],
    required: &EncryptionContext,
) -> Result<[u8; TAG_BYTES], SealError> {
    let aad = [header, &required.serialise()].concat();
    cipher.seal(&[0; NONCE_BYTES], &aad, &mut []).map_err(|_| SealError::Cipher)
}

/// A header that was read and is not yet believed.
#[derive(Debug)]
pub struct UnverifiedHeader {
    header: Header,
    /// The header as it came, without its tag.
    bytes: Bytes,
    tag: [u8; TAG_BYTES],
}

impl UnverifiedHeader {
    /// Reads a header from the beginning of a message; with it, its length in bytes. None if bytes are missing.
    ///
    /// # Errors
    /// It is malformed, over a bound, or of another suite. Nothing larger than the bounds is allocated.
    pub fn parse(bytes: &[u8], bounds: &Bounds) -> Result<Option<(Self, usize)>, OpenError> {
        let mut reader = Reader::new(bytes);
        let header = match read(&mut reader, bounds)? {
            Some(header) => header,
            None if bytes.len() >= bounds.header => return Err(OpenError::Bound("the header's length")),
            None => return Ok(None),
        };
        let length = reader.position();
        let Some(tag) = reader.array::<TAG_BYTES>() else { return Ok(None) };
        let end = reader.position();
        if end > bounds.header {
            return Err(OpenError::Bound("the header's length"));
        }
        let bytes = Bytes::copy_from_slice(bytes.get(..length).unwrap_or_default());
        Ok(Some((Self { header, bytes, tag }, end)))
    }

    /// What it says; nothing of it is authenticated yet.
    #[must_use]
    pub const fn unverified(&self) -> &Header {
        &self.header
    }

    /// Believes the header if the data key is the one that it commits to and its tag fits.
    ///
    /// # Errors
    /// The commitment or the tag does not match.
    pub fn verify(self, data_key: &DataKey, required: &EncryptionContext) -> Result<Opener, OpenError> {
        let (cipher, commitment) =
            derive(data_key, &self.header.id).map_err(|_| OpenError::Header("its key cannot be derived"))?;
        if !bool::from(commitment.ct_eq(&self.header.commitment)) {
            return Err(OpenError::Commitment);
        }
        let aad = [&self.bytes, required.serialise().as_slice()].concat();
        cipher.open(&[0; NONCE_BYTES], &aad, &mut [], &self.tag).map_err(|_| OpenError::HeaderTag)?;
        Ok(Opener::new(self.header, cipher))
    }
}

/// Reads all but the tag; none if bytes are missing. Lengths are judged as soon as they are read.
fn read(reader: &mut Reader<'_>, bounds: &Bounds) -> Result<Option<Header>, OpenError> {
    macro_rules! some {
        ($read:expr) => {
            match $read {
                Some(value) => value,
                None => return Ok(None),
            }
        };
    }
    if some!(reader.array::<1>()) != [VERSION] {
        return Err(OpenError::Header("it is not of version 2"));
    }
    if some!(reader.u16()) != SUITE {
        return Err(OpenError::Header("its algorithm suite is not 0x0478"));
    }
    let id = MessageId(some!(reader.array()));
    let length = usize::from(some!(reader.u16()));
    if length > super::context::MAX_CONTEXT_BYTES {
        return Err(OpenError::Bound("the encryption context"));
    }
    let context = EncryptionContext::parse(some!(reader.take(length)))?;
    let count = usize::from(some!(reader.u16()));
    if count == 0 || count > bounds.edks {
        return Err(OpenError::Bound("the number of encrypted data keys"));
    }
    let mut edks = Vec::with_capacity(count);
    for _ in 0..count {
        let mut part = || reader.sized().map(Bytes::copy_from_slice);
        edks.push(Edk { provider: some!(part()), info: some!(part()), ciphertext: some!(part()) });
        if reader.position() + PREFIX_BYTES > bounds.header {
            return Err(OpenError::Bound("the header's length"));
        }
    }
    if some!(reader.array::<1>()) != [FRAMED] {
        return Err(OpenError::Header("its content is not framed"));
    }
    let frame_length = u32::from_be_bytes(some!(reader.array()));
    let frame_length = FrameLength::new(frame_length).filter(|length| length.get() <= bounds.frame);
    let frame_length = frame_length.ok_or(OpenError::Bound("the frame length"))?;
    let commitment = some!(reader.array());
    Ok(Some(Header { id, context, edks, frame_length, commitment }))
}

fn put(out: &mut Vec<u8>, part: &[u8]) -> Result<(), SealError> {
    put_length(out, part.len())?;
    out.extend_from_slice(part);
    Ok(())
}

fn put_length(out: &mut Vec<u8>, length: usize) -> Result<(), SealError> {
    let length = u16::try_from(length).map_err(|_| SealError::TooLong)?;
    out.extend_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Reads from the front of a slice and never beyond it.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, position: 0 }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) const fn position(&self) -> usize {
        self.position
    }

    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        self.position += length;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.sized()?).ok()
    }
}
