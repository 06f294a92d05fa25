//! A recipient's RSA public key: data keys are encrypted to it (RSA-OAEP, SHA-256, MGF1 with SHA-256; RFC 8017 7.1), and nobody here
//! can open them again.

use std::fmt;
use std::fs;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::model::RecipientName;
use crate::protect::seal::{DataKey, Edk};

/// The shortest modulus, in bits.
const MIN_BITS: usize = 2048;
/// The largest key file, in bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// A public key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PublicKeyError {
    /// The file cannot be read.
    #[error("`{path}` cannot be read: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is no such key.
    #[error("`{0}` is no RSA public key in PEM (`BEGIN PUBLIC KEY`)")]
    Malformed(String),
    /// It is too short.
    #[error("the RSA key of `{path}` has {bits} bits")]
    Short {
        /// The file.
        path: String,
        /// Its length.
        bits: usize,
    },
}

impl PublicKeyError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } => "mend the path",
            Self::Malformed(_) => "make it with `openssl rsa -in job.key -pubout -out job.pem`",
            Self::Short { .. } => "make one of 3072 bits: `openssl genrsa -out job.key 3072`",
        }
    }
}

/// A recipient's public key.
pub(super) struct PublicKey {
    key: OaepPublicEncryptingKey,
    /// `public/<recipient>/<first 16 hexadecimal digits of the key's SHA-256>`: another key is another name.
    name: String,
}

impl PublicKey {
    pub(super) fn read(recipient: &RecipientName, path: &Path) -> Result<Self, PublicKeyError> {
        let shown = || path.display().to_string();
        let io = |source| PublicKeyError::Read { path: shown(), source };
        if fs::metadata(path).map_err(io)?.len() > MAX_FILE_BYTES {
            return Err(PublicKeyError::Malformed(shown()));
        }
        let text = fs::read_to_string(path).map_err(io)?;
        let der = pem(&text).ok_or_else(|| PublicKeyError::Malformed(shown()))?;
        let key = PublicEncryptingKey::from_der(&der).map_err(|_| PublicKeyError::Malformed(shown()))?;
        let bits = key.key_size_bits();
        if bits < MIN_BITS {
            return Err(PublicKeyError::Short { path: shown(), bits });
        }
        let key = OaepPublicEncryptingKey::new(key).map_err(|_| PublicKeyError::Malformed(shown()))?;
        let digest = digest(&SHA256, &der);
        let print = crate::model::hex(digest.as_ref().get(..8).unwrap_or_default());
        let name = format!("public/{}/{print}", recipient.as_str().replace('/', "%2F"));
        Ok(Self { key, name })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Encrypts a data key, in the form of the raw RSA keyring.
    pub(super) fn wrap(&self, namespace: &str, data_key: &DataKey) -> Option<Edk> {
        let mut ciphertext = vec![0; self.key.ciphertext_size()];
        let written = self.key.encrypt(&OAEP_SHA256_MGF1SHA256, data_key.expose(), &mut ciphertext, None);
        let length = written.ok()?.len();
        ciphertext.truncate(length);
        Some(Edk {
            provider: namespace.to_owned().into(),
            info: self.name.clone().into(),
            ciphertext: ciphertext.into(),
        })
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The DER form of the one `PUBLIC KEY` block (RFC 7468, 13).
fn pem(text: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once("-----BEGIN PUBLIC KEY-----")?;
    let (block, _) = rest.split_once("-----END PUBLIC KEY-----")?;
    let block: String = block.split_ascii_whitespace().collect();
    STANDARD.decode(block).ok()
}
