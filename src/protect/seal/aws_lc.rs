//! AES-256-GCM of AWS-LC behind the `aead` traits.

use aes_gcm::aead::consts::{U12, U16, U32};
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadCore, AeadInOut, Error, Key, KeyInit, KeySizeUser, Nonce, Result, Tag, TagPosition};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as AwsNonce, UnboundKey};

/// One expanded key; none if AWS-LC would not have it, and then every use fails.
pub(super) struct AwsLcGcm(Option<LessSafeKey>);

impl KeySizeUser for AwsLcGcm {
    type KeySize = U32;
}

impl KeyInit for AwsLcGcm {
    fn new(key: &Key<Self>) -> Self {
        Self(UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new))
    }
}

impl AeadCore for AwsLcGcm {
    type NonceSize = U12;
    type TagSize = U16;
    const TAG_POSITION: TagPosition = TagPosition::Postfix;
}

impl AeadInOut for AwsLcGcm {
    fn encrypt_inout_detached(
        &self,
        nonce: &Nonce<Self>,
        aad: &[u8],
        buffer: InOutBuf<'_, '_, u8>,
    ) -> Result<Tag<Self>> {
        let key = self.0.as_ref().ok_or(Error)?;
        let nonce = AwsNonce::assume_unique_for_key((*nonce).into());
        let tag =
            key.seal_in_place_separate_tag(nonce, Aad::from(aad), in_place(buffer)).map_err(|_| Error)?;
        Tag::<Self>::try_from(tag.as_ref()).map_err(|_| Error)
    }

    fn decrypt_inout_detached(
        &self,
        nonce: &Nonce<Self>,
        aad: &[u8],
        buffer: InOutBuf<'_, '_, u8>,
        tag: &Tag<Self>,
    ) -> Result<()> {
        let key = self.0.as_ref().ok_or(Error)?;
        let nonce = AwsNonce::assume_unique_for_key((*nonce).into());
        let opened = key.open_in_place_separate_tag(nonce, Aad::from(aad), tag, in_place(buffer));
        opened.map(|_| ()).map_err(|_| Error)
    }
}

/// The output, holding the input: AWS-LC works in place, as all our callers do.
fn in_place<'out>(mut buffer: InOutBuf<'_, 'out, u8>) -> &'out mut [u8] {
    if buffer.get_in().as_ptr() != buffer.get_out().as_ptr() {
        let input = buffer.get_in().to_vec();
        buffer.get_out().copy_from_slice(&input);
    }
    buffer.into_out()
}
