//! A checkpoint: which log, how many records, and the root of the tree over them (C2SP tlog-checkpoint), signed as a note.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Hash;
use super::note::{self, Note, NoteError, Signer, VerifierKey};

/// The head of a log at one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The name of the log.
    pub origin: String,
    /// The number of records that it covers.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// The signed note.
    #[must_use]
    pub fn sign<'a>(&self, signers: impl IntoIterator<Item = &'a Signer>) -> String {
        note::sign(&self.text(), signers)
    }

    /// Reads the text of a note. Lines behind the third are extensions and ignored, as the specification has it.
    ///
    /// # Errors
    /// It is no checkpoint.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let wrong = NoteError::Malformed;
        let mut lines = text.lines();
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(wrong("a checkpoint has three lines"));
        };
        let number: u64 = size.parse().map_err(|_| wrong("the size is no number"))?;
        if origin.is_empty() || number.to_string() != size {
            return Err(wrong("the origin is empty or the size is not written as it should be"));
        }
        let root = STANDARD.decode(root).map_err(|_| wrong("the root is no base64"))?;
        let root = root.try_into().map_err(|_| wrong("the root has not 32 bytes"))?;
        Ok(Self { origin: origin.to_owned(), size: number, root })
    }

    /// Reads a signed note and verifies it by one of the keys; with none, it is only read.
    ///
    /// # Errors
    /// It is malformed, or none of the keys signed it.
    pub fn open(note: &str, keys: &[VerifierKey]) -> Result<Self, NoteError> {
        let note = Note::parse(note)?;
        if !keys.is_empty() {
            note.verify(keys)?;
        }
        Self::parse(note.text)
    }

    /// The root in hexadecimal, for people.
    #[must_use]
    pub fn root_hex(&self) -> String {
        self.root.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_is_read() {
        let text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let read = Checkpoint::parse(text).unwrap();
        assert_eq!((read.origin.as_str(), read.size), ("example.com/behind-the-sofa", 20_852_163));
        assert_eq!(read.text(), text);
        assert_eq!(Checkpoint::parse(&format!("{text}extension\n")), Ok(read));
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
        for wrong in [
            String::new(),
            "a\n1\n".to_owned(),
            format!("\n1\n{root}\n"),
            format!("a\n01\n{root}\n"),
            format!("a\n-1\n{root}\n"),
            format!("a\n+1\n{root}\n"),
            "a\n1\nAAAA\n".to_owned(),
        ] {
            assert!(Checkpoint::parse(&wrong).is_err(), "{wrong:?}");
        }
    }
}
