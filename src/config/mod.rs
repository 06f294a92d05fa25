//! The edge: TOML text becomes checked values, and every problem is reported at once with its place and the mend.
//!
//! `file` is what a person writes, section by section, so that one mistake does not hide the next; `check` compares
//! the sections with each other, with the policies' entities and with the files they name; `element` reads one section; `reference` writes the
//! reference and the JSON Schema from the same types.

mod check;
mod element;
mod file;
mod policy;
pub mod reference;
mod source;

use std::path::{Path, PathBuf};

use crate::model::Problems;

pub use check::{check, entities};
pub use file::{Config, FileConfig, GatewaySettings};
pub use policy::{AttestationRule, PolicySettings, RemoteSettings, ShadowSettings};
pub use source::{moment, origin};

/// The largest configuration file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Reads and parses one configuration file; paths in it become relative to its folder.
///
/// # Errors
/// Everything that is wrong with the file by itself. [`check()`] finds what is wrong with it in its surroundings.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let mut problems = Problems::new();
    match examine(path, &mut problems) {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

/// What can be read of a file in spite of its mistakes, so that a check finds those of its surroundings at the same
/// time. Not to be served: what did not parse is left out. None if nothing can be read.
pub fn examine(path: &Path, problems: &mut Problems) -> Option<Config> {
    let name = path.display().to_string();
    let base = path.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    match read(path) {
        Ok(text) => file::parse(&name, &text, &base, problems),
        Err(error) => {
            problems.push(
                name,
                "",
                format!("cannot be read: {error}"),
                "pass the file's path with `--config`",
            );
            None
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let length = std::fs::metadata(path)?.len();
    if length > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!(
            "{length} bytes are more than the bound of {MAX_FILE_BYTES}"
        )));
    }
    std::fs::read_to_string(path)
}
