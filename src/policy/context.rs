//! The context of a request, the only place that builds one: from typed facts straight to Cedar's values.
//!
//! No JSON, no expressions that Cedar would first have to evaluate. What is the same for all attempts of a request is made once
//! ([`BaseContext`]), what is the same for all requests once for a bundle ([`Contexts`]); an attempt only puts parts together. That the
//! parts are what the schema asks for is found when a bundle is loaded ([`super::request::probe`]): presence and types depend on
//! nothing else than which optional facts there are.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use cedar_policy::EntityUid;
use cedar_policy_core::ast::{Context, EntityUID, Name, PartialValue, Value};
use cedar_policy_core::evaluator::EvaluationError;
use cedar_policy_core::extensions::Extensions;

use super::names::Names;
use super::request::{AuthzRequest, datetime, long};
use crate::model::{Label, Protection};

/// Why a context could not be made: a fact is no value of its type, such as a year beyond 9999.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContextError {
    #[error("a fact of the request is no value for Cedar")]
    Evaluation(#[from] Box<EvaluationError>),
    #[error("a fact of the request has no value yet")]
    Residual,
}

/// The parts that all requests share.
#[derive(Debug)]
pub(super) struct Contexts {
    ip: Name,
    datetime: Name,
    none: Value,
    masked: Value,
    sealed: Value,
}

fn record<const N: usize>(fields: [(&'static str, Value); N]) -> Value {
    Value::record(fields, None)
}

fn entity(uid: EntityUid) -> Value {
    Value::from(EntityUID::from(uid))
}

/// What was made of the last time, address and label of this thread: many requests come in a millisecond, on a connection, with a label.
///
/// Values that no bundle has a say in.
#[derive(Debug, Default)]
struct Recent {
    /// By milliseconds since 1970, which is all that Cedar keeps.
    now: Option<(i128, Value)>,
    peer: Option<(IpAddr, Value)>,
    data: Option<(Label, Value)>,
}

thread_local! {
    static RECENT: RefCell<Recent> = RefCell::default();
}

/// The value under this key, made if it is not the one that is remembered.
fn recall<K: Clone + PartialEq>(
    slot: &mut Option<(K, Value)>,
    key: &K,
    make: impl FnOnce() -> Result<Value, ContextError>,
) -> Result<Value, ContextError> {
    match slot {
        Some((known, value)) if known == key => Ok(value.clone()),
        _ => Ok(slot.insert((key.clone(), make()?)).1.clone()),
    }
}

/// What Cedar's function of this name makes of a text.
fn call(function: &Name, text: &str) -> Result<Value, ContextError> {
    let extension = Extensions::all_available();
    let function = extension.func(function).map_err(|error| Box::new(EvaluationError::from(error)))?;
    match function.call(&[Value::from(text)]).map_err(Box::new)? {
        PartialValue::Value(value) => Ok(value),
        PartialValue::Residual(_) => Err(ContextError::Residual),
    }
}

impl Contexts {
    /// `None` never happens: the names are literals.
    pub(super) fn new() -> Option<Self> {
        let protection = |masked: bool, sealed: bool| {
            record([("masked", Value::from(masked)), ("sealed", Value::from(sealed))])
        };
        Some(Self {
            ip: "ip".parse().ok()?,
            datetime: "datetime".parse().ok()?,
            none: protection(false, false),
            masked: protection(true, false),
            sealed: protection(false, true),
        })
    }

    const fn protection(&self, protection: Protection) -> &Value {
        match protection {
            Protection::None => &self.none,
            Protection::Masked => &self.masked,
            Protection::Sealed => &self.sealed,
        }
    }

    /// The part of the context that all attempts of a request share.
    pub(super) fn base(
        &self,
        request: &AuthzRequest<'_>,
        names: &Names,
    ) -> Result<BaseContext<'_>, ContextError> {
        let http = [
            ("method", Value::from(request.method)),
            ("path", Value::from(request.path)),
            ("bytes", Value::from(long(request.bytes))),
            ("stream", Value::from(request.stream)),
        ];
        let max_tokens = request.max_tokens.map(|tokens| ("maxTokens", Value::from(long(tokens))));
        let chain = &request.principal.chain;
        let chain = [
            chain.workload.as_deref().map(|id| ("workload", entity(names.workload(id)))),
            chain.agent.as_deref().map(|id| ("agent", entity(names.agent(id)))),
            request.token_age().map(|age| ("tokenAge", Value::from(age))),
        ];
        let Circumstances { data, peer, now } =
            RECENT.with_borrow_mut(|recent| self.circumstances(request, names, recent))?;
        // Room for `destination` and `protection`.
        let mut parts = Vec::with_capacity(8);
        parts.push(("data", data));
        parts.push(("request", Value::record(http.into_iter().chain(max_tokens), None)));
        parts.push(("chain", Value::record(chain.into_iter().flatten(), None)));
        parts.push(("peerAddress", peer));
        parts.push(("now", now));
        parts.extend(request.purpose.map(|purpose| ("purpose", Value::from(purpose))));
        Ok(BaseContext { shared: self, parts })
    }

    /// Where the request came from, when, and with what.
    fn circumstances(
        &self,
        request: &AuthzRequest<'_>,
        names: &Names,
        recent: &mut Recent,
    ) -> Result<Circumstances, ContextError> {
        let millisecond = request.now.as_nanosecond().div_euclid(1_000_000);
        let peer = recall(&mut recent.peer, &request.peer, || call(&self.ip, &request.peer.to_string()))?;
        let now = recall(&mut recent.now, &millisecond, || call(&self.datetime, &datetime(request.now)))?;
        let data = recall(&mut recent.data, request.label, || Ok(data(request.label, names)))?;
        Ok(Circumstances { data, peer, now })
    }
}

/// The parts of a context that hardly change.
struct Circumstances {
    data: Value,
    peer: Value,
    now: Value,
}

/// The data that the request carries or asks for.
fn data(label: &Label, names: &Names) -> Value {
    let residency = label.residency.iter().map(|place| entity(names.jurisdiction(place.as_str())));
    record([
        ("level", Value::from(label.level.rank())),
        ("residency", Value::set(residency, None)),
        ("origin", Value::from(label.origin.name())),
    ])
}

/// The part of the context that all attempts of a request share.
#[derive(Debug)]
pub(super) struct BaseContext<'a> {
    shared: &'a Contexts,
    parts: Vec<(&'static str, Value)>,
}

impl BaseContext<'_> {
    /// The whole context of one attempt.
    pub(super) fn attempt(&self, destination: Option<&Arc<EntityUID>>, protection: Protection) -> Context {
        let destination = destination.map(|cluster| ("destination", Value::from(Arc::clone(cluster))));
        let protection = ("protection", self.shared.protection(protection).clone());
        let parts = self.parts.iter().cloned().chain(destination).chain([protection]);
        Context::Value(Arc::new(parts.map(|(name, value)| (name.into(), value)).collect()))
    }
}
