//! A root key in a PKCS #11 token (OASIS PKCS #11 v3.0, 6.13: `CKM_AES_GCM`): it never leaves the token.
//!
//! The wrapped form is `pkcs11.BASE64(IV, CIPHERTEXT, TAG).LABEL`. It names the key, so that keys wrapped under an earlier label open
//! while the token still has it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11 as Module};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::root::{BranchKey, KEY_BYTES};
use super::settings::Pkcs11Settings;
use crate::model::{Secret, SecretFileError};

/// Bytes of an IV.
const IV_BYTES: usize = 12;
/// Bits of a tag.
const TAG_BITS: u64 = 128;
const START: &str = "pkcs11.";

/// A token that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Pkcs11Error {
    /// The PIN.
    #[error(transparent)]
    Pin(#[from] SecretFileError),
    /// The PIN file is no text.
    #[error("pin file `{}` holds no text", .0.display())]
    NoPin(PathBuf),
    /// The module does not have the token.
    #[error("module `{}` has no token with the label `{token}`", module.display())]
    NoToken {
        /// The module.
        module: PathBuf,
        /// The label.
        token: String,
    },
    /// The token does not have the key, or has several.
    #[error("the token has {count} AES keys with the label `{label}`, not one")]
    Key {
        /// The label.
        label: String,
        /// How many it has.
        count: usize,
    },
    /// The wrapped key was made by another key, for another name, or was changed.
    #[error("the wrapped key does not open: it is of another root key or another name, or was changed")]
    Refused,
    /// The module failed.
    #[error("module `{}` failed", module.display())]
    Module {
        /// The module.
        module: PathBuf,
        /// Why.
        #[source]
        source: Error,
    },
    /// The random source failed.
    #[error("the system gives no random bytes")]
    Random,
}

/// Modules by path: one can be initialised once in a process, and stays so.
static MODULES: Mutex<BTreeMap<PathBuf, Module>> = Mutex::new(BTreeMap::new());

/// One key of a token. Its methods block.
#[derive(Debug)]
pub(super) struct Pkcs11(Pkcs11Settings);

impl Pkcs11 {
    pub(super) fn new(settings: &Pkcs11Settings) -> Self {
        Self(settings.clone())
    }

    /// Wraps a branch key; the name is authenticated with it.
    pub(super) fn encrypt(&self, name: &str, key: &BranchKey) -> Result<String, Pkcs11Error> {
        let session = self.session()?;
        let root = self.find(&session, &self.0.key)?;
        let mut iv = [0; IV_BYTES];
        rand::fill(&mut iv).map_err(|_| Pkcs11Error::Random)?;
        let parameters = GcmParams::new(&mut iv, name.as_bytes(), TAG_BITS.into());
        let mechanism = Mechanism::AesGcm(parameters.map_err(|error| self.failed(error))?);
        let sealed = session.encrypt(&mechanism, root, &**key).map_err(|error| self.failed(error))?;
        // Some tokens make the IV themselves and put it here: it is read after the call.
        let wrapped = [&iv[..], &sealed].concat();
        Ok(format!("{START}{}.{}", STANDARD.encode(wrapped), self.0.key))
    }

    /// Opens what [`Self::encrypt`] made under the same name.
    pub(super) fn decrypt(&self, name: &str, wrapped: &str) -> Result<BranchKey, Pkcs11Error> {
        let parts = wrapped.strip_prefix(START).and_then(|rest| rest.split_once('.'));
        let (wrapped, label) = parts.ok_or(Pkcs11Error::Refused)?;
        let wrapped = STANDARD.decode(wrapped).map_err(|_| Pkcs11Error::Refused)?;
        let (iv, sealed) = wrapped.split_first_chunk::<IV_BYTES>().ok_or(Pkcs11Error::Refused)?;
        let session = self.session()?;
        let root = self.find(&session, label)?;
        let mut iv = *iv;
        let parameters = GcmParams::new(&mut iv, name.as_bytes(), TAG_BITS.into());
        let mechanism = Mechanism::AesGcm(parameters.map_err(|error| self.failed(error))?);
        // Tokens differ in the error that they give for a wrong tag (SoftHSM: CKR_GENERAL_ERROR).
        let key = session.decrypt(&mechanism, root, sealed).map_err(|error| match error {
            Error::Pkcs11(
                RvError::GeneralError
                | RvError::EncryptedDataInvalid
                | RvError::EncryptedDataLenRange
                | RvError::FunctionFailed
                | RvError::DataInvalid,
                _,
            ) => Pkcs11Error::Refused,
            error => self.failed(error),
        })?;
        let key = Zeroizing::new(key);
        <[u8; KEY_BYTES]>::try_from(key.as_slice()).map(Zeroizing::new).map_err(|_| Pkcs11Error::Refused)
    }

    /// A session of its own for each call: they are few, and a token that was pulled out and put back works again.
    fn session(&self) -> Result<Session, Pkcs11Error> {
        let pin = Secret::read(&self.0.pin_file)?;
        let pin = pin.expose_text().ok_or_else(|| Pkcs11Error::NoPin(self.0.pin_file.clone()))?;
        let module = self.module().map_err(|error| self.failed(error))?;
        let slots = module.get_slots_with_initialized_token().map_err(|error| self.failed(error))?;
        let ours = slots.into_iter().find(|slot| {
            module.get_token_info(*slot).is_ok_and(|token| token.label().trim_end() == self.0.token)
        });
        let slot = ours.ok_or_else(|| Pkcs11Error::NoToken {
            module: self.0.module.clone(),
            token: self.0.token.clone(),
        })?;
        let session = module.open_ro_session(slot).map_err(|error| self.failed(error))?;
        match session.login(UserType::User, Some(&AuthPin::new(pin.into()))) {
            // Another thread is in: that counts for the whole process.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn module(&self) -> Result<Module, Error> {
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&self.0.module) {
            return Ok(module.clone());
        }
        let module = Module::new(&self.0.module)?;
        module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
        modules.insert(self.0.module.clone(), module.clone());
        Ok(module)
    }

    fn find(&self, session: &Session, label: &str) -> Result<ObjectHandle, Pkcs11Error> {
        let wanted = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Label(label.as_bytes().to_vec()),
        ];
        let found = session.find_objects(&wanted).map_err(|error| self.failed(error))?;
        match found.as_slice() {
            [one] => Ok(*one),
            several => Err(Pkcs11Error::Key { label: label.to_owned(), count: several.len() }),
        }
    }

    fn failed(&self, source: Error) -> Pkcs11Error {
        Pkcs11Error::Module { module: self.0.module.clone(), source }
    }
}

/// With a real token: `tests/run keys.hsm` makes one and sets the variables.
#[cfg(test)]
mod tests {
    use super::*;

    fn settings(key: &str) -> Option<Pkcs11Settings> {
        let variable = |name: &str| std::env::var(format!("TIDEGATE_TEST_PKCS11_{name}"));
        Some(Pkcs11Settings {
            module: variable("MODULE").ok()?.into(),
            token: variable("TOKEN").unwrap(),
            key: key.to_owned(),
            pin_file: variable("PIN_FILE").unwrap().into(),
        })
    }

    /// A key that cannot be read out of the token.
    fn generate(root: &Pkcs11) {
        let module = root.module().unwrap();
        let pin = Secret::read(&root.0.pin_file).unwrap();
        let slots = module.get_slots_with_initialized_token().unwrap();
        let session = module.open_rw_session(slots[0]).unwrap();
        session.login(UserType::User, Some(&AuthPin::new(pin.expose_text().unwrap().into()))).unwrap();
        let template = [
            Attribute::Token(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::ValueLen(32.into()),
            Attribute::Label(root.0.key.as_bytes().to_vec()),
        ];
        session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
    }

    #[test]
    fn a_real_token_wraps_and_opens() {
        let Some(first) = settings("root-1") else { return };
        let root = Pkcs11::new(&first);
        let key = Zeroizing::new([7; 32]);
        let none = root.encrypt("t/a/b/rest/v1", &key).unwrap_err();
        assert!(matches!(none, Pkcs11Error::Key { count: 0, .. }), "{none}");
        generate(&root);
        let wrapped = root.encrypt("t/a/b/rest/v1", &key).unwrap();
        assert_ne!(wrapped, root.encrypt("t/a/b/rest/v1", &key).unwrap(), "an IV was used twice");
        assert_eq!(*root.decrypt("t/a/b/rest/v1", &wrapped).unwrap(), *key);
        let other = root.decrypt("t/a/b/rest/v2", &wrapped).unwrap_err();
        assert!(matches!(other, Pkcs11Error::Refused), "{other:?}");

        // The next root key; what the first wrapped opens while the token has it.
        let next = Pkcs11::new(&Pkcs11Settings { key: "root-2".to_owned(), ..first.clone() });
        generate(&next);
        assert_eq!(*next.decrypt("t/a/b/rest/v1", &wrapped).unwrap(), *key);
        assert!(next.encrypt("t/a/b/rest/v1", &key).unwrap().ends_with(".root-2"));

        let lost = Pkcs11::new(&Pkcs11Settings { token: "nobody".to_owned(), ..first });
        let lost = lost.encrypt("t/a/b/rest/v1", &key).unwrap_err();
        assert!(matches!(lost, Pkcs11Error::NoToken { .. }), "{lost}");
        for thread in (0..8).map(|_| {
            let (root, wrapped, key) = (Pkcs11::new(&root.0), wrapped.clone(), key.clone());
            std::thread::spawn(move || assert_eq!(*root.decrypt("t/a/b/rest/v1", &wrapped).unwrap(), *key))
        }) {
            thread.join().unwrap();
        }
    }
}
