//! Which records are wanted. One filter for all that reads the journal: `tail`, `query`, `report`, `export`.
//!
//! Each member that is set narrows; a filter with none admits everything. A filter says nothing of outcomes by
//! themselves, for they hold no principal: [`Selection`] lets the outcome of each wanted decision through.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

use super::view::RecordView;
use crate::model::{Level, RecordId};

/// Crossings whose outcomes a [`Selection`] waits for at most, 24 bytes each.
const MAX_OPEN: usize = 1_000_000;

/// Which records are wanted; what is not set admits all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// A part of the principal's id.
    pub principal: Option<String>,
    /// One of the principal's teams.
    pub team: Option<String>,
    /// The Cedar action.
    pub action: Option<String>,
    /// A part of the resource as tables show it, type and id: `Dataset lake/papers`.
    pub resource: Option<String>,
    /// The route.
    pub route: Option<String>,
    /// What was decided.
    pub decision: Option<Decided>,
    /// One of the deciding policies, by its `@id`.
    pub policy: Option<String>,
    /// The level of the effective label.
    pub label: Option<Levels>,
    /// The model, as the cluster names it.
    pub model: Option<String>,
    /// Where the data went or would have gone: a cluster, or the store or service that was asked.
    pub cluster: Option<String>,
    /// Not before this.
    pub from: Option<Timestamp>,
    /// Before this.
    pub to: Option<Timestamp>,
    /// One crossing, by the beginning of its id.
    pub id: Option<IdPrefix>,
}

impl Filter {
    /// Whether the record is wanted. An outcome is wanted only where nothing is asked that it does not hold.
    #[must_use]
    pub fn matches(&self, record: &RecordView<'_>) -> bool {
        self.at(record.time)
            && self.id.as_ref().is_none_or(|id| record.id.is_some_and(|found| id.admits(found)))
            && self.decision.is_none_or(|wanted| Decided::of(record) == Some(wanted))
            && self.who(record)
            && self.what(record)
            && self.r#where(record)
            && wanted(self.route.as_deref(), |route| record.route() == Some(route))
            && wanted(self.policy.as_deref(), |id| record.policies.iter().any(|policy| policy == id))
    }

    /// Whether a time is within `from` and `to`.
    #[must_use]
    pub fn at(&self, time: Timestamp) -> bool {
        self.from.is_none_or(|from| time >= from) && self.to.is_none_or(|to| time < to)
    }

    /// Whether nothing but the time narrows it.
    #[must_use]
    pub fn is_time_only(&self) -> bool {
        *self == Self { from: self.from, to: self.to, ..Self::default() }
    }

    fn who(&self, record: &RecordView<'_>) -> bool {
        let principal = record.principal.as_ref();
        wanted(self.principal.as_deref(), |part| principal.is_some_and(|p| p.id.contains(part)))
            && wanted(self.team.as_deref(), |team| {
                principal.is_some_and(|p| p.teams.iter().any(|found| found == team))
            })
    }

    fn what(&self, record: &RecordView<'_>) -> bool {
        wanted(self.action.as_deref(), |action| record.action() == Some(action))
            && wanted(self.resource.as_deref(), |part| {
                record.resource.as_ref().is_some_and(|resource| resource.shown().contains(part))
            })
            && wanted(self.model.as_deref(), |model| record.model() == Some(model))
            && self.label.is_none_or(|levels| record.level().is_some_and(|level| levels.admits(level)))
    }

    fn r#where(&self, record: &RecordView<'_>) -> bool {
        wanted(self.cluster.as_deref(), |name| {
            record.destination() == Some(name) || record.upstream().is_some_and(|upstream| upstream == name)
        })
    }
}

fn wanted<'a>(asked: Option<&'a str>, holds: impl FnOnce(&'a str) -> bool) -> bool {
    asked.is_none_or(holds)
}

/// What was decided, as one searches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decided {
    /// Permitted by policy.
    Allow,
    /// Not permitted by policy.
    Deny,
    /// Refused before or after the policies: malformed, unidentified, over a limit.
    Reject,
    /// No request: something that happened to the gateway.
    Event,
}

impl Decided {
    /// That of a record; none for an outcome.
    #[must_use]
    pub fn of(record: &RecordView<'_>) -> Option<Self> {
        match (record.kind.as_ref(), record.decision) {
            (_, Some(verdict)) => Some(verdict.into()),
            ("refusal" | "refusals", None) => Some(Self::Reject),
            ("event", None) => Some(Self::Event),
            _ => None,
        }
    }

    /// The name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Reject => "reject",
            Self::Event => "event",
        }
    }
}

impl From<super::record::Verdict> for Decided {
    fn from(verdict: super::record::Verdict) -> Self {
        use super::record::Verdict;
        match verdict {
            Verdict::Allow => Self::Allow,
            Verdict::Deny => Self::Deny,
            Verdict::Reject => Self::Reject,
        }
    }
}

/// Levels to search for: `confidential`, or `confidential+` for it and all above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// The level.
    pub level: Level,
    /// Whether higher ones are meant too.
    pub or_higher: bool,
}

impl Levels {
    /// Whether the level is one of them.
    #[must_use]
    pub fn admits(self, level: Level) -> bool {
        level == self.level || (self.or_higher && level > self.level)
    }
}

impl FromStr for Levels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, or_higher) = text.strip_suffix('+').map_or((text, false), |name| (name, true));
        name.parse().map(|level| Self { level, or_higher }).map_err(|()| {
            format!("`{text}` is no level: write `public`, `internal`, `confidential` or `restricted`, `internal+` for it and above")
        })
    }
}

/// The beginning of a record id: hexadecimal digits and hyphens, at most 36 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdPrefix(String);

impl IdPrefix {
    /// Whether the id begins so.
    #[must_use]
    pub fn admits(&self, id: RecordId) -> bool {
        id.to_string().starts_with(&self.0)
    }

    /// The text, lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for IdPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
        let lower = text.to_ascii_lowercase();
        let fits = |(shape, found): (char, char)| match shape {
            '-' => found == '-',
            _ => found.is_ascii_hexdigit(),
        };
        let fitting =
            !lower.is_empty() && lower.len() <= SHAPE.len() && SHAPE.chars().zip(lower.chars()).all(fits);
        if !fitting {
            return Err(format!(
                "`{text}` is no record id, nor the beginning of one: `01912f6e-7a3c-7d1e-8b0a-0123456789ab`, `01912f6e-7a3c`"
            ));
        }
        Ok(Self(lower))
    }
}

impl From<RecordId> for IdPrefix {
    fn from(id: RecordId) -> Self {
        Self(id.to_string())
    }
}

/// A time as people write it: RFC 3339 (`2026-11-24T08:00:00Z`), a day (`2026-11-24`, its beginning in UTC), or how long ago, with or
/// without a minus (`15m`, `-2h`, `7d`).
///
/// # Errors
/// It is neither; the text says what to write.
pub fn time(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Some(ago) = ago(text.strip_prefix('-').unwrap_or(text)) {
        return now.checked_sub(ago).map_err(|_| format!("`{text}` ago is too long ago"));
    }
    let whole = text.parse().or_else(|_| format!("{text}T00:00:00Z").parse());
    whole.map_err(|_| {
        format!(
            "`{text}` is no time: write `2026-11-24T08:00:00Z`, `2026-11-24`, or how long ago: `15m`, `-24h`, `7d`"
        )
    })
}

fn ago(text: &str) -> Option<SignedDuration> {
    let parsed = text.parse::<crate::model::Duration>().ok()?;
    SignedDuration::try_from(parsed.get()).ok()
}

/// A filter over records in their order, which also lets through the outcomes of what it admitted.
#[derive(Debug)]
pub struct Selection {
    filter: Filter,
    open: HashSet<(RecordId, u16)>,
}

impl Selection {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(filter: Filter) -> Self {
        Self { filter, open: HashSet::new() }
    }

    /// Whether the record is wanted: by itself, or as the outcome of a decision that was. An outcome counts wherever its decision does,
    /// also after `to`. At most a million decisions wait for theirs; the outcomes of more are left out.
    pub fn admits(&mut self, record: &RecordView<'_>) -> bool {
        let crossing = record.id.zip(record.attempt);
        if record.kind == "outcome" {
            let awaited = crossing.is_some_and(|crossing| self.open.remove(&crossing));
            return awaited || self.filter.matches(record);
        }
        let admitted = self.filter.matches(record);
        if admitted
            && record.kind == "decision"
            && self.open.len() < MAX_OPEN
            && let Some(crossing) = crossing
        {
            self.open.insert(crossing);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::encode::{encode, tests::decision, tests::stamp};
    use crate::audit::record::{Decision, Ending, Marking, Outcome, Refusal, Verdict};
    use crate::model::Residency;

    fn admits(filter: &Filter, decision: &Decision<'_>) -> bool {
        filter.matches(&RecordView::parse(&encode("decision", &stamp(), decision)).unwrap())
    }

    #[test]
    fn each_member_narrows() {
        let label = Marking {
            level: Level::Confidential,
            residency: std::borrow::Cow::Owned(Residency::default()),
            origin: "route".into(),
        };
        let record = Decision { label: Some(label), ..decision() };
        let text = |text: &str| Some(text.to_owned());
        let levels = |text: &str| Some(text.parse().unwrap());
        let all = Filter::default();
        for (holds, not) in [
            (
                Filter { principal: text("alice"), ..all.clone() },
                Filter { principal: text("eve"), ..all.clone() },
            ),
            (
                Filter { team: text("research"), ..all.clone() },
                Filter { team: text("resear"), ..all.clone() },
            ),
            (Filter { action: text("infer"), ..all.clone() }, Filter { action: text("read"), ..all.clone() }),
            (
                Filter { resource: text("Model eu/"), ..all.clone() },
                Filter { resource: text("us/"), ..all.clone() },
            ),
            (Filter { route: text("chat"), ..all.clone() }, Filter { route: text("chats"), ..all.clone() }),
            (
                Filter { decision: Some(Decided::Allow), ..all.clone() },
                Filter { decision: Some(Decided::Deny), ..all.clone() },
            ),
            (
                Filter { policy: text("chat-for-research"), ..all.clone() },
                Filter { policy: text("chat"), ..all.clone() },
            ),
            (
                Filter { label: levels("internal+"), ..all.clone() },
                Filter { label: levels("internal"), ..all.clone() },
            ),
            (Filter { model: text("llama"), ..all.clone() }, Filter { model: text("eu"), ..all.clone() }),
            (Filter { cluster: text("eu"), ..all.clone() }, Filter { cluster: text("us"), ..all.clone() }),
        ] {
            assert!(admits(&all, &record) && admits(&holds, &record), "{holds:?}");
            assert!(!admits(&not, &record), "{not:?}");
        }
        let denied = Decision { decision: Verdict::Deny, ..record };
        assert!(!admits(&Filter { decision: Some(Decided::Allow), ..all }, &denied));
    }

    #[test]
    fn refusals_are_rejects_and_hold_nothing_of_whom() {
        let refusal = Refusal {
            code: "unauthenticated".into(),
            status: 401,
            peer: "192.0.2.7:4711".parse().unwrap(),
            method: None,
            host: None,
            path: None,
            route: Some("chat".into()),
            trace_id: None,
        };
        let bytes = encode("refusal", &stamp(), &refusal);
        let record = RecordView::parse(&bytes).unwrap();
        assert!(Filter { decision: Some(Decided::Reject), ..Filter::default() }.matches(&record));
        assert!(Filter { route: Some("chat".into()), ..Filter::default() }.matches(&record));
        assert!(!Filter { principal: Some(String::new()), ..Filter::default() }.matches(&record));
    }

    #[test]
    fn from_is_inside_and_to_is_not() {
        let at = |second: i64| Some(Timestamp::from_second(1_700_000_000 + second).unwrap());
        let within = |from, to| admits(&Filter { from, to, ..Filter::default() }, &decision());
        assert!(within(at(0), at(1)) && within(None, None));
        assert!(!within(at(1), None) && !within(None, at(0)));
    }

    #[test]
    fn a_time_is_absolute_a_day_or_ago() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let said = |text: &str| time(text, now).map(|time| time.to_string());
        assert_eq!(said("2026-01-01T00:00:00Z").unwrap(), "2026-01-01T00:00:00Z");
        assert_eq!(said("2026-01-01T01:00:00+01:00").unwrap(), "2026-01-01T00:00:00Z");
        assert_eq!(said("2026-01-01").unwrap(), "2026-01-01T00:00:00Z");
        assert_eq!(said("-2h").unwrap(), "2026-11-24T10:00:00Z");
        assert_eq!(said("7d").unwrap(), "2026-11-17T12:00:00Z");
        for wrong in ["yesterday", "", "-", "12", "2026-13-01", "2026-01-01T00:00", "9999999999d"] {
            assert!(said(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn an_id_is_found_by_its_beginning() {
        let id: RecordId = "01912f6e-7a3c-7d1e-8b0a-0123456789ab".parse().unwrap();
        for text in ["0", "01912F6E", "01912f6e-", "01912f6e-7a3c-7d1e-8b0a-0123456789ab"] {
            assert!(text.parse::<IdPrefix>().unwrap().admits(id), "{text}");
        }
        assert!(!"02".parse::<IdPrefix>().unwrap().admits(id));
        for wrong in ["", "alice", "01912f6e7a3c", "01912f6e-7a3c-7d1e-8b0a-0123456789ab0"] {
            assert!(wrong.parse::<IdPrefix>().is_err(), "{wrong}");
        }
        assert!("secret".parse::<Levels>().is_err() && "".parse::<Levels>().is_err());
    }

    #[test]
    fn an_outcome_goes_with_its_decision() {
        let filter = Filter { principal: Some("alice".into()), ..Filter::default() };
        let mut selection = Selection::new(filter);
        let mut admits = |bytes: Vec<u8>| selection.admits(&RecordView::parse(&bytes).unwrap());
        let (ours, other) = (stamp(), stamp());
        let outcome = Outcome::bare(Ending::Complete);
        assert!(admits(encode("decision", &ours, &decision())));
        assert!(!admits(encode("outcome", &other, &outcome)));
        assert!(admits(encode("outcome", &ours, &outcome)));
        assert!(!admits(encode("outcome", &ours, &outcome)), "only once");
    }
}
