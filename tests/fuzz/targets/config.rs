//! Any text for a configuration file: it is taken, or there are problems that say where; never neither.

use std::path::PathBuf;
use std::sync::OnceLock;

use tidegate::config;
use tidegate::model::Problems;

pub(crate) fn read(input: &[u8]) {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().unwrap());
    let file: PathBuf = folder.path().join(format!("{:?}.toml", std::thread::current().id()));
    std::fs::write(&file, input).unwrap();
    let mut problems = Problems::new();
    let config = config::examine(&file, &mut problems);
    assert!(config.is_some() || !problems.is_empty(), "neither a configuration nor a problem");
    for problem in problems.into_vec() {
        assert!(!problem.message.is_empty());
    }
}
