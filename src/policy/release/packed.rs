//! A bundle as one file: a gzipped tar of plain files, the manifest first.
//!
//! What comes over a network is read as if an enemy had packed it: only regular files with names that a bundle has, each once, each
//! within its bound, and no byte more. Nothing is written to a disk.

use std::collections::BTreeSet;
use std::io::{self, Read};

use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};

use super::manifest::FILE;
use crate::model::note;
use crate::policy::source::{self, MAX_ENTITIES, MAX_FILES, MAX_TEXT};

/// Bytes that an archive may unpack to: all entities, and 32 MiB of policies.
const MAX_UNPACKED: u64 = MAX_ENTITIES + (32 << 20);

/// The files of an archive.
#[derive(Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// The manifest, if it has one.
    pub manifest: Option<Vec<u8>>,
    /// All others, by name.
    pub files: Vec<(String, Vec<u8>)>,
}

/// An archive that is none of a bundle.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is no gzipped tar, or not all of it is there.
    #[error("is no whole tar.gz: {0}")]
    Damaged(#[from] io::Error),
    /// Something else than a file is in it.
    #[error("holds `{0}`, which is no regular file")]
    Kind(String),
    /// A file that no bundle has.
    #[error("holds `{0}`, which is no file of a bundle")]
    Name(String),
    /// A file is in it twice.
    #[error("holds `{0}` twice")]
    Twice(String),
    /// There are too many files.
    #[error("holds more than {0} files")]
    Count(usize),
    /// A file is too large.
    #[error("holds `{0}`, which is larger than {1} bytes")]
    Size(String, u64),
    /// Something comes after its end.
    #[error("has something after its end")]
    Trailing,
}

/// Reads an archive whole.
///
/// # Errors
/// Anything in it is not as it should be.
pub fn unpack(bytes: &[u8]) -> Result<Unpacked, UnpackError> {
    let mut packed = bytes;
    let mut tar = Bounded { inner: GzDecoder::new(&mut packed), left: MAX_UNPACKED };
    let mut found = Unpacked { manifest: None, files: Vec::new() };
    let mut names = BTreeSet::new();
    let mut left = MAX_ENTITIES;
    // Raw: extensions that give another name or size to the next file are not followed but refused.
    for entry in tar::Archive::new(&mut tar).entries()?.raw(true) {
        let mut entry = entry?;
        let name = shown(&entry.path_bytes());
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(UnpackError::Kind(name));
        }
        if name != FILE && !(is_plain(&name) && source::is_part(&name)) {
            return Err(UnpackError::Name(name));
        }
        if !names.insert(name.clone()) {
            return Err(UnpackError::Twice(name));
        }
        if names.len() > 2 * MAX_FILES {
            return Err(UnpackError::Count(2 * MAX_FILES));
        }
        let bound = bound(&name, left);
        let size = entry.header().entry_size()?;
        if size > bound {
            return Err(UnpackError::Size(name, bound));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        if source::length(&content) != size {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match name.as_str() {
            FILE => found.manifest = Some(content),
            _ => {
                if source::is_entities(&name) {
                    left = left.saturating_sub(size);
                }
                found.files.push((name, content));
            }
        }
    }
    // To the end, so that the checksum of the compression is looked at.
    let mut rest = [0; 4096];
    loop {
        let count = tar.read(&mut rest)?;
        if count == 0 {
            break;
        }
        if rest.iter().take(count).any(|byte| *byte != 0) {
            return Err(UnpackError::Trailing);
        }
    }
    if packed.is_empty() { Ok(found) } else { Err(UnpackError::Trailing) }
}

fn bound(name: &str, left: u64) -> u64 {
    if name == FILE {
        u64::try_from(note::MAX_BYTES).unwrap_or(u64::MAX)
    } else if source::is_entities(name) {
        left
    } else {
        MAX_TEXT
    }
}

/// A name that leads nowhere else.
fn is_plain(name: &str) -> bool {
    !name.contains(|c: char| c == '/' || c == '\\' || c.is_control())
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect()
}

/// Refuses to give more than it may.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.left = match self.left.checked_sub(u64::try_from(count).unwrap_or(u64::MAX)) {
            Some(left) => left,
            None => return Err(io::Error::other(format!("it unpacks to more than {MAX_UNPACKED} bytes"))),
        };
        Ok(count)
    }
}

/// Packs a manifest and files, in this order; the same input gives the same bytes.
///
/// # Errors
/// A name is longer than a tar header holds, or there is no memory.
pub fn pack(manifest: &str, files: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    let mut tar = tar::Builder::new(gzip);
    let all = std::iter::once((FILE, manifest.as_bytes()))
        .chain(files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    for (name, bytes) in all {
        let mut header = tar::Header::new_ustar();
        header.set_path(name)?;
        header.set_size(source::length(bytes));
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_cksum();
        tar.append(&header, bytes)?;
    }
    tar.into_inner()?.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn files() -> Vec<(String, Vec<u8>)> {
        let schema = ("tidegate.cedarschema".to_owned(), b"schema".to_vec());
        vec![("10-a.cedar".into(), b"permit".to_vec()), ("entities.json".into(), b"[]".to_vec()), schema]
    }

    /// An archive with one more entry, made without any check.
    fn with(entry: impl FnOnce(&mut tar::Header), name: &[u8], content: &[u8]) -> Vec<u8> {
        let gzip = GzBuilder::new().write(Vec::new(), Compression::default());
        let mut tar = tar::Builder::new(gzip);
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_size(u64::try_from(content.len()).unwrap());
        header.set_mode(0o644);
        entry(&mut header);
        header.set_cksum();
        let mut good = tar::Header::new_ustar();
        good.set_path("10-a.cedar").unwrap();
        good.set_size(0);
        good.set_cksum();
        tar.append(&good, &b""[..]).unwrap();
        tar.append(&header, content).unwrap();
        tar.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let packed = pack("manifest", &files()).unwrap();
        assert_eq!(packed, pack("manifest", &files()).unwrap());
        let found = unpack(&packed).unwrap();
        assert_eq!(found, Unpacked { manifest: Some(b"manifest".to_vec()), files: files() });
    }

    #[test]
    fn names_that_lead_elsewhere_or_nowhere_are_refused() {
        for name in [
            "../x.cedar",
            "/etc/x.cedar",
            "a/b.cedar",
            "./x.cedar",
            "README.md",
            ".x.cedar",
            "x.cedar/",
            "",
            "..",
        ] {
            let error = unpack(&with(|_| {}, name.as_bytes(), b"x")).unwrap_err();
            assert!(matches!(&error, UnpackError::Name(found) if found == name), "{name}: {error}");
        }
        assert!(matches!(unpack(&with(|_| {}, b"\xff.cedar/", b"")), Err(UnpackError::Name(_))));
        assert!(matches!(unpack(&with(|_| {}, b"10-a.cedar", b"")), Err(UnpackError::Twice(_))));
    }

    #[test]
    fn links_directories_and_extensions_are_refused() {
        use tar::EntryType;
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Directory,
            EntryType::Fifo,
            EntryType::Char,
            EntryType::GNULongName,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
            EntryType::GNUSparse,
        ] {
            let error = unpack(&with(|header| header.set_entry_type(kind), b"x.cedar", b"")).unwrap_err();
            assert!(matches!(error, UnpackError::Kind(_)), "{kind:?}: {error}");
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_held() {
        let large = vec![b' '; usize::try_from(MAX_TEXT).unwrap() + 1];
        assert!(matches!(unpack(&with(|_| {}, b"x.cedar", &large)), Err(UnpackError::Size(..))));
        // A header that promises more than comes.
        assert!(matches!(
            unpack(&with(|h| h.set_size(1 << 19), b"x.cedar", b"x")),
            Err(UnpackError::Damaged(_))
        ));
        // A small file that unpacks to far more than any bundle: zeros after its end.
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
        io::copy(&mut io::repeat(0).take(MAX_UNPACKED + 1), &mut gzip).unwrap();
        let bomb = gzip.finish().unwrap();
        assert!(bomb.len() < 1 << 20);
        assert!(unpack(&bomb).unwrap_err().to_string().contains("unpacks to more than"));
    }

    #[test]
    fn a_part_or_more_than_the_whole_is_refused() {
        let packed = pack("manifest", &files()).unwrap();
        for end in 0..packed.len() {
            assert!(unpack(&packed[..end]).is_err(), "{end} of {} bytes", packed.len());
        }
        for more in [&b"\0"[..], b"x", &packed] {
            assert!(matches!(unpack(&[&packed, more].concat()), Err(UnpackError::Trailing)));
        }
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_seen(at in 0_usize..1000, by in 1_u8..) {
            let mut packed = pack("manifest", &files()).unwrap();
            // The head of ten bytes says a time and a system, which change nothing; nor do the bits that fill up the last compressed byte.
            let at = 10 + at % (packed.len() - 10);
            let whole = unpack(&packed).unwrap();
            let last = packed.len() - 9;
            packed[at] ^= by;
            let read = unpack(&packed);
            prop_assert!(read.is_err() || at == last && read.unwrap() == whole);
        }
    }
}
