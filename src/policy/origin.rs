//! Where a bundle comes from: a folder, or one packed file, under terms; and entities that stand elsewhere, if there are any.

use std::path::{Path, PathBuf};

use super::bundle::{Bundle, Entities};
use super::release::{FILE, Moment, Terms, unpack};
use super::source::{MAX_ENTITIES, Source, read_file};
use crate::model::{Problems, note};

/// The name under which entities from elsewhere are part of the bundle.
pub const MORE_ENTITIES: &str = "remote.entities.json";
/// The largest packed bundle, in bytes.
pub const MAX_PACKED: u64 = 32 << 20;

/// Where the files of a bundle are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Beside each other in a folder.
    Folder(PathBuf),
    /// In one `.tar.gz`.
    Packed(PathBuf),
}

/// Where a bundle comes from, and what is demanded of it.
#[derive(Debug, Clone)]
pub struct Origin {
    place: Place,
    entities: Option<PathBuf>,
    terms: Terms,
}

/// What was read, whatever it is worth.
pub(super) struct Read {
    pub(super) source: Source,
    pub(super) manifest: Option<Vec<u8>>,
    /// There was nothing to judge: why is among the problems.
    pub(super) nothing: bool,
    /// The hash of the bundle's own files, which a manifest names.
    pub(super) own: String,
    /// The hash of everything.
    whole: String,
}

impl Origin {
    /// A bundle at a place under terms. `entities` is a file that is read as one more file of entities; no signature covers it.
    #[must_use]
    pub const fn new(place: Place, entities: Option<PathBuf>, terms: Terms) -> Self {
        Self { place, entities, terms }
    }

    /// The same with its files elsewhere.
    #[must_use]
    pub fn at(&self, place: Place) -> Self {
        Self { place, ..self.clone() }
    }

    /// The same with other entities.
    #[must_use]
    pub fn with_entities(&self, entities: PathBuf) -> Self {
        Self { entities: Some(entities), ..self.clone() }
    }

    /// What is demanded.
    pub(super) const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Changes with every change of the files, also of those that cannot be read. Of a folder the hash of the bundle, and after a colon that of
    /// its manifest, if it has one; of an archive nothing but its bytes is looked at.
    #[must_use]
    pub fn content_hash(&self) -> String {
        if let Place::Packed(file) = &self.place {
            let part = |path: &Path, bound| {
                read_file(path, bound).map_or_else(|error| error.to_string(), |bytes| sha256(&bytes))
            };
            let entities = self.entities.as_deref().map(|path| part(path, MAX_ENTITIES));
            return of_packed(&part(file, MAX_PACKED), entities);
        }
        let mut problems = Problems::new();
        let read = self.read(&mut problems);
        if problems.is_empty() { read.whole } else { format!("{} {problems}", read.whole) }
    }

    /// Reads the bundle, judges it by the terms, and checks it as a whole.
    ///
    /// # Errors
    /// All problems that were found.
    pub fn load(&self, moment: &Moment) -> Result<Bundle, Problems> {
        let mut problems = Problems::new();
        match self.examine(moment, &mut problems) {
            (Some(bundle), _) if problems.is_empty() => Ok(bundle),
            _ => Err(problems),
        }
    }

    /// Loads for a check: beside the bundle, what is known of the entities even if policies are wrong.
    pub fn examine(&self, moment: &Moment, problems: &mut Problems) -> (Option<Bundle>, Option<Entities>) {
        let mut found = Problems::new();
        let read = self.read(&mut found);
        let mut release = None;
        if !read.nothing || found.is_empty() {
            match self.terms.judge(read.manifest.as_deref(), &read.own, moment) {
                Ok(judged) => release = judged,
                Err(error) => found.push(self.manifest_path(), "", &error, error.hint()),
            }
        }
        let entities = Bundle::entities(&read.source);
        let bundle = Bundle::assemble(read.source, found).map_err(|found| problems.append(found)).ok();
        (bundle.map(|bundle| bundle.released(release, (read.own, read.whole))), entities)
    }

    /// What messages about the manifest name.
    pub(super) fn manifest_path(&self) -> String {
        match &self.place {
            Place::Folder(folder) => format!("{}/{FILE}", folder.display()),
            Place::Packed(file) => format!("{}: {FILE}", file.display()),
        }
    }

    pub(super) fn read(&self, problems: &mut Problems) -> Read {
        let mut files = match &self.place {
            Place::Folder(folder) => Files {
                source: Source::read(folder, problems),
                manifest: self.manifest(folder, problems),
                nothing: !folder.is_dir(),
                packed: None,
            },
            Place::Packed(file) => packed(file, problems),
        };
        let own = files.source.hash();
        let mut entities = None;
        if let Some(path) = &self.entities {
            match read_file(path, MAX_ENTITIES) {
                Ok(bytes) => {
                    entities = Some(sha256(&bytes));
                    files.source.add(MORE_ENTITIES, bytes, problems);
                }
                Err(error) => {
                    let hint = "they are fetched when the gateway starts; until then it does not serve";
                    problems.push(path.display().to_string(), "", format!("cannot be read: {error}"), hint);
                }
            }
        }
        let Files { source, manifest, nothing, packed } = files;
        let whole = match (&packed, &manifest) {
            (Some(packed), _) => of_packed(packed, entities),
            (None, None) => source.hash(),
            (None, Some(manifest)) => format!("{}:{}", source.hash(), sha256(manifest)),
        };
        Read { source, manifest, nothing, own, whole }
    }

    /// The manifest of a folder, if there is one and anything is demanded of it.
    fn manifest(&self, folder: &Path, problems: &mut Problems) -> Option<Vec<u8>> {
        let path = folder.join(FILE);
        if self.terms.are_none() || !path.exists() {
            return None;
        }
        let bound = u64::try_from(note::MAX_BYTES).unwrap_or(u64::MAX);
        let read = read_file(&path, bound);
        read.map_err(|error| {
            problems.push(path.display().to_string(), "", format!("cannot be read: {error}"), "");
        })
        .ok()
    }
}

/// The files at a place.
struct Files {
    source: Source,
    manifest: Option<Vec<u8>>,
    nothing: bool,
    /// The hash of the archive that they were in.
    packed: Option<String>,
}

fn packed(file: &Path, problems: &mut Problems) -> Files {
    let shown = file.display().to_string();
    let bytes = read_file(file, MAX_PACKED);
    let packed = Some(bytes.as_ref().map_or_else(ToString::to_string, |bytes| sha256(bytes)));
    let unpacked = match bytes {
        Ok(bytes) => unpack(&bytes).map_err(|error| (error.to_string(), "fetch or make it again")),
        Err(error) => {
            let hint = "it is fetched when the gateway starts; until then it does not serve";
            Err((format!("cannot be read: {error}"), hint))
        }
    };
    match unpacked {
        Ok(unpacked) => Files {
            source: Source::from_files(&shown, unpacked.files, problems),
            manifest: unpacked.manifest,
            nothing: false,
            packed,
        },
        Err((message, hint)) => {
            problems.push(&shown, "", message, hint);
            // What is wrong with no files at all need not be told too.
            let source = Source::from_files(&shown, Vec::new(), &mut Problems::new());
            Files { source, manifest: None, nothing: true, packed }
        }
    }
}

/// Stands for an archive and entities beside it; begins with no hash of a bundle.
fn of_packed(archive: &str, entities: Option<String>) -> String {
    format!("packed:{archive}:{}", entities.unwrap_or_default())
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    crate::model::hex(digest.as_ref())
}
