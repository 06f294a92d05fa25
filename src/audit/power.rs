//! A model of power loss: whatever was not synced may vanish from the end on, and nothing else. Whatever the moment, the journal
//! starts again, has all that was acknowledged as durable, and its checkpoint covers nothing that vanished.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::encode::tests::decision;
use super::reader::Reader;
use super::record::{Ending, Outcome, Record};
use super::storage::{Files, SegmentFile, Storage};
use super::verify::whole;
use super::{Audit, Instance, Settings};
use crate::model::{AuditMode, ByteSize, RecordId, SystemClock};

/// What a power loss leaves for sure.
#[derive(Debug, Default)]
struct Durable {
    /// The bytes of each file when it was last synced.
    bytes: BTreeMap<String, Vec<u8>>,
    /// Names that the directory had when it was last synced.
    names: BTreeSet<String>,
}

/// Real files that remember what was synced.
#[derive(Debug)]
struct Remembering {
    files: Files,
    directory: PathBuf,
    durable: Arc<Mutex<Durable>>,
}

#[derive(Debug)]
struct RememberingFile {
    file: Arc<dyn SegmentFile>,
    path: PathBuf,
    name: String,
    durable: Arc<Mutex<Durable>>,
}

impl Remembering {
    fn wrap(&self, name: &str, file: Arc<dyn SegmentFile>) -> Arc<dyn SegmentFile> {
        let (path, durable) = (self.directory.join(name), self.durable.clone());
        Arc::new(RememberingFile { file, path, name: name.to_owned(), durable })
    }
}

impl Storage for Remembering {
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn SegmentFile>> {
        self.files.create(name, size).map(|file| self.wrap(name, file))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        self.files.open(name).map(|file| self.wrap(name, file))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        let mut durable = self.durable.lock().unwrap();
        let entries = fs::read_dir(&self.directory)?.map(|entry| entry.unwrap().file_name());
        durable.names = entries.map(|name| name.into_string().unwrap()).collect();
        self.files.sync_directory()
    }
}

impl SegmentFile for RememberingFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        let mut durable = self.durable.lock().unwrap();
        // What is written while it syncs is not promised.
        let bytes = fs::read(&self.path)?;
        self.file.sync()?;
        durable.bytes.insert(self.name.clone(), bytes);
        Ok(())
    }
    fn allocate(&self, size: u64) -> io::Result<()> {
        self.file.allocate(size)
    }
    fn truncate(&self, size: u64) -> io::Result<()> {
        self.file.truncate(size)
    }
}

/// What a power loss now leaves of the segments: all that was synced, and a part of the rest.
fn lose_power(from: &Path, to: &Path, durable: &Durable, random: &mut u64) {
    for (name, synced) in durable.bytes.iter().filter(|(name, _)| durable.names.contains(*name)) {
        let mut now = fs::read(from.join(name)).unwrap();
        let data = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let (kept, written) = (data(synced), data(&now));
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let more = written.saturating_sub(kept);
        // Half of the time nothing of it.
        let part = if *random >> 63 == 0 { 0 } else { usize::try_from(*random >> 20).unwrap() % (more + 1) };
        now.resize(now.len().max(synced.len()), 0);
        now[kept + part..].fill(0);
        fs::write(to.join(name), now).unwrap();
    }
}

/// What a power loss leaves of the tiles, of which none is promised: they can be made again from the segments. Some are gone, some are cut, some
/// are full of zeros, as a file system may leave what was never synced.
fn lose_tiles(folder: &Path, random: &mut u64) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            lose_tiles(&path, random);
            continue;
        }
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let bytes = fs::read(&path).unwrap();
        let part = usize::try_from(*random >> 20).unwrap() % (bytes.len() + 1);
        match *random >> 61 {
            0 => fs::remove_file(&path).unwrap(),
            1 => fs::write(&path, bytes.get(..part).unwrap()).unwrap(),
            2 => fs::write(&path, vec![0; bytes.len()]).unwrap(),
            _ => {}
        }
    }
}

/// Copies a folder, files before folders, for a checkpoint is written after its tiles.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut paths: Vec<_> = fs::read_dir(from).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort_by_key(|path| path.is_dir());
    for path in paths {
        let name = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &name);
        } else {
            // A partial tile may be gone by now.
            let _ = fs::copy(path, name);
        }
    }
}

fn settings(dir: &Path) -> Settings {
    let (directory, segment_size) = (dir.to_owned(), ByteSize::mib(1));
    Settings { directory, segment_size, queue: 64, ..Settings::default() }
}

fn decided(dir: &Path) -> BTreeSet<RecordId> {
    let mut reader = Reader::open(dir, None).unwrap();
    let mut found = BTreeSet::new();
    while let Some(stored) = reader.read_next().unwrap() {
        let (stamp, record) = Record::parse(stored.payload).unwrap();
        found.extend(stamp.id.filter(|_| matches!(record, Record::Decision(_))));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_power_loss_nothing_durable_is_missing_and_no_checkpoint_covers_more() {
    let dir = tempfile::tempdir().unwrap();
    let durable = Arc::new(Mutex::new(Durable::default()));
    let (files, directory) = (Files::new(dir.path().to_owned()), dir.path().to_owned());
    let storage = Arc::new(Remembering { files, directory, durable: durable.clone() });
    let instance = || Instance { name: "g".into(), version: "1" };
    let audit = Audit::open_with(&settings(dir.path()), instance(), storage, Arc::new(SystemClock)).unwrap();
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let (stop, pause) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..12 {
        let (audit, acknowledged) = (audit.clone(), acknowledged.clone());
        let (stop, pause) = (stop.clone(), pause.clone());
        tasks.spawn(async move {
            let mode = if worker < 8 { AuditMode::Required } else { AuditMode::BestEffort };
            while !stop.load(Ordering::Relaxed) {
                if pause.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
                let id = RecordId::new();
                let mut draft = audit.draft(id, mode).unwrap();
                draft.decision(&decision()).await.unwrap();
                if mode == AuditMode::Required {
                    acknowledged.lock().unwrap().insert(id);
                } else {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                draft.close(&Outcome::bare(Ending::Complete));
            }
        });
    }
    let (mut random, mut sizes) = (0x5eed, BTreeSet::new());
    for round in 0..8 {
        tokio::time::sleep(Duration::from_millis(60 + 41 * round)).await;
        let after = tempfile::tempdir().unwrap();
        let before = {
            // No sync ends while this is held, so nothing becomes durable; now and then for so long that a checkpoint is due.
            let held = durable.lock().unwrap();
            if round % 2 == 1 {
                std::thread::sleep(Duration::from_millis(1300));
            }
            let before = acknowledged.lock().unwrap().clone();
            copy(&dir.path().join("tree"), &after.path().join("tree"));
            lose_tiles(&after.path().join("tree").join("tile"), &mut random);
            copy(&dir.path().join("keys"), &after.path().join("keys"));
            lose_power(dir.path(), after.path(), &held, &mut random);
            before
        };
        pause.store(true, Ordering::Relaxed);
        let again = Audit::open(&settings(after.path()), instance()).unwrap();
        again.close().await;
        let decided = decided(after.path());
        let lost: Vec<_> = before.difference(&decided).collect();
        assert!(lost.is_empty(), "{lost:?}");
        let report = whole::check(after.path(), None, None, &AtomicU64::new(0)).unwrap();
        assert!(report.is_good() && report.unsigned == 0, "{report:?}");
        sizes.insert(report.records);
        pause.store(false, Ordering::Relaxed);
    }
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    audit.close().await;
    assert!(sizes.len() > 4, "{sizes:?}");
}
