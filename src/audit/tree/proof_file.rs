//! One record with its proof and checkpoint in one file (C2SP tlog-proof), which anybody can check offline with the verifier key.
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! extra <the record's bytes, base64>
//! index <its number in the log>
//! <hash, base64>             one line each, from the leaf's sibling upwards
//! <empty line>
//! <the signed checkpoint>
//! ```
//!
//! The specification says that nobody may trust the extra data as such; here it is what the leaf hash is made of, so the
//! proof itself shows that it was logged.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::checkpoint::Checkpoint;
use super::note::{NoteError, VerifierKey};
use super::proof::{MAX_HASHES, ProofError, check_inclusion};
use super::{Hash, leaf_hash};

const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// Largest file that is read: a record, a proof and a note are less.
pub const MAX_BYTES: u64 = 256 * 1024;

/// A record and what proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofFile {
    /// The record's exact bytes.
    pub record: Vec<u8>,
    /// Its number in the log.
    pub index: u64,
    /// The inclusion proof.
    pub hashes: Vec<Hash>,
    /// The signed checkpoint.
    pub note: String,
}

/// A file that proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofFileError {
    /// It is no proof file.
    #[error("it is no tlog-proof: {0}")]
    Malformed(&'static str),
    /// Its checkpoint is malformed or not signed by the key.
    #[error("its checkpoint cannot be trusted: {0}")]
    Note(#[from] NoteError),
    /// Its record is not in the checkpoint's tree.
    #[error("its record is not in the log: {0}")]
    Proof(#[from] ProofError),
}

impl ProofFile {
    /// The file's text.
    #[must_use]
    pub fn text(&self) -> String {
        let record = STANDARD.encode(&self.record);
        let mut text = format!("{HEADER}\nextra {record}\nindex {}\n", self.index);
        for hash in &self.hashes {
            let _ = writeln!(text, "{}", STANDARD.encode(hash));
        }
        text + "\n" + &self.note
    }

    /// Reads the file's text; nothing is verified.
    ///
    /// # Errors
    /// It has another form.
    pub fn parse(text: &str) -> Result<Self, ProofFileError> {
        let wrong = ProofFileError::Malformed;
        let (head, note) = text.split_once("\n\n").ok_or(wrong("there is no empty line"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(wrong("its first line is another one"));
        }
        let extra =
            lines.next().and_then(|line| line.strip_prefix("extra ")).ok_or(wrong("it has no record"))?;
        let record = STANDARD.decode(extra).map_err(|_| wrong("the record is no base64"))?;
        let index =
            lines.next().and_then(|line| line.strip_prefix("index ")).ok_or(wrong("it has no index"))?;
        let number: u64 = index.parse().map_err(|_| wrong("the index is no number"))?;
        if number.to_string() != index {
            return Err(wrong("the index is not written as it should be"));
        }
        let mut hashes = Vec::new();
        for line in lines {
            let hash = STANDARD.decode(line).ok().and_then(|hash| hash.try_into().ok());
            hashes.push(hash.ok_or(wrong("a hash is no base64 of 32 bytes"))?);
            if hashes.len() > MAX_HASHES {
                return Err(wrong("it has too many hashes"));
            }
        }
        Ok(Self { record, index: number, hashes, note: note.to_owned() })
    }

    /// Verifies that the record stands in the log, and gives the checkpoint that says so.
    ///
    /// # Errors
    /// The key did not sign the checkpoint, or the record is not in its tree.
    pub fn verify(&self, key: &VerifierKey) -> Result<Checkpoint, ProofFileError> {
        let checkpoint = Checkpoint::open(&self.note, std::slice::from_ref(key))?;
        check_inclusion(
            &leaf_hash(&self.record),
            self.index,
            checkpoint.size,
            &checkpoint.root,
            &self.hashes,
        )?;
        Ok(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::Ed25519KeyPair;
    use proptest::prelude::*;

    use super::*;
    use crate::audit::tree::node_hash;
    use crate::audit::tree::note::Signer;

    fn example() -> (ProofFile, Signer) {
        let signer =
            Signer::new("a.example/b", Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap().into());
        let sibling = leaf_hash(b"one");
        let root = node_hash(&sibling, &leaf_hash(b"{\"two\":2}"));
        let note = Checkpoint { origin: "a.example/b/1".into(), size: 2, root }.sign([&signer]);
        (ProofFile { record: b"{\"two\":2}".to_vec(), index: 1, hashes: vec![sibling], note }, signer)
    }

    #[test]
    fn a_proof_reads_back_and_proves() {
        let (proof, signer) = example();
        let read = ProofFile::parse(&proof.text()).unwrap();
        assert_eq!(read, proof);
        assert_eq!(read.verify(signer.verifier()).unwrap().size, 2);
    }

    proptest! {
        #[test]
        fn a_changed_proof_proves_nothing(at: proptest::sample::Index, change in 1u8..128) {
            let (proof, signer) = example();
            let mut bytes = proof.text().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
            let verified = ProofFile::parse(&text).map(|read| (read.verify(signer.verifier()).is_ok(), read));
            // Base64 without canonical padding bits is refused too, so no other text says the same.
            prop_assert!(!matches!(verified, Ok((true, _))), "{text}");
        }

        #[test]
        fn any_text_is_survived(text in "\\PC{0,200}") {
            let _ = ProofFile::parse(&text);
        }
    }
}
