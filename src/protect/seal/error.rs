//! Why a message cannot be written or does not open. Nothing here shows key material, plaintext or context values.

/// A message that cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No encrypted data key, or more than the format can count.
    #[error("a message needs 1 to {max} encrypted data keys, not {got}", max = super::header::MAX_EDKS)]
    DataKeys {
        /// How many there were.
        got: usize,
    },
    /// A part of the header is longer than its length field can say.
    #[error("a part of the header is longer than 65535 bytes")]
    TooLong,
    /// More frames than the format can count (2^32 - 1).
    #[error("the message has more frames than the format can count")]
    TooManyFrames,
    /// The system's random source failed.
    #[error("the system's random source failed")]
    Random,
    /// The cipher refused.
    #[error("the cipher failed")]
    Cipher,
}

/// A message that does not open. The first failure ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The header is none of this format, or not of the one suite that is read.
    #[error("the header is malformed: {0}")]
    Header(&'static str),
    /// The header goes over a bound.
    #[error("the header is over a bound: {0}")]
    Bound(&'static str),
    /// The key commitment does not match the data key.
    #[error("the key commitment does not match")]
    Commitment,
    /// The header was changed, or the required context is another.
    #[error("the header's tag does not match: it was changed, or the context is another")]
    HeaderTag,
    /// A frame was changed, moved, or belongs to another message.
    #[error("frame {0} does not open: it was changed, moved, or belongs to another message")]
    Frame(u32),
    /// The message ends before its final frame.
    #[error("the message is truncated after frame {after}")]
    Truncated {
        /// The last frame that opened; 0 if none did.
        after: u32,
    },
    /// Bytes follow the final frame.
    #[error("bytes follow the final frame")]
    Trailing,
}

impl OpenError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Header(_) | Self::Bound(_) => "seal_malformed",
            Self::Commitment => "seal_commitment",
            Self::HeaderTag => "seal_header_tag",
            Self::Frame(_) => "seal_frame",
            Self::Truncated { .. } => "seal_truncated",
            Self::Trailing => "seal_trailing",
        }
    }
}
