//! The few file operations that the journal writes with, behind a trait so that tests can make each of them fail.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};

/// The directory that segments are written in. Reading never goes through this.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// Makes a new file with `size` bytes of zeros that are really there.
    ///
    /// # Errors
    /// The file exists, or there is no space for it; then no file is left behind.
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn SegmentFile>>;

    /// Opens a file to go on writing.
    ///
    /// # Errors
    /// It cannot be opened.
    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>>;

    /// Removes a file.
    ///
    /// # Errors
    /// It cannot be removed.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes created and removed names durable.
    ///
    /// # Errors
    /// The disk reports an error.
    fn sync_directory(&self) -> io::Result<()>;
}

/// One segment that is being written.
pub trait SegmentFile: fmt::Debug + Send + Sync + 'static {
    /// Writes some of `bytes` at `offset` and says how many.
    ///
    /// # Errors
    /// Nothing, or an unknown part, was written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// `fdatasync`. After an error nothing may be assumed of what was written, so it is never tried again.
    ///
    /// # Errors
    /// The disk reports an error.
    fn sync(&self) -> io::Result<()>;

    /// Makes the file `size` bytes long, the new ones zeros that are really there.
    ///
    /// # Errors
    /// There is no space.
    fn allocate(&self, size: u64) -> io::Result<()>;

    /// Cuts the file.
    ///
    /// # Errors
    /// The file system refuses.
    fn truncate(&self, size: u64) -> io::Result<()>;
}

/// Real files.
#[derive(Debug, Clone)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// Files in this directory.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }
}

impl Storage for Files {
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn SegmentFile>> {
        let path = self.directory.join(name);
        let file =
            RealFile(OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?);
        if let Err(error) = file.allocate(size) {
            // The first error is the one that matters; a file that stays is found and removed at the next start.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.directory.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.directory.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

#[derive(Debug)]
struct RealFile(File);

impl SegmentFile for RealFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::empty(), 0, size) {
            // Some file systems cannot reserve; there, lack of space shows when a record is written.
            Err(rustix::io::Errno::OPNOTSUPP) => self.0.set_len(size),
            other => other.map_err(io::Error::from),
        }
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }
}

/// Writes all of `bytes` at `offset`.
///
/// # Errors
/// An unknown part was written.
pub(crate) fn write_all_at(file: &dyn SegmentFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                offset = offset.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether waiting may help: no space, no quota, no memory or no file descriptors. All else poisons the journal.
pub(crate) fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, QuotaExceeded, StorageFull};
    let descriptors = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    matches!(error.kind(), StorageFull | QuotaExceeded | OutOfMemory)
        || descriptors.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    /// Real files whose operations fail when told to.
    #[derive(Debug)]
    pub(crate) struct Faulty {
        files: Files,
        pub(crate) faults: Arc<Faults>,
    }

    /// What fails from now on.
    #[derive(Debug, Default)]
    pub(crate) struct Faults {
        /// Creating and allocating says ENOSPC.
        pub(crate) no_space: AtomicBool,
        /// Writing says ENOSPC after so many bytes more; `u64::MAX` never.
        pub(crate) room: AtomicU64,
        /// Writing says EIO.
        pub(crate) write_error: AtomicBool,
        /// Syncing says EIO.
        pub(crate) sync_error: AtomicBool,
        /// Writing takes at most 7 bytes at a time.
        pub(crate) short: AtomicBool,
        /// Removing says EIO after so many files more.
        pub(crate) kept_after: AtomicU64,
        /// How often a file was synced.
        pub(crate) syncs: AtomicU64,
    }

    impl Faulty {
        pub(crate) fn new(directory: &std::path::Path) -> (Arc<Self>, Arc<Faults>) {
            let faults = Arc::new(Faults {
                room: AtomicU64::new(u64::MAX),
                kept_after: AtomicU64::new(u64::MAX),
                ..Faults::default()
            });
            (Arc::new(Self { files: Files::new(directory.to_owned()), faults: faults.clone() }), faults)
        }

        fn space(&self) -> io::Result<()> {
            if self.faults.no_space.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }

        fn wrap(&self, file: Arc<dyn SegmentFile>) -> Arc<dyn SegmentFile> {
            Arc::new(FaultyFile { file, faults: self.faults.clone() })
        }
    }

    impl Storage for Faulty {
        fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn SegmentFile>> {
            self.space()?;
            self.files.create(name, size).map(|file| self.wrap(file))
        }
        fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
            self.files.open(name).map(|file| self.wrap(file))
        }
        fn remove(&self, name: &str) -> io::Result<()> {
            let left = self.faults.kept_after.load(Ordering::SeqCst);
            if left == 0 {
                return Err(eio());
            }
            self.faults.kept_after.store(left.saturating_sub(u64::from(left != u64::MAX)), Ordering::SeqCst);
            self.files.remove(name)
        }
        fn sync_directory(&self) -> io::Result<()> {
            self.files.sync_directory()
        }
    }

    #[derive(Debug)]
    struct FaultyFile {
        file: Arc<dyn SegmentFile>,
        faults: Arc<Faults>,
    }

    fn eio() -> io::Error {
        io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
    }

    impl SegmentFile for FaultyFile {
        fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
            if self.faults.write_error.load(Ordering::SeqCst) {
                return Err(eio());
            }
            let most = if self.faults.short.load(Ordering::SeqCst) { 7 } else { usize::MAX };
            let room = self.faults.room.load(Ordering::SeqCst);
            let count = bytes.len().min(most).min(usize::try_from(room).unwrap());
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if room != u64::MAX {
                self.faults.room.fetch_sub(count as u64, Ordering::SeqCst);
            }
            self.file.write_at(&bytes[..count], offset)
        }
        fn sync(&self) -> io::Result<()> {
            self.faults.syncs.fetch_add(1, Ordering::SeqCst);
            if self.faults.sync_error.load(Ordering::SeqCst) { Err(eio()) } else { self.file.sync() }
        }
        fn allocate(&self, size: u64) -> io::Result<()> {
            if self.faults.no_space.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.file.allocate(size)
        }
        fn truncate(&self, size: u64) -> io::Result<()> {
            self.file.truncate(size)
        }
    }

    #[test]
    fn a_refused_allocation_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().to_owned());
        assert!(files.create("seg", u64::MAX / 4).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_what_may_pass_is_waited_for() {
        assert!(may_pass(&io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())));
        assert!(may_pass(&io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error())));
        assert!(!may_pass(&eio()));
        assert!(!may_pass(&io::ErrorKind::WriteZero.into()));
    }
}
