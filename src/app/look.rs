//! One look at a folder of policies: has it changed, and may what is there serve?
//!
//! Half a copy is not taken for a set: contents count when two looks find them alike.

use std::time::Duration;

use crate::audit::Audit;
use crate::config::{self, Config};
use crate::model::Problems;
use crate::policy::{Bundle, Origin};

/// The shortest time between two looks at anything that is followed; a setting of nothing means this.
pub(super) const SHORTEST: Duration = Duration::from_millis(10);

/// One look at the folder.
pub(super) struct Look {
    /// The contents of the last verdict.
    pub(super) seen: String,
    /// Contents that the look before met for the first time.
    pub(super) fresh: Option<String>,
    /// Whether contents need not be met twice, and are judged again.
    pub(super) forced: bool,
}

/// What a look found.
pub(super) enum Seen {
    /// What there was a verdict on already.
    Same,
    /// Contents that may still be changing.
    Fresh(String),
    /// A set that may serve; it is archived.
    Sound(Box<Bundle>),
    /// A set that may not. `retry`: the fault is not in the files, so the same files are looked at again.
    Broken { hash: String, problems: Vec<String>, retry: bool },
}

impl Look {
    /// Looks. Blocks for as long as reading, parsing, validating and archiving take.
    pub(super) fn at(self, origin: &Origin, config: &Config, audit: &Audit) -> Seen {
        let hash = origin.content_hash();
        if !self.forced && hash == self.seen {
            return Seen::Same;
        }
        if !self.forced && self.fresh.as_ref() != Some(&hash) {
            return Seen::Fresh(hash);
        }
        let bundle = match load(origin, config) {
            // The files changed while they were read: what was loaded may be a mixture.
            Ok(bundle) if bundle.content() != origin.content_hash() => return Seen::Fresh(hash),
            Ok(bundle) => bundle,
            Err(problems) => {
                let problems = problems.into_vec().iter().map(ToString::to_string).collect();
                return Seen::Broken { hash, problems, retry: false };
            }
        };
        // A bundle that cannot be archived could never be explained to an auditor.
        match audit.archive(bundle.hash(), bundle.files()) {
            Ok(()) => Seen::Sound(Box::new(bundle)),
            Err(error) => Seen::Broken { hash, problems: vec![error.to_string()], retry: true },
        }
    }
}

fn load(origin: &Origin, config: &Config) -> Result<Bundle, Problems> {
    let bundle = origin.load(&config::moment(config)?)?;
    let problems = config::entities(config, &bundle);
    if problems.is_empty() { Ok(bundle) } else { Err(problems) }
}
