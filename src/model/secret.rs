//! Bytes that must never be printed: zeroed when dropped, `Debug` shows nothing.

use std::fmt;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

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

    /// Reads a file that only its owner may read (mode 0600 or 0400).
    ///
    /// # Errors
    /// The file is missing, readable by others, empty or over 64 KiB.
    pub fn read(path: &Path) -> Result<Self, SecretFileError> {
        let at = |kind| SecretFileError { path: path.to_owned(), kind };
        let meta = std::fs::metadata(path).map_err(|e| at(SecretFileErrorKind::Read(e)))?;
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(at(SecretFileErrorKind::Open(meta.mode() & 0o777)));
        }
        if meta.len() == 0 || meta.len() > MAX_SECRET_BYTES {
            return Err(at(SecretFileErrorKind::Size(meta.len())));
        }
        std::fs::read(path).map(Self::new).map_err(|e| at(SecretFileErrorKind::Read(e)))
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
            SecretFileErrorKind::Size(_) => "put one secret of 1 to 65536 bytes into it",
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum SecretFileErrorKind {
    #[error("cannot be read: {0}")]
    Read(io::Error),
    #[error("has mode {0:04o}: others can read it")]
    Open(u32),
    #[error("has {0} bytes")]
    Size(u64),
}
