//! Whether an exchange under way would be permitted now: exactly the candidate and protection that it was permitted with, under the policies, the
//! entities and the list of revocations that are in force, at this time. Any doubt ends it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use crate::audit::record::Withdrawal;
use crate::identity::IdentityError;
use crate::model::RecordId;
use crate::policy::Denial;
use crate::policy::release::Release;

use super::super::reject::Reject;
use super::super::{Gateway, Snapshot, codes};
use super::{Live, held};

/// How often all are looked at: a fifth of the second within which one must have ended.
const PASS: Duration = Duration::from_millis(200);
/// How many are judged before other tasks have their turn; a decision takes some 20 µs.
const TURN: usize = 32;
/// The most policies that a record names.
const MAX_POLICIES: usize = 64;

/// Why an exchange was ended.
#[derive(Debug)]
pub(in super::super) struct Ended {
    pub(in super::super) code: &'static str,
    detail: String,
    /// Cedar's answer, if it was the policies.
    denial: Option<Box<Denial>>,
    bundle: String,
}

impl Live {
    /// Asks again. None: it goes on.
    fn judge(&self, snapshot: &Snapshot, now: Timestamp) -> Option<Ended> {
        let judged = catch_unwind(AssertUnwindSafe(|| self.try_judge(snapshot, now)));
        judged
            .unwrap_or_else(|_| {
                Err(Ended {
                    code: "panicked",
                    detail: "the gateway failed to decide again".to_owned(),
                    denial: None,
                    bundle: snapshot.bundle.hash().to_owned(),
                })
            })
            .err()
    }

    fn try_judge(&self, snapshot: &Snapshot, now: Timestamp) -> Result<(), Ended> {
        let (case, identity) = (&self.case, &snapshot.identity);
        let refused = |error: IdentityError| Ended::refused(&error, snapshot);
        identity.still_identified(&case.principal, case.certificate.as_deref(), now).map_err(refused)?;
        let mut permitted = held(&self.permitted);
        // Not decided yet, so there is nothing to ask again.
        let Some(permitted) = &mut *permitted else { return Ok(()) };
        let revocations = identity.revocations_version();
        if permitted.revocations != revocations {
            identity.not_revoked(&case.principal).map_err(refused)?;
            permitted.revocations = revocations;
        }
        // Policies that expire change too, although their hash does not.
        let expired = |release: &Release| release.denies_expired && release.is_over(now);
        if *permitted.bundle != *snapshot.bundle.hash() || snapshot.bundle.release().is_some_and(expired) {
            let candidate = slice::from_ref(&permitted.candidate);
            let rung = slice::from_ref(&permitted.protection);
            let permit = snapshot.bundle.decide(&case.authorization(now), candidate, rung);
            let permit = permit.map_err(|denial| Ended::denied(denial, snapshot))?;
            permitted.bundle = Arc::clone(permit.bundle());
        }
        Ok(())
    }
}

impl Ended {
    fn refused(error: &IdentityError, snapshot: &Snapshot) -> Self {
        let bundle = snapshot.bundle.hash().to_owned();
        Self { code: error.code(), detail: error.to_string(), denial: None, bundle }
    }

    fn denied(denial: Denial, snapshot: &Snapshot) -> Self {
        Self {
            code: "permission_withdrawn",
            detail: format!("it is permitted no longer: {}", denial.reason),
            denial: Some(Box::new(denial)),
            bundle: snapshot.bundle.hash().to_owned(),
        }
    }

    /// The refusal, while the head of the answer has not left.
    pub(in super::super) fn reject(self: &Arc<Self>) -> Reject {
        Reject::withdrawn(self)
    }

    /// What the caller may know.
    pub(in super::super) fn detail(&self) -> &str {
        &self.detail
    }

    /// The private cause.
    pub(in super::super) fn cause(&self) -> Option<&str> {
        self.denial.as_ref().and_then(|denial| denial.detail.as_deref())
    }

    /// The event that ends an event stream, in the shape of OpenAI's errors, which clients raise. The empty lines before it end an event that was
    /// under way.
    pub(super) fn event(&self, record: RecordId) -> Bytes {
        let code = codes::find(self.code);
        let kind =
            if code.status == StatusCode::UNAUTHORIZED { "authentication_error" } else { "permission_error" };
        let error = json!({
            "error": {
                "message": self.detail,
                "type": kind,
                "param": null,
                "code": self.code,
                "record": record,
            }
        });
        format!("\n\nevent: error\ndata: {error}\n\n").into()
    }

    /// What the record says of it.
    pub(in super::super) fn facts(&self) -> Withdrawal<'static> {
        let denial = self.denial.as_deref();
        let errors = denial.into_iter().flat_map(|denial| &denial.evaluations);
        Withdrawal {
            reason: denial.map(|denial| denial.reason.code().into()),
            bundle: self.bundle.clone().into(),
            policies: denial
                .into_iter()
                .flat_map(|denial| denial.policies.iter().cloned())
                .take(MAX_POLICIES)
                .collect(),
            errors: errors.flat_map(|evaluation| evaluation.errors.iter().cloned()).collect(),
        }
    }
}

impl Gateway {
    /// Looks at all exchanges under way, again and again, and ends those that are permitted no longer: within a second of a new snapshot, a
    /// new list of revocations, or the end of a token. Never returns.
    pub async fn keep_deciding(self: Arc<Self>) {
        let mut passes = interval(PASS);
        passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            passes.tick().await;
            for (number, live) in self.lives.list().iter().enumerate() {
                // Whatever one of them does, the others are looked at.
                let looked = catch_unwind(AssertUnwindSafe(|| self.look(live)));
                if looked.is_err() {
                    tracing::error!(record = %live.record, "a live exchange could not be ended");
                }
                if number % TURN == TURN - 1 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Asks again about one exchange, and ends it if it is permitted no longer.
    pub(in super::super) fn look(&self, live: &Live) {
        if let Some(ended) = live.judge(&self.snapshot(), self.clock.now()) {
            self.end(live, ended);
        }
    }

    /// Ends an exchange and says so.
    fn end(&self, live: &Live, ended: Ended) {
        let (code, record) = (ended.code, live.record);
        let detail = ended.detail.clone();
        if live.end(ended) {
            tracing::info!(%record, code, detail, "a live exchange was ended");
            self.telemetry.metrics().stream_ended(code);
        }
    }

    /// How many exchanges are under way.
    #[must_use]
    pub fn exchanges(&self) -> usize {
        self.lives.count()
    }
}
