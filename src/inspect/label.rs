//! The effective label of a request: route floor, dataset, caller. A caller can raise, never lower.

use http::HeaderValue;

use super::InspectError;
use crate::message::CallerHeaders;
use crate::model::{Floor, Jurisdiction, Jurisdictions, Label, Level, Origin, Residency};

/// The most jurisdictions of `tidegate-residency`.
const MAX_JURISDICTIONS: usize = 16;

/// The longest `tidegate-purpose`, in bytes.
const MAX_PURPOSE_BYTES: usize = 128;

/// Combines the claims. What route and dataset say together is fixed first: if they say nothing the label is restricted and
/// nowhere, and even then the caller's headers can only add to it.
///
/// # Errors
/// A header of the caller cannot be read, or names an unknown jurisdiction.
pub fn effective_label(
    floor: &Floor,
    dataset: Option<&Floor>,
    caller: &CallerHeaders,
    jurisdictions: &Jurisdictions,
) -> Result<Label, InspectError> {
    let level = caller.label.as_ref().map(read_level).transpose()?;
    let residency =
        caller.residency.as_ref().map(|value| read_residency(value, jurisdictions)).transpose()?;
    let route = (Origin::Route, floor.level, floor.residency.as_ref());
    let data = dataset.map(|label| (Origin::Dataset, label.level, label.residency.as_ref()));
    let base = Label::strictest(std::iter::once(route).chain(data), jurisdictions);
    if level.is_none() && residency.is_none() {
        return Ok(base);
    }
    let claims =
        [(base.origin, Some(base.level), Some(&base.residency)), (Origin::Caller, level, residency.as_ref())];
    Ok(Label::strictest(claims, jurisdictions))
}

/// The caller's purpose.
///
/// # Errors
/// The header is empty, too long or not printable ASCII.
pub(super) fn purpose(caller: &CallerHeaders) -> Result<Option<String>, InspectError> {
    let Some(value) = &caller.purpose else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| (1..=MAX_PURPOSE_BYTES).contains(&text.len()));
    let text = text.filter(|text| text.bytes().all(|b| matches!(b, 0x20..=0x7e)));
    text.map(|text| Some(text.to_owned())).ok_or(InspectError::PurposeInvalid)
}

fn read_level(value: &HeaderValue) -> Result<Level, InspectError> {
    let text = value.to_str().ok();
    text.and_then(|text| text.parse().ok()).ok_or(InspectError::LabelInvalid("tidegate-label"))
}

/// `EU, CH`: a list of names, at least one.
fn read_residency(value: &HeaderValue, jurisdictions: &Jurisdictions) -> Result<Residency, InspectError> {
    let invalid = || InspectError::LabelInvalid("tidegate-residency");
    let text = value.to_str().map_err(|_| invalid())?;
    let mut names = Vec::new();
    for name in text.split(',') {
        let name: Jurisdiction = name.trim_matches([' ', '\t']).parse().map_err(|_| invalid())?;
        if names.len() == MAX_JURISDICTIONS {
            return Err(invalid());
        }
        if !jurisdictions.contains(&name) {
            return Err(InspectError::JurisdictionUnknown);
        }
        names.push(name);
    }
    Ok(names.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 4] = ["EU", "DE", "FR", "US"];

    fn jurisdictions() -> Jurisdictions {
        let name = |text: &str| text.parse::<Jurisdiction>().unwrap();
        let above = |text: &str| {
            if text == "DE" || text == "FR" { BTreeSet::from([name("EU")]) } else { BTreeSet::new() }
        };
        Jurisdictions::new(NAMES.iter().map(|n| (name(n), above(n))).collect::<BTreeMap<_, _>>())
    }

    fn residency(names: &[&str]) -> Residency {
        names.iter().map(|n| n.parse::<Jurisdiction>().unwrap()).collect()
    }

    fn caller(label: Option<&str>, residency: Option<&str>) -> CallerHeaders {
        let value = |text: &str| text.parse::<HeaderValue>().unwrap();
        CallerHeaders { label: label.map(value), residency: residency.map(value), ..CallerHeaders::default() }
    }

    /// Whether data with this residency may be in a cluster of this place.
    fn allows(label: &Label, place: &str) -> bool {
        let here = residency(&[place]);
        jurisdictions().intersect(&label.residency, &here) == here
    }

    fn floors() -> impl Strategy<Value = Floor> {
        let level = prop::option::of(prop::sample::select(vec![
            Level::Public,
            Level::Internal,
            Level::Confidential,
            Level::Restricted,
        ]));
        let residency =
            prop::option::of(prop::sample::subsequence(NAMES.to_vec(), 0..=4).prop_map(|n| residency(&n)));
        (level, residency).prop_map(|(level, residency)| Floor { level, residency })
    }

    proptest! {
        #[test]
        fn a_caller_can_raise_never_lower(
            floor in floors(),
            dataset in prop::option::of(floors()),
            label in prop::option::of(prop::sample::select(vec!["public", "internal", "confidential", "restricted"])),
            places in prop::option::of(prop::sample::subsequence(NAMES.to_vec(), 1..=4)),
        ) {
            let known = jurisdictions();
            let without = effective_label(&floor, dataset.as_ref(), &CallerHeaders::default(), &known).unwrap();
            let places = places.map(|p| p.join(", "));
            let with = effective_label(&floor, dataset.as_ref(), &caller(label, places.as_deref()), &known).unwrap();
            prop_assert!(with.level >= without.level);
            prop_assert!(label.is_none_or(|l| with.level >= l.parse().unwrap()));
            prop_assert_eq!(with.origin == Origin::Caller, with.level > without.level);
            for place in ["DE", "FR", "US"] {
                prop_assert!(!allows(&with, place) || allows(&without, place));
            }
        }
    }

    #[test]
    fn silence_is_restricted_and_nowhere_whatever_the_caller_says() {
        let known = jurisdictions();
        for caller in [CallerHeaders::default(), caller(Some("public"), Some("EU"))] {
            let label = effective_label(&Floor::default(), None, &caller, &known).unwrap();
            assert_eq!((label.level, label.origin), (Level::Restricted, Origin::Default));
            assert!(label.residency.is_nowhere());
        }
    }

    #[test]
    fn unreadable_claims_are_refused() {
        let known = jurisdictions();
        let code = |label, residency| {
            effective_label(&Floor::default(), None, &caller(label, residency), &known).unwrap_err().code()
        };
        for label in ["", "Public", "0", "public, internal", "secret"] {
            assert_eq!(code(Some(label), None), "label_invalid", "{label}");
        }
        for places in ["", "EU,", "EU,,DE", "EU;DE", "*"] {
            assert_eq!(code(None, Some(places)), "label_invalid", "{places}");
        }
        assert_eq!(code(None, Some("EU, ATLANTIS")), "jurisdiction_unknown");
        assert_eq!(code(None, Some(&["EU"; 17].join(","))), "label_invalid");
    }

    #[test]
    fn purposes_are_short_printable_text() {
        let read = |text: &[u8]| {
            purpose(&CallerHeaders {
                purpose: Some(HeaderValue::from_bytes(text).unwrap()),
                ..CallerHeaders::default()
            })
        };
        assert_eq!(read(b"fraud review").unwrap().as_deref(), Some("fraud review"));
        assert!(read(b"").is_err() && read(&[b'a'; 129]).is_err() && read(b"\xc3\xa4").is_err());
    }
}
