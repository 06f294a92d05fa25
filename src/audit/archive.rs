//! Policy bundles as they were: `bundles/<hash>/`, so that any decision can be explained later. Written once, never changed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path};

use super::AuditError;
use super::keys::make_directory;

/// Keeps `files` as `directory/hash`; the directory appears whole or not at all.
///
/// # Errors
/// A name is no plain file name, or a file cannot be written.
pub(crate) fn keep(directory: &Path, hash: &str, files: &[(String, Vec<u8>)]) -> Result<(), AuditError> {
    let names = files.iter().map(|(name, _)| name.as_str());
    if let Some(wrong) = std::iter::once(hash).chain(names).find(|name| !is_plain(name)) {
        return Err(AuditError::Name(wrong.chars().take(140).collect()));
    }
    let kept = directory.join(hash);
    if kept.exists() {
        return Ok(());
    }
    write(directory, &kept, files).map_err(|source| AuditError::Io { action: "write", path: kept, source })
}

fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none() && !name.starts_with('.')
}

fn write(directory: &Path, kept: &Path, files: &[(String, Vec<u8>)]) -> io::Result<()> {
    make_directory(directory)?;
    let partial = directory.join(".new");
    match std::fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => make_directory(&partial)?,
    }
    for (name, bytes) in files {
        let path = partial.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    File::open(&partial)?.sync_all()?;
    std::fs::rename(&partial, kept)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_kept_once_and_only_under_plain_names() {
        let dir = tempfile::tempdir().unwrap();
        let bundles = dir.path().join("bundles");
        keep(&bundles, "ab12", &[("a.cedar".into(), b"one".to_vec())]).unwrap();
        keep(&bundles, "ab12", &[("a.cedar".into(), b"two".to_vec())]).unwrap();
        assert_eq!(std::fs::read(bundles.join("ab12/a.cedar")).unwrap(), b"one");
        for wrong in ["", ".", "..", "a/b", "../x", "/x", ".new"] {
            assert!(keep(&bundles, wrong, &[]).is_err(), "{wrong}");
            assert!(keep(&bundles, "cd", &[(wrong.into(), vec![])]).is_err(), "{wrong}");
        }
        assert_eq!(std::fs::read_dir(&bundles).unwrap().count(), 1);
    }
}
