//! Bytes that must never be printed: zeroed when dropped, `Debug` shows nothing.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid};
use zeroize::Zeroizing;

/// The largest secret file that is read, in bytes.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// A secret read from a file.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Wraps bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads a file that nobody else may read: mode 0600 or 0400. A file of root that the gateway's own group may read (0640, 0440) is
    /// one too, if the gateway does not run as root: it is how Kubernetes hands a secret to a pod (`fsGroup`).
    ///
    /// # Errors
    /// The file is missing, no regular file, readable by others, empty or over 64 KiB.
    pub fn read(path: &Path) -> Result<Self, SecretFileError> {
        let at = |kind| SecretFileError { path: path.to_owned(), kind };
        let unread = |error| at(SecretFileErrorKind::Read(error));
        // Asked before it is opened: opening a pipe would wait for a writer.
        if !std::fs::metadata(path).map_err(unread)?.is_file() {
            return Err(at(SecretFileErrorKind::Kind));
        }
        let file = File::open(path).map_err(unread)?;
        // Asked of the open file: what was looked at is what is read.
        let meta = file.metadata().map_err(unread)?;
        if !is_private(&meta) {
            return Err(at(SecretFileErrorKind::Open(meta.mode() & 0o777)));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(
            usize::try_from(meta.len().min(MAX_SECRET_BYTES)).unwrap_or(0),
        ));
        let read = file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes).map_err(unread)?;
        if read == 0 || bytes.len() as u64 > MAX_SECRET_BYTES {
            return Err(at(SecretFileErrorKind::Size));
        }
        Ok(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text without the line end, if they are UTF-8.
    #[must_use]
    pub fn expose_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok().map(str::trim_end)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A secret file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("secret file `{}` {kind}", path.display())]
pub struct SecretFileError {
    path: PathBuf,
    kind: SecretFileErrorKind,
}

impl SecretFileError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self.kind {
            SecretFileErrorKind::Read(_) => "mend the path, or put the file there with mode 0600",
            SecretFileErrorKind::Open(_) => "run `chmod 600` on it",
            SecretFileErrorKind::Kind => "name a regular file, or a link to one",
            SecretFileErrorKind::Size => "put one secret of 1 to 65536 bytes into it",
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum SecretFileErrorKind {
    #[error("cannot be read: {0}")]
    Read(io::Error),
    #[error("has mode {0:04o}: others can read it, and it must have mode 0600")]
    Open(u32),
    #[error("is no regular file")]
    Kind,
    #[error("is empty or larger than 64 KiB")]
    Size,
}

fn is_private(meta: &Metadata) -> bool {
    let others = meta.mode() & 0o077;
    let of_root_for_our_group =
        others == 0o040 && meta.uid() == 0 && meta.gid() == getegid().as_raw() && !geteuid().is_root();
    others == 0 || of_root_for_our_group
}
