//! What a client claims of an upload that the store will not get as it is: length and checksums, verified as the bytes pass.
//!
//! The last bytes are held back until all claims are verified, so whoever seals the body never closes a message over a wrong object.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::checksum::{Checksum, ChecksumKind};
use crate::message::{Body, BodyMalformed, BoxError};

/// A checksum that a client claims.
#[derive(Debug, Clone)]
pub struct Claim {
    so_far: Checksum,
    /// As S3 writes it, base64.
    value: String,
}

impl Claim {
    /// `x-amz-content-sha256`: 64 lower-case hexadecimal digits.
    pub(super) fn sha256_hex(text: &str) -> Self {
        let (pairs, _) = text.as_bytes().as_chunks::<2>();
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        // What is no digit was refused before; it would match nothing here.
        let bytes: Option<Vec<u8>> =
            pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
        let value = STANDARD.encode(bytes.unwrap_or_default());
        Self { so_far: Checksum::new(ChecksumKind::Sha256), value }
    }

    /// `Content-MD5` or `x-amz-checksum-*`, by its name; none if it is of a kind that is not computed here.
    #[must_use]
    pub fn of_header(name: &str, value: String) -> Option<Self> {
        let kind = ChecksumKind::from_header(name)?;
        Some(Self { so_far: Checksum::new(kind), value })
    }
}

/// A body that is exactly as long as declared and has the checksums that are claimed, or fails.
#[derive(Debug)]
pub struct Claimed {
    inner: Body,
    claims: Vec<Claim>,
    /// Bytes that are still due.
    left: u64,
    /// The last bytes, until all is verified.
    held: Option<Bytes>,
    over: bool,
}

impl Claimed {
    /// Holds `inner` to `bytes` and `claims`; does not poll it yet.
    #[must_use]
    pub const fn new(inner: Body, bytes: u64, claims: Vec<Claim>) -> Self {
        Self { inner, claims, left: bytes, held: None, over: false }
    }

    fn take(&mut self, data: &Bytes) -> Result<(), BodyMalformed> {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(length).ok_or(BodyMalformed("it is longer than declared"))?;
        for claim in &mut self.claims {
            claim.so_far.update(data);
        }
        Ok(())
    }

    fn verify(&mut self) -> Result<(), BodyMalformed> {
        if self.left > 0 {
            return Err(BodyMalformed("it is shorter than declared"));
        }
        let right = self.claims.drain(..).all(|claim| claim.so_far.finish() == claim.value);
        if right { Ok(()) } else { Err(BodyMalformed("its checksum is not the one that was sent")) }
    }

    fn fail(&mut self, error: impl Into<BoxError>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.over = true;
        self.held = None;
        Poll::Ready(Some(Err(error.into())))
    }
}

impl HttpBody for Claimed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if this.over {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    if data.is_empty() {
                        continue;
                    }
                    if let Err(error) = this.take(&data) {
                        return this.fail(error);
                    }
                    if let Some(before) = this.held.replace(data) {
                        return Poll::Ready(Some(Ok(Frame::data(before))));
                    }
                }
                Some(Err(error)) => return this.fail(error),
                None => {
                    if let Err(error) = this.verify() {
                        return this.fail(error);
                    }
                    this.over = true;
                    return Poll::Ready(this.held.take().map(|data| Ok(Frame::data(data))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over && self.held.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.as_ref().map_or(0, |held| u64::try_from(held.len()).unwrap_or(u64::MAX));
        SizeHint::with_exact(self.left.saturating_add(held))
    }
}

#[cfg(test)]
mod tests {
    use crate::message::{boxed, collect_bounded, full};

    use super::*;

    async fn read(body: &'static [u8], bytes: u64, claims: Vec<Claim>) -> Result<Bytes, String> {
        let claimed = boxed(Claimed::new(full(body), bytes, claims));
        assert_eq!(claimed.size_hint().exact(), Some(bytes));
        collect_bounded(claimed, 100).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn what_is_claimed_must_be_true() {
        let crc32 = |value: &str| Claim::of_header("x-amz-checksum-crc32", value.to_owned()).unwrap();
        let digest = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
        let sha256 = || Claim::sha256_hex(digest);
        assert_eq!(read(b"123456789", 9, vec![crc32("y/Q5Jg=="), sha256()]).await.unwrap(), "123456789");
        assert_eq!(read(b"", 0, vec![]).await.unwrap(), "");
        for (body, bytes, claims, word) in [
            (&b"123456789"[..], 9, vec![crc32("y/Q5Jh==")], "checksum"),
            (b"123456780", 9, vec![sha256()], "checksum"),
            (b"", 0, vec![sha256()], "checksum"),
            (
                b"1",
                1,
                vec![Claim::of_header("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==".to_owned()).unwrap()],
                "checksum",
            ),
            (b"123456789", 8, vec![], "longer"),
            (b"123456789", 10, vec![], "shorter"),
        ] {
            let error = read(body, bytes, claims).await.unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert!(Claim::of_header("x-amz-checksum-crc64nvme", "x".to_owned()).is_none());
    }
}
