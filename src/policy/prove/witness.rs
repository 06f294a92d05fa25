//! A request that the solver found: put to Cedar itself, with the policies as they are, and told in words.

use std::collections::BTreeMap;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, EntityUid, PolicyId, PolicySet, Request, Response,
};
use cedar_policy_symcc::Env;
use serde_json::{Value, json};

use super::invariants::Invariant;
use super::report::Counterexample;
use crate::model::{Level, Protection};
use crate::policy::Bundle;
use crate::policy::schema::describe;

/// The longest text of a fact, in characters.
const MAX_TEXT: usize = 200;

/// What the solver says is wrong with the request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Claimed<'a> {
    /// It is allowed, although the invariant matches it.
    Allowed(&'a Invariant),
    /// The policy has an error.
    Errors(&'a PolicyId),
    /// It is allowed with no protection, and not with this one.
    Lost(Protection),
}

/// Puts the request to Cedar.
///
/// # Errors
/// Cedar does not see what the solver claims, so nothing is shown.
pub(super) fn confirm(
    bundle: &Bundle,
    environment: &str,
    env: &Env,
    claimed: Claimed<'_>,
) -> Result<Counterexample, String> {
    let (answer, policies, request) = match claimed {
        Claimed::Allowed(invariant) => {
            let response = ask(&env.request, bundle.policy_set(), &env.entities);
            let bad = PolicySet::from_policies([invariant.policy().clone()]).map_err(|e| describe(&e))?;
            let matches = ask(&env.request, &bad, &env.entities).decision() == Decision::Allow;
            if response.decision() != Decision::Allow || !matches {
                return Err(unconfirmed("allowed although it must not be"));
            }
            ("must be denied, and is allowed".to_owned(), ids(&response), env.request.clone())
        }
        Claimed::Errors(id) => {
            let response = ask(&env.request, bundle.policy_set(), &env.entities);
            let errors: Vec<String> = response.diagnostics().errors().map(|error| describe(error)).collect();
            let shown = id.to_string();
            let Some(error) = errors.iter().find(|error| error.contains(&shown)) else {
                return Err(unconfirmed("an error"));
            };
            (format!("denied by an error: {error}"), vec![shown], env.request.clone())
        }
        Claimed::Lost(protection) => {
            let plain = with_protection(bundle, &env.request, Protection::None)?;
            let better = with_protection(bundle, &env.request, protection)?;
            let allowed = ask(&plain, bundle.policy_set(), &env.entities);
            let denied = ask(&better, bundle.policy_set(), &env.entities);
            if (allowed.decision(), denied.decision()) != (Decision::Allow, Decision::Deny) {
                return Err(unconfirmed("denied for its protection"));
            }
            let answer = format!("allowed with protection none, denied with protection {protection}");
            (answer, [ids(&allowed), ids(&denied)].concat(), better)
        }
    };
    let named = policies.iter().filter_map(|id| bundle.policy_set().policy(&PolicyId::new(id)));
    let mut read: Vec<String> = named.map(json_text).collect();
    if let Claimed::Allowed(invariant) = claimed {
        read.push(invariant.canonical());
    }
    tell(environment, &request, &env.entities, (answer, policies, read.concat()))
}

/// Which of two bundles allows more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

/// Puts a request to the engines of both bundles, as the gateway would: an error denies. No old bundle denies everything.
///
/// # Errors
/// They do not differ in the way that the solver claims, so nothing is shown.
pub(super) fn differs(
    (old, new): (Option<&Bundle>, &Bundle),
    environment: &str,
    env: &Env,
    allows: Side,
) -> Result<Counterexample, String> {
    let before = old.map_or_else(|| Ok((false, Vec::new())), |old| engine(old, env))?;
    let after = engine(new, env)?;
    let claimed = match allows {
        Side::New => (false, true),
        Side::Old => (true, false),
    };
    if (before.0, after.0) != claimed {
        return Err(unconfirmed("decided otherwise by the two"));
    }
    let told = |(allowed, ids): &(bool, Vec<String>)| {
        let verb = if *allowed { "allowed" } else { "denied" };
        if ids.is_empty() { verb.to_owned() } else { format!("{verb} by {}", ids.join(", ")) }
    };
    let answer = format!("{} before, {} now", told(&before), told(&after));
    let text = |bundle: &Bundle, ids: &[String]| {
        let named = ids.iter().filter_map(|id| bundle.policy_set().policy(&PolicyId::new(id)));
        named.map(json_text).collect::<String>()
    };
    let read = old.map_or_else(String::new, |old| text(old, &before.1)) + &text(new, &after.1);
    let mut ids = [before.1, after.1].concat();
    ids.sort();
    ids.dedup();
    tell(environment, &env.request, &env.entities, (answer, ids, read))
}

/// What the gateway's engine makes of a request: whether it is allowed, and the policies that decide.
fn engine(bundle: &Bundle, env: &Env) -> Result<(bool, Vec<String>), String> {
    let (request, entities) = (&env.request, &env.entities);
    let incomplete = "the solver's request is not complete";
    let principal = request.principal().ok_or(incomplete)?;
    let action = request.action().ok_or(incomplete)?;
    let resource = request.resource().ok_or(incomplete)?;
    let slice = bundle.engine().slice(principal, action, resource, entities);
    let answer = bundle.engine().answer(request.as_ref().clone(), &slice, entities);
    let failed = answer.errors.iter().map(|(id, _)| id);
    let mut ids: Vec<String> = answer.reasons.iter().chain(failed).map(ToString::to_string).collect();
    ids.sort();
    Ok((answer.allow && answer.errors.is_empty(), ids))
}

fn json_text(policy: &cedar_policy::Policy) -> String {
    policy.to_json().map(|json| json.to_string()).unwrap_or_default()
}

fn unconfirmed(what: &str) -> String {
    format!("the solver found a request that would be {what}, and Cedar does not agree")
}

fn ask(request: &Request, policies: &PolicySet, entities: &Entities) -> Response {
    Authorizer::new().is_authorized(request, policies, entities)
}

fn ids(response: &Response) -> Vec<String> {
    let mut ids: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
    ids.sort();
    ids
}

/// The same request under another protection.
fn with_protection(bundle: &Bundle, request: &Request, protection: Protection) -> Result<Request, String> {
    let (Some(principal), Some(action), Some(resource)) =
        (request.principal(), request.action(), request.resource())
    else {
        return Err("the solver's request is not complete".to_owned());
    };
    let mut context = context(request)?;
    let facts = json!({
        "masked": protection == Protection::Masked,
        "sealed": protection == Protection::Sealed,
    });
    let members = context.get_mut("protection").and_then(Value::as_object_mut);
    let facts = facts.as_object().cloned().unwrap_or_default();
    members.ok_or("the context has no protection")?.extend(facts);
    let context =
        Context::from_json_value(context, Some((bundle.schema(), action))).map_err(|e| describe(&e))?;
    let (principal, action, resource) = (principal.clone(), action.clone(), resource.clone());
    Request::new(principal, action, resource, context, Some(bundle.schema())).map_err(|e| describe(&e))
}

fn context(request: &Request) -> Result<Value, String> {
    let context = request.context().ok_or("the solver's request has no context")?;
    context.to_json_value().map_err(|error| describe(&error))
}

fn tell(
    environment: &str,
    request: &Request,
    entities: &Entities,
    (answer, policies, read): (String, Vec<String>, String),
) -> Result<Counterexample, String> {
    let incomplete = "the solver's request is not complete";
    let principal = request.principal().ok_or(incomplete)?;
    let action = request.action().ok_or(incomplete)?;
    let resource = request.resource().ok_or(incomplete)?;
    let context = context(request)?;
    let fact = |path: &str| context.pointer(path);
    let truth = |path: &str| fact(path).and_then(Value::as_bool).unwrap_or(false);
    let destination = fact("/destination").and_then(entity);
    Ok(Counterexample {
        environment: environment.to_owned(),
        who: placed(principal, entities),
        what: format!("{} {}", action.id().unescaped(), placed(resource, entities)),
        level: fact("/data/level").map_or_else(|| "unknown".to_owned(), level),
        residency: fact("/data/residency").map_or_else(|| "unknown".to_owned(), residency),
        destination: destination.map_or_else(|| "unknown".to_owned(), |uid| destined(&uid, entities)),
        protection: match (truth("/protection/masked"), truth("/protection/sealed")) {
            (false, false) => Protection::None.to_string(),
            (true, false) => Protection::Masked.to_string(),
            (false, true) => Protection::Sealed.to_string(),
            (true, true) => "masked and sealed".to_owned(),
        },
        also: also(&context, entities, &read),
        answer,
        policies,
        request: json!({
            "principal": principal.to_string(), "action": action.to_string(),
            "resource": resource.to_string(), "context": context,
        }),
        entities: entities.to_json_value().map_err(|error| describe(&error))?,
    })
}

/// More facts, as far as the policies in question read them: `read` is those policies in JSON.
fn also(context: &Value, entities: &Entities, read: &str) -> BTreeMap<String, String> {
    let facts = [
        ("agent", "/chain/agent"),
        ("connected by", "/chain/workload"),
        ("purpose", "/purpose"),
        ("method", "/request/method"),
        ("path", "/request/path"),
        ("max tokens", "/request/maxTokens"),
        ("bytes", "/request/bytes"),
        ("origin", "/data/origin"),
        ("token age", "/chain/tokenAge"),
        ("streams", "/request/stream"),
    ];
    let text = |value: &Value| match (entity(value), value) {
        (Some(uid), _) => placed(&uid, entities),
        (None, Value::String(text)) => quoted(text),
        (None, other) => other.to_string(),
    };
    let is_read = |path: &str| {
        path.rsplit('/').next().is_some_and(|name| read.contains(&format!("\"attr\":\"{name}\"")))
    };
    let found = facts
        .iter()
        .filter(|(_, path)| is_read(path))
        .filter_map(|(name, path)| Some(((*name).to_owned(), text(context.pointer(path)?))));
    found.collect()
}

fn level(value: &Value) -> String {
    let rank = value.as_i64().unwrap_or(-1);
    let levels = [Level::Public, Level::Internal, Level::Confidential, Level::Restricted];
    levels.iter().find(|level| level.rank() == rank).map_or_else(|| rank.to_string(), |l| l.name().to_owned())
}

fn residency(value: &Value) -> String {
    let places: Vec<String> = value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(entity)
        .map(|uid| if uid.id().unescaped().is_empty() { name(&uid) } else { quoted(uid.id().unescaped()) })
        .collect();
    if places.is_empty() { "nowhere".to_owned() } else { places.join(", ") }
}

fn destined(uid: &EntityUid, entities: &Entities) -> String {
    use cedar_policy::EvalResult;
    let peer = entities.get(uid).and_then(|entity| entity.attr("peer")).and_then(Result::ok);
    let opens = if matches!(peer, Some(EvalResult::Bool(true))) { ", opens sealed bodies" } else { "" };
    format!("{}{opens}", placed(uid, entities))
}

/// `User "alice" in Team "research"`.
fn placed(uid: &EntityUid, entities: &Entities) -> String {
    let mut above: Vec<String> = entities.ancestors(uid).into_iter().flatten().map(name).collect();
    above.sort();
    if above.is_empty() { name(uid) } else { format!("{} in {}", name(uid), above.join(", ")) }
}

/// The solver calls what needs no name by the empty one.
fn name(uid: &EntityUid) -> String {
    if uid.id().unescaped().is_empty() {
        return format!("some {}", uid.type_name().basename());
    }
    format!("{} {}", uid.type_name().basename(), quoted(uid.id().unescaped()))
}

/// In quotes, on one line, whatever the solver came up with.
fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(MAX_TEXT).collect();
    format!("\"{}\"", shown.escape_debug())
}

fn entity(value: &Value) -> Option<EntityUid> {
    let value = value.get("__entity").unwrap_or(value);
    let kind = value.get("type")?.as_str()?.parse().ok()?;
    Some(EntityUid::from_type_name_and_id(kind, cedar_policy::EntityId::new(value.get("id")?.as_str()?)))
}
