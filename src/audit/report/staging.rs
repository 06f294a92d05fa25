//! A directory of files that appears whole, with the hash of each, or not at all. Or a tar file of the same, in gzip if its name says so.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use flate2::write::GzEncoder;
use serde::Serialize;

use super::{ReportError, io_error};
use crate::audit::keys::make_directory;
use crate::model::hex;

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

/// One file in place of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Archive {
    Tar,
    TarGz,
}

/// The endings that ask for one, longest first.
const ARCHIVES: [(&str, Archive); 3] =
    [(".tar.gz", Archive::TarGz), (".tgz", Archive::TarGz), (".tar", Archive::Tar)];

/// What a name asks for, and the name without it.
fn archive(name: &str) -> Option<(Archive, &str)> {
    ARCHIVES.iter().find_map(|(ending, archive)| Some((*archive, name.strip_suffix(ending)?)))
}

/// The directory while it is written, beside where it will be. Dropped without `finish`, it goes away.
#[derive(Debug)]
pub(super) struct Staging {
    partial: PathBuf,
    target: PathBuf,
    archive: Option<Archive>,
    pub(super) files: Vec<Written>,
}

impl Staging {
    /// Begins a directory, or a tar file if the name ends so: `.tar`, `.tar.gz` or `.tgz`.
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
        let name = target.file_name().and_then(std::ffi::OsStr::to_str);
        let archive = name.and_then(archive).map(|(archive, _)| archive);
        Ok(Self { partial, target: target.to_owned(), archive, files: Vec::new() })
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
        let Some(archive) = self.archive else {
            return fs::rename(&self.partial, &self.target).map_err(io_error("write", &self.target));
        };
        let packed = self.partial.with_extension("packed");
        let done = self.pack(archive, &packed).and_then(|()| fs::rename(&packed, &self.target));
        done.inspect_err(|_| drop(fs::remove_file(&packed))).map_err(io_error("write", &self.target))
    }

    fn pack(&self, archive: Archive, packed: &Path) -> io::Result<()> {
        let out = BufWriter::new(File::create_new(packed)?);
        let out = match archive {
            Archive::Tar => self.tar(out)?,
            Archive::TarGz => self.tar(GzEncoder::new(out, flate2::Compression::default()))?.finish()?,
        };
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }

    /// All files below a directory of the archive's name.
    fn tar<W: Write>(&self, out: W) -> io::Result<W> {
        let mut tar = tar::Builder::new(out);
        tar.mode(tar::HeaderMode::Deterministic);
        let name = self.target.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
        let root = PathBuf::from(archive(name).map_or(name, |(_, root)| root));
        for file in &self.files {
            tar.append_path_with_name(self.partial.join(&file.name), root.join(&file.name))?;
        }
        tar.into_inner()
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
