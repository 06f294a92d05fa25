//! The manifest: what a release says of itself.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::note::{self, Note, NoteError, Signer, VerifierKey};

/// The name of its file.
pub const FILE: &str = "bundle.manifest";
/// What its text begins with: a signature for something else is none for a bundle.
const HEAD: &str = "tidegate policy bundle v1\n";
/// Claims of an attestation.
const MAX_CLAIMS: usize = 300;
/// Characters of a reason, a claim's text or a version.
const MAX_TEXT: usize = 500;

/// What a release says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its number: a gateway never goes back to a lower one.
    pub serial: u64,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// The hash of the bundle: SHA-256 over names and contents of all its files.
    pub bundle: String,
    /// What was proved of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Attestation>,
    /// Break-glass: why it is to be served although nothing proves it.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub override_reason: Option<String>,
}

/// The result of `tidegate policy prove`, all of it proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// The solver's version.
    pub solver: String,
    /// The claims that it proved.
    pub claims: Vec<Attested>,
}

/// A claim that was proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attested {
    /// Its name: the `@id` of an invariant, or that of a claim about every bundle.
    pub id: String,
    /// What it says.
    pub says: String,
    /// SHA-256 of the invariant that was proved, hexadecimal. None for a claim about every bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl Attested {
    /// Whether it is the claim that is wanted: by its id, or by id and hash as `id@sha256`.
    pub(super) fn is(&self, wanted: &str) -> bool {
        match wanted.split_once('@') {
            Some((id, hash)) => self.id == id && self.sha256.as_deref() == Some(hash),
            None => self.id == wanted,
        }
    }
}

/// A manifest that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Its bytes are no text.
    #[error("is not UTF-8")]
    Text,
    /// Nobody signed it.
    #[error("is not signed, and `policy.keys` demands a signature")]
    Unsigned,
    /// The signature is wrong, or by somebody else.
    #[error("cannot be verified: {0}")]
    Signature(#[from] NoteError),
    /// It says something else than a manifest says.
    #[error("is no manifest: {0}")]
    Malformed(String),
}

impl Manifest {
    /// The text that is signed.
    ///
    /// # Errors
    /// It has more claims or longer texts than are read back.
    pub fn text(&self) -> Result<String, ManifestError> {
        self.bounded()?;
        let json = serde_json::to_string_pretty(self);
        json.map(|json| format!("{HEAD}{json}\n"))
            .map_err(|error| ManifestError::Malformed(error.to_string()))
    }

    /// The file: the text, signed if there is a signer.
    ///
    /// # Errors
    /// As [`Manifest::text`], or it would be too large.
    pub fn file(&self, signer: Option<&Signer>) -> Result<String, ManifestError> {
        let text = self.text()?;
        let file = if signer.is_some() { note::sign(&text, signer) } else { text };
        if file.len() > note::MAX_BYTES {
            return Err(ManifestError::Malformed("it is too large".to_owned()));
        }
        Ok(file)
    }

    /// Reads the file; with keys, only what one of them signed. Also says who signed.
    ///
    /// # Errors
    /// It is no manifest, or not signed by any of the keys.
    pub fn read(bytes: &[u8], keys: &[VerifierKey]) -> Result<(Self, Option<Arc<str>>), ManifestError> {
        if bytes.len() > note::MAX_BYTES {
            return Err(ManifestError::Malformed("it is too large".to_owned()));
        }
        let file = std::str::from_utf8(bytes).map_err(|_| ManifestError::Text)?;
        let signed = file.contains("\n\n");
        let (text, signer) = match (signed, keys) {
            (false, []) => (file, None),
            (false, _) => return Err(ManifestError::Unsigned),
            // A signature that nobody is configured to verify says nothing.
            (true, []) => (Note::parse(file)?.text, None),
            (true, keys) => {
                let note = Note::parse(file)?;
                let signer = note.verify(keys)?;
                (note.text, Some(signer.label().into()))
            }
        };
        let json = text.strip_prefix(HEAD);
        let json = json
            .ok_or_else(|| ManifestError::Malformed(format!("it does not begin with `{}`", HEAD.trim())))?;
        let manifest: Self =
            serde_json::from_str(json).map_err(|error| ManifestError::Malformed(error.to_string()))?;
        manifest.bounded()?;
        Ok((manifest, signer))
    }

    fn bounded(&self) -> Result<(), ManifestError> {
        let wrong = |what: &str| Err(ManifestError::Malformed(what.to_owned()));
        let long = |text: &str| text.chars().count() > MAX_TEXT;
        let claims = self.attestation.iter().flat_map(|attestation| &attestation.claims);
        if claims.clone().count() > MAX_CLAIMS {
            return wrong("it has more than 300 claims");
        }
        let texts =
            claims.flat_map(|claim| [Some(&claim.id), Some(&claim.says), claim.sha256.as_ref()]).flatten();
        let texts = texts.chain(self.override_reason.as_ref());
        if texts.chain(self.attestation.as_ref().map(|a| &a.solver)).any(|text| long(text)) {
            return wrong("it has a text of more than 500 characters");
        }
        if self.override_reason.as_ref().is_some_and(|reason| reason.trim().is_empty()) {
            return wrong("its override has no reason");
        }
        if self.bundle.len() != 64 || !self.bundle.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return wrong("`bundle` is no SHA-256 in lower-case hexadecimal");
        }
        if self.serial == 0 {
            return wrong("`serial` begins at 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            serial: 7,
            created: Timestamp::UNIX_EPOCH,
            expires: None,
            bundle: "ab".repeat(32),
            attestation: None,
            override_reason: Some("line 1\n\nline 2 \u{2014} x".into()),
        }
    }

    fn signer(seed: u8) -> Signer {
        let pair = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        Signer::new("policies.example", pair.into())
    }

    #[test]
    fn only_what_a_known_key_signed_is_read() {
        let (ours, other) = (signer(1), signer(2));
        let keys = [ours.verifier().clone()];
        let file = manifest().file(Some(&ours)).unwrap();
        let (read, by) = Manifest::read(file.as_bytes(), &keys).unwrap();
        assert_eq!((read, by.as_deref()), (manifest(), Some(ours.verifier().label().as_str())));
        let wrong = manifest().file(Some(&other)).unwrap();
        assert!(matches!(Manifest::read(wrong.as_bytes(), &keys), Err(ManifestError::Signature(_))));
        let changed = file.replace("\"serial\": 7", "\"serial\": 8");
        assert!(matches!(
            Manifest::read(changed.as_bytes(), &keys),
            Err(ManifestError::Signature(NoteError::Signature(_)))
        ));
        let unsigned = manifest().file(None).unwrap();
        assert_eq!(Manifest::read(unsigned.as_bytes(), &keys), Err(ManifestError::Unsigned));
        // Without a key nobody vouches, whoever signed.
        for file in [unsigned, file] {
            assert_eq!(Manifest::read(file.as_bytes(), &[]).unwrap(), (manifest(), None));
        }
    }

    #[test]
    fn what_says_more_or_less_is_no_manifest() {
        let signer = signer(1);
        let keys = [signer.verifier().clone()];
        let text = manifest().text().unwrap();
        for wrong in [
            text.replace("policy bundle v1", "policy bundle v2"),
            text.replace("\"serial\": 7", "\"serial\": 0"),
            text.replace("\"serial\": 7", "\"serial\": -7"),
            text.replace("\"serial\": 7", "\"serial\": 7, \"more\": 1"),
            text.replace("\"serial\": 7", "\"serial\": 7, \"serial\": 8"),
            text.replace("abab", "ABAB"),
            text.replace("line 1\\n\\nline 2 \u{2014} x", " "),
            format!("{text}{text}"),
        ] {
            let file = note::sign(&wrong, [&signer]);
            assert!(
                matches!(Manifest::read(file.as_bytes(), &keys), Err(ManifestError::Malformed(_))),
                "{wrong}"
            );
        }
    }
}
