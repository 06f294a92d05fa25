//! From the data key to the key of a message and its commitment: HKDF-SHA-512, one extract, two expands.

use aws_lc_rs::hkdf::{HKDF_SHA512, KeyType, Salt};
use zeroize::Zeroizing;

use super::SealError;
use super::aead::{Cipher, KEY_BYTES};
use super::header::{COMMITMENT_BYTES, SUITE};
use super::ids::{DataKey, MessageId};

/// A key of 32 bytes.
struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

/// The cipher of a message and what commits to it.
pub(super) fn derive(
    data_key: &DataKey,
    id: &MessageId,
) -> Result<(Cipher, [u8; COMMITMENT_BYTES]), SealError> {
    let extracted = Salt::new(HKDF_SHA512, id.as_bytes()).extract(data_key.expose());
    let expand = |info: &[&[u8]]| {
        let mut out = Zeroizing::new([0; KEY_BYTES]);
        let okm = extracted.expand(info, Bytes32).map_err(|_| SealError::Cipher)?;
        okm.fill(&mut *out).map_err(|_| SealError::Cipher)?;
        Ok::<_, SealError>(out)
    };
    let key = expand(&[&SUITE.to_be_bytes(), b"DERIVEKEY"])?;
    let commitment = expand(&[b"COMMITKEY"])?;
    Ok((Cipher::new(&key), *commitment))
}
