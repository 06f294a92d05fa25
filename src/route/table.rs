//! The table of all routes: built once, looked up by every request.

use std::collections::HashMap;
use std::sync::Arc;

use http::{Method, StatusCode};

use super::pattern::{HostPattern, PathPattern};
use super::settings::RouteSettings;
use crate::model::{AuditMode, Floor, IdentityRule, Objects, Problems, RouteKind, RouteName};

/// A checked route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The name in records and metrics.
    pub name: RouteName,
    /// The hosts, without doubles.
    pub hosts: Vec<HostPattern>,
    /// The path or prefix.
    pub path: PathPattern,
    /// The methods, without doubles.
    pub methods: Vec<Method>,
    /// Where it leads.
    pub kind: RouteKind,
    /// The least strict label.
    pub floor: Floor,
    /// Whether it wants to know who asks.
    pub identity: IdentityRule,
    /// How surely its crossings are recorded.
    pub audit: AuditMode,
    /// Whether sealed requests of peers are opened.
    pub opens: bool,
    /// How objects lie in its store.
    pub objects: Objects,
    /// The largest request body, in bytes.
    pub max_body: u64,
    /// How many leading path segments are cut off before forwarding.
    pub strip_segments: usize,
}

/// No route serves a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No route has this host and path.
    #[error("no route serves this host and path")]
    NotFound,
    /// The route of this host and path does not serve this method.
    #[error("the route does not serve this method")]
    MethodNotAllowed {
        /// What it serves, as `Allow` lists it (RFC 9110 10.2.1).
        allow: String,
    },
}

impl RouteError {
    /// The status that answers it.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "route_not_found",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
        }
    }

    /// The value of `Allow`, for a 405.
    #[must_use]
    pub fn allow(&self) -> Option<&str> {
        match self {
            Self::NotFound => None,
            Self::MethodNotAllowed { allow } => Some(allow),
        }
    }
}

/// The routes that share one host and path; their methods are disjoint.
type Place = Vec<Arc<Route>>;

#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<String, Place>,
    /// Keys end in `/`.
    prefixes: HashMap<String, Place>,
}

impl Paths {
    /// The exact path, else the longest prefix: at most one probe a segment.
    fn find(&self, path: &str) -> Option<&Place> {
        if let Some(place) = self.exact.get(path) {
            return Some(place);
        }
        if self.prefixes.is_empty() {
            return None;
        }
        let mut cuts = path.rmatch_indices('/');
        cuts.find_map(|(slash, _)| self.prefixes.get(path.get(..=slash)?))
    }
}

/// All routes.
#[derive(Debug, Default)]
pub struct Table {
    hosts: HashMap<String, Paths>,
    any_host: Paths,
    routes: Vec<Arc<Route>>,
}

impl Table {
    /// Checks all routes of a file and builds their table.
    ///
    /// # Errors
    /// All problems of all routes.
    pub fn from_settings(file: &str, settings: &[RouteSettings]) -> Result<Self, Problems> {
        let mut problems = Problems::new();
        let mut routes = Vec::with_capacity(settings.len());
        for (index, settings) in settings.iter().enumerate() {
            routes.extend(settings.check(file, &format!("routes[{index}]"), &mut problems));
        }
        match Self::build(file, routes) {
            Ok(table) if problems.is_empty() => Ok(table),
            Ok(_) => Err(problems),
            Err(more) => {
                problems.append(more);
                Err(problems)
            }
        }
    }

    /// Builds the table of checked routes, which stand in `file` one after the other.
    ///
    /// # Errors
    /// As [`Table::build_at`].
    pub fn build(file: &str, routes: Vec<Route>) -> Result<Self, Problems> {
        let places = routes.into_iter().enumerate().map(|(index, route)| (format!("routes[{index}]"), route));
        Self::build_at(file, places)
    }

    /// Builds the table of checked routes, each with its place in `file`.
    ///
    /// # Errors
    /// Two routes have one name, or serve one method of one host and path.
    pub fn build_at(file: &str, routes: impl IntoIterator<Item = (String, Route)>) -> Result<Self, Problems> {
        let mut problems = Problems::new();
        let mut table = Self::default();
        for (at, route) in routes {
            let route = Arc::new(route);
            if table.routes.iter().any(|other| other.name == route.name) {
                let message = format!("an earlier route is named `{}` too", route.name);
                problems.push(file, format!("{at}.name"), message, "rename one");
            }
            for host in &route.hosts {
                let place = table.place(host, &route.path);
                for other in place.iter() {
                    if let Some(method) = route.methods.iter().find(|method| other.methods.contains(method)) {
                        let (other, path) = (&other.name, &route.path);
                        let message = format!(
                            "route `{other}` serves {method} of host `{host}`, path `{path}` already"
                        );
                        problems.push(file, &at, message, "change the hosts, path or methods of one");
                    }
                }
                place.push(Arc::clone(&route));
            }
            table.routes.push(route);
        }
        if problems.is_empty() { Ok(table) } else { Err(problems) }
    }

    fn place(&mut self, host: &HostPattern, path: &PathPattern) -> &mut Place {
        let paths = match host {
            HostPattern::Exact(host) => self.hosts.entry(host.clone()).or_default(),
            HostPattern::Any => &mut self.any_host,
        };
        match path {
            PathPattern::Exact(path) => paths.exact.entry(path.clone()).or_default(),
            PathPattern::Prefix(prefix) => paths.prefixes.entry(prefix.clone()).or_default(),
        }
    }

    /// The route of a request; `host` and `path` as `Target` gives them.
    ///
    /// # Errors
    /// No route has this host and path, or the most specific one not this method.
    pub fn find(&self, host: &str, method: &Method, path: &str) -> Result<&Arc<Route>, RouteError> {
        let own = self.hosts.get(host).and_then(|paths| paths.find(path));
        let place = own.or_else(|| self.any_host.find(path)).ok_or(RouteError::NotFound)?;
        place.iter().find(|route| route.methods.contains(method)).ok_or_else(|| {
            let methods: Vec<&str> =
                place.iter().flat_map(|route| &route.methods).map(Method::as_str).collect();
            RouteError::MethodNotAllowed { allow: methods.join(", ") }
        })
    }

    /// All routes, as configured.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::ServiceName;

    fn route(name: usize, host: &str, path: &str, methods: &[Method]) -> Route {
        Route {
            name: format!("r{name}").parse().unwrap(),
            hosts: vec![HostPattern::parse(host).unwrap()],
            path: PathPattern::parse(path).unwrap(),
            methods: methods.to_vec(),
            kind: RouteKind::Service { service: "s".parse::<ServiceName>().unwrap() },
            floor: Floor::default(),
            identity: IdentityRule::Required,
            audit: AuditMode::Required,
            opens: false,
            objects: Objects::Plain,
            max_body: 1,
            strip_segments: 0,
        }
    }

    /// The rule in one line: the greatest (exact host, exact path, length) wins, then the method decides.
    fn naive(routes: &[Route], host: &str, method: &Method, path: &str) -> Result<RouteName, bool> {
        let rank = |route: &Route| {
            let exact_host = match &route.hosts[0] {
                HostPattern::Any => false,
                HostPattern::Exact(name) if name == host => true,
                HostPattern::Exact(_) => return None,
            };
            match &route.path {
                PathPattern::Exact(exact) => (exact == path).then_some((exact_host, true, exact.len())),
                PathPattern::Prefix(prefix) => {
                    path.starts_with(prefix.as_str()).then_some((exact_host, false, prefix.len()))
                }
            }
        };
        let best = routes.iter().filter_map(rank).max().ok_or(false)?;
        let mut place = routes.iter().filter(|route| rank(route) == Some(best));
        place.find(|route| route.methods.contains(method)).map(|route| route.name.clone()).ok_or(true)
    }

    proptest! {
        #[test]
        fn lookup_equals_the_naive_rule(
            specs in prop::collection::vec((0..3_usize, "(/[ab]){0,3}(/|/\\*)", 0..3_usize), 0..12),
            lookups in prop::collection::vec((0..3_usize, "(/[abc]){0,4}/?", 0..3_usize), 1..20),
        ) {
            let hosts = ["*", "a.test", "b.test"];
            let methods = [Method::GET, Method::PUT, Method::DELETE];
            let mut routes: Vec<Route> = Vec::new();
            for (index, (host, path, method)) in specs.into_iter().enumerate() {
                let new = route(index, hosts[host], &path, std::slice::from_ref(&methods[method]));
                let double = |old: &Route| old.hosts == new.hosts && old.path == new.path && old.methods == new.methods;
                if routes.iter().any(double) {
                    let mut both = routes.clone();
                    both.push(new);
                    prop_assert!(Table::build("f", both).is_err());
                } else {
                    routes.push(new);
                }
            }
            let table = Table::build("f", routes.clone()).unwrap();
            for (host, path, method) in lookups {
                let (host, method) = (hosts[host], &methods[method]);
                let found = table.find(host, method, &path).map(|route| route.name.clone());
                let found = found.map_err(|error| error != RouteError::NotFound);
                prop_assert_eq!(found, naive(&routes, host, method, &path));
            }
        }
    }

    #[test]
    fn a_narrow_route_is_not_bypassed_by_another_method() {
        let table = Table::build(
            "f",
            vec![
                route(0, "*", "/*", &[Method::GET, Method::DELETE]),
                route(1, "*", "/admin", &[Method::GET]),
            ],
        )
        .unwrap();
        let refused = table.find("x", &Method::DELETE, "/admin").unwrap_err();
        assert_eq!((refused.status().as_u16(), refused.allow()), (405, Some("GET")));
        assert!(table.find("x", &Method::DELETE, "/admin/").is_ok());
    }

    #[test]
    fn one_name_is_one_route() {
        let twice = vec![route(0, "*", "/a", &[Method::GET]), route(0, "*", "/b", &[Method::GET])];
        assert!(Table::build("f", twice).unwrap_err().to_string().contains("named `r0`"));
    }
}
