//! A directory of files that appears whole, with the hash of each, or not at all. Or a tar file of the same.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;

use super::{ReportError, io_error};
use crate::audit::encode::hex;
use crate::audit::keys::make_directory;

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Written {
    /// Its path within the directory.
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    /// How many records are in it, if it is one of records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) records: Option<u64>,
}

/// The directory while it is written, beside where it will be. Dropped without `finish`, it goes away.
#[derive(Debug)]
pub(super) struct Staging {
    partial: PathBuf,
    target: PathBuf,
    tar: bool,
    pub(super) files: Vec<Written>,
}

impl Staging {
    /// Begins a directory, or a tar file if the name ends so.
    ///
    /// # Errors
    /// Something is there, or nothing can be written there.
    pub(super) fn begin(target: &Path) -> Result<Self, ReportError> {
        if target.exists() {
            return Err(ReportError::Exists(target.to_owned()));
        }
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".partial-{}", std::process::id()));
        let partial = target.with_file_name(name);
        make_directory(&partial).map_err(io_error("create", &partial))?;
        let tar = target.extension().is_some_and(|extension| extension == "tar");
        Ok(Self { partial, target: target.to_owned(), tar, files: Vec::new() })
    }

    /// Opens a file to be written bit by bit.
    ///
    /// # Errors
    /// It cannot be created.
    pub(super) fn create(&self, name: &str) -> Result<Hashing, ReportError> {
        let path = self.partial.join(name);
        if let Some(directory) = path.parent() {
            make_directory(directory).map_err(io_error("create", directory))?;
        }
        let file = File::create_new(&path).map_err(io_error("create", &path))?;
        Ok(Hashing {
            out: BufWriter::new(file),
            digest: Context::new(&SHA256),
            bytes: 0,
            name: name.to_owned(),
            path,
        })
    }

    /// Closes a file and notes it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn close(&mut self, file: Hashing, records: Option<u64>) -> Result<(), ReportError> {
        let Hashing { mut out, digest, bytes, name, path } = file;
        out.flush().and_then(|()| out.get_ref().sync_all()).map_err(io_error("write", &path))?;
        let sha256 = hex(digest.finish().as_ref());
        self.files.push(Written { name, bytes, sha256, records });
        Ok(())
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), ReportError> {
        let mut file = self.create(name)?;
        file.write_all(bytes).map_err(io_error("write", &file.path))?;
        self.close(file, None)
    }

    /// Writes `manifest.json`, which lists the files itself excepted, and puts all in its place.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn finish(mut self, mut manifest: serde_json::Value) -> Result<(), ReportError> {
        if let Some(members) = manifest.as_object_mut() {
            self.files.sort_by(|a, b| a.name.cmp(&b.name));
            let files = serde_json::to_value(&self.files).unwrap_or_default();
            members.insert("files".to_owned(), files);
        }
        let text = format!("{manifest:#}\n");
        self.add("manifest.json", text.as_bytes())?;
        if !self.tar {
            return fs::rename(&self.partial, &self.target).map_err(io_error("write", &self.target));
        }
        let packed = self.partial.with_extension("packed");
        let done = self.pack(&packed).and_then(|()| fs::rename(&packed, &self.target));
        done.inspect_err(|_| drop(fs::remove_file(&packed))).map_err(io_error("write", &self.target))
    }

    fn pack(&self, packed: &Path) -> io::Result<()> {
        let mut tar = tar::Builder::new(BufWriter::new(File::create_new(packed)?));
        tar.mode(tar::HeaderMode::Deterministic);
        let root = self.target.file_stem().map(PathBuf::from).unwrap_or_default();
        for file in &self.files {
            tar.append_path_with_name(self.partial.join(&file.name), root.join(&file.name))?;
        }
        let out = tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        out.sync_all()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // It is gone if it was put in its place.
        let _ = fs::remove_dir_all(&self.partial);
    }
}

/// A file that hashes what is written to it.
pub(super) struct Hashing {
    out: BufWriter<File>,
    digest: Context,
    bytes: u64,
    name: String,
    path: PathBuf,
}

impl Hashing {
    /// Where it is, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.digest.update(bytes.get(..count).unwrap_or_default());
        self.bytes = self.bytes.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
