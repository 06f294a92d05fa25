//! Signed notes: text with Ed25519 signatures (C2SP signed-note), and the one-line form of the keys that verify them.
//!
//! ```text
//! <text, ends in a line feed>
//! <empty line>
//! — <key name> base64(<key id, 4 bytes> <signature, 64 bytes>)
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Largest note that is read.
pub const MAX_BYTES: usize = 64 * 1024;
/// Most signatures of a note that is read; the specification asks for at least 16.
const MAX_SIGNATURES: usize = 32;
/// The signature type Ed25519.
const ED25519_TYPE: u8 = 0x01;
/// What a signature line begins with: an em dash and a space.
const DASH: &str = "\u{2014} ";

/// A note or key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It is no signed note.
    #[error("it is no signed note: {0}")]
    Malformed(&'static str),
    /// None of the keys signed it.
    #[error("it is not signed by `{wanted}`, only by {found}")]
    OtherKey {
        /// The keys that were tried.
        wanted: String,
        /// Name and id of those that signed.
        found: String,
    },
    /// A signature by one of the keys is wrong.
    #[error("the signature by `{0}` is wrong: the text or the signature was changed")]
    Signature(String),
    /// A text is no verifier key.
    #[error("`{0}` is no verifier key: it has the form name+id+base64")]
    Key(String),
}

/// A key that verifies notes; printed as `<name>+<id, 8 hex digits>+<base64>` ("vkey").
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: [u8; 4],
    public: [u8; 32],
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl VerifierKey {
    /// The key with this name and Ed25519 public key.
    #[must_use]
    pub fn new(name: &str, public: [u8; 32]) -> Self {
        let typed = [&[ED25519_TYPE], &public[..]].concat();
        let hash = digest(&SHA256, &[name.as_bytes(), b"\n", &typed].concat());
        // INVARIANT: a SHA-256 hash has more than four bytes.
        let id = hash.as_ref().first_chunk().copied().unwrap_or_default();
        Self { name: name.to_owned(), id, public }
    }

    /// The name, by which people know the key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same key under another name.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        Self::new(name, self.public)
    }

    /// Name and id, by which signatures know it.
    #[must_use]
    pub fn label(&self) -> String {
        label(&self.name, self.id)
    }

    fn verifies(&self, text: &str, signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.public).verify(text.as_bytes(), signature).is_ok()
    }
}

fn label(name: &str, id: [u8; 4]) -> String {
    format!("{name}+{:08x}", u32::from_be_bytes(id))
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = STANDARD.encode([&[ED25519_TYPE], &self.public[..]].concat());
        write!(f, "{}+{key}", self.label())
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let wrong = || NoteError::Key(text.chars().take(120).collect());
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let bytes = STANDARD.decode(key).map_err(|_| wrong())?;
        let Some((&ED25519_TYPE, public)) = bytes.split_first() else { return Err(wrong()) };
        let key = Self::new(name, public.try_into().map_err(|_| wrong())?);
        let named = is_name(name) && key.label() == format!("{name}+{id}");
        named.then_some(key).ok_or_else(wrong)
    }
}

/// Whether a text can be the name of a key: not empty, no spaces, no plus.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

/// A key that signs notes.
pub struct Signer {
    pair: Arc<Ed25519KeyPair>,
    verifier: VerifierKey,
}

impl fmt::Debug for Signer {
    /// The pair is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.verifier).finish()
    }
}

impl Signer {
    /// Signs under this name.
    #[must_use]
    pub fn new(name: &str, pair: Arc<Ed25519KeyPair>) -> Self {
        // INVARIANT: an Ed25519 public key has 32 bytes.
        let public = pair.public_key().as_ref().first_chunk().copied().unwrap_or_default();
        Self { pair, verifier: VerifierKey::new(name, public) }
    }

    /// The key that verifies what this one signs.
    #[must_use]
    pub const fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    fn line(&self, text: &str) -> String {
        let signature = self.pair.sign(text.as_bytes());
        let blob = STANDARD.encode([&self.verifier.id, signature.as_ref()].concat());
        format!("{DASH}{} {blob}\n", self.verifier.name)
    }
}

/// The note of a text that ends in a line feed, with one signature line for each signer.
#[must_use]
pub fn sign<'a>(text: &str, signers: impl IntoIterator<Item = &'a Signer>) -> String {
    let lines: String = signers.into_iter().map(|signer| signer.line(text)).collect();
    format!("{text}\n{lines}")
}

/// A note in its parts; nothing is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note<'a> {
    /// The text, with its last line feed.
    pub text: &'a str,
    signatures: Vec<(&'a str, [u8; 4], Vec<u8>)>,
}

impl<'a> Note<'a> {
    /// Reads a note.
    ///
    /// # Errors
    /// It is malformed or too large.
    pub fn parse(note: &'a str) -> Result<Self, NoteError> {
        let wrong = NoteError::Malformed;
        if note.len() > MAX_BYTES {
            return Err(wrong("it is too large"));
        }
        if note.contains(|c: char| c < ' ' && c != '\n') {
            return Err(wrong("it has control characters"));
        }
        let at = note.rfind("\n\n").ok_or(wrong("no empty line parts text and signatures"))?;
        let (text, rest) = note.split_at_checked(at.saturating_add(1)).ok_or(wrong("it ends early"))?;
        let lines = rest.strip_prefix('\n').and_then(|rest| rest.strip_suffix('\n'));
        let mut signatures = Vec::new();
        for line in lines.ok_or(wrong("it does not end in a line feed"))?.split('\n') {
            let parts = line.strip_prefix(DASH).and_then(|line| line.split_once(' '));
            let (name, blob) = parts.ok_or(wrong("a signature line has another form"))?;
            let blob = STANDARD.decode(blob).map_err(|_| wrong("a signature is no base64"))?;
            let (id, signature) = blob.split_first_chunk().ok_or(wrong("a signature is too short"))?;
            if !is_name(name) || signatures.len() >= MAX_SIGNATURES {
                return Err(wrong("a key name is no name, or there are too many signatures"));
            }
            signatures.push((name, *id, signature.to_vec()));
        }
        Ok(Self { text, signatures })
    }

    /// Verifies the signatures by those of the keys that signed, of which there must be one.
    ///
    /// # Errors
    /// None signed, or a signature is wrong.
    pub fn verify<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k VerifierKey>,
    ) -> Result<&'k VerifierKey, NoteError> {
        let (mut signed, mut tried) = (None, Vec::new());
        for key in keys {
            tried.push(key.label());
            for (_, _, signature) in
                self.signatures.iter().filter(|(name, id, _)| *name == key.name && *id == key.id)
            {
                if !key.verifies(self.text, signature) {
                    return Err(NoteError::Signature(key.label()));
                }
                signed.get_or_insert(key);
            }
        }
        signed.ok_or_else(|| {
            let found: Vec<String> = self.signatures.iter().map(|(name, id, _)| label(name, *id)).collect();
            NoteError::OtherKey { wanted: tried.join("`, `"), found: format!("`{}`", found.join("`, `")) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's Go implementation (golang.org/x/mod/sumdb/note): key, text and signature.
    const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const TEXT: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n\
        \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    fn signer(name: &str, seed: u8) -> Signer {
        Signer::new(name, Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap().into())
    }

    #[test]
    fn a_note_of_another_implementation_verifies() {
        let key: VerifierKey = KEY.parse().unwrap();
        assert_eq!((key.to_string().as_str(), key.name()), (KEY, "PeterNeumann"));
        let note = Note::parse(NOTE).unwrap();
        assert_eq!(note.text, TEXT);
        assert_eq!(note.verify([&key]), Ok(&key));
        let changed = NOTE.replace("cryptography", "crypt0graphy");
        assert!(matches!(Note::parse(&changed).unwrap().verify([&key]), Err(NoteError::Signature(_))));
    }

    #[test]
    fn what_was_signed_verifies_and_by_nobody_else() {
        let (one, two) = (signer("a.example/x", 1), signer("a.example/x", 2));
        let note = sign("text\n\nmore\n", [&one, &two]);
        let read = Note::parse(&note).unwrap();
        assert_eq!(read.text, "text\n\nmore\n");
        assert_eq!(read.verify([two.verifier()]), Ok(two.verifier()));
        let other = signer("a.example/x", 3);
        let error = read.verify([other.verifier()]).unwrap_err().to_string();
        assert!(
            error.contains(&other.verifier().label()) && error.contains(&one.verifier().label()),
            "{error}"
        );
        assert_eq!(one.verifier().to_string().parse::<VerifierKey>().as_ref(), Ok(one.verifier()));
    }

    #[test]
    fn what_is_no_note_or_key_is_refused() {
        for wrong in [
            "",
            "x",
            "x\n",
            "x\n\n",
            "x\n\ny\n",
            "x\n\n\u{2014} a b\n",
            "x\t\n\n\u{2014} a AAAAAA==\n",
            "x\n\n\u{2014} a AAAAAA==",
        ] {
            assert!(matches!(Note::parse(wrong), Err(NoteError::Malformed(_))), "{wrong:?}");
        }
        for wrong in [
            "",
            "a+b",
            "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "a b+00000000+AQ==",
        ] {
            assert!(wrong.parse::<VerifierKey>().is_err(), "{wrong}");
        }
    }
}
