//! Lengths of sealed objects that a final frame has proven: the next read of the same object need not fetch it again.
//!
//! A message id belongs to one message, and is believed only after the header's tag. What is remembered holds for one version of the
//! object in its store: one that is written anew, were it the same message, is proven anew.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use http::HeaderValue;

use super::seal::MessageId;

/// The most that are remembered (some 10 MiB); when there are more, all are forgotten and proven again as they are read.
const MAX_LENGTHS: usize = 65_536;
/// The longest entity tag that is remembered, in bytes.
const MAX_VERSION_BYTES: usize = 128;

/// Sealed lengths in bytes and versions, by message.
#[derive(Debug, Default)]
pub(super) struct Lengths(Mutex<HashMap<MessageId, (u64, HeaderValue)>>);

impl Lengths {
    pub(super) fn is_proven(&self, message: &MessageId, sealed: u64, version: &HeaderValue) -> bool {
        let lengths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lengths.get(message).is_some_and(|(length, tag)| *length == sealed && tag == version)
    }

    pub(super) fn remember(&self, message: MessageId, sealed: u64, version: HeaderValue) {
        if version.len() > MAX_VERSION_BYTES {
            return;
        }
        let mut lengths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lengths.len() >= MAX_LENGTHS {
            lengths.clear();
        }
        lengths.insert(message, (sealed, version));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_that_of_one_version_of_one_message() {
        let (lengths, tag) = (Lengths::default(), HeaderValue::from_static("\"v1\""));
        let message = MessageId::from([1; 32]);
        lengths.remember(message, 7, tag.clone());
        assert!(lengths.is_proven(&message, 7, &tag));
        assert!(!lengths.is_proven(&message, 8, &tag));
        assert!(!lengths.is_proven(&message, 7, &HeaderValue::from_static("\"v2\"")));
        assert!(!lengths.is_proven(&MessageId::from([2; 32]), 7, &tag));
        let long = HeaderValue::from_str(&"x".repeat(129)).unwrap();
        lengths.remember(message, 9, long.clone());
        assert!(!lengths.is_proven(&message, 9, &long));
        for number in 0..=u32::try_from(MAX_LENGTHS).unwrap() {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            lengths.remember(MessageId::from(id), 1, tag.clone());
        }
        assert!(lengths.0.lock().unwrap().len() <= MAX_LENGTHS);
    }
}
