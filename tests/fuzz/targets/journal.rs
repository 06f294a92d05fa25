//! The last segment of a journal, cut and overwritten as a torn write or a hostile hand would: recovery never panics, and what it keeps is what was
//! written, from the first record on, or it refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tidegate::audit::frame::{self, Decoded};
use tidegate::audit::reader::Reader;
use tidegate::audit::record::Event;
use tidegate::audit::{Audit, Instance, Settings};
use tidegate::model::ByteSize;

use super::wait;

/// A journal that was closed, made once a process: its segment and the payloads in it.
struct Known {
    segment: String,
    bytes: Vec<u8>,
    payloads: Vec<Vec<u8>>,
}

fn open(folder: &Path) -> Option<Audit> {
    let settings = Settings {
        directory: folder.to_owned(),
        segment_size: ByteSize::mib(1),
        queue: 64,
        ..Settings::default()
    };
    Audit::open(&settings, Instance { name: "fuzz".into(), version: "0" }).ok()
}

fn payloads(folder: &Path) -> Option<Vec<Vec<u8>>> {
    let mut reader = Reader::open(folder, None).ok()?;
    let mut all = Vec::new();
    while let Some(stored) = reader.read_next().ok()? {
        all.push(stored.payload.to_vec());
    }
    Some(all)
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        wait(async {
            let audit = open(folder.path()).unwrap();
            for number in 0..4_u32 {
                audit.event(&Event::Reload {
                    actor: "file".into(),
                    old: None,
                    new: Some("00ff".repeat(16).into()),
                    files: Vec::new(),
                    problems: vec![format!("problem {number}").into()],
                });
            }
            audit.close().await;
        });
        let file: PathBuf = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|end| end == "log"))
            .unwrap();
        let mut bytes = fs::read(&file).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(end);
        let segment = file.file_name().unwrap().to_string_lossy().into_owned();
        Known { segment, bytes, payloads: payloads(folder.path()).unwrap() }
    })
}

/// The first three bytes say where the segment is cut and written over, the rest with what.
pub(crate) fn read(input: &[u8]) {
    let _ = frame::decode(input);
    let [high, low, keep, over @ ..] = input else { return };
    let known = known();
    let mut bytes = known.bytes.clone();
    let at = usize::from(u16::from_be_bytes([*high, *low])) % (bytes.len() + 1);
    if keep % 2 == 0 {
        bytes.truncate(at);
    }
    let end = bytes.len().max(at + over.len());
    bytes.resize(end, 0);
    bytes[at..at + over.len()].copy_from_slice(over);

    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(&known.segment), &bytes).unwrap();
    let _ = payloads(folder.path());
    let Some(audit) = wait(async { open(folder.path()) }) else { return };
    wait(audit.close());
    let kept = payloads(folder.path()).unwrap_or_else(|| panic!("what recovery leaves cannot be read"));
    let same = kept.iter().zip(&known.payloads).take_while(|(kept, written)| kept == written).count();
    let untouched = whole_before(&known.bytes, at);
    assert!(same >= untouched, "{same} of {untouched} untouched records were kept");
}

/// How many records end before `at`.
fn whole_before(segment: &[u8], at: usize) -> usize {
    let (mut from, mut records) = (0, 0);
    while let Ok(Decoded::Frame(frame, size)) = frame::decode(&segment[from..]) {
        from += size;
        if from > at {
            break;
        }
        records += usize::from(frame.kind.is_record());
    }
    records
}
