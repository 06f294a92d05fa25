//! The frame around each record: pure bytes in and out, no files.
//!
//! All numbers are little endian. `length` counts what follows the checksum, so a length of zero, which is what
//! a preallocated file holds, says that nothing was written here yet.
//!
//! ```text
//!  0        4        8                16       17               25
//!  +--------+--------+----------------+--------+----------------+-------------------+
//!  | length | crc32c |      seq       |  kind  |      time      | payload (JSON)    |
//!  |  u32   |  u32   |      u64       |   u8   | u64 ns of UTC  | length - 17 bytes |
//!  +--------+--------+----------------+--------+----------------+-------------------+
//!                    |<------------- covered by the checksum, `length` bytes ------>|
//! ```
//!
//! Records have consecutive sequence numbers. Frames that only serve the journal itself ([`Kind::is_record`] is
//! false) carry the number that the next record will get.

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 25;
/// Most bytes of a payload.
pub const MAX_PAYLOAD: usize = 32 * 1024;

const BEFORE_CHECKED: usize = 8;
const CHECKED_HEADER: usize = HEADER_BYTES - BEFORE_CHECKED;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Head of a segment: who writes it, and what came before.
    Segment = 0x01,
    /// Decisions that were open when the segment began.
    Open = 0x02,
    /// All records below a number had been synced when this was written.
    Durable = 0x03,
    /// A decision that lets a request go on; an outcome must follow.
    Allow = 0x10,
    /// A decision that ends a request.
    Refuse = 0x11,
    /// How a request ended.
    Outcome = 0x12,
    /// One refusal before anybody was identified.
    Refusal = 0x13,
    /// A count of such refusals.
    Refusals = 0x14,
    /// Something that happened to the gateway.
    Event = 0x15,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Segment,
        Self::Open,
        Self::Durable,
        Self::Allow,
        Self::Refuse,
        Self::Outcome,
        Self::Refusal,
        Self::Refusals,
        Self::Event,
    ];

    /// Whether it is a record of its own, with its own sequence number.
    #[must_use]
    pub const fn is_record(self) -> bool {
        !matches!(self, Self::Segment | Self::Open | Self::Durable)
    }

    const fn byte(self) -> u8 {
        self as u8
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }
}

/// A whole frame with a valid checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The number of the record.
    pub seq: u64,
    /// What the payload is.
    pub kind: Kind,
    /// When it was written, nanoseconds of UTC since 1970.
    pub time: u64,
    /// The record's JSON; its exact bytes are what is proved about a record.
    pub payload: &'a [u8],
}

/// What stands at the start of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A frame, and how many bytes it takes.
    Frame(Frame<'a>, usize),
    /// Nothing was written here.
    End,
    /// The start of a frame; this many bytes are needed to go on.
    Incomplete(usize),
}

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is impossible.
    #[error("length {0} is out of bounds")]
    Length(u32),
    /// The checksum differs.
    #[error("the checksum does not match")]
    Checksum,
    /// The checksum is right but the kind is not known to this version.
    #[error("kind {0:#04x} is unknown; a newer version may have written it")]
    Kind(u8),
}

/// The bytes that a payload of this length takes with its frame.
#[must_use]
pub const fn frame_bytes(payload: usize) -> usize {
    HEADER_BYTES + payload
}

/// The part of a payload that a frame keeps: all of it, for the encoder never makes a larger one.
pub(crate) fn kept(payload: &[u8]) -> &[u8] {
    payload.get(..MAX_PAYLOAD).unwrap_or(payload)
}

/// Appends a frame. A payload over [`MAX_PAYLOAD`] is cut there; the encoder never makes one.
pub fn encode(out: &mut Vec<u8>, seq: u64, kind: Kind, time: u64, payload: &[u8]) {
    let payload = kept(payload);
    let length = u32::try_from(CHECKED_HEADER + payload.len()).unwrap_or(u32::MAX);
    let start = out.len();
    out.reserve(frame_bytes(payload.len()));
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&seq.to_le_bytes());
    out.push(kind.byte());
    out.extend_from_slice(&time.to_le_bytes());
    out.extend_from_slice(payload);
    // The checksum of what stands behind it, in one piece.
    if let Some((checksum, checked)) = out.get_mut(start + 4..).and_then(<[u8]>::split_first_chunk_mut) {
        *checksum = crc32c::crc32c(checked).to_le_bytes();
    }
}

/// Reads the frame at the start of `bytes`. The length is checked before anything is read or kept.
///
/// # Errors
/// The bytes are no frame.
pub fn decode(bytes: &[u8]) -> Result<Decoded<'_>, FrameError> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        // A file that ends in a few zeros ends there.
        let blank = bytes.iter().all(|byte| *byte == 0);
        return Ok(if blank { Decoded::End } else { Decoded::Incomplete(HEADER_BYTES) });
    };
    let length = u32::from_le_bytes(*length);
    if length == 0 {
        return Ok(Decoded::End);
    }
    let size = usize::try_from(length).map_err(|_| FrameError::Length(length))?;
    if !(CHECKED_HEADER..=CHECKED_HEADER + MAX_PAYLOAD).contains(&size) {
        return Err(FrameError::Length(length));
    }
    let whole = BEFORE_CHECKED + size;
    let Some((crc, rest)) = rest.split_first_chunk::<4>() else { return Ok(Decoded::Incomplete(whole)) };
    let Some(checked) = rest.get(..size) else { return Ok(Decoded::Incomplete(whole)) };
    if crc32c::crc32c(checked) != u32::from_le_bytes(*crc) {
        return Err(FrameError::Checksum);
    }
    let frame = fields(checked).ok_or(FrameError::Length(length))?;
    frame.map(|frame| Decoded::Frame(frame, whole))
}

/// The frame in bytes that [`decode`] has just found to be one; nothing is checked again.
pub(crate) fn decoded(bytes: &[u8]) -> Option<Frame<'_>> {
    fields(bytes.get(BEFORE_CHECKED..)?)?.ok()
}

fn fields(checked: &[u8]) -> Option<Result<Frame<'_>, FrameError>> {
    let (seq, rest) = checked.split_first_chunk::<8>()?;
    let (kind, rest) = rest.split_first()?;
    let (time, payload) = rest.split_first_chunk::<8>()?;
    let (seq, time) = (u64::from_le_bytes(*seq), u64::from_le_bytes(*time));
    Some(Kind::from_byte(*kind).ok_or(FrameError::Kind(*kind)).map(|kind| Frame { seq, kind, time, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = Kind> {
        proptest::sample::select(&Kind::ALL[..])
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(
            seq: u64, kind in kinds(), time: u64, payload in proptest::collection::vec(any::<u8>(), 0..2000),
            behind in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut bytes = Vec::new();
            encode(&mut bytes, seq, kind, time, &payload);
            let size = bytes.len();
            prop_assert_eq!(size, frame_bytes(payload.len()));
            bytes.extend(behind);
            let frame = Frame { seq, kind, time, payload: &payload };
            prop_assert_eq!(decode(&bytes), Ok(Decoded::Frame(frame, size)));
        }

        #[test]
        fn a_cut_frame_is_incomplete(payload in proptest::collection::vec(any::<u8>(), 0..300), cut in 4usize..320) {
            let mut bytes = Vec::new();
            encode(&mut bytes, 7, Kind::Event, 1, &payload);
            prop_assume!(cut < bytes.len());
            prop_assert_eq!(decode(&bytes[..cut]), Ok(Decoded::Incomplete(bytes.len())));
        }

        #[test]
        fn a_changed_byte_behind_the_length_is_noticed(
            payload in proptest::collection::vec(any::<u8>(), 0..300), place in 4usize..320, change in 1u8..,
        ) {
            let mut bytes = Vec::new();
            encode(&mut bytes, 7, Kind::Event, 1, &payload);
            prop_assume!(place < bytes.len());
            bytes[place] ^= change;
            prop_assert_eq!(decode(&bytes), Err(FrameError::Checksum));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn zeros_are_the_end() {
        for count in [0, 1, 3, 4, 25, 100] {
            assert_eq!(decode(&vec![0; count]), Ok(Decoded::End), "{count}");
        }
    }
}
