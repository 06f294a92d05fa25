//! The loop of one destination: read, send, and only when all was taken move the cursor.
//!
//! It never gives up and never skips: a request that fails is sent again, one that is refused is halved until the record at fault
//! stands alone. Only that one is set aside, and only if the destination takes an empty request: what refuses everything is
//! not refusing a record.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::cursor::{Cursor, Position};
use super::dead::DeadLetters;
use super::figures::{Figures, Health};
use super::message::{self, Message, Sender};
use super::post::{Body, Post, Verdict};
use super::settings::DestinationName;
use super::source::{Batch, Bounds, Source, is_gone};
use crate::audit::Audit;
use crate::audit::encode::text;
use crate::audit::record::Event;

/// How soon new records are looked for when there were none.
const POLL: Duration = Duration::from_millis(200);
/// The first wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// How often a cursor is written at most: each takes a sync of the disk. What lies between is sent twice after a crash.
const CURSOR_SPACING: Duration = Duration::from_secs(1);

/// Whether the outbox is to end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stop {
    No,
    /// The journal is closed: what is in it may still be sent until then.
    By(Instant),
}

/// The journal is closed and the destination does not take the rest now; the next start sends it.
struct Ended;

/// The state of one destination.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) name: DestinationName,
    pub(super) audit: Audit,
    pub(super) sender: Sender,
    pub(super) source: Source,
    pub(super) post: Post,
    pub(super) cursor: Cursor,
    pub(super) position: Position,
    pub(super) dead: DeadLetters,
    pub(super) figures: Arc<Figures>,
    pub(super) stop: watch::Receiver<Stop>,
    pub(super) bounds: Bounds,
    pub(super) delay: Duration,
    pub(super) retry_max: Duration,
    pub(super) pace: Pace,
}

/// What the loop remembers of its own doing.
#[derive(Debug)]
pub(super) struct Pace {
    /// Failures one after the other.
    failed: u32,
    failing_since: Option<Instant>,
    stored_at: Instant,
    stored: u64,
    /// When the last checkpoint that was sent was signed.
    witnessed: Option<Timestamp>,
}

impl Pace {
    pub(super) fn new(stored: u64) -> Self {
        Self { failed: 0, failing_since: None, stored_at: Instant::now(), stored, witnessed: None }
    }
}

impl Worker {
    /// Until it is stopped.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = self.work() => {}
            () = over(stop) => {}
        }
        self.keep_cursor(true);
    }

    async fn work(&mut self) {
        loop {
            let finishing = self.is_finishing();
            let batch = match self.source.fill(self.bounds, self.audit.durable()) {
                Ok(batch) => batch,
                Err(error) if is_gone(&error) && !finishing => {
                    self.pause(FIRST_WAIT).await;
                    continue;
                }
                Err(error) => {
                    self.note_failure(Health::Unreadable, &error.to_string());
                    if finishing {
                        return;
                    }
                    let wait = self.backoff(None);
                    self.pause(wait).await;
                    continue;
                }
            };
            self.figures.missed.store(self.source.missed(), Ordering::Relaxed);
            if batch.messages.is_empty() {
                self.keep_cursor(false);
                self.witness().await;
                if finishing {
                    return;
                }
                self.pause(POLL).await;
                continue;
            }
            let more = batch.full;
            if self.deliver(batch).await.is_err() {
                return;
            }
            if !more && !finishing {
                self.witness().await;
                self.pause(self.delay).await;
            }
        }
    }

    /// Sends a batch until every record of it was taken or set aside.
    async fn deliver(&mut self, batch: Batch) -> Result<(), Ended> {
        let messages = batch.messages;
        let mut parts = Vec::with_capacity(16);
        parts.push(0..messages.len());
        let mut set_aside: Vec<(u64, u16)> = Vec::new();
        while let Some(part) = parts.pop() {
            let Some(some) = messages.get(part.clone()).filter(|some| !some.is_empty()) else { continue };
            self.figures.waiting_since.store(some.first().map_or(0, |first| first.time), Ordering::Relaxed);
            match self.exchange(some).await? {
                Verdict::Accepted => self.taken(some),
                Verdict::Partial { rejected, words } => match some {
                    [only] => self.set_aside(only, 200, &words, &mut set_aside).await?,
                    _ => {
                        tracing::warn!(destination = %self.name, rejected, words, "a collector refused some of the audit records that it was sent; they are sent one by one");
                        parts.extend(part.rev().map(|index| index..index.saturating_add(1)));
                    }
                },
                Verdict::Refused { status, words } => match some {
                    [_] if !self.takes_anything().await? => {
                        // It refuses even nothing: not this record is at fault.
                        self.fail(
                            Health::Denied,
                            &format!("it answers {status} to everything: {words}"),
                            None,
                        )
                        .await?;
                        parts.push(part);
                    }
                    // It may have been mended between the two answers, so the record is sent once more.
                    [only] => match self.exchange(some).await? {
                        Verdict::Refused { status, words } => {
                            self.set_aside(only, status, &words, &mut set_aside).await?;
                        }
                        Verdict::Accepted => self.taken(some),
                        _ => parts.push(part),
                    },
                    _ => parts.extend(halves(part)),
                },
                // `exchange` tries these again itself.
                Verdict::Denied { .. } | Verdict::Later { .. } => parts.push(part),
            }
            self.keep_cursor(false);
        }
        self.figures.waiting_since.store(0, Ordering::Relaxed);
        self.tell(&set_aside);
        Ok(())
    }

    /// Sends some records until there is an answer about them.
    async fn exchange(&mut self, messages: &[Message]) -> Result<Verdict, Ended> {
        let records = messages.iter().map(|message| message.log.clone()).collect();
        let body = self.post.encode(&self.sender.request(records));
        self.insist(body).await
    }

    async fn insist(&mut self, body: Body) -> Result<Verdict, Ended> {
        loop {
            match self.post.send(&body).await {
                Verdict::Later { why, after } => self.fail(Health::Waiting, &why, after).await?,
                Verdict::Denied { status, words } => {
                    self.fail(Health::Denied, &format!("it answered {status}: {words}"), None).await?;
                }
                verdict => {
                    if matches!(verdict, Verdict::Accepted | Verdict::Partial { .. }) {
                        self.note_success();
                    }
                    return Ok(verdict);
                }
            }
        }
    }

    /// Whether the destination takes an empty request, which has nothing to refuse.
    async fn takes_anything(&mut self) -> Result<bool, Ended> {
        let body = self.post.encode(&self.sender.request(Vec::new()));
        Ok(matches!(self.insist(body).await?, Verdict::Accepted))
    }

    fn taken(&mut self, messages: &[Message]) {
        let count = u64::try_from(messages.len()).unwrap_or(u64::MAX);
        self.figures.sent.fetch_add(count, Ordering::Relaxed);
        self.advance(messages);
    }

    fn advance(&mut self, messages: &[Message]) {
        if let Some(last) = messages.last() {
            self.position.seq = last.seq.saturating_add(1);
            self.figures.next.store(self.position.seq, Ordering::Relaxed);
        }
    }

    /// Puts a record that is refused for good into the dead-letter file, and goes on behind it.
    async fn set_aside(
        &mut self,
        message: &Message,
        status: u16,
        words: &str,
        told: &mut Vec<(u64, u16)>,
    ) -> Result<(), Ended> {
        while let Err(error) = self.dead.keep(message, status, words) {
            self.fail(Health::Waiting, &format!("the dead-letter file cannot be written: {error}"), None)
                .await?;
        }
        tracing::error!(destination = %self.name, seq = message.seq, status, words, "a collector refuses an audit record; it was put into the dead-letter file");
        self.position.dead_letters = self.position.dead_letters.saturating_add(1);
        self.figures.dead_letters.store(self.position.dead_letters, Ordering::Relaxed);
        self.advance(std::slice::from_ref(message));
        self.keep_cursor(true);
        if !message.tells_of_refusal {
            told.push((message.seq, status));
        }
        Ok(())
    }

    /// Records in the journal that records were refused. A refused record that tells of others is not told of in turn.
    fn tell(&self, set_aside: &[(u64, u16)]) {
        if let (Some((first, status)), Some((last, _))) = (set_aside.first(), set_aside.last()) {
            self.audit.event(&Event::ExportRejected {
                destination: text(self.name.as_str()),
                count: u64::try_from(set_aside.len()).unwrap_or(u64::MAX),
                first: *first,
                last: *last,
                status: *status,
            });
        }
    }

    /// Sends the newest checkpoint, once: the backend then holds what the journal can be compared with. One that is not taken is
    /// not sent again, for the next one says more.
    async fn witness(&mut self) {
        let Some(published) = self.audit.checkpoint() else { return };
        if published.size == 0 || self.pace.witnessed == Some(published.at) {
            return;
        }
        self.pace.witnessed = Some(published.at);
        let body = self.post.encode(&self.sender.request(vec![message::checkpoint(&published)]));
        let verdict = self.post.send(&body).await;
        if verdict != Verdict::Accepted {
            tracing::debug!(destination = %self.name, ?verdict, "a checkpoint was not taken");
        }
    }

    fn keep_cursor(&mut self, now: bool) {
        let due = now || self.pace.stored_at.elapsed() >= CURSOR_SPACING;
        if !due || (self.pace.stored == self.position.seq && !now) {
            return;
        }
        self.pace.stored_at = Instant::now();
        match self.cursor.store(self.position) {
            Ok(()) => self.pace.stored = self.position.seq,
            Err(error) => {
                tracing::warn!(%error, destination = %self.name, "an export cursor cannot be written; records may be sent twice");
            }
        }
    }

    /// Notes a failure and waits; ends when the journal is closed, for the next start goes on here.
    async fn fail(&mut self, health: Health, why: &str, after: Option<Duration>) -> Result<(), Ended> {
        self.note_failure(health, why);
        if self.is_finishing() {
            return Err(Ended);
        }
        let wait = self.backoff(after);
        self.pause(wait).await;
        self.post.reopen();
        Ok(())
    }

    fn note_failure(&mut self, health: Health, why: &str) {
        self.figures.failures.fetch_add(1, Ordering::Relaxed);
        let known = self.pace.failing_since.is_some() && self.figures.health() == health;
        self.figures.enter(health);
        self.pace.failing_since.get_or_insert_with(Instant::now);
        self.pace.failed = self.pace.failed.saturating_add(1);
        let destination = &self.name;
        match health {
            _ if known => tracing::debug!(%destination, why, "audit records still do not leave"),
            Health::Denied | Health::Unreadable => {
                tracing::error!(%destination, why, "audit records do not leave until this is mended; they are kept, and tried again");
            }
            _ => tracing::warn!(%destination, why, "audit records do not leave for now; they are kept"),
        }
    }

    fn note_success(&mut self) {
        if let Some(since) = self.pace.failing_since.take() {
            let seconds = since.elapsed().as_secs();
            tracing::info!(destination = %self.name, seconds, attempts = self.pace.failed, "audit records leave again");
        }
        self.pace.failed = 0;
        self.figures.enter(Health::Sending);
    }

    /// Doubles with each failure up to the bound; at least half of it is waited, so that many gateways do not come at once.
    fn backoff(&self, asked: Option<Duration>) -> Duration {
        let doublings = self.pace.failed.saturating_sub(1).min(16);
        let whole = FIRST_WAIT.saturating_mul(1 << doublings).min(self.retry_max);
        let wait = whole / 2 + whole.mul_f64(fraction()) / 2;
        asked.map_or(wait, |asked| asked.max(wait))
    }

    fn is_finishing(&self) -> bool {
        matches!(*self.stop.borrow(), Stop::By(_)) || self.stop.has_changed().is_err()
    }

    /// Waits, or until the journal is closed.
    async fn pause(&mut self, time: Duration) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = sleep(time) => {}
            _ = stop.changed() => {}
        }
    }
}

/// Resolves when nothing may be sent any more.
async fn over(mut stop: watch::Receiver<Stop>) {
    loop {
        let now = *stop.borrow_and_update();
        if let Stop::By(deadline) = now {
            sleep_until(deadline).await;
            return;
        }
        if stop.changed().await.is_err() {
            return;
        }
    }
}

/// Both halves of a part, the first one to be popped first.
fn halves(part: Range<usize>) -> [Range<usize>; 2] {
    let middle = part.start.saturating_add(part.len() / 2);
    [middle..part.end, part.start..middle]
}

/// From 0 to 1, at random.
fn fraction() -> f64 {
    let mut bytes = [0; 2];
    // Without random bytes all gateways wait alike, which is no harm.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX)
}
