//! One `usage` object as clusters report it, read strictly: a report that is odd anywhere is ignored, never half believed.

use serde::Deserialize;
use serde_json::Value;

use crate::model::Usage;

/// The most tokens that one member may claim, 2^40. No call comes near it, and sums of millions of calls cannot overflow.
pub(super) const MAX_TOKENS: u64 = 1 << 40;

/// The members that are read, in the words of Chat Completions, Embeddings and Responses. A repeated member is an error.
#[derive(Deserialize)]
struct Report {
    prompt_tokens: Option<Value>,
    completion_tokens: Option<Value>,
    prompt_tokens_details: Option<Value>,
    completion_tokens_details: Option<Value>,
    input_tokens: Option<Value>,
    output_tokens: Option<Value>,
    input_tokens_details: Option<Value>,
    output_tokens_details: Option<Value>,
}

/// What one report gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parsed {
    /// The usage, if the two counts that matter are sound.
    pub(super) usage: Option<Usage>,
    /// Whether something in it was no token count: negative, a fraction, over [`MAX_TOKENS`], a wrong type, a repeated member.
    pub(super) odd: bool,
}

impl Parsed {
    pub(super) const ODD: Self = Self { usage: None, odd: true };
}

/// Reads the text of one `usage` object. The answer's count may be absent (embeddings), the prompt's may not.
pub(super) fn parse(object: &[u8]) -> Parsed {
    let Ok(report) = serde_json::from_slice::<Report>(object) else {
        return Parsed::ODD;
    };
    let (Ok(input), Ok(output)) = (
        either(report.prompt_tokens.as_ref(), report.input_tokens.as_ref()),
        either(report.completion_tokens.as_ref(), report.output_tokens.as_ref()),
    ) else {
        return Parsed::ODD;
    };
    let Some(input_tokens) = input else {
        return Parsed::ODD;
    };
    let cached = detail(&report.prompt_tokens_details, &report.input_tokens_details, "cached_tokens");
    let reasoning =
        detail(&report.completion_tokens_details, &report.output_tokens_details, "reasoning_tokens");
    Parsed {
        odd: cached.is_err() || reasoning.is_err(),
        usage: Some(Usage {
            input_tokens,
            output_tokens: output.unwrap_or(0),
            cached_input_tokens: cached.unwrap_or(None),
            reasoning_tokens: reasoning.unwrap_or(None),
        }),
    }
}

/// A value that is no token count.
struct Odd;

fn detail(chat: &Option<Value>, responses: &Option<Value>, member: &str) -> Result<Option<u64>, Odd> {
    let of = |details: &Option<Value>| details.as_ref().and_then(|object| object.get(member)).cloned();
    either(of(chat).as_ref(), of(responses).as_ref())
}

/// The first of two names for the same count that is present; `null` is absent.
fn either(one: Option<&Value>, other: Option<&Value>) -> Result<Option<u64>, Odd> {
    [one, other].into_iter().flatten().find(|value| !value.is_null()).map(count).transpose()
}

fn count(value: &Value) -> Result<u64, Odd> {
    value.as_u64().filter(|tokens| *tokens <= MAX_TOKENS).ok_or(Odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(input_tokens: u64, output_tokens: u64) -> Usage {
        Usage { input_tokens, output_tokens, ..Usage::default() }
    }

    #[test]
    fn reads_the_three_dialects() {
        let chat = br#"{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13,
            "prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":2}}"#;
        let all = Usage { cached_input_tokens: Some(3), reasoning_tokens: Some(2), ..usage(9, 4) };
        assert_eq!(parse(chat), Parsed { usage: Some(all), odd: false });
        let responses = br#"{"input_tokens":9,"input_tokens_details":{"cached_tokens":3},"output_tokens":4,
            "output_tokens_details":{"reasoning_tokens":2},"total_tokens":13}"#;
        assert_eq!(parse(responses), Parsed { usage: Some(all), odd: false });
        let embeddings = br#"{"prompt_tokens":8,"total_tokens":8,"prompt_tokens_details":null}"#;
        assert_eq!(parse(embeddings), Parsed { usage: Some(usage(8, 0)), odd: false });
    }

    #[test]
    fn odd_counts_are_ignored_and_said() {
        for count in
            ["-1", "1.5", "1e3", "1e400", "\"7\"", "[]", "true", "1099511627777", "18446744073709551616"]
        {
            let text = format!(r#"{{"prompt_tokens":{count},"completion_tokens":1}}"#);
            assert_eq!(parse(text.as_bytes()), Parsed::ODD, "{count}");
            let text = format!(
                r#"{{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":{{"cached_tokens":{count}}}}}"#
            );
            let parsed = parse(text.as_bytes());
            assert!(parsed.odd, "{count}");
            // A number that JSON itself cannot hold spoils the whole report.
            assert!(parsed.usage == Some(usage(1, 1)) || count == "1e400", "{count}");
        }
        assert_eq!(parse(br#"{"prompt_tokens":1,"prompt_tokens":2,"completion_tokens":3}"#), Parsed::ODD);
        assert_eq!(parse(b"{}"), Parsed::ODD);
        assert_eq!(parse(br#"{"prompt_tokens":null,"completion_tokens":3}"#), Parsed::ODD);
        assert_eq!(
            parse(br#"{"prompt_tokens":1099511627776}"#).usage,
            Some(usage(MAX_TOKENS, 0)),
            "the bound itself is allowed"
        );
    }
}
