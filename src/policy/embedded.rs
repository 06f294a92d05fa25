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

/// The shipped bundle.
///
/// # Errors
/// None, as a test shows; the type is that of any other bundle.
pub fn bundle() -> Result<Bundle, Problems> {
    let files = FILES.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
    Bundle::from_files("policies", files)
}

/// Writes the shipped files into a directory, which is made if need be. A file that is there already stays as it is.
///
/// # Errors
/// The first file that could not be written.
pub fn write_to(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for (name, text) in FILES {
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
            .filter(|name| Path::new("policies").join(name).is_file())
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
