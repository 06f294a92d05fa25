//! A route as the configuration writes it, and the checks that make it a [`Route`].

use http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pattern::{HostPattern, PathPattern};
use super::table::Route;
use crate::model::{
    Action, AuditMode, ByteSize, ClusterName, Floor, IdentityRule, Level, Objects, Problems, Residency,
    RouteKind, RouteName, ServiceName, StoreName,
};

/// The most clusters of one route: each is a candidate for Cedar.
const MAX_CLUSTERS: usize = 8;

/// The most hosts of one route.
const MAX_HOSTS: usize = 64;

/// One `[[routes]]` table. Exactly one of `infer`, `embed`, `store` and `service` says where it leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSettings {
    /// The name in records, metrics and problems; unique.
    pub name: RouteName,
    /// Hosts without a port, or `*` for any.
    #[serde(default = "any_host")]
    pub hosts: Vec<String>,
    /// `/exact/path` or `/prefix/*`, decoded.
    pub path: String,
    /// Methods: for `infer` and `embed` only `POST`; for `store` any of `GET HEAD PUT DELETE`;
    /// for `service` any of `GET HEAD POST PUT PATCH DELETE OPTIONS`. Absent: all of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// Completions by OpenAI-compatible clusters. Exactly one of `infer`, `embed`, `store` and `service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infer: Option<ClusterList>,
    /// Embeddings by OpenAI-compatible clusters. Absent: see `infer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embed: Option<ClusterList>,
    /// An S3 store, path-style. Absent: see `infer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreName>,
    /// A plain HTTP service. Absent: see `infer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The lowest level of what crosses here: `public`, `internal`, `confidential` or `restricted`. Absent: without a dataset's
    /// level either, it is restricted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// The jurisdictions that may get what crosses here. Absent: without a dataset's residency either, it may go nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residency: Option<Residency>,
    /// Whether callers must prove who they are: `required` or `none`.
    #[serde(default)]
    pub identity: IdentityRule,
    /// Whether a request without a durable record is refused (`required`), goes on (`best_effort`), or is not recorded (`off`).
    #[serde(default)]
    pub audit: AuditMode,
    /// Whether requests that a peer sealed are opened here, and whatever is answered to them goes back sealed; on a route to a store also
    /// uploads that a job sealed with the key of its own `can_open`. Others are served as they come. Needs `[keys]`, and `identity = "required"`.
    #[serde(default)]
    pub opens: bool,
    /// How the objects of a `store` lie there: `plain`, in the clear; `pass`, as sealed messages that travel as they are; `open`, sealed at
    /// rest under the dataset's key, opened for who may read and sealed as they are written. For `pass` and `open` each dataset of the
    /// store needs `sealed`.
    #[serde(default)]
    pub objects: Objects,
    /// The largest request body; larger is 413. Absent: `4MiB` for `infer` and `embed`, `5GiB` for `store`, `32MiB` for `service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body: Option<ByteSize>,
    /// Whether the part of `path` before `*` is cut off before forwarding: `/lake/bucket/key` becomes `/bucket/key`.
    /// Absent: true for `store`, false for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strip_prefix: Option<bool>,
}

/// The clusters of a route, best first; at most 8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterList {
    /// Names of configured clusters.
    pub clusters: Vec<ClusterName>,
}

fn any_host() -> Vec<String> {
    vec!["*".to_owned()]
}

impl RouteSettings {
    /// Checks the route; every problem goes to `problems` under `place` (`routes[3]`). None if there was any.
    #[must_use]
    pub fn check(&self, file: &str, place: &str, problems: &mut Problems) -> Option<Route> {
        let mut found = Problems::new();
        let hosts = self.check_hosts(file, place, &mut found);
        let path = PathPattern::parse(&self.path)
            .map_err(|e| {
                found.push(file, format!("{place}.path"), e, "write `/v1/chat/completions` or `/lake/*`")
            })
            .ok();
        let kind = self.check_kind(file, place, &mut found);
        let methods = kind.as_ref().map(|kind| self.check_methods(kind, file, place, &mut found));
        let strip_segments = match (&path, &kind) {
            (Some(path), Some(kind)) => self.check_strip(path, kind, file, place, &mut found),
            _ => 0,
        };
        let max_body = self.max_body.map(ByteSize::get);
        if max_body == Some(0) {
            found.push(file, format!("{place}.max_body"), "is zero", "leave it out for the default");
        }
        let open = matches!(kind, Some(RouteKind::Service { .. })) && self.level == Some(Level::Public);
        if self.audit == AuditMode::Off && !open {
            found.push(
                file,
                format!("{place}.audit"),
                "only a service route of level `public` may go unrecorded",
                "`off` is for liveness checks; use `best_effort`",
            );
        }
        if self.opens && self.identity == IdentityRule::None {
            found.push(
                file,
                format!("{place}.opens"),
                "nobody is known here, and sealed messages are opened only for configured peers",
                "set `identity = \"required\"`",
            );
        }
        let elsewhere = kind.as_ref().is_some_and(|kind| !matches!(kind, RouteKind::Store { .. }));
        if self.objects != Objects::Plain && elsewhere {
            let message = "only a store has objects";
            found.push(file, format!("{place}.objects"), message, "leave it out, or lead to a `store`");
        }
        let route = if found.is_empty() {
            path.zip(kind).zip(methods).map(|((path, kind), methods)| Route {
                name: self.name.clone(),
                hosts,
                path,
                methods,
                max_body: max_body.unwrap_or_else(|| default_max_body(&kind)),
                kind,
                floor: Floor { level: self.level, residency: self.residency.clone() },
                identity: self.identity,
                audit: self.audit,
                opens: self.opens,
                objects: self.objects,
                strip_segments,
            })
        } else {
            None
        };
        problems.append(found);
        route
    }

    fn check_hosts(&self, file: &str, place: &str, problems: &mut Problems) -> Vec<HostPattern> {
        if self.hosts.is_empty() || self.hosts.len() > MAX_HOSTS {
            let message = format!("{} hosts", self.hosts.len());
            problems.push(
                file,
                format!("{place}.hosts"),
                message,
                format!("name 1 to {MAX_HOSTS}, or `[\"*\"]`"),
            );
        }
        let mut hosts = Vec::with_capacity(self.hosts.len());
        for (index, text) in self.hosts.iter().enumerate() {
            let at = || format!("{place}.hosts[{index}]");
            match HostPattern::parse(text) {
                Ok(host) if hosts.contains(&host) => {
                    problems.push(file, at(), format!("host `{host}` is listed twice"), "remove one");
                }
                Ok(host) => hosts.push(host),
                Err(error) => problems.push(file, at(), error, "write `api.example.test` or `*`"),
            }
        }
        hosts
    }

    fn check_kind(&self, file: &str, place: &str, problems: &mut Problems) -> Option<RouteKind> {
        let infer = self.infer.as_ref().map(|list| (Action::Infer, list));
        let embed = self.embed.as_ref().map(|list| (Action::Embed, list));
        let inference = |(action, list): (Action, &ClusterList)| RouteKind::Inference {
            action,
            clusters: list.clusters.clone(),
        };
        let kinds: Vec<RouteKind> = [
            infer.map(inference),
            embed.map(inference),
            self.store.clone().map(|store| RouteKind::Store { store }),
            self.service.clone().map(|service| RouteKind::Service { service }),
        ]
        .into_iter()
        .flatten()
        .collect();
        if kinds.is_empty() {
            let hint = "set one of `infer`, `embed`, `store` and `service`";
            problems.push(file, place, "leads nowhere", hint);
        }
        let Ok([kind]) = <[RouteKind; 1]>::try_from(kinds) else {
            let named = [
                self.infer.as_ref().map(|_| "`infer`"),
                self.embed.as_ref().map(|_| "`embed`"),
                self.store.as_ref().map(|_| "`store`"),
                self.service.as_ref().map(|_| "`service`"),
            ];
            let named: Vec<&str> = named.into_iter().flatten().collect();
            if !named.is_empty() {
                let message = format!("leads to more than one: {}", named.join(", "));
                problems.push(file, place, message, "keep one, and write a route for each other");
            }
            return None;
        };
        if let RouteKind::Inference { action, clusters } = &kind {
            let mut unique = clusters.clone();
            unique.sort();
            unique.dedup();
            let message = if clusters.is_empty() {
                "names no cluster".to_owned()
            } else if clusters.len() > MAX_CLUSTERS {
                format!("names {} clusters", clusters.len())
            } else if unique.len() != clusters.len() {
                "names a cluster twice".to_owned()
            } else {
                return Some(kind);
            };
            let key = if *action == Action::Embed { "embed" } else { "infer" };
            let hint = format!("name 1 to {MAX_CLUSTERS} different clusters, best first");
            problems.push(file, format!("{place}.{key}.clusters"), message, hint);
        }
        Some(kind)
    }

    fn check_methods(
        &self,
        kind: &RouteKind,
        file: &str,
        place: &str,
        problems: &mut Problems,
    ) -> Vec<Method> {
        let possible = kind_methods(kind);
        let Some(named) = &self.methods else { return possible.to_vec() };
        let mut methods = Vec::with_capacity(named.len());
        for (index, text) in named.iter().enumerate() {
            match possible.iter().find(|method| method.as_str() == text) {
                Some(method) if !methods.contains(method) => methods.push(method.clone()),
                Some(_) => {
                    problems.push(
                        file,
                        format!("{place}.methods[{index}]"),
                        format!("`{text}` is listed twice"),
                        "remove one",
                    );
                }
                None => {
                    let names: Vec<&str> = possible.iter().map(Method::as_str).collect();
                    let message = format!("`{text}` is no method of this kind of route");
                    problems.push(
                        file,
                        format!("{place}.methods[{index}]"),
                        message,
                        format!("use {}", names.join(", ")),
                    );
                }
            }
        }
        if named.is_empty() {
            problems.push(file, format!("{place}.methods"), "no methods", "leave it out for the default");
        }
        methods
    }

    fn check_strip(
        &self,
        path: &PathPattern,
        kind: &RouteKind,
        file: &str,
        place: &str,
        problems: &mut Problems,
    ) -> usize {
        let is_store = matches!(kind, RouteKind::Store { .. });
        match path.prefix_segments() {
            Some(segments) if self.strip_prefix.unwrap_or(is_store) => segments,
            Some(_) => 0,
            None => {
                if self.strip_prefix == Some(true) {
                    problems.push(
                        file,
                        format!("{place}.strip_prefix"),
                        "an exact path has no prefix",
                        "end `path` in `/*`",
                    );
                }
                if is_store {
                    problems.push(
                        file,
                        format!("{place}.path"),
                        "a store needs a prefix",
                        "end `path` in `/*`",
                    );
                }
                0
            }
        }
    }
}

fn kind_methods(kind: &RouteKind) -> &'static [Method] {
    match kind {
        RouteKind::Inference { .. } => &[Method::POST],
        RouteKind::Store { .. } => &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
        RouteKind::Service { .. } => &[
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
        ],
    }
}

const fn default_max_body(kind: &RouteKind) -> u64 {
    match kind {
        RouteKind::Inference { .. } => ByteSize::mib(4).get(),
        RouteKind::Store { .. } => ByteSize::mib(5 * 1024).get(),
        RouteKind::Service { .. } => ByteSize::mib(32).get(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Route, String> {
        let settings: RouteSettings = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        let mut problems = Problems::new();
        settings.check("f", "r", &mut problems).ok_or_else(|| problems.to_string())
    }

    #[test]
    fn kinds_have_their_defaults() {
        let chat = check("name='c'\npath='/v1/chat/completions'\ninfer={clusters=['eu','us']}").unwrap();
        assert_eq!((chat.methods.len(), chat.max_body, chat.strip_segments), (1, 4 << 20, 0));
        let lake = check("name='l'\npath='/lake/*'\nstore='s'").unwrap();
        assert_eq!((lake.methods.len(), lake.max_body, lake.strip_segments), (4, 5 << 30, 1));
        let plain = check("name='p'\npath='/x/*'\nservice='s'\nmethods=['GET']").unwrap();
        assert_eq!((plain.methods.len(), plain.max_body, plain.strip_segments), (1, 32 << 20, 0));
    }

    #[test]
    fn mistakes_are_found_together() {
        let found =
            check("name='c'\npath='/a*'\nhosts=['a:1']\nstore='s'\nservice='t'\nmax_body='0B'").unwrap_err();
        for part in ["r.path", "r.hosts[0]", "more than one", "r.max_body"] {
            assert!(found.contains(part), "{part} in {found}");
        }
        assert!(check("name='c'\npath='/a'\ninfer={clusters=['x']}\nmethods=['GET']").is_err());
        assert!(check("name='c'\npath='/a'\ninfer={clusters=['x','x']}").is_err());
        assert!(check("name='c'\npath='/a'\nstore='s'").is_err());
        assert!(check("name='c'\npath='/a'\nservice='s'\ncolour='red'").is_err());
    }
}
