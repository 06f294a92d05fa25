//! The only form in which a request can be sent.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;

use super::protector::Plan;
use crate::message::Body;
use crate::model::Protection;
use crate::policy::Permit;

/// A request that was permitted and protected as the permit demands.
///
/// Its members are private and it is not `Clone`: [`prepare`] is the only source, `into_parts` the only
/// sink, and each consumes what it is given.
#[must_use = "a prepared request that is not sent must be recorded as such"]
pub struct Outbound {
    permit: Arc<Permit>,
    request: http::Request<Body>,
}

impl Outbound {
    /// The decision under which it leaves.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Takes it apart to send it; for `upstream` alone.
    pub(crate) fn into_parts(self) -> (Arc<Permit>, http::Request<Body>) {
        (self.permit, self.request)
    }

    /// For [`super::Reads`], which makes reads of the same object under the same permit and nothing else.
    pub(super) const fn under(permit: Arc<Permit>, request: http::Request<Body>) -> Self {
        Self { permit, request }
    }
}

impl fmt::Debug for Outbound {
    /// Neither headers nor body: both can be confidential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound")
            .field("upstream", &self.permit.candidate().upstream)
            .field("protection", &self.permit.protection())
            .finish_non_exhaustive()
    }
}

/// A protection that the permit demands and that cannot be done: nothing is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the protection that policy demands is not available")]
pub struct ProtectError {
    protection: Protection,
}

impl ProtectError {
    /// The stable code of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "protection_unavailable"
    }

    /// The status of the refusal.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }

    /// The protection that was demanded; for records.
    #[must_use]
    pub const fn protection(&self) -> Protection {
        self.protection
    }
}

/// Does to a request exactly what the permit demands.
///
/// `request` carries the path and query to send in its URI; scheme and authority are the upstream's affair. Under
/// [`Protection::None`] body and headers stay as they are, but for an object that a plan seals at rest; under [`Protection::Sealed`] the plan must be
/// for the permit's recipient and upstream.
///
/// # Errors
/// The permit demands a protection that this gateway cannot do, or the plan is for something else.
pub fn prepare(
    permit: Permit,
    request: http::Request<Body>,
    plan: Option<Plan>,
) -> Result<Outbound, ProtectError> {
    let protection = permit.protection();
    let refused = ProtectError { protection };
    match (protection, plan) {
        (Protection::None, None) => Ok(Outbound { permit: Arc::new(permit), request }),
        // What lies in the store is nobody's to read on the way: it is sealed although policy does not ask for it.
        (Protection::None, Some(plan @ Plan::Rest(_))) if plan.fits(&permit) => {
            let request = plan.sealed(request).map_err(|_| refused)?;
            Ok(Outbound { permit: Arc::new(permit), request })
        }
        (Protection::Sealed, Some(plan @ (Plan::Request(..) | Plan::Answer(_)))) if plan.fits(&permit) => {
            let request = plan.sealed(request).map_err(|_| refused)?;
            Ok(Outbound { permit: Arc::new(permit), request })
        }
        _ => Err(refused),
    }
}
