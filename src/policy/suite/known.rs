//! Names in a request that no entity has: most often a slip of the hand, and a denial then proves nothing.

use super::{Facts, Wanted};
use crate::model::did_you_mean;
use crate::policy::{Bundle, DenialReason};

/// A name that the entities of a bundle do not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// What it says: ``names the team `reserch`, which the entities do not know``.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.message, self.hint)
    }
}

impl Facts {
    /// The names of entities that `bundle` does not have; none if that is what the case expects. A case that wants a denial may be about a
    /// team that nobody knows: of such a team only a slip is told. People, workloads, agents and tenants are no entities of a
    /// bundle: of these nothing is known.
    #[must_use]
    pub fn unknown(&self, bundle: &Bundle) -> Vec<Unknown> {
        if self.expects(DenialReason::UnknownEntity.code()) {
            return Vec::new();
        }
        let name = |kind: &'static str, word: &'static str, id: &str| {
            let meant = || did_you_mean(id, bundle.entity_ids(kind));
            let known = bundle.has_entity(kind, id);
            let intended = || kind == "Team" && self.deny.is_some() && meant().is_none();
            (!known && !intended()).then(|| Unknown {
                message: format!("names the {word} `{id}`, which the entities do not know"),
                hint: meant().unwrap_or_else(|| "correct the name, or add the entity".to_owned()),
            })
        };
        let teams = self.team.iter().flat_map(|team| team.as_slice());
        let models = self.model.iter().flat_map(|model| model.as_slice());
        let places = self.residency.iter().flat_map(|place| place.as_slice());
        let clusters = self.to.iter().chain(self.can_open.iter().flat_map(|cluster| cluster.as_slice()));
        let mut found: Vec<Unknown> = Vec::new();
        found.extend(teams.filter_map(|team| name("Team", "team", team.as_str())));
        found.extend(models.filter_map(|model| name("Model", "model", model)));
        found.extend(self.dataset.iter().filter_map(|dataset| name("Dataset", "dataset", dataset.as_str())));
        found.extend(self.service.iter().filter_map(|service| name("Service", "service", service.as_str())));
        found.extend(clusters.filter_map(|cluster| name("Cluster", "cluster", cluster.as_str())));
        found.extend(places.filter_map(|place| name("Jurisdiction", "jurisdiction", place)));
        found
    }

    fn expects(&self, code: &str) -> bool {
        match &self.deny {
            Some(Wanted::Among(wanted)) => wanted == code,
            Some(Wanted::Exactly(wanted)) => wanted.iter().any(|wanted| wanted == code),
            Some(Wanted::Any(_)) | None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::embedded;

    fn told(facts: &str) -> Vec<String> {
        let facts: Facts = toml::from_str(facts).unwrap();
        facts.unknown(&embedded::bundle().unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_that_nobody_knows_are_told_with_what_was_meant() {
        let none: [String; 0] = [];
        assert_eq!(
            told("team = 'research'\nmodel = 'eu/tide-small'\nresidency = ['EU']\nto = 'private'"),
            none
        );
        assert_eq!(
            told("team = ['research', 'reserch']\nmodel = 'eu/tide-smal'\nresidency = 'UE'"),
            [
                "names the team `reserch`, which the entities do not know: did you mean `research`?",
                "names the model `eu/tide-smal`, which the entities do not know: did you mean `eu/tide-small`?",
                "names the jurisdiction `UE`, which the entities do not know: did you mean `EU`?",
            ]
        );
        assert_eq!(
            told(
                "dataset = 'patint'\nto = 'nowhere-at-all'\ncan_open = 'havn'\nuser = 'anybody'\nagent = 'any'"
            ),
            [
                "names the dataset `patint`, which the entities do not know: did you mean `patients`?",
                "names the cluster `nowhere-at-all`, which the entities do not know: correct the name, or add the entity",
                "names the cluster `havn`, which the entities do not know: did you mean `haven`?",
            ]
        );
    }

    #[test]
    fn a_case_may_be_about_them() {
        let none: [String; 0] = [];
        assert_eq!(told("model = 'eu/ghost'\ndeny = 'unknown_entity'"), none);
        assert_eq!(told("model = 'eu/ghost'\ndeny = ['unknown_entity']"), none);
        assert_eq!(told("model = 'eu/ghost'\ndeny = true").len(), 1);
        assert_eq!(told("team = 'gardening'\ndeny = 'policy_denied'"), none);
        assert_eq!(told("team = 'gardening'\nallow = true").len(), 1);
        assert_eq!(told("team = 'gardening'").len(), 1);
        assert_eq!(told("team = 'reserch'\ndeny = 'policy_denied'").len(), 1);
    }
}
