//! The shipped policies, embedded so that the binary alone can write them where they are wanted.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::Bundle;
use crate::model::Problems;

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../policies/", $name)))),*]
    };
}

/// Every shipped file, by name.
pub const FILES: &[(&str, &str)] = shipped![
    "10-safety.cedar",
    "20-inference.cedar",
    "30-data.cedar",
    "40-services.cedar",
    "README.md",
    "entities.json",
    "tidegate.cedarschema",
];

/// The tests of the shipped policies, by name within `tests/`.
pub const TESTS: &[(&str, &str)] = shipped!["tests/data.toml", "tests/inference.toml", "tests/services.toml"];

/// The invariants that the shipped policies are proved to keep, by name within `invariants/`.
pub const INVARIANTS: &[(&str, &str)] = shipped![
    "invariants/agents.bad.cedar",
    "invariants/anonymous.bad.cedar",
    "invariants/residency.bad.cedar",
    "invariants/restricted.bad.cedar",
];

/// The policies of a cluster-side gateway (`policies/examples/far-side`), by name: it opens what a border sealed.
pub const FAR_SIDE: &[(&str, &str)] = shipped![
    "examples/far-side/10-safety.cedar",
    "examples/far-side/20-inference.cedar",
    "examples/far-side/entities.json",
    "tidegate.cedarschema",
];

/// The shipped bundle.
///
/// # Errors
/// None, as a test shows; the type is that of any other bundle.
pub fn bundle() -> Result<Bundle, Problems> {
    let files = FILES.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
    Bundle::from_files("policies", files)
}

/// Writes the shipped files, their tests and their invariants into a directory, which is made if need be. A file that is there already stays as it is.
///
/// # Errors
/// The first file that could not be written.
pub fn write_to(dir: &Path) -> io::Result<()> {
    write(FILES, dir)?;
    write(TESTS, &dir.join(super::suite::DIRECTORY))?;
    write(INVARIANTS, &dir.join(super::prove::DIRECTORY))
}

/// Writes files of this module into a directory, which is made if need be. A file that is there already stays as it is.
///
/// # Errors
/// The first file that could not be written.
pub fn write(files: &[(&str, &str)], dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for (path, text) in files {
        let name = path.rsplit('/').next().unwrap_or(path);
        match OpenOptions::new().write(true).create_new(true).open(dir.join(name)) {
            Ok(mut file) => file.write_all(text.as_bytes())?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_file_is_embedded_and_they_load() {
        let mut there: Vec<String> = fs::read_dir("policies")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            // How Kubernetes gets the files is no part of them.
            .filter(|name| Path::new("policies").join(name).is_file() && name != "kustomization.yaml")
            .collect();
        there.sort();
        let embedded: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(there, embedded);

        let bundle = bundle().unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(bundle.hash(), Bundle::load(Path::new("policies")).unwrap().hash());
        for policy in bundle.policies() {
            assert!(policy.owner.is_some() && policy.reason.is_some(), "{policy:?}");
        }
    }

    #[test]
    fn every_test_is_embedded() {
        let mut there: Vec<String> = fs::read_dir("policies/tests")
            .unwrap()
            .map(|entry| format!("tests/{}", entry.unwrap().file_name().into_string().unwrap()))
            .collect();
        there.sort();
        assert_eq!(there, TESTS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    #[test]
    fn the_policies_of_a_far_side_load() {
        let dir = tempfile::tempdir().unwrap();
        write(FAR_SIDE, dir.path()).unwrap();
        let written = Bundle::load(dir.path()).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(written.hash(), Bundle::load(Path::new("policies/examples/far-side")).unwrap().hash());
    }

    #[test]
    fn writing_keeps_what_was_edited() {
        let dir = tempfile::tempdir().unwrap();
        let policies = dir.path().join("policies");
        write_to(&policies).unwrap();
        fs::write(policies.join("40-services.cedar"), "// edited\n").unwrap();
        write_to(&policies).unwrap();
        assert_eq!(fs::read_to_string(policies.join("40-services.cedar")).unwrap(), "// edited\n");
        assert!(Bundle::load(&policies).is_ok());
    }
}
