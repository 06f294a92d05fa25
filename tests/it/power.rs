//! A model of power loss: whatever was not synced may vanish from the end on, and nothing else. Whatever the moment, the journal
//! starts again, has all that was acknowledged as durable, its checkpoint covers nothing that vanished, and no collector was ever
//! told anything that vanished. With the tree and an export on, also after a disk that was full or failed to sync.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate::audit::outbox::Outbox;
use tidegate::audit::reader::Reader;
use tidegate::audit::record::{Ending, Outcome, Record, Verdict};
use tidegate::audit::storage::{Files, SegmentFile, Storage};
use tidegate::audit::tree::checkpoint::Checkpoint;
use tidegate::audit::tree::note::VerifierKey;
use tidegate::audit::verify::whole;
use tidegate::audit::{Audit, Instance, Settings, State};
use tidegate::model::{AuditMode, ByteSize, RecordId, SystemClock};
use tokio::task::JoinSet;

use super::journal::{copy, decision};
use super::outbox::{Came, Taken, collector, export, until};

/// What a power loss leaves for sure.
#[derive(Debug, Default)]
struct Durable {
    /// The bytes of each file when it was last synced.
    bytes: BTreeMap<String, Vec<u8>>,
    /// Names that the directory had when it was last synced.
    names: BTreeSet<String>,
}

/// Real files that remember what was synced, and fail if they are told to.
#[derive(Debug)]
struct Disk {
    files: Files,
    directory: PathBuf,
    durable: Mutex<Durable>,
    no_space: AtomicBool,
    sync_error: AtomicBool,
}

#[derive(Debug)]
struct DiskFile {
    file: Arc<dyn SegmentFile>,
    name: String,
    disk: Arc<Disk>,
}

/// The disk as storage: its files know it.
#[derive(Debug)]
struct Shared(Arc<Disk>);

impl Disk {
    fn new(directory: &Path) -> Arc<Self> {
        Arc::new(Self {
            files: Files::new(directory.to_owned()),
            directory: directory.to_owned(),
            durable: Mutex::default(),
            no_space: AtomicBool::new(false),
            sync_error: AtomicBool::new(false),
        })
    }

    fn space(&self) -> io::Result<()> {
        let full = self.no_space.load(Ordering::SeqCst);
        if full { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }

    /// What a power loss now leaves of the segments: all that was synced, and a part of the rest. `held` keeps it now.
    fn lose(&self, held: &Durable, to: &Path, random: &mut Random) {
        for (name, synced) in held.bytes.iter().filter(|(name, _)| held.names.contains(*name)) {
            let mut now = fs::read(self.directory.join(name)).unwrap();
            let data = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let (kept, written) = (data(synced), data(&now));
            let more = written.saturating_sub(kept);
            // Half of the time nothing of it.
            let part = if random.below(2) == 0 { 0 } else { random.below(more + 1) };
            now.resize(now.len().max(synced.len()), 0);
            now[kept + part..].fill(0);
            fs::write(to.join(name), now).unwrap();
        }
    }
}

impl Shared {
    fn wrap(&self, name: &str, file: Arc<dyn SegmentFile>) -> Arc<dyn SegmentFile> {
        Arc::new(DiskFile { file, name: name.to_owned(), disk: self.0.clone() })
    }
}

impl Storage for Shared {
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn SegmentFile>> {
        self.0.space()?;
        self.0.files.create(name, size).map(|file| self.wrap(name, file))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        self.0.files.open(name).map(|file| self.wrap(name, file))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.files.remove(name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        let mut durable = self.0.durable.lock().unwrap();
        let entries = fs::read_dir(&self.0.directory)?.map(|entry| entry.unwrap().file_name());
        durable.names = entries.map(|name| name.into_string().unwrap()).collect();
        self.0.files.sync_directory()
    }
}

impl SegmentFile for DiskFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        let mut durable = self.disk.durable.lock().unwrap();
        if self.disk.sync_error.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        // What is written while it syncs is not promised.
        let bytes = fs::read(self.disk.directory.join(&self.name))?;
        self.file.sync()?;
        durable.bytes.insert(self.name.clone(), bytes);
        Ok(())
    }
    fn allocate(&self, size: u64) -> io::Result<()> {
        self.disk.space()?;
        self.file.allocate(size)
    }
    fn truncate(&self, size: u64) -> io::Result<()> {
        self.file.truncate(size)
    }
}

/// The same each time, with PCG's multiplier.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 20).unwrap() % bound
    }
}

/// What a power loss leaves of the tiles, of which none is promised: they can be made again from the segments. Some are gone, some are cut, some
/// are full of zeros, as a file system may leave what was never synced. How many were hurt.
fn lose_tiles(folder: &Path, random: &mut Random) -> usize {
    let mut hurt = 0;
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            hurt += lose_tiles(&path, random);
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        match random.below(8) {
            0 => fs::remove_file(&path).unwrap(),
            1 => fs::write(&path, &bytes[..random.below(bytes.len() + 1)]).unwrap(),
            2 => fs::write(&path, vec![0; bytes.len()]).unwrap(),
            _ => continue,
        }
        hurt += 1;
    }
    hurt
}

/// A small file that is replaced whole (written aside, synced, renamed): it may be the one before, if its name was not synced.
fn lose_replacement(now: &Path, before: Option<&Path>, random: &mut Random) {
    if let Some(before) = before.filter(|before| now.exists() && before.exists() && random.below(2) == 0) {
        fs::copy(before, now).unwrap();
    }
}

/// The logs of a tree.
fn logs(journal: &Path) -> Vec<String> {
    let entries = fs::read_dir(journal.join("tree")).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("log-")).collect()
}

fn settings(dir: &Path) -> Settings {
    let (directory, segment_size) = (dir.to_owned(), ByteSize::mib(1));
    Settings { directory, segment_size, queue: 64, ..Settings::default() }
}

fn instance() -> Instance {
    Instance { name: "border-1".into(), version: "1" }
}

/// A journal under load on such a disk, that a collector follows.
struct World {
    dir: tempfile::TempDir,
    disk: Arc<Disk>,
    audit: Audit,
    outbox: Outbox,
    taken: Taken,
    acknowledged: Arc<Mutex<BTreeSet<RecordId>>>,
    pause: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path());
        let storage = Arc::new(Shared(disk.clone()));
        let audit =
            Audit::open_with(&settings(dir.path()), instance(), storage, Arc::new(SystemClock)).unwrap();
        let (url, taken) = collector(Arc::new(|_: &[u64]| (200, Vec::new()))).await;
        let outbox = export(&audit, dir.path(), &url);
        let mut world = Self {
            dir,
            disk,
            audit,
            outbox,
            taken,
            acknowledged: Arc::default(),
            pause: Arc::default(),
            stop: Arc::default(),
            tasks: JoinSet::new(),
        };
        (0..12).for_each(|worker| {
            world.work(if worker < 8 { AuditMode::Required } else { AuditMode::BestEffort })
        });
        world
    }

    /// Crossings until it stops; whoever is refused asks again, as clients do.
    fn work(&mut self, mode: AuditMode) {
        let (audit, acknowledged) = (self.audit.clone(), self.acknowledged.clone());
        let (stop, pause) = (self.stop.clone(), self.pause.clone());
        self.tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                if pause.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
                let id = RecordId::new();
                let Ok(mut draft) = audit.draft(id, mode) else {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                };
                let decided = draft.decision(&decision(Verdict::Allow)).await;
                if mode == AuditMode::Required && decided.is_ok() {
                    acknowledged.lock().unwrap().insert(id);
                } else {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                draft.close(&Outcome::bare(Ending::Complete));
            }
        });
    }

    /// What is there after a power loss now. `before` is what a moment earlier was there, `holding` how long nothing becomes durable
    /// until then.
    fn lose_power(&self, before: Option<&Path>, holding: Duration, random: &mut Random) -> Lost {
        let (after, intact) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        // No sync ends while this is held, so nothing becomes durable.
        let held = self.disk.durable.lock().unwrap();
        std::thread::sleep(holding);
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        for part in ["tree", "keys", "export"] {
            copy(&self.dir.path().join(part), &after.path().join(part));
            copy(&after.path().join(part), &intact.path().join(part));
        }
        // After the cursor, which says that these were taken.
        let exported = self.taken.lock().unwrap().concat();
        self.disk.lose(&held, after.path(), random);
        drop(held);
        // The machine is started anew, and its kernel names that run otherwise.
        fs::write(after.path().join("tree/boot"), "name another\n").unwrap();
        let mut hurt = 0;
        for log in logs(after.path()) {
            let log = Path::new("tree").join(log);
            hurt += lose_tiles(&after.path().join(&log).join("tile"), random);
            let checkpoint = log.join("checkpoint");
            let before = before.map(|before| before.join(&checkpoint));
            lose_replacement(&after.path().join(&checkpoint), before.as_deref(), random);
        }
        let cursor = Path::new("export/backend/cursor");
        let before = before.map(|before| before.join(cursor));
        lose_replacement(&after.path().join(cursor), before.as_deref(), random);
        Lost { after, intact, acknowledged, exported, hurt }
    }

    async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is(self) {
            assert!(start.elapsed() < Duration::from_secs(30), "{what}: {:?}", self.audit.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(done) = self.tasks.join_next().await {
            done.unwrap();
        }
        self.audit.close().await;
        self.outbox.close(Duration::from_secs(5)).await;
    }
}

/// After a power loss.
struct Lost {
    after: tempfile::TempDir,
    /// The same without any loss, for the next.
    intact: tempfile::TempDir,
    acknowledged: BTreeSet<RecordId>,
    exported: Vec<Came>,
    /// Tiles that were hurt.
    hurt: usize,
}

impl Lost {
    /// Starts again, exports the rest, and looks at everything. How many records there are.
    async fn survived(&self) -> u64 {
        let path = self.after.path();
        let audit = Audit::open(&settings(path), instance()).unwrap();
        let (url, taken) = collector(Arc::new(|_: &[u64]| (200, Vec::new()))).await;
        let outbox = export(&audit, path, &url);
        let watch = outbox.watch();
        until(&watch, |stats| stats.lag_records == 0 && stats.sent > 0).await;
        audit.close().await;
        outbox.close(Duration::from_secs(5)).await;

        let (mut records, mut decided) = (BTreeMap::new(), BTreeSet::new());
        let mut reader = Reader::open(path, None).unwrap();
        while let Some(stored) = reader.read_next().unwrap() {
            let (stamp, record) = Record::parse(stored.payload).unwrap();
            decided.extend(stamp.id.filter(|_| matches!(record, Record::Decision(_))));
            records.insert(stored.seq, String::from_utf8(stored.payload.to_vec()).unwrap());
        }
        let lost: Vec<_> = self.acknowledged.difference(&decided).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let report = whole::check(path, None, None, &AtomicU64::new(0)).unwrap();
        assert!(report.is_good() && report.unsigned == 0, "{report:?}");

        // Whatever left is what the journal holds, before the loss and after it, and all of it has left.
        let again = taken.lock().unwrap().concat();
        let mut missing: BTreeSet<u64> = records.keys().copied().collect();
        for came in self.exported.iter().chain(&again) {
            let Some(seq) = came.seq else { continue };
            assert_eq!(records.get(&seq), Some(&came.body), "record {seq} left and is another one, or none");
            missing.remove(&seq);
        }
        assert!(missing.is_empty(), "never exported: {missing:?}");
        self.agrees_with_witness(path);
        report.records
    }

    /// The newest checkpoint that left is one of this journal.
    fn agrees_with_witness(&self, path: &Path) {
        let key: VerifierKey = fs::read_to_string(path.join("tree/vkey")).unwrap().parse().unwrap();
        let newest = self.exported.iter().rev().find(|came| came.seq.is_none());
        let Some(note) = newest.map(|came| came.body.as_str()) else { return };
        let seen = Checkpoint::open(note, std::slice::from_ref(&key)).unwrap();
        let report = whole::check(path, Some(&key), Some((note, seen)), &AtomicU64::new(0)).unwrap();
        assert!(report.is_good(), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_power_loss_nothing_durable_is_missing_and_nothing_else_had_left() {
    let world = World::start().await;
    let (mut random, mut sizes, mut hurt, mut witnessed) = (Random(0x5eed), BTreeSet::new(), 0, 0);
    let mut before: Option<Lost> = None;
    for round in 0..8 {
        tokio::time::sleep(Duration::from_millis(60 + 41 * round)).await;
        // Now and then nothing becomes durable for so long that a checkpoint is due.
        let holding = Duration::from_millis(if round % 2 == 1 { 1300 } else { 0 });
        let intact = before.as_ref().map(|before| before.intact.path());
        let lost = world.lose_power(intact, holding, &mut random);
        world.pause.store(true, Ordering::Relaxed);
        sizes.insert(lost.survived().await);
        world.pause.store(false, Ordering::Relaxed);
        hurt += lost.hurt;
        witnessed += lost.exported.iter().filter(|came| came.seq.is_none()).count();
        before = Some(lost);
    }
    world.end().await;
    assert!(sizes.len() > 4, "{sizes:?}");
    assert!(hurt > 4 && witnessed > 4, "{hurt} tiles were hurt, {witnessed} checkpoints had left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_failed_sync_nothing_unsynced_has_left_and_the_next_start_is_whole() {
    let world = World::start().await;
    world.until("some records", |world| world.acknowledged.lock().unwrap().len() > 200).await;
    world.disk.sync_error.store(true, Ordering::SeqCst);
    world.until("poisoned", |world| world.audit.stats().state == State::Poisoned).await;
    let watch = world.outbox.watch();
    until(&watch, |stats| stats.lag_records == 0).await;
    // The disk may have dropped what it could not sync, or not.
    let mut random = Random(0xe10);
    for _ in 0..4 {
        let lost = world.lose_power(None, Duration::ZERO, &mut random);
        assert!(lost.survived().await > 200);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_power_loss_on_a_full_disk_and_after_it_loses_nothing_durable() {
    let world = World::start().await;
    let mut random = Random(0xf011);
    world.disk.no_space.store(true, Ordering::SeqCst);
    world.until("full", |world| world.audit.stats().state == State::Full).await;
    let full = world.lose_power(None, Duration::ZERO, &mut random);
    let records = full.survived().await;
    world.disk.no_space.store(false, Ordering::SeqCst);
    world.until("room again", |world| world.audit.stats().state == State::Ok).await;
    let acknowledged = full.acknowledged.len();
    world.until("it goes on", |world| world.acknowledged.lock().unwrap().len() > acknowledged + 200).await;
    world.pause.store(true, Ordering::Relaxed);
    let later = world.lose_power(Some(full.intact.path()), Duration::ZERO, &mut random);
    assert!(later.survived().await > records);
    world.end().await;
}
