//! Whether the machine was started anew since the tree was last opened. What a program wrote and did not sync outlives the program, and not
//! the machine. Which run of the machine wrote is kept in `tree/boot`. In another one, as after a power loss or on another machine, or if
//! there is no telling, the tiles have to be looked at.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::time::{ClockId, clock_gettime};

use crate::audit::keys::make_directory;
use crate::audit::notes::write_synced;

/// The random name that the kernel gives each of its runs: random(4), `boot_id`.
const NAME: &str = "/proc/sys/kernel/random/boot_id";
/// How much two readings of when a run began may differ: both clocks are read one after the other, and one is corrected meanwhile.
const LEEWAY: u64 = 2;

/// A run of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Run {
    Named(String),
    /// Where that name is hidden, as in a service with `ProcSubset=pid`: the second of 1970 at which it began.
    Began(i64),
}

impl Run {
    fn current() -> Self {
        match fs::read_to_string(NAME) {
            Ok(name) if !name.trim().is_empty() => Self::Named(name.trim().to_owned()),
            _ => {
                let [now, since] =
                    [ClockId::Realtime, ClockId::Boottime].map(|clock| clock_gettime(clock).tv_sec);
                Self::Began(now.saturating_sub(since))
            }
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (kind, value) = text.trim().split_once(' ')?;
        match kind {
            "name" => Some(Self::Named(value.to_owned())),
            "began" => value.parse().ok().map(Self::Began),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Named(name) => format!("name {name}\n"),
            Self::Began(second) => format!("began {second}\n"),
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Named(one), Self::Named(other)) => one == other,
            (Self::Began(one), Self::Began(other)) => one.abs_diff(*other) <= LEEWAY,
            _ => false,
        }
    }
}

fn noted(journal: &Path) -> PathBuf {
    journal.join("tree").join("boot")
}

/// Whether what was not synced may be gone: the machine was started since, or nobody can tell.
pub(crate) fn was_restarted(journal: &Path) -> bool {
    let noted = fs::read_to_string(noted(journal)).ok();
    noted.and_then(|text| Run::parse(&text)).is_none_or(|noted| !noted.is(&Run::current()))
}

/// Notes the machine's run, after everything was looked at.
///
/// # Errors
/// It cannot be written.
pub(crate) fn note(journal: &Path) -> io::Result<()> {
    let directory = journal.join("tree");
    make_directory(&directory)?;
    write_synced(&directory, "boot", Run::current().text().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_run_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        assert!(was_restarted(dir.path()), "nothing is noted");
        note(dir.path()).unwrap();
        assert!(!was_restarted(dir.path()));
        for other in ["name another\n", "began 7\n", "", "began soon\n", "x"] {
            fs::write(noted(dir.path()), other).unwrap();
            assert!(was_restarted(dir.path()), "{other:?}");
        }
    }

    #[test]
    fn a_run_without_a_name_is_known_by_its_beginning() {
        let run = |text: &str| Run::parse(text).unwrap();
        for run in [Run::Named("a-b".into()), Run::Began(1_700_000_000)] {
            assert!(Run::parse(&run.text()).unwrap().is(&run));
        }
        assert!(run("began 100").is(&run("began 102")) && !run("began 100").is(&run("began 103")));
        assert!(!run("began 100").is(&run("name 100")));
    }
}
