//! Which permits come nearest to a request that no permit matches, and what each lacks.

use std::cmp::Reverse;

use super::anatomy::{Dissected, Holds, PartKind};
use super::bundle::Effect;

/// The permits for this action that lack least, at most so many: first in their head, then in all; of those that lack the same number of
/// parts the one of which more holds.
#[must_use]
pub fn nearest(policies: &[Dissected], most: usize) -> Vec<&Dissected> {
    let mut permits: Vec<&Dissected> = policies
        .iter()
        .filter(|policy| policy.info.effect == Effect::Permit && !policy.matches)
        .filter(|policy| policy.lacking().all(|part| part.kind != PartKind::Action))
        .collect();
    permits.sort_by_key(|policy| {
        let conditions = [PartKind::When, PartKind::Unless];
        let head = policy.lacking().filter(|part| !conditions.contains(&part.kind)).count();
        let lacking = policy.lacking().count();
        (head, lacking, Reverse(policy.parts.len().saturating_sub(lacking)))
    });
    permits.truncate(most);
    permits
}

impl Dissected {
    /// The parts that are not met: those that do not hold, and those that cannot be asked because of these.
    pub fn lacking(&self) -> impl Iterator<Item = &super::anatomy::Part> {
        self.parts.iter().filter(|part| part.holds != Holds::Yes)
    }
}

#[cfg(test)]
mod tests {
    use crate::model::{Level, Protection};
    use crate::policy::fixtures::{label, on, request, researcher};
    use crate::policy::{Anatomy, Bundle, embedded};

    use super::*;

    /// What lacks one fact in the middle comes before what lacks two at its end, however many parts stand behind the one.
    #[test]
    fn what_lacks_least_comes_first() {
        let policy = |id: &str, head: &str, conditions: &str| {
            format!(
                "@id(\"{id}\") permit (principal{head}, action == Tidegate::Action::\"infer\", resource) when {{ {conditions} }};\n"
            )
        };
        let infer = "context has destination && context.destination in Tidegate::Jurisdiction::\"EU\"";
        let text = [
            policy("two", "", "context has destination && context.data.level == 0 && context.request.stream"),
            policy("one", "", &format!("context.data.level == 0 && {infer} && !context.request.stream")),
            policy("guard", "", "context has purpose && context.purpose == \"care\""),
            policy("head", " in Tidegate::Team::\"clinical\"", "context.data.level <= 3"),
        ];
        let mut files: Vec<(String, Vec<u8>)> = (embedded::FILES.iter())
            .filter(|(name, _)| !name.ends_with(".cedar"))
            .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
            .collect();
        files.push(("a.cedar".into(), text.concat().into_bytes()));
        let bundle = Bundle::from_files("p", files).unwrap_or_else(|problems| panic!("{problems}"));
        let (who, what) = (researcher(), label(Level::Internal, "EU"));
        let denial = bundle.decide(&request(&who, &what), &[on("eu", "tide-small")], &[Protection::None]);
        let record = serde_json::to_value(denial.unwrap_err().request).unwrap();
        let policies = Anatomy::new(&bundle).unwrap().dissect(&record).unwrap();
        let shown: Vec<(String, usize)> = nearest(&policies, 9)
            .iter()
            .map(|policy| (policy.info.id.to_string(), policy.lacking().count()))
            .collect();
        let expected = [("one", 1), ("two", 2), ("guard", 2), ("head", 1)];
        assert_eq!(shown, expected.map(|(id, lacking)| (id.to_owned(), lacking)));
        assert_eq!(nearest(&policies, 1)[0].info.id.as_ref(), "one");
    }
}
