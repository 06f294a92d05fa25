//! The file of the signing key: Ed25519 as PKCS#8 in PEM (RFC 8410, what `openssl genpkey -algorithm ed25519` writes), mode 0600.
//! It is made at the first start if none is configured.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::TreeError;
use crate::audit::keys::make_directory;
use crate::model::Secret;

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// Reads a signing key.
///
/// # Errors
/// The file is missing, readable by others, or holds no Ed25519 key.
pub fn read(path: &Path) -> Result<Ed25519KeyPair, TreeError> {
    let secret = Secret::read(path).map_err(TreeError::KeyFile)?;
    let malformed = || TreeError::KeyMalformed(path.to_owned());
    let text = secret.expose_text().ok_or_else(malformed)?;
    let body = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).ok_or_else(malformed)?.0;
    let base64 = Zeroizing::new(body.split_whitespace().collect::<String>());
    let der = Zeroizing::new(STANDARD.decode(base64.as_bytes()).map_err(|_| malformed())?);
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| malformed())
}

/// Makes a signing key; the file appears whole and durable, or not at all.
///
/// # Errors
/// It cannot be written.
pub fn make(path: &Path) -> Result<(), TreeError> {
    let failed = |source| TreeError::Io { action: "write", path: path.to_owned(), source };
    let pair = Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1());
    let pair = pair.map_err(|_| failed(io::Error::other("no key could be generated")))?;
    let base64 = Zeroizing::new(STANDARD.encode(pair.as_ref()));
    write(path, &Zeroizing::new(format!("{BEGIN}\n{}\n{END}\n", base64.as_str()))).map_err(failed)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    make_directory(directory)?;
    let partial: PathBuf = directory.join(".new-signing-key");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&partial, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use aws_lc_rs::signature::KeyPair as _;

    use super::*;

    /// The key of RFC 8032 section 7.1, test 1, as `openssl pkey` writes it, and its public key.
    const OPENSSL: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    fn put(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn a_key_of_openssl_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.pem");
        put(&path, OPENSSL);
        let pair = read(&path).unwrap();
        assert_eq!(pair.public_key().as_ref(), STANDARD.decode(PUBLIC).unwrap());
    }

    #[test]
    fn a_key_that_was_made_is_read_back_and_belongs_to_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/checkpoint.pem");
        make(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let public = || read(&path).unwrap().public_key().as_ref().to_vec();
        assert_eq!(public(), public());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read(&path), Err(TreeError::KeyFile(_))));
        put(&path, "no key");
        assert!(matches!(read(&path), Err(TreeError::KeyMalformed(_))));
    }
}
