//! The encryption context: what a message is for, authenticated, and readable where it is stored in the header.

use std::borrow::Cow;
use std::fmt;

use super::OpenError;
use super::header::Reader;

/// The most pairs of a context.
pub const MAX_PAIRS: usize = 64;
/// The most bytes of a context in its serialised form.
pub const MAX_CONTEXT_BYTES: usize = 8 * 1024;
/// The number of pairs, in the serialised form.
const COUNT_BYTES: usize = 2;
/// The lengths of a key and a value.
const LENGTHS_BYTES: usize = 4;
/// Keys that begin so are the format's own.
const RESERVED: &str = "aws-crypto-";

/// Pairs of text, sorted by the bytes of their keys, without doubles.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EncryptionContext {
    pairs: Vec<(Cow<'static, str>, String)>,
    /// What all pairs take in the serialised form.
    bytes: usize,
}

/// A pair that a context cannot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// The key is empty.
    #[error("a context key is empty")]
    EmptyKey,
    /// The key begins with the format's own prefix.
    #[error("a context key begins with `aws-crypto-`, which the format keeps for itself")]
    Reserved,
    /// The key is there already.
    #[error("a context key occurs twice")]
    Double,
    /// More than 64 pairs or 8 KiB.
    #[error("the context has more than {MAX_PAIRS} pairs or {MAX_CONTEXT_BYTES} bytes")]
    TooLarge,
}

impl EncryptionContext {
    /// A context without pairs.
    #[must_use]
    pub const fn new() -> Self {
        Self { pairs: Vec::new(), bytes: 0 }
    }

    /// Adds a pair.
    ///
    /// # Errors
    /// The key is empty, reserved or there already, or the context would go over its bounds.
    pub fn insert(
        &mut self,
        key: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
    ) -> Result<(), ContextError> {
        let (key, value) = (key.into(), value.into());
        if key.is_empty() {
            return Err(ContextError::EmptyKey);
        }
        if key.starts_with(RESERVED) {
            return Err(ContextError::Reserved);
        }
        let Err(place) = self.place(&key) else { return Err(ContextError::Double) };
        let bytes = self.bytes + LENGTHS_BYTES + key.len() + value.len();
        if self.pairs.len() >= MAX_PAIRS || COUNT_BYTES + bytes > MAX_CONTEXT_BYTES {
            return Err(ContextError::TooLarge);
        }
        self.pairs.insert(place, (key, value));
        self.bytes = bytes;
        Ok(())
    }

    /// Where a key is, or would be.
    fn place(&self, key: &str) -> Result<usize, usize> {
        self.pairs.binary_search_by(|(other, _)| other.as_ref().cmp(key))
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.get(self.place(key).ok()?).map(|(_, value)| value.as_str())
    }

    /// All pairs by their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_ref(), value.as_str()))
    }

    /// Whether there is no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The pairs of both.
    ///
    /// # Errors
    /// A key is in both, or together they go over the bounds.
    pub fn union(&self, other: &Self) -> Result<Self, ContextError> {
        let mut all = self.clone();
        for (key, value) in &other.pairs {
            all.insert(key.clone(), value.as_str())?;
        }
        Ok(all)
    }

    /// The form that is stored and authenticated: nothing for no pair, else their count and each key and value with its length.
    #[must_use]
    pub fn serialise(&self) -> Vec<u8> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut out = Vec::with_capacity(COUNT_BYTES + self.bytes);
        put_u16(&mut out, self.pairs.len());
        for (key, value) in self.iter() {
            for text in [key, value] {
                put_u16(&mut out, text.len());
                out.extend_from_slice(text.as_bytes());
            }
        }
        out
    }

    /// Reads the stored form; it must be exactly what [`Self::serialise`] would write.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, OpenError> {
        let mut context = Self::new();
        if bytes.is_empty() {
            return Ok(context);
        }
        if bytes.len() > MAX_CONTEXT_BYTES {
            return Err(OpenError::Bound("the encryption context"));
        }
        let malformed = OpenError::Header("the encryption context");
        let mut reader = Reader::new(bytes);
        let count = reader.u16().ok_or(malformed)?;
        let mut last: Option<&str> = None;
        for _ in 0..count {
            let key = reader.text().ok_or(malformed)?;
            let value = reader.text().ok_or(malformed)?;
            if last.is_some_and(|last| last.as_bytes() >= key.as_bytes()) {
                return Err(OpenError::Header("the encryption context is not sorted, or has a key twice"));
            }
            last = Some(key);
            context.insert(key.to_owned(), value).map_err(|_| malformed)?;
        }
        if count == 0 || !reader.is_empty() {
            return Err(malformed);
        }
        Ok(context)
    }
}

impl fmt::Debug for EncryptionContext {
    /// Keys alone: values can be confidential where they are not stored.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|(key, _)| key)).finish()
    }
}

/// A length that the bounds of a context keep below 2^16.
fn put_u16(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
}
