//! The checksums that S3 clients send in trailers, computed as the bytes pass.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};

/// A checksum that is verified here. Of those in trailers others (`crc64nvme`) are dropped unverified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumKind {
    /// CRC-32 (ISO-HDLC): what AWS SDKs send by default.
    Crc32,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// MD5, of `Content-MD5`.
    Md5,
    /// SHA-1; S3 still offers it.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl ChecksumKind {
    /// By the name of its header or trailer.
    #[must_use]
    pub fn from_header(name: &str) -> Option<Self> {
        match name {
            "x-amz-checksum-crc32" => Some(Self::Crc32),
            "x-amz-checksum-crc32c" => Some(Self::Crc32c),
            "content-md5" => Some(Self::Md5),
            "x-amz-checksum-sha1" => Some(Self::Sha1),
            "x-amz-checksum-sha256" => Some(Self::Sha256),
            _ => None,
        }
    }
}

/// A checksum over the bytes so far.
#[derive(Clone)]
pub(super) enum Checksum {
    Crc32(u32),
    Crc32c(u32),
    Md5(Box<Md5>),
    Sha(Box<Context>),
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crc32(_) => "crc32",
            Self::Crc32c(_) => "crc32c",
            Self::Md5(_) => "md5",
            Self::Sha(_) => "sha",
        })
    }
}

impl Checksum {
    pub(super) fn new(kind: ChecksumKind) -> Self {
        match kind {
            ChecksumKind::Crc32 => Self::Crc32(0),
            ChecksumKind::Crc32c => Self::Crc32c(0),
            ChecksumKind::Md5 => Self::Md5(Box::default()),
            ChecksumKind::Sha1 => Self::Sha(Box::new(Context::new(&SHA1_FOR_LEGACY_USE_ONLY))),
            ChecksumKind::Sha256 => Self::Sha(Box::new(Context::new(&SHA256))),
        }
    }

    pub(super) fn update(&mut self, data: &[u8]) {
        match self {
            Self::Crc32(value) => *value = crc32(*value, data),
            Self::Crc32c(value) => *value = crc32c::crc32c_append(*value, data),
            Self::Md5(context) => context.update(data),
            Self::Sha(context) => context.update(data),
        }
    }

    /// The value as S3 writes it: base64 of the big-endian bytes.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Crc32(value) | Self::Crc32c(value) => STANDARD.encode(value.to_be_bytes()),
            Self::Md5(context) => STANDARD.encode(context.finalize()),
            Self::Sha(context) => STANDARD.encode(context.finish()),
        }
    }
}

/// Tables of the reflected polynomial 0xEDB88320: table k holds the CRC of a byte followed by k zero bytes.
static TABLES: [[u32; 256]; 8] = tables();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler; every index is below the length")]
#[expect(clippy::cast_possible_truncation, reason = "the index is below 256")]
const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0_u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// Eight bytes a step ("slicing-by-8", Kounavis and Berry 2005).
fn crc32(so_far: u32, data: &[u8]) -> u32 {
    let at = |table: &[u32; 256], byte: u8| table.get(usize::from(byte)).copied().unwrap_or_default();
    let [t0, t1, t2, t3, t4, t5, t6, t7] = &TABLES;
    let mut crc = !so_far;
    let (eights, rest) = data.as_chunks::<8>();
    for &[a, b, c, d, e, f, g, h] in eights {
        let [w, x, y, z] = (crc ^ u32::from_le_bytes([a, b, c, d])).to_le_bytes();
        crc = at(t7, w) ^ at(t6, x) ^ at(t5, y) ^ at(t4, z) ^ at(t3, e) ^ at(t2, f) ^ at(t1, g) ^ at(t0, h);
    }
    for &byte in rest {
        let [low, ..] = crc.to_le_bytes();
        crc = crc >> 8 ^ at(t0, low ^ byte);
    }
    !crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(kind: ChecksumKind, parts: &[&[u8]]) -> String {
        let mut checksum = Checksum::new(kind);
        parts.iter().for_each(|part| checksum.update(part));
        checksum.finish()
    }

    #[test]
    fn check_values_of_the_catalogues() {
        assert_eq!(crc32(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(sum(ChecksumKind::Crc32, &[b"123456789"]), "y/Q5Jg==");
        assert_eq!(sum(ChecksumKind::Crc32c, &[b"123456789"]), "4waSgw==");
        assert_eq!(sum(ChecksumKind::Md5, &[]), "1B2M2Y8AsgTpgAmY7PhCfg==");
        assert_eq!(sum(ChecksumKind::Sha1, &[]), "2jmj7l5rSw0yVb/vlWAYkK/YBwk=");
        assert_eq!(sum(ChecksumKind::Sha256, &[]), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(data in prop::collection::vec(any::<u8>(), 0..100), cut in 0..100_usize) {
            let (a, b) = data.split_at(cut.min(data.len()));
            let bitwise = data.iter().fold(!0_u32, |crc, byte| {
                (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
            });
            prop_assert_eq!(crc32(crc32(0, a), b), !bitwise);
            for kind in [ChecksumKind::Crc32, ChecksumKind::Crc32c, ChecksumKind::Sha256] {
                prop_assert_eq!(sum(kind, &[a, b]), sum(kind, &[&data]));
            }
        }
    }
}
