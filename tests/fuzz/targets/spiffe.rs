//! Any text for a SPIFFE ID (SPIFFE-ID standard, section 2): what is taken is put together again from its parts, and holds nothing that another
//! reader could decode or normalise.

use tidegate::identity::SpiffeId;

pub(crate) fn read(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Some(id) = SpiffeId::parse(text) else { return };
    assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
    assert_eq!(id.as_str(), text);
    assert!(text.len() <= 2048 && !id.trust_domain().is_empty() && id.trust_domain().len() <= 255);
    assert!(!id.path().ends_with('/'), "{text:?}");
    let odd = |c: char| !c.is_ascii_alphanumeric() && !"-._/:".contains(c);
    assert!(!text.contains(odd) && !id.path().contains("//"), "{text:?}");
    assert!(!id.path().split('/').any(|segment| segment == "." || segment == ".."), "{text:?}");
}
