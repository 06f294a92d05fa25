//! What a gateway demands of a bundle before it takes it.

use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::manifest::{Manifest, ManifestError};
use crate::model::note::VerifierKey;

/// Claims about every bundle: an attestation without them is none.
const ALWAYS: [&str; 2] = ["never-errors", "protection-never-costs"];

/// What becomes of requests when the bundle that is served has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Expired {
    /// All are denied until a newer bundle is there.
    #[default]
    Deny,
    /// They are decided by it as before.
    Serve,
}

/// What is demanded.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// The keys of which one must have signed; none: no signature is demanded.
    pub keys: Vec<VerifierKey>,
    /// Claims that must be attested besides those about every bundle; none: no attestation is demanded.
    pub attested: Option<Vec<String>>,
    /// What expiry does.
    pub expired: Expired,
}

/// The release that was served last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Last {
    /// Its serial.
    pub serial: u64,
    /// Its bundle.
    pub bundle: String,
}

/// When a bundle is looked at, and what was served before.
#[derive(Debug, Clone)]
pub struct Moment {
    /// Now.
    pub now: Timestamp,
    /// The release with the highest serial that was served.
    pub last: Option<Last>,
}

/// What a bundle's manifest said, once it was believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Its serial.
    pub serial: u64,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// Whether requests are denied after that.
    pub denies_expired: bool,
    /// Who signed it, if a signature was demanded.
    pub signer: Option<Arc<str>>,
    /// How many claims are attested.
    pub attested: usize,
    /// Break-glass: why it is served without an attestation that was demanded.
    pub override_reason: Option<Arc<str>>,
}

/// A bundle that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// There is no manifest.
    #[error("is missing, and `policy` demands it: the bundle is neither signed nor attested")]
    Missing,
    /// The manifest cannot be believed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The files are not those of the manifest.
    #[error("is of another bundle: it names {named}, the files hash to {found}")]
    OtherFiles {
        /// The hash in the manifest.
        named: String,
        /// That of the files.
        found: String,
    },
    /// A higher serial was served already.
    #[error("has serial {serial}, and {last} was served already")]
    Rollback {
        /// Its serial.
        serial: u64,
        /// The highest one.
        last: u64,
    },
    /// The serial was used for other files.
    #[error("has serial {0}, under which another bundle was served")]
    Reused(u64),
    /// It is over.
    #[error("expired on {0}")]
    Expired(Timestamp),
    /// Nothing is proved of it.
    #[error("has no attestation, and `policy.attestation` demands one")]
    Unproved,
    /// Not all that is demanded is proved.
    #[error("does not attest `{wanted}`, but {attested}")]
    Lacks {
        /// What is lacking: an id, or an id with the hash of its text.
        wanted: String,
        /// The ids that are attested.
        attested: String,
    },
    /// An override without anybody who answers for it.
    #[error("has an override, which counts only if it is signed by one of `policy.keys`")]
    Override,
}

impl ReleaseError {
    /// What to do.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Missing | Self::Manifest(ManifestError::Unsigned) => {
                "sign it: `tidegate policy bundle DIR --key KEY --serial N`, and with `--proof PROOF` if `policy.attestation` \
                 is \"required\""
            }
            Self::Manifest(_) => {
                "fetch it again; compare `policy.keys` with what `tidegate policy bundle` prints"
            }
            Self::OtherFiles { .. } => "a file was changed after the bundle was made: make it again",
            Self::Rollback { .. } | Self::Reused(_) => "make it again under a higher serial",
            Self::Expired(_) => "make it again, with a later `--expires`",
            Self::Unproved | Self::Lacks { .. } => {
                "prove it (`tidegate policy prove --output json`) and make it again with `--proof`, or, in an emergency, \
                 with `--override REASON`"
            }
            Self::Override => "configure `policy.keys`",
        }
    }
}

impl Terms {
    /// Whether a bundle without a manifest is taken.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.keys.is_empty() && self.attested.is_none()
    }

    /// Judges a manifest for files with this hash. None: there is no manifest, and none is demanded.
    ///
    /// # Errors
    /// Why the bundle is not taken.
    pub fn judge(
        &self,
        manifest: Option<&[u8]>,
        files: &str,
        moment: &Moment,
    ) -> Result<Option<Release>, ReleaseError> {
        let Some(manifest) = manifest else {
            return if self.are_none() { Ok(None) } else { Err(ReleaseError::Missing) };
        };
        let (manifest, signer) = self.signed(manifest)?;
        Self::same_files(&manifest, files)?;
        let served = Self::serial(&manifest, files, moment)?;
        Self::expiry(&manifest, served, moment)?;
        let overridden = self.attestation(&manifest, signer.as_deref())?;
        Ok(Some(Release {
            serial: manifest.serial,
            expires: manifest.expires,
            denies_expired: self.expired == Expired::Deny,
            signer,
            attested: manifest.attestation.map_or(0, |attestation| attestation.claims.len()),
            override_reason: manifest.override_reason.filter(|_| overridden).map(Arc::from),
        }))
    }

    /// The manifest, and who signed it.
    pub(in crate::policy) fn signed(
        &self,
        manifest: &[u8],
    ) -> Result<(Manifest, Option<Arc<str>>), ReleaseError> {
        Ok(Manifest::read(manifest, &self.keys)?)
    }

    /// That the files are those of the manifest.
    pub(in crate::policy) fn same_files(manifest: &Manifest, files: &str) -> Result<(), ReleaseError> {
        if manifest.bundle == files {
            return Ok(());
        }
        Err(ReleaseError::OtherFiles { named: manifest.bundle.clone(), found: files.to_owned() })
    }

    /// Whether this very release was served already. A lower serial than the last, or the same for other files, is refused.
    pub(in crate::policy) fn serial(
        manifest: &Manifest,
        files: &str,
        moment: &Moment,
    ) -> Result<bool, ReleaseError> {
        let serial = manifest.serial;
        match &moment.last {
            Some(last) if serial < last.serial => Err(ReleaseError::Rollback { serial, last: last.serial }),
            Some(last) if serial == last.serial && last.bundle != files => Err(ReleaseError::Reused(serial)),
            last => Ok(last.as_ref().is_some_and(|last| serial == last.serial)),
        }
    }

    /// That it is not over. One that is served already goes on as `expired` says.
    pub(in crate::policy) fn expiry(
        manifest: &Manifest,
        served: bool,
        moment: &Moment,
    ) -> Result<(), ReleaseError> {
        match manifest.expires.filter(|expires| *expires <= moment.now && !served) {
            Some(expires) => Err(ReleaseError::Expired(expires)),
            None => Ok(()),
        }
    }

    /// Whether what is demanded was waived by an override.
    pub(in crate::policy) fn attestation(
        &self,
        manifest: &Manifest,
        signer: Option<&str>,
    ) -> Result<bool, ReleaseError> {
        let Some(demanded) = &self.attested else { return Ok(false) };
        if manifest.override_reason.is_some() {
            return if signer.is_some() { Ok(true) } else { Err(ReleaseError::Override) };
        }
        let attested = manifest.attestation.as_ref().ok_or(ReleaseError::Unproved)?;
        let mut all = ALWAYS.into_iter().chain(demanded.iter().map(String::as_str));
        match all.find(|wanted| !attested.claims.iter().any(|claim| claim.is(wanted))) {
            Some(wanted) => {
                let ids: Vec<&str> = attested.claims.iter().map(|claim| claim.id.as_str()).collect();
                let attested = if ids.is_empty() { "nothing".to_owned() } else { ids.join(", ") };
                Err(ReleaseError::Lacks { wanted: wanted.to_owned(), attested })
            }
            None => Ok(false),
        }
    }
}

impl Release {
    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::{Attestation, Attested};
    use super::*;
    use crate::model::note::Signer;

    fn at(now: i64, last: Option<(u64, char)>) -> Moment {
        let last = last.map(|(serial, bundle)| Last { serial, bundle: bundle.to_string().repeat(64) });
        Moment { now: Timestamp::from_second(now).unwrap(), last }
    }

    fn manifest(serial: u64, expires: Option<i64>) -> Manifest {
        Manifest {
            serial,
            created: Timestamp::UNIX_EPOCH,
            expires: expires.map(|second| Timestamp::from_second(second).unwrap()),
            bundle: "a".repeat(64),
            attestation: None,
            override_reason: None,
        }
    }

    fn judged(terms: &Terms, manifest: &Manifest, moment: &Moment) -> Result<Option<Release>, ReleaseError> {
        terms.judge(Some(manifest.file(None).unwrap().as_bytes()), &"a".repeat(64), moment)
    }

    #[test]
    fn serials_go_up_and_name_one_bundle() {
        let terms = Terms::default();
        let serial =
            |serial, last| judged(&terms, &manifest(serial, None), &at(0, last)).map(|r| r.unwrap().serial);
        assert_eq!(serial(1, None), Ok(1));
        assert_eq!(serial(7, Some((7, 'a'))), Ok(7));
        assert_eq!(serial(8, Some((7, 'b'))), Ok(8));
        assert_eq!(serial(6, Some((7, 'a'))), Err(ReleaseError::Rollback { serial: 6, last: 7 }));
        assert_eq!(serial(7, Some((7, 'b'))), Err(ReleaseError::Reused(7)));
        let other = terms.judge(
            Some(manifest(1, None).file(None).unwrap().as_bytes()),
            &"b".repeat(64),
            &at(0, None),
        );
        assert!(matches!(other, Err(ReleaseError::OtherFiles { .. })));
    }

    #[test]
    fn an_expired_one_is_not_taken_and_one_that_is_served_goes_on() {
        let terms = Terms::default();
        let expired = |now, last| judged(&terms, &manifest(7, Some(100)), &at(now, last)).is_err();
        assert!(!expired(99, None) && expired(100, None) && expired(100, Some((6, 'b'))));
        assert!(!expired(100, Some((7, 'a'))));
        let release = judged(&terms, &manifest(7, Some(100)), &at(99, None)).unwrap().unwrap();
        let second = |second| Timestamp::from_second(second).unwrap();
        assert!(release.denies_expired && !release.is_over(second(99)) && release.is_over(second(100)));
    }

    #[test]
    fn what_is_demanded_must_be_attested_or_overridden_by_a_signer() {
        let pair = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let signer = Signer::new("p", pair.into());
        let terms = Terms {
            keys: vec![signer.verifier().clone()],
            attested: Some(vec!["mine".into(), "mine@00ff".into()]),
            ..Terms::default()
        };
        let moment = at(0, None);
        assert_eq!(terms.judge(None, "", &moment), Err(ReleaseError::Missing));
        let ask = |claims: &[&str], reason: Option<&str>| {
            let claims = claims.iter().map(|id| Attested {
                id: (*id).into(),
                says: String::new(),
                sha256: id.starts_with('m').then(|| "00ff".to_owned()),
            });
            let claims = claims.collect();
            let manifest = Manifest {
                attestation: Some(Attestation { solver: "s".into(), claims }),
                override_reason: reason.map(Into::into),
                ..manifest(1, None)
            };
            let file = manifest.file(Some(&signer)).unwrap();
            terms.judge(Some(file.as_bytes()), &"a".repeat(64), &moment).map(Option::unwrap)
        };
        let all = ["never-errors", "mine", "protection-never-costs"];
        assert_eq!(ask(&all, None).unwrap().attested, 3);
        for lacking in all {
            let some: Vec<_> = all.into_iter().filter(|id| *id != lacking).collect();
            let attested = some.join(", ");
            assert_eq!(ask(&some, None), Err(ReleaseError::Lacks { wanted: lacking.into(), attested }));
        }
        let overridden = ask(&[], Some("outage 7")).unwrap();
        assert_eq!(overridden.override_reason.as_deref(), Some("outage 7"));
        let unsigned = Terms { keys: Vec::new(), ..terms.clone() };
        let file = Manifest { override_reason: Some("x".into()), ..manifest(1, None) }.file(None).unwrap();
        let found = unsigned.judge(Some(file.as_bytes()), &"a".repeat(64), &moment);
        assert_eq!(found, Err(ReleaseError::Override));
        let found =
            unsigned.judge(Some(manifest(1, None).file(None).unwrap().as_bytes()), &"a".repeat(64), &moment);
        assert_eq!(found, Err(ReleaseError::Unproved));
    }
}
