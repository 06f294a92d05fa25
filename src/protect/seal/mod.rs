//! The sealed form of a payload: AWS Encryption SDK message format, version 2, suite 0x0478 (AES-256-GCM, HKDF-SHA-512, key
//! commitment), framed.
//!
//! A pure codec: no I/O, no clock, no keys of its own. Written by [`Sealer`]; read by [`UnverifiedHeader`] and, once data key,
//! commitment and header tag are good, by [`Opener`]. Source: the AWS Encryption SDK specification, message format.

mod aead;
pub mod aes_edk;
#[cfg(feature = "fast-aead")]
mod aws_lc;
mod context;
mod derive;
mod error;
pub mod events;
mod frame;
mod header;
mod ids;
mod opener;
pub mod range;
mod rewrap;
mod sealer;

pub use context::{ContextError, EncryptionContext, MAX_CONTEXT_BYTES, MAX_PAIRS};
pub use error::{OpenError, SealError};
pub use header::{Bounds, Header, MAX_EDKS, UnverifiedHeader};
pub use ids::{DataKey, Edk, FrameLength, InvalidMessageId, MESSAGE_ID_BYTES, MessageId};
pub use opener::Opener;
pub use rewrap::{RewrapError, rewrap};
pub use sealer::{NewMessage, Sealer};
