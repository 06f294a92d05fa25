//! What a sealed message says of itself, in clear but authenticated, and the comparison with what really came.
//!
//! A message that opens proves only that somebody with the key made it. The comparison proves that it was made for *this* request:
//! another path, method, direction or time, or another request's answer, is refused. The set of keys is closed: a message that says
//! more than its reader understands is refused as well.

use http::{Method, StatusCode};
use jiff::Timestamp;

use super::keys::{Direction, Scope};
use super::seal::{ContextError, EncryptionContext, MessageId};
use crate::model::{Level, RecordId};

/// How far ahead a message may expire when it is opened, in seconds; a message of ours lives half as long, so that clocks may differ
/// by as much either way.
pub const MAX_AHEAD_SECONDS: i64 = 300;
/// How long a message of ours can be opened, in seconds.
pub(super) const LIFETIME_SECONDS: i64 = MAX_AHEAD_SECONDS / 2;

const TENANT: &str = "tenant";
const RECIPIENT: &str = "recipient";
const DIRECTION: &str = "direction";
const METHOD: &str = "method";
const PATH: &str = "path";
const LEVEL: &str = "level";
const DECISION: &str = "decision";
const EXPIRES: &str = "expires";
const CONTENT_TYPE: &str = "content-type";
const REQUEST: &str = "request";
const STATUS: &str = "status";

/// What a request's context must say.
const OF_REQUEST: &[&str] = &[TENANT, RECIPIENT, DIRECTION, METHOD, PATH, LEVEL, DECISION, EXPIRES];
/// What an answer's context must say besides.
const OF_ANSWER: &[&str] = &[REQUEST, STATUS];

/// The facts of one crossing that its messages are bound to.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The method.
    pub method: &'a Method,
    /// Path and query as they are sent.
    pub path: &'a str,
    /// The effective level.
    pub level: Level,
    /// The record of the decision.
    pub decision: RecordId,
    /// The media type of the plaintext, if it has one.
    pub content_type: Option<&'a str>,
}

/// What an answer says besides.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerFacts {
    pub(super) request: MessageId,
    pub(super) status: StatusCode,
}

/// How a context differs from what came. Names keys, never values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// A fact is missing, unreadable or another one than that of the message that carried it.
    #[error("the sealed message was made for another exchange: `{0}` differs")]
    Differs(&'static str),
    /// The context holds a key that this version does not know.
    #[error("the sealed message says something that is not understood")]
    Unknown,
    /// It may not be opened any more, or not for so long.
    #[error("the sealed message has expired, or expires more than {MAX_AHEAD_SECONDS} s ahead")]
    Expired,
}

/// The context of a message; `answer` for the answer's.
pub(super) fn build(
    scope: &Scope,
    facts: &Facts<'_>,
    answer: Option<AnswerFacts>,
    now: Timestamp,
) -> Result<EncryptionContext, ContextError> {
    let mut context = EncryptionContext::new();
    context.insert(TENANT, scope.tenant.as_str())?;
    context.insert(RECIPIENT, scope.recipient.as_str())?;
    context.insert(DIRECTION, scope.direction.name())?;
    context.insert(METHOD, facts.method.as_str())?;
    context.insert(PATH, facts.path)?;
    context.insert(LEVEL, facts.level.name())?;
    context.insert(DECISION, facts.decision.to_string())?;
    context.insert(EXPIRES, now.as_second().saturating_add(LIFETIME_SECONDS).to_string())?;
    if let Some(media) = facts.content_type {
        context.insert(CONTENT_TYPE, media)?;
    }
    if let Some(AnswerFacts { request, status }) = answer {
        context.insert(REQUEST, request.to_string())?;
        context.insert(STATUS, status.as_str())?;
    }
    Ok(context)
}

/// The scope that a context claims; it becomes true when a key of exactly that scope opens the message.
pub(super) fn claimed_scope(context: &EncryptionContext, direction: Direction) -> Result<Scope, Mismatch> {
    let tenant = read(context, TENANT)?;
    let recipient = read(context, RECIPIENT)?;
    equal(context, DIRECTION, direction.name())?;
    Ok(Scope { tenant, recipient, direction })
}

/// What a request's context says that cannot be known otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) level: Level,
    pub(super) decision: RecordId,
    /// Unix seconds.
    pub(super) expires: i64,
    pub(super) content_type: Option<String>,
}

/// Compares the context of a verified message with the exchange that it came in.
pub(super) fn compare(
    context: &EncryptionContext,
    scope: &Scope,
    (method, path): (&Method, &str),
    now: Timestamp,
) -> Result<Said, Mismatch> {
    let answer = scope.direction == Direction::Answer;
    let known =
        |key: &str| OF_REQUEST.contains(&key) || key == CONTENT_TYPE || (answer && OF_ANSWER.contains(&key));
    if context.iter().any(|(key, _)| !known(key)) {
        return Err(Mismatch::Unknown);
    }
    equal(context, TENANT, scope.tenant.as_str())?;
    equal(context, RECIPIENT, scope.recipient.as_str())?;
    equal(context, DIRECTION, scope.direction.name())?;
    equal(context, METHOD, method.as_str())?;
    equal(context, PATH, path)?;
    let expires: i64 = read(context, EXPIRES)?;
    let ahead = expires.saturating_sub(now.as_second());
    if ahead <= 0 || ahead > MAX_AHEAD_SECONDS {
        return Err(Mismatch::Expired);
    }
    let content_type = context.get(CONTENT_TYPE).map(str::to_owned);
    Ok(Said { level: read(context, LEVEL)?, decision: read(context, DECISION)?, expires, content_type })
}

/// The status of an answer to the request with this message id.
pub(super) fn answered(context: &EncryptionContext, request: MessageId) -> Result<StatusCode, Mismatch> {
    equal(context, REQUEST, &request.to_string())?;
    let status: StatusCode = read(context, STATUS)?;
    // An interim status never ends an exchange.
    if status.is_informational() { Err(Mismatch::Differs(STATUS)) } else { Ok(status) }
}

/// Checks the status on the outside: it is the true one, where that allows a body.
pub(super) fn check_outer(outer: StatusCode, status: StatusCode) -> Result<(), Mismatch> {
    if outer == shown_status(status) { Ok(()) } else { Err(Mismatch::Differs(STATUS)) }
}

/// The status under which a sealed answer travels: a status that forbids a body (RFC 9110 15) could not carry it.
pub(super) fn shown_status(status: StatusCode) -> StatusCode {
    match status {
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED => StatusCode::OK,
        other => other,
    }
}

fn read<T: std::str::FromStr>(context: &EncryptionContext, key: &'static str) -> Result<T, Mismatch> {
    context.get(key).and_then(|text| text.parse().ok()).ok_or(Mismatch::Differs(key))
}

fn equal(context: &EncryptionContext, key: &'static str, expected: &str) -> Result<(), Mismatch> {
    if context.get(key) == Some(expected) { Ok(()) } else { Err(Mismatch::Differs(key)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(direction: Direction) -> Scope {
        Scope { tenant: "acme".parse().unwrap(), recipient: "haven".parse().unwrap(), direction }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn later(seconds: i64) -> Timestamp {
        Timestamp::from_second(now().as_second() + seconds).unwrap()
    }

    fn facts() -> Facts<'static> {
        Facts {
            method: &Method::POST,
            path: "/v1/chat/completions",
            level: Level::Restricted,
            decision: RecordId::new(),
            content_type: Some("application/json"),
        }
    }

    /// The same context with one pair changed, or removed.
    fn with(context: &EncryptionContext, key: &str, value: Option<&str>) -> EncryptionContext {
        let mut changed = EncryptionContext::new();
        for (other, text) in context.iter().filter(|(other, _)| *other != key) {
            changed.insert(other.to_owned(), text).unwrap();
        }
        if let Some(value) = value {
            changed.insert(key.to_owned(), value).unwrap();
        }
        changed
    }

    #[test]
    fn a_request_is_what_it_was_made_for() {
        let (scope, facts) = (scope(Direction::Request), facts());
        let context = build(&scope, &facts, None, now()).unwrap();
        let exchange = (&Method::POST, "/v1/chat/completions");
        let said = compare(&context, &scope, exchange, now()).unwrap();
        assert_eq!((said.level, said.decision), (Level::Restricted, facts.decision));
        assert_eq!(said.content_type.as_deref(), Some("application/json"));
        assert_eq!(said.expires, now().as_second() + LIFETIME_SECONDS);
        for (key, value) in [
            (TENANT, "other"),
            (RECIPIENT, "other"),
            (DIRECTION, "answer"),
            (METHOD, "PUT"),
            (PATH, "/v1/chat/completions?a"),
            (LEVEL, "secret"),
            (DECISION, "x"),
            (EXPIRES, "soon"),
        ] {
            for value in [Some(value), Some(""), None] {
                let changed = with(&context, key, value);
                assert_eq!(
                    compare(&changed, &scope, exchange, now()),
                    Err(Mismatch::Differs(key)),
                    "{key} {value:?}"
                );
            }
        }
        for key in ["tidegate", REQUEST, STATUS, "Tenant"] {
            let changed = with(&context, key, Some("1"));
            assert_eq!(compare(&changed, &scope, exchange, now()), Err(Mismatch::Unknown), "{key}");
        }
        for exchange in [(&Method::PUT, "/v1/chat/completions"), (&Method::POST, "/v1/chat/Completions")] {
            assert!(compare(&context, &scope, exchange, now()).is_err());
        }
    }

    #[test]
    fn it_is_so_for_a_while() {
        let scope = scope(Direction::Request);
        let context = build(&scope, &facts(), None, now()).unwrap();
        for (seconds, opens) in [
            (-LIFETIME_SECONDS - 1, false),
            (-LIFETIME_SECONDS, true),
            (0, true),
            (LIFETIME_SECONDS - 1, true),
            (LIFETIME_SECONDS, false),
            (1 << 40, false),
        ] {
            let at = if seconds > 1 << 30 { Timestamp::MAX } else { later(seconds) };
            let found = compare(&context, &scope, (&Method::POST, "/v1/chat/completions"), at);
            assert_eq!(found.is_ok(), opens, "{seconds}: {found:?}");
        }
    }

    #[test]
    fn an_answer_is_to_its_request() {
        let (scope, request) = (scope(Direction::Answer), MessageId::random().unwrap());
        let said = AnswerFacts { request, status: StatusCode::NO_CONTENT };
        let context = build(&scope, &facts(), Some(said), now()).unwrap();
        compare(&context, &scope, (&Method::POST, "/v1/chat/completions"), now()).unwrap();
        assert_eq!(answered(&context, request), Ok(StatusCode::NO_CONTENT));
        assert_eq!(answered(&context, MessageId::random().unwrap()), Err(Mismatch::Differs(REQUEST)));
        for status in ["100", "099", "", "2000"] {
            let changed = with(&context, STATUS, Some(status));
            assert_eq!(answered(&changed, request), Err(Mismatch::Differs(STATUS)), "{status}");
        }
        for (outer, status, same) in
            [(200, 204, true), (204, 204, false), (500, 500, true), (200, 500, false)]
        {
            let code = |number| StatusCode::from_u16(number).unwrap();
            assert_eq!(check_outer(code(outer), code(status)).is_ok(), same, "{outer} {status}");
        }
    }
}
