//! Remembered answers: an unchanged question to an unchanged solver is not asked twice.
//!
//! One file for each claim, named by the hash of all that the answer depends on, in the user's cache directory and never beside the
//! policies. Only proofs and confirmed counterexamples are kept; what was not proved is asked again.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use super::report::{Finding, Verdict};

/// The most answers that are kept; the oldest go first.
const MAX_FILES: usize = 1_000;
/// The largest remembered answer, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// A directory of remembered answers.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Remembers in a directory, which is made when the first answer comes.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// That of the user: `$XDG_CACHE_HOME/tidegate/prove` or `~/.cache/tidegate/prove` (XDG Base Directory Specification). `None` if the
    /// environment names neither by an absolute path.
    #[must_use]
    pub fn of_user() -> Option<Self> {
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(Self::new(base.join("tidegate").join("prove")))
    }

    /// The name of an answer: SHA-256 over all parts of the question, each with its length.
    #[must_use]
    pub fn key(parts: &[&str]) -> String {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for part in parts {
            digest.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(part.as_bytes());
        }
        crate::model::hex(digest.finish().as_ref())
    }

    /// The answer that is remembered, if there is one that can be read.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Finding> {
        let file = File::open(self.path(key)).ok()?;
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text).ok()?;
        let found: Finding = serde_json::from_slice(&text).ok()?;
        Some(Finding { cached: true, ..found })
    }

    /// Remembers an answer, if it is one.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn put(&self, key: &str, finding: &Finding) -> io::Result<()> {
        if matches!(finding.verdict, Verdict::NotProved { .. }) {
            return Ok(());
        }
        let text = serde_json::to_vec(finding)?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) >= MAX_BYTES {
            return Ok(());
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        self.make_room()?;
        let draft = self.directory.join(format!("{key}.{}.part", uuid::Uuid::now_v7().simple()));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(&text)?;
        fs::rename(draft, self.path(key))
    }

    fn path(&self, key: &str) -> PathBuf {
        self.directory.join(format!("{key}.json"))
    }

    /// Removes the oldest answers, and what a writer that died left behind.
    fn make_room(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            // One that another run has removed meanwhile is gone all the same.
            if let Ok(modified) = entry.metadata().and_then(|meta| meta.modified()) {
                files.push((modified, entry.path()));
            }
        }
        files.sort();
        let surplus = (files.len() + 1).saturating_sub(MAX_FILES);
        for (_, path) in files.iter().take(surplus) {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Kind;
    use super::*;

    fn finding(verdict: Verdict) -> Finding {
        Finding {
            id: "a".into(),
            kind: Kind::Invariant,
            says: "never".into(),
            place: String::new(),
            sha256: None,
            environments: 14,
            verdict,
            milliseconds: 7,
            cached: false,
        }
    }

    #[test]
    fn what_was_answered_is_remembered_and_what_was_not_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("a/b"));
        assert_eq!(cache.get("k"), None);
        cache.put("k", &finding(Verdict::Proved)).unwrap();
        assert_eq!(cache.get("k"), Some(Finding { cached: true, ..finding(Verdict::Proved) }));
        let open = Verdict::NotProved { open_for: Vec::new(), why: "late".into() };
        cache.put("late", &finding(open)).unwrap();
        assert_eq!(cache.get("late"), None);
    }

    #[test]
    fn a_damaged_answer_is_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned());
        cache.put("k", &finding(Verdict::Proved)).unwrap();
        for damaged in ["", "{", "{\"result\":\"proved\"}", "\u{0}"] {
            fs::write(dir.path().join("k.json"), damaged).unwrap();
            assert_eq!(cache.get("k"), None, "{damaged:?}");
        }
        // It is replaced by the next one.
        cache.put("k", &finding(Verdict::Proved)).unwrap();
        assert!(cache.get("k").is_some());
    }

    #[test]
    fn the_name_tells_every_part_apart() {
        let base = Cache::key(&["bundle", "claim", "solver"]);
        assert_eq!((base.len(), &base), (64, &Cache::key(&["bundle", "claim", "solver"])));
        for other in [
            &["bundl", "eclaim", "solver"][..],
            &["bundle", "claim"],
            &["bundle", "claim", "solver", ""],
            &["claim", "bundle", "solver"],
        ] {
            assert_ne!(base, Cache::key(other), "{other:?}");
        }
    }

    #[test]
    fn no_more_than_a_thousand_answers_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned());
        for number in 0..MAX_FILES + 3 {
            fs::write(dir.path().join(format!("{number}.json")), "").unwrap();
        }
        cache.put("new", &finding(Verdict::Proved)).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), MAX_FILES);
        assert!(cache.get("new").is_some());
    }
}
