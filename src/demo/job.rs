//! A GPU job without Tidegate: it has the 32 bytes of one branch key, as `tidegate keys export` hands them out, and opens what it reads.
//!
//! In Python, with a client that others wrote, the same is shown in `docs/sealing.md`.

use anyhow::Context as _;
use bytes::BytesMut;

use crate::protect::keys::KEY_BYTES;
use crate::protect::seal::{Bounds, EncryptionContext, UnverifiedHeader, aes_edk};

/// The namespace of our keys in sealed messages, the default of `[keys] namespace`.
const NAMESPACE: &str = "tidegate";

/// The plaintext of a whole message.
///
/// # Errors
/// It is no message, is not for this key, or was changed.
pub(crate) fn open(key: &[u8; KEY_BYTES], sealed: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (header, length) =
        UnverifiedHeader::parse(sealed, &Bounds::default())?.context("the message ends in its header")?;
    let edks = header.unverified().edks();
    let context = header.unverified().context();
    let data_key = edks
        .iter()
        .find_map(|edk| aes_edk::unwrap(key, NAMESPACE, aes_edk::name_of(edk)?, edk, context))
        .context("no data key of the message is for this job")?;
    let mut opener = header.verify(&data_key, &EncryptionContext::new())?;
    let mut rest = BytesMut::from(sealed.get(length..).unwrap_or_default());
    let mut plaintext = Vec::new();
    while let Some(frame) = opener.next_frame(&mut rest)? {
        plaintext.extend_from_slice(&frame);
    }
    opener.finish(&rest)?;
    Ok(plaintext)
}
