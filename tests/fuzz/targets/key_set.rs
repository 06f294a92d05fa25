//! Any bytes for an issuer's key set (RFC 7517): what is not in it verifies nothing.

use super::token::{AUDIENCE, ISSUER, NOW, identity, pair, public, shown, signed};

pub(crate) fn read(input: &[u8]) {
    let identity = identity(input.to_vec());
    let claims = format!(r#"{{"iss":"{ISSUER}","aud":"{AUDIENCE}","sub":"ada","exp":{}}}"#, NOW + 600);
    for seed in [1, 2] {
        let pair = pair(seed);
        for header in [r#"{"alg":"EdDSA","kid":"k"}"#, r#"{"alg":"EdDSA"}"#] {
            let accepted =
                shown(&identity, signed(&pair, header.as_bytes(), claims.as_bytes()).as_bytes()).is_some();
            let text = String::from_utf8_lossy(input);
            // Its letters may be written as escapes.
            let there = text.contains(&public(&pair)) || text.contains('\\');
            assert!(!accepted || there, "a key that is not in the set verified");
        }
    }
}
