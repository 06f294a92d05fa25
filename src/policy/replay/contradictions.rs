//! What a record says twice: once where tables and reports read it, once in the request that the policies were asked.

use super::question::{Asked, AskedContext, Links, Recorded, Rung, Uid};
use crate::model::Protection;

/// Each member that is not what the policies were asked, as a sentence.
pub(super) fn contradictions(record: &Recorded, asked: &Asked) -> Vec<String> {
    let mut found = Found::default();
    found.who(record, asked);
    found.what(record, asked);
    found.deciding(record, asked);
    found.0
}

#[derive(Debug, Default)]
struct Found(Vec<String>);

impl Found {
    fn who(&mut self, record: &Recorded, asked: &Asked) {
        let principal = &asked.principal;
        if let Some(party) = &record.principal {
            let shown = Uid { r#type: party.r#type.clone(), id: party.id.clone() };
            self.same("principal", &shown, &principal.uid.plain());
            self.same("principal.authn", &party.authn, &principal.attrs.authn);
            let parents = principal.parents.iter().map(|uid| &uid.id);
            // Of very many unknown teams the request holds only the number.
            if principal.more_unknown_teams == 0 {
                let teams = sorted(parents.chain(&principal.unknown_teams));
                self.same("principal.teams", &sorted(&party.teams), &teams);
            }
        }
        self.same("tenant", &record.tenant.as_ref(), &Some(&principal.attrs.tenant));
        let chain = &asked.context.chain;
        let id = |uid: &Option<Uid>| uid.as_ref().map(|uid| uid.id.clone());
        self.same("chain", &record.chain, &Links { workload: id(&chain.workload), agent: id(&chain.agent) });
        if let Some(peer) = record.peer {
            self.same("peer", &peer.ip(), &asked.context.peer_address);
        }
    }

    fn what(&mut self, record: &Recorded, asked: &Asked) {
        let context = &asked.context;
        self.same("action", &record.action.as_ref(), &Some(&asked.action));
        if let Some(label) = &record.label {
            let places = sorted(context.data.residency.iter().map(|uid| &uid.id));
            self.same("label.level", &label.level.rank(), &context.data.level);
            self.same("label.residency", &sorted(&label.residency), &places);
            self.same("label.origin", &label.origin, &context.data.origin);
        }
        if let Some(request) = &record.request {
            self.same("request.method", &request.method, &context.request.method);
            self.same("request.path", &request.path, &context.request.path);
        }
    }

    fn deciding(&mut self, record: &Recorded, asked: &Asked) {
        let Some(last) = record.evaluations.last() else { return };
        self.same("resource", &record.resource.as_ref(), &Some(&last.resource));
        self.same("destination", &record.destination, &last.destination);
        self.same("protection", &record.protection.as_ref(), &Some(&last.protection));
        // After one that broke off, the request shows an attempt that has no evaluation.
        if !matches!(record.code.as_deref(), Some("unknown_entity" | "invalid_authorization_request")) {
            let (destination, protection) = place(&asked.context);
            self.same(
                "context.resource",
                &asked.resource.as_ref().map(Uid::plain),
                &Some(last.resource.clone()),
            );
            self.same("context.destination", &destination, &last.destination.as_deref());
            self.same("context.protection", &protection, &Some(last.protection.as_str()));
        }
    }

    fn same<T: PartialEq>(&mut self, member: &str, shown: &T, asked: &T) {
        if shown != asked {
            self.0.push(format!("`{member}` is not what the policies were asked"));
        }
    }
}

fn place(context: &AskedContext) -> (Option<&str>, Option<&'static str>) {
    let rung = context.protection.as_ref().and_then(|rung: &Rung| rung.protection().ok());
    (context.destination.as_ref().map(|uid| uid.id.as_str()), rung.map(Protection::name))
}

fn sorted<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<&'a String> {
    let mut texts: Vec<&String> = texts.into_iter().collect();
    texts.sort();
    texts
}
