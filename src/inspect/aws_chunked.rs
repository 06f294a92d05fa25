//! The `aws-chunked` coding of S3 uploads, undone as the bytes pass.
//!
//! ```text
//! body    = *chunk last *trailer CRLF
//! chunk   = size [";chunk-signature=" 64HEXDIG] CRLF data CRLF        size = 1*16HEXDIG, not 0
//! last    = 1*16"0" [";chunk-signature=" 64HEXDIG] CRLF
//! trailer = name ":" value CRLF
//! ```
//!
//! Signatures are not checked: clients of the gateway have no keys of the store, the gateway signs anew. The length must be the declared one, and a
//! checksum trailer must be there and right if it was announced and is of a kind we compute. The last piece of data is held back until all that is
//! verified, so an upstream never gets a complete object that is wrong. An empty object has no last piece: of it only the length is certain.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::checksum::{Checksum, ChecksumKind};
use crate::message::{Body, BodyMalformed, BoxError};

/// The longest size or trailer line, in bytes without its end; the longest legal size line has 97.
const MAX_LINE_BYTES: usize = 1024;

/// The most trailer lines.
const MAX_TRAILERS: usize = 8;

/// What the headers say about the coded body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsChunkedFraming {
    /// `x-amz-decoded-content-length`.
    pub decoded_bytes: u64,
    /// The trailer that `x-amz-trailer` announces, lower case.
    pub trailer: Option<String>,
}

/// A body without its `aws-chunked` coding. Trailers do not travel on.
#[derive(Debug)]
pub struct AwsChunked {
    inner: Body,
    input: Bytes,
    decoder: Decoder,
}

impl AwsChunked {
    /// Decodes `inner`; does not poll it yet.
    #[must_use]
    pub fn new(inner: Body, framing: AwsChunkedFraming) -> Self {
        Self { inner, input: Bytes::new(), decoder: Decoder::new(framing) }
    }
}

impl HttpBody for AwsChunked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.decoder.state == State::Ended {
            return Poll::Ready(None);
        }
        loop {
            match this.decoder.decode(&mut this.input) {
                Ok(Some(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(this.decoder.fail(error)))),
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => this.input = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    this.decoder.state = State::Ended;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    return Poll::Ready(match this.decoder.finish() {
                        Ok(last) => last.map(|data| Ok(Frame::data(data))),
                        Err(error) => Some(Err(this.decoder.fail(error))),
                    });
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.state == State::Ended
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.decoder.held.as_ref().map_or(0, length);
        SizeHint::with_exact(self.decoder.left.saturating_add(held))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a size line.
    Size,
    /// In data, so many bytes before its end.
    Data(u64),
    /// In the line end after data.
    DataEnd,
    /// In trailer lines, the empty one included.
    Trailer,
    /// After the empty line: nothing may follow.
    Done,
    /// The body has been given to its end, or has failed.
    Ended,
}

#[derive(Debug)]
struct Decoder {
    state: State,
    /// The unfinished line.
    line: Vec<u8>,
    /// Data bytes still to come, by the declared length.
    left: u64,
    /// The last piece of data, until all is verified.
    held: Option<Bytes>,
    trailer: Option<String>,
    trailers: usize,
    checksum: Option<Checksum>,
    /// The value of the announced trailer.
    stated: Option<String>,
}

impl Decoder {
    fn new(framing: AwsChunkedFraming) -> Self {
        let kind = framing.trailer.as_deref().and_then(ChecksumKind::from_header);
        Self {
            state: State::Size,
            line: Vec::new(),
            left: framing.decoded_bytes,
            held: None,
            trailer: framing.trailer,
            trailers: 0,
            checksum: kind.map(Checksum::new),
            stated: None,
        }
    }

    /// The next piece of data in `input`, which shrinks; none if `input` is used up.
    fn decode(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, BodyMalformed> {
        while !input.is_empty() {
            if let State::Data(chunk_left) = self.state {
                if let Some(data) = self.data(chunk_left, input)? {
                    return Ok(Some(data));
                }
            } else {
                self.line_part(input)?;
            }
        }
        Ok(None)
    }

    fn data(&mut self, chunk_left: u64, input: &mut Bytes) -> Result<Option<Bytes>, BodyMalformed> {
        let take = usize::try_from(chunk_left).unwrap_or(usize::MAX).min(input.len());
        let data = input.split_to(take);
        let taken = length(&data);
        self.left = self.left.checked_sub(taken).ok_or(TOO_LONG)?;
        if let Some(checksum) = &mut self.checksum {
            checksum.update(&data);
        }
        let chunk_left = chunk_left.saturating_sub(taken);
        self.state = if chunk_left == 0 { State::DataEnd } else { State::Data(chunk_left) };
        if self.left > 0 {
            return Ok(Some(data));
        }
        self.held = Some(data);
        Ok(None)
    }

    /// Takes up to the end of the line, and reads the line if it is whole.
    fn line_part(&mut self, input: &mut Bytes) -> Result<(), BodyMalformed> {
        if matches!(self.state, State::Done | State::Ended) {
            return Err(BodyMalformed("bytes after the end of the coding"));
        }
        let end = input.iter().position(|byte| *byte == b'\n');
        let part = end.map_or(input.len(), |end| end + 1);
        if self.line.len().saturating_add(part) > MAX_LINE_BYTES + 2 {
            return Err(BodyMalformed("a line is too long"));
        }
        self.line.extend_from_slice(input.get(..part).unwrap_or_default());
        input.advance(part);
        if end.is_none() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r\n").ok_or(BodyMalformed("a line does not end in CRLF"))?;
        self.state = match self.state {
            State::Size => self.size_line(line)?,
            State::DataEnd if line.is_empty() => State::Size,
            State::DataEnd => return Err(BodyMalformed("a chunk is longer than its size")),
            _ if line.is_empty() => State::Done,
            _ => self.trailer_line(line)?,
        };
        Ok(())
    }

    fn size_line(&self, line: &[u8]) -> Result<State, BodyMalformed> {
        let invalid = BodyMalformed("a chunk size is invalid");
        let text = std::str::from_utf8(line).map_err(|_| invalid)?;
        let (digits, extension) = text.split_once(';').map_or((text, None), |(d, e)| (d, Some(e)));
        let signature =
            |e: &str| e.strip_prefix("chunk-signature=").is_some_and(|hex| hex.len() == 64 && is_hex(hex));
        if !(1..=16).contains(&digits.len()) || !is_hex(digits) || !extension.is_none_or(signature) {
            return Err(invalid);
        }
        match u64::from_str_radix(digits, 16).map_err(|_| invalid)? {
            0 => Ok(State::Trailer),
            size if size > self.left => Err(TOO_LONG),
            size => Ok(State::Data(size)),
        }
    }

    fn trailer_line(&mut self, line: &[u8]) -> Result<State, BodyMalformed> {
        self.trailers += 1;
        let text = std::str::from_utf8(line).map_err(|_| BodyMalformed("a trailer is not text"))?;
        let (name, value) = text.split_once(':').ok_or(BodyMalformed("a trailer has no colon"))?;
        let name = name.to_ascii_lowercase();
        let announced = self.trailer.as_deref() == Some(name.as_str());
        if self.trailers > MAX_TRAILERS || !(announced || name == "x-amz-trailer-signature") {
            return Err(BodyMalformed("a trailer was not announced"));
        }
        if announced && self.stated.replace(value.trim_matches([' ', '\t']).to_owned()).is_some() {
            return Err(BodyMalformed("a trailer occurs twice"));
        }
        Ok(State::Trailer)
    }

    /// The end of the input: everything is verified, then the last piece is let go.
    fn finish(&mut self) -> Result<Option<Bytes>, BodyMalformed> {
        if self.state != State::Done {
            return Err(BodyMalformed("the coding ends early"));
        }
        if self.left > 0 {
            return Err(BodyMalformed("the body is shorter than declared"));
        }
        if self.trailer.is_some() && self.stated.is_none() {
            return Err(BodyMalformed("the announced trailer is missing"));
        }
        if let Some(checksum) = self.checksum.take()
            && self.stated.as_deref() != Some(checksum.finish().as_str())
        {
            return Err(BodyMalformed("the checksum is wrong"));
        }
        self.state = State::Ended;
        Ok(self.held.take())
    }

    fn fail(&mut self, error: BodyMalformed) -> BoxError {
        self.state = State::Ended;
        self.held = None;
        error.into()
    }
}

const TOO_LONG: BodyMalformed = BodyMalformed("the body is longer than declared");

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn length(data: &Bytes) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes pieces; the bytes given before an error are what an upstream would have seen.
    fn decode(
        pieces: &[&[u8]],
        decoded_bytes: u64,
        trailer: Option<&str>,
    ) -> (Vec<u8>, Option<&'static str>) {
        let mut decoder =
            Decoder::new(AwsChunkedFraming { decoded_bytes, trailer: trailer.map(str::to_owned) });
        let mut seen = Vec::new();
        for piece in pieces {
            let mut input = Bytes::copy_from_slice(piece);
            loop {
                match decoder.decode(&mut input) {
                    Ok(Some(data)) => seen.extend_from_slice(&data),
                    Ok(None) => break,
                    Err(error) => return (seen, Some(error.0)),
                }
            }
        }
        match decoder.finish() {
            Ok(last) => {
                seen.extend_from_slice(&last.unwrap_or_default());
                (seen, None)
            }
            Err(error) => (seen, Some(error.0)),
        }
    }

    const CRC: &str = "x-amz-checksum-crc32";

    #[test]
    fn the_framings_of_real_clients() {
        let boto = b"9\r\n123456789\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\r\n\r\n";
        assert_eq!(decode(&[boto], 9, Some(CRC)), (b"123456789".to_vec(), None));
        let signature = "a".repeat(64);
        let signed = format!("3;chunk-signature={signature}\r\nabc\r\n0;chunk-signature={signature}\r\n\r\n");
        assert_eq!(decode(&[signed.as_bytes()], 3, None), (b"abc".to_vec(), None));
        let both = format!(
            "9\r\n123456789\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\r\nx-amz-trailer-signature:{signature}\r\n\r\n"
        );
        assert_eq!(decode(&[both.as_bytes()], 9, Some(CRC)), (b"123456789".to_vec(), None));
        assert_eq!(decode(&[b"0\r\n\r\n"], 0, None), (vec![], None));
    }

    #[test]
    fn broken_framings_never_complete_an_object() {
        for (body, bytes, trailer) in [
            ("3\r\nabc\r\n0\r\n\r\n", 4, None),
            ("3\r\nabc\r\n0\r\n\r\n", 2, None),
            ("3\r\nabcd\r\n0\r\n\r\n", 3, None),
            ("3\nabc\n0\n\n", 3, None),
            ("3\r\nabc\r\n0\r\n", 3, None),
            ("3\r\nabc\r\n", 3, None),
            ("3\r\nabc\r\n0\r\n\r\nx", 3, None),
            ("3\r\nabc\r\n0\r\nx-amz-meta-a:1\r\n\r\n", 3, None),
            ("3\r\nabc\r\n0\r\n\r\n", 3, Some(CRC)),
            ("3\r\nabc\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\r\n\r\n", 3, Some(CRC)),
            ("0x3\r\nabc\r\n0\r\n\r\n", 3, None),
            (" 3\r\nabc\r\n0\r\n\r\n", 3, None),
            ("+3\r\nabc\r\n0\r\n\r\n", 3, None),
            ("3;a=b\r\nabc\r\n0\r\n\r\n", 3, None),
            ("3;chunk-signature=zz\r\nabc\r\n0\r\n\r\n", 3, None),
            ("ffffffffffffffff\r\nabc\r\n0\r\n\r\n", 3, None),
            ("00000000000000003\r\nabc\r\n0\r\n\r\n", 3, None),
            ("\r\n", 3, None),
        ] {
            let (seen, error) = decode(&[body.as_bytes()], bytes, trailer);
            assert!(error.is_some(), "{body:?}");
            assert!(u64::try_from(seen.len()).unwrap() < bytes, "{body:?}");
        }
        assert_eq!(decode(&["1".repeat(5000).as_bytes()], 3, None).1, Some("a line is too long"));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_result(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..6),
            cuts in prop::collection::vec(0..400_usize, 0..8),
            flip in prop::option::of((0..400_usize, any::<u8>())),
        ) {
            let plain: Vec<u8> = chunks.concat();
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            let mut checksum = Checksum::new(ChecksumKind::Crc32);
            checksum.update(&plain);
            body.extend_from_slice(format!("0\r\n{CRC}:{}\r\n\r\n", checksum.finish()).as_bytes());
            if let Some((at, value)) = flip && let Some(byte) = body.get_mut(at) {
                *byte = value;
            }
            let declared = u64::try_from(plain.len()).unwrap();
            let whole = decode(&[&body], declared, Some(CRC));
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &body[w[0]..w[1]]).collect();
            let split = decode(&pieces, declared, Some(CRC));
            prop_assert_eq!(split.1, whole.1);
            if whole.1.is_none() {
                prop_assert_eq!(&whole.0, &plain);
                prop_assert_eq!(&split.0, &plain);
            } else {
                prop_assert!(plain.is_empty() || split.0.len() < plain.len());
            }
        }
    }
}
