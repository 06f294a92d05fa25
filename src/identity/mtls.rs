//! Workloads by client certificate: exactly one URI subject alternative name, and that a SPIFFE ID of a known trust domain.
//!
//! The chain was verified in the handshake. Here the leaf is judged again on each request, because connections outlive certificates.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::message::ClientCertificate;
use crate::model::{Placement, Problems, TeamName, TenantName};

use super::error::{IdentityError, Why};
use super::hex;
use super::settings::{MAX_LIST, MtlsSettings, WorkloadSettings};

/// The longest SPIFFE ID, in bytes (SPIFFE-ID 2.3).
const MAX_ID_BYTES: usize = 2_048;
/// The longest trust domain name, in bytes (SPIFFE-ID 2.1).
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// The parts of a SPIFFE ID: `spiffe://trust-domain/path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpiffeId<'a> {
    text: &'a str,
    trust_domain: &'a str,
    path: &'a str,
}

impl<'a> SpiffeId<'a> {
    /// Parses by the grammar of the SPIFFE-ID standard, section 2: nothing is normalised, nothing is decoded.
    /// `None` if the text is not exactly that.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_ID_BYTES {
            return None;
        }
        let rest = text.strip_prefix("spiffe://")?;
        let end = rest.find('/').unwrap_or(rest.len());
        let (trust_domain, path) = rest.split_at_checked(end)?;
        let path_is_fine = path.is_empty() || path.split('/').skip(1).all(is_segment);
        (is_trust_domain(trust_domain) && path_is_fine).then_some(Self { text, trust_domain, path })
    }

    /// The whole ID.
    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        self.text
    }

    /// The trust domain's name.
    #[must_use]
    pub const fn trust_domain(&self) -> &'a str {
        self.trust_domain
    }

    /// The path with its leading `/`; empty for the ID of the trust domain itself.
    #[must_use]
    pub const fn path(&self) -> &'a str {
        self.path
    }
}

fn is_trust_domain(name: &str) -> bool {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
    !name.is_empty() && name.len() <= MAX_TRUST_DOMAIN_BYTES && name.bytes().all(fine)
}

fn is_segment(segment: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(fine)
}

/// What is configured about one workload.
#[derive(Debug, Clone)]
struct Facts {
    teams: Vec<TeamName>,
    placement: Placement,
}

#[derive(Debug)]
struct TrustDomain {
    tenant: TenantName,
    exact: HashMap<String, Facts>,
    /// Longest first.
    prefixes: Vec<(String, Facts)>,
}

impl TrustDomain {
    fn facts(&self, id: &str) -> Option<&Facts> {
        let below =
            |prefix: &str| id.strip_prefix(prefix).is_some_and(|r| r.is_empty() || r.starts_with('/'));
        self.exact.get(id).or_else(|| self.prefixes.iter().find(|(p, _)| below(p)).map(|(_, facts)| facts))
    }
}

/// A workload whose certificate was found good.
#[derive(Debug)]
pub(super) struct Workload<'a> {
    pub(super) id: &'a Arc<str>,
    pub(super) tenant: &'a TenantName,
    pub(super) teams: &'a [TeamName],
    pub(super) expires_at: Timestamp,
    pub(super) credential: Arc<str>,
}

/// The trust domains that are known.
#[derive(Debug, Default)]
pub(super) struct TrustDomains(HashMap<String, TrustDomain>);

impl TrustDomains {
    pub(super) fn new(settings: &MtlsSettings, file: &str, problems: &mut Problems) -> Self {
        let mut domains = HashMap::new();
        if settings.trust_domains.len() > MAX_LIST {
            problems.push(file, "identity.mtls.trust_domains", "more than 1000 trust domains", "remove some");
        }
        for (index, domain) in settings.trust_domains.iter().enumerate().take(MAX_LIST) {
            let place = format!("identity.mtls.trust_domains[{index}]");
            if !is_trust_domain(&domain.name) {
                let message = format!("`{}` is not the name of a SPIFFE trust domain", domain.name);
                let hint = "use lower-case letters, digits and `. - _`, without `spiffe://`";
                problems.push(file, format!("{place}.name"), message, hint);
                continue;
            }
            if domain.workloads.len() > MAX_LIST {
                problems.push(file, format!("{place}.workloads"), "more than 1000 workloads", "use a prefix");
            }
            let mut known =
                TrustDomain { tenant: domain.tenant.clone(), exact: HashMap::new(), prefixes: Vec::new() };
            for (index, workload) in domain.workloads.iter().enumerate().take(MAX_LIST) {
                let place = format!("{place}.workloads[{index}]");
                if let Err((message, hint)) = add(&mut known, workload, &domain.name) {
                    problems.push(file, place, message, hint);
                }
            }
            known.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
            if domains.insert(domain.name.clone(), known).is_some() {
                problems.push(file, place, "this trust domain stands twice", "merge the two entries");
            }
        }
        Self(domains)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The workload of a certificate of the verified chain.
    pub(super) fn identify<'a>(
        &'a self,
        certificate: &'a ClientCertificate,
        now: Timestamp,
    ) -> Result<Workload<'a>, IdentityError> {
        check_validity(certificate, now)?;
        let [id] = certificate.uri_sans.as_slice() else {
            return Err(IdentityError::CertificateIdentity(Why("not exactly one URI name")));
        };
        let Some(spiffe) = SpiffeId::parse(id).filter(|spiffe| !spiffe.path.is_empty()) else {
            return Err(IdentityError::CertificateIdentity(Why(
                "the URI name is no SPIFFE ID of a workload",
            )));
        };
        let Some(domain) = self.0.get(spiffe.trust_domain) else {
            return Err(IdentityError::CertificateIdentity(Why("the trust domain is not configured")));
        };
        Ok(Workload {
            id,
            tenant: &domain.tenant,
            teams: domain.facts(id).map_or(&[], |facts| facts.teams.as_slice()),
            expires_at: certificate.not_after,
            credential: hex(&certificate.sha256),
        })
    }

    /// What the configuration says of the workload of that SPIFFE ID.
    pub(super) fn placement(&self, id: &str) -> Option<&Placement> {
        let domain = self.0.get(SpiffeId::parse(id)?.trust_domain)?;
        domain.facts(id).map(|facts| &facts.placement)
    }
}

/// A leaf of our own listener's client authorities must be within its validity, and no authority itself.
pub(super) fn check_validity(certificate: &ClientCertificate, now: Timestamp) -> Result<(), IdentityError> {
    if certificate.is_ca {
        return Err(IdentityError::CertificateInvalid(Why("an authority's certificate identifies nobody")));
    }
    if !certificate.standing.is_good() {
        return Err(IdentityError::CertificateInvalid(Why("the listener's authorities trust it no longer")));
    }
    if now < certificate.not_before {
        return Err(IdentityError::CertificateInvalid(Why("not valid yet")));
    }
    if now > certificate.not_after {
        return Err(IdentityError::CertificateInvalid(Why("expired")));
    }
    Ok(())
}

fn add(domain: &mut TrustDomain, workload: &WorkloadSettings, name: &str) -> Result<(), (String, String)> {
    let (text, exact) = match (&workload.id, &workload.prefix) {
        (Some(id), None) => (id, true),
        (None, Some(prefix)) => (prefix, false),
        (None, None) => return Err(("names no workload".to_owned(), "set `id` or `prefix`".to_owned())),
        (Some(_), Some(_)) => {
            return Err(("has both `id` and `prefix`".to_owned(), "remove one of the two".to_owned()));
        }
    };
    let bare = if exact { text.as_str() } else { text.strip_suffix('/').unwrap_or(text) };
    let Some(id) = SpiffeId::parse(bare) else {
        return Err((format!("`{text}` is no SPIFFE ID"), format!("write `spiffe://{name}/path`")));
    };
    if id.trust_domain != name {
        let message = format!("`{text}` is not in the trust domain `{name}`");
        return Err((message, format!("write `spiffe://{name}/path`, or move it to its own trust domain")));
    }
    let mut teams = workload.teams.clone();
    teams.sort();
    teams.dedup();
    let placement = Placement {
        cluster: workload.cluster.clone(),
        can_open: workload.can_open.clone(),
        peer: workload.peer,
    };
    let facts = Facts { teams, placement };
    let double = if exact {
        domain.exact.insert(bare.to_owned(), facts).is_some()
    } else {
        let double = domain.prefixes.iter().any(|(prefix, _)| prefix == bare);
        domain.prefixes.push((bare.to_owned(), facts));
        double
    };
    if double { Err((format!("`{text}` stands twice"), "remove one".to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spiffe_ids_of_the_grammar_are_parsed() {
        let id = SpiffeId::parse("spiffe://prod.example-1_a/ns/A-b_c.d/sa/x").unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("prod.example-1_a", "/ns/A-b_c.d/sa/x"));
        assert_eq!(SpiffeId::parse("spiffe://td").unwrap().path(), "");
        assert!(SpiffeId::parse("spiffe://td/...").is_some());
    }

    #[test]
    fn everything_else_is_refused() {
        let long = format!("spiffe://td/{}", "a".repeat(2_048));
        let long_domain = format!("spiffe://{}/a", "a".repeat(256));
        for text in [
            "",
            "spiffe:",
            "spiffe://",
            "spiffe:///a",
            "SPIFFE://td/a",
            "https://td/a",
            "spiffe://TD/a",
            "spiffe://td/",
            "spiffe://td//a",
            "spiffe://td/a/",
            "spiffe://td/./a",
            "spiffe://td/a/..",
            "spiffe://td/a%2fb",
            "spiffe://td/a?x",
            "spiffe://td/a#x",
            "spiffe://td:443/a",
            "spiffe://u@td/a",
            "spiffe://td/ä",
            " spiffe://td/a",
            "spiffe://td/a ",
            "spiffe://td/a\0",
            "spiffe:/td/a",
            long.as_str(),
            long_domain.as_str(),
        ] {
            assert!(SpiffeId::parse(text).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_id_is_exactly_its_parts(text in "(spiffe://)?[a-z0-9./_%A-Z:@?#-]{0,24}") {
            if let Some(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), id.as_str());
                prop_assert!(!id.trust_domain().contains('/') && !id.path().contains("//") && !text.contains('%'));
                prop_assert!(!id.path().split('/').any(|s| s == "." || s == ".."));
            }
        }
    }

    #[test]
    fn the_closest_entry_wins_by_whole_segments() {
        let workload = |id: Option<&str>, prefix: Option<&str>, cluster: &str| WorkloadSettings {
            id: id.map(str::to_owned),
            prefix: prefix.map(str::to_owned),
            teams: Vec::new(),
            cluster: Some(cluster.parse().unwrap()),
            can_open: None,
            peer: false,
        };
        let settings = MtlsSettings {
            trust_domains: vec![super::super::settings::TrustDomainSettings {
                name: "td".to_owned(),
                tenant: "t".parse().unwrap(),
                workloads: vec![
                    workload(None, Some("spiffe://td/ns/"), "ns"),
                    workload(None, Some("spiffe://td/ns/a"), "a"),
                    workload(Some("spiffe://td/ns/a/one"), None, "one"),
                ],
            }],
        };
        let mut problems = Problems::new();
        let domains = TrustDomains::new(&settings, "t.toml", &mut problems);
        assert!(problems.is_empty(), "{problems}");
        let cluster = |id| domains.placement(id)?.cluster.as_ref().map(crate::model::ClusterName::as_str);
        assert_eq!(cluster("spiffe://td/ns/a/one"), Some("one"));
        assert_eq!(cluster("spiffe://td/ns/a/two"), Some("a"));
        assert_eq!(cluster("spiffe://td/ns/ab"), Some("ns"));
        assert_eq!(cluster("spiffe://td/nsx"), None);
        assert_eq!(cluster("spiffe://other/ns/a"), None);
    }
}
