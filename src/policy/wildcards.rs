//! The patterns of `like`: pieces of text with anything between them. Matching allocates nothing; Cedar's own copies the text.

use cedar_policy_core::ast::{Pattern, PatternElem};

/// A pattern, by its pieces.
#[derive(Debug)]
pub(super) struct Wildcards {
    /// What the text begins with.
    first: Box<str>,
    /// What it holds after that, in this order, and what it ends with; none if there is no wildcard.
    rest: Option<(Box<[String]>, Box<str>)>,
}

impl Wildcards {
    pub(super) fn new(pattern: &Pattern) -> Self {
        let mut pieces = vec![String::new()];
        for element in pattern.iter() {
            match (element, pieces.last_mut()) {
                (PatternElem::Char(character), Some(piece)) => piece.push(*character),
                _ => pieces.push(String::new()),
            }
        }
        let last = pieces.pop().unwrap_or_default();
        if pieces.is_empty() {
            return Self { first: last.into(), rest: None };
        }
        let first = pieces.remove(0).into();
        pieces.retain(|piece| !piece.is_empty());
        Self { first, rest: Some((pieces.into(), last.into())) }
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let Some((middle, last)) = &self.rest else { return *text == *self.first };
        let Some(mut left) = text.strip_prefix(&*self.first) else { return false };
        for piece in middle {
            // The earliest place leaves the most for what follows.
            let Some((_, after)) = left.split_once(piece.as_str()) else { return false };
            left = after;
        }
        left.ends_with(&**last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn it_matches_what_cedar_matches(pattern in "[ab\u{e9}*]{0,8}", text in "[ab\u{e9}]{0,10}") {
            let elements = pattern.chars().map(|character| match character {
                '*' => PatternElem::Wildcard,
                other => PatternElem::Char(other),
            });
            let pattern: Pattern = elements.collect();
            prop_assert_eq!(Wildcards::new(&pattern).matches(&text), pattern.wildcard_match(&text));
        }
    }
}
