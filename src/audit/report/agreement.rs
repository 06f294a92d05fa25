//! Whether the archived policies decide again what was decided: how many decisions of a period agree, how many do not, and which
//! could not be asked again, and why. The policies are asked by whoever makes the bundle ([`Judge`]); what they say is counted here.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::audit::subjects::{Opener, Restored};
use crate::audit::view::{RecordView, printable};
use crate::model::RecordId;

/// Decisions that are listed one by one, of those that differ and of those that could not be asked.
const MAX_LISTED: usize = 1_000;
/// Sentences about one of them.
const MAX_SENTENCES: usize = 8;
/// Characters of one sentence.
const MAX_SENTENCE: usize = 300;

/// The reason where what identifies the user was erased.
pub const ERASED: &str = "erased";

/// What asking the policies of a decision again gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Everything is as recorded.
    Agrees,
    /// Something is not; what.
    Differs(Vec<String>),
    /// No policy was asked then, so there is nothing to compare.
    NotAsked,
    /// It cannot be asked again.
    Impossible {
        /// The reason, a stable name such as `bundle_missing`; [`ERASED`] if it is that the user is not known.
        reason: &'static str,
        /// The same in words.
        words: String,
    },
}

/// Whoever can ask archived policies.
pub trait Judge {
    /// Asks again what a decision record says that was asked.
    fn judge(&mut self, decision: &Value) -> Answer;
}

/// A decision that is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The number of its record.
    pub seq: u64,
    /// The crossing.
    pub id: Option<RecordId>,
    /// Which attempt of it.
    pub attempt: Option<u16>,
    /// The bundle that the record names.
    pub bundle: String,
    /// What is not as recorded, or why it could not be asked.
    pub why: Vec<String>,
}

/// How the decisions of a period compare with what their policies say now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Agreement {
    /// Decided again as they were: decision, code, deciding policies and every evaluation.
    pub agreed: u64,
    /// Decided otherwise.
    pub differed: u64,
    /// Refused without any policy, so there is nothing to decide again.
    pub not_asked: u64,
    /// Those that could not be asked, by reason.
    pub not_possible: BTreeMap<&'static str, u64>,
    /// The first of those that were decided otherwise.
    pub differing: Vec<Listed>,
    /// The first of those that could not be asked.
    pub not_replayed: Vec<Listed>,
}

impl Agreement {
    /// How many could not be asked.
    #[must_use]
    pub fn impossible(&self) -> u64 {
        self.not_possible.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// In one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let reasons: Vec<String> =
            self.not_possible.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
        format!(
            "{} agree, {} differ, {} could not be asked again{reasons}; in {} no policy was asked",
            self.agreed,
            self.differed,
            self.impossible(),
            self.not_asked
        )
    }
}

/// Asks again while the records of a period pass by.
pub(super) struct Asking<'a> {
    judge: Option<&'a mut dyn Judge>,
    opener: Opener,
    found: Agreement,
    hidden: Hidden,
}

/// Decisions whose user stands in them under an alias.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Hidden {
    /// How many there are.
    pub records: u64,
    /// Those of them whose user was erased: nobody can tell any more who it was.
    pub erased: u64,
    /// Those of them whose key is not here, and no note that it was destroyed.
    pub without_key: u64,
}

impl<'a> Asking<'a> {
    /// `opener` puts back what identifies users, for policies were asked about them and not about their aliases.
    pub(super) fn new(judge: Option<&'a mut dyn Judge>, opener: Opener) -> Self {
        Self { judge, opener, found: Agreement::default(), hidden: Hidden::default() }
    }

    /// Takes a record of the period.
    pub(super) fn add(&mut self, seq: u64, payload: &[u8], view: &RecordView<'_>) {
        let is_hidden = Opener::is_hidden(payload);
        if !is_hidden && (view.kind != "decision" || self.judge.is_none()) {
            return;
        }
        let Ok(mut record) = serde_json::from_slice::<Value>(payload) else { return };
        let restored = self.opener.restore(&mut record);
        if is_hidden {
            self.hidden.records += 1;
            self.hidden.erased += u64::from(restored == Restored::Erased);
            self.hidden.without_key += u64::from(matches!(restored, Restored::NoKey | Restored::Nothing));
        }
        let Some(judge) = self.judge.as_mut().filter(|_| view.kind == "decision") else { return };
        let listed = |why: Vec<String>| Listed {
            seq,
            id: view.id,
            attempt: view.attempt,
            bundle: view.bundle.as_deref().unwrap_or_default().chars().take(64).collect(),
            why: why.iter().take(MAX_SENTENCES).map(|text| short(text)).collect(),
        };
        let add = |list: &mut Vec<Listed>, why| {
            if list.len() < MAX_LISTED {
                list.push(listed(why));
            }
        };
        match judge.judge(&record) {
            Answer::Agrees => self.found.agreed += 1,
            Answer::NotAsked => self.found.not_asked += 1,
            Answer::Differs(differences) => {
                self.found.differed += 1;
                add(&mut self.found.differing, differences);
            }
            Answer::Impossible { reason, words } => {
                let is_here = matches!(restored, Restored::Whole | Restored::Erased);
                let reason = if reason == ERASED && !is_here { "without_key" } else { reason };
                *self.found.not_possible.entry(reason).or_default() += 1;
                // Words about a malformed member may quote it, and this one was put back only to be asked about.
                let words = if is_hidden { reason.to_owned() } else { words };
                add(&mut self.found.not_replayed, vec![words]);
            }
        }
    }

    /// What was found; no agreement if nobody could judge.
    pub(super) fn finish(self) -> (Option<Agreement>, Hidden) {
        (self.judge.is_some().then_some(self.found), self.hidden)
    }
}

fn short(text: &str) -> String {
    printable(text).chars().take(MAX_SENTENCE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::encode::{encode, tests::decision, tests::stamp};

    struct Told(Answer);

    impl Judge for Told {
        fn judge(&mut self, decision: &Value) -> Answer {
            assert_eq!(decision["kind"], "decision");
            self.0.clone()
        }
    }

    #[test]
    fn what_is_listed_is_bounded_and_what_is_counted_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let payload = encode("decision", &stamp(), &decision());
        let view = RecordView::parse(&payload).unwrap();
        let found = |answer: Answer, times: u64| {
            let mut judge = Told(answer);
            let mut asking = Asking::new(Some(&mut judge), Opener::new(dir.path()));
            (0..times).for_each(|seq| asking.add(seq, &payload, &view));
            asking.finish().0.unwrap()
        };
        let many = found(Answer::Differs(vec!["\u{1b}x".repeat(4000); 30]), 1_500);
        assert_eq!((many.differed, many.differing.len()), (1_500, MAX_LISTED));
        assert_eq!(many.differing[3].seq, 3);
        assert_eq!(many.differing[0].why.len(), MAX_SENTENCES);
        assert!(many.differing[0].why[0].chars().count() <= MAX_SENTENCE);
        assert!(!many.differing[0].why[0].contains('\u{1b}'));
        let lost = found(Answer::Impossible { reason: "bundle_missing", words: "gone".to_owned() }, 3);
        assert_eq!((lost.impossible(), lost.not_replayed.len(), lost.agreed), (3, 3, 0));
        assert!(
            lost.sentence().contains("3 could not be asked again (bundle_missing 3)"),
            "{}",
            lost.sentence()
        );
        assert_eq!(found(Answer::Agrees, 2).agreed, 2);
        assert_eq!(found(Answer::NotAsked, 2).not_asked, 2);
        let mut nobody = Asking::new(None, Opener::new(dir.path()));
        nobody.add(0, &payload, &view);
        assert_eq!(nobody.finish(), (None, Hidden::default()));
    }
}
