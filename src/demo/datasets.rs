//! The data of the demo's store: invented, small, and deliberately of three sensitivities.

use std::fs;
use std::io;
use std::path::Path;

/// A dataset of the demo: where its objects lie and the label that the configuration gives it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dataset {
    /// The id of its entity in the shipped policies.
    pub(crate) id: &'static str,
    /// Its bucket.
    pub(crate) bucket: &'static str,
    /// The prefix of its keys.
    pub(crate) prefix: &'static str,
    /// Its level, by name.
    pub(crate) level: &'static str,
    /// The jurisdictions that may hold it.
    pub(crate) residency: &'static [&'static str],
    object: &'static str,
    /// What its object holds.
    pub(crate) text: &'static str,
}

/// The one whose objects leave only sealed.
pub(crate) const PATIENTS: Dataset = Dataset {
    id: "patients",
    bucket: "clinical",
    prefix: "patients/",
    level: "restricted",
    residency: &["EU"],
    object: "register.csv",
    text: "patient,name,born,diagnosis\n1,Invented Person,1970-01-01,none\n2,Nobody Real,1980-02-02,none\n",
};

/// All of them.
pub(crate) const DATASETS: [Dataset; 3] = [
    Dataset {
        id: "handbook",
        bucket: "commons",
        prefix: "handbook/",
        level: "public",
        residency: &["EU", "US"],
        object: "handbook.md",
        text: "# Handbook of the tide station\n\nThe gauge is read at every full hour.\n\
               A reading that differs by more than a hand from the table is taken twice.\n",
    },
    Dataset {
        id: "trials",
        bucket: "clinical",
        prefix: "trials/",
        level: "confidential",
        residency: &["EU"],
        object: "2031.csv",
        text: "trial,arm,participants,responders\nT-01,verum,120,71\nT-01,placebo,118,40\nT-02,verum,64,22\n",
    },
    PATIENTS,
];

impl Dataset {
    /// The key of its one object.
    pub(crate) fn key(&self) -> String {
        format!("{}{}", self.prefix, self.object)
    }
}

/// Writes each object that is missing; one that is there stays as it is.
///
/// # Errors
/// The directory cannot be written.
pub(crate) fn seed(root: &Path) -> io::Result<()> {
    for dataset in &DATASETS {
        let file = root.join(dataset.bucket).join(dataset.key());
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        if !file.exists() {
            fs::write(&file, dataset.text)?;
        }
    }
    Ok(())
}
