//! Sealing and opening between a border and its peer: which key, which context, in which order.
//!
//! ```text
//! border   plan ──► record ──► prepare ──► …  wire  … ──► open_request ──► inspect, decide, forward   peer
//!          open_answer ◄──────────────────  wire  ◄────── seal_answer ◄── whatever is answered
//! ```

use std::fmt;
use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};

use super::context::{self, AnswerFacts, Facts, Said};
use super::error::{AnswerRefused, OpeningError, SealingError};
use super::keys::{Direction, Keys, Scope};
use super::lengths::Lengths;
use super::opening::{Opening, Unopened};
use super::replay::{MAX_REMEMBERED, Replay};
use super::seal::{EncryptionContext, FrameLength, MessageId, NewMessage, Opener, UnverifiedHeader};
use super::sealing::Sealing;
use super::wire::WireDigest;
use crate::message::{self, Body, headers};
use crate::model::{Clock, Level, Protection, RecipientName, RecordId, TenantName, UpstreamRef};
use crate::policy::Permit;

/// The media type of a sealed body; that of the plaintext is in the context.
pub const SEALED: &str = "application/vnd.tidegate.sealed";
/// Whose plaintext is sealed event by event.
const EVENT_STREAM: &str = "text/event-stream";

/// Seals and opens for one gateway.
#[derive(Debug, Clone)]
pub struct Protector {
    keys: Option<Keys>,
    replay: Arc<Replay>,
    lengths: Arc<Lengths>,
    clock: Arc<dyn Clock>,
}

/// The public facts of a message, for records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealFacts {
    /// Who can open it.
    pub recipient: RecipientName,
    /// The branch key and its version.
    pub key: String,
    /// Which message.
    pub message_id: MessageId,
    /// Which way it goes.
    pub direction: Direction,
}

/// A message that is ready to be sealed: key, id and context are fixed, nothing was sent.
pub struct Seal {
    facts: SealFacts,
    message: NewMessage,
    wire: WireDigest,
}

/// What is about to be done for a permit that demands sealing.
#[derive(Debug)]
pub enum Plan {
    /// The request is sealed to the peer, and so must be its answer.
    Request(Box<Seal>, Expected),
    /// The request goes to a private store as it is; the answer is sealed for whoever reads.
    Answer(RecipientName),
    /// The object that the request writes is sealed with its dataset's key.
    Rest(Box<Seal>),
}

/// What the answer to a sealed request must be.
#[derive(Debug, Clone)]
pub struct Expected {
    scope: Scope,
    method: Method,
    path: String,
    request: MessageId,
}

/// An opened request: what its answer is sealed with, and what records say.
#[derive(Debug)]
pub struct Opened {
    /// The public facts of the message.
    pub facts: SealFacts,
    /// Whose data it is.
    pub tenant: TenantName,
    /// The level at the border.
    pub level: Level,
    /// The border's record.
    pub decision: RecordId,
    /// Where the digest of the sealed request will be.
    pub wire: WireDigest,
    method: Method,
    path: String,
}

/// The plaintext of an opened request.
#[derive(Debug)]
pub struct Plaintext {
    /// The body, opened as it is read.
    pub body: Body,
    /// Its length in bytes, if it is known.
    pub bytes: Option<u64>,
    /// Its media type, if the border's caller said one.
    pub content_type: Option<HeaderValue>,
}

/// An answer that goes back sealed.
#[derive(Debug)]
pub struct SealedAnswer {
    /// The outside of it.
    pub response: Response<Body>,
    /// The public facts of the message.
    pub facts: SealFacts,
    /// Where the digest of the sealed answer will be.
    pub wire: WireDigest,
}

/// An answer that is what the border waited for.
#[derive(Debug)]
pub struct OpenedAnswer {
    /// Status, headers and body as the far side meant them.
    pub response: Response<Body>,
    /// The public facts of the message.
    pub facts: SealFacts,
    /// The far side's record.
    pub decision: RecordId,
    /// Where the digest of the sealed answer will be.
    pub wire: WireDigest,
}

impl Protector {
    /// A protector with these keys; without any it seals and opens nothing.
    #[must_use]
    pub fn new(keys: Option<Keys>, clock: Arc<dyn Clock>) -> Self {
        Self::with_memory(keys, clock, MAX_REMEMBERED)
    }

    /// The same that remembers at most `most` messages.
    #[must_use]
    pub fn with_memory(keys: Option<Keys>, clock: Arc<dyn Clock>, most: usize) -> Self {
        Self { keys, replay: Arc::new(Replay::new(most)), lengths: Arc::default(), clock }
    }

    pub(super) fn lengths(&self) -> &Lengths {
        &self.lengths
    }

    pub(super) fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// The keys, if there are any.
    #[must_use]
    pub const fn keys(&self) -> Option<&Keys> {
        self.keys.as_ref()
    }

    /// Prepares a message under a key of `scope`: nothing is sent, nothing is sealed yet. `context` is stored in it, in clear.
    ///
    /// # Errors
    /// There is no key to be had.
    pub async fn seal(&self, scope: &Scope, context: EncryptionContext) -> Result<Seal, SealingError> {
        let keys = self.keys.as_ref().ok_or(SealingError::NoKeys)?;
        let wrapped = keys.wrap(scope, &context).await?;
        let message_id = MessageId::random()?;
        let frame_length = match scope.direction {
            Direction::Rest => FrameLength::REST,
            Direction::Request | Direction::Answer => FrameLength::BODY,
        };
        let facts = SealFacts {
            recipient: scope.recipient.clone(),
            key: wrapped.keys.first().map(ToString::to_string).unwrap_or_default(),
            message_id,
            direction: scope.direction,
        };
        let message = NewMessage {
            message_id,
            data_key: wrapped.data_key,
            edks: wrapped.edks,
            context,
            required: EncryptionContext::new(),
            frame_length,
        };
        Ok(Seal { facts, message, wire: WireDigest::default() })
    }

    /// What will be done for a permit; none if it demands nothing. Awaited before the decision is recorded, so that the record can
    /// name key and message.
    ///
    /// # Errors
    /// Policy demands sealing, and the request or this gateway cannot do it.
    pub async fn plan(
        &self,
        permit: &Permit,
        tenant: &TenantName,
        facts: Facts<'_>,
    ) -> Result<Option<Plan>, SealingError> {
        if permit.protection() != Protection::Sealed {
            return Ok(None);
        }
        let candidate = permit.candidate();
        let recipient = candidate.can_open.clone().ok_or(SealingError::NoKeys)?;
        if matches!(candidate.upstream, UpstreamRef::Store(_)) {
            return Ok(Some(Plan::Answer(recipient)));
        }
        if facts.path.contains('?') {
            return Err(SealingError::Query);
        }
        if !matches!(*facts.method, Method::POST | Method::PUT | Method::PATCH) {
            return Err(SealingError::Method);
        }
        let scope = Scope { tenant: tenant.clone(), recipient, direction: Direction::Request };
        let context = context::build(&scope, &facts, None, self.clock.now())?;
        let seal = Box::pin(self.seal(&scope, context)).await?;
        let expected = Expected {
            scope: Scope { direction: Direction::Answer, ..scope },
            method: facts.method.clone(),
            path: facts.path.to_owned(),
            request: seal.facts.message_id,
        };
        Ok(Some(Plan::Request(Box::new(seal), expected)))
    }

    /// Opens a request that came as `method` to `path` (and query, as sent): header, key, commitment, tag, context, and that it comes
    /// for the first time, in this order. Its body is opened as it is read.
    ///
    /// # Errors
    /// It does not open, or was made for another exchange.
    pub async fn open_request(
        &self,
        (method, path): (&Method, &str),
        body: Body,
    ) -> Result<(Opened, Plaintext), OpeningError> {
        let wire = WireDigest::default();
        let (header, unopened) = Unopened::read(body, wire.clone()).await?;
        let stored = header.unverified().context().clone();
        let scope = context::claimed_scope(&stored, Direction::Request)?;
        let (opener, key) = self.unlock(header, &scope).await?;
        let said = context::compare(&stored, &scope, (method, path), self.clock.now())?;
        let message_id = key.message_id;
        self.replay.remember(message_id, said.expires, self.clock.now().as_second())?;
        let content_type = said.content_type.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
        let opening = unopened.open(opener, false)?;
        let bytes = http_body::Body::size_hint(&opening).exact();
        let opened = Opened {
            facts: key,
            tenant: scope.tenant,
            level: said.level,
            decision: said.decision,
            wire,
            method: method.clone(),
            path: path.to_owned(),
        };
        Ok((opened, Plaintext { body: message::boxed(opening), bytes, content_type }))
    }

    /// Seals whatever is answered to an opened request, refusals too. `decision` is this side's record.
    ///
    /// # Errors
    /// There is no key to be had: the answer must be replaced by one that says nothing.
    pub async fn seal_answer(
        &self,
        opened: &Opened,
        decision: RecordId,
        response: Response<Body>,
    ) -> Result<SealedAnswer, SealingError> {
        let scope = Scope {
            tenant: opened.tenant.clone(),
            recipient: opened.facts.recipient.clone(),
            direction: Direction::Answer,
        };
        let status = response.status();
        let facts = Facts {
            method: &opened.method,
            path: &opened.path,
            level: opened.level,
            decision,
            content_type: content_type(response.headers()),
        };
        let answer = AnswerFacts { request: opened.facts.message_id, status };
        let context = context::build(&scope, &facts, Some(answer), self.clock.now())?;
        let seal = self.seal(&scope, context).await?;
        let (facts, wire) = (seal.facts.clone(), seal.wire());
        let mut response = seal.response(response)?;
        *response.status_mut() = context::shown_status(status);
        Ok(SealedAnswer { response, facts, wire })
    }

    /// Opens the answer to a sealed request.
    ///
    /// # Errors
    /// It is not sealed, does not open, or is the answer to something else.
    pub async fn open_answer(
        &self,
        expected: &Expected,
        response: Response<Body>,
    ) -> Result<OpenedAnswer, AnswerRefused> {
        let outer = response.status();
        if !is_sealed(response.headers()) {
            return Err(AnswerRefused::NotSealed { status: outer, response: Box::new(response) });
        }
        let (mut head, body) = response.into_parts();
        let wire = WireDigest::default();
        let (header, unopened) = Unopened::read(body, wire.clone()).await?;
        let stored = header.unverified().context().clone();
        let (opener, facts) = self.unlock(header, &expected.scope).await?;
        let (said, status) = self.compare_answer(&stored, expected, outer)?;
        let media = said.content_type.as_deref();
        let opening = unopened.open(opener, media.is_some_and(is_events)).map_err(OpeningError::from)?;
        headers::beside_sealed_answer(&mut head.headers);
        if let Some(value) = media.and_then(|text| HeaderValue::from_str(text).ok()) {
            head.headers.insert(CONTENT_TYPE, value);
        }
        head.status = status;
        let body = bodied(status, opening.primed().await?);
        Ok(OpenedAnswer { response: Response::from_parts(head, body), facts, decision: said.decision, wire })
    }

    fn compare_answer(
        &self,
        stored: &EncryptionContext,
        expected: &Expected,
        outer: StatusCode,
    ) -> Result<(Said, StatusCode), OpeningError> {
        let exchange = (&expected.method, expected.path.as_str());
        let said = context::compare(stored, &expected.scope, exchange, self.clock.now())?;
        let status = context::answered(stored, expected.request)?;
        context::check_outer(outer, status)?;
        Ok((said, status))
    }

    /// Unwraps the data key with a key of exactly this scope and verifies the header.
    pub(super) async fn unlock(
        &self,
        header: UnverifiedHeader,
        scope: &Scope,
    ) -> Result<(Opener, SealFacts), OpeningError> {
        let keys = self.keys.as_ref().ok_or(OpeningError::NoKeys)?;
        let (data_key, name) =
            keys.unwrap(header.unverified().edks(), header.unverified().context(), scope).await?;
        let facts = SealFacts {
            recipient: scope.recipient.clone(),
            key: name.to_string(),
            message_id: *header.unverified().message_id(),
            direction: scope.direction,
        };
        Ok((header.verify(&data_key, &EncryptionContext::new())?, facts))
    }
}

impl Seal {
    /// The public facts, for records.
    #[must_use]
    pub const fn facts(&self) -> &SealFacts {
        &self.facts
    }

    /// Where the digest of the sealed bytes will be.
    #[must_use]
    pub fn wire(&self) -> WireDigest {
        self.wire.clone()
    }

    /// Seals a body in frames of 64 KiB. The length of the result is exact if that of `body` is.
    ///
    /// # Errors
    /// The message cannot be made.
    pub fn body(self, body: Body) -> Result<Body, SealingError> {
        Ok(message::boxed(Sealing::frames(self.message, body, self.wire)?))
    }

    /// Seals an answer: its body, event by event if it is a stream of events, under the outer media type. Headers that are not in
    /// [`headers::beside_sealed_answer`]'s list go away, so what an answer needs beside it is to be added afterwards.
    ///
    /// # Errors
    /// The message cannot be made.
    pub fn response(self, response: Response<Body>) -> Result<Response<Body>, SealingError> {
        let (mut head, body) = response.into_parts();
        let body = if content_type(&head.headers).is_some_and(is_events) {
            message::boxed(Sealing::events(self.message, body, self.wire))
        } else {
            self.body(body)?
        };
        headers::beside_sealed_answer(&mut head.headers);
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(SEALED));
        Ok(Response::from_parts(head, body))
    }

    /// Seals an answer whose body is bytes, whatever its media type says: in frames of 64 KiB, with a length if the plaintext has one.
    ///
    /// # Errors
    /// The message cannot be made.
    pub fn whole(self, response: Response<Body>) -> Result<Response<Body>, SealingError> {
        let (mut head, body) = response.into_parts();
        let body = self.body(body)?;
        headers::beside_sealed_answer(&mut head.headers);
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(SEALED));
        Ok(Response::from_parts(head, body))
    }

    /// Seals a request.
    pub(super) fn request(self, request: http::Request<Body>) -> Result<http::Request<Body>, SealingError> {
        let (mut head, body) = request.into_parts();
        headers::beside_sealed_request(&mut head.headers);
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(SEALED));
        Ok(http::Request::from_parts(head, self.body(body)?))
    }
}

impl Plan {
    /// Whether it does what this permit demands, where it demands it.
    pub(super) fn fits(&self, permit: &Permit) -> bool {
        let candidate = permit.candidate();
        let store = matches!(candidate.upstream, UpstreamRef::Store(_));
        let (recipient, right_place) = match self {
            Self::Request(seal, _) => (&seal.facts.recipient, !store),
            Self::Answer(recipient) => (recipient, store),
            // Whose key it is, the dataset says: nothing leaves the private side.
            Self::Rest(_) => return store && permit.protection() == Protection::None,
        };
        right_place && candidate.can_open.as_ref() == Some(recipient)
    }

    /// The request, sealed as far as the plan says.
    pub(super) fn sealed(self, request: http::Request<Body>) -> Result<http::Request<Body>, SealingError> {
        match self {
            Self::Request(seal, _) => seal.request(request),
            Self::Answer(_) => Ok(request),
            Self::Rest(seal) => {
                // The object's metadata stays in clear: the store needs it to answer.
                let (head, body) = request.into_parts();
                Ok(http::Request::from_parts(head, seal.body(body)?))
            }
        }
    }

    /// The message that goes out, if one does.
    #[must_use]
    pub fn seal(&self) -> Option<&Seal> {
        match self {
            Self::Request(seal, _) | Self::Rest(seal) => Some(seal),
            Self::Answer(_) => None,
        }
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// Whether a message says that its body is sealed.
#[must_use]
pub fn is_sealed(headers: &HeaderMap) -> bool {
    content_type(headers).is_some_and(|text| essence(text).eq_ignore_ascii_case(SEALED))
}

fn is_events(media: &str) -> bool {
    essence(media).eq_ignore_ascii_case(EVENT_STREAM)
}

fn essence(media: &str) -> &str {
    media.split(';').next().unwrap_or_default().trim()
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok())
}

/// The body that a status allows; for one that forbids it (RFC 9110 15) the header has said everything.
fn bodied(status: StatusCode, opening: Opening) -> Body {
    if context::shown_status(status) == status { message::boxed(opening) } else { message::empty() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::sync::atomic::{AtomicI64, Ordering};

    use base64::Engine as _;
    use jiff::Timestamp;

    use super::*;
    use crate::message::{collect_bounded, full};

    /// A clock that is set by hand, in Unix seconds.
    #[derive(Debug)]
    struct Hand(AtomicI64);

    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            Timestamp::from_second(self.0.load(Ordering::Relaxed)).unwrap()
        }
    }

    const NOON: i64 = 1_800_000_000;

    fn scope(direction: Direction) -> Scope {
        Scope { tenant: "acme".parse().unwrap(), recipient: "haven".parse().unwrap(), direction }
    }

    async fn keys(dir: &Path, clock: &Arc<Hand>) -> Keys {
        let root = dir.join("root");
        std::fs::write(&root, base64::engine::general_purpose::STANDARD.encode([3; 32])).unwrap();
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o600)).unwrap();
        let settings =
            serde_json::json!({"directory": dir.join("branch"), "roots": {"main": {"file": root}}});
        std::fs::create_dir(dir.join("branch")).unwrap();
        std::fs::set_permissions(dir.join("branch"), std::fs::Permissions::from_mode(0o700)).unwrap();
        let recipients = serde_json::json!({"haven": {"root": "main"}});
        let (settings, recipients) =
            (serde_json::from_value(settings).unwrap(), serde_json::from_value(recipients).unwrap());
        let keys = Keys::new(&settings, &recipients, "test", Arc::<Hand>::clone(clock)).unwrap();
        for direction in [Direction::Request, Direction::Answer] {
            keys.make(&scope(direction)).await.unwrap();
        }
        keys
    }

    const PATH: &str = "/v1/chat/completions";

    /// The sealed bytes of one request, made now.
    async fn request(border: &Protector, direction: Direction) -> bytes::Bytes {
        let facts = Facts {
            method: &Method::POST,
            path: PATH,
            level: Level::Restricted,
            decision: RecordId::new(),
            content_type: Some("text/plain"),
        };
        let scope = scope(direction);
        let context = context::build(&scope, &facts, None, border.clock.now()).unwrap();
        let sealed = border.seal(&scope, context).await.unwrap().body(full("text")).unwrap();
        collect_bounded(sealed, 1 << 20).await.unwrap()
    }

    async fn opens(far: &Protector, sealed: &bytes::Bytes) -> Result<bytes::Bytes, &'static str> {
        let opened = far.open_request((&Method::POST, PATH), full(sealed.clone())).await;
        let (_, plaintext) = opened.map_err(|error| error.code())?;
        assert_eq!(
            (plaintext.bytes, plaintext.content_type.unwrap().as_bytes()),
            (Some(4), &b"text/plain"[..])
        );
        Ok(collect_bounded(plaintext.body, 100).await.unwrap())
    }

    #[tokio::test]
    async fn a_request_opens_once_and_in_its_time() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(Hand(AtomicI64::new(NOON))));
        let keys = keys(dir.path(), &clock).await;
        let border = Protector::new(Some(keys.clone()), Arc::<Hand>::clone(&clock));
        let far = Protector::with_memory(Some(keys), Arc::<Hand>::clone(&clock), 1);
        let (first, second) =
            (request(&border, Direction::Request).await, request(&border, Direction::Request).await);
        assert_eq!(opens(&far, &first).await.unwrap(), "text");
        assert_eq!(opens(&far, &first).await, Err("seal_replayed"));
        assert_eq!(opens(&far, &second).await, Err("replay_full"));
        // A clock that is ahead by more than a message lives, and one that is behind by more.
        clock.0.store(NOON + 151, Ordering::Relaxed);
        assert_eq!(opens(&far, &first).await, Err("seal_expired"));
        assert_eq!(opens(&far, &request(&border, Direction::Request).await).await.unwrap(), "text");
        let later = request(&border, Direction::Request).await;
        clock.0.store(NOON - 151, Ordering::Relaxed);
        assert_eq!(opens(&far, &later).await, Err("seal_expired"));
    }

    #[tokio::test]
    async fn what_was_made_for_the_way_back_is_no_request() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(Hand(AtomicI64::new(NOON))));
        let gateway = Protector::new(Some(keys(dir.path(), &clock).await), clock);
        let answer = request(&gateway, Direction::Answer).await;
        assert_eq!(opens(&gateway, &answer).await, Err("seal_context"));
        let none = Protector::new(None, Arc::clone(&gateway.clock));
        assert_eq!(
            opens(&none, &request(&gateway, Direction::Request).await).await,
            Err("protection_unavailable")
        );
        for (method, path) in [(&Method::PUT, PATH), (&Method::POST, "/v1/completions")] {
            let sealed = request(&gateway, Direction::Request).await;
            let error = gateway.open_request((method, path), full(sealed)).await.unwrap_err();
            assert_eq!(error.code(), "seal_context");
        }
    }
}
