//! The name that was probably meant by one that nobody knows.

/// The longest name that is compared, in characters.
const MAX_LENGTH: usize = 200;

/// The known name that is nearest to a word, if it is near enough to be a slip of the hand: at most one edit in three characters and
/// two in all. An edit adds, drops or changes a character, or swaps two beside each other; case does not count.
#[must_use]
pub fn near<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    if length > MAX_LENGTH {
        return None;
    }
    let most = (length / 3).clamp(1, 2);
    let lower = word.to_lowercase();
    let letters = |text: &str| {
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters
    };
    // Of names with as many edits the one that is made of the same characters, then the first in the alphabet.
    let mut best: Option<(usize, bool, &str)> = None;
    for name in known {
        if name == word {
            return None;
        }
        // One name cannot become the other with fewer edits than their lengths differ by.
        if name.chars().count().abs_diff(length) > most {
            continue;
        }
        let other = name.to_lowercase();
        let edits = strsim::osa_distance(&lower, &other);
        // A word of one character is no slip of another.
        if edits <= most && edits < length {
            let found = (edits, letters(&lower) != letters(&other), name);
            best = Some(best.map_or(found, |best| best.min(found)));
        }
    }
    best.map(|(.., name)| name)
}

/// ``did you mean `NAME`?``, if a known name is near.
#[must_use]
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    near(word, known).map(|name| format!("did you mean `{name}`?"))
}

/// The same of what serde says of a key or a value that it does not know: ``unknown field `x`, expected one of `y`, `z` ``.
#[must_use]
pub fn did_you_mean_of(message: &str) -> Option<String> {
    let unknown =
        ["unknown field `", "unknown variant `"].iter().find_map(|start| message.strip_prefix(start));
    let (word, expected) = unknown?.split_once("`, expected ")?;
    did_you_mean(word, expected.split('`').skip(1).step_by(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_seen_and_another_name_is_not() {
        let known = ["research", "marketing", "clinical", "US", "EU", "policy_denied", "policy_error"];
        for (word, meant) in [
            ("reserch", Some("research")),
            ("Research", Some("research")),
            ("markteing", Some("marketing")),
            ("policy_denid", Some("policy_denied")),
            ("UE", Some("EU")),
            ("eu", Some("EU")),
            ("sales", None),
            ("FR", None),
            ("gardening", None),
            ("x", None),
            ("", None),
            // What is known needs no other.
            ("US", None),
        ] {
            assert_eq!(near(word, known), meant, "{word}");
        }
        assert_eq!(near(&"x".repeat(300), ["x"]), None);
    }

    #[test]
    fn what_serde_says_is_read() {
        let said = "unknown field `alow`, expected one of `user`, `allow`, `deny`";
        assert_eq!(did_you_mean_of(said).as_deref(), Some("did you mean `allow`?"));
        let said = "unknown variant `fly`, expected `infer` or `embed`";
        assert_eq!(did_you_mean_of(said), None);
        let said = "unknown variant `inferr`, expected `infer` or `embed`";
        assert_eq!(did_you_mean_of(said).as_deref(), Some("did you mean `infer`?"));
        assert_eq!(did_you_mean_of("missing field `id`"), None);
    }
}
