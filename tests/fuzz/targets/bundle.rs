//! Any text for a policy file, beside the shipped schema: it is taken, or there are problems; and what is taken has a hash and loads again to the
//! same one.

use std::sync::OnceLock;

use tidegate::policy::Bundle;

const SCHEMA: &str = include_str!("../../../policies/tidegate.cedarschema");

pub(crate) fn read(input: &[u8]) {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().unwrap());
    let folder = folder.path().join(format!("{:?}", std::thread::current().id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("tidegate.cedarschema"), SCHEMA).unwrap();
    std::fs::write(folder.join("entities.json"), "[]").unwrap();
    std::fs::write(folder.join("10-any.cedar"), input).unwrap();
    match Bundle::load(&folder) {
        Ok(bundle) => assert_eq!(bundle.hash(), Bundle::load(&folder).unwrap().hash()),
        Err(problems) => assert!(!problems.is_empty()),
    }
}
