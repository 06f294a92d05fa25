//! The scan of raw HTTP/1 bytes before the HTTP library reads them.
//!
//! Owns message framing as RFC 9112 wants it: a head, a chunk line or a trailer section is handed on only when it is complete and beyond doubt;
//! body bytes are handed on as they come. It must not know of sockets, time or what a request means. What is handed on equals what came, byte for byte.
//! `guard.rs` puts it between the connection and the HTTP library.

use bytes::{Buf as _, BufMut as _, BytesMut};

use super::refusal::Refusal;

/// The longest chunk line with its extensions, in bytes.
const MAX_CHUNK_LINE: usize = 1024;
/// The largest trailer section, in bytes; the HTTP library allows 16 KiB.
const MAX_TRAILERS: usize = 8 * 1024;
/// The longest method, in bytes.
const MAX_METHOD: usize = 32;
/// Nineteen digits stay below 2^64, so parsing cannot overflow.
const MAX_LENGTH_DIGITS: usize = 19;
/// Sixteen hexadecimal digits are 64 bits.
const MAX_SIZE_DIGITS: usize = 16;

/// The bounds of a head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// The most bytes of a head, its last empty line included.
    pub bytes: usize,
    /// The most field lines.
    pub fields: usize,
}

/// Follows the framing of the messages on one connection.
///
/// Memory: what is held back is at most `limits.bytes` + 1 bytes; what may be passed on is at most one [`Scanner::feed`] plus that.
#[derive(Debug)]
pub struct Scanner {
    limits: HeadLimits,
    /// Bytes that may be passed on, then bytes held back.
    buffer: BytesMut,
    /// How many bytes of `buffer` may be passed on.
    passed: usize,
    /// Where the current line begins within the bytes held back.
    line: usize,
    place: Place,
    fields: usize,
    framing: Framing,
    heads: u64,
    refused: Option<Refusal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Between messages; one empty line is ignored (RFC 9112 section 2.2).
    Start {
        blank_seen: bool,
    },
    Fields,
    Body {
        left: u64,
    },
    ChunkLine,
    ChunkData {
        left: u64,
    },
    ChunkEnd,
    Trailers,
}

/// What the fields of one head say about its body.
#[derive(Debug, Default)]
struct Framing {
    http10: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Scanner {
    /// At the start of a connection.
    #[must_use]
    pub fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            buffer: BytesMut::new(),
            passed: 0,
            line: 0,
            place: Place::Start { blank_seen: false },
            fields: 0,
            framing: Framing::default(),
            heads: 0,
            refused: None,
        }
    }

    /// Takes bytes as they came. After a refusal nothing is taken any more.
    pub fn feed(&mut self, mut input: &[u8]) {
        while !input.is_empty() && self.refused.is_none() {
            input = match self.place {
                Place::Body { left } => {
                    let (input, left) = self.pass(input, left);
                    self.place =
                        if left == 0 { Place::Start { blank_seen: false } } else { Place::Body { left } };
                    input
                }
                Place::ChunkData { left } => {
                    let (input, left) = self.pass(input, left);
                    self.place = if left == 0 { Place::ChunkEnd } else { Place::ChunkData { left } };
                    input
                }
                _ => self.gather(input),
            };
        }
    }

    /// Refuses what is held back, for a reason that the bytes do not show.
    pub fn refuse(&mut self, refusal: Refusal) {
        if self.refused.is_none() {
            self.buffer.truncate(self.passed);
            self.refused = Some(refusal);
        }
    }

    /// The bytes that may be passed on.
    #[must_use]
    pub fn ready(&self) -> &[u8] {
        self.buffer.get(..self.passed).unwrap_or_default()
    }

    /// Takes away the first `count` of [`Scanner::ready`].
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.passed);
        self.buffer.advance(count);
        self.passed -= count;
        if self.buffer.is_empty() {
            // An idle connection keeps no memory.
            self.buffer = BytesMut::new();
        }
    }

    /// Appends bytes that the scan does not look at; only what stands for a refused message.
    pub fn append(&mut self, bytes: &[u8]) {
        self.buffer.truncate(self.passed);
        self.buffer.put_slice(bytes);
        self.passed = self.buffer.len();
    }

    /// The refusal, once there was one.
    #[must_use]
    pub const fn refused(&self) -> Option<Refusal> {
        self.refused
    }

    /// How many complete heads were let through.
    #[must_use]
    pub const fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether a head has begun and is not complete.
    #[must_use]
    pub fn mid_head(&self) -> bool {
        match self.place {
            Place::Start { .. } => self.held() > 0,
            Place::Fields => true,
            _ => false,
        }
    }

    /// Whether nothing of a message has come that was not passed on whole.
    #[must_use]
    pub fn between_messages(&self) -> bool {
        matches!(self.place, Place::Start { .. }) && self.buffer.is_empty()
    }

    /// Whether the current message has a head that was let through.
    #[must_use]
    pub const fn in_body(&self) -> bool {
        !matches!(self.place, Place::Start { .. } | Place::Fields)
    }

    /// How many bytes may pass by unseen, told by [`Scanner::skipped`]; none while bytes wait here.
    #[must_use]
    pub fn unseen(&self) -> Option<u64> {
        match self.place {
            Place::Body { left } | Place::ChunkData { left } if self.buffer.is_empty() => Some(left),
            _ => None,
        }
    }

    /// Notes that `count` bytes, at most [`Scanner::unseen`], passed by.
    pub fn skipped(&mut self, count: u64) {
        self.place = match self.place {
            Place::Body { left } if left > count => Place::Body { left: left - count },
            Place::Body { .. } => Place::Start { blank_seen: false },
            Place::ChunkData { left } if left > count => Place::ChunkData { left: left - count },
            Place::ChunkData { .. } => Place::ChunkEnd,
            other => other,
        };
    }

    fn held(&self) -> usize {
        self.buffer.len() - self.passed
    }

    /// Passes up to `left` body bytes on.
    fn pass<'i>(&mut self, input: &'i [u8], left: u64) -> (&'i [u8], u64) {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        let (body, rest) = input.split_at_checked(count).unwrap_or((input, &[]));
        self.buffer.put_slice(body);
        self.passed = self.buffer.len();
        (rest, left - u64::try_from(count).unwrap_or(left))
    }

    /// Takes bytes up to the end of a line or of the bound, and reads the line if it is complete.
    ///
    /// INVARIANT: the bound is tested before the content, so the verdict does not depend on how the bytes were split.
    fn gather<'i>(&mut self, input: &'i [u8]) -> &'i [u8] {
        let (limit, too_long) = match self.place {
            Place::ChunkLine => (MAX_CHUNK_LINE, Refusal::ChunkExtension),
            Place::ChunkEnd => (2, Refusal::ChunkEnd),
            Place::Trailers => (MAX_TRAILERS.min(self.limits.bytes), Refusal::HeadTooLarge),
            _ => (self.limits.bytes, Refusal::HeadTooLarge),
        };
        let end = memchr::memchr(b'\n', input).map_or(input.len(), |at| at + 1);
        let (piece, rest) = input.split_at_checked(end).unwrap_or((input, &[]));
        let room = (limit + 1).saturating_sub(self.held());
        self.buffer.put_slice(piece.get(..room).unwrap_or(piece));
        if self.held() > limit {
            self.refuse(too_long);
        } else if piece.last() == Some(&b'\n')
            && let Err(refusal) = self.read_line()
        {
            self.refuse(refusal);
        }
        rest
    }

    fn read_line(&mut self) -> Result<(), Refusal> {
        let start = self.passed + self.line;
        let line = self.buffer.get(start..).unwrap_or_default();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").ok_or(Refusal::BareLf)?;
        if line.contains(&b'\r') {
            return Err(Refusal::BareCr);
        }
        match self.place {
            Place::Start { blank_seen: false } if line.is_empty() => {
                self.buffer.truncate(self.passed);
                self.place = Place::Start { blank_seen: true };
                return Ok(());
            }
            Place::Start { .. } => {
                self.framing = Framing { http10: request_line(line)?, ..Framing::default() };
                self.fields = 0;
                self.place = Place::Fields;
            }
            Place::Fields if line.is_empty() => return self.end_of_head(),
            Place::Fields => {
                let (name, value) = field(line)?;
                self.framing.note(name, value)?;
                self.count_field()?;
            }
            Place::ChunkLine => match chunk_size(line)? {
                0 => {
                    self.fields = 0;
                    self.place = Place::Trailers;
                }
                left => return self.release(Place::ChunkData { left }),
            },
            Place::ChunkEnd if line.is_empty() => return self.release(Place::ChunkLine),
            Place::ChunkEnd => return Err(Refusal::ChunkEnd),
            Place::Trailers if line.is_empty() => return self.release(Place::Start { blank_seen: false }),
            Place::Trailers => {
                let (name, _) = field(line)?;
                let forbidden: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];
                if forbidden.iter().any(|head_only| name.eq_ignore_ascii_case(head_only)) {
                    return Err(Refusal::Trailer);
                }
                self.count_field()?;
            }
            Place::Body { .. } | Place::ChunkData { .. } => {}
        }
        self.line = self.held();
        Ok(())
    }

    fn count_field(&mut self) -> Result<(), Refusal> {
        self.fields += 1;
        if self.fields > self.limits.fields { Err(Refusal::TooManyFields) } else { Ok(()) }
    }

    fn end_of_head(&mut self) -> Result<(), Refusal> {
        self.heads += 1;
        let next = match (self.framing.chunked, self.framing.length) {
            (true, _) => Place::ChunkLine,
            (false, Some(left)) if left > 0 => Place::Body { left },
            _ => Place::Start { blank_seen: false },
        };
        self.release(next)
    }

    /// Passes on what is held back.
    fn release(&mut self, next: Place) -> Result<(), Refusal> {
        self.passed = self.buffer.len();
        self.line = 0;
        self.place = next;
        Ok(())
    }
}

impl Framing {
    /// RFC 9112 section 6.3, but everything that receivers are known to read differently is refused.
    fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err(Refusal::RepeatedLength);
            }
            self.length = Some(number(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.http10 {
                return Err(Refusal::TransferEncodingVersion);
            }
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::TransferEncoding);
            }
            self.chunked = true;
        }
        if self.chunked && self.length.is_some() { Err(Refusal::TwoFramings) } else { Ok(()) }
    }
}

/// `method SP target SP version`; gives whether it is HTTP/1.0.
fn request_line(line: &[u8]) -> Result<bool, Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::RequestLine);
    };
    if method.is_empty() || method.len() > MAX_METHOD || !method.iter().all(|byte| is_token(*byte)) {
        return Err(Refusal::RequestLine);
    }
    if target.is_empty() {
        return Err(Refusal::RequestLine);
    }
    if target.contains(&b'#') {
        return Err(Refusal::Fragment);
    }
    if !target.iter().all(u8::is_ascii_graphic) {
        return Err(Refusal::TargetByte);
    }
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        _ => Err(Refusal::Version),
    }
}

/// A field line: its name, and its value without white space around it.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
        return Err(Refusal::Folded);
    }
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Refusal::FieldName)?;
    let (name, rest) = line.split_at_checked(colon).ok_or(Refusal::FieldName)?;
    let value = rest.get(1..).unwrap_or_default();
    if name.last().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
        return Err(Refusal::SpaceBeforeColon);
    }
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(Refusal::FieldName);
    }
    // Without a branch for each byte: many are looked at in one instruction.
    let is_control = |byte: u8| (byte < b' ') & (byte != b'\t') | (byte == 0x7f);
    if value.iter().fold(false, |found, byte| found | is_control(*byte)) {
        return Err(Refusal::FieldValue);
    }
    Ok((name, value.trim_ascii()))
}

fn number(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || value.len() > MAX_LENGTH_DIGITS || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::Length);
    }
    Ok(value.iter().fold(0, |sum: u64, digit| sum * 10 + u64::from(digit - b'0')))
}

/// A chunk's first line: its size; the extensions are only looked over.
fn chunk_size(line: &[u8]) -> Result<u64, Refusal> {
    let end = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
    let (digits, extension) = line.split_at_checked(end).ok_or(Refusal::ChunkSize)?;
    if digits.is_empty() || digits.len() > MAX_SIZE_DIGITS {
        return Err(Refusal::ChunkSize);
    }
    let mut size: u64 = 0;
    for digit in digits {
        let value = char::from(*digit).to_digit(16).ok_or(Refusal::ChunkSize)?;
        size = (size << 4) | u64::from(value);
    }
    if !extension.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
        return Err(Refusal::ChunkExtension);
    }
    Ok(size)
}

/// `tchar` of RFC 9110 section 5.6.2.
const fn is_token(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'#'
            | b'$'
            | b'%'
            | b'&'
            | b'\''
            | b'*'
            | b'+'
            | b'-'
            | b'.'
            | b'^'
            | b'_'
            | b'`'
            | b'|'
            | b'~'
    ) || byte.is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 256, fields: 6 };

    fn scan(pieces: &[&[u8]]) -> (Option<Refusal>, Vec<u8>, u64) {
        let mut scanner = Scanner::new(LIMITS);
        for piece in pieces {
            scanner.feed(piece);
        }
        (scanner.refused(), scanner.ready().to_vec(), scanner.heads())
    }

    fn refused(bytes: &[u8], expect: Refusal) {
        let (refusal, passed, _) = scan(&[bytes]);
        assert_eq!(refusal, Some(expect), "{}", String::from_utf8_lossy(bytes));
        assert!(bytes.starts_with(&passed));
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(scan(&single).0, Some(expect), "byte by byte: {}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn legitimate_messages_pass_whole() {
        for (bytes, heads) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], 1),
            (b"POST /x?a=%20b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.0\r\n\r\n", 2),
            (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n000\r\nx-sum: 1\r\n\r\n", 1),
            (b"PUT / HTTP/1.1\r\ntransfer-encoding:chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nx:\xff\r\n\r\n", 2),
            (b"OPTIONS * HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 1),
        ] {
            assert_eq!(scan(&[bytes]), (None, bytes.to_vec(), heads));
        }
        assert_eq!(scan(&[b"\r\nGET / HTTP/1.1\r\n\r\n"]), (None, b"GET / HTTP/1.1\r\n\r\n".to_vec(), 1));
    }

    #[test]
    fn what_receivers_read_differently_is_refused() {
        let head = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes();
        refused(&head("Content-Length: 1\r\nContent-Length: 1\r\n"), Refusal::RepeatedLength);
        refused(&head("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), Refusal::TwoFramings);
        refused(&head("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), Refusal::TwoFramings);
        for length in ["+3", "1, 1", "0x1", "", "99999999999999999999", "1 1", "-1"] {
            refused(&head(&format!("Content-Length: {length}\r\n")), Refusal::Length);
        }
        for coding in ["xchunked", "chunked, identity", "gzip, chunked", "\"chunked\"", ""] {
            refused(&head(&format!("Transfer-Encoding: {coding}\r\n")), Refusal::TransferEncoding);
        }
        let twice = "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n";
        refused(&head(twice), Refusal::TransferEncoding);
        refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::TransferEncodingVersion);
        refused(b"GET / HTTP/1.1\nHost: a\r\n\r\n", Refusal::BareLf);
        refused(b"GET / HTTP/1.1\r\nHost: a\n\r\n", Refusal::BareLf);
        refused(b"GET / HTTP/1.1\r\nHost: a\r\n\n", Refusal::BareLf);
        refused(&head("X: a\rb\r\n"), Refusal::BareCr);
        refused(&head("X: a\r\n b\r\n"), Refusal::Folded);
        refused(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Refusal::Folded);
        refused(&head("X : a\r\n"), Refusal::SpaceBeforeColon);
        refused(&head("no colon\r\n"), Refusal::FieldName);
        refused(&head(": a\r\n"), Refusal::FieldName);
        refused(&head("a\0b: c\r\n"), Refusal::FieldName);
        refused(&head("X: a\0b\r\n"), Refusal::FieldValue);
        refused(b"GET /#x HTTP/1.1\r\n\r\n", Refusal::Fragment);
        refused(b"GET /\0 HTTP/1.1\r\n\r\n", Refusal::TargetByte);
        refused(b"GET /\xff HTTP/1.1\r\n\r\n", Refusal::TargetByte);
        refused(b"GET  / HTTP/1.1\r\n\r\n", Refusal::RequestLine);
        refused(b"GET /\r\n\r\n", Refusal::RequestLine);
        refused(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", Refusal::RequestLine);
        refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refusal::Version);
        refused(b"GET / HTTP/1.1 \r\n\r\n", Refusal::RequestLine);
    }

    #[test]
    fn chunk_framing_is_followed() {
        let body = |chunks: &str| {
            format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}").into_bytes()
        };
        for size in ["0x3", "+3", " 3", "3 ", "", "g", "11112222333344445"] {
            refused(&body(&format!("{size}\r\nabc\r\n")), Refusal::ChunkSize);
        }
        refused(&body("3;a\nabc\r\n0\r\n\r\n"), Refusal::BareLf);
        refused(&body("3\nabc\r\n"), Refusal::BareLf);
        refused(&body("3;\x01\r\nabc"), Refusal::ChunkExtension);
        refused(&body(&format!("3;{}\r\n", "a".repeat(1100))), Refusal::ChunkExtension);
        refused(&body("3\r\nabcd\r\n"), Refusal::ChunkEnd);
        refused(&body("3\r\nabc\n0\r\n\r\n"), Refusal::BareLf);
        refused(&body("0\r\ncontent-length: 4\r\n\r\n"), Refusal::Trailer);
        refused(&body("0\r\n\n"), Refusal::BareLf);
    }

    #[test]
    fn bounds_hold_exactly() {
        let head = |pad: usize| format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(pad)).into_bytes();
        let fixed = head(0).len();
        assert_eq!(scan(&[&head(LIMITS.bytes - fixed)]).0, None);
        refused(&head(LIMITS.bytes - fixed + 1), Refusal::HeadTooLarge);
        let mut scanner = Scanner::new(LIMITS);
        scanner.feed(&[b'a'; 100_000]);
        assert_eq!((scanner.refused(), scanner.held()), (Some(Refusal::HeadTooLarge), 0));
        let fields = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "a:\r\n".repeat(count)).into_bytes();
        assert_eq!(scan(&[&fields(LIMITS.fields)]).0, None);
        refused(&fields(LIMITS.fields + 1), Refusal::TooManyFields);
    }

    fn message() -> impl Strategy<Value = Vec<u8>> {
        let good = prop_oneof![
            Just(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()),
            Just(b"\r\nGET /a HTTP/1.0\r\n\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(|body| {
                let mut bytes =
                    format!("PUT /b HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
                bytes.extend(body);
                bytes
            }),
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..4).prop_map(
                |chunks| {
                    let mut bytes = b"PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                    for chunk in chunks {
                        bytes.extend(format!("{:x};e\r\n", chunk.len()).into_bytes());
                        bytes.extend(chunk);
                        bytes.extend(b"\r\n");
                    }
                    bytes.extend(b"0\r\nt: 1\r\n\r\n");
                    bytes
                }
            ),
        ];
        (good, proptest::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()))).prop_map(
            |(mut bytes, flip)| {
                if let Some((at, byte)) = flip {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                bytes
            },
        )
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            messages in proptest::collection::vec(message(), 1..5),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let bytes = messages.concat();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(scan(&[&bytes]), scan(&pieces));
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(scan(&[&bytes]), scan(&single));
        }

        #[test]
        fn any_bytes_stay_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let mut scanner = Scanner::new(LIMITS);
            scanner.feed(&bytes);
            prop_assert!(scanner.held() <= LIMITS.bytes);
        }
    }
}
