//! What a gateway would say of a release, check by check, before it is published.
//!
//! The last word is [`Origin::load`], with which a gateway takes a bundle; the checks before it say what it is that is wrong.

use serde::Serialize;

use super::bundle::Bundle;
use super::origin::Origin;
use super::release::{Manifest, Moment, Terms};
use crate::model::{Problem, Problems};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it must be.
    Ok,
    /// A gateway refuses it.
    Wrong,
    /// Nothing is demanded, or what comes before is wrong.
    Open,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What is looked at: `archive`, `signature`, `files`, `serial`, `expiry`, `proof` or `policies`.
    pub what: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found.
    pub says: String,
    /// What to do; empty if nothing.
    pub hint: String,
}

/// A release that was looked at.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// Whether a gateway would take it, under the same terms and at this time.
    pub taken: bool,
    /// The hash of its files; none if they could not be read.
    pub bundle: Option<String>,
    /// What its manifest says, whoever signed it; none if there is no manifest that can be read.
    pub manifest: Option<Manifest>,
    /// The checks, in order.
    pub checks: Vec<Check>,
}

impl Origin {
    /// Looks at the release as a gateway would that served what `moment` says.
    #[must_use]
    pub fn verify(&self, moment: &Moment) -> Verified {
        let loaded = self.load(moment);
        let mut found = Problems::new();
        let read = self.read(&mut found);
        let mut checks = vec![match found.iter().next() {
            None => check("archive", Outcome::Ok, format!("{} files", read.source.count())),
            Some(problem) => wrong("archive", &problem.message, &problem.hint),
        }];
        if read.nothing {
            return Verified { taken: false, bundle: None, manifest: None, checks };
        }
        let manifest = self.manifest_checks(read.manifest.as_deref(), &read.own, moment, &mut checks);
        match Bundle::assemble(read.source, Problems::new()) {
            Ok(bundle) => {
                checks.push(check("policies", Outcome::Ok, format!("{} policies", bundle.policies().len())));
            }
            Err(problems) => checks.extend(problems.iter().map(of_policies)),
        }
        // What no check has found is told all the same: a gateway refuses it.
        if let Err(problems) = &loaded
            && checks.iter().all(|check| check.outcome != Outcome::Wrong)
        {
            checks.extend(problems.iter().map(of_policies));
        }
        let taken = loaded.is_ok() && checks.iter().all(|check| check.outcome != Outcome::Wrong);
        Verified { taken, bundle: Some(read.own), manifest, checks }
    }

    fn manifest_checks(
        &self,
        bytes: Option<&[u8]>,
        own: &str,
        moment: &Moment,
        checks: &mut Vec<Check>,
    ) -> Option<Manifest> {
        let terms = self.terms();
        let Some(bytes) = bytes else {
            checks.push(match terms.judge(None, own, moment) {
                Ok(_) => check("signature", Outcome::Open, "there is no manifest, and none is demanded"),
                Err(error) => wrong("signature", format!("the manifest {error}"), error.hint()),
            });
            return None;
        };
        let signed = terms.signed(bytes);
        checks.push(match &signed {
            Ok((_, Some(signer))) => check("signature", Outcome::Ok, format!("by {signer}")),
            Ok((_, None)) => check("signature", Outcome::Open, "none is demanded: no key was named"),
            Err(error) => wrong("signature", format!("the manifest {error}"), error.hint()),
        });
        // What it says is told also if nobody vouches for it: it may say why.
        let manifest = signed.as_ref().map(|(manifest, _)| manifest.clone());
        let manifest = manifest.ok().or_else(|| Some(Manifest::read(bytes, &[]).ok()?.0))?;
        let signer = signed.ok().and_then(|(_, signer)| signer);
        checks.push(match Terms::same_files(&manifest, own) {
            Ok(()) => check("files", Outcome::Ok, "are those that the manifest names"),
            Err(error) => wrong("files", format!("the manifest {error}"), error.hint()),
        });
        checks.push(match (Terms::serial(&manifest, own, moment), &moment.last) {
            (Err(error), _) => wrong("serial", error.to_string(), error.hint()),
            (Ok(_), Some(last)) => {
                check("serial", Outcome::Ok, format!("{}, after {}", manifest.serial, last.serial))
            }
            (Ok(_), None) => check(
                "serial",
                Outcome::Open,
                format!("{}; which was served last is not known", manifest.serial),
            ),
        });
        let served = Terms::serial(&manifest, own, moment).unwrap_or(false);
        checks.push(match (Terms::expiry(&manifest, served, moment), manifest.expires) {
            (Err(error), _) => wrong("expiry", error.to_string(), error.hint()),
            (Ok(()), Some(expires)) => {
                check("expiry", Outcome::Ok, expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
            }
            (Ok(()), None) => check("expiry", Outcome::Ok, "never"),
        });
        let proved = || match (&manifest.attestation, &manifest.override_reason) {
            (Some(attestation), _) => {
                attestation.claims.iter().map(|claim| claim.id.as_str()).collect::<Vec<_>>().join(", ")
            }
            (None, Some(reason)) => format!("override: {reason}"),
            (None, None) => "nothing is attested".to_owned(),
        };
        checks.push(match (terms.attestation(&manifest, signer.as_deref()), &terms.attested) {
            (Err(error), _) => wrong("proof", error.to_string(), error.hint()),
            (Ok(_), Some(_)) => check("proof", Outcome::Ok, proved()),
            (Ok(_), None) => check("proof", Outcome::Open, format!("{}; none is demanded", proved())),
        });
        Some(manifest)
    }
}

fn of_policies(problem: &Problem) -> Check {
    let place = [problem.file.as_str(), &problem.place].into_iter().filter(|text| !text.is_empty());
    let place = place.collect::<Vec<_>>().join(", ");
    wrong("policies", format!("{place}: {}", problem.message), &problem.hint)
}

fn check(what: &'static str, outcome: Outcome, says: impl Into<String>) -> Check {
    Check { what, outcome, says: says.into(), hint: String::new() }
}

fn wrong(what: &'static str, says: impl Into<String>, hint: impl Into<String>) -> Check {
    Check { hint: hint.into(), ..check(what, Outcome::Wrong, says) }
}
